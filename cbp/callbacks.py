"""Callbacks for BPClassifier and BPRegressor, by scikit-learn's protocol.

`History` keeps a table of epochs, `GradientAlarm` stops a fit that goes wrong and says
why, `LiveDisplay` draws a fit while it runs, `Checkpoint` writes it into a file, for
`resume` to go on with after a crash. They are set by `set_callbacks`, on the network
itself: of a pipeline on its last step. One object may serve several fits, one
after the other or in threads. A process of its own, as a search with ``n_jobs`` starts
them, has copies: what these keep stays with them. Callbacks of your own need no class
of this module; `Epoch` says what the context of an epoch tells them. How a fit calls
its callbacks is in _callbacks.py.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import time
from array import array
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbp._base import BaseBP
from cbp._callbacks import Epoch
from cbp._catalog import SCHEDULES
from cbp._checkpoint import Source, best_file, keep, last_number, slots, write
from cbp._plots import pyplot
from cbp._safetensors import ModelFileError
from cbp._solvers import SOLVERS, OpenLBFGS
from cbp._warn import warn
from cbp.diagnosis import PROBLEM, Diagnosis, Finding
from cbp.gradient_flow import GradientFlow, import_pandas
from cbp.plotting import GradientFlowDisplay, LossCurveDisplay

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Checkpoint", "Epoch", "GradientAlarm", "History", "LiveDisplay"]


class _Callback:
    """What the callbacks here share: something of their own for each fit under way."""

    def __init__(self) -> None:
        self._fits: dict[int, Any] = {}

    def setup(self, estimator, context) -> None:
        """Called by `fit` at its beginning."""
        if not isinstance(estimator, BaseBP):
            name, own = type(estimator).__name__, type(self).__name__
            raise TypeError(
                f"{own} works on a BPClassifier or a BPRegressor, not on a {name}. Set "
                "it on the network itself, for example by "
                f"model[-1].set_callbacks({own}()) in a pipeline."
            )
        self._fits[id(context)] = self._start(estimator)

    def teardown(self, estimator, context) -> None:
        """Called by `fit` at its end, however it ends."""
        state = self._fits.pop(id(context), None)
        if state is not None:
            self._finish(state)

    def on_fit_task_begin(self, estimator, context) -> None:
        """Called by `fit` before the first epoch and before each epoch."""

    def on_fit_task_end(self, estimator, context) -> bool:
        """Called by `fit` after each epoch and after the last one; True stops."""
        progress = getattr(context, "progress", None)
        if progress is None:
            return False
        return bool(self._after_epoch(self._fits[id(context.parent)], progress))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fits": {}}

    def _start(self, estimator: BaseBP) -> Any:
        """What is known of a fit that begins."""

    def _after_epoch(self, state: Any, progress: Epoch) -> bool | None:
        """True stops the fit."""

    def _finish(self, state: Any) -> None:
        pass


# ---- a table


_COLUMNS = ("epoch", "loss", "validation_loss", "validation_score")
_COLUMNS += ("learning_rate", "seconds")


class _Table:
    """The epochs of one fit, row by row in one array of numbers: 8 bytes each."""

    def __init__(self) -> None:
        self.numbers, self.n_columns = array("d"), 0

    def append(self, row: list) -> None:
        self.n_columns = self.n_columns or len(row)
        row = [np.nan if x is None else x for x in row[: self.n_columns]]
        self.numbers.extend(row + [np.nan] * (self.n_columns - len(row)))

    def columns(self) -> dict[str, NDArray]:
        n_columns = max(self.n_columns, len(_COLUMNS))
        table = np.array(self.numbers).reshape(-1, n_columns).T
        names = [*_COLUMNS]
        names += [f"gradient_{l}" for l in range(1, n_columns - len(names) + 1)]
        columns = dict(zip(names, table.copy(), strict=True))
        columns["epoch"] = columns["epoch"].astype(np.int64)
        return columns


class History(_Callback):
    """A table of what every epoch reached.

    Its columns are

    - epoch, counted from 1 (with L-BFGS an iteration);
    - loss, as in `loss_curve_`;
    - validation_loss and validation_score of held-out rows;
    - learning_rate of the epoch's last step, as the schedule has it (without Adam's
      corrections);
    - seconds since training began;
    - gradient_1, gradient_2, ... for each layer, the root mean square of dW as in
      `gradient_flow_`; none with ``monitor=False``.

    NaN stands where there is nothing: no rows are held out, L-BFGS has no learning
    rate, short epochs are recorded only now and then.

    Attributes
    ----------
    n_fits : int
        The number of fits that it has seen.

    See Also
    --------
    Epoch : What a callback of your own is told after each epoch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.callbacks import History
    >>> history = History()
    >>> model = BPClassifier(max_iter=20, tol=0, random_state=0)
    >>> _ = model.set_callbacks(history).fit(*load_iris(return_X_y=True))
    >>> len(history.table()["loss"])
    20
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables: list[_Table] = []

    @property
    def n_fits(self) -> int:
        return len(self._tables)

    def table(self, fit: int = -1) -> dict[str, NDArray]:
        """The columns of one fit.

        Parameters
        ----------
        fit : int, default=-1
            Its number in the order in which fits began, counted from 0; -1 is the last.

        Returns
        -------
        dict of str to ndarray of shape (n_epochs,)

        Raises
        ------
        ValueError
            If there is no such fit.
        """
        return self._table(fit).columns()

    def to_frame(self, fit: int | None = -1) -> pd.DataFrame:
        """The table as a data frame, a row for each epoch.

        Parameters
        ----------
        fit : int or None, default=-1
            As in `table`; None gives all fits, with their number in a first column
            "fit".

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            Without pandas.
        ValueError
            If there is no such fit.
        """
        pd = import_pandas()
        if fit is not None:
            return pd.DataFrame(self.table(fit))
        frames = []
        for number in range(len(self._tables)):
            frames.append(pd.DataFrame(self.table(number)))
            frames[-1].insert(0, "fit", number)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _table(self, fit: Any) -> _Table:
        n = len(self._tables)
        if not n:
            raise ValueError("There is no table yet: this History has seen no fit.")
        whole = isinstance(fit, Integral) and not isinstance(fit, bool)
        if not whole or not -n <= fit < n:
            raise ValueError(f"fit must be an int in [{-n}, {n}); got {fit!r}.")
        return self._tables[fit]

    def _start(self, estimator: BaseBP) -> _Table:
        table = _Table()
        self._tables.append(table)
        return table

    def _after_epoch(self, table: _Table, progress: Epoch) -> None:
        row = [getattr(progress, name) for name in _COLUMNS]
        table.append(row + (progress.gradient() or []))


