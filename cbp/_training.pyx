"""Training by backpropagation: epochs, learning rates, patience, scores.

`Epochs` is the compiled loop. It goes from batch to batch (_batch.pyx) without the GIL,
by several threads (_threads.pyx). It comes back to Python for signals, after an epoch
if somebody listens, and at the end. `Trainer` owns one fit and is what Python calls.
Settings go in, progress comes out (_progress.pyx). What users pass is validated before;
here are the checks without which a kernel would leave its buffers, for any caller.
"""

import numpy as np

from libc.math cimport isfinite
from libc.stdint cimport int64_t

from cpython.pycapsule cimport PyCapsule_GetPointer

from cbp._batch cimport Batch, backpropagate
from cbp._data cimport Data, checked_rows
from cbp._kernels cimport (
    cbp_kernels,
    cbp_online,
    cbp_step,
    writable_address,
    writable_floats,
)
from cbp._held_out cimport HeldOut
from cbp._network cimport Network
from cbp._progress cimport (
    TOLD,
    Progress,
    Schedule,
    Settings,
    count,
    number,
)
from cbp._recorder cimport UPDATE_SQUARES, Recorder
from cbp._shuffle cimport bitgen_t, shuffle
from cbp._sums cimport add_penalty, sum_squares
from cbp._threads cimport FLOPS_PER_TICK, Signals, Team, Worker
from cbp._weights cimport Weights, aligned_empty, aligned_zeros

from cbp._catalog import OPTIMIZERS, WITHOUT_STEPS
from cbp._progress import Optimizer  # old pickles look for it here
from cbp._weights import state_shape


cdef extern from "barrier.h" nogil:
    ctypedef struct cbp_claimed:
        pass
    bint cbp_claim(cbp_claimed *claimed)
    void cbp_unclaim(cbp_claimed *claimed)


# Why the compiled epochs came back to Python.
cdef enum:
    RUNNING
    EPOCH_DONE
    MAX_ITER
    CONVERGED
    DIVERGED
    STOPPED

STATUS_NAMES = {
    MAX_ITER: "max_iter",
    CONVERGED: "converged",
    DIVERGED: "diverged",
    STOPPED: "stopped",
}

cdef enum:
    # From one watched iteration of L-BFGS to the next: all of its evaluations are
    # watched, since none is known to be the last, at a cost of 12 % each.
    ITERATIONS_APART = 8
    # Batches of one row that are handed to C at a time, at most.
    MAX_ROWS = 256
    # Epoch losses and scores kept before they are moved to the Python lists.
    CURVE_ROOM = 256


# The steps of batches of one row that are handed to C together.
cdef struct RowSteps:
    double eta[MAX_ROWS]
    double decay[MAX_ROWS]
    double share[MAX_ROWS]         # in the mean of the weights


# ---- the epochs ---------------------------------------------------------------------

