"""What goes into a run and what comes out: settings, progress, the rate of each step.

`Settings` are numbers, validated once, that nothing changes. `Progress` is the one
record of how far a run has got: fresh, or where an earlier run stood. The compiled loop
of _training.pyx writes it. `Schedule` knows the learning rate of every step.
"""

import operator

import numpy as np

cimport cython

from libc.math cimport INFINITY, NAN, isnan
from libc.stdint cimport int64_t

from cbp._kernels cimport cosine, power, power_pair, powers, product

from cbp._catalog import OPTIMIZERS as OPTIMIZER_ROWS
from cbp._catalog import SCHEDULES, SOLVER_NAMES
from cbp._kernels import OPTIMIZERS

# What rows that are held out are scored by: scikit-learn's scores, less their mean
# cost, or what `run` is told.
SCORES = {"accuracy_or_r2": ACCURACY_OR_R2, "loss": LOSS, "told": TOLD}
cdef enum:
    CONSTANT
    INVSCALING
    ADAPTIVE
    COSINE
    LINEAR
    EXPONENTIAL
    ONE_CYCLE
    CALLER

_NUMBERS = {
    "constant": CONSTANT,
    "invscaling": INVSCALING,
    "adaptive": ADAPTIVE,
    "cosine": COSINE,
    "linear": LINEAR,
    "exponential": EXPONENTIAL,
    "one_cycle": ONE_CYCLE,
}

# "exponential" ends at this share of the first rate.
cdef double LEAST = 0.01
# "one_cycle" begins at 1/25 of the highest rate, which it has after RISE of training,
# and ends at 1/250,000: Smith and Topin's policy with the numbers of PyTorch's
# OneCycleLR.
cdef double ONE_CYCLE_START = 1 / 25.0
cdef double ONE_CYCLE_END = 1 / 25e4
cdef double ONE_CYCLE_RISE = SCHEDULES["one_cycle"].rise


@cython.final
cdef class Settings:
    """Numbers that rule a fit, validated once; nothing changes them.

    Parameters have the names and meanings of the estimators', except:

    Parameters
    ----------
    batch_size : int
        Rows per step; at most as many as there are. L-BFGS takes all.
    n_threads : int, default=1
        Fewer are used when a batch has no work for them. Never changes a bit.
    early_stopping : bool, default=True
        Whether the score of held-out rows, if there are any, rules patience and which
        weights are kept. Otherwise it is only noted.
    scoring : {"accuracy_or_r2", "loss", "told"}, default="accuracy_or_r2"
        "loss": the mean cost, negated. "told": see `Trainer.run`.
    exclusive : bool, default=True
        Whether nobody else draws from the random state meanwhile. Otherwise its lock is
        taken for each shuffle, not for all of the run, which others would wait for.
    monitor : bool, default=False
        Record gradient flow; never changes a bit.
    dropout : sequence of float, default=()
        The rates of the inputs and of every hidden layer; () without dropout.

    Raises
    ------
    ValueError
        A name is unknown, or a number is not one that training could use.
    """

    def __cinit__(
        self, *, solver="adam", alpha=0.0, batch_size=200, shuffle=True,
        learning_rate="constant", learning_rate_init=1e-3, power_t=0.5, warmup=0.0,
        weight_decay=0.0, max_grad_norm=INFINITY, average=0.0, momentum=0.9,
        nesterovs_momentum=True, beta_1=0.9, beta_2=0.999, epsilon=1e-8, tol=1e-4,
        n_iter_no_change=10, early_stopping=True, scoring="accuracy_or_r2", n_threads=1,
        exclusive=True, monitor=False, dropout=(),
    ):
        if solver not in SOLVER_NAMES:
            raise ValueError(f"solver {solver!r}; valid: {[*SOLVER_NAMES]}")
        if not callable(learning_rate) and learning_rate not in SCHEDULES:
            raise ValueError(f"learning_rate {learning_rate!r}; valid: a callable and "
                             f"{[*SCHEDULES]}")
        if scoring not in SCORES:
            raise ValueError(f"scoring {scoring!r}; valid: {[*SCORES]}")
        self.solver, self.learning_rate = solver, learning_rate
        self.early_stopping, self.scoring = early_stopping, scoring
        self.score = SCORES[scoring]
        self.optimizer = OPTIMIZERS.get(solver, -1)
        self.alpha, self.tol = number(alpha, "alpha"), number(tol, "tol")
        self.n_iter_no_change = number(n_iter_no_change, "n_iter_no_change")
        self.learning_rate_init = number(learning_rate_init, "learning_rate_init")
        self.power_t = number(power_t, "power_t")
        self.warmup = number(warmup, "warmup")
        self.weight_decay = number(weight_decay, "weight_decay")
        self.max_grad_norm = number(max_grad_norm, "max_grad_norm")
        self.average = number(average, "average")
        decays = {
            "": 0.0,
            "momentum": number(momentum, "momentum"),
            "beta_1": number(beta_1, "beta_1"),
            "beta_2": number(beta_2, "beta_2"),
        }
        self.second_moment = -1
        if self.optimizer >= 0:
            row = OPTIMIZER_ROWS[solver]
            self.beta_1, self.beta_2 = decays[row.beta_1], decays[row.beta_2]
            self.corrects_bias = row.corrects_bias
            if row.second_moment is not None:
                self.second_moment = row.second_moment
            if callable(learning_rate):
                self.schedule = CALLER
            elif row.scheduled or SCHEDULES[learning_rate].over_training:
                self.schedule = _NUMBERS[learning_rate]
        self.epsilon = number(epsilon, "epsilon")
        self.batch_size = count(batch_size, "batch_size", 1)
        self.n_threads = count(n_threads, "n_threads", 1)
        self.nesterovs_momentum, self.shuffle = nesterovs_momentum, shuffle
        self.exclusive, self.monitor = exclusive, monitor
        self.dropout = tuple([number(rate, "dropout") for rate in dropout])
        if self.optimizer < 0 and self.dropout:
            raise ValueError(f"dropout: {solver} makes no steps")


