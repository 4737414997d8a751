"""One fit and its callbacks, by the protocol of `sklearn.callback` (scikit-learn 1.9).

`Session` sets callbacks up, opens the contexts of the fit and of its epochs, and tears
down. `Epoch` is what a context of an epoch tells beside. Nothing here is ever asked for
by a fit without callbacks, and scikit-learn's module, which imports rich if that is
installed, is imported by the first fit that has some. Before scikit-learn 1.9 `Context`
takes the place of scikit-learn's. The callbacks of this package are in callbacks.py.
"""

from __future__ import annotations

import copy
import functools
import inspect
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight

from cbp._solvers import SOLVERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cbp._fitted import Fitted
    from cbp._progress import Progress
    from cbp._recorder import Recorder
    from cbp._validation import Checked
    from cbp.gradient_flow import GradientFlow

_METHODS = ("setup", "teardown", "on_fit_task_begin", "on_fit_task_end")

# What the hooks of a callback may ask for, by keyword.
_ASKED = ("X", "y", "metadata", "fitted_estimator")


def demand_callbacks(callbacks: Sequence) -> None:
    """Refuse what does not follow scikit-learn's protocol, in its words."""
    for callback in callbacks:
        if isinstance(callback, list | tuple):
            raise TypeError(
                "callbacks must be instances following the FitCallback protocol, given "
                "one by one: set_callbacks(a, b), not set_callbacks([a, b])."
            )
        missing = [
            name for name in _METHODS if not callable(getattr(callback, name, None))
        ]
        if missing or isinstance(callback, type):
            what = f"it has no {', '.join(missing)}" if missing else "it is a class"
            raise TypeError(
                "callbacks must be instances following the FitCallback protocol. "
                f"{callback!r} does not: {what}."
            )


def listens(estimator: Any) -> bool:
    """Whether a fit has to tell somebody: a callback, or the task of a search."""
    own = estimator.__dict__
    return "_skl_callbacks" in own or "_parent_callback_ctx" in own


# ---- what callbacks see


@dataclass(frozen=True)
class Epoch:
    """What an epoch, or an iteration of L-BFGS, has reached: `context.progress`.

    There is one in the context that `on_fit_task_end` gets after each epoch. Numbers
    stay; the methods work only as long as that call lasts. Nothing of it is the
    training's own.

    Parameters
    ----------
    epoch : int
        Counted from 1, as `best_iter_` is.
    loss : float
        Training loss, as in `loss_curve_`.
    validation_loss, validation_score : float or None
        Of held-out rows, as in `validation_loss_curve_` and `validation_scores_`. None
        if there are none.
    learning_rate : float or None
        That of the last step as the schedule has it, without Adam's corrections. None
        with L-BFGS.
    seconds : float
        Time since training began.
    n_rows : int
        Rows that are trained on.
    """

    epoch: int
    loss: float
    validation_loss: float | None
    validation_score: float | None
    learning_rate: float | None
    seconds: float
    n_rows: int

    @classmethod
    def begin(cls, numbers: dict[str, Any], session: Session) -> Epoch:
        """The record that is shown while the call lasts.

        It is made after every epoch, and for that not field by field.
        """
        self = object.__new__(cls)
        own = self.__dict__
        own.update(numbers)
        own["_session"] = session
        return self

    def __reduce__(self) -> tuple:
        return Epoch, tuple(getattr(self, each.name) for each in fields(self))

    def _live(self) -> Session:
        session = self.__dict__.get("_session")
        if session is None:
            raise RuntimeError(
                f"Epoch {self.epoch} is over. Ask for its gradients or its diagnosis "
                "while on_fit_task_end is called for it."
            )
        return session

    def gradient(self) -> list[float] | None:
        """Root mean square of dW for each layer, as in `gradient_flow_`.

        Returns
        -------
        list of float or None
            None if no batch of this epoch was recorded: short epochs are recorded only
            now and then, and with ``monitor=False`` none is.
        """
        recorder = self._live().recorder
        last = None if recorder is None else recorder.last_gradient()
        return last[1] if last and last[0] == self.epoch - 1 else None

    def gradient_flow(self) -> GradientFlow | None:
        """The records so far.

        Returns
        -------
        GradientFlow or None
            None with ``monitor=False``.
        """
        flow = self._live().flow
        return None if flow is None else flow()

    def diagnose(self) -> Any:
        """What `diagnose` would say if the fit ended here.

        Returns
        -------
        Diagnosis

        Raises
        ------
        ValueError
            If nothing is recorded (``monitor=False``), or not yet.
        """
        session = self._live()
        return session.estimator._with(session.model()).diagnose()


