"""Solvers: a row for each, and how it runs. What differs by solver is asked for here.

The stochastic solvers are compiled (_training.pyx) and come back to Python only if
somebody listens. L-BFGS is SciPy's; this is the only module that imports it, and the
libraries that hold its BLAS to one thread. Both tell the same listeners, after every
epoch, what they have reached. Labels, data frames and fitted models are not known here.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from cbp._catalog import LOSSES, OPTIMIZERS, SCHEDULES, Optimizer
from cbp._progress import Progress
from cbp._training import Trainer

if TYPE_CHECKING:
    Floats = NDArray[np.floating[Any]]

# after_epoch(progress) -> stop: called after every epoch or iteration; what returns
# true ends training.
AfterEpoch: TypeAlias = Callable[[Progress], bool | None]

# score(progress) -> float: of held-out rows, where the engine does not know it.
Score: TypeAlias = Callable[[Progress], float]

# The most epochs or evaluations that are counted.
_ENDLESS = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """When a run ends at the latest, and for L-BFGS when the gradient is small."""

    max_iter: int
    max_fun: int
    tol: float


class End(NamedTuple):
    """How a run ended.

    `reason` is "patience", "tolerance", "max_iter", "stuck", "diverged" or "stopped",
    by a listener; `warning` is what a user should be told, if anything.
    """

    reason: str
    warning: str = ""

    @property
    def outcome(self) -> str:
        """The name that a summary of the fit has for it."""
        own = self.reason in ("patience", "tolerance")
        return "converged" if own else self.reason


def _tell(listeners: Sequence[AfterEpoch], progress: Progress) -> bool:
    """Whether any listener wants to stop; all are told."""
    return any([listener(progress) for listener in listeners])


# ---- compiled optimizers


def run_stochastic(
    trainer: Trainer,
    theta: Floats,
    target: NDArray,
    limits: Limits,
    listeners: Sequence[AfterEpoch] = (),
    score: Score | None = None,
    opened: OpenLBFGS | None = None,
) -> End:
    """Epochs of compiled batches; theta is the trainer's own."""
    after_epoch = functools.partial(_tell, listeners) if listeners else None
    if len(listeners) == 1:
        (after_epoch,) = listeners
    status = trainer.run(min(limits.max_iter, _ENDLESS), after_epoch, score)
    if status == "converged":
        return End("patience")
    warning = ""
    if status == "max_iter":
        warning = (
            f"Stochastic Optimizer: Maximum iterations ({limits.max_iter}) reached "
            "and the optimization hasn't converged yet."
        )
    return End(status, warning)


# ---- L-BFGS


class _Stop(Exception):
    """Ends L-BFGS from within; works with every SciPy. Its argument is a reason."""


def run_lbfgs(
    trainer: Trainer,
    theta: Floats,
    target: NDArray,
    limits: Limits,
    listeners: Sequence[AfterEpoch] = (),
    score: Score | None = None,
    opened: OpenLBFGS | None = None,
) -> End:
    """SciPy's L-BFGS-B on loss and gradient over all rows.

    Theta is that of the last iteration. It is not the trainer's own, into which the
    trainer writes every theta that SciPy asks about. `opened` is for who asks for the
    state between two iterations, or has restored it.
    """
    run, progress = _LBFGS(trainer, theta, target, listeners, score), trainer.progress
    run.opened = opened
    try:
        with trainer, _OneBlasThread():
            return run.minimize(limits)
    except _Stop as stop:
        return End(*stop.args)
    finally:
        if opened is not None:
            opened.run = None  # which holds it
        curve = progress.loss_curve
        progress.loss = curve[-1] if curve else progress.loss
        progress.best_loss = min(curve, default=progress.loss)


class _LBFGS:
    """What the functions that SciPy calls share.

    SciPy's x are the parameters in units: those of the output layer may be counted in
    units of the targets' size, and then the loss in its square.
    """

    def __init__(
        self,
        trainer: Trainer,
        theta: Floats,
        target: NDArray,
        listeners: Sequence[AfterEpoch],
        score: Score | None,
    ):
        self.trainer, self.theta, self.listeners = trainer, theta, listeners
        self.score = score
        self.progress = trainer.progress
        self.unit = _output_unit(trainer, target)
        self.units: Floats | None = None
        if self.unit != 1:
            self.units = np.ones(trainer.network.n_params)
            W, b = trainer.network.views(self.units)
            W[-1][...] = b[-1][...] = self.unit
        # At the last theta tried; an iteration ends by accepting that one.
        self.loss: float | None = None
        self.first_loss = math.inf
        self.overflowed = False
        self.opened: OpenLBFGS | None = None

    def minimize(self, limits: Limits) -> End:
        from scipy.optimize import minimize

        if self.opened is not None:
            self.opened.hand_over(self)
            minimize = self.opened.minimize
        start = self.theta.astype(np.float64)
        result = minimize(
            self.loss_gradient,
            start if self.units is None else start / self.units,
            method="L-BFGS-B",
            jac=True,
            callback=self.after_iteration,
            options={
                "maxfun": min(limits.max_fun, _ENDLESS),
                "maxiter": min(limits.max_iter, _ENDLESS),
                "gtol": limits.tol,
            },
        )
        np.copyto(self.theta, self._theta_of(result.x), casting="same_kind")
        progress = self.progress
        progress.loss = float(result.fun) * self.unit**2
        # Where every step overflows, SciPy says that it has converged.
        stuck = self.overflowed and progress.loss >= self.first_loss
        if stuck or not (math.isfinite(result.fun) and np.isfinite(self.theta).all()):
            return End("diverged")
        progress.n_iter = min(result.nit, limits.max_iter)
        # 1: max_iter or max_fun; 2: no step lowered the loss.
        reason = {1: "max_iter", 2: "stuck"}.get(result.status, "tolerance")
        return End(reason, _warning_of(result, progress.n_iter, limits.max_iter))

    def _theta_of(self, x: Floats) -> Floats:
        return x if self.units is None else x * self.units

    def loss_gradient(self, x: Floats) -> tuple[float, Floats]:
        first = self.loss is None
        loss, gradient = self.trainer.loss_gradient(self._theta_of(x))
        self.loss = loss
        finite = math.isfinite(loss) and np.isfinite(gradient).all()
        if first:
            self.first_loss = loss
            if not finite:
                raise _Stop("diverged")
        self.overflowed |= not finite
        if self.units is None:
            return loss, gradient
        return loss / self.unit**2, gradient * (self.units / self.unit**2)

    def after_iteration(self, x: Floats) -> None:
        trainer, progress = self.trainer, self.progress
        theta = self._theta_of(x)
        trainer.end_iteration(progress.n_iter, theta, self.theta)
        theta = theta.astype(self.theta.dtype, copy=False)
        if not (math.isfinite(self.loss) and np.isfinite(theta).all()):
            np.copyto(self.theta, theta)
            raise _Stop("diverged")
        progress.accept(self.theta, theta, self.loss)
        worn_out = False
        if trainer.holds_out:
            told = None if self.score is None else self.score(progress)
            worn_out = trainer.score_weights(self.theta, told)
        if _tell(self.listeners, progress):
            raise _Stop("stopped")
        if worn_out:
            raise _Stop("patience")


