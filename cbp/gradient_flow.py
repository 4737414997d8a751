"""What the gradients recorded during a fit mean: why a network does or does not learn.

`GradientFlow` holds the records, `FitSummary` a few numbers about the data, and
`diagnose` reads both and the parameters of the estimator. Nothing is recorded here (see
_recorder.pyx), nothing drawn (see plotting.py) and no data is looked at again. Layers
are counted from 1 to L, the output layer, and the equations are those of
docs/backpropagation.md; docs/diagnosis.md explains every finding.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.exceptions import NotFittedError

if TYPE_CHECKING:
    import pandas as pd

    from cbp._network import Network

# Thresholds. None depends on a unit of the data: a layer is compared with the output
# layer, a step with its weights, a cost with that of the best constant answer. "Good"
# stands for some 900 healthy fits (noise from none to half of the labels), "bad" for
# 304 spoiled ones, on which they were chosen; tests/test_diagnosis.py judges them on
# other data sets and seeds.

# Root mean square of the largest column of X. With relu and SGD the median cost doubles
# between 10 and 30 and is infinite at 100; raw iris (6) and digits (12) train well.
INPUT_LARGE, INPUT_HUGE = 15.0, 100.0
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
# the targets are noise alone. Bad: 0.01 and less, but for penalties.
CONSTANT = 0.01
# alpha per row of a batch. On four data sets 0.05 cost little, 0.15 up to half of what
# there was to learn, and 1.5 left a constant answer.
PENALTY = 0.05
# Hidden layers. Up to eight relu trains as well as tanh; with 14 SGD trains tanh but
# not relu, with 30 neither; Adam and L-BFGS come to that some layers later.
DEEP_FOR_RELU, DEEP_FOR_ALL = 8, 20

SCALE_INPUT = "make_pipeline(StandardScaler(), model)"
SCALE_SPARSE_INPUT = "make_pipeline(MaxAbsScaler(), model)"
SCALE_TARGET = "TransformedTargetRegressor(model, transformer=StandardScaler())"

# Rows that are looked at: enough for a scale, few enough to cost nothing.
_SAMPLE_ROWS = 64
_SAMPLE_TARGETS = 4096

_RECORDS = ("gradient", "delta", "back", "weight", "update")
_RECORDS += ("saturated", "stuck", "floored", "nonfinite")


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """The records of one fit: what watched batches showed, averaged over an epoch.

    With the solver 'lbfgs' iterations 0, 1, 2, 4, 8 and then every eighth are recorded,
    over all rows. Root mean squares are taken over all entries of a matrix.

    Parameters
    ----------
    epoch : ndarray of shape (n_records,)
        The epochs, counted from 0; short epochs are recorded only now and then.
    gradient : ndarray of shape (n_records, n_layers)
        Root mean square of dW, the gradient of the mean cost without its penalty.
    delta : ndarray of shape (n_records, n_layers)
        Root mean square of delta, the error of one row times its sample weight.
    back : ndarray of shape (n_records, n_layers)
        Root mean square of delta^{l+1} W^{l+1}T, which is delta^l before the factor
        f'(z^l); 0 in the output layer.
    weight : ndarray of shape (n_records, n_layers)
        Root mean square of W.
    update : ndarray of shape (n_records, n_layers)
        Root mean square of the change of W in one step.
    saturated : ndarray of shape (n_records, n_layers)
        Share of units times rows with f' below 1 % of its maximum; for relu the share
        of zeros. 0 in the output layer.
    stuck : ndarray of shape (n_records, n_layers)
        Share of units that are so in every row of a batch; for relu dead units.
    floored : ndarray of shape (n_records, n_layers)
        Share of weights whose step Adam's epsilon shortens to less than half, because
        the root of its second moment is smaller than epsilon; 0 with other solvers.
    nonfinite : ndarray of shape (n_records, n_layers)
        Number of watched batches with a number that is not finite.
    layer_sizes : tuple of int
        Units of all layers, the inputs first.
    activations : tuple of str
        Activations of the hidden layers.
    """

    epoch: NDArray[np.int64]
    gradient: NDArray[np.float32]
    delta: NDArray[np.float32]
    back: NDArray[np.float32]
    weight: NDArray[np.float32]
    update: NDArray[np.float32]
    saturated: NDArray[np.float32]
    stuck: NDArray[np.float32]
    floored: NDArray[np.float32]
    nonfinite: NDArray[np.float32]
    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.epoch), self.n_layers)
        for name in _RECORDS:
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(
                    f"{name} has shape {np.shape(getattr(self, name))}, but there are "
                    f"{shape[0]} records of {shape[1]} layers. Use the records of one "
                    "fit as they are, all of them."
                )
        if len(self.activations) != self.n_layers - 1:
            raise ValueError(
                f"{len(self.activations)} activations for {self.n_layers - 1} hidden "
                "layers."
            )

    @property
    def n_layers(self) -> int:
        """Number L of layers with weights."""
        return len(self.layer_sizes) - 1

    @property
    def gain(self) -> NDArray:
        """delta^l / delta^{l+1}, shape (n_records, n_layers - 1)."""
        return _ratio(self.delta[:, :-1], self.delta[:, 1:])

    @property
    def gain_weights(self) -> NDArray:
        """The part of `gain` that is due to the weights W^{l+1}."""
        return _ratio(self.back[:, :-1], self.delta[:, 1:])

    @property
    def gain_activation(self) -> NDArray:
        """The part of `gain` that is due to the activation's derivative f'(z^l)."""
        return _ratio(self.delta[:, :-1], self.back[:, :-1])

    @property
    def relative_error(self) -> NDArray:
        """Length of delta^l over that of delta^L, shape (n_records, n_layers).

        The length of a row of delta is its root mean square times the root of the
        layer's width: so a wide layer, which shares the error among more units, is not
        taken for one that loses it.
        """
        length = self.delta * np.sqrt(self.layer_sizes[1:])
        return _ratio(length, length[:, -1:])

    @property
    def update_ratio(self) -> NDArray:
        """Update over weights of one step, shape (n_records, n_layers)."""
        return _ratio(self.update, self.weight)

    def to_frame(self) -> pd.DataFrame:
        """The records as a data frame with a row for each epoch and layer.

        Returns
        -------
        pandas.DataFrame
            Columns epoch, layer (from 1), and one per record.

        Raises
        ------
        ImportError
            Without pandas.
        """
        pd = _pandas()
        n_records = len(self.epoch)
        columns = {
            "epoch": np.repeat(self.epoch, self.n_layers),
            "layer": np.tile(np.arange(1, self.n_layers + 1), n_records),
        }
        columns |= {name: np.ravel(getattr(self, name)) for name in _RECORDS}
        return pd.DataFrame(columns)


@dataclass(frozen=True, eq=False)
class FailedFlow(GradientFlow):
    """The records of a fit that diverged, with what a fitted model has beside them.

    Parameters
    ----------
    loss_curve : tuple of float
        The cost of every finished epoch of the fit.
    summary : FitSummary
    """

    loss_curve: tuple[float, ...] = ()
    summary: FitSummary | None = None


def _ratio(a: NDArray, b: NDArray) -> NDArray:
    """a / b without warnings: infinite or NaN where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return a / b


