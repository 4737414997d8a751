"""Why a network does or does not learn: the rules, their findings and the verdict.

`diagnose` lets each rule look at the evidence of a fit (_evidence.py) and returns a
`Diagnosis`: a verdict in a sentence, and findings with advice (_advice.py). No data are
looked at again. Layers are counted from 1 to L, the output layer; docs/diagnosis.md
explains every finding.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbp import _advice
from cbp._catalog import ACTIVATIONS
from cbp._evidence import (
    CLIPPED,
    CONSTANT,
    DEAD,
    DEAD_BUT_LEARNING,
    EXPLODING,
    EXPLODING_LATER,
    FLOORED,
    INPUT_HUGE,
    INPUT_LARGE,
    MOVED,
    NEVER_PREDICTED,
    NOTHING_LEARNED,
    OVERFITS,
    PENALTY,
    RISES,
    ROW_SHORT,
    ROW_TINY,
    SATURATED,
    STARVED,
    STEP_FIRST,
    STEP_LATER,
    SWING,
    TINY,
    TOL_LARGE,
    UNDONE,
    VANISHING,
    WEIGHT_SMALL,
    Fit,
    finite,
)
from cbp._fit_record import FitRecord
from cbp.gradient_flow import GradientFlow, import_pandas

if TYPE_CHECKING:
    import pandas as pd

# What `severity` may be: a problem spoils the fit, a note does not. Users compare with
# the words, and pickles hold them.
PROBLEM, NOTE = "illness", "remark"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a fit, or worth a note.

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
    severity: str = PROBLEM


@dataclass(frozen=True)
class Diagnosis:
    """Why a network does not learn, or that it does.

    ``print(diagnosis)`` shows it in a terminal; notebooks show a table.

    Parameters
    ----------
    verdict : str
        The gist in a sentence.
    findings : tuple of Finding
        Problems first; the advice of the first finding is the one to try first.
    record : FitRecord, default=None
        What the pictures and the page show of the fit. Two diagnoses that say the same
        are equal, whatever their records are.
    """

    verdict: str
    findings: tuple[Finding, ...] = ()
    record: FitRecord | None = field(default=None, repr=False, compare=False)

    @property
    def healthy(self) -> bool:
        """Whether no finding is a problem: each is a remark at most."""
        return all(finding.severity != PROBLEM for finding in self.findings)

    def __str__(self) -> str:
        lines = textwrap.wrap(self.verdict, 79)
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}. {_headline(finding)}"]
            lines += [*_indented(finding.message), f"   try: {finding.advice}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from cbp import _report

        return _report.fragment(self)

    def to_html(self, path: str | PathLike[str] | None = None) -> str | None:
        """The diagnosis as one page that can be sent to others.

        The page has the verdict, the findings, the pictures, the parameters and what is
        known of the data. It is one file: it has no scripts and loads nothing. The
        pictures need matplotlib; without it the page says so.

        Parameters
        ----------
        path : str or path-like, default=None
            The file to write. If it exists, it is replaced.

        Returns
        -------
        str or None
            The page if `path` is None.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from cbp import BPClassifier
        >>> model = BPClassifier([10]).fit(*load_iris(return_X_y=True))
        >>> model.diagnose().to_html("diagnosis.html")  # doctest: +SKIP
        """
        from cbp import _report

        page = _report.page(self)
        if path is None:
            return page
        Path(path).write_text(page, encoding="utf-8")
        return None

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
        pd = import_pandas()
        names = ["code", "severity", "layer", "message", "advice", "evidence"]
        rows = [[getattr(finding, name) for name in names] for finding in self.findings]
        frame = pd.DataFrame(rows, columns=names)
        return frame.astype({"layer": "Int64"})


def _headline(finding: Finding) -> str:
    text = finding.code
    if finding.layer is not None:
        text += f", layer {finding.layer}"
    return text + (f" ({NOTE})" if finding.severity == NOTE else "")


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


# ---- the rules: each looks at a fit and returns its finding, or None


def _find_unscaled_input(fit: Fit) -> Finding | None:
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
        _advice.scale_input(fit),
    )


def _find_divergence(fit: Fit) -> Finding | None:
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, TINY), 1)
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
    return Finding("divergence", None, message, {"epoch": epoch}, _advice.calm(fit))


def _target_sentence(fit: Fit) -> str:
    s = fit.summary
    if not math.isfinite(s.target_size + s.target_variance):
        return " The targets are so large that their squares overflow."
    return (
        f" The targets have a root mean square of {_plain(s.target_size)} and a "
        f"standard deviation of {_plain(s.target_variance**0.5)}, not near 1."
    )


def _find_exploding_from_start(fit: Fit) -> Finding | None:
    errors = finite(fit.flow.relative_error[0])
    # The first record may hold several steps: large ones explain an explosion, too.
    stepped = fit.first_step.max() > STEP_FIRST and not fit.given_weights
    if fit.learned or stepped or fit.began_well or not errors.max() > EXPLODING:
        return None
    advice = "warm_start=False" if fit.given_weights else _advice.calm(fit)
    return _exploding(fit, errors, "from the first step on", advice)


def _find_exploding_later(fit: Fit) -> Finding | None:
    errors = finite(fit.typical(fit.flow.relative_error))
    if fit.learned or not errors.max() > EXPLODING_LATER:
        return None
    if _find_exploding_from_start(fit) is not None:
        return None
    return _exploding(fit, errors, "now that the weights have grown", _advice.calm(fit))


def _exploding(fit: Fit, errors: NDArray, when: str, advice: str) -> Finding:
    layer = int(errors.argmax()) + 1
    size = float(errors[layer - 1])
    per_layer = size ** (1 / max(fit.flow.n_layers - layer, 1))
    message = (
        f"The error that reaches layer {layer} is {_plain(size)} times that of the "
        f"output layer, {_plain(per_layer)} times more per layer, {when}."
    )
    evidence = {"relative_error": [float(e) for e in errors], "per_layer": per_layer}
    return Finding("exploding-gradient", layer, message, evidence, advice)


def _find_vanishing_gradient(fit: Fit) -> Finding | None:
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
    advice = _advice.against_vanishing(fit, share)
    return Finding("vanishing-gradient", layer, message, evidence, advice)


def _factors(fit: Fit, layer: int, size: float) -> tuple[float, float, float]:
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


def _find_starved_layer(fit: Fit) -> Finding | None:
    starved = fit.starved
    if fit.learned or not starved.max() > STARVED:
        return None
    # Whatever is left of them, such inputs tell nothing.
    if fit.summary.row_length == 0 or fit.input_overflows:
        return None
    # Nor do weights without any gradient learn with fewer dropped units.
    if len(fit.flow.epoch) and not fit.flow.gradient[fit.late].any():
        return None
    place = int(starved.argmax())
    width, rate = fit.flow.layer_sizes[place], fit.dropout[place]
    of = f"units of layer {place}" if place else "inputs"
    message = (
        f"Dropout leaves {_plain(width * (1 - rate))} of the {width} {of} on average, "
        f"and none at all in {_percent(starved[place])} of the rows. From such a row "
        "the layers behind learn nothing but their biases."
    )
    evidence = {"nothing_left": [float(x) for x in starved]}
    advice = _advice.less_dropout(fit)
    return Finding("starved-layer", max(place, 1), message, evidence, advice)


def _find_clipped_steps(fit: Fit) -> Finding | None:
    share, limit = fit.summary.clipped, fit.parameters["max_grad_norm"]
    if not share >= CLIPPED or limit is None or fit.outcome == "diverged":
        return None
    if not fit.gradient_norms.max() > 0:
        return None
    floored = False
    if fit.epsilon_counts:
        # Steps are divided by the gradient's size: only epsilon feels the limit.
        floored = bool(fit.share(fit.flow.floored).max() > FLOORED)
        if not floored or fit.learned:
            return None
    held = not fit.learned and (floored or fit.moved < MOVED)
    norms = fit.gradient_norms
    norm = float(np.median(norms))
    message = (
        f"max_grad_norm={limit:g} shortened {_percent(share)} of the steps: the "
        f"gradient's length is {_plain(norm)}, as a rule. Then the limit is what "
        "decides how long a step is, as a learning rate does"
    )
    message += (
        f", and the weights have hardly changed: by {_plain(100 * fit.moved)} %."
        if held
        else "."
    )
    evidence = {"clipped": share, "gradient_norm": norm, "moved": fit.moved}
    advice, severity = _advice.wider_limit(fit), PROBLEM if held else NOTE
    return Finding("clipped-steps", None, message, evidence, advice, severity)


def _losing(flow: GradientFlow, lost_units: str) -> NDArray[np.bool_]:
    """Which hidden layers have units that can be lost in this way."""
    return np.array([ACTIVATIONS[f].lost_units == lost_units for f in flow.activations])


def _find_saturated_units(fit: Fit) -> Finding | None:
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
    advice = _advice.against_lost_units(fit, start)
    return Finding("saturated-units", layer, message, evidence, advice)


def _find_dead_units(fit: Fit) -> Finding | None:
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
    advice = _advice.against_lost_units(fit, start)
    return Finding("dead-units", layer, message, evidence, advice)


def _dead(fit: Fit) -> tuple[NDArray, NDArray]:
    """Share of dead units per hidden layer, at first and later.

    In batches of a few rows a living unit may be zero in all of them by chance; so
    there the zeros are counted, of which living units make about half. What dropout
    takes is not counted.
    """
    flow, rates = fit.flow, fit.dropout or (0.0,) * fit.flow.n_layers
    few = fit.batch * (1 - np.array(rates[1:])) < 16
    at_first = (flow.stuck[0, :-1], flow.saturated[0, :-1])
    later = (fit.share(flow.stuck)[:-1], fit.share(flow.saturated)[:-1])
    first, last = (
        # Dead units are zero in every row, however few there are.
        np.where(few, np.clip(2 * zeros - 1, 0, stuck), stuck)
        for stuck, zeros in (at_first, later)
    )
    return first, last


def _find_epsilon_floor(fit: Fit) -> Finding | None:
    flow = fit.flow
    if not fit.epsilon_counts or fit.learned:
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
        f"In {_percent(floored[layer - 1])} of the weights of layer {layer} "
        f"{fit.solver.title}'s steps are shortened by epsilon={epsilon:g}: the "
        f"gradient, of size {gradient:.0e}, lies below it."
    )
    advice = _advice.against_floor(fit, epsilon, gradient)
    evidence = {"floored": [float(x) for x in floored], "gradient": gradient}
    return Finding("epsilon-floor", layer, message, evidence, advice)


def _find_learning_rate_too_high(fit: Fit) -> Finding | None:
    cost = fit.cost
    if fit.chooses_its_steps or fit.learned or len(cost) < 4:
        return None
    change = np.diff(cost[len(cost) // 2 :])
    rises = change[change > 0]
    swing = float(np.median(rises)) if len(rises) else 0.0
    share = len(rises) / len(change)
    rise = float(cost[-1] - cost.min())
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, TINY), 1)
    jumped = cost[-1] > 2 * start and cost[0] > 2 * start
    swings = share > RISES and swing > max(SWING, UNDONE * (1 - fit.reached))
    rose = rise > max(0.1, float(cost.min()))
    # What was far too large from the beginning was not made so by the learning rate.
    jumped = jumped and not (fit.input_off or fit.target_off or fit.given_weights)
    jumped = jumped and bool(fit.first_step.max() > STEP_LATER)
    if not (swings or rose or jumped):
        return None
    # What dropout takes differs from epoch to epoch, and so does the cost.
    steps = max(fit.first_step.max(), finite(fit.typical(fit.step_ratio)).max())
    if fit.dropout and not jumped and steps < STEP_LATER:
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
    advice = _advice.calm(fit)
    evidence = {"typical_rise": swing, "share_of_rises": share, "end": rise}
    return Finding("learning-rate-too-high", None, message, evidence, advice)


def _find_update_too_large(fit: Fit) -> Finding | None:
    if fit.chooses_its_steps or fit.learned:
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
    advice = _advice.calm(fit)
    evidence = {"first": [float(x) for x in first], "later": [float(x) for x in last]}
    return Finding("update-too-large", layer, message, evidence, advice)


def _find_update_too_small(fit: Fit) -> Finding | None:
    if fit.chooses_its_steps or fit.learned or fit.outcome == "diverged":
        return None
    if len(fit.cost) == 0:
        return None
    if fit.began_well:  # at an optimum steps are small
        return None
    cost, moved = fit.cost, fit.moved
    # Of a rate that comes from zero or goes there no step is typical.
    ratios = fit.step_ratio.max(0) if fit.scheduled else fit.typical(fit.step_ratio)
    # Weights may move much, and outputs yet be far from targets of a hundred.
    least = 0.5 if _late_fall(cost) > 0.01 else NOTHING_LEARNED
    far = fit.target_off and fit.summary.target_size > 10 and fit.reached > least
    # Where nothing moves the cost rises and falls by rounding.
    rises = cost[-1] > cost[0] and fit.flow.update.any()
    if not (far or moved < MOVED) or rises:
        return None
    layer = int(finite(ratios).argmax()) + 1
    n_steps = fit.n_epochs * fit.steps_per_epoch
    message = (
        f"A step changes the weights by {_small(ratios[layer - 1])} of their size at "
        f"most (layer {layer}). All steps together, {n_steps} in number, can have "
        f"changed them by {_plain(100 * moved)} %."
    )
    if fit.target_off:
        message += _target_sentence(fit)
        advice = _advice.SCALE_TARGET
    else:
        advice = _advice.higher_rate(fit)
    evidence = {"update_ratio": [float(x) for x in ratios], "moved": moved}
    return Finding("update-too-small", layer, message, evidence, advice)


def _find_stopped_by_tol(fit: Fit) -> Finding | None:
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
    if fit.solver.watches_gradient:
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
    advice = _advice.longer(fit) if by_score else _advice.smaller_tol(fit)
    if fit.target_off:
        message += _target_sentence(fit)
        advice = _advice.SCALE_TARGET
    evidence = {"tol_over_cost": tol, "fall": fall, "epochs": fit.n_epochs}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def _find_stopped_before_first_step(fit: Fit) -> Finding | None:
    """A solver that watches the gradient ends at once where that is below tol: at an
    optimum, or because all gradients are small."""
    p, s = fit.parameters, fit.summary
    if fit.outcome != "converged" or fit.learned or p["tol"] == 0:
        return None
    tol = p["tol"] / s.constant_cost
    if not (
        tol > TOL_LARGE or (fit.reached > NOTHING_LEARNED and not fit.given_weights)
    ):
        return None
    cost = s.constant_cost + s.least_cost
    message = f"{_no_step(fit)} The cost of a constant answer is {cost:.2g}."
    advice = "tol=0.0"
    if fit.target_off:
        message += _target_sentence(fit)
        advice = _advice.SCALE_TARGET
    evidence = {"tol_over_cost": tol, "epochs": 0}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def _no_step(fit: Fit) -> str:
    return (
        "Training ended before its first step: no entry of the gradient was above "
        f"tol={fit.parameters['tol']:g}."
    )


def _find_constant_prediction(fit: Fit) -> Finding | None:
    s = fit.summary
    if s.output_variance is None or s.target_variance == 0 or s.constant_cost <= TINY:
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
        advice = _advice.SCALE_TARGET
    elif fit.summary.column_size > INPUT_HUGE:
        advice = _advice.scale_input(fit)
    elif fit.overpenalized:
        message += f" alpha={fit.parameters['alpha']:g} holds the weights down."
        advice = _advice.lower_alpha(fit)
    elif fit.starved.max() > STARVED:
        advice = _advice.less_dropout(fit)
    elif "logistic" in fit.flow.activations:
        advice = _advice.other_activation(fit)
    elif fit.chooses_its_steps:
        advice = _advice.other_solver(fit)
    else:
        advice = _advice.higher_rate(fit)
    return Finding("constant-prediction", None, message, evidence, advice)


def _late_fall(cost: NDArray) -> float:
    """By what part of itself the cost fell in the last quarter of the epochs."""
    quarter = cost[-max(len(cost) // 4, 1) - 1 :]
    if len(quarter) < 2 or not 0 < quarter[0] < math.inf:
        return 0.0
    return float(1 - quarter[-1] / quarter[0])


def _note_not_converged(fit: Fit) -> Finding | None:
    if fit.outcome != "max_iter" or fit.summary.constant_cost <= TINY:
        return None
    if fit.schedule_ended:  # as it was meant to
        return None
    fall = _late_fall(fit.cost)
    advice = _advice.longer(fit)
    name = advice.split("=")[0]  # max_iter or max_fun
    message = f"{name}={fit.parameters[name]} ended training"
    if fit.idle:
        message += " before its first step."
    else:
        message += (
            f"; in its last quarter the cost {'fell' if fall >= 0 else 'rose'} by "
            f"{_percent(abs(fall))}."
        )
    return Finding("not-converged", None, message, {"fall": fall}, advice, NOTE)


def _note_schedule_ended(fit: Fit) -> Finding | None:
    if fit.summary.constant_cost <= TINY or not fit.schedule_ended:
        return None
    if not fit.still_falls:
        return None
    before, after = fit.late_half
    last = fit.summary.last_rate
    message = (
        f"The learning rate had fallen to {_small(last)} when max_iter="
        f"{fit.parameters['max_iter']} ended training, but in the second half the cost "
        f"had still fallen by {_percent(1 - after / before)}: the schedule was over "
        "before there was nothing left to learn."
    )
    evidence = {"last_rate": last, "fall": before - after}
    advice = _advice.longer(fit)
    return Finding("schedule-ended", None, message, evidence, advice, NOTE)


def _note_class_imbalance(fit: Fit) -> Finding | None:
    s = fit.summary
    if (
        s.recall is None
        or s.recall >= NEVER_PREDICTED
        or fit.class_weight == "balanced"
    ):
        return None
    # partial_fit cannot know the shares of all classes.
    if fit.outcome in ("diverged", "partial") or fit.classes is None:
        return None
    label = str(fit.classes[s.rare_class])
    message = (
        f"Class {label} makes up {_plain(100 * s.rare_share)} % of the data, and the "
        f"network predicts it for {_percent(s.recall)} of its own rows. Probabilities "
        "may be right all the same, and so may the accuracy be high: it pays to pass "
        "over a rare class."
    )
    evidence = {"class": label, "share": s.rare_share, "recall": s.recall}
    advice = "class_weight='balanced'"
    return Finding("class-imbalance", None, message, evidence, advice, NOTE)


def _note_stuck(fit: Fit) -> Finding | None:
    if fit.outcome != "stuck" or fit.learned:
        return None
    message = (
        f"{fit.solver.title} ended after {_count(fit.n_epochs, fit.solver.epoch)}: it "
        "found no step that lowers the cost."
    )
    if fit.target_off:
        message += _target_sentence(fit)
    advice = _advice.SCALE_TARGET if fit.target_off else _advice.other_solver(fit)
    evidence = {"iterations": fit.n_epochs}
    return Finding("not-converged", None, message, evidence, advice, NOTE)


def _note_small_weights(fit: Fit) -> Finding | None:
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
    advice = _advice.call_again(fit, "w / w.mean()")
    return Finding("small-weights", None, message, evidence, advice, NOTE)


def _note_overfitting(fit: Fit) -> Finding | None:
    scores = np.array(fit.scores if fit.scores is not None else [], dtype=np.float64)
    scores = scores[-fit.n_epochs :]
    if len(scores) < 8 or fit.reached > 0.5 or not np.isfinite(scores).all():
        return None
    if fit.outcome == "converged":  # patience has ended it, as it was meant to
        return None
    best, epoch = float(scores.max()), int(scores.argmax())
    end = float(scores[-max(len(scores) // 10, 3) :].mean())
    # What the score does from one epoch to the next is noise.
    noise = float(np.diff(scores[len(scores) // 2 :]).std())
    cost = fit.cost
    if not (best - end > max(0.02, 2 * noise) and cost[-1] < 0.9 * cost[epoch]):
        return None
    message = (
        f"The validation score was best in epoch {epoch + 1} ({best:.3f}) and fell to "
        f"{end:.3f}, while the training cost went on falling to "
        f"{_percent(cost[-1] / cost[epoch])} of what it was."
    )
    evidence = {"best": best, "best_epoch": epoch + 1, "end": end}
    advice = _advice.against_overfitting(fit)
    return Finding("overfitting", None, message, evidence, advice, NOTE)


def _note_rising_cost(fit: Fit) -> Finding | None:
    """Overfitting that no early stopping has ended."""
    held_out, cost = fit.held_out, fit.cost
    if len(held_out) < 8 or not np.isfinite(held_out).all():
        return None
    least, epoch = float(held_out.min()), int(held_out.argmin())
    end = float(held_out[-max(len(held_out) // 10, 3) :].mean())
    noise = float(np.diff(held_out[len(held_out) // 2 :]).std())
    if not (end - least > max(OVERFITS, 2 * noise) and cost[-1] < 0.9 * cost[epoch]):
        return None
    message = (
        f"The cost of the validation set was least in epoch {epoch + 1} "
        f"({_plain(least)} times that of a constant answer) and rose to "
        f"{_plain(end)}, while the training cost went on falling to "
        f"{_percent(cost[-1] / cost[epoch])} of what it was."
    )
    evidence = {"least": least, "best_epoch": epoch + 1, "end": end}
    advice = _advice.against_overfitting(fit)
    return Finding("overfitting", None, message, evidence, advice, NOTE)


# The order of the findings: causes before what follows from them, so that the first
# advice is the one to try first. What a fit began with comes before what it did.
_RULES = (
    _find_unscaled_input,
    _find_exploding_from_start,
    _find_starved_layer,
    _find_divergence,
    _find_learning_rate_too_high,
    _find_update_too_large,
    _find_exploding_later,
    _find_dead_units,
    _find_saturated_units,
    _find_vanishing_gradient,
    _find_clipped_steps,
    _find_epsilon_floor,
    _find_update_too_small,
    _find_stopped_by_tol,
    _find_constant_prediction,
    _note_not_converged,
    _note_schedule_ended,
    _note_stuck,
    _note_small_weights,
    _note_class_imbalance,
    _note_overfitting,
    _note_rising_cost,
)
# Of a fit that diverged before its first record.
_RULES_WITHOUT_RECORDS = (
    _find_unscaled_input,
    _find_starved_layer,
    _find_divergence,
)
# Of one whose schedule was zero all the time.
_RULES_STANDING_STILL = (_find_unscaled_input, _find_update_too_small)
# Of one that made no step: how training ended is all there is to tell.
_RULES_WITHOUT_STEPS = (
    _find_stopped_before_first_step,
    _note_not_converged,
    _note_stuck,
    _note_small_weights,
)


def diagnose(estimator: Any) -> Diagnosis:
    """Says why an estimator's last fit did not learn, or that it did.

    Parameters
    ----------
    estimator : BPClassifier or BPRegressor
        Fitted with ``monitor=True``; a fit that raised because it diverged counts.
        Of it are read its parameters, which should still be those of the fit, and

        - `_fitted`, a Fitted: whether there is a model;
        - `_failed_flow`, a FailedFlow, if the last fit diverged; otherwise
        - `gradient_flow_`, a GradientFlow; `_fit_summary`, a FitSummary; `coefs_`,
          `loss_`, `loss_curve_`, `n_iter_`; `validation_scores_` and
          `validation_loss_curve_` if rows are held out, `classes_` of a classifier.

    Returns
    -------
    Diagnosis

    Raises
    ------
    NotFittedError
        If there was no training yet.
    ValueError
        If it was not monitored, or interrupted before the first record; if the records
        are of another network; if its solver is unknown.
    TypeError
        If it is another kind of estimator.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from cbp import BPClassifier
    >>> from cbp.diagnosis import diagnose
    >>> X, y = make_moons(200, noise=0.1, random_state=0)
    >>> model = BPClassifier((20, 20, 20, 20), "logistic", random_state=0).fit(X, y)
    >>> diagnose(model).findings[0].code
    'vanishing-gradient'
    >>> diagnose(model).findings[0].advice
    "activation='relu'"
    """
    with np.errstate(all="ignore"):
        fit = Fit(estimator)
        rules = _RULES_WITHOUT_STEPS if fit.idle else _RULES_WITHOUT_RECORDS
        if len(fit.flow.epoch):
            rules = _RULES_STANDING_STILL if fit.stands_still else _RULES
        found = [finding for rule in rules if (finding := rule(fit)) is not None]
        record = FitRecord.of(estimator, fit)
        return Diagnosis(_verdict(fit, found), tuple(found), record)


def _verdict(fit: Fit, findings: list[Finding]) -> str:
    if fit.summary.constant_cost <= TINY and fit.outcome != "diverged":
        return (
            "There was nothing to learn: the targets of the last fit are all the same."
        )
    reached = f"{_plain(fit.reached)} times the cost of a constant answer"
    problems = [finding for finding in findings if finding.severity == PROBLEM]
    if problems:
        first = problems[0]
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
        others = "" if len(problems) == 1 else f" (and {len(problems) - 1} more)"
        return f"{state}: {first.code}{others}. {first.message} Try {first.advice}."
    if fit.idle and findings:
        return f"It was not trained: {findings[0].message} Try {findings[0].advice}."
    if fit.idle:
        ended = "Training ended before its first step."
        if fit.outcome == "converged":
            ended = _no_step(fit)
        return f"{ended} The weights are what they were; they reach {reached}."
    if fit.reached > NOTHING_LEARNED:
        text = f"The gradients are in order, but it reaches only {reached}: "
        falls = _late_fall(fit.cost) > 0.01
        falls |= fit.schedule_ended and fit.still_falls
        if fit.outcome == "max_iter" and falls:
            return f"{text}it had too few epochs."
        if fit.outcome == "interrupted":
            return f"{text}training was interrupted."
        if fit.outcome == "stopped":
            return (
                f"{text}a callback ended training after "
                f"{_count(fit.n_epochs, fit.solver.epoch)}."
            )
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