class OpenLBFGS:
    """SciPy's L-BFGS-B with its state in sight: the loop of `minimize`, call for call.

    SciPy's own loop hands nothing out but x, and shares the compiled part that is
    called here. That is not public: `is_there` says whether it does here what it is to
    do.
    """

    _ARRAYS = ("x", "g", "wa", "iwa", "task", "lsave", "isave", "dsave", "ln_task")
    _NUMBERS = ("f", "n_iterations", "n_evaluations")
    _OF_RUN = ("loss", "first_loss", "overflowed")
    _M, _FTOL, _MAXLS = 10, 2.2204460492503131e-09, 20  # SciPy's defaults

    def __init__(self) -> None:
        self.run: Any = None  # the _LBFGS, or none in a test
        self._restored: dict[str, Any] | None = None

    @staticmethod
    @functools.cache
    def is_there() -> bool:
        """Whether a small problem comes to the bits of SciPy's `minimize`."""
        from scipy.optimize import minimize, rosen, rosen_der

        def problem(x: Floats) -> tuple[float, Floats]:
            return rosen(x), rosen_der(x)

        ends = []
        for solve in (minimize, OpenLBFGS().minimize):
            steps: list[bytes] = []
            options = {"maxfun": 99, "maxiter": 12, "gtol": 1e-5}
            try:
                end = solve(
                    problem,
                    np.linspace(-1, 2, 5),
                    method="L-BFGS-B",
                    jac=True,
                    callback=lambda x, steps=steps: steps.append(x.tobytes()),
                    options=options,
                )
            except Exception:  # whatever another version of SciPy has instead
                return False
            ends.append((steps, end.x.tobytes(), end.nit, end.status, end.message))
        return ends[0] == ends[1]

    def minimize(
        self,
        fun: Callable[[Floats], tuple[float, Floats]],
        x0: Floats,
        *,
        callback: Callable[[Floats], None],
        options: dict[str, Any],
        **same: Any,
    ) -> Any:
        """As SciPy's function of this name, with the arguments that it gets here."""
        from scipy.optimize import OptimizeResult, _lbfgsb_py
        from scipy.optimize._lbfgsb import setulb

        n, m = x0.size, self._M
        goes_on = self._restored is not None
        if not goes_on:
            self._begin(x0)
        elif self.x.size != n:
            raise ValueError("the state of L-BFGS is of another network")
        bounds = np.zeros(n), np.zeros(n), np.zeros(n, np.int32)
        factr = self._FTOL / np.finfo(float).eps
        # x, f, g of the last evaluation.
        if goes_on:
            known = (self.x.copy(), self.f, self.g)
        else:
            known = (self.x.copy(), *fun(self.x.copy()))
            self.n_evaluations = 1
        task = self.task
        while True:
            if not goes_on:
                self.g = self.g.astype(np.float64)
                setulb(m, self.x, *bounds, self.f, self.g, factr, options["gtol"],
                       self.wa, self.iwa, task, self.lsave, self.isave, self.dsave,
                       self._MAXLS, self.ln_task)  # fmt: skip
            if task[0] == 3:
                if not np.array_equal(known[0], self.x):
                    known = (self.x.copy(), *fun(self.x.copy()))
                    self.n_evaluations += 1
                self.f, self.g = float(known[1]), known[2]
            elif task[0] == 1:
                if not goes_on:
                    self.n_iterations += 1
                    callback(self.x.copy())
                goes_on = False
                if self.n_iterations >= options["maxiter"]:
                    task[0], task[1] = 5, 504
                elif self.n_evaluations > options["maxfun"]:
                    task[0], task[1] = 5, 502
            else:
                break
        status = 2
        if task[0] == 4:
            status = 0
        elif (
            self.n_evaluations > options["maxfun"]
            or self.n_iterations >= options["maxiter"]
        ):
            status = 1
        said = _lbfgsb_py.status_messages[task[0]], _lbfgsb_py.task_messages[task[1]]
        return OptimizeResult(
            x=self.x,
            fun=self.f,
            nit=self.n_iterations,
            status=status,
            message=": ".join(said),
        )

    def _begin(self, x0: Floats) -> None:
        for name, array in zip(self._ARRAYS, self._zeros(x0.size), strict=True):
            setattr(self, name, array)
        self.x[...] = x0
        self.f: Any = np.array(0.0)
        self.n_iterations = self.n_evaluations = 0

    def _zeros(self, n: int) -> list[NDArray]:
        m = self._M
        n_work = 2 * m * n + 5 * n + 11 * m * m + 8 * m
        sizes = {"x": n, "g": n, "wa": n_work, "iwa": 3 * n, "task": 2, "lsave": 4}
        sizes |= {"isave": 44, "dsave": 29, "ln_task": 2}
        floats = ("x", "g", "wa", "dsave")
        return [
            np.zeros(sizes[name], np.float64 if name in floats else np.int32)
            for name in self._ARRAYS
        ]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """Numbers and arrays, after an iteration and while its callback is called."""
        numbers = {name: getattr(self, name) for name in self._NUMBERS}
        numbers |= {name: getattr(self.run, name) for name in self._OF_RUN}
        numbers["overflowed"] = int(numbers["overflowed"])
        said = {f"lbfgs.{name}": number for name, number in numbers.items()}
        return said, {f"lbfgs.{name}": getattr(self, name) for name in self._ARRAYS}

    def restore(
        self, numbers: dict[str, Any], arrays: dict[str, NDArray], n: int
    ) -> None:
        """The next `minimize`, of n parameters, goes on where `state` was asked for."""
        for name, like in zip(self._ARRAYS, self._zeros(n), strict=True):
            array = arrays[f"lbfgs.{name}"]
            if array.shape != like.shape or array.dtype != like.dtype:
                raise ValueError(f"{name} of L-BFGS is of another network")
            setattr(self, name, array.copy())
        self.f = float(numbers["lbfgs.f"])
        self.n_iterations = int(numbers["lbfgs.n_iterations"])
        self.n_evaluations = int(numbers["lbfgs.n_evaluations"])
        self._restored = {name: numbers[f"lbfgs.{name}"] for name in self._OF_RUN}
        if self.task[0] != 1 or self.n_iterations < 1:
            raise ValueError("the state of L-BFGS is not that after an iteration")

    def hand_over(self, run: Any) -> None:
        """What a run that goes on knows beside SciPy's state."""
        self.run = run
        for name, value in (self._restored or {}).items():
            setattr(run, name, value)