class Optimizer:
    """What a stochastic solver carries from one call to the next.

    Attributes
    ----------
    solver : str
        The name of a row of `OPTIMIZERS`.
    learning_rate : float
        Current learning rate; with adam, bias corrections included.
    steps : int
        Steps made.
    state : ndarray of shape (n_states, n_items)
        Its vectors (sgd: velocity; adam: m and v) in the layout of the engine, the same
        on every CPU.
    """

    __module__ = "cbp._training"  # where pickles of every version look for it

    def __init__(self, solver, learning_rate, steps, state):
        self.solver = solver
        self.learning_rate = learning_rate
        self.steps = steps
        self.state = state


@cython.final
cdef class Progress:
    """How far a run has got; the compiled loop writes it, epoch by epoch.

    Parameters
    ----------
    t, best_loss, no_improvement_count, loss_curve, validation_scores,
    validation_loss_curve, optimizer
        Where an earlier run of the same model stood. The optimizer's state is copied.

    Attributes
    ----------
    n_iter : int
        Epochs, or iterations, of this run.
    t : int
        Rows seen, by all runs of the model.
    loss, best_loss : float
        That of the last epoch, and the least of all.
    loss_curve, validation_scores, validation_loss_curve : list of float
        One per epoch; the latter two, of held-out rows, are NaN where an output was not
        finite.
    best_score : float
        The best score of this run.
    best_iter : int
        The epoch, or iteration, of this run that ended with it, counted from 1.
    scored : bool
        Whether this run has scored weights that it had trained.
    learning_rate : float
        That of the last step as the schedule has it, without Adam's corrections; NaN
        with a solver that has none.
    clipped : float
        The share of this run's steps whose gradient was longer than its limit.
    goes_on : bool
        Whether it is known that another epoch follows, if nobody stops the run.
    no_improvement_count : int
        Epochs in a row without progress.
    optimizer : Optimizer or None
    outcome : str
        How the run ended; "interrupted" as long as it has not.
    """

    def accept(self, theta, new, double loss):
        """An iteration's parameters take the place of theta, and are counted.

        No signal comes between the two: an interrupt leaves the weights of as many
        iterations as are counted.

        Parameters
        ----------
        theta, new : ndarray of shape (n_params,)
        loss : float
        """
        np.copyto(theta, new)
        self.n_iter += 1
        self.loss_curve.append(loss)
        self.loss, self.best_loss = loss, min(self.best_loss, loss)

    def __cinit__(self, *, t=0, best_loss=np.inf, no_improvement_count=0, loss_curve=(),
                  validation_scores=(), validation_loss_curve=(), optimizer=None):
        self.t = count(t, "t", 0)
        self.no_improvement_count = count(
            no_improvement_count, "no_improvement_count", 0
        )
        self.best_loss, self.best_score = best_loss, -INFINITY
        self.loss_curve = list(loss_curve)
        self.validation_scores = list(validation_scores)
        self.validation_loss_curve = list(validation_loss_curve)
        self.loss, self.learning_rate = INFINITY, NAN
        if self.loss_curve:
            self.loss = self.loss_curve[len(self.loss_curve) - 1]
        self.optimizer, self.outcome = optimizer, "interrupted"

    cdef dict numbers(self):
        """All numbers but the curves, for a checkpoint."""
        return {
            "n_iter": self.n_iter, "t": self.t, "best_iter": self.best_iter,
            "no_improvement_count": self.no_improvement_count,
            "scored": int(self.scored), "loss": self.loss, "best_loss": self.best_loss,
            "best_score": self.best_score, "rate": self.learning_rate,
            "clipped": self.clipped,
        }

    cdef take(self, dict numbers, dict arrays):
        """What `numbers` gave, and the curves; each thing is checked."""
        self.n_iter = count(numbers["n_iter"], "n_iter", 1)
        self.t = count(numbers["t"], "t", 0)
        self.best_iter = count(numbers["best_iter"], "best_iter", 0)
        self.no_improvement_count = count(
            numbers["no_improvement_count"], "no_improvement_count", 0
        )
        self.scored = count(numbers["scored"], "scored", 0)
        self.loss, self.best_loss = numbers["loss"], numbers["best_loss"]
        self.best_score, self.learning_rate = numbers["best_score"], numbers["rate"]
        self.clipped = numbers["clipped"]
        self.loss_curve = arrays["loss_curve"].tolist()
        self.validation_scores = arrays["validation_scores"].tolist()
        self.validation_loss_curve = arrays["validation_loss_curve"].tolist()


