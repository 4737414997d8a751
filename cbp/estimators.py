"""BPClassifier and BPRegressor: scikit-learn's estimator rules round the network.

The only module that knows those rules: parameters, validation, labels, random draws,
early stopping, fitted attributes, warnings and errors. It is not where networks are
computed: products, gradients, optimizer steps and patience are compiled (_network.pyx,
explained in docs/backpropagation.md). Where the behaviour differs from scikit-learn's
MLPClassifier and MLPRegressor, docs/differences.md says how and why.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Number, Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    check_classification_targets,
    type_of_target,
    unique_labels,
)
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from threadpoolctl import ThreadpoolController

from cbp._batch import fit_bytes
from cbp._catalog import (
    ACTIVATIONS,
    ALIASES,
    LOSSES,
    OUTPUT_OF,
    is_regressors,
    output_of_labels,
)
from cbp._data import Data
from cbp._fit_summary import FitSummary
from cbp._fitted import (
    PICKLED_ONLY,
    Fitted,
    Weights,
    attribute,
    attribute_names,
    pack,
    pickled,
    restored,
    views,
    weight_list,
)
from cbp._network import Network
from cbp._prediction import predict
from cbp._progress import Optimizer, Progress, Settings
from cbp._targets import index_of, read_labels, read_numbers
from cbp._training import Trainer
from cbp.diagnosis import Diagnosis, diagnose
from cbp.gradient_flow import FailedFlow, GradientFlow

if TYPE_CHECKING:
    from typing import Self

    # Dense rows, a data frame, or a SciPy sparse matrix or array.
    Rows: TypeAlias = ArrayLike | sparse.spmatrix | sparse.sparray
    Floats: TypeAlias = NDArray[np.floating[Any]]

# The pickled form of a fitted estimator; to be raised whenever that form changes.
_FORMAT = 1

# The records of a fit, which `monitor` asks for.
_FLOW = ("gradient_flow_", "_fit_summary")

# Parameters that the trainer takes as floats.
_REAL_PARAMETERS = ("alpha", "learning_rate_init", "power_t", "momentum", "beta_1")
_REAL_PARAMETERS += ("beta_2", "epsilon", "tol")

# The largest sample weight lies between two to the minus this and two to this, or the
# weights are scaled.
_WEIGHT_EXPONENT = 32

# More threads than any machine has cores.
_MOST_THREADS = 2**14

# The most epochs or evaluations that are counted.
_ENDLESS = 2**31 - 1

_STOCHASTIC_SOLVERS = ("sgd", "adam")


@dataclass
class _Run:
    """One training run: theta is trained in place, records are filled at its end."""

    network: Network
    theta: Floats
    records: Progress
    trainer: Trainer | None
    target: NDArray | None = None
    summary: FitSummary | None = None
    # Looks at the data for a summary; None if the run is not monitored.
    look: Callable[[], FitSummary] | None = None
    # What in the data may have made training diverge, and cures.
    causes: Callable[[], tuple[str, list[str]]] | None = None

    @property
    def scored(self) -> bool:
        """Whether early stopping scores the weights."""
        return self.trainer is not None and self.trainer.best_theta is not None

    def chosen_theta(self) -> Floats:
        """The weights to keep: with early stopping those of the best score."""
        if self.scored and self.records.scored:
            return self.trainer.best_theta
        return self.theta


class DivergenceError(ValueError):
    """Training diverged; `flow` has the records of it, which `diagnose` explains."""

    def __init__(self, message: str, flow: FailedFlow):
        super().__init__(message)
        self.flow = flow


class _StopLBFGS(Exception):
    """Ends L-BFGS from within; works with every SciPy. Its argument is a status."""


class _OneBlasThread:
    """While anybody holds it, BLAS has one thread, in all of the process.

    On SciPy's short vectors BLAS threads cost time, and bits depend on them. Fits in
    several threads may hold it at once; the last to let go gives the libraries back
    what they had, but for those that somebody else has set meanwhile.
    """

    # Reentrant: the end of an object may come while its thread holds the lock.
    _lock = threading.RLock()
    _holders: set[int] = set()
    _before: list[int] = []

    @staticmethod
    @functools.cache
    def _libraries() -> list[Any]:
        """The BLAS libraries; looking for them takes 1 to 15 ms."""
        return ThreadpoolController().select(user_api="blas").lib_controllers

    def __enter__(self) -> None:
        cls, libraries = type(self), self._libraries()
        with cls._lock:
            if not cls._holders:
                cls._before = [library.num_threads for library in libraries]
            cls._holders.add(id(self))
            for library in libraries:
                library.set_num_threads(1)

    def __exit__(self, *exception: object) -> None:
        cls = type(self)
        with cls._lock:
            if cls._holders == {id(self)}:
                for library, n in zip(self._libraries(), cls._before, strict=True):
                    if library.num_threads == 1:
                        library.set_num_threads(n)
            cls._holders.discard(id(self))

    def __del__(self) -> None:
        # An interrupt may have come in the midst of either.
        if id(self) in self._holders:
            self.__exit__()

    @classmethod
    def _forget(cls) -> None:
        cls._lock, cls._holders = threading.RLock(), set()


# A fork copies the holders, but not the threads that they are of.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OneBlasThread._forget)


def _gib(n_bytes: int) -> str:
    """Bytes as text; numbers of hundreds of digits by their size."""
    if n_bytes.bit_length() < 1000:
        return f"{n_bytes / 2**30:,.1f} GiB"
    return f"some 10**{int((n_bytes.bit_length() - 30) * math.log10(2))} GiB"


def _physical_memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not tell."""
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return n_bytes if n_bytes > 0 else None


@contextmanager
def _named_overflow(name: str) -> Iterator[None]:
    """Whole numbers of Python may be too large for any float."""
    try:
        yield
    except OverflowError:
        raise ValueError(f"{name} holds a number too large for float64.") from None


def n_threads(n_jobs: int | None) -> int:
    """Threads for `n_jobs`, by joblib's rules, of the cores of this process.

    Where a cluster is joblib's backend, joblib counts all its workers; the threads of a
    fit run here. A number that is asked for by name is granted.
    """
    wanted = joblib.effective_n_jobs(n_jobs)
    if wanted == 1:  # joblib counts cores in 100 us
        return 1
    most = joblib.cpu_count() if n_jobs is None or n_jobs < 0 else n_jobs
    return min(wanted, most, _MOST_THREADS)


def _kernel_ready(X):
    """X as the kernels read it; the caller's own array or matrix is left alone.

    A plain array, C-contiguous and aligned, or CSR with sorted indices, none twice.
    """
    if not sparse.issparse(X):
        return np.require(X, requirements="CA")
    # A matrix of our own: what SciPy has noted of the order of indices may be untrue by
    # now, and data or indices may be strided.
    X = sparse.csr_matrix(_checked_csr(X), shape=X.shape)
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _checked_csr(X) -> tuple[Floats, NDArray, NDArray]:
    """Data, indices and row starts of X, contiguous.

    What would lead SciPy out of these arrays is refused; its constructors let it pass.
    Indices beyond the columns are found by the network.
    """
    given = {"data": X.data, "indices": X.indices, "indptr": X.indptr}
    for name, array in given.items():
        whole = name == "data" or array.dtype.kind in "iu"
        if array.ndim != 1 or not whole:
            raise ValueError(
                f"X is a malformed sparse matrix: its {name} must be one-dimensional"
                f"{'' if name == 'data' else ' and hold whole numbers'}, got shape "
                f"{array.shape} and dtype {array.dtype}."
            )
    data, indices, starts = map(np.ascontiguousarray, given.values())
    # One by one: differences of unsigned numbers are never negative.
    if (
        len(starts) != X.shape[0] + 1
        or starts[0] != 0
        or starts[-1] > min(len(indices), len(data))
        or (starts[1:] < starts[:-1]).any()
    ):
        raise ValueError("X is a malformed sparse matrix: its indptr is not in order.")
    return data[: starts[-1]], indices[: starts[-1]], starts


def _inside(p: Floats, dtype, log_p: Callable[[], Floats]) -> Floats:
    """Probabilities computed in `dtype`, put strictly between 0 and 1 in place.

    Those that are too small for the type get a number below its least normal one, in
    the order of their logarithms, so that both order classes alike.
    """
    limits = np.finfo(dtype)
    small = p < limits.tiny
    if small.any():
        logs = log_p()[small]
        ordered = limits.tiny * (np.log(limits.tiny) / logs)
        p[small] = np.maximum(ordered, limits.smallest_subnormal)
    return np.minimum(p, limits.dtype.type(1) - limits.epsneg, out=p)


def _probability(logits: Floats) -> Floats:
    """Logistic function of the logits, strictly between 0 and 1."""
    return _inside(expit(logits), logits.dtype, lambda: _log_probability(logits))


def _log_probability(logits: Floats) -> Floats:
    """Logarithm of the logistic function: finite for every finite logit."""
    return -np.logaddexp(logits.dtype.type(0), -logits)