# ---- what a fit notes about its data


@dataclass(frozen=True)
class FitSummary:
    """What `diagnose` must know of the data and of the end of a fit, in few numbers.

    `of_data` makes it before training, `at_end` completes it. Scales are those of a
    sample of rows, spread evenly: at most 64 of X, 4096 of the targets.

    Parameters
    ----------
    n_rows : int
        Rows that were trained on.
    mean_weight : float
        Mean sample weight of a row.
    is_sparse : bool
        Whether X is a sparse matrix.
    column : int
        The column of X with the largest root mean square.
    column_size, column_mean : float
        That root mean square, and the column's mean.
    row_length : float
        Root mean square length of a row of X after the columns' means are subtracted.
    target_size : float
        Root mean square of the targets; of several outputs the largest.
    target_variance : float
        Variance of the targets (of classes: as 0 and 1), the mean over outputs.
    constant_cost : float
        The least cost that a constant answer can have, without penalty.
    zero_cost : float
        The cost of a network whose weights are all zero.
    outcome : {'', 'converged', 'max_iter', 'diverged', 'interrupted', 'partial'}
        How training ended: its patience or tolerance, max_iter (or max_fun), non-finite
        numbers, an interrupt; 'partial' is one call of `partial_fit`.
    output_variance : float or None
        Variance of the outputs at the end, in the sampled rows, the mean over outputs.
        None if the cost shows well enough that they are not constant.
    weight_unit : float
        The power of two in which sample weights are counted, here and in the records;
        1 unless they are very large or very small.
    """

    n_rows: int
    mean_weight: float
    is_sparse: bool
    column: int
    column_size: float
    column_mean: float
    row_length: float
    target_size: float
    target_variance: float
    constant_cost: float
    zero_cost: float
    outcome: str = ""
    output_variance: float | None = None
    weight_unit: float = 1.0

    @classmethod
    def of_data(
        cls,
        network: Network,
        X: Any,
        target: NDArray,
        sample_weight: NDArray | None = None,
        rows: NDArray | None = None,
    ) -> FitSummary:
        """Looks at the data before training.

        Parameters
        ----------
        network : Network
        X : ndarray or CSR matrix of shape (n_samples, n_features)
        target : ndarray
            As `Trainer` takes it: class numbers or a matrix.
        sample_weight : ndarray of shape (n_samples,), default=None
        rows : int ndarray, default=None
            The rows to train on; None means all.

        Returns
        -------
        FitSummary
        """
        n_rows = X.shape[0] if rows is None else len(rows)
        some = _spread(n_rows, _SAMPLE_TARGETS)
        some = some if rows is None else rows[some]
        target = target[some]
        weight = np.ones(len(target)) if sample_weight is None else sample_weight[some]
        with np.errstate(all="ignore"):  # numbers near the largest float are no error
            return cls(
                n_rows=n_rows,
                mean_weight=float(weight.mean()),
                is_sparse=sparse.issparse(X),
                **_summarize_inputs(X, rows),
                **_summarize_targets(network, target, weight),
            )

    def at_end(
        self,
        outcome: str,
        loss: float = math.inf,
        outputs: Callable[[slice], NDArray] | None = None,
    ) -> FitSummary:
        """The summary of a fit that has ended.

        Parameters
        ----------
        outcome : str
        loss : float
            Cost of the last epoch.
        outputs : callable, default=None
            Maps a slice of the rows of X to the outputs of the trained network. Called
            only if the loss is so high that they may be constant; None if training
            diverged.

        Returns
        -------
        FitSummary
        """
        variance = None
        if outputs is not None and loss >= 0.5 * self.constant_cost:
            some = _spread(self.n_rows, _SAMPLE_ROWS)
            with np.errstate(all="ignore"):
                variance = float(outputs(some).var(0).mean())
        return replace(self, outcome=outcome, output_variance=variance)


