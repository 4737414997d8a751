"""What a diagnosis is made of: one fit as numbers, and the thresholds they are held to.

`Fit` gathers the records of an estimator's last fit, the summary of its data and its
parameters. What is wrong is said by the rules, what to do about it in _advice.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.exceptions import NotFittedError

from cbp._catalog import LOSSES, OUTPUT_OF, Loss
from cbp._fit_summary import FitSummary
from cbp._given_rows import Comparison
from cbp._parameters import dropout_rates
from cbp._solvers import SOLVERS, Solver, follows_training
from cbp._worth import Standing, Worth
from cbp.gradient_flow import FailedFlow, GradientFlow, ratio

# Thresholds. None depends on a unit of the data: a layer is compared with the output
# layer, a step with its weights, a cost with that of the best constant answer. "Good"
# stands for some 900 healthy fits (noise from none to half of the labels), "bad" for
# 304 spoiled ones, on which they were chosen; tests/test_diagnosis.py judges them on
# other data sets and seeds.

# Root mean square of the largest column of X. With relu and SGD the median cost doubles
# between 10 and 30 and is infinite at 100; raw iris (6) and digits (12) train well.
INPUT_LARGE, INPUT_HUGE = 15.0, 100.0
# Of inputs larger than that products or their squares overflow, whatever a step does.
# Exponential outputs overflow from INPUT_HUGE on.
INPUT_OVERFLOWING = 1e30
# Length of a row of X less the mean row; standardised rows of n columns have sqrt(n).
# At a tenth of that the median cost is three times higher, at a hundredth it is 1.
ROW_SHORT, ROW_TINY = 0.3, 0.03
# A fit whose cost came below this share of a constant answer's has learned, whatever
# its gradients look like: at the end of a good fit units saturate and die, too.
LEARNED = 0.1
# Above this share it has learned next to nothing.
NOTHING_LEARNED = 0.9
# Length of delta^l over that of delta^L. Derived: with the first weights a sigmoid
# layer passes on sqrt(1/3) / 4 = 0.14 of it, two of them 0.02; this is their geometric
# mean. Good: 0.19 and more. Bad: 0.035 and less.
VANISHING = 0.05
# The same upwards. Derived: with the first weights a layer passes on sqrt(2) times the
# length at most; good fits begin below 1.5. Later weights have grown; good: up to 21.
EXPLODING, EXPLODING_LATER = 10.0, 100.0
# Shares of a layer's units, or weights: more than half. Good fits that have not LEARNED
# have at most 11 % saturated units and 16 % floored weights. Of narrow relu layers that
# learn all the same up to 65 % have been seen dead, so there three quarters are asked.
SATURATED = DEAD = FLOORED = 0.5
DEAD_BUT_LEARNING = 0.75
# Update over weights of a step, the first ones and later. Derived: a step of half a
# weight forgets what the weight was. Good: 0.35 at most, mostly below 0.07, and 0.04
# later. Bad: 0.98 and more at first; later less, for the weights have grown.
STEP_FIRST, STEP_LATER = 0.5, 0.1
# Update over weights, summed over all steps. Derived: had all gone one way, the weights
# would have changed by a tenth. Good: 0.17 and more. Bad: 0.03 and less.
MOVED = 0.1
# Rises from epoch to epoch in the second half of the loss curve: their median in costs
# of a constant answer, the same over what has been learned, and the share of epochs
# that rise. Good: 0.026 and 0.05 at most. Bad: 0.025 and 0.2 at least.
SWING, UNDONE, RISES = 0.02, 0.1, 0.25
# tol in costs of a constant answer. Usual is 1e-4; at a hundredth an epoch that brings
# a percent of all there is to learn counts as none.
TOL_LARGE = 0.01
# Variance of the predictions over that of the targets. Good: 0.03 and more, 0.014 where
# the targets are noise alone. Bad: 0.01 and less, except for penalties.
CONSTANT = 0.01
# alpha per row of a batch. On four data sets 0.05 cost little, 0.15 up to half of what
# there was to learn, and 1.5 left a constant answer.
PENALTY = 0.05
# Mean sample weight. Weights that balance classes, or that mark doubtful rows, have a
# mean near 1; those that sum to 1 have 1/n.
WEIGHT_SMALL = 0.1
# Root mean square of the targets of exponential outputs, whose first gradients are as
# large.
# SGD with a rate of 0.01 trains 10 and diverges at 100, with 0.001 at 1000.
COUNTS_LARGE = 30.0
# Share of rows in which dropout leaves nothing of a layer, the rate to the power of its
# width. Such a row teaches biases only. Usual rates leave less than a thousandth.
STARVED = 0.1
# Share of the steps that max_grad_norm has shortened; from here on it is the limit that
# rules the length of steps, not the gradient.
CLIPPED = 0.95
# Share of the rows of the rarest class for which it is predicted.
NEVER_PREDICTED = 0.1
# A schedule has ended if its last rate is below this part of the highest one.
SCHEDULE_OVER = 0.1
# Fall of the cost in the second half of such a fit, in costs of a constant answer and
# as a share of itself, above which more epochs are worth while.
STILL_FALLS, STILL_FALLS_BY = 0.03, 0.1
# Scores of held-out rows: by how much a linear model must be better, and which part of
# what a network knows of its training rows it must not know of them.
LOST_TO_LINEAR, BEATS_LINEAR = 0.01, 0.015
GAP, GAP_ALONE, GAP_NOTE, GAP_LEAST = 0.45, 0.7, 0.15, 0.05
# The same of a network with so many weights per row, or trained to the last digit.
MANY, GAP_BY_HEART = 100, 0.25
# Share of what there is to know, up to which nothing is known.
NO_SHARE = 0.05
# Share of the rows that get one answer, from which on it is the only one; share that
# is most of them; share of a class that is rare; and share of what there is to know,
# averaged over classes, below which hardly any of its rows are found.
ONE_ANSWER, MOST, RARE, RARE_FOUND = 0.995, 0.9, 0.12, 0.35
# Which part of what a network knows of its training rows it must know of others to have
# learned them, not by heart.
GENERAL = 0.75
# By how much a quick model must explain other rows better than shuffled targets.
SIGNAL_CLEAR = 0.005
# Rows that are not of the commonest class, below which that model misses signals: with
# 20 of them it missed 3 of 10, with 40 one of 6, with 50 none.
SIGNAL_ROWS = 50
# Gaps between classes in a column that tells them, of all of its width.
CLASS_GAP = 0.2
# Spread of a column without its outliers, once it is scaled with them.
SQUEEZED = 0.5
# Rows from which on it explains more than nothing wherever there is a signal. With 130
# rows it was worse than a constant for up to 3 of 4 real targets, yet better than it
# was for any shuffled ones; with 400 never.
SIGNAL_MANY = 400
# Rise of the cost of held-out rows from its least value, in costs of a constant answer.
OVERFITS = 0.05
# Rates that usually train, and the multiples of them at which steps are looked at.
USUAL_RATES = {"adam": 0.001, "sgd": 0.01}
RATE_EXTREME, RATE_HIGH, RATE_LOW = 100.0, 5.0, 0.2
# Update over weights of a first step that is large with such a rate: training goes on
# in jumps, and the cost stays where they keep it. Usual rates have 0.002 to 0.04.
STEP_LARGE = 0.12
# Steps below which nothing can be said of a fit that was still learning.
FEW_STEPS = 100
# Dropout rates above which a layer cannot learn what it could.
MUCH_DROPOUT = 0.6
# Rows of a batch that usually train; what decoupled decay takes of the weights in a
# step, from which on it holds them down.
USUAL_BATCH, DECAY = 256, 0.01
# By how much weights shrink below their first size under a penalty that costs much.
SHRUNK, PENALTY_FELT = 1.3, 0.01
# Hidden layers. Up to eight relu trains as well as tanh; with 14 SGD trains tanh but
# not relu, with 30 neither; Adam and L-BFGS come to that some layers later.
DEEP_FOR_RELU, DEEP_FOR_ALL = 8, 20

TINY = float(np.finfo(np.float64).tiny)

_PARAMETERS = ("batch_size", "alpha", "warm_start", "epsilon")
_PARAMETERS += ("learning_rate_init", "tol", "n_iter_no_change", "max_iter", "max_fun")
_PARAMETERS += ("activation", "learning_rate", "max_grad_norm", "early_stopping")
_PARAMETERS += ("weight_decay", "shuffle")
# Parameters of one of the estimators, and what they are without an effect.
_OPTIONAL = {"label_smoothing": 0.0}
# Outcomes of a training that ended by itself.
_ENDS = ("converged", "max_iter", "stuck", "diverged")


@dataclass(frozen=True)
class Given:
    """What is known of rows that are given to `diagnose`.

    Parameters
    ----------
    held, linear : Worth or None
        What the network and a linear model are worth on them.
    rows : Comparison or None
        Where they lie beside the rows of training.
    known : float
        The share of them whose class training has met.
    folded : bool
        Whether the linear model was trained on a part of them.
    target : dict or None
        Mean and spread of their targets and of those of training, if they lie apart.
    """

    held: Worth | None = None
    linear: Worth | None = None
    rows: Comparison | None = None
    known: float = 1.0
    folded: bool = False
    target: dict[str, float] | None = None


_NOTHING_GIVEN = Given()


class Fit:
    """One fit: its records, its parameters, and the numbers that follow from them."""

    def __init__(
        self,
        estimator: Any,
        given: Given = _NOTHING_GIVEN,
        columns: tuple[str, ...] = (),
        original: Callable[[int, float], float | None] | None = None,
    ):
        self.columns, self._original = columns, original
        flow, self.curve, self.summary, n_iter = _records_of(estimator)
        self.parameters: dict[str, Any] = {
            name: getattr(estimator, name) for name in _PARAMETERS
        }
        for name, nothing in _OPTIONAL.items():
            self.parameters[name] = getattr(estimator, name, nothing)
        self.solver = _solver_of(estimator)
        self.solver_name = str(estimator.solver)
        self.loss = _loss_of(estimator)
        self.flow: GradientFlow = flow
        failed = isinstance(flow, FailedFlow)
        self.outcome = self.summary.outcome or "interrupted"
        incremental = self.outcome == "partial"
        # partial_fit leaves the scores of an earlier fit, and counts one epoch; its
        # loss curve goes over all calls.
        # Scores that are only recorded (best_loss_ is a number then) end no training.
        recorded = failed or incremental or estimator.best_loss_ is not None
        self.scores = None if recorded else estimator.validation_scores_
        self.n_epochs = len(self.curve) if incremental else n_iter
        # Only a classifier has this parameter, and labels.
        self.class_weight = getattr(estimator, "class_weight", None)
        self.classes = getattr(estimator, "classes_", None)
        self.dropout, self.dropout_is_one = _dropout_of(estimator, flow)
        self.given_weights = not incremental and _went_on(estimator, self, n_iter)
        self.late = slice(len(flow.epoch) // 2, None)
        rows = self.summary.n_rows
        self.batch = self.solver.batch_size(self.parameters["batch_size"], rows)
        self.steps_per_epoch = -(-rows // self.batch)
        least = max(self.summary.constant_cost, TINY)
        first = max(len(self.curve) - self.n_epochs, 0)
        # Costs of the epochs, 1 being the cost of a constant answer.
        self.cost = np.array(self.curve[first:], dtype=np.float64)
        self.cost = (self.cost - self.summary.least_cost) / least
        unheld = failed or incremental or self.scores is not None
        curve = None if unheld else estimator.validation_loss_curve_
        # Costs of rows that are held out, but end no training; empty if there are none.
        self.held_out = np.array((curve or [])[-self.n_epochs :], dtype=np.float64)
        self.held_out = (self.held_out - self.summary.least_cost) / least
        network = estimator._fitted.get("_network")
        self.delta_tells = network is None or (
            LOSSES[network.output, network.loss].delta_is_error
        )
        self.standing: Standing = self.summary.standing or Standing()
        # What rows that are given now say counts more than what the fit held out.
        self.rows, self.known = given.rows, given.known
        self.folded, self.given_target = given.folded, given.target
        self.held = given.held or self.standing.held
        self.linear_held = given.linear if given.held else self.standing.linear_held
        loss = getattr(estimator, "loss_", None)
        self.reached = self._reached(math.inf if failed or loss is None else loss)

    def original(self, column: int, value: float) -> float:
        """A number of X as the user has it, if that is known."""
        given = None if self._original is None else self._original(column, value)
        return value if given is None else given

    def column(self, number: int) -> str:
        """A column of X as a sentence names it."""
        if number < len(self.columns):
            return f"{number} ({self.columns[number]!r})"
        return str(number)

    @property
    def train(self) -> Worth | None:
        """What it is worth on rows that it was trained on."""
        return self.standing.train

    @property
    def linear_train(self) -> Worth | None:
        """The same of a linear model that was trained on those rows."""
        return self.standing.linear_train

    @property
    def generalises(self) -> bool:
        """Whether what it knows of its training rows it knows of others, too; yes if
        nothing is known of others."""
        if self.train is None or self.held is None:
            return True
        return self.held.share >= GENERAL * self.train.share

    @property
    def only_linear(self) -> bool:
        """Whether a linear model does as well on held-out rows, as far as they tell."""
        if self.held is None or self.linear_held is None:
            return False
        if self.held.share < NO_SHARE:
            return False
        return self.held.score < self.linear_held.score + self.score_noise / 2

    @property
    def rate_is_far_below(self) -> bool:
        low = self.rate <= RATE_LOW * self.usual_rate
        return low or self.rate_ran_out or self.schedule_is_low

    @property
    def rate_is_extreme(self) -> bool:
        return self.rate >= RATE_EXTREME * self.usual_rate

    @property
    def rate_is_far_above(self) -> bool:
        return self.rate >= RATE_HIGH * self.usual_rate

    @property
    def learned_well(self) -> bool:
        """Whether it has learned, and not by heart."""
        return self.learned and self.generalises

    @property
    def score_noise(self) -> float:
        """The standard error of a score of held-out rows, or of training rows."""
        worth = self.held or self.train
        if worth is None:
            return math.inf
        p = min(max(worth.score, 0.05), 0.95)
        return math.sqrt(p * (1 - p) / worth.n_rows)

    @property
    def ended(self) -> bool:
        """Whether training came to its end; a part of one shows slow starts, too."""
        return self.outcome not in ("interrupted", "stopped", "partial")

    @property
    def idle(self) -> bool:
        """Whether training ended before its first step."""
        return len(self.flow.epoch) == 0 and self.outcome != "diverged"

    def _reached(self, loss: float) -> float:
        """Cost at the end, without penalty, 1 being a constant answer's cost.

        loss: of the first weights, penalty included, which is all that is known if they
        were the last ones, too.
        """
        if self.idle:
            reached = loss - self.summary.least_cost
            reached /= max(self.summary.constant_cost, TINY)
            return reached if math.isfinite(reached) else math.inf
        if self.outcome == "diverged" or len(self.cost) == 0:
            return math.inf
        sizes = np.array(self.flow.layer_sizes)
        squares = np.square(self.flow.weight[-1], dtype=np.float64)
        penalty = self.parameters["alpha"] / 2 * (squares @ (sizes[:-1] * sizes[1:]))
        penalty /= self.batch * max(self.mean_weight, TINY)
        reached = self.curve[-1] - penalty - self.summary.least_cost
        if reached < 0.5 * self.curve[-1] and self.delta_tells:
            # The difference may be rounding; so from the output errors, which for a
            # squared error tell the cost exactly.
            # Both in the unit of the weights.
            error = float(self.flow.delta[-1, -1]) / max(self.summary.mean_weight, TINY)
            reached = error * error / max(self.summary.target_variance, TINY)
            return reached if math.isfinite(reached) else math.inf
        # Rounding may have left less than 0.
        reached = max(reached, 0.0) / max(self.summary.constant_cost, TINY)
        return float(reached) if math.isfinite(reached) else math.inf

    @property
    def nothing_to_learn(self) -> bool:
        """Whether the targets are all the same."""
        return self.summary.constant_cost <= TINY

    @property
    def learned(self) -> bool:
        return self.nothing_to_learn or self.reached < LEARNED

    @property
    def late_fall(self) -> float:
        """By what part of itself the cost fell in the last quarter of the epochs."""
        quarter = self.cost[-max(len(self.cost) // 4, 1) - 1 :]
        if len(quarter) < 2 or not 0 < quarter[0] < math.inf:
            return 0.0
        return float(1 - quarter[-1] / quarter[0])

    @property
    def swing(self) -> float:
        """Median of the rises of the cost in the second half of the epochs."""
        change = np.diff(self.cost[len(self.cost) // 2 :])
        rises = change[change > 0]
        return float(np.median(rises)) if len(rises) else 0.0

    @property
    def share_of_rises(self) -> float:
        """In which share of the epochs of the second half the cost rose."""
        change = np.diff(self.cost[len(self.cost) // 2 :])
        return float((change > 0).mean()) if len(change) else 0.0

    @property
    def usual_rate(self) -> float:
        """A learning rate that usually trains; infinite if there is no rate."""
        return USUAL_RATES.get(self.solver_name, math.inf)

    @property
    def steps_are_large(self) -> bool:
        """Whether a high rate makes steps so large that the cost cannot settle."""
        if self.rate < RATE_HIGH * self.usual_rate or self.given_weights:
            return False
        if self.target_off or self.input_off or not self.ended:
            return False
        step = self.first_step.max()
        if (step > 2 * STEP_FIRST or self.rate_is_extreme) and self.reached > 0.02:
            return True
        return bool(step > STEP_LARGE and self.share_of_rises > RISES / 2)

    @property
    def rate_is_low(self) -> bool:
        """Whether a low rate was still at work when training ended."""
        if self.rate > RATE_LOW * self.usual_rate:
            return False
        return self.still_learning or self.outcome == "converged"

    @property
    def rate_ran_out(self) -> bool:
        """Whether 'invscaling' left no rate while there was still much to learn."""
        last = self.summary.last_rate
        if self.parameters["learning_rate"] != "invscaling" or last is None:
            return False
        return last < SCHEDULE_OVER * self.rate

    @property
    def schedule_is_low(self) -> bool:
        """Whether a function of the user leaves next to nothing of the rate."""
        last = self.summary.last_rate
        own = callable(self.parameters["learning_rate"]) and last is not None
        return bool(
            own
            and self.step_ratio.max() * self.n_epochs < 1
            and (last < SCHEDULE_OVER * self.rate)
        )

    @property
    def n_steps(self) -> int:
        return self.n_epochs * self.steps_per_epoch

    @property
    def few_steps(self) -> bool:
        """Whether a limit ended training after a few steps at a usual rate."""
        usual = self.rate >= 0.5 * self.usual_rate and not self.chooses_its_steps
        ended = self.outcome == "max_iter" and self.n_steps < FEW_STEPS
        return bool(usual and ended and self.still_learning)

    @property
    def still_learning(self) -> bool:
        """Whether the cost was still falling when training ended."""
        return self.late_fall > 0.02

    @property
    def shrunk(self) -> float:
        """How many times smaller than at first the weights of a layer have become."""
        ratios = ratio(self.flow.weight[0], self.flow.weight[-1])
        return float(np.nan_to_num(ratios, nan=0.0, posinf=math.inf).max())

    @property
    def pressed(self) -> bool:
        """Whether a penalty has made the weights smaller than they were at first."""
        if not len(self.flow.epoch) or self.mean_weight <= 0:
            return False
        per_row = self.parameters["alpha"] / (self.batch * self.mean_weight)
        # Where other rows are much worse, the penalty is not what is wrong.
        return bool(
            per_row > PENALTY_FELT and self.shrunk > SHRUNK and self.generalises
        )

    @property
    def first_errors(self) -> NDArray:
        """Length of delta^l over that of delta^L in the first record."""
        return np.asarray(self.flow.relative_error[0], np.float64)

    @property
    def vanished_at_first(self) -> bool:
        """Whether a deep network lost the error at first, and has learned little."""
        if not self.ended:
            return False
        first = self.first_errors.min()
        little = not self.learned and first < VANISHING
        return bool(little or (not self.generalises and first < VANISHING**2))

    @property
    def n_answers(self) -> int:
        """Classes, or outputs."""
        if isinstance(self.classes, np.ndarray):
            return len(self.classes)
        return int(self.flow.layer_sizes[-1])

    @property
    def least_width(self) -> int:
        """The width below which a hidden layer is a bottleneck."""
        return 3 if self.n_answers <= 2 else 2 + math.ceil(math.log2(self.n_answers))

    @property
    def n_weights(self) -> int:
        sizes = np.array(self.flow.layer_sizes, dtype=np.int64)
        return int((sizes[:-1] + 1) @ sizes[1:])

    @property
    def stopped_on_plateau(self) -> bool:
        """Whether patience ended training early, with much left to learn."""
        p = self.parameters
        early = self.n_epochs < p["max_iter"] / 2
        impatient = p["n_iter_no_change"] < 5
        # Losses that are flat near right answers say little of how many are right.
        nothing = self.reached > NOTHING_LEARNED and self.delta_tells
        return early and (impatient or nothing)

    def typical(self, records: NDArray) -> NDArray:
        """Geometric mean of the later records, per layer; NaN if there is none."""
        values = np.log(np.asarray(records[self.late], np.float64))
        return np.exp(values.mean(0))

    def share(self, records: NDArray) -> NDArray:
        """Mean of the later records, per layer, for shares."""
        return finite(records[self.late]).mean(0)

    @property
    def dead(self) -> tuple[NDArray, NDArray]:
        """Share of dead units per hidden layer, at first and later.

        In batches of a few rows a living unit may be zero in all of them by chance; so
        there the zeros are counted, of which living units make about half. What dropout
        takes is not counted.
        """
        flow, rates = self.flow, self.dropout or (0.0,) * self.flow.n_layers
        few = self.batch * (1 - np.array(rates[1:])) < 16
        at_first = (flow.stuck[0, :-1], flow.saturated[0, :-1])
        later = (self.share(flow.stuck)[:-1], self.share(flow.saturated)[:-1])
        first, last = (
            # Dead units are zero in every row, however few there are.
            np.where(few, np.clip(2 * zeros - 1, 0, stuck), stuck)
            for stuck, zeros in (at_first, later)
        )
        return first, last

    @property
    def step_ratio(self) -> NDArray:
        """Update over weights of one step, shape (n_records, n_layers); no NaN.

        0 where nothing moves, and infinite where that cannot be said.
        """
        return _share_of(self.flow.update, self.flow.weight)

    @property
    def moved(self) -> float:
        """Sum of update over weights over all steps, in the layer with the most."""
        epochs = np.arange(self.n_epochs)
        sums = [np.interp(epochs, self.flow.epoch, r).sum() for r in self.step_ratio.T]
        return float(np.nan_to_num(sums, nan=math.inf).max()) * self.steps_per_epoch

    @property
    def first_step(self) -> NDArray:
        """Update over weights in the first record, per layer.

        Large steps make weights grow within the record; so they are not taken for
        larger than Glorot and Bengio's initial weights, unless others were given.
        """
        weight = self.flow.weight[0].astype(np.float64)
        if not self.given_weights:
            sizes = np.array(self.flow.layer_sizes)
            weight = np.minimum(weight, np.sqrt(2 / (sizes[:-1] + sizes[1:])))
        return _share_of(self.flow.update[0], weight)

    @property
    def target_off(self) -> bool:
        """Whether linear outputs are asked to reach targets of another scale than 1."""
        if self.loss is None or not self.loss.unit_targets:
            return False
        s = self.summary
        return s.target_size > 10 or 0 < s.target_variance < 0.01

    @property
    def exponential(self) -> bool:
        """Whether the outputs grow exponentially with the inputs."""
        return self.loss is not None and self.loss.exponential

    @property
    def counts_large(self) -> bool:
        """Whether exponential outputs have targets so large that first steps overflow.

        A solver that chooses its steps finds shorter ones.
        """
        large = self.exponential and self.summary.target_size > COUNTS_LARGE
        return large and not self.chooses_its_steps

    @property
    def input_off(self) -> bool:
        s = self.summary
        return s.column_size > INPUT_LARGE or 0 < s.row_length < ROW_SHORT

    @property
    def input_overflows(self) -> bool:
        """Whether the inputs are so large that no learning rate or penalty would do."""
        limit = INPUT_HUGE if self.exponential else INPUT_OVERFLOWING
        return self.summary.column_size > limit

    @property
    def mean_weight(self) -> float:
        """Mean sample weight of a row."""
        return self.summary.mean_weight * self.summary.weight_unit

    @property
    def began_well(self) -> bool:
        """Whether training went on from weights that had learned something."""
        start = len(self.cost) > 0 and self.cost[0] < NOTHING_LEARNED
        return bool(self.given_weights and start)

    @property
    def penalty_limit(self) -> float:
        """The largest alpha that hardly holds the weights down."""
        return PENALTY * self.batch * self.mean_weight

    @property
    def overpenalized(self) -> bool:
        """Whether the penalty is so large that it may hold the weights down."""
        # A penalty moves all weights but those that are zero.
        if len(self.flow.epoch) and not self.flow.update[self.late].any():
            return False
        return self.parameters["alpha"] > self.penalty_limit

    @property
    def rate(self) -> float:
        return self.parameters["learning_rate_init"]

    @property
    def highest_rate(self) -> float:
        """The highest learning rate that is worth a try without further knowledge."""
        return self.solver.optimizer.highest_rate

    @property
    def chooses_its_steps(self) -> bool:
        """Whether the solver finds the length of its steps, and there is no rate."""
        return self.solver.chooses_its_steps

    @property
    def steps_usual(self) -> bool:
        """Whether no learning rate can have made the first step too large."""
        return self.chooses_its_steps or self.rate <= self.highest_rate

    @property
    def epsilon_counts(self) -> bool:
        """Whether a step is divided by the root of mean squares plus epsilon."""
        optimizer = self.solver.optimizer
        return optimizer is not None and optimizer.second_moment is not None

    @property
    def starved(self) -> NDArray:
        """The share of rows in which dropout leaves nothing, of the inputs and of every
        hidden layer."""
        rates = self.dropout or (0.0,) * self.flow.n_layers
        return np.power(rates, self.flow.layer_sizes[:-1])

    @property
    def drops_much(self) -> bool:
        """Whether a hidden layer loses most of its units in every row."""
        return max(self.dropout[1:], default=0.0) > MUCH_DROPOUT

    @property
    def scheduled(self) -> bool:
        """Whether the rate depends on how much of training is done."""
        return follows_training(self.parameters["learning_rate"])

    @property
    def stands_still(self) -> bool:
        """Whether a schedule of zeros has made every step one of length zero."""
        still = self.scheduled and self.summary.last_rate == 0
        return bool(still and not self.flow.update.any())

    @property
    def schedule_ended(self) -> bool:
        """Whether the rate was next to zero when max_iter ended training, as planned;
        of a few epochs nobody can say more than that there were few."""
        last = self.summary.last_rate
        if self.outcome != "max_iter" or last is None or len(self.cost) < 4:
            return False
        return self.scheduled and last < SCHEDULE_OVER * self.rate

    @property
    def late_half(self) -> tuple[float, float]:
        """The cost in the middle of the epochs and at the end."""
        return float(self.cost[len(self.cost) // 2 - 1]), float(self.cost[-1])

    @property
    def still_falls(self) -> bool:
        """Whether the cost fell clearly in the second half."""
        before, after = self.late_half
        return before - after > max(STILL_FALLS, STILL_FALLS_BY * before)

    @property
    def gradient_norms(self) -> NDArray:
        """The length of the gradient over all layers, per record."""
        sizes = np.array(self.flow.layer_sizes, dtype=np.float64)
        squares = np.square(self.flow.gradient, dtype=np.float64)
        return np.sqrt(squares @ (sizes[:-1] * sizes[1:]))

    @property
    def was_patient(self) -> bool:
        """Whether training ended by n_iter_no_change, if it ended by itself."""
        return not self.solver.watches_gradient or self.scores is not None

    @property
    def max_fun_ended(self) -> bool:
        """Whether it was max_fun, if training ended by one of its limits."""
        few = self.n_epochs < self.parameters["max_iter"]
        return self.chooses_its_steps and few

    @property
    def max_fun_is_next(self) -> bool:
        """Whether max_fun would end a fit whose max_iter is raised; an iteration takes
        two evaluations or so."""
        p = self.parameters
        return self.chooses_its_steps and p["max_fun"] < 10 * p["max_iter"]

    @property
    def tol_was_met(self) -> bool:
        """Whether it was tol that ended training, not too small a decrease of the cost,
        which ends it whatever tol is."""
        if len(self.cost) < 2 or self.scores is not None:
            return True
        before, after = self.curve[-2:]
        least = self.solver.least_decrease * max(abs(before), abs(after), 1)
        return before - after > least


def _solver_of(estimator: Any) -> Solver:
    """The row of the solver, which may have been changed since the fit."""
    name = estimator.solver
    if not isinstance(name, str) or name not in SOLVERS:
        raise ValueError(
            f"The 'solver' parameter of {type(estimator).__name__} must be one of "
            f"{', '.join(SOLVERS)}, got {name!r}. Set it to that of the last fit."
        )
    return SOLVERS[name]


def _dropout_of(estimator: Any, flow: GradientFlow) -> tuple[tuple[float, ...], bool]:
    """The rates of the inputs and the hidden layers, () if there are none, and whether
    one number says those of all layers. They may have been changed since the fit."""
    try:
        rates = dropout_rates(estimator, flow.n_layers - 1)
    except (TypeError, ValueError):
        raise ValueError(
            f"The 'dropout' parameter of {type(estimator).__name__} does not fit the "
            f"{flow.n_layers - 1} hidden layers of the last fit, got "
            f"{estimator.dropout!r}. Set it to that of the last fit."
        ) from None
    return rates, np.ndim(estimator.dropout) == 0


def _loss_of(estimator: Any) -> Loss | None:
    """The row of a regressor's loss; None for labels, whose scales never matter."""
    if not isinstance(estimator, RegressorMixin) or not isinstance(estimator.loss, str):
        return None
    return LOSSES.get((OUTPUT_OF.get(estimator.loss), estimator.loss))