def _log_shares(model: Fitted, logits: Floats) -> Floats:
    """Logarithms of probabilities that sum to 1, for more than two classes."""
    if model._network.output == "logistic":
        logits = _log_probability(logits)
    # Less the largest first: else the logarithm of a p near 1 would be rounded off.
    with np.errstate(over="ignore"):
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return np.maximum(log_p, np.finfo(log_p.dtype).min)


@functools.cache
def _defaults(estimator: type) -> dict[str, Any]:
    """The parameters of an estimator and their defaults."""
    given = inspect.signature(estimator.__init__).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


class _BaseBP(BaseEstimator):
    """What the classifier and the regressor share.

    All that a fit leaves behind is one object, `_fitted`. A call that trains works on a
    copy of the estimator, `_trial`, and hands over the copy's object at its end; a call
    that predicts takes the object once and looks at nothing else.
    """

    _parameter_constraints: dict = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({*ACTIVATIONS, *ALIASES}), "array-like"],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Interval(Integral, None, -1, closed="right"),
        ],
        "precision": [None, StrOptions({"float32", "float64"})],
        "monitor": ["boolean"],
    }

    # scikit-learn's HTML representation links here, and shows parameters' docs.
    _doc_link_module = "cbp"
    _doc_link_template = (
        "https://cbp-learn.readthedocs.io/en/stable/api/cbp.{estimator_name}.html"
    )

    # What there is before the first fit; shared by all, never changed.
    _fitted = Fitted()

    # Fitted attributes, described in the docstrings of the two classes.
    coefs_: list[Floats] = weight_list()
    intercepts_: list[Floats] = weight_list()
    loss_: float = attribute()
    best_loss_: float | None = attribute()
    loss_curve_: list[float] = attribute()
    validation_scores_: list[float] | None = attribute()
    best_validation_score_: float | None = attribute()
    n_iter_: int = attribute()
    t_: int = attribute()
    n_layers_: int = attribute()
    n_outputs_: int = attribute()
    out_activation_: str = attribute()
    n_features_in_: int = attribute()
    feature_names_in_: NDArray[np.object_] = attribute()
    gradient_flow_: GradientFlow = attribute()

    # Those that are not for users.
    _network: Network = attribute()
    _optimizer: Optimizer | None = attribute()
    _no_improvement_count: int = attribute()
    _partially_fitted: bool = attribute()
    _fit_summary: FitSummary = attribute()
    _failed_flow: FailedFlow = attribute()

    @property
    def _theta(self) -> Floats:
        return self._model().theta()

    # ------------------------------------------------------------- the fitted object

    def _own_fitted(self) -> Fitted:
        """The fitted object of this estimator, to be changed."""
        return self.__dict__.setdefault("_fitted", Fitted())

    def _model(self) -> Fitted:
        """The fitted object, which has weights."""
        fitted = self._fitted
        if not fitted.is_model:
            check_is_fitted(self._with(fitted))
        return fitted

    def _with(self, fitted: Fitted) -> Self:
        """An estimator with these parameters and another fitted object."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _fitted=fitted)
        return other

    @contextmanager
    def _trial(self) -> Iterator[Self]:
        """A copy of the estimator to train; its result is taken over at the end.

        If the block fails, nothing is. An interrupt is no failure once the weights that
        it reached have been set.
        """
        start = copy.copy(self._fitted)
        trial = self._with(start)
        try:
            yield trial
        except KeyboardInterrupt:
            if trial._fitted is not start and trial._fitted.is_model:
                self._fitted = trial._fitted
            raise
        except DivergenceError as error:
            self._failed_flow = error.flow
            raise
        self._checked_parameters = trial._checked_parameters
        self._fitted = trial._fitted

    def __copy__(self) -> Self:
        return self._with(copy.copy(self._fitted))

    def __deepcopy__(self, memo: dict) -> Self:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        # A copy first: another thread may add an attribute meanwhile.
        twin.__dict__.update(copy.deepcopy(dict(self.__dict__), memo))
        return twin

    # ---------------------------------------------------------------- parameters

    def _check_parameters(self) -> None:
        """Refuse parameters by name, as scikit-learn does; all but those unchanged.

        Looking at all of them takes 170 us, a third of a `partial_fit` on few rows.
        What a sequence holds is checked by every call, in the two methods below.
        """
        given = [getattr(self, name, None) for name in self._parameter_constraints]
        checked = self.__dict__.get("_checked_parameters", ())
        if len(checked) != len(given) or not all(map(operator.is_, given, checked)):
            self._validate_params()
            self._checked_parameters = given

    def _hidden_sizes(self) -> list[int]:
        """The widths of the hidden layers; an empty list if there are none."""
        given = self.hidden_layer_sizes
        sizes = [given] if isinstance(given, Integral) else list(given)
        if any(not isinstance(n, Integral) or isinstance(n, bool) for n in sizes):
            raise ValueError(
                f"hidden_layer_sizes must hold whole numbers > 0, got {given!r}."
            )
        if any(n <= 0 for n in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {given!r}.")
        return [int(n) for n in sizes]

    def _hidden_activations(self, n_hidden: int) -> list[str]:
        """One activation per hidden layer, under the names the network knows."""
        given = self.activation
        if isinstance(given, set | frozenset | dict):
            raise ValueError(
                "activation must be a name, or a sequence of names, one per hidden "
                f"layer; {given!r} has no order."
            )
        names = [given] * n_hidden if isinstance(given, str) else list(given)
        known = sorted([*ACTIVATIONS, *ALIASES])
        for i, name in enumerate(names):
            if not isinstance(name, str) or name not in known:
                raise ValueError(
                    f"activation[{i}] must be one of {', '.join(known)}, got {name!r}."
                )
        if len(names) != n_hidden:
            raise ValueError(
                f"activation names {len(names)} layers, but hidden_layer_sizes="
                f"{self.hidden_layer_sizes!r} has {n_hidden}. Give one name per hidden "
                "layer, or a single name for all of them."
            )
        return [ALIASES.get(name, str(name)) for name in names]

    def _check_validation_fraction(self) -> None:
        if self.validation_fraction == 0:
            raise ValueError(
                "validation_fraction must lie in (0, 1) with early_stopping=True, "
                f"got {self.validation_fraction!r}."
            )

    def _check_solver(self) -> bool:
        if self.solver not in _STOCHASTIC_SOLVERS:
            raise AttributeError(
                "partial_fit is only available for the stochastic solvers "
                f"{_STOCHASTIC_SOLVERS}; {self.solver!r} is not one of them."
            )
        return True

    # ---------------------------------------------------------------------- data

    def _allowed_dtypes(self, fresh: bool) -> list:
        """The float types X may keep; anything else becomes the first of them."""
        if self.precision is not None:
            return [np.dtype(str(self.precision))]
        if not fresh and self._fitted.is_model:
            return [self._network.dtype]
        return [np.float64, np.float32]

    def _check_sample_weight(self, sample_weight, X, incremental: bool):
        """sample_weight in units of a power of two, in X's dtype, or None; the unit.

        All weights zero are an error in fit; in partial_fit such a batch does nothing.
        The unit is 1 unless sums of weights, or of errors times weights, could leave
        the range of the dtype; with alpha in the same unit no other bit changes.
        """
        if sample_weight is None:
            return None, 1.0
        n_samples = X.shape[0]
        if isinstance(sample_weight, Number):
            sample_weight = np.full(n_samples, sample_weight)
        with _named_overflow("sample_weight"):
            weight = check_array(
                sample_weight,
                dtype=[np.float64, np.float32],
                order="C",
                ensure_2d=False,
                input_name="sample_weight",
            )
        if weight.shape != (n_samples,):
            raise ValueError(
                f"sample_weight must be one number or of shape ({n_samples},), one "
                f"weight per row of X; got shape {weight.shape}."
            )
        if weight.min() < 0:
            raise ValueError(
                f"sample_weight must not be negative, got {weight.min()} "
                f"in row {weight.argmin()}."
            )
        if not incremental and not weight.any():
            raise ValueError("sample_weight is zero in every row: nothing to learn.")
        exponent = math.frexp(weight.max())[1] - 1
        if abs(exponent) <= _WEIGHT_EXPONENT:
            exponent = 0
        if exponent:
            weight = np.ldexp(weight, -exponent)
        weight = weight.astype(X.dtype, copy=False)
        return _kernel_ready(weight), math.ldexp(1.0, exponent)

    @staticmethod
    def _is_ready(model: Fitted, X, dtype) -> bool:
        """Whether X, if its entries are finite, may skip `_check_rows`.

        validate_data takes longer than predicting a few rows.
        """
        return (
            type(X) is np.ndarray
            and X.dtype == dtype
            and X.ndim == 2
            and X.flags.c_contiguous
            and X.flags.aligned
            and X.shape[0] > 0
            and X.shape[1] == model.n_features_in_
            and model.get("feature_names_in_") is None
        )

    def _check_rows(self, model: Fitted, X, dtype):
        """X ready for the network, in `dtype`, and the float type X came in."""
        with _named_overflow("X"):
            X = validate_data(
                self._with(model),
                X,
                accept_sparse="csr",
                dtype=[np.float64, np.float32],
                order="C",
                reset=False,
            )
        given = X.dtype
        if given != dtype:  # again, for numbers too large for float32
            with np.errstate(over="ignore"):
                X = check_array(
                    X, accept_sparse="csr", dtype=dtype, order="C", input_name="X"
                )
        return _kernel_ready(X), given

    # ------------------------------------------------------------------- weights

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted.is_model

    def _draw_weights(self, network: Network, rng) -> Floats:
        """Uniform weights and biases within Glorot and Bengio's bound.

        The draws, their order and the bounds are scikit-learn's; float32 weights are
        float64 draws rounded.
        """
        theta = np.empty(network.n_params, network.dtype)
        matrices = views(network, theta)
        n_layers = len(matrices) // 2
        names = list(network.activations)
        # The output layer goes with the last hidden one, or the name it would have.
        given = self.activation if isinstance(self.activation, str) else "identity"
        names.append(names[-1] if names else given)
        pairs = zip(matrices[:n_layers], matrices[n_layers:], names, strict=True)
        for W, b, name in pairs:
            factor = ACTIVATIONS[ALIASES.get(name, name)].init_factor
            bound = np.sqrt(factor / sum(W.shape))
            W[...] = rng.uniform(-bound, bound, W.shape)
            b[...] = rng.uniform(-bound, bound, b.shape)
        return theta

    def _starting_theta(self, network: Network, fresh: bool, rng) -> Floats:
        """New weights, or a copy of the present ones for training to go on from."""
        if fresh:
            return self._draw_weights(network, rng)
        return pack(network, self.coefs_, self.intercepts_)

    def _check_same_layers(self, sizes: list[int]) -> None:
        """Refuse to go on training weights of another shape."""
        fitted = list(self._network.layer_sizes)
        if fitted != sizes:
            raise ValueError(
                "Training cannot go on with a network of another shape: the fitted "
                f"layers are {fitted}, but X, hidden_layer_sizes and y now ask for "
                f"{sizes}. Call fit with warm_start=False to begin anew."
            )

    def _check_memory(
        self, sizes: list[int], dtype, network=None, batch=0, is_sparse=False
    ) -> None:
        """MemoryError if training needs more than the machine has.

        Without a network only theta is counted: asking comes before making one.
        """
        available = _physical_memory()
        n_params = sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        n_bytes = n_params * np.dtype(dtype).itemsize
        if network is not None:
            # Beside theta: the former model until success, and the best weights.
            n_bytes *= 1 + self._fitted.is_model + bool(self.early_stopping)
            n_bytes += fit_bytes(network, batch, self.solver, is_sparse)
            if self.solver == "lbfgs":
                # SciPy keeps ten pairs of vectors, and a few more, in float64.
                n_bytes += 26 * 8 * n_params
        if available is not None and n_bytes > available:
            sizes_text = repr(self.hidden_layer_sizes)
            if len(sizes_text) > 60:
                sizes_text = f"{sizes_text[:30]}...{sizes_text[-5:]}"
            count = f"{n_params:,}" if n_params < 10**30 else "far too many"
            raise MemoryError(
                f"A network with hidden_layer_sizes={sizes_text} has "
                f"{count} parameters; training it with solver={str(self.solver)!r} "
                f"needs {_gib(n_bytes)}, but this machine has {_gib(available)}. "
                "Reduce hidden_layer_sizes."
            )

    # ------------------------------------------------------------------ training

    def fit(
        self, X: Rows, y: ArrayLike, sample_weight: ArrayLike | float | None = None
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Finite inputs; best scaled to about unit variance. Sparse matrices stay
            sparse (CSR; other formats are converted to it).

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            For the classifier labels, numbers or strings, or for multilabel targets a
            matrix of 0 and 1. For the regressor numbers; with ``loss='poisson'`` none
            below 0.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows; None weighs all alike. As in scikit-learn the
            penalty `alpha` is divided by the sum of a batch's weights: with weights of
            1/n it is n times as strong as without. Scale weights to a mean of 1 to
            leave it as it is.

        Returns
        -------
        self : estimator
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed, before any training; if training
            diverged and early stopping has no weights to go back to
            (`cbp.estimators.DivergenceError`).
        MemoryError
            If training needs more memory than the machine has, before any training.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` or `max_fun` ended training; if training diverged with early
            stopping.
        """
        with self._trial() as trial:
            trial._check_parameters()
            trial._fit(X, y, sample_weight, incremental=False)
        return self

    def _fit(self, X, y, sample_weight, *, incremental: bool) -> None:
        """Train from new weights or go on; fitted attributes are set at the end."""
        hidden = self._hidden_sizes()
        activations = self._hidden_activations(len(hidden))
        early_stopping = bool(self.early_stopping) and not incremental
        if early_stopping:
            self._check_validation_fraction()
        fresh = not (hasattr(self, "coefs_") and (self.warm_start or incremental))

        X, target, weight, unit, n_outputs = self._check_data(
            X, y, sample_weight, fresh=fresh, incremental=incremental
        )
        # Only partial_fit comes here with rows that weigh nothing: they change nothing.
        idle = weight is not None and not weight.any()
        if idle and not fresh:
            return

        sizes = [X.shape[1], *hidden, n_outputs]
        if self._fitted.is_model and not fresh:
            self._check_same_layers(sizes)
        network = self._make_network(sizes, activations, X)
        rng = check_random_state(self.random_state)
        # Draws come in scikit-learn's order: weights, validation split, shuffles.
        theta = self._starting_theta(network, fresh, rng)
        records = self._starting_records(fresh, incremental, X.dtype)
        rows, held_out = None, None
        if early_stopping:
            labels = target if target.ndim == 1 else None
            rows, held_out = self._split(X.shape[0], labels, rng)
            self._check_split_weight(weight, held_out)
        trainer = self._make_trainer(
            network, theta, X, target, weight, unit, rows, held_out, records, rng
        )
        if early_stopping and not fresh:
            # Weights to go on from are the best so far, whatever others scored.
            trainer.score_weights(theta, starting=True)
        run = _Run(network, theta, records, trainer, target)
        run.causes = functools.partial(self._causes, X, target, weight, unit)
        if self.monitor:

            def look() -> FitSummary:
                summary = FitSummary.of_data(network, X, target, weight, rows)
                went_on = bool(self.warm_start) and not fresh and not incremental
                return replace(summary, weight_unit=unit, given_weights=went_on)

            run.look = look
        try:
            if self.solver == "lbfgs":
                self._run_lbfgs(run)
            elif not idle:
                self._run_stochastic(run, incremental)
            if run.look and (trainer.recorder.n_records or not incremental):
                self._summarize_end(run, X, rows)
        except KeyboardInterrupt:
            if run.look:
                run.summary = run.look().at_end("interrupted")
            self._set_fitted(run, incremental)
            raise
        self._set_fitted(run, incremental)

    def _check_data(
        self, X, y, sample_weight, *, fresh: bool, incremental: bool, dtypes=None
    ):
        """X, targets, weights and their unit, and the number of outputs."""
        y = self._read_targets(y)
        with _named_overflow("X"):
            X, y = validate_data(
                self,
                X,
                y,
                accept_sparse="csr",
                multi_output=True,
                y_numeric=isinstance(self, RegressorMixin),
                dtype=dtypes or self._allowed_dtypes(fresh),
                order="C",
                reset=fresh,
            )
        X = _kernel_ready(X)
        weight, unit = self._check_sample_weight(sample_weight, X, incremental)
        target, n_outputs = self._encode(y, X.dtype, incremental)
        return X, target, weight, unit, n_outputs

    def _summarize_end(self, run: _Run, X, rows) -> None:
        def outputs(part: slice) -> Floats:
            some = _kernel_ready(X[part] if rows is None else X[rows[part]])
            return predict(run.network, run.chosen_theta(), some)

        run.summary = run.look().at_end(run.records.outcome, run.records.loss, outputs)

    def initialize(self, X: Rows, y: ArrayLike) -> Self:
        """Draw the weights that `fit` would start from, and do not train.

        The model can then predict, be shown by `cbp.backpropagate`, or be trained by
        `partial_fit`, or by `fit` with ``warm_start=True``.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs; only their number and type matter.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, as in `fit`; the classifier learns its classes from them.

        Returns
        -------
        self : estimator
            The estimator itself, with weights.

        Raises
        ------
        ValueError, MemoryError
            As `fit`.
        """
        with self._trial() as trial:
            trial._check_parameters()
            trial._initialize(X, y)
        return self

    def _initialize(self, X, y) -> None:
        self._fitted = Fitted()
        hidden = self._hidden_sizes()
        activations = self._hidden_activations(len(hidden))
        X, *_, n_outputs = self._check_data(X, y, None, fresh=True, incremental=False)
        sizes = [X.shape[1], *hidden, n_outputs]
        network = self._make_network(sizes, activations, X)
        theta = self._draw_weights(network, check_random_state(self.random_state))
        self._set_fitted(_Run(network, theta, Progress(), None), False)

    def diagnose(self) -> Diagnosis:
        """Say why the network learned, or why it did not.

        Reads what the last fit recorded (``monitor=True``), also if it diverged. What
        each finding means is explained in docs/diagnosis.md.

        Returns
        -------
        Diagnosis
            ``str(diagnosis)`` opens with the verdict; `findings` has the evidence and
            what to do.

        Raises
        ------
        NotFittedError
            If there was no fit yet.
        ValueError
            If the last fit recorded nothing.
        """
        return diagnose(self._with(self._fitted))

    def _inspected(self, X, y, sample_weight):
        """Network, theta and data of one batch, as `cbp.backpropagate` needs them."""
        model = self._model()
        network, theta = model._network, model.theta()
        X, target, weight, unit, n_outputs = self._with(copy.copy(model))._check_data(
            X,
            y,
            sample_weight,
            fresh=False,
            incremental=True,
            dtypes=[network.dtype],
        )
        if n_outputs != network.layer_sizes[-1]:
            raise ValueError(
                f"y asks for {n_outputs} outputs, but the network has "
                f"{network.layer_sizes[-1]}."
            )
        if unit != 1:
            with np.errstate(over="ignore"):
                weight = weight * weight.dtype.type(unit)
            if not np.isfinite(weight).all():
                raise ValueError(f"sample_weight is too large for {network.dtype}.")
        return network, theta, X, target, weight

    def _make_network(self, sizes, activations, X) -> Network:
        """The network to train, once it is known that memory suffices."""
        dtype = X.dtype
        self._check_memory(sizes, dtype)
        output = self._output_activation(sizes[-1])
        kind = (tuple(sizes), tuple(activations), output, str(self.loss), dtype)
        network = self._fitted.get("_network")
        if network is None or network.kind != kind:
            network = Network(*kind)
        batch = self._batch_size(X.shape[0])
        self._check_memory(sizes, dtype, network, batch, sparse.issparse(X))
        return network

    def _make_trainer(
        self,
        network,
        theta,
        X,
        target,
        weight,
        unit,
        rows,
        held_out,
        records: Progress,
        rng,
    ) -> Trainer:
        n_rows = X.shape[0] if rows is None else len(rows)
        batch_size = self._batch_size(n_rows)
        if self.solver != "lbfgs" and self.batch_size not in ("auto", batch_size):
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going "
                f"to be clipped: batch_size={self.batch_size}, but there are {n_rows} "
                "rows to train on.",
                stacklevel=2,
            )
        data = Data(network, X, target, weight)
        settings = Settings(
            n_threads=n_threads(self.n_jobs),
            batch_size=batch_size,
            exclusive=isinstance(self.random_state, Integral),
            monitor=bool(self.monitor),
            **self._trainer_options(unit),
        )
        return Trainer(
            network,
            theta,
            data,
            settings,
            records,
            rows=rows,
            held_out=None if held_out is None else (data, held_out),
            random_state=rng,
        )

    def _batch_size(self, n_rows: int) -> int:
        """Rows per step; L-BFGS takes all of them."""
        if self.solver == "lbfgs":
            return n_rows
        wanted = 200 if self.batch_size == "auto" else int(self.batch_size)
        return min(wanted, n_rows)

    def _trainer_options(self, unit: float) -> dict[str, Any]:
        """The solver's parameters, which the trainer takes under the same names."""
        patience = self.n_iter_no_change
        numbers = {name: self._number(name) for name in _REAL_PARAMETERS}
        # The penalty stands beside sums of weights.
        numbers["alpha"] /= unit
        return numbers | {
            "solver": str(self.solver),
            "shuffle": bool(self.shuffle),
            "learning_rate": str(self.learning_rate),
            "nesterovs_momentum": bool(self.nesterovs_momentum),
            # No run is so long; the loop counts in float64.
            "n_iter_no_change": patience if patience < 2**53 else math.inf,
        }

    def _number(self, name: str) -> float:
        """A parameter as a float; whole numbers may be too large for one."""
        try:
            return float(getattr(self, name))
        except OverflowError:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__} must be at most "
                f"{np.finfo(np.float64).max:.1e}, got a larger number."
            ) from None

    def _starting_records(self, fresh: bool, incremental: bool, dtype) -> Progress:
        """Empty records, or those of the fitted model for training to go on from."""
        if fresh:
            return Progress()
        fitted = self._fitted
        best_loss = fitted.get("best_loss_")
        optimizer = fitted.get("_optimizer") if incremental else None
        if optimizer is not None and (
            optimizer.solver != self.solver or self._network.dtype != dtype
        ):
            optimizer = None
        return Progress(
            t=fitted.get("t_", 0),
            best_loss=math.inf if best_loss is None else best_loss,
            loss_curve=list(fitted.get("loss_curve_", [])),
            validation_scores=list(fitted.get("validation_scores_") or []),
            no_improvement_count=fitted.get("_no_improvement_count", 0),
            optimizer=optimizer,
        )

    def _run_stochastic(self, run: _Run, incremental: bool) -> None:
        """Epochs of SGD or Adam; one for partial_fit."""
        trainer, records = run.trainer, run.records

        def after_epoch(progress: Progress) -> bool:
            print(f"Iteration {progress.n_iter}, loss = {progress.loss:.8f}")
            if run.scored:
                print(f"Validation score: {progress.validation_scores[-1]:f}")
            return False

        status = trainer.run(
            1 if incremental else min(int(self.max_iter), _ENDLESS),
            after_epoch if self.verbose else None,
        )
        records.outcome = "partial" if incremental else status
        if status == "diverged":
            self._diverged(run, f"epoch {records.n_iter + 1}")
        elif status == "converged":
            self._report_patience(run)
        elif status == "max_iter" and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached "
                "and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _run_lbfgs(self, run: _Run) -> None:
        """SciPy's L-BFGS-B on the network's loss and gradient over all rows."""
        from scipy.optimize import minimize

        records = run.records
        # The trainer writes every theta it is asked about into its own.
        run.theta = run.theta.copy()
        units, unit = self._output_units(run)
        loss = None  # at the last theta tried; an iteration ends by accepting that one
        first_loss, overflowed = math.inf, False

        def theta_of(x):
            return x if units is None else x * units

        def loss_gradient(x):
            nonlocal loss, first_loss, overflowed
            first, (loss, gradient) = (
                loss is None,
                run.trainer.loss_gradient(theta_of(x)),
            )
            finite = math.isfinite(loss) and np.isfinite(gradient).all()
            if first:
                first_loss = loss
                if not finite:
                    raise _StopLBFGS("diverged")
            overflowed |= not finite
            if units is None:
                return loss, gradient
            return loss / unit**2, gradient * (units / unit**2)

        def after_iteration(x):
            theta = theta_of(x)
            run.trainer.end_iteration(records.n_iter, theta, run.theta)
            np.copyto(run.theta, theta, casting="same_kind")
            if not (math.isfinite(loss) and np.isfinite(run.theta).all()):
                raise _StopLBFGS("diverged")
            worn_out = run.scored and run.trainer.score_weights(run.theta)
            records.n_iter += 1
            records.loss_curve.append(loss)
            if self.verbose:
                print(f"Iteration {records.n_iter}, loss = {loss:.8f}")
                if run.scored:
                    print(f"Validation score: {run.records.validation_scores[-1]:f}")
            if worn_out:
                raise _StopLBFGS("patience")

        status, start = "finished", run.theta.astype(np.float64)
        try:
            with run.trainer, _OneBlasThread():
                result = minimize(
                    loss_gradient,
                    start if units is None else start / units,
                    method="L-BFGS-B",
                    jac=True,
                    callback=after_iteration,
                    options={
                        "maxfun": min(int(self.max_fun), _ENDLESS),
                        "maxiter": min(int(self.max_iter), _ENDLESS),
                        "gtol": self._number("tol"),
                    },
                )
            np.copyto(run.theta, theta_of(result.x), casting="same_kind")
            records.loss = float(result.fun) * unit**2
            finite = math.isfinite(result.fun) and np.isfinite(run.theta).all()
            # Where every step overflows, SciPy says that it has converged.
            stuck = overflowed and records.loss >= first_loss
            if stuck or not finite:
                status = "diverged"
        except _StopLBFGS as stop:
            (status,) = stop.args
        finally:
            curve = records.loss_curve
            records.loss = curve[-1] if curve else records.loss
            records.best_loss = min(curve, default=records.loss)

        records.outcome = "converged"
        if status == "diverged":
            self._diverged(run, f"iteration {records.n_iter + 1}")
        elif status == "patience":
            self._report_patience(run)
        elif status == "finished":
            # 1: max_iter or max_fun; 2: no step lowered the loss.
            records.outcome = {1: "max_iter", 2: "stuck"}.get(
                result.status, "converged"
            )
            records.n_iter = _check_optimize_result("lbfgs", result, self.max_iter)

    def _output_units(self, run: _Run) -> tuple[Floats | None, float]:
        """Units of all parameters for L-BFGS, or None, and the unit of the outputs.

        The first step of L-BFGS has the length 1. Where the targets are so large that
        float arithmetic cannot feel such a step, the parameters of the output layer are
        counted in units of the targets' size, a power of two, and the loss in its
        square.
        """
        network, size = run.network, float(np.abs(run.target).max())
        if network.output != "identity" or size * np.finfo(network.dtype).eps < 1:
            return None, 1.0
        unit = math.ldexp(1.0, math.frexp(size)[1])
        units = np.ones(network.n_params)
        parts = views(network, units)
        parts[len(parts) // 2 - 1][...] = parts[-1][...] = unit
        return units, unit

    def _report_patience(self, run: _Run) -> None:
        """Print, if verbose, that training ended for want of progress."""
        if self.verbose:
            judged = "Validation score" if run.scored else "Training loss"
            print(
                f"{judged} did not improve more than tol={self.tol:f} for "
                f"{self.n_iter_no_change} consecutive epochs. Stopping."
            )

    def _causes(self, X, target, weight, unit: float) -> tuple[str, list[str]]:
        """What in the data may have made training diverge: a sentence, and cures."""
        entries = X.data if sparse.issparse(X) else X
        if not np.isfinite(entries).all():  # only where checks were turned off
            return " X holds NaN or infinity.", ["finite inputs"]
        said, cures = "", ["inputs scaled by StandardScaler"]
        squared = isinstance(self, RegressorMixin) and self.loss == "squared_error"
        largest = float(np.abs(target).max()) if target.dtype.kind == "f" else 0.0
        limits = np.finfo(X.dtype)
        if squared and largest > 2.0 ** (limits.maxexp // 2 - 12):
            said += (
                f" The targets reach {largest:.0e}; the squares of such errors, or "
                f"their sums, overflow {limits.dtype}."
            )
        if isinstance(self, RegressorMixin):
            cures.append(
                "targets scaled to unit variance"
                if squared
                else "targets divided by their mean"
            )
        if weight is not None:
            mean = float(weight.mean()) * unit
            if mean < 0.1 and self.alpha > 0:
                said += (
                    f" The mean sample_weight is {mean:.0e}; the penalty alpha is "
                    "divided by the sum of a batch's weights, and so is large."
                )
            cures.append("sample_weight with a mean of 1")
        return said, cures

    def _diverged(self, run: _Run, when: str) -> None:
        """Raise the error of a diverged fit; warn if early stopping has a fallback."""
        said, cures = run.causes()
        settings = f"solver={str(self.solver)!r}"
        if self.solver != "lbfgs":
            settings += f", learning_rate_init={self.learning_rate_init!r}"
            rate = self.learning_rate_init
            below = f"below {rate!r}" if rate <= 1 else "such as the default, 0.001"
            cures.insert(1, f"a learning_rate_init {below}")
            if rate * self.alpha > 1:  # the penalty alone overshoots from 2 on
                cures.insert(2, f"an alpha below {self.alpha!r}")
        message = (
            "Solver produced non-finite parameter weights. The input data may contain "
            f"large values and need to be preprocessed. Training diverged in {when} "
            f"with {settings}.{said} Likely cures: {', '.join(cures)}."
        )
        if not run.scored or not math.isfinite(run.records.best_score):
            raise DivergenceError(message, self._failed_records(run))
        run.records.outcome = "diverged"
        run.records.validation_scores.append(math.nan)
        warnings.warn(
            f"{message} The weights of the best validation score are kept.",
            ConvergenceWarning,
            stacklevel=2,
        )

    def _flow(self, run: _Run, kind=GradientFlow, **more):
        """The recorded gradient flow of a run."""
        return kind(
            **run.trainer.recorder.flow(),
            layer_sizes=run.network.layer_sizes,
            activations=run.network.activations,
            **more,
        )

    def _failed_records(self, run: _Run) -> FailedFlow:
        if run.look is None:
            network = run.network
            return FailedFlow.unrecorded(network.layer_sizes, network.activations)
        return self._flow(
            run,
            FailedFlow,
            loss_curve=tuple(run.records.loss_curve),
            n_iter=run.records.n_iter,
            summary=run.look().at_end("diverged"),
        )

    def _set_fitted(self, run: _Run, incremental: bool) -> None:
        """Set all fitted attributes in one assignment, from what the run reached."""
        network, records, fitted = run.network, run.records, self._fitted
        scores, best_score = None, None
        best_loss: float | None = records.best_loss
        if run.scored:
            scores = records.validation_scores
            best_score = run.records.best_score
            best_loss = None
        elif incremental:  # leaves the record of an earlier early stopping
            scores = fitted.get("validation_scores_")
            best_score = fitted.get("best_validation_score_")
        flow: dict[str, Any] = {}
        if run.summary is not None:
            flow = {"gradient_flow_": self._flow(run), "_fit_summary": run.summary}
        elif incremental and run.look:  # no batch was watched: the last records stay
            flow = {name: fitted.get(name) for name in _FLOW if fitted.get(name)}
            if flow:
                flow["_fit_summary"] = replace(flow["_fit_summary"], outcome="partial")
        self._fitted = fitted.changed(
            drop=("_failed_flow", "coefs_", "intercepts_", *_FLOW),
            _network=network,
            _weights=Weights(network, run.chosen_theta()),
            n_layers_=len(network.layer_sizes),
            n_outputs_=network.layer_sizes[-1],
            out_activation_=network.output,
            n_iter_=records.n_iter,
            t_=records.t,
            loss_=records.loss,
            loss_curve_=records.loss_curve,
            best_loss_=best_loss,
            validation_scores_=scores,
            best_validation_score_=best_score,
            _no_improvement_count=records.no_improvement_count,
            _optimizer=records.optimizer,
            _partially_fitted=incremental,
            **flow,
        )

    # ------------------------------------------------------------ early stopping

    def _split(self, n_samples: int, labels, rng) -> tuple[NDArray, NDArray]:
        """Indices of the rows to train on and of those held out.

        Stratified by `labels`, class indices; None does not stratify. At least two
        rows, and one per class, are held out; every class stays in training.
        """
        from sklearn.model_selection import train_test_split

        rows = np.arange(n_samples, dtype=np.int64)
        n_held_out = max(math.ceil(self.validation_fraction * n_samples), 2)
        divisible = rows
        if labels is not None:
            class_sizes = np.bincount(labels)
            # The only row of a class is needed for training.
            divisible = rows[class_sizes[labels] > 1]
            n_classes = np.count_nonzero(class_sizes > 1)
            n_held_out = max(n_held_out, n_classes)
        if n_held_out >= n_samples or len(divisible) == 0:
            raise ValueError(
                "The validation set is too small, or leaves no rows to train on: with "
                f"early_stopping=True, validation_fraction={self.validation_fraction} "
                f"and these targets {n_held_out} rows are held out, but "
                f"n_samples={n_samples}, of which {len(divisible)} may be held out."
            )
        if labels is None:
            return train_test_split(rows, test_size=n_held_out, random_state=rng)
        n_held_out = min(n_held_out, len(divisible) - n_classes)
        train, held_out = train_test_split(
            divisible,
            test_size=n_held_out,
            random_state=rng,
            stratify=labels[divisible],
        )
        # A stratified split may still put a small class wholly on one side.
        present, first = np.unique(labels[held_out], return_index=True)
        moved = first[~np.isin(present, labels[train])]
        train = np.concatenate(
            [train, held_out[moved], np.setdiff1d(rows, divisible, assume_unique=True)]
        )
        return train, np.delete(held_out, moved)

    def _check_split_weight(self, weight, held_out) -> None:
        """Refuse a split that leaves one of its two sides without weight."""
        if weight is None:
            return
        if np.count_nonzero(weight[held_out]) in (0, np.count_nonzero(weight)):
            raise ValueError(
                "sample_weight is zero in all rows held out for early stopping or in "
                "all others; another random_state or validation_fraction may help."
            )

    # ------------------------------------------------------------------- predict

    def _hidden_outputs(self, X) -> list[Floats]:
        """a of every hidden layer for every row of X, for pictures."""
        model, hidden = self._model(), []
        X, _ = self._check_rows(model, X, model._network.dtype)
        predict(model._network, model.theta(), X, hidden=hidden)
        return hidden

    def _outputs(self, model: Fitted, X, *, logits: bool) -> Floats:
        """Outputs of the network, or its logits, shape (n_samples, n_outputs).

        Computed in the network's type; a wider X makes the result as wide.
        """
        network, theta = model._network, model.theta()
        outputs, given = None, network.dtype
        if self._is_ready(model, X, network.dtype):
            outputs = predict(network, theta, X, logits, finite=True)
        if outputs is None:
            X, given = self._check_rows(model, X, network.dtype)
            outputs = predict(network, theta, X, logits)
        if not np.isfinite(outputs).all():
            rows = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
            named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            entries = X.data if sparse.issparse(X) else X
            if not np.isfinite(entries).all():  # only where checks were turned off
                raise ValueError(
                    "X holds NaN or infinity, which nothing looks for under "
                    f"assume_finite=True. The outputs of {len(rows)} rows are not "
                    f"finite: {named}."
                )
            raise ValueError(
                f"The network overflows {network.dtype} in {len(rows)} of "
                f"{len(outputs)} rows of X: {named}. Their values, or the weights, are "
                "too large; scale X as it was scaled for training."
            )
        if given != network.dtype:
            outputs = outputs.astype(np.promote_types(given, network.dtype))
        return outputs

    # ------------------------------------------------------------------- pickling

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_checked_parameters", None)
        fitted = state.pop("_fitted", self._fitted)
        if fitted.is_model:
            state["_format"] = _FORMAT
        keep = self.warm_start or fitted.get("_partially_fitted", False)
        return state | pickled(fitted, keep_optimizer=keep)

    def __setstate__(self, state: dict[str, Any]) -> None:
        name = type(self).__name__
        if not isinstance(state, dict):
            raise ValueError(f"A {name} cannot be made of {type(state).__name__}.")
        state = dict(state)
        form = state.pop("_format", _FORMAT)
        if not isinstance(form, int) or form < 1:
            raise ValueError(
                f"This pickle of a {name} is damaged or was changed: its format is "
                f"{form!r}."
            )
        if form > _FORMAT:
            raise ValueError(
                f"This {name} was saved by a newer version of cbp, in format {form}; "
                f"this version reads formats up to {_FORMAT}. Update cbp to load it."
            )
        names = attribute_names(type(self)) | PICKLED_ONLY
        held = {name: state.pop(name) for name in names & state.keys()}
        try:
            fitted = restored(held)
            has_classes = "classes_" in held or "classes_" in state
            if fitted.is_model and has_classes != isinstance(self, ClassifierMixin):
                raise ValueError("classes_ are missing, or there should be none")
        except ValueError as error:
            raise ValueError(
                f"This pickle of a {name} is damaged or was changed: {error}."
            ) from error
        # Parameters that are newer than the pickle have their defaults.
        super().__setstate__(_defaults(type(self)) | state)
        if held:
            self._fitted = fitted

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class BPClassifier(ClassifierMixin, _BaseBP):
    """Multilayer perceptron classifier, trained by compiled backpropagation [1]_.

    Takes the place of :class:`sklearn.neural_network.MLPClassifier`: the same
    `random_state` gives the same weights, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of every hidden layer, first to last. An int is one hidden layer; ``()``
        is none, which makes the model a generalised linear one.

    activation : str or sequence of str, default='relu'
        Activation of all hidden layers, or one per hidden layer: 'relu', 'tanh',
        'logistic' (or 'sigmoid', another name of it) or 'identity'.

    loss : {'log_loss', 'squared_error'}, default='log_loss'
        'log_loss' is the cross-entropy of softmax outputs, or of logistic outputs for
        two classes and for multilabel targets. 'squared_error' is half the squared
        distance between logistic outputs and the targets 0 and 1, summed over outputs;
        for more than two classes there is one output per class.

    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        Adam [3]_, stochastic gradient descent, or SciPy's L-BFGS-B [4]_ on all rows at
        once. The other two take `batch_size` rows per step.

    alpha : float, default=0.0001
        Strength of the L2 penalty, in [0, inf): ``alpha / 2`` times the sum of the
        squared weights (not biases), divided by the sum of the sample weights of a
        batch, is added to the loss.

    batch_size : int or 'auto', default='auto'
        Rows per step; 'auto' is ``min(200, n_samples)``. A larger number than there are
        rows is clipped, with a warning.

    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule of SGD's learning rate.

        - 'constant': `learning_rate_init`;
        - 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, set after every
          epoch;
        - 'adaptive': `learning_rate_init`, divided by 5 whenever training would stop
          for want of progress; training stops when it is 1e-6 or less.

    learning_rate_init : float, default=0.001
        First learning rate of SGD and Adam, in (0, inf).

    power_t : float, default=0.5
        Exponent of the schedule 'invscaling', in [0, inf).

    max_iter : int, default=200
        At most this many epochs (passes over the data), or iterations of L-BFGS.

    shuffle : bool, default=True
        Whether SGD and Adam take the rows in a new random order in every epoch.

    random_state : int, RandomState instance or None, default=None
        Source of the first weights, of the split for early stopping and of the order of
        rows, drawn in this order. An int gives the same model every time, and the same
        draws as scikit-learn's estimator.

    tol : float, default=0.0001
        An epoch is progress if it lowers the best loss, or raises the best validation
        score, by at least this much, in [0, inf). For L-BFGS: training ends when no
        entry of the (projected) gradient is larger.

    verbose : bool or int, default=False
        Whether to print the loss, and the validation score, of every epoch.

    warm_start : bool, default=False
        Whether `fit` goes on from the present weights, with a new optimizer. The layers
        must have kept their sizes.

    momentum : float, default=0.9
        Momentum of SGD, in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether SGD's momentum is Nesterov's.

    early_stopping : bool, default=False
        Whether to hold out part of the rows, to score the model on them after every
        epoch, to let this score in place of the loss decide when training ends, and to
        keep a copy of the weights that scored best. Works with every solver.
        The split is stratified by class (not for multilabel targets), and every class
        stays in training. `partial_fit` ignores this setting.

    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping, in (0, 1). At least two rows, and
        one per class, are held out.

    beta_1 : float, default=0.9
        Decay of Adam's mean of gradients, in [0, 1).

    beta_2 : float, default=0.999
        Decay of Adam's mean of squared gradients, in [0, 1).

    epsilon : float, default=1e-8
        Added to the root of Adam's mean of squared gradients, in (0, inf).

    n_iter_no_change : int or inf, default=10
        Patience: training ends after more than this many epochs in a row without
        progress.

    max_fun : int, default=15000
        At most this many evaluations of the loss by L-BFGS.

    n_jobs : int or None, default=None
        Threads that train; None is one, or what ``joblib.parallel_config`` says, -1 all
        cores. The model has the same bits for every number of threads.

    precision : {'float32', 'float64'} or None, default=None
        Type to compute in. None follows X: float32 stays float32, all else is computed
        in float64. A fitted model that is trained further keeps its type under None.

    monitor : bool, default=True
        Whether to record gradient flow, for `diagnose` and `gradient_flow_`. Costs one
        or two percent of the time of a fit of hundreds of batches, and never changes
        the model.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels seen in `fit` or given to `partial_fit`, sorted; for multilabel targets
        the numbers of the columns.

    coefs_ : list of n_layers_ - 1 arrays
        Weights; ``coefs_[i]`` has shape (units of layer i, units of layer i + 1). The
        arrays are views of one vector. They may be changed in place or replaced by
        others of the same shape: the next call uses what it finds.

    intercepts_ : list of n_layers_ - 1 arrays
        Biases; ``intercepts_[i]`` has shape (units of layer i + 1,).

    loss_ : float
        Loss of the last epoch or iteration, penalty included.

    loss_curve_ : list of float
        Loss of every epoch or iteration since the weights were drawn: the mean over
        batches by their sample weight.

    best_loss_ : float or None
        Least loss of all epochs; None with early stopping.

    validation_scores_ : list of float or None
        Accuracy on the held-out rows after every epoch; None without early
        stopping. NaN where a prediction was not finite, and last if training diverged.

    best_validation_score_ : float or None
        Best of `validation_scores_`, the score of the weights that were kept.

    n_iter_ : int
        Epochs or iterations of the last call.

    t_ : int
        Training rows seen by SGD or Adam since the weights were drawn.

    n_layers_ : int
        Layers, input and output included.

    n_outputs_ : int
        Units of the output layer.

    out_activation_ : str
        Activation of the output layer: 'softmax' or 'logistic'.

    n_features_in_ : int
        Columns of X seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns; only if X had names that all are strings.

    gradient_flow_ : GradientFlow
        What the last call recorded of its gradients, or of several short calls of
        `partial_fit` the last that was recorded; only with ``monitor=True``.

    See Also
    --------
    BPRegressor : The same for real-valued targets.
    sklearn.neural_network.MLPClassifier : Model for this class's interface.

    Notes
    -----
    An interrupt (Ctrl-C) during `fit` or `partial_fit` is raised again after the
    weights reached by then have been stored, so the model is usable. Every other error
    leaves the model as it was before the call.

    During a fit the memory in use is the data, at most four times the parameters (SGD:
    three), and the workspace of one batch (its inputs again for each thread); on top
    come a second copy of the parameters in the layout of the kernels, the best weights
    of early stopping, the former model until the call succeeds, at most 4 MiB of
    partial sums for batches of more than 512 rows, and for L-BFGS about 25 vectors of
    SciPy's.

    A pickle holds the optimizer's state only after `partial_fit` or with
    ``warm_start=True``.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 533-536, 1986.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [3] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [4] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16, 1190-1208, 1995.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from cbp import BPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(),
    ...     BPClassifier(
    ...         (20, 10),
    ...         ("tanh", "relu"),
    ...         learning_rate_init=0.01,
    ...         max_iter=500,
    ...         random_state=0,
    ...     ),
    ... )
    >>> bool(model.fit(X, y).score(X, y) > 0.95)
    True
    """

    _parameter_constraints: dict = {
        **_BaseBP._parameter_constraints,
        "loss": [
            StrOptions({loss for o, loss in LOSSES if not is_regressors(o, loss)})
        ],
    }

    classes_: NDArray = attribute()
    _multilabel: bool = attribute()
    _sparse_labels: bool = attribute()

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        loss: Literal["log_loss", "squared_error"] = "log_loss",
        solver: Literal["lbfgs", "sgd", "adam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: Literal["constant", "invscaling", "adaptive"] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int | float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        precision: Literal["float32", "float64"] | None = None,
        monitor: bool = True,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.loss = loss
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_jobs = n_jobs
        self.precision = precision
        self.monitor = monitor

    @available_if(lambda self: self._check_solver())
    def partial_fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | float | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the rows given, going on from the present weights.

        The optimizer goes on, too, after `fit` as after `partial_fit`. Early stopping
        settings are ignored: there is nothing to stop. Not available with
        ``solver='lbfgs'``.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels; some of `classes` may be missing.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows. A batch of weights that are all zero changes
            nothing.

        classes : array-like of shape (n_classes,) or None, default=None
            All labels that will ever occur. Needed in the first call, later optional.

        Returns
        -------
        self : BPClassifier

        Raises
        ------
        ValueError
            As `fit`; also if `classes` is missing, has changed, or lacks a label.
        """
        with self._trial() as trial:
            trial._check_parameters()
            trial._take_classes(classes)
            trial._fit(X, y, sample_weight, incremental=True)
        return self

    def _output_activation(self, n_outputs: int) -> str:
        return output_of_labels(self.loss, n_outputs > 1 and not self._multilabel)

    _read_targets = staticmethod(read_labels)

    def _take_classes(self, classes) -> None:
        """The labels that partial_fit is told of; as scikit-learn checks them."""
        known = self._fitted.get("classes_")
        if classes is None:
            if known is None:
                raise ValueError(
                    "classes must be passed on the first call to partial_fit."
                )
            return
        labels = unique_labels(read_labels(classes))
        if known is None:
            self.classes_ = labels
        elif labels.tolist() != known.tolist():
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to "
                f"partial_fit, was: {known!r}"
            )

    def _encode(self, y, dtype, incremental: bool) -> tuple[NDArray, int]:
        """Targets of the network and the number of its outputs; sets classes_.

        One label per row becomes an int32 index into classes_, shape (n_samples,);
        multilabel targets become a matrix of 0 and 1, shape (n_samples, n_outputs).
        """
        is_sparse = sparse.issparse(y)
        y = y.toarray() if is_sparse else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if incremental and (index := self._known_index(y)) is not None:
            return index, self._n_class_outputs()
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "y has several columns of labels, which is not supported: give one "
                "label per row, or a matrix of 0 and 1 (multilabel)."
            )
        multilabel = kind == "multilabel-indicator"
        if multilabel and not ((y == 0) | (y == 1)).all():
            raise ValueError(
                f"A multilabel y must hold 0 and 1 only, got values {np.unique(y)}."
            )
        labels = unique_labels(y)
        if hasattr(self, "classes_") and (self.warm_start or incremental):
            self._check_known(labels, multilabel, incremental)
        else:
            self.classes_ = labels
        if not (hasattr(self, "_sparse_labels") and (self.warm_start or incremental)):
            self._sparse_labels = is_sparse
        self._multilabel = multilabel
        if multilabel:
            return np.ascontiguousarray(y, dtype=dtype), y.shape[1]
        return index_of(self.classes_, y), self._n_class_outputs()

    def _n_class_outputs(self) -> int:
        return len(self.classes_) if len(self.classes_) > 2 else 1

    def _known_index(self, y) -> NDArray | None:
        """Indices of labels that all are classes_, or None if that takes a closer look.

        Such labels need no other check; scikit-learn's take 350 us of a `partial_fit`.
        """
        classes = self._fitted.get("classes_")
        if (
            classes is None
            or self._fitted.get("_multilabel", True)
            or y.ndim != 1
            or y.dtype.kind != classes.dtype.kind
            or y.dtype.kind not in "biufU"
        ):
            return None
        index = index_of(classes, y)
        return index if index.min() >= 0 else None

    def _check_known(self, labels, multilabel: bool, incremental: bool) -> None:
        """Refuse labels other than those the model was made for."""
        if multilabel != self._fitted.get("_multilabel", multilabel):
            raise ValueError(
                "y must stay multilabel, or stay one label per row, while training "
                "goes on."
            )
        if multilabel and len(labels) != len(self.classes_):
            raise ValueError(
                f"y has {len(labels)} columns of labels, but classes names "
                f"{len(self.classes_)}."
            )
        if incremental:
            if index_of(self.classes_, labels).min() < 0:
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {labels}."
                )
        elif labels.tolist() != self.classes_.tolist():
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes_}, `y` has "
                f"{labels}"
            )

    @staticmethod
    def _decide(model: Fitted, logits: Floats) -> NDArray[np.integer[Any]]:
        """Indices of the classes, or for multilabel targets a matrix of 0 and 1."""
        if model._multilabel:
            return (logits > 0).astype(int)
        if len(model.classes_) == 1:
            return np.zeros(len(logits), dtype=int)
        if logits.shape[1] == 1:
            return (logits[:, 0] > 0).astype(int)
        return logits.argmax(axis=1)

    def predict(self, X: Rows) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs; cast to the type the model computes in.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels out of `classes_`, or for multilabel targets a matrix of 0 and 1, a
            CSR matrix if `fit` was given a sparse one.

        Raises
        ------
        ValueError
            If X is not allowed, or if a row overflows the network; the rows are named.
        NotFittedError
            If the model is not fitted.
        """
        model = self._model()
        decided = self._decide(model, self._outputs(model, X, logits=True))
        if not model._multilabel:
            return model.classes_[decided]
        return sparse.csr_matrix(decided) if model._sparse_labels else decided

    def decision_function(self, X: Rows) -> Floats:
        """The logits: weighted inputs of the output layer, before its activation.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            One column per class or label; with two classes one number per row, above 0
            for ``classes_[1]``.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        logits = self._outputs(self._model(), X, logits=True)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Rows) -> Floats:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            Probabilities of the classes in the order of `classes_`, strictly between 0
            and 1. Each row sums to 1, but not for multilabel targets. With
            ``loss='squared_error'`` and more than two classes the logistic outputs are
            divided by their sum. A model that has seen one class has one column of 1.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        model = self._model()
        softmax = model._network.output == "softmax"
        outputs = self._outputs(model, X, logits=not softmax)
        if softmax:
            return _inside(
                outputs,
                model._network.dtype,
                lambda: _log_shares(model, self._outputs(model, X, logits=True)),
            )
        if model._multilabel:
            return _probability(outputs)
        if len(model.classes_) == 1:
            return np.ones_like(outputs)
        if outputs.shape[1] == 1:
            return _probability(np.hstack([-outputs, outputs]))
        # Logistic outputs divided by their sum; by way of logarithms, lest all be 0.
        log_p = _log_shares(model, outputs)
        return _inside(np.exp(log_p), outputs.dtype, lambda: log_p)

    def predict_log_proba(self, X: Rows) -> Floats:
        """Predict logarithms of probabilities, computed from the logits.

        Finite inputs never give -inf, however unlikely a class is.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
            Logarithms of what `predict_proba` returns.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        model = self._model()
        logits = self._outputs(model, X, logits=True)
        if model._multilabel:
            # Above 1/2 from the probability: both order the labels alike.
            p = _probability(logits)
            return np.where(p > 0.5, np.log(p), _log_probability(logits))
        if len(model.classes_) == 1:
            return np.zeros_like(logits)
        if logits.shape[1] == 1:
            return _log_probability(np.hstack([-logits, logits]))
        return _log_shares(model, logits)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class BPRegressor(RegressorMixin, _BaseBP):
    """Multilayer perceptron regressor, trained by compiled backpropagation [1]_.

    Takes the place of :class:`sklearn.neural_network.MLPRegressor`: for one output, the
    same `random_state` gives the same weights, up to rounding. With several outputs the
    squared error is summed over them, in the loss as in its gradient.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, default='squared_error'
        'squared_error' is half the squared error with identity outputs, 'poisson' half
        the Poisson deviance with exponential outputs and targets >= 0; both are summed
        over outputs.

    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of every hidden layer, first to last. An int is one hidden layer; ``()``
        is none, which makes the model a generalised linear one.

    activation : str or sequence of str, default='relu'
        Activation of all hidden layers, or one per hidden layer: 'relu', 'tanh',
        'logistic' (or 'sigmoid', another name of it) or 'identity'.

    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        Adam [3]_, stochastic gradient descent, or SciPy's L-BFGS-B [4]_ on all rows at
        once. The other two take `batch_size` rows per step.

    alpha : float, default=0.0001
        Strength of the L2 penalty, in [0, inf): ``alpha / 2`` times the sum of the
        squared weights (not biases), divided by the sum of the sample weights of a
        batch, is added to the loss.

    batch_size : int or 'auto', default='auto'
        Rows per step; 'auto' is ``min(200, n_samples)``. A larger number than there are
        rows is clipped, with a warning.

    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule of SGD's learning rate.

        - 'constant': `learning_rate_init`;
        - 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, set after every
          epoch;
        - 'adaptive': `learning_rate_init`, divided by 5 whenever training would stop
          for want of progress; training stops when it is 1e-6 or less.

    learning_rate_init : float, default=0.001
        First learning rate of SGD and Adam, in (0, inf).

    power_t : float, default=0.5
        Exponent of the schedule 'invscaling', in [0, inf).

    max_iter : int, default=200
        At most this many epochs (passes over the data), or iterations of L-BFGS.

    shuffle : bool, default=True
        Whether SGD and Adam take the rows in a new random order in every epoch.

    random_state : int, RandomState instance or None, default=None
        Source of the first weights, of the split for early stopping and of the order of
        rows, drawn in this order. An int gives the same model every time, and the same
        draws as scikit-learn's estimator.

    tol : float, default=0.0001
        An epoch is progress if it lowers the best loss, or raises the best validation
        score, by at least this much, in [0, inf). For L-BFGS: training ends when no
        entry of the (projected) gradient is larger.

    verbose : bool or int, default=False
        Whether to print the loss, and the validation score, of every epoch.

    warm_start : bool, default=False
        Whether `fit` goes on from the present weights, with a new optimizer. The layers
        must have kept their sizes.

    momentum : float, default=0.9
        Momentum of SGD, in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether SGD's momentum is Nesterov's.

    early_stopping : bool, default=False
        Whether to hold out part of the rows, to score the model on them after every
        epoch, to let this score in place of the loss decide when training ends, and to
        keep a copy of the weights that scored best. Works with every solver.
        `partial_fit` ignores this setting.

    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping, in (0, 1). At least two rows are
        held out.

    beta_1 : float, default=0.9
        Decay of Adam's mean of gradients, in [0, 1).

    beta_2 : float, default=0.999
        Decay of Adam's mean of squared gradients, in [0, 1).

    epsilon : float, default=1e-8
        Added to the root of Adam's mean of squared gradients, in (0, inf).

    n_iter_no_change : int or inf, default=10
        Patience: training ends after more than this many epochs in a row without
        progress.

    max_fun : int, default=15000
        At most this many evaluations of the loss by L-BFGS.

    n_jobs : int or None, default=None
        Threads that train; None is one, or what ``joblib.parallel_config`` says, -1 all
        cores. The model has the same bits for every number of threads.

    precision : {'float32', 'float64'} or None, default=None
        Type to compute in. None follows X: float32 stays float32, all else is computed
        in float64. A fitted model that is trained further keeps its type under None.

    monitor : bool, default=True
        Whether to record gradient flow, for `diagnose` and `gradient_flow_`. Costs one
        or two percent of the time of a fit of hundreds of batches, and never changes
        the model.

    Attributes
    ----------
    coefs_ : list of n_layers_ - 1 arrays
        Weights; ``coefs_[i]`` has shape (units of layer i, units of layer i + 1). The
        arrays are views of one vector. They may be changed in place or replaced by
        others of the same shape: the next call uses what it finds.

    intercepts_ : list of n_layers_ - 1 arrays
        Biases; ``intercepts_[i]`` has shape (units of layer i + 1,).

    loss_ : float
        Loss of the last epoch or iteration, penalty included.

    loss_curve_ : list of float
        Loss of every epoch or iteration since the weights were drawn: the mean over
        batches by their sample weight.

    best_loss_ : float or None
        Least loss of all epochs; None with early stopping.

    validation_scores_ : list of float or None
        R2 score on the held-out rows after every epoch; None without early
        stopping. NaN where a prediction was not finite, and last if training diverged.

    best_validation_score_ : float or None
        Best of `validation_scores_`, the score of the weights that were kept.

    n_iter_ : int
        Epochs or iterations of the last call.

    t_ : int
        Training rows seen by SGD or Adam since the weights were drawn.

    n_layers_ : int
        Layers, input and output included.

    n_outputs_ : int
        Units of the output layer.

    out_activation_ : str
        Activation of the output layer: 'identity', or 'exp' for
        ``loss='poisson'``.

    n_features_in_ : int
        Columns of X seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns; only if X had names that all are strings.

    gradient_flow_ : GradientFlow
        What the last call recorded of its gradients, or of several short calls of
        `partial_fit` the last that was recorded; only with ``monitor=True``.

    See Also
    --------
    BPClassifier : The same for class labels.
    sklearn.neural_network.MLPRegressor : Model for this class's interface.

    Notes
    -----
    An interrupt (Ctrl-C) during `fit` or `partial_fit` is raised again after the
    weights reached by then have been stored, so the model is usable. Every other error
    leaves the model as it was before the call.

    During a fit the memory in use is the data, at most four times the parameters (SGD:
    three), and the workspace of one batch (its inputs again for each thread); on top
    come a second copy of the parameters in the layout of the kernels, the best weights
    of early stopping, the former model until the call succeeds, at most 4 MiB of
    partial sums for batches of more than 512 rows, and for L-BFGS about 25 vectors of
    SciPy's.

    A pickle holds the optimizer's state only after `partial_fit` or with
    ``warm_start=True``.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 533-536, 1986.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [3] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [4] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16, 1190-1208, 1995.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from cbp import BPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(),
    ...     BPRegressor(
    ...         hidden_layer_sizes=20, solver="sgd", max_iter=500, random_state=0
    ...     ),
    ... )
    >>> bool(model.fit(X, y).score(X, y) > 0.5)
    True
    """

    _parameter_constraints: dict = {
        **_BaseBP._parameter_constraints,
        "loss": [StrOptions(set(OUTPUT_OF))],
    }

    def __init__(
        self,
        loss: Literal["squared_error", "poisson"] = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: Literal["lbfgs", "sgd", "adam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: Literal["constant", "invscaling", "adaptive"] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int | float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        precision: Literal["float32", "float64"] | None = None,
        monitor: bool = True,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_jobs = n_jobs
        self.precision = precision
        self.monitor = monitor

    def _check_parameters(self) -> None:
        try:
            super()._check_parameters()
        except ValueError as error:
            sizes = isinstance(self.loss, Integral | list | tuple)
            if not sizes or "'loss' parameter" not in str(error):
                raise
            raise type(error)(
                f"{error} In a regressor's arguments loss comes before "
                "hidden_layer_sizes, as in MLPRegressor; give the sizes by name: "
                f"hidden_layer_sizes={self.loss!r}."
            ) from None

    @available_if(lambda self: self._check_solver())
    def partial_fit(
        self, X: Rows, y: ArrayLike, sample_weight: ArrayLike | float | None = None
    ) -> Self:
        """Train for one epoch on the rows given, going on from the present weights.

        The optimizer goes on, too, after `fit` as after `partial_fit`. Early stopping
        settings are ignored: there is nothing to stop. Not available with
        ``solver='lbfgs'``.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows. A batch of weights that are all zero changes
            nothing.

        Returns
        -------
        self : BPRegressor

        Raises
        ------
        ValueError
            As `fit`.
        """
        with self._trial() as trial:
            trial._check_parameters()
            trial._fit(X, y, sample_weight, incremental=True)
        return self

    def _output_activation(self, n_outputs: int) -> str:
        return OUTPUT_OF[self.loss]

    _read_targets = staticmethod(read_numbers)

    def _encode(self, y, dtype, incremental: bool) -> tuple[NDArray, int]:
        """Targets as a matrix of shape (n_samples, n_outputs), and n_outputs."""
        y = y.toarray() if sparse.issparse(y) else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        with np.errstate(over="ignore"):
            target = np.ascontiguousarray(y, dtype=dtype).reshape(len(y), -1)
        if not np.isfinite(target).all():
            raise ValueError(f"y holds values too large for {np.dtype(dtype)}.")
        least = LOSSES[OUTPUT_OF[self.loss], self.loss].least_target
        if target.min() < least:
            raise ValueError(
                f"loss={str(self.loss)!r} needs y >= {least:g}, but the least y is "
                f"{target.min()}."
            )
        return target, target.shape[1]

    def predict(self, X: Rows) -> Floats:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs; cast to the type the model computes in.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, in that type, or in float64 if X is.

        Raises
        ------
        ValueError
            If X is not allowed, or if a row overflows the network; the rows are named.
        NotFittedError
            If the model is not fitted.
        """
        outputs = self._outputs(self._model(), X, logits=False)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