# ---- an alarm


# Problems that show in the records while training runs, in the order of `diagnose`.
# Constant predictions do not stand in the records, and some good fits begin with them
# for fifty epochs. 'stopped-by-tol' is known only at the end, and so is whether a limit
# of steps, or dropout, has kept the network from learning.
ALARMS = (
    "unscaled-input",
    "exploding-gradient",
    "divergence",
    "learning-rate-too-high",
    "update-too-large",
    "dead-units",
    "saturated-units",
    "vanishing-gradient",
    "epsilon-floor",
    "update-too-small",
)
# Healthy fits show these at first, too. Of 126 such fits the alarm stops 1 with
# after=10, 10 with 5, 74 with 1; of 152 spoiled ones 134, 151 and 152 (the fits of
# tests/planted.py).
_NEED_TIME = ("learning-rate-too-high", "update-too-large", "dead-units")
_NEED_TIME += ("update-too-small",)
# Adam mends what is less in a few epochs: six layers of gelu begin with 1/30, of the
# logistic function with 1e-5.
_VANISHED = 1e-3
# From one look to the next the epochs grow by this share: a finding is made of the
# later half of the records, and a look takes about as long as a short epoch.
_LOOKS_APART = 1 / 8


def _may_pass(finding: Finding) -> bool:
    """Whether a fit that shows this in its first epochs may yet become healthy."""
    if finding.code == "vanishing-gradient":
        return min(finding.evidence["relative_error"]) > _VANISHED
    return finding.code in _NEED_TIME