def _spread(n: int, most: int) -> slice:
    """At most `most` of n places, evenly spread."""
    return slice(0, n, -(-n // most))


def _summarize_inputs(X: Any, rows: NDArray | None) -> dict[str, Any]:
    n_rows = X.shape[0] if rows is None else len(rows)
    some = _spread(n_rows, _SAMPLE_ROWS)
    X = X[some] if rows is None else X[rows[some]]
    if sparse.issparse(X):
        sums = np.bincount(X.indices, X.data, X.shape[1])
        squares = np.bincount(X.indices, np.square(X.data, dtype=float), X.shape[1])
    else:
        X = X.astype(np.float64)
        sums, squares = X.sum(0), np.einsum("ij,ij->j", X, X)
    mean, mean_square = sums / X.shape[0], squares / X.shape[0]
    column = int(mean_square.argmax())
    # Rounding can make the least variances negative.
    variance = np.maximum(mean_square - mean * mean, 0).sum()
    return {
        "column": column,
        "column_size": float(np.sqrt(mean_square[column])),
        "column_mean": float(mean[column]),
        "row_length": float(np.sqrt(variance)),
    }


def _summarize_targets(
    network: Network, target: NDArray, weight: NDArray
) -> dict[str, float]:
    """Scales of the targets, and the costs of two answers that need no network."""
    if target.ndim == 1:  # class numbers
        n_classes = max(network.layer_sizes[-1], 2)
        p = np.bincount(target, weight, n_classes) / weight.sum()
        scale = {
            "target_size": 1.0,
            "target_variance": float((p * (1 - p)).mean()),
        }
        if network.loss == "log_loss":
            constant = -np.sum(p[p > 0] * np.log(p[p > 0]))
            zero = math.log(n_classes)
        else:  # one output for two classes, else one per class
            n_outputs = network.layer_sizes[-1]
            constant = np.sum(p * (1 - p)) / (4 if n_outputs == 1 else 2)
            zero = n_outputs / 8
        return scale | {"constant_cost": float(constant), "zero_cost": float(zero)}
    y = target.astype(np.float64)
    w = weight[:, np.newaxis] / weight.sum()
    mean = (w * y).sum(0)
    variance = (w * (y - mean) ** 2).sum(0)
    size = (w * y * y).sum(0)
    variance[variance < 1e-24 * size] = 0  # constant but for rounding
    if network.loss == "log_loss":
        p = np.clip(mean, 1e-15, 1 - 1e-15)
        constant = -np.sum(p * np.log(p) + (1 - p) * np.log(1 - p))
        zero = len(mean) * math.log(2)
    elif network.loss == "poisson":
        y_log_y = (w * y * np.log(np.where(y > 0, y, 1))).sum(0)
        constant = np.sum(y_log_y - mean * np.log(np.where(mean > 0, mean, 1)))
        zero = np.sum(y_log_y - mean + 1)
    else:
        constant = variance.sum() / 2
        start = 0.5 if network.output == "logistic" else 0.0
        zero = (w * (y - start) ** 2).sum() / 2
    return {
        "target_size": float(np.sqrt(size.max())),
        "target_variance": float(variance.mean()),
        "constant_cost": float(constant),
        "zero_cost": float(zero),
    }


# ---- what is found


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a fit, or worth a remark.

    Parameters
    ----------
    code : str
        Its name, for example 'vanishing-gradient'; docs/diagnosis.md lists all.
    layer : int or None
        The layer it is worst in, 1 to L; None if it concerns the network as a whole.
    message : str
        The evidence in a sentence.
    evidence : dict of str to float, int, str or list
        The numbers behind it.
    advice : str
        Python to paste: a parameter and its value, or an expression in which `model` is
        the estimator.
    severity : {'illness', 'remark'}
        Whether it spoils the fit.
    """

    code: str
    layer: int | None
    message: str
    evidence: dict[str, Any] = field(hash=False)
    advice: str
    severity: str = "illness"


@dataclass(frozen=True)
class Diagnosis:
    """Why a network does not learn, or that it does.

    ``print(diagnosis)`` shows it in a terminal; notebooks show a table.

    Parameters
    ----------
    verdict : str
        The gist in a sentence.
    findings : tuple of Finding
        Illnesses first; the advice of the first finding is the one to try first.
    """

    verdict: str
    findings: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no finding is an illness."""
        return all(finding.severity != "illness" for finding in self.findings)

    def __str__(self) -> str:
        lines = textwrap.wrap(self.verdict, 79)
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}. {_headline(finding)}"]
            lines += [*_indented(finding.message), f"   try: {finding.advice}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(_headline(finding))}</td>"
            f"<td>{html.escape(finding.message)}</td>"
            f"<td><code>{html.escape(finding.advice)}</code></td></tr>"
            for finding in self.findings
        )
        text = f"<p><b>{html.escape(self.verdict)}</b></p>"
        if cells:
            head = "<tr><th>finding</th><th>evidence</th><th>try</th></tr>"
            text += f"<table>{head}{cells}</table>"
        return text

    def to_frame(self) -> pd.DataFrame:
        """The findings as a data frame, one row each.

        Returns
        -------
        pandas.DataFrame
            Columns code, severity, layer, message, advice and evidence (dicts).

        Raises
        ------
        ImportError
            Without pandas.
        """
        pd = _pandas()
        names = ["code", "severity", "layer", "message", "advice", "evidence"]
        rows = [[getattr(finding, name) for name in names] for finding in self.findings]
        frame = pd.DataFrame(rows, columns=names)
        return frame.astype({"layer": "Int64"})


def _pandas():
    """pandas, imported on first use."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_frame needs pandas. Install it with: pip install pandas"
        ) from error
    return pandas


def _headline(finding: Finding) -> str:
    text = finding.code
    if finding.layer is not None:
        text += f", layer {finding.layer}"
    return text + (" (remark)" if finding.severity == "remark" else "")


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, 79, initial_indent="   ", subsequent_indent="   ")


def _plain(x: float) -> str:
    """A number as people write it: two digits, no zeros behind."""
    if not math.isfinite(x):
        return "infinity" if x == math.inf else str(x)
    return f"{x:.2g}" if abs(x) < 1e5 else f"{x:.0e}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# ---- the evidence, as numbers that the rules compare


class _Fit:
    """One fit: its records, its parameters, and the numbers that follow from them."""

    def __init__(self, estimator: Any):
        flow, self.curve, self.summary, n_iter = _records_of(estimator)
        self.flow: GradientFlow = flow
        self.parameters: dict[str, Any] = {
            name: getattr(estimator, name) for name in _PARAMETERS
        }
        scores = getattr(estimator, "validation_scores_", None)
        self.scores = None if isinstance(flow, FailedFlow) else scores
        self.outcome = self.summary.outcome
        self.is_regressor = isinstance(estimator, RegressorMixin)
        # partial_fit counts one epoch; its loss curve goes over all calls.
        self.n_epochs = len(self.curve) if self.outcome == "partial" else n_iter
        self.late = slice(len(flow.epoch) // 2, None)
        rows = self.summary.n_rows
        size = self.parameters["batch_size"]
        self.batch = min(200, rows) if size == "auto" else min(size, rows)
        if self.solver == "lbfgs":
            self.batch = rows
        self.steps_per_epoch = -(-rows // self.batch)
        least = max(self.summary.constant_cost, _TINY)
        first = max(len(self.curve) - self.n_epochs, 0)
        # Costs of the epochs, 1 being the cost of a constant answer.
        self.cost = np.array(self.curve[first:], dtype=np.float64) / least
        self.reached = self._reached()

    @property
    def solver(self) -> str:
        return self.parameters["solver"]

    def _reached(self) -> float:
        """Cost at the end, without penalty, 1 being a constant answer's cost."""
        if self.outcome == "diverged" or len(self.cost) == 0:
            return math.inf
        sizes = np.array(self.flow.layer_sizes)
        squares = np.square(self.flow.weight[-1], dtype=np.float64)
        penalty = self.parameters["alpha"] / 2 * (squares @ (sizes[:-1] * sizes[1:]))
        penalty /= self.batch * self.summary.mean_weight
        reached = self.curve[-1] - penalty
        if reached < 0.5 * self.curve[-1]:
            # The difference may be rounding; so from the output errors, which for a
            # squared error tell the cost exactly.
            error = float(self.flow.delta[-1, -1]) / self.summary.mean_weight
            reached = error * error / max(self.summary.target_variance, _TINY)
            return reached if math.isfinite(reached) else math.inf
        reached /= max(self.summary.constant_cost, _TINY)
        return float(reached) if math.isfinite(reached) else math.inf

    @property
    def learned(self) -> bool:
        return self.summary.constant_cost <= _TINY or self.reached < LEARNED

    def typical(self, records: NDArray) -> NDArray:
        """Geometric mean of the later records, per layer; NaN if there is none."""
        values = np.log(np.asarray(records[self.late], np.float64))
        return np.exp(values.mean(0))

    def share(self, records: NDArray) -> NDArray:
        """Mean of the later records, per layer, for shares."""
        return np.asarray(records[self.late], np.float64).mean(0)

    @property
    def moved(self) -> float:
        """Sum of update over weights over all steps, in the layer with the most."""
        epochs = np.arange(self.n_epochs)
        ratio = self.flow.update_ratio.T
        sums = [np.interp(epochs, self.flow.epoch, r).sum() for r in ratio]
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
        ratio = self.flow.update[0] / weight
        return np.nan_to_num(ratio, nan=math.inf, posinf=math.inf)

    @property
    def target_off(self) -> bool:
        """Whether a squared error is asked to reach targets of another scale than 1."""
        s = self.summary
        if self.parameters["loss"] != "squared_error" or not self.is_regressor:
            return False
        return s.target_size > 10 or 0 < s.target_variance < 0.01

    @property
    def input_off(self) -> bool:
        s = self.summary
        return s.column_size > INPUT_LARGE or s.row_length < ROW_SHORT

    @property
    def given_weights(self) -> bool:
        """Whether training went on from weights that were there before."""
        return bool(self.parameters["warm_start"])

    @property
    def began_well(self) -> bool:
        """Whether training went on from weights that had learned something."""
        start = len(self.cost) > 0 and self.cost[0] < NOTHING_LEARNED
        return bool(self.given_weights and start)

    @property
    def overpenalized(self) -> bool:
        """Whether the penalty is so large that it may hold the weights down."""
        return (
            self.parameters["alpha"] > PENALTY * self.batch * self.summary.mean_weight
        )

    def lower_alpha(self) -> str:
        """A penalty a thousand times smaller than the limit."""
        limit = PENALTY * self.batch * self.summary.mean_weight
        return f"alpha={_round(limit / 1000)}"

    @property
    def highest_rate(self) -> float:
        """The highest learning rate that is worth a try without further knowledge."""
        return 0.01 if self.solver == "adam" else 0.3

    def lower_rate(self) -> str:
        """A learning rate at which a first step changes some 2 % of the weights; the
        default where no first step tells."""
        rate = self.parameters["learning_rate_init"]
        factor = 0.02 / self.first_step.max() if len(self.flow.epoch) else 0.0
        wanted = min(rate * min(max(factor, 1e-4), 0.1), self.highest_rate)
        if factor < 1e-4:
            wanted = min(wanted, 0.001)
        return f"learning_rate_init={_round(wanted)}"

    def higher_rate(self) -> str:
        """A learning rate at which the weights could change three times over."""
        rate = self.parameters["learning_rate_init"]
        highest = self.highest_rate
        wanted = rate * max(3 / max(self.moved, 1e-12), 10)
        if rate >= highest:  # then more steps
            return f"max_iter={5 * self.parameters['max_iter']}"
        return f"learning_rate_init={_round(min(wanted, highest))}"


_TINY = float(np.finfo(np.float64).tiny)
_PARAMETERS = ("solver", "batch_size", "alpha", "loss", "warm_start", "epsilon")
_PARAMETERS += ("learning_rate_init", "tol", "n_iter_no_change", "max_iter")


def _round(x: float) -> float:
    """x to one digit, so that it looks like what it is: a proposal."""
    return float(f"{x:.0e}")


def _records_of(
    estimator: Any,
) -> tuple[GradientFlow, Sequence[float], FitSummary, int]:
    """Flow, loss curve, summary and epochs of the last fit, a failed one first."""
    name = type(estimator).__name__
    if not hasattr(estimator, "hidden_layer_sizes"):
        raise TypeError(
            f"diagnose needs a BPClassifier or BPRegressor, got {name}. Of a pipeline "
            "pass the last step, model[-1]; of a search best_estimator_; of a "
            "TransformedTargetRegressor regressor_."
        )
    failed = getattr(estimator, "_failed_flow", None)
    if failed is not None:
        return failed, failed.loss_curve, failed.summary, len(failed.loss_curve)
    if not hasattr(estimator, "coefs_"):
        raise NotFittedError(
            f"This {name} is not fitted yet, so there is nothing to diagnose. Call "
            "fit(X, y) first, with monitor=True."
        )
    curve = getattr(estimator, "loss_curve_", None)
    if not curve:
        raise NotFittedError(
            f"This {name} has weights but finished no epoch: they were drawn by "
            "initialize, or training was interrupted in its first epoch. Call "
            "fit(X, y) first, with monitor=True."
        )
    flow = getattr(estimator, "gradient_flow_", None)
    summary = getattr(estimator, "_fit_summary", None)
    if flow is None or summary is None:
        raise ValueError(
            f"This {name} has no gradient_flow_: it was fitted with monitor=False. Set "
            "monitor=True and fit it again."
        )
    if not isinstance(flow, GradientFlow):
        raise TypeError(f"gradient_flow_ must be a GradientFlow, got {type(flow)}.")
    if len(flow.epoch) == 0:
        raise ValueError(
            "gradient_flow_ has no records: training ended before its first epoch did. "
            "Fit again, for at least one epoch."
        )
    return flow, curve, summary, estimator.n_iter_


# ---- the rules: each looks at a fit and returns its finding, or None


def _find_unscaled_input(fit: _Fit) -> Finding | None:
    s = fit.summary
    huge = s.column_size > INPUT_HUGE
    large = s.column_size > INPUT_LARGE and not fit.learned
    tiny = 0 < s.row_length < ROW_TINY
    short = 0 < s.row_length < ROW_SHORT and not fit.learned
    if not (huge or large or tiny or short):
        return None
    if huge or large:
        message = (
            f"Column {s.column} of X has a root mean square of {_plain(s.column_size)} "
            f"and a mean of {_plain(s.column_mean)}; weights and learning rates are "
            "made for numbers near 1."
        )
    else:
        standard = fit.flow.layer_sizes[0] ** 0.5
        message = (
            f"The rows of X differ from their mean by a length of only "
            f"{_plain(s.row_length)}, so that the biases drown them; standardised they "
            f"would differ by {_plain(standard)}."
        )
    return Finding(
        "unscaled-input",
        1,
        message,
        {
            "column": s.column,
            "column_size": s.column_size,
            "column_mean": s.column_mean,
            "row_length": s.row_length,
        },
        SCALE_SPARSE_INPUT if s.is_sparse else SCALE_INPUT,
    )


def _find_divergence(fit: _Fit) -> Finding | None:
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, _TINY), 1)
    endless = len(fit.cost) > 1 and fit.cost[-1] > max(1e6 * start, fit.cost[0])
    if fit.outcome == "diverged":
        epoch = fit.n_epochs + 1
        message = f"The weights or the cost became infinite or NaN in epoch {epoch}."
    elif endless and not fit.learned:
        epoch = fit.n_epochs
        message = (
            f"The cost rose to {_plain(fit.cost[-1])} times that of a constant answer."
        )
    else:
        return None
    if fit.target_off:
        message += _target_sentence(fit)
    return Finding("divergence", None, message, {"epoch": epoch}, _calm(fit))