def _share_of(a: NDArray, b: NDArray) -> NDArray:
    """a / b without NaN: 0 where a is 0, and infinite where it cannot be said."""
    share = np.where(a == 0, 0, ratio(np.asarray(a, np.float64), b))
    return np.nan_to_num(share, nan=math.inf, posinf=math.inf)


def finite(values: NDArray) -> NDArray:
    """float64, with 0 for NaN."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=math.inf)


def _records_of(
    estimator: Any,
) -> tuple[GradientFlow, Sequence[float], FitSummary, int]:
    """Flow, loss curve, summary and epochs of the last fit, a failed one first."""
    name = type(estimator).__name__
    fitted = getattr(estimator, "_fitted", None)
    failed = getattr(estimator, "_failed_flow", None)
    if failed is not None:
        if failed.summary is None:
            raise ValueError(
                f"The records of the last fit of this {name}, which diverged, have no "
                "summary of its data. Fit it again, with monitor=True."
            )
        return failed, failed.loss_curve, failed.summary, _epochs_of(failed, estimator)
    if not fitted.is_model:
        raise NotFittedError(
            f"This {name} is not fitted yet, so there is nothing to diagnose. Call "
            "fit(X, y) first, with monitor=True."
        )
    summary = getattr(estimator, "_fit_summary", None)
    curve = getattr(estimator, "loss_curve_", None) or []
    outcome = summary.outcome if summary is not None else ""
    # L-BFGS may end before its first iteration is finished, and anything may diverge.
    trained = curve or outcome in _ENDS or math.isfinite(estimator.loss_)
    if not trained:
        raise NotFittedError(
            f"This {name} has weights but finished no epoch: they were drawn by "
            "initialize, or training was interrupted in its first epoch. Call "
            "fit(X, y) first, with monitor=True."
        )
    flow = getattr(estimator, "gradient_flow_", None)
    if flow is None or summary is None:
        raise ValueError(
            f"This {name} has no gradient_flow_: it was fitted with monitor=False. Set "
            "monitor=True and fit it again."
        )
    if not isinstance(flow, GradientFlow):
        raise TypeError(f"gradient_flow_ must be a GradientFlow, got {type(flow)}.")
    coefs = estimator.coefs_
    sizes = (np.shape(coefs[0])[0], *(np.shape(W)[-1] for W in coefs))
    if tuple(flow.layer_sizes) != sizes:
        raise ValueError(
            f"gradient_flow_ is of a network whose layers have {flow.layer_sizes} "
            f"units, but those of this {name} have {sizes}. Fit it again, with "
            "monitor=True."
        )
    n_iter = estimator.n_iter_
    at_once = outcome == "diverged" or (outcome in _ENDS and n_iter == 0)
    if len(flow.epoch) == 0 and not at_once:
        raise ValueError(
            "gradient_flow_ has no records: training ended before its first epoch did. "
            "Fit again, for at least one epoch."
        )
    return flow, curve, summary, n_iter


def _epochs_of(failed: FailedFlow, estimator: Any) -> int:
    """Epochs that a fit had finished when it diverged."""
    if failed.n_iter is not None:
        return failed.n_iter
    curve = failed.loss_curve
    former = tuple(getattr(estimator, "loss_curve_", None) or ())
    if estimator.warm_start and former == tuple(curve[: len(former)]):
        return len(curve) - len(former)
    return len(curve)


def _went_on(estimator: Any, fit: Fit, n_iter: int) -> bool:
    """Whether warm_start made a fit go on from weights that were there before.

    Not every fit with warm_start does: the first has none to go on from.
    """
    if not fit.parameters["warm_start"]:
        return False
    if fit.summary.given_weights is not None:
        return fit.summary.given_weights
    # A fit that failed has left the former model in its place.
    failed = isinstance(fit.flow, FailedFlow)
    former = failed and estimator._fitted.has_weights
    return former or len(fit.curve) > n_iter