class GradientAlarm(_Callback):
    """Stops a fit, and says why, as soon as `diagnose` would call it ill.

    The records are looked at when new ones have come, and there have been an eighth
    more epochs than at the last look. What stopped the fit is told by a
    warning. The estimator is then fitted, with the weights of the last epoch (with
    early stopping those of the best score), and its `diagnose()` says the same.

    Parameters
    ----------
    after : int, default=10
        Epochs, >= 0, before it listens to findings that healthy fits show at first,
        too, when weights have hardly moved and steps are large:
        'learning-rate-too-high', 'update-too-large', 'update-too-small' and
        'dead-units'. It listens to all others from the first record on.

    codes : sequence of str, default=None
        The findings that it listens to. None means all that can be seen while training
        runs, `cbp.callbacks.ALARMS`.

    Attributes
    ----------
    diagnosis : Diagnosis or None
        What `diagnose` said when it stopped a fit. None if the last fit was not stopped
        by it.
    finding : Finding or None
        The first finding that it listens to.
    epoch : int or None
        The epoch, or iteration, after which it stopped the fit, counted from 1.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.callbacks import GradientAlarm
    >>> model = BPClassifier([20] * 6, "logistic", batch_size=10, random_state=0)
    >>> alarm = GradientAlarm()
    >>> with warnings.catch_warnings(action="ignore"):
    ...     _ = model.set_callbacks(alarm).fit(*load_iris(return_X_y=True))
    >>> alarm.finding.code
    'vanishing-gradient'
    """

    def __init__(self, *, after: int = 10, codes: Sequence[str] | None = None) -> None:
        super().__init__()
        whole = isinstance(after, Integral) and not isinstance(after, bool)
        if not whole or after < 0:
            raise ValueError(f"after must be an int >= 0, got {after!r}.")
        known = not isinstance(codes, str) and (
            codes is None or all(code in ALARMS for code in codes)
        )
        if not known:
            raise ValueError(
                f"codes must be a sequence of {', '.join(map(repr, ALARMS))}, got "
                f"{codes!r}."
            )
        self.after = int(after)
        self.codes = ALARMS if codes is None else tuple(codes)
        self._silence()

    def _silence(self) -> None:
        self.diagnosis: Diagnosis | None = None
        self.finding: Finding | None = None
        self.epoch: int | None = None

    def _start(self, estimator: BaseBP) -> dict[str, Any]:
        if not estimator.monitor:
            raise ValueError(
                "GradientAlarm needs the records of a fit. Set monitor=True."
            )
        self._silence()
        # While the learning rate rises, steps are small by intent.
        rise, schedule = estimator.warmup, estimator.learning_rate
        if rise == 0 and not callable(schedule):
            rise = SCHEDULES[schedule].rise
        first = math.ceil(rise * estimator.max_iter)
        name = type(estimator).__name__
        return {"name": name, "next": first + 1, "after": first + self.after}

    def _after_epoch(self, state: dict[str, Any], progress: Epoch) -> bool:
        if progress.epoch < state["next"] or progress.gradient() is None:
            return False
        state["next"] = progress.epoch * (1 + _LOOKS_APART)
        diagnosis = progress.diagnose()
        early = progress.epoch < state["after"]
        for finding in diagnosis.findings:
            listens = finding.code in self.codes and not (early and _may_pass(finding))
            if listens and finding.severity == PROBLEM:
                self.diagnosis, self.finding = diagnosis, finding
                self.epoch = progress.epoch
                warn(self._message(state["name"], finding))
                return True
        return False

    def _message(self, name: str, finding: Finding) -> str:
        where = "" if finding.layer is None else f" in layer {finding.layer}"
        return (
            f"GradientAlarm stopped the fit of {name} after epoch {self.epoch}: "
            f"{finding.code}{where}. {finding.message} Try {finding.advice}."
        )


# ---- a file


_UNITS = {"s": 1, "min": 60, "h": 3600}


