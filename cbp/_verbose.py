"""What `verbose` prints. Nothing of it changes a fit.

Lines as scikit-learn's MLP prints them, or with ``verbose=2`` a single line that is
rewritten after every epoch. It can be rewritten where `sys.stdout` is a terminal, or
the output of a notebook's cell. Anywhere else (a file, a pipe, the worker of a search)
a line is written at each twentieth of `max_iter`, and whenever ten seconds have passed.
"""

from __future__ import annotations

import shutil
import sys
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cbp._progress import Progress

# Nobody reads faster than ten lines a second.
_REWRITTEN_AFTER = 0.1
_WRITTEN_AFTER = 10.0
_LINES = 20


def print_loss(progress: Progress) -> None:
    """The listener that `verbose` adds."""
    print(f"Iteration {progress.n_iter}, loss = {progress.loss:.8f}")
    if progress.scored:
        print(f"Validation score: {progress.validation_scores[-1]:f}")


def print_patience(scored: bool, tol: float, n_iter_no_change: float) -> None:
    """What `verbose` prints where training ended because progress was too small."""
    judged = "Validation score" if scored else "Training loss"
    print(
        f"{judged} did not improve more than tol={tol:f} for "
        f"{n_iter_no_change} consecutive epochs. Stopping."
    )


class StatusLine:
    """The listener that ``verbose=2`` adds: where a fit stands, in one line.

    As a context manager it ends the line, however the fit ends.

    Parameters
    ----------
    epoch : str
        What an epoch is called.
    n_rows : int
        Rows that an epoch takes.
    max_iter : int or None
        Epochs after which training ends at the latest; None if nobody knows, as in
        `partial_fit`, where the epochs of all calls are counted.
    """

    def __init__(self, epoch: str, n_rows: int, max_iter: int | None):
        self.epoch, self.n_rows, self.max_iter = epoch.capitalize(), n_rows, max_iter
        self.rewrites = _can_rewrite(sys.stdout)
        self.began, self.written = monotonic(), -1e9
        self.width = 0  # of what stands in the line now
        self.pending = ""  # what is newer than that
        self.next_line = 1

    def __call__(self, progress: Progress) -> None:
        now, n = monotonic(), progress.n_iter
        text = self._text(progress, now - self.began)
        waits = _REWRITTEN_AFTER if self.rewrites else _WRITTEN_AFTER
        due = now - self.written >= waits
        if not self.rewrites and self.max_iter is not None and n >= self.next_line:
            share = max(self.max_iter // _LINES, 1)
            self.next_line = (n // share + 1) * share
            due = True
        self.pending = text
        if due:
            self.written = now
            self._write()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write()
        if self.width:
            print(flush=True)

    def _write(self) -> None:
        text, self.pending = self.pending, ""
        if not text:
            return
        if not self.rewrites:
            print(text, flush=True)
            return
        # A line that is broken in two cannot be rewritten.
        text = text[: shutil.get_terminal_size().columns - 1]
        print(f"\r{text:{self.width}}", end="", flush=True)
        self.width = len(text)

    def _text(self, progress: Progress, seconds: float) -> str:
        n, total = progress.n_iter, self.max_iter
        count = f"{n}/{total}" if total is not None else f"{len(progress.loss_curve)}"
        parts = [f"{self.epoch} {count}", f"loss {progress.loss:.6g}"]
        if progress.scored:
            parts.append(f"score {progress.validation_scores[-1]:.4f}")
        if seconds > 0:
            parts.append(f"{_plain(n * self.n_rows / seconds)} samples/s")
        if total is not None:
            left = seconds / n * (total - n)
            parts.append(f"{_clock(left)} left")
        return ", ".join(parts)


def _can_rewrite(stream: object) -> bool:
    """Whether a carriage return goes back to the beginning of the line."""
    if type(stream).__module__.startswith("ipykernel."):
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream at all, or one that is closed
        return False


def _plain(x: float) -> str:
    """Three digits, with a letter for thousands, millions or billions."""
    for unit in ("", "k", "M"):
        if x < 999.5:
            return f"{x:.3g}{unit}"
        x /= 1000
    return f"{x:.3g}G"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )
