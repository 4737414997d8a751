"""What a diagnosis keeps of a fit, so that its pictures and its page need no estimator.

Nothing is judged here (diagnosis.py) and nothing drawn (_report.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from cbp._catalog import ACTIVATIONS
from cbp._evidence import TINY, Fit
from cbp._texts import percent, plain
from cbp.gradient_flow import GradientFlow

# Longer values of parameters, for example arrays, are cut off.
_LONGEST = 200
_ENDED = {
    "converged": "by itself: it made no more progress",
    "max_iter": "at its limit of {epoch}s",
    "stuck": "no step lowered the cost",
    "diverged": "the numbers became infinite",
    "interrupted": "it was interrupted",
    "stopped": "a callback ended it",
    "partial": "calls of partial_fit",
}


@dataclass(frozen=True, eq=False)
class FitRecord:
    """One fit, as its pictures and its page need it.

    Parameters
    ----------
    estimator : str
        Name of the class.
    flow : GradientFlow
    loss_curve : tuple of float
        The cost of every epoch of the last call.
    validation_loss_curve, validation_scores : tuple of float or None
        The same of rows that were held out.
    score_name : str
    constant_cost : float or None
        The cost of the best constant answer, in the unit of the curve.
    least_cost : float
        The cost of perfect answers, which is above 0 where labels are smoothed.
    unit : str
        What the curve counts: "epoch" or "iteration".
    n_steps : int
        Steps of the last call.
    score : str
        What the fit reached, in words.
    lost : tuple of float
        For every hidden layer the share of dead or saturated units in the second half.
    parameters : dict of str to str
    changed : tuple of str
        Names of parameters that differ from their defaults.
    data : dict of str to str
        What is known of the data and of the fit, in words.
    """

    estimator: str
    flow: GradientFlow
    loss_curve: tuple[float, ...]
    validation_loss_curve: tuple[float, ...] | None = None
    validation_scores: tuple[float, ...] | None = None
    score_name: str = "validation score"
    constant_cost: float | None = None
    least_cost: float = 0.0
    unit: str = "epoch"
    n_steps: int | None = None
    score: str = ""
    lost: tuple[float, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, estimator: Any, fit: Fit) -> FitRecord:
        """The record of an estimator's last fit, of which `fit` is the evidence."""
        summary = fit.summary
        last = fit.n_epochs
        curve = tuple(map(float, fit.curve[max(len(fit.curve) - last, 0) :]))
        constant = float(summary.constant_cost + summary.least_cost)
        if not 0 < constant < math.inf or summary.constant_cost <= TINY:
            constant = None
        parameters, changed = _parameters(estimator)
        held_out = _held_out(estimator, fit)
        name = score_name(estimator)
        return cls(
            estimator=type(estimator).__name__,
            flow=fit.flow,
            loss_curve=curve,
            validation_loss_curve=held_out[0],
            validation_scores=held_out[1],
            score_name=name,
            constant_cost=constant,
            least_cost=float(summary.least_cost),
            unit=fit.solver.epoch,
            n_steps=last * fit.steps_per_epoch,
            score=_score(fit),
            lost=tuple(map(float, _lost(fit))),
            parameters=parameters,
            changed=changed,
            data=_data(estimator, fit),
        )


def score_name(estimator: Any) -> str:
    """What `validation_scores_` of an estimator are, in words."""
    scoring = getattr(estimator, "scoring", None)
    if scoring == "loss":
        return "minus validation loss"
    if scoring is not None:
        return f"validation {scoring}" if isinstance(scoring, str) else "own score"
    if not isinstance(estimator, RegressorMixin):
        return "validation accuracy"
    quantiles = getattr(estimator, "loss", None) == "quantile"
    return "validation D\u00b2" if quantiles else "validation R\u00b2"


def _held_out(
    estimator: Any, fit: Fit
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Curves of rows that were held out: the cost and the score."""
    if fit.outcome in ("diverged", "partial"):  # those are of an earlier fit
        return None, None
    curves = []
    for name in ("validation_loss_curve_", "validation_scores_"):
        curve = (getattr(estimator, name, None) or [])[-fit.n_epochs :]
        curves.append(tuple(map(float, curve)) or None)
    return curves[0], curves[1]


def _score(fit: Fit) -> str:
    """The score that a table of several fits shows."""
    worth, rows = fit.held, "held-out rows"
    if worth is None:
        worth, rows = fit.train, "training rows"
    if fit.outcome == "diverged":
        return "none: it diverged"
    if worth is not None:
        return f"{_SCORES[worth.kind]} {plain(worth.score)} on {rows}"
    if not math.isfinite(fit.reached):
        return "unknown"
    explained = percent(max(1 - fit.reached, 0.0))
    return f"on the training rows, {explained} of what there is to explain"


_SCORES = {
    "accuracy": "accuracy",
    "labels": "share of right labels",
    "r2": "R\u00b2",
    "share": "D\u00b2",
}


def _lost(fit: Fit) -> NDArray:
    """Share of dead or saturated units per hidden layer, as the rules count them."""
    if len(fit.flow.epoch) == 0:
        return np.zeros(0)
    flat = fit.share(fit.flow.saturated)[:-1]
    kinds = [ACTIVATIONS[name].lost_units for name in fit.flow.activations]
    by_kind = {"dead": fit.dead[1], "saturated": flat, "": np.zeros_like(flat)}
    return np.array([by_kind[kind][layer] for layer, kind in enumerate(kinds)])


def _parameters(estimator: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """All parameters as text, and the names of those that are not the defaults."""
    if not hasattr(estimator, "get_params"):
        return {}, ()
    values = estimator.get_params(deep=False)
    usual = _usual(type(estimator))
    texts = {name: _short(value) for name, value in values.items()}
    return texts, tuple(name for name in texts if texts[name] != usual.get(name))


@functools.cache
def _usual(kind: type) -> dict[str, str]:
    """The defaults of a class, as text."""
    try:
        values = kind().get_params(deep=False)
    except Exception:  # it cannot be made without arguments
        return {}
    return {name: _short(value) for name, value in values.items()}


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _data(estimator: Any, fit: Fit) -> dict[str, str]:
    s, flow = fit.summary, fit.flow
    sizes = " - ".join(map(str, flow.layer_sizes))
    data = {
        "rows trained on": f"{s.n_rows:,}",
        "columns of X": f"{flow.layer_sizes[0]:,}" + (" (sparse)" * s.is_sparse),
        "largest column": f"number {s.column}, root mean square "
        f"{plain(s.column_size)}, mean {plain(s.column_mean)}",
    }
    if isinstance(estimator, RegressorMixin):
        data["targets"] = (
            f"root mean square {plain(s.target_size)}, standard deviation "
            f"{plain(math.sqrt(max(s.target_variance, 0.0)))}"
        )
    elif isinstance(fit.classes, np.ndarray):
        data["classes"] = f"{len(fit.classes):,}"
    if fit.mean_weight != 1:
        data["mean sample weight"] = plain(fit.mean_weight)
    epoch = fit.solver.epoch
    data |= {
        "layers": sizes,
        f"{epoch}s": f"{fit.n_epochs:,}",
        f"steps per {epoch}": f"{fit.steps_per_epoch:,} of {fit.batch:,} rows",
        "training ended": _ENDED.get(fit.outcome, fit.outcome).format(epoch=epoch),
    }
    return data