class Checkpoint(_Callback):
    """Writes a fit into a file from time to time, so that a kill loses little.

    ``model.resume(path, X, y)`` goes on from the last checkpoint, and ends with the
    bits of a fit that was never interrupted. The last two checkpoints and the best one
    are kept: the files `path` and ``path.1`` are written in turn, and ``path.best`` is
    the one with the best validation score, or without held-out rows the least loss.
    A file is written whole or not at all: it is forced to the disk before it takes the
    place of the former one.

    A checkpoint is written after an epoch, and after the last one anyway (with L-BFGS
    after an iteration, whose last one is not known). It holds a hash of X and y, not
    the data. It is made for `resume`, not for other versions of
    this package. One path is for one fit at a time; a search, which fits many models,
    needs none.

    Parameters
    ----------
    path : str or path-like
        The file. Its folder must exist. Checkpoints that are there are written over,
        any other file is refused.
    every : int or str, default=5
        The number of epochs from one checkpoint to the next, >= 1, or a time: "30s",
        "10min", "1h". What passes this time is written at the end of its epoch.
    on_error : {'warn', 'raise'}, default='warn'
        What follows if a file cannot be written, for example because the disk is full:
        a warning, and the fit goes on and tries again after the next interval; or the
        OSError, which ends the fit. In both cases the former files are as they were.

    Attributes
    ----------
    n_written : int
        The number of checkpoints that this object has written.
    error : OSError or None
        Why the last one could not be written; None if it was.

    See Also
    --------
    cbp.BPClassifier.resume : Goes on from the last checkpoint.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.callbacks import Checkpoint
    >>> path = os.path.join(tempfile.mkdtemp(), "iris.checkpoint")
    >>> model = BPClassifier(max_iter=20, tol=0, random_state=0)
    >>> _ = model.set_callbacks(Checkpoint(path)).fit(*load_iris(return_X_y=True))
    >>> again = BPClassifier(max_iter=20, tol=0, random_state=0)
    >>> again.resume(path, *load_iris(return_X_y=True)).n_iter_
    20
    """

    keeps_state = True

    def __init__(
        self,
        path: str | os.PathLike,
        every: int | str = 5,
        *,
        on_error: str = "warn",
    ) -> None:
        super().__init__()
        self.path = os.path.abspath(os.fsdecode(path))
        self.every = every
        self._epochs, self._seconds = _interval(every)
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}.")
        self.on_error = on_error
        self.n_written = 0
        self.error: OSError | None = None

    def _start(self, estimator: BaseBP) -> _Files:
        stochastic = SOLVERS[estimator.solver].stochastic
        if not stochastic and not OpenLBFGS.is_there():
            raise ValueError(
                f"Checkpoint cannot be used with solver={estimator.solver!r} and this "
                "version of SciPy: what the solver has learned of the curvature is "
                "kept within SciPy, and can be had from SciPy 1.15 on. Use 'adam' or "
                "'sgd', or another SciPy."
            )
        if self._fits:
            raise ValueError(
                "This Checkpoint is at work for another fit, which writes "
                f"{self.path!r}. Every fit that runs at the same time needs one of its "
                "own."
            )
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"Checkpoint: there is no folder {folder!r}.")
        try:
            number = last_number(self.path)
        except ModelFileError as error:
            raise ValueError(
                f"Checkpoint would write over {self.path!r} or its '.1', which is no "
                f"checkpoint: {error}. Remove it, or choose another path."
            ) from None
        self.error = None
        return _Files(number, time.monotonic(), stochastic)

    def _after_epoch(self, files: _Files, progress: Epoch) -> None:
        session = progress._live()
        if files.source is None:
            files.source = session.source()
        now = time.monotonic()
        due = files.knows_end and not session.goes_on
        if self._epochs is not None:
            due |= progress.epoch % self._epochs == 0
        else:
            due |= now - files.written >= self._seconds
        if due:
            files.written = now
            self._write(files, progress.epoch)

    def _write(self, files: _Files, epoch: int) -> None:
        number = files.number + 1
        value = files.source.value
        better = value > files.source.best
        best = value if better else files.source.best  # no NaN
        tensors, meta = files.source.take(number, best)
        path = slots(self.path)[number % 2]
        try:
            write(path, tensors, meta)
            files.number = number
            if better:
                written, path = path, best_file(self.path)
                keep(written, path)
                files.source.best = best
        except OSError as error:
            self.error = OSError(
                error.errno,
                f"Checkpoint could not write {path!r} after epoch {epoch} "
                f"({error.strerror}); the files from before are as they were",
            )
            if self.on_error == "raise":
                raise self.error from error
            warn(f"{self.error.strerror}. The fit goes on.", RuntimeWarning)
            return
        self.error = None
        self.n_written += 1


class _Files:
    """What a fit has written."""

    def __init__(self, number: int, now: float, knows_end: bool):
        self.number, self.written = number, now
        self.knows_end = knows_end  # which epoch is the last
        self.source: Source | None = None


def _interval(every: Any) -> tuple[int | None, float]:
    """Epochs or seconds."""
    if isinstance(every, Integral) and not isinstance(every, bool) and every >= 1:
        return int(every), 0.0
    if isinstance(every, str):
        said = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)", every)
        if said and float(said[1]) > 0:
            return None, float(said[1]) * _UNITS[said[2]]
    raise ValueError(
        "every must be a number of epochs >= 1, or a time like '30s', '10min' or '1h', "
        f"got {every!r}."
    )