def _calm(fit: _Fit) -> str:
    """Against steps that are too large: what makes them so, or the learning rate."""
    if fit.target_off:
        return SCALE_TARGET
    if fit.overpenalized:
        return fit.lower_alpha()
    return "alpha=1.0" if fit.solver == "lbfgs" else fit.lower_rate()


def _target_sentence(fit: _Fit) -> str:
    s = fit.summary
    return (
        f" The targets have a root mean square of {_plain(s.target_size)} and a "
        f"standard deviation of {_plain(s.target_variance**0.5)}, not near 1."
    )


def _find_exploding_from_start(fit: _Fit) -> Finding | None:
    errors = _finite(fit.flow.relative_error[0])
    # The first record may hold several steps: large ones explain an explosion, too.
    stepped = fit.first_step.max() > STEP_FIRST and not fit.given_weights
    if fit.learned or stepped or fit.began_well or not errors.max() > EXPLODING:
        return None
    advice = "warm_start=False" if fit.given_weights else _calm(fit)
    return _exploding(fit, errors, "from the first step on", advice)


def _find_exploding_later(fit: _Fit) -> Finding | None:
    errors = _finite(fit.typical(fit.flow.relative_error))
    if fit.learned or not errors.max() > EXPLODING_LATER:
        return None
    if _find_exploding_from_start(fit) is not None:
        return None
    return _exploding(fit, errors, "now that the weights have grown", _calm(fit))


