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

from cbp._catalog import ACTIVATIONS, LOSSES, Columns

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
# Of inputs larger than that products or their squares overflow, whatever a step does.
# Poisson's exponential outputs overflow from INPUT_HUGE on.
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
# the targets are noise alone. Bad: 0.01 and less, but for penalties.
CONSTANT = 0.01
# alpha per row of a batch. On four data sets 0.05 cost little, 0.15 up to half of what
# there was to learn, and 1.5 left a constant answer.
PENALTY = 0.05
# Mean sample weight. Weights that balance classes, or that mark doubtful rows, have a
# mean near 1; those that sum to 1 have 1/n.
WEIGHT_SMALL = 0.1
# Root mean square of the targets of a Poisson loss, whose first gradients are as large.
# SGD with a rate of 0.01 trains 10 and diverges at 100, with 0.001 at 1000.
COUNTS_LARGE = 30.0
# Hidden layers. Up to eight relu trains as well as tanh; with 14 SGD trains tanh but
# not relu, with 30 neither; Adam and L-BFGS come to that some layers later.
DEEP_FOR_RELU, DEEP_FOR_ALL = 8, 20

SCALE_INPUT = "make_pipeline(StandardScaler(), model)"
SCALE_SPARSE_INPUT = "make_pipeline(MaxAbsScaler(), model)"
SCALE_TARGET = "TransformedTargetRegressor(model, transformer=StandardScaler())"
# Targets of a Poisson loss must stay >= 0.
SCALE_COUNTS = "TransformedTargetRegressor(model, transformer=MaxAbsScaler())"
# The least relative decrease of max(cost, 1) that SciPy's L-BFGS-B goes on for.
LBFGS_FTOL = 2.3e-9

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
        The cost of every finished epoch since the weights were drawn.
    summary : FitSummary
    n_iter : int, default=None
        Epochs or iterations that the call finished. None means all of `loss_curve`,
        less what it has in common with that of a model to go on from.
    """

    loss_curve: tuple[float, ...] = ()
    summary: FitSummary | None = None
    n_iter: int | None = None

    @classmethod
    def unrecorded(
        cls, layer_sizes: tuple[int, ...], activations: tuple[str, ...]
    ) -> FailedFlow:
        """What there is of a fit with ``monitor=False``: nothing but its network."""
        nothing = np.zeros((0, len(layer_sizes) - 1), np.float32)
        return cls(
            epoch=np.zeros(0, np.int64),
            **dict.fromkeys(_RECORDS, nothing),
            layer_sizes=layer_sizes,
            activations=activations,
        )


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
    outcome : {'', 'converged', 'max_iter', 'stuck', 'diverged', 'interrupted', \
            'partial'}
        How training ended: its patience or tolerance, max_iter (or max_fun), a line
        search of L-BFGS that found no lower cost, non-finite numbers, an interrupt ('',
        too); 'partial' is one call of `partial_fit`.
    output_variance : float or None
        Variance of the outputs at the end, in the sampled rows, the mean over outputs.
        None if the cost shows well enough that they are not constant.
    weight_unit : float
        The power of two in which sample weights are counted, here and in the records;
        1 unless they are very large or very small.
    given_weights : bool or None
        Whether training went on from weights that were there before. None if that was
        not noted; then it is guessed.
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
    given_weights: bool | None = None

    @classmethod
    def of_data(
        cls,
        network: Network,
        X: Any,
        target: NDArray,
        sample_weight: NDArray | None = None,
        rows: NDArray | None = None,
        given_weights: bool | None = None,
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
        given_weights : bool, default=None
            Whether training goes on from weights that were there before.

        Returns
        -------
        FitSummary
        """
        n_rows = X.shape[0] if rows is None else len(rows)
        with np.errstate(all="ignore"):  # numbers near the largest float are no error
            some, weight, mean_weight = _weighed(n_rows, sample_weight, rows)
            return cls(
                n_rows=n_rows,
                mean_weight=mean_weight,
                is_sparse=sparse.issparse(X),
                given_weights=given_weights,
                **_summarize_inputs(X, rows),
                **_summarize_targets(network, target[some], weight),
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


def _weighed(
    n_rows: int, sample_weight: NDArray | None, rows: NDArray | None
) -> tuple[slice | NDArray, NDArray, float]:
    """Rows whose targets are looked at, their weights (1 the largest), the mean weight.

    Rows without weight are passed over if no other was met.
    """
    some = _spread(n_rows, _SAMPLE_TARGETS)
    chosen = some if rows is None else rows[some]
    if sample_weight is None:
        return chosen, np.ones(len(range(*some.indices(n_rows)))), 1.0
    weight = sample_weight[chosen].astype(np.float64)
    mean = weight.mean()
    if not weight.any():
        weight = (sample_weight if rows is None else sample_weight[rows]).astype(float)
        mean = weight.mean()
        heavy = np.flatnonzero(weight)
        if len(heavy) == 0:  # nothing was trained
            return chosen, np.ones(len(sample_weight[chosen])), 0.0
        heavy = heavy[_spread(len(heavy), _SAMPLE_TARGETS)]
        chosen, weight = heavy if rows is None else rows[heavy], weight[heavy]
    return chosen, weight / weight.max(), float(mean)


def _summarize_inputs(X: Any, rows: NDArray | None) -> dict[str, Any]:
    n_rows = X.shape[0] if rows is None else len(rows)
    some = _spread(n_rows, _SAMPLE_ROWS)
    X = X[some] if rows is None else X[rows[some]]
    values = (X.data if sparse.issparse(X) else X).astype(np.float64)
    # Squares of the largest numbers would overflow.
    unit = max(float(np.abs(values).max(initial=0)) / 1e100, 1.0)
    values /= unit
    if sparse.issparse(X):
        sums = np.bincount(X.indices, values, X.shape[1])
        squares = np.bincount(X.indices, np.square(values), X.shape[1])
    else:
        sums, squares = values.sum(0), np.einsum("ij,ij->j", values, values)
    mean, mean_square = sums / X.shape[0], squares / X.shape[0]
    column = int(mean_square.argmax())
    # Rounding can make the least variances negative.
    variance = np.maximum(mean_square - mean * mean, 0).sum()
    return {
        "column": column,
        "column_size": float(np.sqrt(mean_square[column]) * unit),
        "column_mean": float(mean[column] * unit),
        "row_length": float(np.sqrt(variance) * unit),
    }


def _summarize_targets(
    network: Network, target: NDArray, weight: NDArray
) -> dict[str, float]:
    """Scales of the targets, and the costs of two answers that need no network."""
    loss = LOSSES[network.output, network.loss]
    if target.ndim == 1:  # class numbers
        n_classes = max(network.layer_sizes[-1], 2)
        p = np.bincount(target, weight, n_classes)
        p /= p.sum()  # exactly 1 if there is one class
        scale = {
            "target_size": 1.0,
            "target_variance": float((p * (1 - p)).mean()),
        }
        constant, zero = loss.label_costs(p, network.layer_sizes[-1])
        return scale | {"constant_cost": float(constant), "zero_cost": float(zero)}
    y = target.astype(np.float64)
    w = weight[:, np.newaxis] / weight.sum()
    mean = (w * y).sum(0)
    variance = (w * (y - mean) ** 2).sum(0)
    size = (w * y * y).sum(0)
    variance[variance < 1e-24 * size] = 0  # constant but for rounding
    constant, zero = loss.column_costs(Columns(y, w, mean, variance))
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
        Python to paste: parameters and their values, as `set_params` takes them, or an
        expression in which `model` is the estimator, and `X`, `y` and `w` are the data
        of the fit and its sample weights.
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
    """A number as people write it: two digits, no zeros behind.

    What is infinite overflowed float32, in which records are kept.
    """
    if not math.isfinite(x):
        return "more than 1e+38" if x == math.inf else str(x)
    return f"{x:.2g}" if abs(x) < 1e5 else f"{x:.0e}"


def _small(x: float) -> str:
    """A small number: one digit and the power of ten."""
    return f"{x:.0e}" if 0 < x < 1e38 else _plain(x)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if abs(share) < 1e4 else f"{_plain(100 * share)} %"


# ---- the evidence, as numbers that the rules compare


class _Fit:
    """One fit: its records, its parameters, and the numbers that follow from them."""

    def __init__(self, estimator: Any):
        flow, self.curve, self.summary, n_iter = _records_of(estimator)
        self.parameters: dict[str, Any] = {
            name: getattr(estimator, name) for name in _PARAMETERS
        }
        self.flow: GradientFlow = flow
        failed = isinstance(flow, FailedFlow)
        self.outcome = self.summary.outcome or "interrupted"
        incremental = self.outcome == "partial"
        # partial_fit leaves the scores of an earlier fit, and counts one epoch; its
        # loss curve goes over all calls.
        scores = getattr(estimator, "validation_scores_", None)
        self.scores = None if failed or incremental else scores
        self.n_epochs = len(self.curve) if incremental else n_iter
        self.is_regressor = isinstance(estimator, RegressorMixin)
        self.given_weights = not incremental and _went_on(estimator, self, n_iter)
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
        loss = getattr(estimator, "loss_", None)
        self.reached = self._reached(math.inf if failed or loss is None else loss)

    @property
    def solver(self) -> str:
        return self.parameters["solver"]

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
            reached = loss / max(self.summary.constant_cost, _TINY)
            return reached if math.isfinite(reached) else math.inf
        if self.outcome == "diverged" or len(self.cost) == 0:
            return math.inf
        sizes = np.array(self.flow.layer_sizes)
        squares = np.square(self.flow.weight[-1], dtype=np.float64)
        penalty = self.parameters["alpha"] / 2 * (squares @ (sizes[:-1] * sizes[1:]))
        penalty /= self.batch * max(self.mean_weight, _TINY)
        reached = self.curve[-1] - penalty
        if reached < 0.5 * self.curve[-1]:
            # The difference may be rounding; so from the output errors, which for a
            # squared error tell the cost exactly.
            # Both in the unit of the weights.
            error = float(self.flow.delta[-1, -1]) / max(
                self.summary.mean_weight, _TINY
            )
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
        return _finite(records[self.late]).mean(0)

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
        """Whether a squared error is asked to reach targets of another scale than 1."""
        s = self.summary
        if self.parameters["loss"] != "squared_error" or not self.is_regressor:
            return False
        return s.target_size > 10 or 0 < s.target_variance < 0.01

    @property
    def counts_large(self) -> bool:
        """Whether the targets of a Poisson loss are so large that first steps overflow.

        L-BFGS finds the length of its steps by itself.
        """
        poisson = self.parameters["loss"] == "poisson" and self.solver != "lbfgs"
        return poisson and self.summary.target_size > COUNTS_LARGE

    @property
    def input_off(self) -> bool:
        s = self.summary
        return s.column_size > INPUT_LARGE or 0 < s.row_length < ROW_SHORT

    @property
    def input_overflows(self) -> bool:
        """Whether the inputs are so large that no learning rate or penalty would do."""
        poisson = self.parameters["loss"] == "poisson"
        limit = INPUT_HUGE if poisson else INPUT_OVERFLOWING
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
        return 0.01 if self.solver == "adam" else 0.3

    @property
    def tol_was_met(self) -> bool:
        """Whether it was tol that ended L-BFGS: SciPy also ends it if an iteration
        hardly lowers the cost, whatever tol is."""
        if len(self.cost) < 2 or self.scores is not None:
            return True
        before, after = self.curve[-2:]
        return before - after > LBFGS_FTOL * max(abs(before), abs(after), 1)


_TINY = float(np.finfo(np.float64).tiny)
_PARAMETERS = ("solver", "batch_size", "alpha", "loss", "warm_start", "epsilon")
_PARAMETERS += ("learning_rate_init", "tol", "n_iter_no_change", "max_iter", "max_fun")
_PARAMETERS += ("activation",)


def _share_of(a: NDArray, b: NDArray) -> NDArray:
    """a / b without NaN: 0 where a is 0, and infinite where it cannot be said."""
    ratio = np.where(a == 0, 0, _ratio(np.asarray(a, np.float64), b))
    return np.nan_to_num(ratio, nan=math.inf, posinf=math.inf)


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
        if failed.summary is None:
            raise ValueError(
                f"The records of the last fit of this {name}, which diverged, have no "
                "summary of its data. Fit it again, with monitor=True."
            )
        return failed, failed.loss_curve, failed.summary, _epochs_of(failed, estimator)
    coefs = getattr(estimator, "coefs_", None)
    if coefs is None:
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


# Outcomes of a training that ended by itself.
_ENDS = ("converged", "max_iter", "stuck", "diverged")


def _epochs_of(failed: FailedFlow, estimator: Any) -> int:
    """Epochs that a fit had finished when it diverged."""
    if failed.n_iter is not None:
        return failed.n_iter
    curve = failed.loss_curve
    former = tuple(getattr(estimator, "loss_curve_", None) or ())
    if estimator.warm_start and former == tuple(curve[: len(former)]):
        return len(curve) - len(former)
    return len(curve)


def _went_on(estimator: Any, fit: _Fit, n_iter: int) -> bool:
    """Whether warm_start made a fit go on from weights that were there before.

    Not every fit with warm_start does: the first has none to go on from.
    """
    if not fit.parameters["warm_start"]:
        return False
    if fit.summary.given_weights is not None:
        return fit.summary.given_weights
    # A fit that failed has left the former model in its place.
    failed = isinstance(fit.flow, FailedFlow)
    former = failed and getattr(estimator, "coefs_", None) is not None
    return former or len(fit.curve) > n_iter


# ---- advice: what would change the fit, given what it was and how it ended


def _scale_input(fit: _Fit) -> str:
    return SCALE_SPARSE_INPUT if fit.summary.is_sparse else SCALE_INPUT


def _calm(fit: _Fit) -> str:
    """Against steps that are too large: what makes them so, or the learning rate."""
    if fit.input_overflows:
        return _scale_input(fit)
    if fit.target_off:
        return SCALE_TARGET
    if fit.counts_large:
        return SCALE_COUNTS
    if fit.overpenalized:
        return _lower_alpha(fit)
    if fit.given_weights and fit.outcome == "diverged" and fit.n_epochs == 0:
        # With a usual rate it was the weights.
        if fit.solver == "lbfgs" or fit.rate <= fit.highest_rate:
            return "warm_start=False"
    if fit.solver != "lbfgs":
        return _lower_rate(fit)
    if len(fit.flow.epoch):
        least = max(fit.mean_weight, 10 * fit.parameters["alpha"])
        return f"alpha={_round(least)}"
    # The first weights already had an infinite cost, which no penalty makes finite.
    return _scale_input(fit) if fit.input_off else "solver='adam'"


def _against_vanishing(fit: _Fit, activation_share: float) -> str:
    if fit.given_weights and fit.flow.relative_error[0].min() < VANISHING:
        return "warm_start=False"
    if fit.target_off:
        return SCALE_TARGET
    if activation_share < 0.5 and fit.overpenalized:
        return _lower_alpha(fit)
    if set(fit.flow.activations) & {"logistic", "relu"}:
        return _other_activation(fit)
    return _fewer_layers(fit)


def _against_lost_units(fit: _Fit, start: bool) -> str:
    if fit.input_off:
        return _scale_input(fit)
    if fit.overpenalized:
        return _lower_alpha(fit)
    if start and fit.given_weights:
        return "warm_start=False"
    if not start and fit.target_off:
        return SCALE_TARGET
    if not start and fit.solver != "lbfgs":
        return _lower_rate(fit)
    return _other_activation(fit)


def _against_floor(fit: _Fit, epsilon: float, gradient: float) -> str:
    if epsilon > 1e-7:
        return "epsilon=1e-08"
    if fit.target_off:
        return SCALE_TARGET
    wanted = _round(min(gradient / 100, epsilon / 10))
    if wanted >= 1e-20:
        return f"epsilon={wanted}"
    # The squares of so small gradients have no place in float32.
    return _scale_input(fit) if fit.input_off else _other_activation(fit)


def _other_activation(fit: _Fit) -> str:
    """Another activation than the present one, or fewer layers if none would do."""
    depth = fit.flow.n_layers - 1
    if depth == 0:
        return _longer(fit)
    if depth <= DEEP_FOR_RELU and "relu" not in fit.flow.activations:
        return "activation='relu'"
    if depth <= DEEP_FOR_ALL and set(fit.flow.activations) != {"tanh"}:
        return "activation='tanh'"
    return _fewer_layers(fit)


def _fewer_layers(fit: _Fit) -> str:
    """The first three hidden layers; of so few, another activation."""
    flow = fit.flow
    if flow.n_layers - 1 <= 3:
        return _other_activation(fit)
    advice = f"hidden_layer_sizes={tuple(map(int, flow.layer_sizes[1:4]))}"
    if not isinstance(fit.parameters["activation"], str):  # one for every layer
        advice += f", activation={list(flow.activations[:3])}"
    # Weights to go on from are those of all the layers.
    return advice + (", warm_start=False" if fit.parameters["warm_start"] else "")


def _lower_alpha(fit: _Fit) -> str:
    """A penalty a thousand times smaller than the limit."""
    return f"alpha={_round(fit.penalty_limit / 1000)}"


def _lower_rate(fit: _Fit) -> str:
    """A learning rate at which a first step changes some 2 % of the weights; the
    default where no first step tells."""
    factor = 0.02 / fit.first_step.max() if len(fit.flow.epoch) else 0.0
    wanted = min(fit.rate * min(max(factor, 1e-4), 0.1), fit.highest_rate)
    if factor < 1e-4:
        wanted = min(wanted, 0.001)
    if wanted < 1e-30:  # then it is not the rate that makes steps large
        return "warm_start=False" if fit.given_weights else "solver='lbfgs'"
    return f"learning_rate_init={_round(wanted)}"


def _higher_rate(fit: _Fit) -> str:
    """A learning rate at which the weights could change three times over, or more
    steps if the rate is high enough."""
    if not fit.flow.update[fit.late].any():  # without a gradient no rate makes a step
        if fit.input_off:
            return _scale_input(fit)
        return "warm_start=False" if fit.given_weights else _other_activation(fit)
    if fit.rate > fit.highest_rate / 2:
        return _longer(fit)
    wanted = fit.rate * max(3 / max(fit.moved, 1e-12), 10)
    return f"learning_rate_init={_round(min(wanted, fit.highest_rate))}"


def _longer(fit: _Fit) -> str:
    """What ended training, put off."""
    p = fit.parameters
    if fit.outcome in ("partial", "interrupted"):
        return _call(fit)
    if fit.outcome == "max_iter":
        if fit.solver == "lbfgs" and fit.n_epochs < p["max_iter"]:
            return f"max_fun={max(5 * p['max_fun'], 15000)}"
        advice = f"max_iter={5 * p['max_iter']}"
        # An iteration takes two evaluations or so.
        short = fit.solver == "lbfgs" and p["max_fun"] < 10 * p["max_iter"]
        return advice + (f", max_fun={10 * p['max_iter'] + 15000}" if short else "")
    if fit.solver == "lbfgs" and fit.scores is None:
        return _smaller_tol(fit) if fit.tol_was_met else "solver='adam'"
    if p["n_iter_no_change"] == math.inf:  # changed since the fit
        return f"max_iter={5 * p['max_iter']}"
    return _with_more_epochs(fit, f"n_iter_no_change={10 * p['n_iter_no_change']}")


def _with_more_epochs(fit: _Fit, advice: str) -> str:
    """Advice against patience, which max_iter may have overtaken in the last epoch."""
    max_iter = fit.parameters["max_iter"]
    return advice + (f", max_iter={5 * max_iter}" if fit.n_epochs >= max_iter else "")


def _smaller_tol(fit: _Fit) -> str:
    """A tolerance at which training would not have ended where it did; a longer
    patience if nothing improved."""
    p = fit.parameters
    tol = min(1e-4 * fit.summary.constant_cost, p["tol"] / 100)
    if fit.solver == "lbfgs" and fit.scores is None:
        return f"tol={_round(tol)}"
    # The largest improvement during the patience has to count as one. With warm_start
    # patience may have begun in an earlier fit, whose epochs are over.
    values = -np.array(fit.scores) if fit.scores is not None else np.array(fit.curve)
    best = np.minimum.accumulate(values)
    n_epochs = int(min(p["n_iter_no_change"] + 1, fit.n_epochs))
    window = best[-n_epochs - 1 :]
    gain = float(-np.diff(window).min(initial=0.0))
    # The first score to beat is that of weights to go on from, which is not noted.
    unknown = fit.scores is not None and fit.given_weights
    if unknown or not gain > 0 or p["tol"] == 0:
        # With early stopping L-BFGS may have ended by either.
        either = f"tol={_round(tol)}, " if fit.solver == "lbfgs" else ""
        return either + _longer(fit)
    return _with_more_epochs(fit, f"tol={_round(min(tol, gain / 2))}")


def _call(fit: _Fit, weight: str | None = None) -> str:
    """The call that trained, once more."""
    if weight is None and fit.mean_weight != 1:
        weight = "w"
    call = "partial_fit" if fit.outcome == "partial" else "fit"
    more = "" if weight is None else f", sample_weight={weight}"
    return f"model.{call}(X, y{more})"


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
        _scale_input(fit),
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
    if fit.target_off or fit.counts_large:
        message += _target_sentence(fit)
    return Finding("divergence", None, message, {"epoch": epoch}, _calm(fit))


def _target_sentence(fit: _Fit) -> str:
    s = fit.summary
    if not math.isfinite(s.target_size + s.target_variance):
        return " The targets are so large that their squares overflow."
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
    by_activation, by_weights, share = _factors(fit, layer, size)
    names = "/".join(dict.fromkeys(flow.activations[layer - 1 :]))
    if size > 0 and 0 < by_activation * by_weights:
        message = (
            f"Of the output layer's error {_plain(size)} reaches layer {layer}: a "
            f"factor of {_plain(size ** (1 / steps))} per layer, in which the "
            f"derivative of {names} is {_plain(by_activation ** (1 / steps))} and the "
            f"weights are {_plain(by_weights ** (1 / steps))}; on a logarithmic scale "
            f"{_percent(share)} of it is the activation's."
        )
    elif size > 0:
        message = f"Of the output layer's error {_plain(size)} reaches layer {layer}."
    else:
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


def _factors(fit: _Fit, layer: int, size: float) -> tuple[float, float, float]:
    """What activations and weights make of the error on its way to a layer, and the
    activations' share of it on a logarithmic scale, where factors add up."""
    gains = fit.typical(fit.flow.gain_activation)[layer - 1 :]
    by_activation = float(np.prod(gains))
    if 0 < by_activation < math.inf and size > 0:
        share = min(max(math.log(by_activation) / math.log(size), 0.0), 1.0)
        return by_activation, size / by_activation, share
    # Something let nothing pass. What does so nearest to the output layer is the cause;
    # NaN is 0 / 0: what the weights passed on was 0 already.
    blocked = [gain for gain in gains[::-1] if not gain > 0]
    if blocked and blocked[0] == 0:
        return 0.0, 1.0, 1.0
    return 1.0, 0.0, 0.0


def _losing(flow: GradientFlow, lost_units: str) -> NDArray[np.bool_]:
    """Which hidden layers have units that can be lost in this way."""
    return np.array([ACTIVATIONS[f].lost_units == lost_units for f in flow.activations])


def _find_saturated_units(fit: _Fit) -> Finding | None:
    flow = fit.flow
    saturating = _losing(flow, "saturated")
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
    dying = _losing(flow, "dead")
    if not dying.any() or fit.learned:
        return None
    first, last = _dead(fit)
    first, last = np.where(dying, first, 0), np.where(dying, last, 0)
    if last.max() <= (DEAD if fit.reached > 0.5 else DEAD_BUT_LEARNING):
        return None
    layer = int(last.argmax()) + 1
    start = bool(first[layer - 1] > DEAD)
    width = flow.layer_sizes[layer]
    message = (
        f"{round(last[layer - 1] * width)} of the {width} "
        f"{flow.activations[layer - 1]} units of layer {layer} "
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
    # A large gradient tells that the floored weights are those of empty columns of X;
    # with none at all, no epsilon makes a step.
    if floored.max() <= FLOORED or not 0 < gradient <= 100 * epsilon:
        return None
    message = (
        f"In {_percent(floored[layer - 1])} of the weights of layer {layer} Adam's "
        f"steps are shortened by epsilon={epsilon:g}: the gradient, of size "
        f"{gradient:.0e}, lies below it."
    )
    advice = _against_floor(fit, epsilon, gradient)
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
    last = np.nan_to_num(fit.typical(fit.step_ratio), nan=math.inf, posinf=math.inf)
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
    if len(fit.cost) == 0:
        return None
    if fit.began_well:  # at an optimum steps are small
        return None
    cost, moved = fit.cost, fit.moved
    ratios = fit.typical(fit.step_ratio)
    # Weights may move much, and outputs yet be far from targets of a hundred.
    least = 0.5 if _late_fall(cost) > 0.01 else NOTHING_LEARNED
    far = fit.target_off and fit.summary.target_size > 10 and fit.reached > least
    if not (far or moved < MOVED) or cost[-1] > cost[0]:
        return None
    layer = int(_finite(ratios).argmax()) + 1
    n_steps = fit.n_epochs * fit.steps_per_epoch
    message = (
        f"A step changes the weights by {_small(ratios[layer - 1])} of their size at "
        f"most (layer {layer}). All steps together, {n_steps} in number, can have "
        f"changed them by {_plain(100 * moved)} %."
    )
    if fit.target_off:
        message += _target_sentence(fit)
        advice = SCALE_TARGET
    else:
        advice = _higher_rate(fit)
    evidence = {"update_ratio": [float(x) for x in ratios], "moved": moved}
    return Finding("update-too-small", layer, message, evidence, advice)


def _find_stopped_by_tol(fit: _Fit) -> Finding | None:
    if fit.outcome != "converged" or fit.learned or len(fit.cost) == 0:
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
    if fit.solver == "lbfgs":
        falling = False
        if not fit.tol_was_met and not fit.target_off:
            return None
    if not (tol > TOL_LARGE or (fit.reached > NOTHING_LEARNED and falling)):
        return None
    message = (
        f"Training stopped after {_count(fit.n_epochs, 'epoch')} at "
        f"{_plain(fit.reached)} times the cost of a constant answer. "
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
            f"The cost was still falling, by {_small(fall)} of it in the last "
            f"{_count(len(window) - 1, 'epoch')}, but the {judge} made less progress "
            f"than tol={p['tol']:g} demands."
        )
    by_score = fit.scores is not None and tol <= TOL_LARGE
    advice = _longer(fit) if by_score else _smaller_tol(fit)
    if fit.target_off:
        message += _target_sentence(fit)
        advice = SCALE_TARGET
    evidence = {"tol_over_cost": tol, "fall": fall, "epochs": fit.n_epochs}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def _find_stopped_before_first_step(fit: _Fit) -> Finding | None:
    """L-BFGS ends at once where the gradient is below tol: at an optimum, or because
    all gradients are small."""
    p, s = fit.parameters, fit.summary
    if fit.outcome != "converged" or fit.learned or p["tol"] == 0:
        return None
    tol = p["tol"] / s.constant_cost
    if not (
        tol > TOL_LARGE or (fit.reached > NOTHING_LEARNED and not fit.given_weights)
    ):
        return None
    message = f"{_no_step(fit)} The cost of a constant answer is {s.constant_cost:.2g}."
    advice = "tol=0.0"
    if fit.target_off:
        message += _target_sentence(fit)
        advice = SCALE_TARGET
    evidence = {"tol_over_cost": tol, "epochs": 0}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def _no_step(fit: _Fit) -> str:
    return (
        "Training ended before its first step: no entry of the gradient was above "
        f"tol={fit.parameters['tol']:g}."
    )


def _find_constant_prediction(fit: _Fit) -> Finding | None:
    s = fit.summary
    if s.output_variance is None or s.target_variance == 0 or s.constant_cost <= _TINY:
        return None
    if fit.outcome == "diverged":  # the weights are those of another epoch
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
    elif fit.summary.column_size > INPUT_HUGE:
        advice = _scale_input(fit)
    elif fit.overpenalized:
        message += f" alpha={fit.parameters['alpha']:g} holds the weights down."
        advice = _lower_alpha(fit)
    elif "logistic" in fit.flow.activations:
        advice = _other_activation(fit)
    elif fit.solver == "lbfgs":
        advice = "solver='adam'"
    else:
        advice = _higher_rate(fit)
    return Finding("constant-prediction", None, message, evidence, advice)


def _late_fall(cost: NDArray) -> float:
    """By what part of itself the cost fell in the last quarter of the epochs."""
    quarter = cost[-max(len(cost) // 4, 1) - 1 :]
    if len(quarter) < 2 or not 0 < quarter[0] < math.inf:
        return 0.0
    return float(1 - quarter[-1] / quarter[0])


def _remark_not_converged(fit: _Fit) -> Finding | None:
    if fit.outcome != "max_iter" or fit.summary.constant_cost <= _TINY:
        return None
    fall = _late_fall(fit.cost)
    advice = _longer(fit)
    name = advice.split("=")[0]  # max_iter or max_fun
    message = f"{name}={fit.parameters[name]} ended training"
    if fit.idle:
        message += " before its first step."
    else:
        message += (
            f"; in its last quarter the cost {'fell' if fall >= 0 else 'rose'} by "
            f"{_percent(abs(fall))}."
        )
    return Finding("not-converged", None, message, {"fall": fall}, advice, "remark")


def _remark_stuck(fit: _Fit) -> Finding | None:
    if fit.outcome != "stuck" or fit.learned:
        return None
    message = (
        f"L-BFGS ended after {_count(fit.n_epochs, 'iteration')}: it found no step "
        "that lowers the cost."
    )
    if fit.target_off:
        message += _target_sentence(fit)
    advice = SCALE_TARGET if fit.target_off else "solver='adam'"
    evidence = {"iterations": fit.n_epochs}
    return Finding("not-converged", None, message, evidence, advice, "remark")


def _remark_small_weights(fit: _Fit) -> Finding | None:
    """The penalty is divided by the sum of a batch's sample weights."""
    mean, alpha = fit.mean_weight, fit.parameters["alpha"]
    # With weights of mean 1 it would be a usual one: else alpha is the cause.
    usual = alpha <= PENALTY * fit.batch
    if not (0 < mean < WEIGHT_SMALL and fit.overpenalized and usual):
        return None
    with_weights = alpha / (fit.batch * mean)
    message = (
        f"The sample weights have a mean of {_plain(mean)}. The penalty is divided by "
        f"their sum over a batch. So alpha={alpha:g} acts as "
        f"alpha={_plain(alpha / mean)} would with weights of mean 1: "
        f"{_plain(with_weights)} per row of a batch."
    )
    evidence = {"mean_weight": mean, "alpha_at_mean_1": alpha / mean}
    advice = _call(fit, "w / w.mean()")
    return Finding("small-weights", None, message, evidence, advice, "remark")


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
    _remark_stuck,
    _remark_small_weights,
    _remark_overfitting,
)
# Of a fit that diverged before its first record.
_RULES_WITHOUT_RECORDS = (_find_unscaled_input, _find_divergence)
# Of one that made no step: how training ended is all there is to tell.
_RULES_WITHOUT_STEPS = (
    _find_stopped_before_first_step,
    _remark_not_converged,
    _remark_stuck,
    _remark_small_weights,
)


def diagnose(estimator: Any) -> Diagnosis:
    """Says why an estimator's last fit did not learn, or that it did.

    Parameters
    ----------
    estimator : BPClassifier or BPRegressor
        Fitted with ``monitor=True``; a fit that raised because it diverged counts.
        Of it are read its parameters, which should still be those of the fit, and

        - `_failed_flow`, a FailedFlow, if the last fit diverged; otherwise
        - `gradient_flow_`, a GradientFlow; `_fit_summary`, a FitSummary; `coefs_`,
          `loss_`, `loss_curve_`, `n_iter_`, and `validation_scores_` if there are any.

    Returns
    -------
    Diagnosis

    Raises
    ------
    NotFittedError
        If there was no training yet.
    ValueError
        If it was not monitored, or interrupted before the first record; if the records
        are of another network.
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
        rules = _RULES_WITHOUT_STEPS if fit.idle else _RULES_WITHOUT_RECORDS
        if len(fit.flow.epoch):
            rules = _RULES
        found = [finding for rule in rules if (finding := rule(fit)) is not None]
        return Diagnosis(_verdict(fit, found), tuple(found))


def _verdict(fit: _Fit, findings: list[Finding]) -> str:
    if fit.summary.constant_cost <= _TINY and fit.outcome != "diverged":
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
        if fit.idle:
            state = "It was not trained"
        others = "" if len(ill) == 1 else f" (and {len(ill) - 1} more)"
        return f"{state}: {ill[0].code}{others}. {ill[0].message} Try {ill[0].advice}."
    if fit.idle and findings:
        return f"It was not trained: {findings[0].message} Try {findings[0].advice}."
    if fit.idle:
        ended = "Training ended before its first step."
        if fit.outcome == "converged":
            ended = _no_step(fit)
        return f"{ended} The weights are what they were; they reach {reached}."
    if fit.reached > NOTHING_LEARNED:
        text = f"The gradients are in order, but it reaches only {reached}: "
        if fit.outcome == "max_iter" and _late_fall(fit.cost) > 0.01:
            return f"{text}it had too few epochs."
        if fit.outcome == "interrupted":
            return f"{text}training was interrupted."
        return f"{text}X may tell nothing about y."
    text = f"Healthy: it reaches {reached}"
    if fit.flow.n_layers > 1:
        error = fit.typical(fit.flow.relative_error)[0]
        # NaN where the outputs have no error left.
        if not math.isnan(error):
            text += (
                f", and {_plain(error)} times the output layer's error reaches layer 1"
            )
    return text + "."
