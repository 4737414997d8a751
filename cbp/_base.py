"""What the classifier and the regressor share: the fitted object, calls that train and
calls that predict, pickling.

Rules of scikit-learn for estimators, and no more of training than its beginning:
_fitting.py goes on. The two classes, with their parameters, stand in estimators.py.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import (
    Interval,
    Options,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from cbp import _fitting
from cbp._callbacks import Session, demand_callbacks, listens
from cbp._catalog import ACTIVATIONS, ALIASES, SCHEDULES
from cbp._checkpoint import Saved, newest
from cbp._divergence import DivergenceError
from cbp._fit_summary import FitSummary
from cbp._fitted import (
    PICKLED_ONLY,
    Fitted,
    attribute,
    attribute_names,
    completed,
    pickled,
    restored,
    weight_list,
)
from cbp._init import INITS
from cbp._kernels import all_finite
from cbp._network import Network
from cbp._parameters import Names
from cbp._prediction import predict
from cbp._progress import Optimizer
from cbp._scoring import Given
from cbp._solvers import SOLVERS
from cbp._stop import request, under_way
from cbp._to_sklearn import to_sklearn
from cbp._validation import checked_rows, is_ready, kernel_ready, refuse_overflow
from cbp._version import VERSION
from cbp.diagnosis import Diagnosis, diagnose
from cbp.gradient_flow import FailedFlow, GradientFlow

if TYPE_CHECKING:
    from typing import Self

    from sklearn.neural_network import MLPClassifier, MLPRegressor

    # Dense rows, a data frame, or a SciPy sparse matrix or array.
    Rows: TypeAlias = ArrayLike | sparse.spmatrix | sparse.sparray
    Floats: TypeAlias = NDArray[np.floating[Any]]

# The pickled form of a fitted estimator; to be raised whenever that form changes.
# Format 1 had gradient flow, summary and optimizer as objects, 2 has plain values.
FORMAT = 2


@functools.cache
def defaults_of(estimator: type) -> dict[str, Any]:
    """The parameters of an estimator and their defaults."""
    given = inspect.signature(estimator.__init__).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


_NO_DEFAULT = object()

# Logits that are decided at a time where the result is sparse, and the fewest rows, for
# which it pays to pack the weights.
_PIECE_ITEMS = 1 << 20
_PIECE_ROWS = 256


@functools.cache
def _sound_defaults(estimator: type) -> dict[str, Any]:
    """The defaults that need no check; none of a class that a user wrote."""
    return defaults_of(estimator) if estimator.__module__ == "cbp.estimators" else {}


class BaseBP(BaseEstimator):
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
        "activation": [Names([*ACTIVATIONS, *ALIASES]), "array-like"],
        "solver": [Names(SOLVERS)],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            Names(["auto"]),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [Names(SCHEDULES), callable],
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
        "precision": [None, Names(["float32", "float64"])],
        "monitor": ["boolean"],
        "scoring": [None, str, callable],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [None, Interval(Real, 0, None, closed="neither")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "average": [Interval(Real, 0, 1, closed="left")],
        "init": [Names(INITS)],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
    }

    # scikit-learn's HTML representation links here, and shows parameters' docs.
    _doc_link_module = "cbp"
    _doc_link_template = (
        "https://cbp-learn.readthedocs.io/en/stable/api/cbp.{estimator_name}.html"
    )

    # What there is before the first fit; shared by all, never changed.
    _fitted = Fitted()
    _checked_parameters: Sequence = ()

    # Fitted attributes, described in the docstrings of the two classes.
    coefs_: list[Floats] = weight_list()
    intercepts_: list[Floats] = weight_list()
    loss_: float = attribute()
    best_loss_: float | None = attribute()
    loss_curve_: list[float] = attribute()
    validation_scores_: list[float] | None = attribute()
    validation_loss_curve_: list[float] | None = attribute()
    best_validation_score_: float | None = attribute()
    best_iter_: int | None = attribute()
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
    _fit_summary: FitSummary = completed()
    _failed_flow: FailedFlow = attribute()

    @property
    def _theta(self) -> Floats:
        return self._model().theta()

    # ------------------------------------------------------------- the fitted object

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted.is_model

    def _own_fitted(self) -> Fitted:
        """The fitted object of this estimator, to be changed."""
        return self.__dict__.setdefault("_fitted", Fitted())

    def _model(self) -> Fitted:
        """The fitted object, which has weights."""
        fitted = self._fitted
        if not fitted.is_model:
            check_is_fitted(self._with(fitted))  # raises
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
        start = self._fitted.__copy__()
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
        twin = self._with(copy.copy(self._fitted))
        # The task that a search or a pipeline is at is not the copy's.
        twin.__dict__.pop("_parent_callback_ctx", None)
        return twin

    def __sklearn_clone__(self) -> Self:
        twin = super().__sklearn_clone__()
        callbacks = getattr(self, "_skl_callbacks", None)
        if callbacks is not None:  # as scikit-learn does, from 1.9 on
            twin._skl_callbacks = callbacks
        return twin

    def __deepcopy__(self, memo: dict) -> Self:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        # A copy first: another thread may add an attribute meanwhile.
        twin.__dict__.update(copy.deepcopy(dict(self.__dict__), memo))
        return twin

    # ------------------------------------------------------------------ training

    def _check_parameters(self) -> None:
        """Refuse parameters by name, as scikit-learn does.

        Looking at all of them takes 170 us, more than a `partial_fit` on few rows.
        Those that are defaults, or have not changed since the last look, are left out.
        What a sequence holds is checked by every call, in `hidden_layers`.
        """
        own = self.__dict__
        if _sound_defaults(type(self)):
            given = [own.get(name) for name in self._parameter_constraints]
        else:  # the class of a user may keep them elsewhere
            given = [getattr(self, name, None) for name in self._parameter_constraints]
        checked = self._checked_parameters
        if len(checked) != len(given) or not all(map(operator.is_, given, checked)):
            default = _sound_defaults(type(self))
            if not default:
                self._validate_params()
            else:  # not by get_params, which reads the signature each time
                validate_parameter_constraints(
                    self._parameter_constraints,
                    {
                        name: own[name]
                        for name in sorted(self._parameter_constraints)
                        if name in own
                        and own[name] is not default.get(name, _NO_DEFAULT)
                    },
                    caller_name=type(self).__name__,
                )
            self._checked_parameters = given

    def fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | float | None = None,
        *,
        X_val: Rows | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | float | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Finite inputs; best scaled to about unit variance. Sparse matrices stay
            sparse (CSR; other formats are converted to it).

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            For the classifier labels, numbers or strings, or for multilabel targets a
            matrix of 0 and 1; a sparse one stays sparse. Any other matrix or frame, of
            more than two numbers or of strings, has a column of labels for each thing
            that is to be told; columns may differ in type. For the regressor numbers;
            none below 0 with the losses 'poisson' and 'tweedie', all above 0 with
            'gamma', and with 'tweedie' if ``power=2``.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows; None weighs all alike. As in scikit-learn the
            penalty `alpha` is divided by the sum of a batch's weights: with weights of
            1/n it is n times as strong as without. Scale weights to a mean of 1 to
            leave it as it is.

        X_val, y_val, sample_weight_val : as X, y and sample_weight, default=None
            A validation set, scored after every epoch as `scoring` says. With
            ``early_stopping=True`` it is used instead of a part of X; without, its
            scores are only recorded. A column or a label that X and y do not have is an
            error.

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
        self._train(X, y, sample_weight, Given(X_val, y_val, sample_weight_val))
        return self

    def resume(
        self,
        path: str | os.PathLike,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | float | None = None,
        *,
        X_val: Rows | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | float | None = None,
    ) -> Self:
        """Go on with a fit that was lost, from its last checkpoint.

        The model ends with the bits that `fit` would have given if nobody had ended it.
        So it must have the parameters of that fit, but for `verbose` and `n_jobs`, and
        the call must have its data. A fit that had come to its end is not trained any
        further. Only if `set_callbacks` has set a `Checkpoint` again, others are
        written.

        Parameters
        ----------
        path : str or path-like
            That of the `cbp.callbacks.Checkpoint`. Of its two files the one is used
            that was written last; if it is damaged, the other.

        X, y, sample_weight : as in `fit`
            Those of the lost fit.

        X_val, y_val, sample_weight_val : as in `fit`
            Likewise.

        Returns
        -------
        self : estimator
            The fitted estimator itself.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ModelFileError
            If none can be read; a ValueError.
        ValueError
            If a parameter, or something of the data, is not that of the lost fit; and
            as in `fit`.
        """
        saved = newest(os.path.abspath(os.fsdecode(path)))
        given = Given(X_val, y_val, sample_weight_val)
        self._train(X, y, sample_weight, given, saved)
        return self

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        given: Given,
        saved: Saved | None = None,
    ) -> None:
        with self._trial() as trial, under_way(self) as stop:
            trial._check_parameters()
            # What fails, in a callback too, leaves the model as it was.
            with Session(self) if listens(self) else nullcontext() as session:
                _fitting.fit(
                    trial,
                    X,
                    y,
                    sample_weight,
                    incremental=False,
                    validation=given,
                    session=session,
                    saved=saved,
                    stop=stop,
                )
                if session is not None:
                    session.end(trial._fitted)

    def request_stop(self) -> bool:
        """End the fits of this estimator that are under way in other threads.

        Each ends as Ctrl-C would end it: within a tenth of a second or so, by a
        KeyboardInterrupt in the thread that called `fit` or `resume`, and the
        estimator is left with the weights of the last step (`partial_fit`, one epoch,
        is not ended). Signals reach the main thread only; this reaches all. In a
        pipeline it is asked of the network itself.

        Returns
        -------
        bool
            Whether there was a fit to end.
        """
        return request(self)

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Set the callbacks that `fit` calls, by scikit-learn's protocol.

        A callback is told when the fit and each epoch (with L-BFGS each iteration)
        begins and ends, and stops the fit by returning True at the end of an epoch. The
        context of an epoch has its numbers as `progress` (`cbp.callbacks.Epoch`).
        `partial_fit` and `initialize` call nobody: they are parts of a fit whose
        beginning and end only their caller knows.

        Parameters
        ----------
        *callbacks : callback instances
            Of `cbp.callbacks`, of scikit-learn (from 1.9 on), or your own. They take
            the place of those that were set; none at all removes them.

        Returns
        -------
        self : estimator
            The estimator itself.

        Raises
        ------
        TypeError
            If one of them lacks a method of the protocol, or is a class.
        """
        demand_callbacks(callbacks)
        if callbacks:
            self._skl_callbacks = list(callbacks)
        else:
            self.__dict__.pop("_skl_callbacks", None)
        return self

    def _weigh(
        self, sample_weight: Any, X: Any, y: Any, incremental: bool, balance: Any = None
    ) -> Any:
        """The weights of rows, with those of their classes if there are any."""
        return sample_weight

    def _engine_scores(self) -> bool:
        """Whether `score` is known to the engine: accuracy or R2."""
        return True

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
            trial._fitted = Fitted()
            trial._fitted = _fitting.start(trial, X, y)
        return self

    def diagnose(
        self, X_val: Any = None, y_val: Any = None, sample_weight_val: Any = None
    ) -> Diagnosis:
        """Say what the model is worth, and why training went well or did not.

        Reads what the last fit recorded (``monitor=True``), also if it diverged. What
        each finding means is explained in docs/diagnosis.md.

        Parameters
        ----------
        X_val : {array-like, sparse matrix} of shape (n_samples, n_features), \
                default=None
            Rows that the model was not trained on. They tell whether it has learned
            its training rows by heart. None means those that the fit held out, if it
            did (``early_stopping=True``, or `X_val` in `fit`).
        y_val : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Their targets.
        sample_weight_val : array-like of shape (n_samples,), default=None
            Their weights.

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
            If the last fit recorded nothing, or the given rows do not fit the model.
        """
        return diagnose(self._with(self._fitted), X_val, y_val, sample_weight_val)

    # ------------------------------------------------------------------- predict

    def _outputs(self, model: Fitted, X: Any, *, logits: bool) -> Floats:
        """Outputs of the network, or its logits, shape (n_samples, n_outputs).

        Computed in the network's type; a wider X makes the result as wide.
        """
        network, theta = model._network, model.theta()
        outputs, given = None, network.dtype
        if is_ready(model, X, network.dtype):
            outputs = predict(network, theta, X, logits, finite=True)
        if outputs is None:
            X, given = checked_rows(self._with(model), X, network.dtype)
            outputs = predict(network, theta, X, logits)
        if not all_finite(outputs):
            finite = np.isfinite(outputs).all(axis=1)
            refuse_overflow(finite, X, network.dtype)
        if given != network.dtype:
            outputs = outputs.astype(np.promote_types(given, network.dtype))
        return outputs

    def _logits_in_pieces(self, model: Fitted, X: Any) -> Iterator[Floats]:
        """The logits of all rows, some rows at a time: with very many outputs those of
        all would be larger than X and a sparse y."""
        network, theta = model._network, model.theta()
        X, given = checked_rows(self._with(model), X, network.dtype)
        step = max(_PIECE_ROWS, _PIECE_ITEMS // network.n_outputs)
        finite = []
        for start in range(0, X.shape[0], step):
            some = kernel_ready(X[start : start + step])
            outputs = predict(network, theta, some, True)
            finite.append(np.isfinite(outputs).all(axis=1))
            yield outputs
        if not all(map(np.all, finite)):
            refuse_overflow(np.concatenate(finite), X, network.dtype)

    def hidden_activations(self, X: Rows, layer: int = -1) -> Floats:
        """Activations of a hidden layer, the units that the next layer sees.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        layer : int, default=-1
            The index of the hidden layer, as in `coefs_`: 0 is the first one, which
            `diagnose` calls layer 1, and -1 the last.

        Returns
        -------
        A : ndarray of shape (n_samples, n_units)
            In the type that the model computes in.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If X is not allowed, or if there is no such layer.
        """
        place = hidden_layer(len(self._model()._network.activations), layer)
        return hidden_outputs(self, X)[place]

    # -------------------------------------------------------- other forms of a model

    def to_sklearn(self) -> MLPClassifier | MLPRegressor:
        """A fitted estimator of scikit-learn that predicts the same, up to rounding.

        It opens the tools that know only theirs. It can be trained on; settings of
        training that theirs has not, such as dropout or the schedule 'cosine', are left
        out, and the optimizer begins anew.

        Returns
        -------
        model : MLPClassifier or MLPRegressor

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If theirs cannot hold the model, with what it cannot hold: hidden layers
            with several activations, activations or losses that are not theirs,
            several columns of labels, a single class.
        """
        return to_sklearn(self._with(self._fitted))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_checked_parameters", None)
        fitted = state.pop("_fitted", self._fitted)
        if fitted.__dict__:
            state["_format"], state["_cbp_version"] = FORMAT, VERSION
        keep = self.warm_start or fitted.get("_partially_fitted", False)
        return state | pickled(fitted, keep_optimizer=keep)

    def __setstate__(self, state: dict[str, Any]) -> None:
        name = type(self).__name__
        if not isinstance(state, dict):
            raise ValueError(f"A {name} cannot be made of {type(state).__name__}.")
        state = dict(state)
        form, by = state.pop("_format", FORMAT), state.pop("_cbp_version", "")
        if not isinstance(form, int) or form < 1:
            raise ValueError(
                f"This pickle of a {name} is damaged or was changed: its format is "
                f"{form!r}."
            )
        if form > FORMAT:
            named = f" ({by})" if by else ""
            raise ValueError(
                f"This {name} was saved by a newer version of cbp{named}, in format "
                f"{form}; this version reads formats up to {FORMAT}. Update cbp to "
                "load it."
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
        super().__setstate__(defaults_of(type(self)) | state)
        if held:
            self._fitted = fitted

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


# ---- what other modules read of an estimator


def network_of(estimator: BaseBP) -> Network:
    """The network of a fitted estimator."""
    return estimator._model()._network


def hidden_layer(n_hidden: int, layer: Any) -> int:
    """The number of a hidden layer, from 0 on, that users may count from either end."""
    whole = isinstance(layer, Integral) and not isinstance(layer, bool)
    if not n_hidden:
        raise ValueError(f"The network has no hidden layer; got layer={layer!r}.")
    if not whole or not -n_hidden <= layer < n_hidden:
        there_are = f"{n_hidden} hidden layers" if n_hidden > 1 else "one hidden layer"
        raise ValueError(
            f"layer must be an int in [{-n_hidden}, {n_hidden}), an index into "
            f"{there_are}; got {layer!r}."
        )
    return int(layer) % n_hidden


def hidden_outputs(
    estimator: BaseBP, X: Rows, slopes: list[Floats] | None = None
) -> list[Floats]:
    """a of every hidden layer for every row of X; f'(z) is added to `slopes`."""
    model = estimator._model()
    hidden: list[Floats] = []
    X, _ = checked_rows(estimator._with(model), X, model._network.dtype)
    predict(model._network, model.theta(), X, hidden=hidden, slopes=slopes)
    return hidden