@cython.final
cdef class Schedule:
    """The learning rate of each step: base rate, place in training, Adam's corrections.

    The base changes between epochs ("invscaling", "adaptive"); a factor that depends on
    the place in training changes with every step; `moves` says whether there is one.
    """

    def __cinit__(self, Settings settings not None):
        self.kind, self.corrects = settings.schedule, settings.corrects_bias
        self.power_t, self.warmup = settings.power_t, settings.warmup
        self.weight_decay = settings.weight_decay
        self.moves = self.kind >= COSINE or self.warmup > 0
        if self.kind == CALLER:
            self.caller = settings.learning_rate
        self.begin(settings)
        if self.corrects:
            self.beta_1, self.beta_2 = settings.beta_1, settings.beta_2
            powers(self.beta_1, POWERS, self.powers_1)
            powers(self.beta_2, POWERS, self.powers_2)
            self.factor_1 = power_pair(self.beta_1, POWERS)
            self.factor_2 = power_pair(self.beta_2, POWERS)

    cdef begin(self, Settings settings):
        """The rate before any step."""
        self.first = self.base = self.learning_rate = settings.learning_rate_init
        self.factor = 1

    cdef go_on(self, double learning_rate):
        """From the rate of an earlier run's last step; Adam's is told by its number."""
        self.learning_rate = learning_rate
        if not self.corrects:
            self.base = learning_rate

    cdef begin_run(self, int64_t first_step, double n_batches, double n_epochs):
        self.first_step = first_step
        self.n_batches, self.n_epochs = n_batches, n_epochs

    cdef ask(self, int64_t epoch):
        """The factors of all steps of an epoch from the user's callable, if he has one.

        epoch: counted from 0, in this run.
        """
        if self.kind != CALLER:
            return
        told = np.empty(<ptrdiff_t>self.n_batches)
        for i in range(len(told)):
            progress = (epoch + i / self.n_batches) / self.n_epochs
            factor = self.caller(progress)
            try:
                told[i] = factor
            except (TypeError, ValueError):
                told[i] = np.nan
            if not 0 <= told[i] < INFINITY:
                raise ValueError(
                    "learning_rate must return a finite number >= 0, got "
                    f"{factor!r} for the progress {progress:g}"
                )
        self.told = told

    cdef void move_to(self, int64_t epoch, int64_t batch) noexcept nogil:
        """The factor of a batch's step, both numbers counted from 0, in this run."""
        cdef double done = epoch + batch / self.n_batches
        cdef double share = (epoch + (batch + 1) / self.n_batches) / self.n_epochs
        if self.kind == CALLER:
            self.factor = self.told[batch]
        else:
            self.factor = self._factor_at(done / self.n_epochs)
        # "one_cycle" has a rise of its own.
        if self.kind != ONE_CYCLE and share < self.warmup:
            self.factor *= share / self.warmup

    cdef double _factor_at(self, double progress) noexcept nogil:
        """By the share of training that is done."""
        cdef double rise
        if self.kind == COSINE:
            return 0.5 * (1 + cosine(progress))
        if self.kind == LINEAR:
            return 1 - progress
        if self.kind == EXPONENTIAL:
            return power(LEAST, progress)
        if self.kind == ONE_CYCLE:
            rise = self.warmup if self.warmup > 0 else ONE_CYCLE_RISE
            if progress < rise:
                return between(1, ONE_CYCLE_START, progress / rise)
            return between(ONE_CYCLE_END, 1, (progress - rise) / (1 - rise))
        return 1

    cdef bint rises(self, int64_t epoch) noexcept nogil:
        """Whether the factor is still on its way up after so many epochs."""
        cdef double rise = self.warmup
        if self.kind == ONE_CYCLE and rise == 0:
            rise = ONE_CYCLE_RISE
        return epoch < rise * self.n_epochs

    cdef void _find_powers(self, int64_t step) noexcept nogil:
        """beta^step in two factors, of which one is new only every POWERS steps."""
        cdef int64_t whole
        if step == self.first_step:
            whole = step - step % POWERS
            self.power_1 = power_pair(self.beta_1, whole)
            self.power_2 = power_pair(self.beta_2, whole)
        elif step % POWERS == 0:
            self.power_1 = product(self.power_1, self.factor_1)
            self.power_2 = product(self.power_2, self.factor_2)

    cdef void end_epoch(self, int64_t t) noexcept nogil:
        """After an epoch; t: rows seen so far."""
        if self.kind == INVSCALING:
            self.base = self.learning_rate = self.first / power(t + 1, self.power_t)

    cdef bint lower(self) noexcept nogil:
        """Patience has run out: is there a lower rate to go on with?"""
        if self.kind != ADAPTIVE or self.base <= 1e-6:
            return False
        self.base /= 5
        self.learning_rate = self.base
        return True

    cdef dict numbers(self):
        """Where it stands after an epoch, for a checkpoint."""
        return {
            "first_step": self.first_step, "base": self.base, "factor": self.factor,
            "last_rate": self.learning_rate,
            "power_1.hi": self.power_1.hi, "power_1.lo": self.power_1.lo,
            "power_2.hi": self.power_2.hi, "power_2.lo": self.power_2.lo,
        }

    cdef take(self, dict numbers):
        """What `numbers` gave, in a run that has begun."""
        self.first_step = count(numbers["first_step"], "first_step", 0)
        self.base = number(numbers["base"], "base")
        self.factor = number(numbers["factor"], "factor")
        self.learning_rate = number(numbers["last_rate"], "last_rate")
        self.power_1.hi = number(numbers["power_1.hi"], "power_1.hi")
        self.power_1.lo = number(numbers["power_1.lo"], "power_1.lo")
        self.power_2.hi = number(numbers["power_2.hi"], "power_2.hi")
        self.power_2.lo = number(numbers["power_2.lo"], "power_2.lo")


cdef double between(double end, double start, double progress) noexcept nogil:
    """From start to end along a half cosine."""
    return end + (start - end) * 0.5 * (1 + cosine(progress))


# ---- checks -------------------------------------------------------------------------

cdef double number(x, str name) except? -1:
    """x in C; no NaN, which no comparison would ever find."""
    cdef double value = x
    if isnan(value):
        raise ValueError(f"{name} is not a number")
    return value


cdef int64_t count(x, str name, int64_t least) except? -1:
    """x in C; so far from the greatest integer that no sum reaches that."""
    try:
        x = operator.index(x)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {x!r}") from None
    if not least <= x <= 2**62:
        raise ValueError(f"{name} must lie in {least} .. 2**62, got {x}")
    return x