class Rows:
    """X, y and weights of a fit as callbacks may see them: nobody can write into them.

    Those that are trained on, made when the first callback asks.
    """

    def __init__(
        self, X: Any, data: Checked, rows: NDArray | None, weight: Any, named: bool
    ):
        # With names of columns the frame is shown, for which the model asks.
        self._X, self._data, self._rows = X if named else data.X, data, rows
        self._named, self._weight = named, weight

    @cached_property
    def X(self) -> Any:
        if self._named and self._rows is None:
            return copy.deepcopy(self._X)
        if self._named:
            return _safe_indexing(self._X, self._rows)
        return self._shown(self._X)

    @cached_property
    def y(self) -> Any:
        return self._shown(self._data.y)

    @cached_property
    def metadata(self) -> dict[str, Any] | None:
        """What `fit` was given beside X and y, as scikit-learn's callbacks want it."""
        if self._weight is None:
            return None
        return {
            "sample_weight": self._shown(
                _check_sample_weight(self._weight, self._data.X)
            )
        }

    def _shown(self, array: Any) -> Any:
        return _read_only(array if self._rows is None else array[self._rows])


def _read_only(array: Any) -> Any:
    """The same numbers, not to be written."""
    if sparse.issparse(array):
        parts = [_read_only(getattr(array, a)) for a in ("data", "indices", "indptr")]
        return type(array)(tuple(parts), shape=array.shape)
    view = array.view()
    view.flags.writeable = False
    return view


# ---- contexts before scikit-learn 1.9


class Context:
    """scikit-learn's CallbackContext, as far as one estimator needs it.

    `root_uuid` is the same in all contexts of a fit. Tasks know the one that they are
    within, which does not know them.
    """

    def __init__(self, estimator: Any, task_name: str, max_subtasks: int | None):
        self.estimator_name = type(estimator).__name__
        self.task_name, self.max_subtasks = task_name, max_subtasks
        self.task_id, self.sequential_subtasks = 0, True
        self.parent: Context | None = None
        self.root_uuid = uuid.uuid4()
        self.init_time = datetime.now(UTC)
        self.source_estimator_name = self.source_task_name = None
        self._n_subtasks = 0

    def subcontext(self, task_name: str = "", max_subtasks: int | None = 0) -> Context:
        """The context of the next task within this one."""
        child = copy.copy(self)
        child.task_name, child.max_subtasks = task_name, max_subtasks
        child.task_id, child.parent = self._n_subtasks, self
        child.init_time = datetime.now(UTC)
        child._n_subtasks = 0
        self._n_subtasks += 1
        return child


def _root(estimator: Any, max_subtasks: int) -> Any:
    """The context of a fit, within the task of a search or a pipeline if there is one.

    Not scikit-learn's `_init_callback_context`, which leaves its notes in the
    estimator: a second thread that fits it, or a pickle, would find them there.
    """
    try:
        from sklearn.callback import CallbackContext
    except ImportError:  # before 1.9
        return Context(estimator, "fit", max_subtasks)
    return CallbackContext._from_estimator(
        estimator,
        task_name="fit",
        task_id=0,
        max_subtasks=max_subtasks,
        sequential_subtasks=True,
    )


# ---- one fit


class Hook:
    """A method of the callbacks, of each the keywords that it asks for.

    They are looked up once per fit: scikit-learn's own contexts look them up in every
    call, which takes as long as the rest of what an epoch costs with a callback.
    """

    def __init__(self, callbacks: Sequence, name: str):
        self.methods = []
        for callback in callbacks:
            method = getattr(callback, name)
            # Bound methods are new each time, the functions behind them are not.
            asked = _keywords(getattr(method, "__func__", method))
            if unknown := set(asked) - set(_ASKED):
                raise TypeError(
                    f"Hook {name} of the callback {type(callback).__name__} has "
                    f"parameters that are not valid: {unknown}. The valid parameters "
                    f"are: {[*_ASKED]}."
                )
            self.methods.append((method, asked))

    def __call__(self, estimator: Any, context: Any, ask: dict[str, Callable]) -> bool:
        """Call all; whether one of them returned something true.

        ask: what makes a keyword's value; nothing is made before a callback asks, and
        all get the same. The value of others is None.
        """
        stop = False
        made: dict[str, Any] = {}
        for method, asked in self.methods:
            for name in asked:
                if name not in made:
                    made[name] = ask[name]() if name in ask else None
            if asked:
                said = method(
                    estimator, context, **{name: made[name] for name in asked}
                )
            else:
                said = method(estimator, context)
            if said:
                stop = True
        return stop