def _output_unit(trainer: Trainer, target: NDArray) -> float:
    """The unit of the outputs, a power of two; 1 unless targets are very large.

    The first step of L-BFGS has the length 1. Where the targets are so large that
    float arithmetic cannot feel such a step, the parameters of the output layer are
    counted in units of the targets' size.
    """
    network = trainer.network
    if not LOSSES[network.output, network.loss].squared:
        return 1.0
    size = float(np.abs(target).max())
    if size * np.finfo(network.dtype).eps < 1:
        return 1.0
    return math.ldexp(1.0, math.frexp(size)[1])


def _warning_of(result: Any, n_iter: int, max_iter: int) -> str:
    """scikit-learn's warning of an L-BFGS that did not converge, or nothing.

    Its own function would name a line of the package.
    """
    if result.status == 0:
        return ""
    more = ""
    if n_iter == max_iter:
        more = (
            "\nIncrease the number of iterations to improve the convergence "
            f"(max_iter={max_iter})."
        )
    return (
        f"lbfgs failed to converge after {n_iter} iteration(s) "
        f"(status={result.status}):\n{result.message}\n{more}"
        "\nYou might also want to scale the data as shown in:\n"
        "    https://scikit-learn.org/stable/modules/preprocessing.html"
    )


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


# ---- the rows