# ---- a picture


class LiveDisplay(_Callback):
    """Draws loss and gradient flow while a fit runs.

    In a notebook the picture stands below the cell, and is replaced as the fit goes on.
    Outside a notebook it is a new figure of pyplot: a window with a backend that has
    windows, else a figure that can be saved after the fit (``plt.savefig``). Needs
    matplotlib.

    Parameters
    ----------
    every : float, default=1.0
        Seconds from one picture to the next, >= 0; the last epoch is drawn anyway. A
        picture takes some tenths of a second, for which training waits.
    figure : matplotlib Figure, default=None
        Where to draw; what it has shown before is removed. None makes a figure in the
        first fit.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure, after the first fit has begun.

    See Also
    --------
    cbp.plotting.LossCurveDisplay : The upper part of the picture.
    cbp.plotting.GradientFlowDisplay : The lower part.

    Examples
    --------
    >>> from cbp import BPClassifier
    >>> from cbp.callbacks import LiveDisplay
    >>> model = BPClassifier().set_callbacks(LiveDisplay())
    >>> model.fit(X, y)  # doctest: +SKIP
    """

    figure_: Figure

    def __init__(self, *, every: float = 1.0, figure: Figure | None = None) -> None:
        super().__init__()
        if not isinstance(every, Real) or isinstance(every, bool) or not every >= 0:
            raise ValueError(f"every must be a number of seconds >= 0, got {every!r}.")
        self.every = float(every)
        self.figure = figure
        self._shown: Any = None  # the output of the cell that is replaced

    def __getstate__(self) -> dict[str, Any]:
        # Windows and cells stay with this process.
        state = {**super().__getstate__(), "figure": None, "_shown": None}
        state.pop("figure_", None)
        return state

    def _start(self, estimator: BaseBP) -> _Picture:
        plt = pyplot()
        self._shown = None
        self._display = _notebook_display()
        if self.figure is not None:
            self.figure_ = self.figure
        elif not hasattr(self, "figure_"):
            size = {"figsize": (8, 8), "layout": "constrained"}
            if self._display is None:
                self.figure_ = plt.figure(**size)
                if self.figure_.canvas.required_interactive_framework:
                    self.figure_.show()  # a window, and training goes on
            else:  # pyplot would show it once more at the end of the cell
                from matplotlib.figure import Figure

                self.figure_ = Figure(**size)
        return _Picture()

    def _after_epoch(self, picture: _Picture, progress: Epoch) -> None:
        picture.losses.append(progress.loss)
        if progress.validation_score is not None:
            picture.scores.append(progress.validation_score)
        now = time.monotonic()
        picture.is_old = True
        # The last epoch is not known to be the last; its records are.
        if progress.gradient() is not None or picture.flow is None:
            picture.flow = progress.gradient_flow()
        if now - picture.drawn >= self.every:
            self._draw(picture)
            picture.drawn = time.monotonic()

    def _finish(self, picture: _Picture) -> None:
        if picture.is_old:
            self._draw(picture)

    def _draw(self, picture: _Picture) -> None:
        picture.is_old = False
        picture.draw(self.figure_)
        if self._display is None:
            canvas = self.figure_.canvas
            canvas.draw_idle()
            canvas.flush_events()
            return
        image = _image(self.figure_)
        if self._shown is None:
            self._shown = self._display(image, display_id=True)
        else:
            self._shown.update(image)


class _Picture:
    """What a fit has reached, to be drawn."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.flow: GradientFlow | None = None
        self.drawn, self.is_old = -np.inf, False

    def draw(self, figure: Figure) -> None:
        figure.clear()
        recorded = self.flow is not None and len(self.flow.epoch) > 0
        axes = figure.subplots(1 + recorded, 1, squeeze=False)[:, 0]
        scores = self.scores or None
        LossCurveDisplay(loss_curve=self.losses, validation_scores=scores).plot(axes[0])
        if recorded:
            GradientFlowDisplay.from_flow(self.flow, ax=axes[1])


def _notebook_display() -> Any:
    """IPython's `display` in a notebook, else None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display


def _image(figure: Figure) -> Any:
    from IPython.display import Image

    png = io.BytesIO()
    figure.savefig(png, format="png")
    return Image(png.getvalue())