@functools.lru_cache
def _keywords(function: Callable) -> tuple[str, ...]:
    """The keyword-only parameters of a function; to find them takes 30 us."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)


class Session:
    """The callbacks of one fit; as a context manager it sets them up and tears down.

    Parameters
    ----------
    estimator : BPClassifier or BPRegressor
        What callbacks are told is fitted. It is the user's own, and the fit works on a
        copy of it.
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator
        self.callbacks = list(getattr(estimator, "_skl_callbacks", ()))
        self.context = _root(estimator, int(estimator.max_iter))
        self._set_up: list = []
        self._epoch: Any = None  # the context of the one under way
        self.source: Callable | None = None
        self.goes_on = True  # as far as is known, after this epoch
        self._data: dict[str, Callable] = {}  # what hooks may ask for
        self._state: dict[str, Callable] = {}  # the same, and a fitted estimator

    @property
    def listens(self) -> bool:
        """Whether anybody wants to know of epochs."""
        return bool(self.callbacks)

    @property
    def keeps_state(self) -> bool:
        """Whether anybody asks for all that a fit needs to be resumed."""
        return any(getattr(each, "keeps_state", False) for each in self.callbacks)

    def __enter__(self) -> Session:
        merged = hasattr(self.estimator, "_parent_callback_ctx")
        try:
            for callback in self.callbacks:
                # The outermost estimator has set up what it hands down.
                if merged and hasattr(callback, "max_propagation_depth"):
                    continue
                self._set_up.append(callback)
                callback.setup(self.estimator, self.context)
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._tear_down()
        finally:
            # They lead back here: only the garbage collector would free the data.
            self._state = self._data = {}
            self.source = None

    def _tear_down(self) -> None:
        """All of them, whatever one of them raises; an interrupt is raised last."""
        errors: list[Exception] = []
        interrupt: BaseException | None = None
        for callback in self._set_up:
            try:
                callback.teardown(self.estimator, self.context)
            except Exception as error:
                errors.append(error)
            except BaseException as error:  # Ctrl-C, or an exit
                interrupt = interrupt or error
        failure: Exception | None = errors[0] if errors else None
        if len(errors) > 1:
            failure = ExceptionGroup("Several callbacks failed in teardown", errors)
        if interrupt is not None:
            raise interrupt from failure
        if failure is not None:
            raise failure

    def begin(
        self,
        rows: Rows,
        n_rows: int,
        recorder: Recorder | None,
        flow: Callable | None,
        model: Callable,
        source: Callable,
    ) -> None:
        """Training is about to begin.

        Parameters
        ----------
        rows : Rows
        n_rows : int
            The number of rows that are trained on.
        recorder : Recorder or None
        flow : callable() -> GradientFlow, or None
            The records so far.
        model : callable() -> Fitted
            What the fit would leave behind if it ended now. May share arrays with it.
        source : callable() -> Source
            What makes checkpoints of the fit.
        """
        self.recorder, self.flow, self.model = recorder, flow, model
        self.source = source
        self.n_rows = n_rows
        self._on_begin = Hook(self.callbacks, "on_fit_task_begin")
        self._on_end = Hook(self.callbacks, "on_fit_task_end")
        self._data = {
            "X": lambda: rows.X,
            "y": lambda: rows.y,
            "metadata": lambda: rows.metadata,
        }
        self._state = self._data | {"fitted_estimator": self._fitted_estimator}
        solver = SOLVERS[self.estimator.solver]
        self._task = solver.epoch
        self._on_begin(self.estimator, self.context, self._state)
        self._began = time.perf_counter()
        if self.listens and solver.stochastic:
            self._begin_epoch(self._state)

    def _fitted_estimator(self) -> Any:
        """A copy of the user's estimator, fitted as if the fit ended now."""
        twin = copy.copy(self.estimator)
        twin._fitted = copy.deepcopy(self.model().changed(_optimizer=None))
        return twin

    def _begin_epoch(self, ask: dict[str, Callable]) -> None:
        self._epoch = self.context.subcontext(task_name=self._task)
        self._on_begin(self.estimator, self._epoch, ask)

    def after_epoch(self, progress: Progress) -> bool:
        """The listener of the solver (see `AfterEpoch`)."""
        if self._epoch is None:
            # L-BFGS does not say beforehand that there is another iteration, and by now
            # its weights are those of the end.
            self._begin_epoch(self._data)
        scored, rate = progress.scored, progress.learning_rate
        self.goes_on = progress.goes_on
        shown = Epoch.begin(
            {
                "epoch": progress.n_iter,
                "loss": progress.loss,
                "validation_loss": (
                    progress.validation_loss_curve[-1] if scored else None
                ),
                "validation_score": progress.validation_scores[-1] if scored else None,
                "learning_rate": rate if rate == rate else None,  # no NaN
                "seconds": time.perf_counter() - self._began,
                "n_rows": self.n_rows,
            },
            self,
        )
        self._epoch.progress = shown
        try:
            stop = self._on_end(self.estimator, self._epoch, self._state)
        finally:
            del shown.__dict__["_session"]
        self._epoch = None
        if progress.goes_on and not stop:
            self._begin_epoch(self._state)
        return stop

    def end(self, fitted: Fitted) -> None:
        """The fit has succeeded; `fitted` is its result, not yet the estimator's."""
        self.model = lambda: fitted
        self._on_end(self.estimator, self.context, self._state)