cdef class Epochs(Worker):
    """The compiled loop: batches, epochs, patience, scores. `work` is run by every
    thread in step; all else is thread 0's alone, while the others wait to meet it."""

    cdef readonly Network network
    cdef readonly Data data
    cdef readonly Settings settings
    cdef readonly Progress progress
    cdef const cbp_kernels *k
    cdef Weights weights
    cdef Batch batch
    cdef HeldOut held_out
    cdef Schedule schedule
    cdef Signals signals
    cdef object optimizer          # the caller's to change, and published by each run

    # The rows, in the order of this epoch.
    cdef object _order
    cdef int64_t *order
    cdef ptrdiff_t n_rows, batch_size, position
    cdef object _weighty
    cdef int64_t *weighty          # a batch's rows that weigh something
    cdef ptrdiff_t taken           # rows of the batch, those of weight 0 too
    cdef object random_state
    cdef bitgen_t *bits

    # The epoch in work.
    cdef double epoch_loss, epoch_weights
    cdef int64_t epoch_rows
    cdef int64_t steps             # of the optimizer, by all runs
    cdef RowSteps row_steps
    cdef bint improved             # by the last epoch
    # Losses and scores that have not yet been moved to the lists of progress.
    cdef double curve[CURVE_ROOM]
    cdef double scores[CURVE_ROOM]
    cdef double held_out_curve[CURVE_ROOM]
    cdef int curve_used, scores_used

    # The run.
    cdef int max_iter, status
    cdef int64_t epochs            # of this run
    cdef bint resumed              # the next run goes on with that of a checkpoint
    cdef bint listening            # come back to Python after each epoch
    cdef bint stopping             # stop_requested as it was when threads last met
    cdef int64_t iteration         # of L-BFGS, the one under way

    # ---- set-up

    cdef _fill_steps(self):
        """What all steps of a segment have in common. Biases bear no penalty."""
        cdef Settings settings = self.settings
        cdef cbp_step *step
        cdef int i
        for i, (_, _, _, decays) in enumerate(self.network.segments):
            step = &self.batch.steps[i]
            step.alpha = settings.alpha if decays else 0
            step.beta_1, step.beta_2 = settings.beta_1, settings.beta_2
            step.epsilon, step.nesterov = settings.epsilon, settings.nesterovs_momentum
        self.batch.second_moment = settings.second_moment

    cdef _start_recorder(self):
        cdef Recorder recorder = Recorder(
            self.weights, self.batch.chunk_rows, -(-self.n_rows // self.batch_size),
            self.batch.one_row
        )
        if not self._steps():
            recorder.every = ITERATIONS_APART
        self.batch.recorder = recorder

    cdef _take_optimizer(self, optimizer):
        solver, dtype = self.settings.solver, self.network.dtype
        shape = state_shape(self.network, solver)
        if optimizer is None:
            state = aligned_zeros(shape[0] * shape[1], dtype).reshape(shape)
            optimizer = Optimizer(solver, self.schedule.learning_rate, 0, state)
        elif not isinstance(optimizer, Optimizer) or (
            optimizer.solver != solver or not isinstance(optimizer.state, np.ndarray)
            or optimizer.state.shape != shape or optimizer.state.dtype != dtype
        ):
            raise ValueError("the optimizer's state is of another network or solver")
        else:
            self.schedule.go_on(number(optimizer.learning_rate, "learning_rate"))
            self.steps = count(optimizer.steps, "steps", 0)
            state = aligned_empty(shape[0] * shape[1], dtype).reshape(shape)
            state[:] = optimizer.state
            optimizer = Optimizer(solver, self.schedule.learning_rate, self.steps,
                                  state)
        # The optimizer is the caller's to change, these vectors stay.
        self.optimizer = self.progress.optimizer = optimizer
        self.batch.take_states(state)

    # ---- the loop

    cdef void work(self, int thread) noexcept nogil:
        while True:
            if thread == 0:
                self._begin_batch()
                self.stopping = self.signals.stop_requested
            self.batch.meet()
            # Not stop_requested: an interrupt could set it before a slow thread has
            # read it, which would then leave the others waiting.
            if self.stopping:
                return
            if self.batch.one_row and self._goes_to_C():
                self._train_rows()
            elif self.batch.one_row:
                self.batch.run_one_row()
                self._end_batch()
                self.signals.poll(6.0 * self.network.n_weights)
            else:
                self.batch.run(thread)
                if thread == 0 and self._steps():
                    if self.signals.interrupted():
                        self.steps -= 1  # it was not made
                    else:
                        self._end_batch()

    cdef bint _goes_to_C(self) noexcept nogil:
        """Whether batches of one row are handed to C many at a time, which measures
        nothing and reads dense targets only. It makes the same bits."""
        return not self.batch.watching and self.data.sparse_Y is None

    cdef bint _steps(self) noexcept nogil:
        """Whether there is an optimizer to step; L-BFGS asks for sums only."""
        return self.settings.optimizer >= 0

    cdef void _begin_batch(self) noexcept nogil:
        """Chooses the next rows, after the end of an epoch; may ask to stop."""
        cdef double weights = 0, eta
        cdef ptrdiff_t start = 0, n = 0
        cdef const int64_t *rows = NULL
        while not self.signals.stop_requested:
            if self.position == self.n_rows:
                self._end_epoch()
                if self.signals.stop_requested:
                    return
            if self.position == 0:
                self._begin_epoch()
                if self.signals.stop_requested:
                    return
            start = self.position
            self.taken = n = min(self.batch_size, self.n_rows - start)
            self.position += n
            rows = self.order + start
            if self.data.has_weightless:
                n = self.data.leave_out_weightless(rows, n, self.weighty)
                rows = self.weighty
            weights = self.data.sum_weights(rows, n, self.batch.buffers.row_loss)
            if weights > 0:
                break
            self.signals.poll(100.0 * self.taken)
        if self.signals.stop_requested:
            return
        self.batch.drops.step = self.batch.drops.first + self.steps
        self.batch.begin(rows, n, weights, self._is_due())
        if self._steps():
            self.steps += 1
            if self.schedule.moves:
                self._move_schedule(start)
            eta = self.schedule.rate(self.steps)
            self.batch.set_rate(eta, self.schedule.decay(), 1 / weights)
            if self.weights.mean != NULL:
                self.weights.mean_share = self._mean_share()

    cdef double _mean_share(self) noexcept nogil:
        """Of this step in the mean of the weights: early ones have more, so that the
        first weights are soon forgotten."""
        cdef double n = self.steps - self.schedule.first_step + 1
        return 1 - min(self.settings.average, n / (n + 9))

    cdef void _move_schedule(self, ptrdiff_t start) noexcept nogil:
        """To the batch that begins with row `start` of the epoch."""
        self.schedule.move_to(self.epochs, start // self.batch_size)

    cdef bint _is_due(self) noexcept nogil:
        """Whether the next batch is to be watched."""
        if self.batch.recorder is None:
            return False
        if not self._steps():
            return self.batch.recorder.due(self.iteration, self.iteration)
        return self.batch.recorder.due(self.steps, self.epochs)

    cdef void _train_rows(self) noexcept nogil:
        """Batches of one row, from the one just begun to the next one that is watched,
        at most as many as a look for signals can wait for."""
        cdef cbp_online rows
        cdef int64_t first = self.steps - 1
        cdef ptrdiff_t n = 1, most, start = self.position - 1
        # What few fits ask for is looked up once, not in every row.
        cdef bint moves = self.schedule.moves, decays = self.schedule.weight_decay > 0
        cdef bint averages = self.weights.mean != NULL
        most = <ptrdiff_t>(FLOPS_PER_TICK / (6.0 * self.network.n_weights))
        most = max(1, min(<ptrdiff_t>MAX_ROWS, most))
        self.row_steps.eta[0] = self.batch.steps[0].eta
        self.row_steps.decay[0] = self.batch.steps[0].decay
        self.row_steps.share[0] = self.weights.mean_share
        while n < most and self.position < self.n_rows:
            if self.data.weight == NULL or (
                self.data.row_weight(self.order[self.position]) > 0
            ):
                if self._is_due():
                    break
                self.steps += 1
                if moves:
                    self._move_schedule(self.position)
                self.row_steps.eta[n] = self.schedule.rate(self.steps)
                if decays:
                    self.row_steps.decay[n] = self.schedule.decay()
                if averages:
                    self.row_steps.share[n] = self._mean_share()
                n += 1
            self.position += 1
        rows.eta, rows.decay = self.row_steps.eta, NULL
        if decays:
            rows.decay = self.row_steps.decay
        rows.share = self.row_steps.share
        rows.order = self.order + start
        rows.first_step = self.batch.drops.first + first
        rows.n_rows, rows.steps = self.position - start, 0
        rows.loss_sum, rows.weight_sum = self.epoch_loss, self.epoch_weights
        self.batch.run_rows(&rows)
        self.epoch_loss, self.epoch_weights = rows.loss_sum, rows.weight_sum
        self.epoch_rows += rows.steps
        self.steps = first + rows.steps
        if not isfinite(rows.last_loss):
            self._diverge()
        self.signals.poll(6.0 * self.network.n_weights * rows.steps)

    cdef void _end_batch(self) noexcept nogil:
        cdef double loss = self.batch.end()
        self.epoch_loss += loss
        self.epoch_weights += self.batch.weight_sum
        self.epoch_rows += self.taken
        if not isfinite(loss):
            self._diverge()

    cdef void _diverge(self) noexcept nogil:
        if self.batch.recorder is not None:
            self.batch.recorder.end_epoch(self.epochs)
        self._stop(DIVERGED)

    cdef void _stop(self, int status) noexcept nogil:
        self.status, self.signals.stop_requested = status, True

    cdef void _begin_epoch(self) noexcept nogil:
        if self.schedule.caller is not None:
            self._ask_schedule()
        if self.settings.shuffle and self._steps():
            if self.settings.exclusive:
                shuffle(self.order, self.n_rows, self.bits)
            else:
                self._shuffle_locked()

    cdef void _end_epoch(self) noexcept nogil:
        cdef double loss = 0
        if not self._steps():
            self._stop(EPOCH_DONE)
            return
        if self.epoch_weights > 0:
            loss = self.epoch_loss / self.epoch_weights
        if not self.k.all_finite(self.weights.master, self.weights.master_items):
            self._diverge()
            return
        if self.batch.recorder is not None:
            self.batch.recorder.end_epoch(self.epochs)
        if self.curve_used == CURVE_ROOM:
            self._flush_or_stop()
            if self.signals.interrupted():
                return
        if self.held_out is not None:
            self._score_epoch(self.epochs + 1)
            if self.signals.interrupted():  # the epoch does not count
                return
        self.epochs += 1
        self.progress.n_iter = self.epochs
        self.progress.t += self.epoch_rows
        self.progress.loss = loss
        self.progress.learning_rate = self.schedule.base * self.schedule.factor
        self.progress.clipped = self._clipped()
        self.epoch_loss = self.epoch_weights = 0
        self.epoch_rows = self.position = 0
        self.curve[self.curve_used] = loss
        self.curve_used += 1
        if self.listening:
            self._stop(EPOCH_DONE)
        else:
            self._apply_patience()

    cdef double _clipped(self) noexcept nogil:
        """The share of this run's steps that were shortened."""
        cdef int64_t n = self.steps - self.schedule.first_step + 1
        return self.batch.limit.n_clipped / <double>n if n > 0 else 0

    cdef void _apply_patience(self) noexcept nogil:
        """Patience, stopping and the learning rate of the next epoch, as scikit-learn
        rules them: by the validation score if there is one, else by the loss."""
        cdef double enough
        if not self._stops_early():
            enough = self.progress.best_loss - self.settings.tol
            self.improved = not self.progress.loss > enough
            if self.progress.loss < self.progress.best_loss:
                self.progress.best_loss = self.progress.loss
        self._count_patience()
        self.schedule.end_epoch(self.progress.t)
        if self._is_worn_out():
            if not self.schedule.lower():
                self._stop(CONVERGED)
                return
            self.progress.no_improvement_count = 0
        if self.epochs == self.max_iter:
            self._stop(MAX_ITER)

    cdef void _count_patience(self) noexcept nogil:
        if self.improved:
            self.progress.no_improvement_count = 0
        # What a rate that still rises does not better, a higher one may.
        elif not self.schedule.rises(self.epochs):
            self.progress.no_improvement_count += 1

    cdef bint _is_worn_out(self) noexcept nogil:
        return self.progress.no_improvement_count > self.settings.n_iter_no_change

    cdef bint _stops_early(self) noexcept nogil:
        """Whether scores rule patience."""
        return self.held_out is not None and self.settings.early_stopping

    cdef void _score_epoch(self, int64_t epoch) noexcept nogil:
        """Scores the panels' weights, as those that `epoch` (counted from 1) has left;
        a score that others know is to be told yet."""
        cdef double score
        if self.weights.mean != NULL:
            self.weights.swap_mean()
        score = self.held_out.score()
        if self.weights.mean != NULL:
            self.weights.swap_mean()
        if self.signals.interrupted():
            return
        self.held_out_curve[self.scores_used] = self.held_out.loss()
        self.scores[self.scores_used] = score
        self.scores_used += 1
        if self.settings.score != TOLD:
            self._take_score(score, epoch)

    cdef void _take_score(self, double score, int64_t epoch) noexcept nogil:
        """Keeps the panels' weights if no earlier ones were better."""
        self.progress.scored = True
        self.improved = score >= self.progress.best_score + self.settings.tol
        if score > self.progress.best_score:
            self.progress.best_score, self.progress.best_iter = score, epoch
            if self.settings.early_stopping:
                self.weights.store(self.held_out.best)

    cdef void _ask_schedule(self) noexcept with gil:
        """The rates of an epoch, from the user's callable."""
        try:
            self.schedule.ask(self.epochs)
        except BaseException as error:
            self.signals.interrupt(error)

    cdef void _shuffle_locked(self) noexcept with gil:
        """A shuffle by a generator that other threads draw from, too."""
        try:
            with self.random_state._bit_generator.lock:
                with nogil:
                    shuffle(self.order, self.n_rows, self.bits)
        except BaseException as error:  # an interrupt, while waiting for the lock
            self.signals.interrupt(error)

    cdef _flush(self):
        # What cannot be moved stays, to be moved later.
        self.progress.loss_curve.extend([self.curve[i] for i in range(self.curve_used)])
        self.curve_used = 0
        self.progress.validation_scores.extend(
            [self.scores[i] for i in range(self.scores_used)]
        )
        self.progress.validation_loss_curve.extend(
            [self.held_out_curve[i] for i in range(self.scores_used)]
        )
        self.scores_used = 0

    cdef void _flush_or_stop(self) noexcept with gil:
        """Moves the curves to their lists; without the memory training is over."""
        try:
            self._flush()
        except BaseException as error:
            self.signals.interrupt(error)


# ---- training -----------------------------------------------------------------------

cdef class Trainer(Epochs):
    """One fit: theta is trained in place, from batch to batch.

    Parameters
    ----------
    network : Network
    theta : writable ndarray of shape (n_params,)
        Written back when `run` ends, however it ends, and before each `after_epoch`.
    data : Data
        Of the same kind of network.
    settings : Settings
    progress : Progress, default=None
        Written as the run goes on; None begins anew.
    rows : int64 ndarray, default=None
        The rows of data to train on; None means all.
    held_out : (Data, int64 ndarray), default=None
        Rows that are scored after every epoch. With settings.early_stopping the score
        rules patience instead of the loss, and the best weights are kept.
    random_state : numpy.random.RandomState
        Shuffles come from its bit generator, as scikit-learn draws them.

    Raises
    ------
    ValueError
        Something does not fit the network.

    Attributes
    ----------
    n_threads : int
        Threads that are of use, and were to be had.
    most_threads : int
        No more than these would be of use, whatever settings.n_threads is.
    by_units : bool
        Whether they share the units of the only hidden layer instead of rows.
    holds_out : bool
        Whether rows are held out and scored.
    best_theta : ndarray or None
        The weights of the best score; those to start from as long as there is no score.
        None without early stopping.
    learning_rate : float
        That of the last step, or of the next one.
    recorder : Recorder or None
    """

    cdef readonly object theta
    cdef char *theta_data
    cdef Team team
    cdef cbp_claimed claim         # inside one of its methods, which are not reentrant

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(
        self, Network network not None, theta, Data data not None,
        Settings settings not None, Progress progress=None, *, rows=None, held_out=None,
        random_state=None,
    ):
        self.network, self.k, self.settings = network, network.k, settings
        self._take(theta, data, Progress() if progress is None else progress,
                   random_state)
        if rows is None:
            rows = np.arange(data.n_rows, dtype=np.int64)
        self._order = checked_rows(rows, data.n_rows)
        self.order = <int64_t *>writable_address(self._order)
        self.n_rows = len(self._order)
        self.batch_size = self.n_rows
        if self._steps():
            self.batch_size = min(settings.batch_size, self.n_rows)
        self.signals, self.weights = Signals(), Weights(network)
        self.schedule = Schedule(settings)
        self.batch = Batch(self.weights, data, self.signals, self._order,
                           self.batch_size, settings.n_threads, settings.optimizer,
                           settings.max_grad_norm, settings.dropout)
        self._fill_steps()
        if settings.average > 0:
            self.weights.start_mean()
        if held_out is not None:
            self.held_out = HeldOut(self.batch, *held_out, settings, theta)
        if settings.monitor:
            self._start_recorder()
        self._begin()

    # ---- set-up

    cdef _take(self, theta, Data data, Progress progress, random_state):
        """What differs from run to run in the same buffers."""
        cdef ptrdiff_t n_params = self.network.n_params
        if not isinstance(theta, np.ndarray):
            raise ValueError(f"theta must be an ndarray, got {type(theta).__name__}")
        theta_data = <char *>writable_floats(theta, "theta", self.k.itemsize, 1,
                                             &n_params)
        if data.network is not self.network and data.network.kind != self.network.kind:
            raise ValueError("the data are those of another network")
        if self._shuffles() and not isinstance(random_state, np.random.RandomState):
            raise ValueError(
                f"shuffling needs a RandomState, got {type(random_state).__name__}"
            )
        drops = self.settings.dropout
        if drops and not isinstance(random_state, np.random.RandomState):
            raise ValueError(
                f"dropout needs a RandomState, got {type(random_state).__name__}"
            )
        self.theta, self.theta_data = theta, theta_data
        self.data, self.progress, self.random_state = data, progress, random_state

    cdef _begin(self):
        """Where a run stands before its first step."""
        self._weighty = np.empty(self.data.has_weightless * self.batch_size, np.int64)
        self.weighty = <int64_t *>writable_address(self._weighty)
        self.steps = self.position = self.epoch_rows = 0
        self.epoch_loss = self.epoch_weights = 0
        self.schedule.begin(self.settings)
        if self._steps():
            self._take_optimizer(self.progress.optimizer)
        if self.settings.dropout:
            # Before the first shuffle. With the seed of an earlier run go other
            # numbers: that made no more steps than it saw rows.
            self.batch.drops.first = self.progress.t
            self.batch.set_seed(self.random_state.randint(2**63, dtype=np.int64))
        self.weights.load(self.theta_data)

    cdef bint _shuffles(self) noexcept:
        return self.settings.shuffle and self._steps()

    @property
    def n_threads(self):
        return self.batch.n_threads

    @property
    def most_threads(self):
        return self.batch.most_threads

    @property
    def by_units(self):
        return bool(self.batch.by_units)

    @property
    def holds_out(self):
        return self.held_out is not None

    @property
    def best_theta(self):
        return None if self.held_out is None else self.held_out.best_theta

    @property
    def learning_rate(self):
        return self.schedule.learning_rate

    @property
    def recorder(self):
        return self.batch.recorder

    # ---- what Python calls

    cdef _claim(self, bint with_data=True):
        """Before each method that uses the buffers; cbp_unclaim behind it."""
        if not cbp_claim(&self.claim):
            raise RuntimeError("this Trainer is at work: neither its own callbacks nor "
                               "another thread may call it meanwhile")
        if with_data and self.data is None:
            cbp_unclaim(&self.claim)
            raise RuntimeError("this Trainer has let go of its data: renew it first")

    def let_go(self):
        """Forgets the data, which others may want to free. `renew` brings others."""
        self._claim()
        try:
            if self.team is not None:
                raise RuntimeError("this Trainer's threads may still need its data")
            self.data = self.batch.data = None
            self.random_state = None
        finally:
            cbp_unclaim(&self.claim)

    def renew(self, theta, Data data not None, Progress progress not None,
              random_state=None):
        """Another run in the same buffers, with the same settings.

        Where few rows are trained, to make the buffers takes longer than to train:
        64-100-10, one row, 45 us of 65.

        Parameters
        ----------
        theta, data, progress, random_state
            As those of the Trainer. All rows of data are trained, as many as before.

        Raises
        ------
        ValueError
            Something does not fit the network or the buffers.
        """
        cdef ptrdiff_t i
        self._claim(False)
        try:
            # The columns of a batch of CSR rows have as much space as its entries need.
            if self.held_out is not None or self.batch.buffers.columns.start != NULL:
                raise ValueError("renew needs a Trainer of dense rows, none held out")
            if data.sparse is not None or data.n_rows != self.n_rows:
                raise ValueError(f"renew needs {self.n_rows} dense rows")
            self._take(theta, data, progress, random_state)
            self.batch.data = data
            for i in range(self.n_rows):
                self.order[i] = i
            if self.batch.recorder is not None:
                self.batch.recorder.clear()
            self._begin()
        finally:
            cbp_unclaim(&self.claim)

    cdef _begin_call(self):
        if self.batch.recorder is not None:
            self.batch.recorder.saturated_rows[:] = 0
            self.batch.recorder.dropped_rows[:] = 0
        self.status = RUNNING
        self.signals.begin()

    cdef _take_theta(self, theta):
        """Panels from other parameters, theta too."""
        theta = np.asarray(theta)
        if theta.shape != self.theta.shape or theta.dtype.kind not in "fiu":
            raise ValueError(f"theta: want {self.network.n_params} numbers, got "
                             f"{theta.dtype} of shape {theta.shape}")
        self.theta[:] = theta
        self.weights.load(self.theta_data)

    def __enter__(self):
        """Starts the threads; they sleep between calls and end with the block."""
        self._claim()
        try:
            if self.team is not None:
                raise RuntimeError("the threads of this Trainer have been started")
            self._start_team()
        finally:
            cbp_unclaim(&self.claim)
        return self

    def __exit__(self, kind=None, error=None, traceback=None):
        # Not *exception: where no memory is left there is none for a tuple.
        self._claim(False)
        try:
            if self.team is None:
                raise RuntimeError("this Trainer was not entered")
            self._end_team()
        finally:
            cbp_unclaim(&self.claim)

    cdef _start_team(self):
        cdef Team team = Team(self)
        self.batch.n_threads = team.start(self.batch.n_threads)
        self.team = team

    cdef _end_team(self):
        cdef Team team = self.team
        self.team = None
        team.end()

    cdef _advance(self):
        """Compiled epochs until one of them has a reason to come back, by all threads
        of the team, or of one for this call."""
        cdef bint own = self.team is None
        self.signals.look_for_request()  # short calls end before they look
        if own:
            self._start_team()
        try:
            self._begin_call()
            if self._shuffles():
                generator = self.random_state._bit_generator
                self.bits = <bitgen_t *>PyCapsule_GetPointer(
                    generator.capsule, "BitGenerator"
                )
            if self._shuffles() and self.settings.exclusive:
                with generator.lock:
                    self.team.work()
            else:
                self.team.work()
        finally:
            if own:
                self._end_team()
        self.signals.reraise()

    def watch(self, event):
        """From now on a run ends with KeyboardInterrupt when `event.is_set()`."""
        self.signals.asked = event

    def run(self, max_iter, after_epoch=None, score=None):
        """Trains until patience runs out or max_iter epochs are done.

        Parameters
        ----------
        max_iter : int
        after_epoch : callable(progress) -> stop, default=None
            Called after each epoch, theta written back, patience applied. True stops.
        score : callable(progress) -> float, default=None
            Called before that; the score of the held-out rows. Needed, and allowed,
            with scoring="told".

        Returns
        -------
        {"max_iter", "converged", "diverged", "stopped"}

        Raises
        ------
        BaseException
            What a signal handler raised (KeyboardInterrupt), theta written back.
        """
        if not self._steps():
            raise ValueError(f"run needs a solver that steps: {[*OPTIMIZERS]}")
        if not 1 <= max_iter < 2**31:
            raise ValueError(f"max_iter must lie in 1 .. {2**31 - 1}, got {max_iter}")
        if after_epoch is not None and not callable(after_epoch):
            raise ValueError("after_epoch must be callable")
        self._demand_score(score)
        self._claim()
        try:
            self._run(max_iter, after_epoch, score)
            return STATUS_NAMES[self.status]
        finally:
            cbp_unclaim(&self.claim)

    cdef _demand_score(self, score):
        """Who scores is settled once and for all."""
        told = self.held_out is not None and self.settings.score == TOLD
        if (score is not None) != told:
            raise ValueError('a score goes with held_out and scoring="told"')

    cdef _begin_run(self, int max_iter):
        cdef dict numbers = self.schedule.numbers()
        self.max_iter = max_iter
        self.schedule.begin_run(
            self.steps + 1, (self.n_rows + self.batch_size - 1) // self.batch_size,
            max_iter
        )
        if self.resumed:  # all else stands where it stood
            self.schedule.take(numbers)
            self.resumed = False
            return
        self.epochs, self.progress.n_iter, self.status = 0, 0, RUNNING
        self.batch.limit.n_clipped = 0

    cdef _run(self, int max_iter, after_epoch, score):
        cdef bint own = self.team is None
        self._begin_run(max_iter)
        self.listening = after_epoch is not None or score is not None
        if self.status != RUNNING:  # the run of the checkpoint had ended
            return
        try:
            if own:
                self._start_team()
            while True:
                self._advance()
                if self.status != EPOCH_DONE:
                    break
                self._flush()
                self.weights.store(self.theta_data)
                if score is not None:
                    told = float(score(self.progress))
                    scores = self.progress.validation_scores
                    scores[len(scores) - 1] = told
                    self._take_score(told, self.epochs)
                self.signals.stop_requested = False
                self._apply_patience()
                self.progress.goes_on = not self.signals.stop_requested
                if after_epoch is not None and after_epoch(self.progress):
                    self.status = STOPPED
                    break
                if not self.progress.goes_on:
                    break
        finally:
            if own and self.team is not None:
                self._end_team()
            # First what cannot fail, whatever memory there is.
            self.weights.store(self.theta_data)
            self.optimizer.learning_rate = self.schedule.learning_rate
            self.optimizer.steps = self.steps
            self.progress.optimizer = self.optimizer
            self._flush()

    def state(self):
        """Where a run stands between two epochs: all that `restore` needs.

        For `after_epoch`, while that is called; theta is not in it.

        Returns
        -------
        numbers : dict of str to int, float or str
        arrays : dict of str to ndarray
            Copies, but for the optimizer's state and the best weights.
        """
        cdef char *mean = self.weights.mean
        numbers = self.progress.numbers() | self.schedule.numbers() | {
            "steps": self.steps, "n_clipped": self.batch.limit.n_clipped,
            "first_drop": self.batch.drops.first, "iteration": self.iteration,
            "status": STATUS_NAMES.get(self.status, ""),
        }
        arrays = {
            "loss_curve": np.array(self.progress.loss_curve, np.float64),
            "validation_scores": np.array(self.progress.validation_scores, np.float64),
            "validation_loss_curve": np.array(self.progress.validation_loss_curve,
                                              np.float64),
        }
        if self._steps():
            arrays["optimizer"] = self.optimizer.state
        if self._shuffles():
            arrays["order"] = self._order.copy()
        if self.best_theta is not None:
            arrays["best_theta"] = self.best_theta
        if mean != NULL:  # theta is the mean
            last = np.empty_like(self.theta)
            self.weights.mean = NULL
            self.weights.store(<void *>writable_address(last))
            self.weights.mean = mean
            arrays["last_theta"] = last
        if self.batch.recorder is not None:
            numbers["stride"] = self.batch.recorder.stride
            arrays |= self.batch.recorder.arrays()
        return numbers, arrays

    def restore(self, theta, dict numbers, dict arrays):
        """The next `run` goes on where `state` was asked for, to the same bits.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)
            As it was then.
        numbers, arrays : dict
            What `state` has returned.

        Raises
        ------
        ValueError
            Something does not fit the network, the rows or the settings.
        KeyError
            Something is missing.
        """
        self._claim()
        try:
            self._restore(theta, numbers, arrays)
        finally:
            cbp_unclaim(&self.claim)

    cdef _restore(self, theta, dict numbers, dict arrays):
        cdef char *mean = self.weights.mean
        names = dict(zip(STATUS_NAMES.values(), STATUS_NAMES), **{"": RUNNING})
        if self._shuffles():
            order = arrays["order"]
            if order.dtype != np.int64 or not np.array_equal(
                np.sort(order), np.sort(self._order)
            ):
                raise ValueError("the order is not one of the rows that are trained")
            self._order[:] = order
        self.progress.take(numbers, arrays)
        self.schedule.take(numbers)
        if self._steps():
            self._take_optimizer(Optimizer(
                self.settings.solver, self.schedule.learning_rate, numbers["steps"],
                arrays["optimizer"]
            ))
        self.schedule.take(numbers)  # a rate that was taken over has no corrections
        self._take_theta(theta)
        if mean != NULL:
            self.weights.mean = NULL
            try:
                self._take_theta(arrays["last_theta"])
            finally:
                self.weights.mean = mean
            self.theta[:] = theta
        if self.best_theta is not None:
            self.best_theta[:] = arrays["best_theta"]
        self.epochs = self.progress.n_iter
        self.iteration = count(numbers["iteration"], "iteration", 0)
        self.batch.drops.first = count(numbers["first_drop"], "first_drop", 0)
        self.batch.limit.n_clipped = count(numbers["n_clipped"], "n_clipped", 0)
        if self.batch.recorder is not None:
            self.batch.recorder.take(arrays, numbers["stride"])
        self.status, self.resumed = names[numbers["status"]], True

    def score_weights(self, theta, score=None, bint starting=False):
        """Scores theta, and keeps a copy of it if no earlier one was better.

        For weights that `run` does not see: to start from, or L-BFGS's, if counted.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)
        score : float, default=None
            Needed, and allowed, with scoring="told".
        starting : bool, default=False
            Whether these are the weights to start from: not an epoch, so that the score
            is not listed.

        Returns
        -------
        bool
            Whether patience has run out.

        Raises
        ------
        BaseException
            What a signal handler raised (KeyboardInterrupt).
        """
        cdef double told = 0
        cdef int64_t epoch = 0 if starting else self.progress.n_iter
        if self.held_out is None:
            raise ValueError("score_weights needs held_out")
        self._demand_score(score)
        if score is not None:
            told = score
        self._claim()
        try:
            self._flush()
            self._take_theta(theta)
            self._begin_call()
            with nogil:
                self._score_epoch(epoch)
            self.signals.reraise()
            if score is not None:
                self.scores[0] = told
                self._take_score(told, epoch)
            if starting:
                self.scores_used, self.progress.scored = 0, False
                return False
            self._flush()
            if not self.settings.early_stopping:
                return False
            self._count_patience()
            return bool(self._is_worn_out())
        finally:
            cbp_unclaim(&self.claim)

    def loss_gradient(self, theta):
        """Mean cost with penalty and its gradient over all rows, for solver "lbfgs".

        Parameters
        ----------
        theta : ndarray of shape (n_params,)

        Returns
        -------
        loss : float
        gradient : float64 ndarray of shape (n_params,)
        """
        self._claim()
        try:
            return self._loss_gradient(theta)
        finally:
            cbp_unclaim(&self.claim)

    cdef _loss_gradient(self, theta):
        cdef double scale, squares, alpha = self.settings.alpha
        cdef const double[::1] W
        cdef double[::1] g
        if self._steps():
            raise ValueError("loss_gradient needs a solver that makes no steps: "
                             f"{[*WITHOUT_STEPS]}")
        self._take_theta(theta)
        self.position = 0
        self._advance()
        scale = 1 / self.batch.weight_sum
        if self.batch.watching:
            self.batch.measure_gradient(scale)
        W = self.theta[: self.network.n_weights].astype(np.float64, copy=False)
        gradient = np.empty(self.network.n_params, self.network.dtype)
        self.weights.flatten(self.batch.gradient.total,
                             <char *>writable_address(gradient),
                             self.batch.buffers.scratch)
        gradient = gradient.astype(np.float64, copy=False)
        g = gradient
        add_penalty(&g[0], g.shape[0], &W[0], W.shape[0], alpha, scale)
        squares = sum_squares(&W[0], W.shape[0])
        return (self.batch.loss + 0.5 * alpha * squares) * scale, gradient

    def end_iteration(self, iteration, theta, before):
        """Records the gradient flow of the last `loss_gradient` if it was watched.

        Parameters
        ----------
        iteration : int
            Counted from 0.
        theta, before : ndarray of shape (n_params,)
            The parameters after the iteration and before it.
        """
        self._claim()
        try:
            self._end_iteration(iteration, theta, before)
        finally:
            cbp_unclaim(&self.claim)

    cdef _end_iteration(self, iteration, theta, before):
        cdef Recorder recorder = self.batch.recorder
        cdef int l
        if not 0 <= iteration < 2**31 - 1:
            raise ValueError(f"iteration {iteration} is out of range")
        self.iteration = iteration + 1
        if self._steps() or not self.batch.watching:
            return
        W, _ = self.network.views(np.asarray(theta) - before)
        for l in range(self.network.n_layers):
            change = np.asarray(W[l], np.float64).ravel()
            recorder.sums[l, UPDATE_SQUARES] = np.mean(change * change)
        recorder.end_epoch(iteration)

    def backpropagate(self, theta):
        """The four equations as data, from the unfused twins of the kernels.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)

        Returns
        -------
        dict
            "z", "a", "delta": lists of arrays (n_rows, n_out), a layer each, a of the
            output layer included; delta is of one row's cost times its weight. "loss"
            and "gradient": as `loss_gradient` returns them.
        """
        self._claim()
        try:
            loss, gradient = self._loss_gradient(theta)
            z, a, delta = backpropagate(self.batch, self.order, self.n_rows)
        finally:
            cbp_unclaim(&self.claim)
        return {"z": z, "a": a, "delta": delta, "loss": loss, "gradient": gradient}