@dataclass(frozen=True)
class Solver:
    """What differs from solver to solver.

    Attributes
    ----------
    run : callable
        Trains: `run_stochastic` or `run_lbfgs`.
    title : str
        Its name in a sentence.
    epoch : str
        What one round over the data is called.
    instead : str
        The solver to try where this one can do no better.
    optimizer : Optimizer or None
        The catalogue's row, if it is compiled.
    chooses_its_steps : bool
        Whether it finds the length of each step by evaluations, which max_fun limits.
        Otherwise there is a learning rate.
    watches_gradient : bool
        Whether training ends where no entry of the gradient is above tol. Otherwise it
        ends where the loss makes no progress above tol for n_iter_no_change epochs.
    least_decrease : float
        Training also ends where a step lowers max(loss, 1) by less than this share.
    workspace : int
        Bytes per parameter beside those that the trainer counts.
    """

    run: Callable[..., End]
    title: str
    epoch: str
    instead: str
    optimizer: Optimizer | None = None
    chooses_its_steps: bool = False
    watches_gradient: bool = False
    least_decrease: float = 0.0
    workspace: int = 0

    @property
    def stochastic(self) -> bool:
        """Whether it takes steps on batches, as `partial_fit` does."""
        return self.optimizer is not None

    def batch_size(self, wanted: int | str, n_rows: int) -> int:
        """Rows per step, of `n_rows` to train on; `wanted` is the parameter."""
        if not self.stochastic:
            return n_rows
        return min(200 if wanted == "auto" else int(wanted), n_rows)

    def clips(self, wanted: int | str, n_rows: int) -> bool:
        """Whether fewer rows per step are taken than were asked for."""
        if wanted == "auto" or not self.stochastic:
            return False
        return wanted != self.batch_size(wanted, n_rows)


# SciPy keeps ten pairs of vectors, and a few more, in float64.
_SCIPY_BYTES = 26 * 8
# The default of its option ftol, rounded up.
_SCIPY_FTOL = 2.3e-9

# Every optimizer of the catalogue is compiled, and run in the same way.
SOLVERS = {
    name: Solver(run_stochastic, row.title, "epoch", instead="lbfgs", optimizer=row)
    for name, row in OPTIMIZERS.items()
}
SOLVERS["lbfgs"] = Solver(
    run_lbfgs,
    "L-BFGS",
    "iteration",
    instead="adam",
    chooses_its_steps=True,
    watches_gradient=True,
    least_decrease=_SCIPY_FTOL,
    workspace=_SCIPY_BYTES,
)

STOCHASTIC = tuple(name for name, solver in SOLVERS.items() if solver.stochastic)


# Parameters of steps that not every solver makes, and the values that ask for nothing.
_OF_STEPS = {"weight_decay": 0, "max_grad_norm": None, "average": 0, "warmup": 0}
_OF_STEPS |= {"dropout": 0, "input_dropout": 0}


def demand_steps(est: Any) -> None:
    """Refuse what only a solver that steps from batch to batch can do."""
    if SOLVERS[est.solver].stochastic:
        return
    asked = dict(_OF_STEPS)
    if follows_training(est.learning_rate):
        asked["learning_rate"] = "constant"
    for name, nothing in asked.items():
        # Some are sequences.
        if np.any(np.asarray(getattr(est, name), object) != nothing):
            raise ValueError(
                f"The {name!r} parameter must be {nothing!r} with "
                f"solver={est.solver!r}, which makes no steps from batch to batch, as "
                f"{' and '.join(STOCHASTIC)} do; got {getattr(est, name)!r}."
            )


def follows_training(learning_rate: Any) -> bool:
    """Whether this rate depends on how much of training is done."""
    return callable(learning_rate) or SCHEDULES[learning_rate].over_training


def demand_endless(est: Any) -> None:
    """Refuse in partial_fit what must know when training begins and ends."""
    asked = [name for name in ("warmup", "average") if getattr(est, name) != 0]
    if follows_training(est.learning_rate):
        asked.append("learning_rate")
    for name in asked:
        raise ValueError(
            f"{name}={getattr(est, name)!r} needs to know when training begins and "
            "ends, which partial_fit does not. Use fit, or give "
            f"{name} its default value."
        )


def demand_stochastic(solver: str) -> bool:
    """Refuse `partial_fit` for solvers that take all rows at once."""
    if solver not in STOCHASTIC:
        raise AttributeError(
            "partial_fit is only available for the stochastic solvers "
            f"{STOCHASTIC}; {solver!r} is not one of them."
        )
    return True