def _exploding(fit: _Fit, errors: NDArray, when: str, advice: str) -> Finding:
    layer = int(errors.argmax()) + 1
    size = float(errors[layer - 1])
    per_layer = size ** (1 / max(fit.flow.n_layers - layer, 1))
    message = (
        f"The error that reaches layer {layer} is {_plain(size)} times that of the "
        f"output layer, {_plain(per_layer)} times more per layer, {when}."
    )
    evidence = {"relative_error": [float(e) for e in errors], "per_layer": per_layer}
    return Finding("exploding-gradient", layer, message, evidence, advice)


def _finite(values: NDArray) -> NDArray:
    """float64, with 0 for NaN."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=math.inf)


def _find_vanishing_gradient(fit: _Fit) -> Finding | None:
    flow = fit.flow
    if flow.n_layers == 1 or fit.learned:
        return None
    errors = fit.typical(flow.relative_error)
    if not errors.min() < VANISHING:  # nor if there is a NaN
        return None
    layer = int(errors.argmin()) + 1
    size = float(errors[layer - 1])
    steps = flow.n_layers - layer
    by_activation = float(np.prod(fit.typical(flow.gain_activation)[layer - 1 :]))
    by_weights = size / by_activation if by_activation > 0 else math.nan
    names = "/".join(dict.fromkeys(flow.activations[layer - 1 :]))
    if size > 0:
        # On a logarithmic scale, where factors add up.
        share = min(max(math.log(by_activation) / math.log(size), 0.0), 1.0)
        message = (
            f"Of the output layer's error {_plain(size)} reaches layer {layer}: a "
            f"factor of {_plain(size ** (1 / steps))} per layer, in which the "
            f"derivative of {names} is {_plain(by_activation ** (1 / steps))} and the "
            f"weights are {_plain(by_weights ** (1 / steps))}; on a logarithmic scale "
            f"{_percent(share)} of it is the activation's."
        )
    else:
        share = 1.0
        message = f"Nothing of the output layer's error reaches layer {layer}."
    evidence = {
        "relative_error": [float(e) for e in errors],
        "per_layer": size ** (1 / steps),
        "by_activation": by_activation,
        "by_weights": by_weights,
        "activation_share": share,
    }
    if fit.target_off:
        message += _target_sentence(fit)
    advice = _against_vanishing(fit, share)
    return Finding("vanishing-gradient", layer, message, evidence, advice)


def _against_vanishing(fit: _Fit, activation_share: float) -> str:
    if fit.given_weights and fit.flow.relative_error[0].min() < VANISHING:
        return "warm_start=False"
    if fit.target_off:
        return SCALE_TARGET
    if activation_share < 0.5 and fit.overpenalized:
        return fit.lower_alpha()
    if set(fit.flow.activations) & {"logistic", "relu"}:
        return _other_activation(fit)
    return _fewer_layers(fit)


def _other_activation(fit: _Fit) -> str:
    """Another activation than the present one, or fewer layers if none would do."""
    depth = fit.flow.n_layers - 1
    if depth > DEEP_FOR_ALL:
        return _fewer_layers(fit)
    if depth <= DEEP_FOR_RELU and "relu" not in fit.flow.activations:
        return "activation='relu'"
    return "activation='tanh'"


def _fewer_layers(fit: _Fit) -> str:
    return f"hidden_layer_sizes={tuple(fit.flow.layer_sizes[1:4])}"


def _find_saturated_units(fit: _Fit) -> Finding | None:
    flow = fit.flow
    saturating = np.array([name in ("logistic", "tanh") for name in flow.activations])
    if not saturating.any() or fit.learned:
        return None
    first = np.where(saturating, flow.saturated[0, :-1], 0)
    last = np.where(saturating, fit.share(flow.saturated)[:-1], 0)
    if last.max() <= SATURATED:
        return None
    layer = int(last.argmax()) + 1
    start = bool(first[layer - 1] > SATURATED)
    message = (
        f"{_percent(last[layer - 1])} of the {flow.activations[layer - 1]} outputs of "
        f"layer {layer} lie where the derivative is below 1 % of its maximum, "
        + ("from the first step on." if start else "driven there by training.")
    )
    evidence = {"saturated": [float(x) for x in last], "at_start": start}
    advice = _against_lost_units(fit, start)
    return Finding("saturated-units", layer, message, evidence, advice)


def _find_dead_units(fit: _Fit) -> Finding | None:
    flow = fit.flow
    relu = np.array([name == "relu" for name in flow.activations])
    if not relu.any() or fit.learned:
        return None
    first, last = _dead(fit)
    first, last = np.where(relu, first, 0), np.where(relu, last, 0)
    if last.max() <= (DEAD if fit.reached > 0.5 else DEAD_BUT_LEARNING):
        return None
    layer = int(last.argmax()) + 1
    start = bool(first[layer - 1] > DEAD)
    width = flow.layer_sizes[layer]
    message = (
        f"{round(last[layer - 1] * width)} of the {width} relu units of layer {layer} "
        "are zero in every row: they pass on nothing and learn nothing. "
        + ("They were so from the first step on." if start else "Training killed them.")
    )
    evidence = {"dead": [float(x) for x in last], "at_start": start}
    advice = _against_lost_units(fit, start)
    return Finding("dead-units", layer, message, evidence, advice)


def _dead(fit: _Fit) -> tuple[NDArray, NDArray]:
    """Share of dead units per hidden layer, at first and later.

    In batches of a few rows a living unit may be zero in all of them by chance; so
    there the zeros are counted, of which living units make about half.
    """
    if fit.batch >= 16:
        return fit.flow.stuck[0, :-1], fit.share(fit.flow.stuck)[:-1]
    first, last = fit.flow.saturated[0, :-1], fit.share(fit.flow.saturated)[:-1]
    return np.maximum(2 * first - 1, 0), np.maximum(2 * last - 1, 0)


def _against_lost_units(fit: _Fit, start: bool) -> str:
    if fit.input_off:
        return SCALE_SPARSE_INPUT if fit.summary.is_sparse else SCALE_INPUT
    if fit.overpenalized:
        return fit.lower_alpha()
    if start and fit.given_weights:
        return "warm_start=False"
    if not start and fit.target_off:
        return SCALE_TARGET
    if not start and fit.solver != "lbfgs":
        return fit.lower_rate()
    return _other_activation(fit)


def _find_epsilon_floor(fit: _Fit) -> Finding | None:
    flow = fit.flow
    if fit.solver != "adam" or fit.learned:
        return None
    floored = fit.share(flow.floored)
    # Weights of dead units have no gradient, whatever epsilon is.
    dead = np.append(fit.share(flow.stuck)[:-1], 0)
    below = np.append(0, dead[:-1])
    alive = (1 - dead) * (1 - below)
    floored = np.maximum(floored - (1 - alive), 0) / np.maximum(alive, 1e-3)
    layer = int(floored.argmax()) + 1
    gradient = float(fit.typical(flow.gradient)[layer - 1])
    epsilon = fit.parameters["epsilon"]
    # A large gradient tells that the floored weights are those of empty columns of X.
    if floored.max() <= FLOORED or gradient > 100 * epsilon:
        return None
    message = (
        f"In {_percent(floored[layer - 1])} of the weights of layer {layer} Adam's "
        f"steps are shortened by epsilon={epsilon:g}: the gradient, of size "
        f"{gradient:.0e}, lies below it."
    )
    if epsilon > 1e-7:
        advice = "epsilon=1e-08"
    elif fit.target_off:
        advice = SCALE_TARGET
    else:
        advice = f"epsilon={_round(max(gradient / 100, 1e-300))}"
    evidence = {"floored": [float(x) for x in floored], "gradient": gradient}
    return Finding("epsilon-floor", layer, message, evidence, advice)


def _find_learning_rate_too_high(fit: _Fit) -> Finding | None:
    cost = fit.cost
    if fit.solver == "lbfgs" or fit.learned or len(cost) < 4:
        return None
    change = np.diff(cost[len(cost) // 2 :])
    rises = change[change > 0]
    swing = float(np.median(rises)) if len(rises) else 0.0
    share = len(rises) / len(change)
    rise = float(cost[-1] - cost.min())
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, _TINY), 1)
    jumped = cost[-1] > 2 * start and cost[0] > 2 * start
    swings = share > RISES and swing > max(SWING, UNDONE * (1 - fit.reached))
    rose = rise > max(0.1, float(cost.min()))
    # What was far too large from the beginning was not made so by the learning rate.
    jumped = jumped and not (fit.input_off or fit.target_off or fit.given_weights)
    jumped = jumped and bool(fit.first_step.max() > STEP_LATER)
    if not (swings or rose or jumped):
        return None
    if rose:
        message = (
            f"The cost rose from {_plain(float(cost.min()))} to {_plain(cost[-1])} "
            "times that of a constant answer."
        )
    elif swings:
        message = (
            "The cost goes up and down: in the second half of training it rose in "
            f"{_percent(share)} of the epochs, typically by {_plain(swing)} times that "
            "of a constant answer."
        )
    else:
        message = (
            f"The first epochs threw the cost to {_plain(float(cost.max()))} times "
            f"that of a constant answer; it came back to {_plain(cost[-1])}."
        )
    if fit.target_off:
        message += _target_sentence(fit)
    advice = _calm(fit)
    evidence = {"typical_rise": swing, "share_of_rises": share, "end": rise}
    return Finding("learning-rate-too-high", None, message, evidence, advice)


def _find_update_too_large(fit: _Fit) -> Finding | None:
    if fit.solver == "lbfgs" or fit.learned:
        return None
    first = fit.first_step
    last = np.nan_to_num(fit.typical(fit.flow.update_ratio), nan=math.inf)
    if not (first.max() > STEP_FIRST or last.max() > STEP_LATER):
        return None
    start = bool(first.max() > STEP_FIRST)
    ratios = first if start else last
    layer = int(ratios.argmax()) + 1
    message = (
        f"A step changes the weights of layer {layer} by {_plain(ratios.max())} times "
        f"their size ({'at the start' if start else 'later on'})."
    )
    if fit.target_off:
        message += _target_sentence(fit)
    advice = _calm(fit)
    evidence = {"first": [float(x) for x in first], "later": [float(x) for x in last]}
    return Finding("update-too-large", layer, message, evidence, advice)


def _find_update_too_small(fit: _Fit) -> Finding | None:
    if fit.solver == "lbfgs" or fit.learned or fit.outcome == "diverged":
        return None
    if fit.began_well:  # at an optimum steps are small
        return None
    cost, moved = fit.cost, fit.moved
    ratios = fit.typical(fit.flow.update_ratio)
    # Weights may move much, and outputs yet be far from targets of a hundred.
    least = 0.5 if _late_fall(cost) > 0.01 else NOTHING_LEARNED
    far = fit.target_off and fit.summary.target_size > 10 and fit.reached > least
    if not (far or moved < MOVED) or cost[-1] > cost[0]:
        return None
    layer = int(_finite(ratios).argmax()) + 1
    message = (
        f"A step changes the weights by {ratios[layer - 1]:.0e} of their size at most "
        f"(layer {layer}); all {fit.n_epochs * fit.steps_per_epoch} steps together can "
        f"have changed them by {_plain(100 * moved)} %."
    )
    advice = fit.higher_rate()
    if fit.target_off:
        message += _target_sentence(fit)
        advice = SCALE_TARGET
    evidence = {"update_ratio": [float(x) for x in ratios], "moved": moved}
    return Finding("update-too-small", layer, message, evidence, advice)


def _find_stopped_by_tol(fit: _Fit) -> Finding | None:
    if fit.outcome != "converged" or fit.learned:
        return None
    p, s = fit.parameters, fit.summary
    # With early stopping tol is in units of a score, whose scale is 1.
    tol = p["tol"] / (s.constant_cost if fit.scores is None else 1)
    patience = p["n_iter_no_change"]
    window = fit.cost[-int(min(patience, len(fit.cost) - 1)) - 1 :]
    fall = float(window[0] - window[-1])
    # Steadily, and not slower than before: else it is an optimum that is near.
    falling = fall > 0.5 * float(np.abs(np.diff(window)).sum())
    falling = falling and fall > 0.1 * float(fit.cost[0] - fit.cost[-1])
    falling = falling and fit.solver != "lbfgs"
    if not (tol > TOL_LARGE or (fit.reached > NOTHING_LEARNED and falling)):
        return None
    message = (
        f"Training stopped after {fit.n_epochs} epochs at {_plain(fit.reached)} times "
        "the cost of a constant answer. "
    )
    if tol > TOL_LARGE:
        whole = (
            "a perfect score" if fit.scores else f"that cost of {s.constant_cost:.2g}"
        )
        message += (
            f"tol={p['tol']:g} is {_plain(tol)} times {whole}, so that hardly any "
            "progress counts as such."
        )
    else:
        judge = "cost" if fit.scores is None else "validation score"
        message += (
            f"The cost was still falling, by {fall:.0e} of it in the last "
            f"{len(window) - 1} epochs, but the {judge} made less progress than "
            f"tol={p['tol']:g} demands."
        )
    advice = f"tol={_round(min(1e-4 * s.constant_cost, p['tol'] / 100))}"
    if fit.scores is not None and tol <= TOL_LARGE:
        advice = f"n_iter_no_change={10 * int(min(patience, 1000))}"
    if fit.target_off:
        message += _target_sentence(fit)
        advice = SCALE_TARGET
    evidence = {"tol_over_cost": tol, "fall": fall, "epochs": fit.n_epochs}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def _find_constant_prediction(fit: _Fit) -> Finding | None:
    s = fit.summary
    if s.output_variance is None or s.target_variance == 0 or s.constant_cost <= _TINY:
        return None
    spread = s.output_variance / s.target_variance
    constant = spread < CONSTANT and fit.reached > NOTHING_LEARNED
    # A large penalty makes them all but constant, and the cost says no more.
    pressed = fit.overpenalized and spread < 10 * CONSTANT and fit.reached > 0.5
    if not (constant or pressed):
        return None
    message = (
        f"The predictions {'are' if spread < 1e-3 else 'are almost'} the same for all "
        f"rows: their variance is {spread:.0e} of that of the targets, and the cost is "
        f"{_plain(fit.reached)} times that of a constant answer."
    )
    evidence = {"spread": spread, "cost": fit.reached}
    if fit.target_off:
        advice = SCALE_TARGET
    elif fit.overpenalized:
        message += f" alpha={fit.parameters['alpha']:g} holds the weights down."
        advice = fit.lower_alpha()
    elif "logistic" in fit.flow.activations:
        advice = _other_activation(fit)
    elif fit.solver == "lbfgs":
        advice = "solver='adam'"
    else:
        advice = fit.higher_rate()
    return Finding("constant-prediction", None, message, evidence, advice)


def _late_fall(cost: NDArray) -> float:
    """By what part of itself the cost fell in the last quarter of the epochs."""
    quarter = cost[-max(len(cost) // 4, 1) - 1 :]
    return float(1 - quarter[-1] / quarter[0]) if quarter[0] > 0 else 0.0


def _remark_not_converged(fit: _Fit) -> Finding | None:
    if fit.outcome != "max_iter":
        return None
    fall = _late_fall(fit.cost)
    max_iter = fit.parameters["max_iter"]
    message = (
        f"max_iter={max_iter} ended training; in its last quarter the cost "
        f"{'fell' if fall >= 0 else 'rose'} by {_percent(abs(fall))}."
    )
    advice = f"max_iter={5 * max_iter}"
    return Finding("not-converged", None, message, {"fall": fall}, advice, "remark")


def _remark_overfitting(fit: _Fit) -> Finding | None:
    scores = np.array(fit.scores if fit.scores is not None else [], dtype=np.float64)
    scores = scores[-fit.n_epochs :]
    if len(scores) < 8 or fit.reached > 0.5 or not np.isfinite(scores).all():
        return None
    best, epoch = float(scores.max()), int(scores.argmax())
    end = float(scores[-max(len(scores) // 10, 3) :].mean())
    # What the score does from one epoch to the next is noise.
    noise = float(np.diff(scores[len(scores) // 2 :]).std())
    cost = fit.cost
    if not (best - end > max(0.02, 2 * noise) and cost[-1] < 0.9 * cost[epoch]):
        return None
    alpha = fit.parameters["alpha"]
    message = (
        f"The validation score was best in epoch {epoch + 1} ({best:.3f}) and fell to "
        f"{end:.3f}, while the training cost went on falling to "
        f"{_percent(cost[-1] / cost[epoch])} of what it was."
    )
    evidence = {"best": best, "best_epoch": epoch + 1, "end": end}
    advice = f"alpha={_round(max(100 * alpha, 0.01))}"
    return Finding("overfitting", None, message, evidence, advice, "remark")


# The order of the findings: causes before what follows from them, so that the first
# advice is the one to try first. What a fit began with comes before what it did.
_RULES = (
    _find_unscaled_input,
    _find_exploding_from_start,
    _find_divergence,
    _find_learning_rate_too_high,
    _find_update_too_large,
    _find_exploding_later,
    _find_dead_units,
    _find_saturated_units,
    _find_vanishing_gradient,
    _find_epsilon_floor,
    _find_update_too_small,
    _find_stopped_by_tol,
    _find_constant_prediction,
    _remark_not_converged,
    _remark_overfitting,
)
_RULES_WITHOUT_RECORDS = (_find_unscaled_input, _find_divergence)


def diagnose(estimator: Any) -> Diagnosis:
    """Says why an estimator's last fit did not learn, or that it did.

    Parameters
    ----------
    estimator : BPClassifier or BPRegressor
        Fitted with ``monitor=True``; a fit that raised because it diverged counts.
        Of it are read its parameters, which should still be those of the fit, and

        - `_failed_flow`, a FailedFlow, if the last fit diverged; otherwise
        - `gradient_flow_`, a GradientFlow; `_fit_summary`, a FitSummary;
          `loss_curve_`, `n_iter_`, and `validation_scores_` if there are any.

    Returns
    -------
    Diagnosis

    Raises
    ------
    NotFittedError
        If there was no training yet.
    ValueError
        If it was not monitored, or ended before the first record.
    TypeError
        If it is another kind of estimator.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from cbp import BPClassifier
    >>> from cbp.gradient_flow import diagnose
    >>> X, y = make_moons(200, noise=0.1, random_state=0)
    >>> model = BPClassifier((20, 20, 20, 20), "logistic", random_state=0).fit(X, y)
    >>> diagnose(model).findings[0].code
    'vanishing-gradient'
    >>> diagnose(model).findings[0].advice
    "activation='relu'"
    """
    with np.errstate(all="ignore"):
        fit = _Fit(estimator)
        # L-BFGS may diverge before its first record.
        rules = _RULES if len(fit.flow.epoch) else _RULES_WITHOUT_RECORDS
        found = [finding for rule in rules if (finding := rule(fit)) is not None]
    return Diagnosis(_verdict(fit, found), tuple(found))


def _verdict(fit: _Fit, findings: list[Finding]) -> str:
    if fit.summary.constant_cost <= _TINY:
        return (
            "There was nothing to learn: the targets of the last fit are all the same."
        )
    reached = f"{_plain(fit.reached)} times the cost of a constant answer"
    ill = [finding for finding in findings if finding.severity == "illness"]
    if ill:
        if fit.outcome == "diverged":
            state = "It diverges"
        elif fit.learned:
            state = "It learns, but might do so better"
        elif fit.reached > NOTHING_LEARNED:
            state = "It does not learn"
        else:
            state = "It does not learn well"
        others = "" if len(ill) == 1 else f" (and {len(ill) - 1} more)"
        return f"{state}: {ill[0].code}{others}. {ill[0].message} Try {ill[0].advice}."
    if fit.reached > NOTHING_LEARNED:
        text = f"The gradients are in order, but it reaches only {reached}: "
        if fit.outcome == "max_iter" and _late_fall(fit.cost) > 0.01:
            return f"{text}it had too few epochs."
        return f"{text}X may tell nothing about y."
    text = f"Healthy: it reaches {reached}"
    if fit.flow.n_layers > 1:
        error = fit.typical(fit.flow.relative_error)[0]
        text += f", and {_plain(error)} times the output layer's error reaches layer 1"
    return text + "."
