"""What a model is worth, and why: the findings about a fit, their order, the verdict.

`diagnose` finds the network in a model (_inside.py), lets each rule look at the
evidence of its fit (_evidence.py) and returns a `Diagnosis`: a verdict of two
statements, and findings with advice (_advice.py) that is written for the model
(_paste.py). The rules stand in _rules.py, _model_rules.py and _data_rules.py, their
words in _texts.py. Of data only rows that are given now are read. docs/diagnosis.md
explains every finding.
"""

from __future__ import annotations

import ast
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from cbp import _data_rules, _fitting, _model_rules, _rules
from cbp._evidence import NOTHING_LEARNED, TINY, Fit, Given
from cbp._finding import NOTE, PROBLEM, Finding
from cbp._fit_record import FitRecord
from cbp._given_rows import compare_rows
from cbp._inside import Inside, find_network
from cbp._paste import rewrite
from cbp._prediction import predict
from cbp._texts import TITLES, count, explained, say
from cbp._worth import Standing, Worth, by_folds, judge
from cbp.gradient_flow import import_pandas

if TYPE_CHECKING:
    import pandas as pd


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
        lines = _wrapped(self.verdict)
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}. {_headline(finding)}"]
            lines += _indented(finding.message)
            lines += [f"   try: {finding.advice}"]
            lines += [f"        ({line})" for line in finding.imports]
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
    return _wrapped(text, "   ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of 79 characters; a number and its % stay together."""
    lines = textwrap.wrap(
        text.replace(" %", "\0%"), 79, initial_indent=indent, subsequent_indent=indent
    )
    return [line.replace("\0%", " %") for line in lines]


# The order of the findings: causes before what follows from them, so that the first
# advice is the one to try first. What a fit began with comes before what it did.
_RULES = (
    _model_rules.find_held_out_scale,
    _data_rules.find_target_in_features,
    _data_rules.find_row_order,
    _data_rules.find_id_column,
    _data_rules.find_sentinel_values,
    _data_rules.find_outliers,
    _rules.find_unscaled_input,
    _data_rules.find_classes_as_targets,
    _data_rules.find_outliers_in_target,
    _data_rules.find_skewed_target,
    _rules.find_unscaled_target,
    _data_rules.find_constant_columns,
    _model_rules.find_no_signal,
    _rules.find_exploding_from_start,
    _rules.find_starved_layer,
    _rules.find_divergence,
    _rules.find_learning_rate_too_high,
    _rules.find_update_too_large,
    _rules.find_exploding_later,
    _rules.find_dead_units,
    _rules.find_saturated_units,
    _rules.find_vanishing_gradient,
    _rules.find_clipped_steps,
    _rules.find_epsilon_floor,
    _rules.find_penalty_too_large,
    _rules.find_update_too_small,
    _rules.find_learning_rate_too_low,
    _rules.find_too_few_steps,
    _rules.find_network_too_small,
    _rules.find_label_smoothing,
    _rules.find_stopped_by_tol,
    _rules.find_plateau,
    _model_rules.find_majority_only,
    _rules.find_constant_prediction,
    _model_rules.find_overfitting,
    _model_rules.find_underfitting,
    _model_rules.find_worse_than_linear,
    _rules.note_not_converged,
    _rules.note_schedule_ended,
    _rules.note_stuck,
    _rules.note_small_weights,
    _model_rules.note_class_imbalance,
    _data_rules.find_counts_as_targets,
    _data_rules.find_duplicate_rows,
)
# Of a fit that diverged before its first record.
_RULES_WITHOUT_RECORDS = (
    _data_rules.find_row_order,
    _data_rules.find_id_column,
    _data_rules.find_sentinel_values,
    _data_rules.find_outliers,
    _rules.find_unscaled_input,
    _data_rules.find_outliers_in_target,
    _rules.find_unscaled_target,
    _rules.find_starved_layer,
    _rules.find_divergence,
)
# Of one whose schedule was zero all the time.
_RULES_STANDING_STILL = (_rules.find_unscaled_input, _rules.find_update_too_small)
# Of one that made no step: how training ended is all there is to tell.
_RULES_WITHOUT_STEPS = (
    _rules.find_unscaled_target,
    _rules.find_stopped_before_first_step,
    _rules.note_not_converged,
    _rules.note_stuck,
    _rules.note_small_weights,
)


def diagnose(
    model: Any,
    X_val: Any = None,
    y_val: Any = None,
    sample_weight_val: Any = None,
) -> Diagnosis:
    """Says why an estimator's last fit did not learn, or that it did.

    Parameters
    ----------
    model : estimator
        A BPClassifier or BPRegressor that was fitted with ``monitor=True``, or a model
        that holds one: a pipeline, a search, another meta-estimator. A fit that raised
        because it diverged counts. Parameters should still be those of the fit.
    X_val : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
        Rows that the model was not trained on, as `model` takes them. None means those
        that the fit held out, if it did.
    y_val : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Their targets.
    sample_weight_val : array-like of shape (n_samples,), default=None
        Their weights.

    Returns
    -------
    Diagnosis

    Raises
    ------
    NotFittedError
        If there was no training yet.
    ValueError
        If it was not monitored, or interrupted before the first record; if the records
        are of another network; if its solver is unknown; if the given rows do not fit
        the model.
    TypeError
        If there is no network in it.

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
    inside = find_network(model)
    estimator = inside.estimator
    given = _judge_given(inside, X_val, y_val, sample_weight_val)
    with np.errstate(all="ignore"):
        fit = Fit(estimator, given, inside.columns, inside.original)
        rules = _RULES_WITHOUT_STEPS if fit.idle else _RULES_WITHOUT_RECORDS
        if len(fit.flow.epoch):
            rules = _RULES_STANDING_STILL if fit.stands_still else _RULES
        found = [finding for rule in rules if (finding := rule(fit)) is not None]
        # Problems first: the first advice is the one to try first.
        found.sort(key=lambda f: _rank(fit, f))
        found = _without_contradictions(_without_consequences(found))
        verdict = _verdict(fit, found)
        record = FitRecord.of(estimator, fit)
    if inside.note:
        verdict += f" {inside.note}"
    findings = tuple(_for_model(finding, inside, fit) for finding in found)
    return Diagnosis(verdict, findings, record)


def _for_model(finding: Finding, inside: Inside, fit: Fit) -> Finding:
    """The finding with advice for the model that was passed."""
    if finding.code == "sentinel-values":
        seen = fit.summary.faults.of(finding.code)
        if seen is not None and finding.evidence["value"] != seen.evidence["value"]:
            return finding  # it is for X itself, before all steps
    advice, remark = rewrite(finding.advice, inside)
    message = f"{finding.message} {remark}" if remark else finding.message
    return replace(finding, advice=advice, message=message)


def _judge_given(inside: Inside, X: Any, y: Any, sample_weight: Any) -> Given:
    """What the network and a linear model are worth on rows that are given."""
    if X is None and y is None and sample_weight is None:
        return Given()
    if X is None or y is None:
        raise ValueError("X_val and y_val must be given both, or neither of them.")
    model = inside.estimator
    summary = getattr(model, "_fit_summary", None)
    if getattr(model, "_failed_flow", None) is not None or summary is None:
        return Given()
    X, y = inside.inputs(X), inside.targets(y)
    X, y, sample_weight, known = _of_known_classes(model, X, y, sample_weight)
    network, theta, X, target, weight = _fitting.one_batch(model, X, y, sample_weight)
    standing = summary.standing or Standing()
    if getattr(model, "class_weight", None) is not None:  # a score counts rows
        weight = None if sample_weight is None else np.asarray(sample_weight, float)
    outputs = predict(network, theta, X)
    held = judge(network, outputs, target, weight, standing.common)
    if standing.linear is None:
        linear = by_folds(network, X, target, weight, standing.common)
    else:
        outputs = standing.linear.outputs(X)
        linear = judge(network, outputs, target, weight, standing.common)
    rows = None if standing.seen is None else compare_rows(standing.seen, X)
    return Given(
        _of_all(held, known),
        _of_all(linear, known),
        rows,
        known=known,
        folded=standing.linear is None,
        target=_differing_target(standing, target),
    )


def _differing_target(standing: Standing, target: Any) -> dict[str, float] | None:
    """Means and spreads of given targets and those of training, if they lie apart."""
    mean, spread = standing.target_mean, standing.target_spread
    if mean is None or spread is None or sparse.issparse(target) or len(target) < 5:
        return None
    of_given = float(target.mean(dtype=np.float64)), float(target.std(dtype=np.float64))
    apart = abs(of_given[0] - mean) > 3 * (spread + of_given[1])
    if not (apart or of_given[1] > 10 * spread or spread > 10 * of_given[1] > 0):
        return None
    return dict(
        mean=of_given[0], spread=of_given[1], seen_mean=mean, seen_spread=spread
    )


def _of_all(worth: Worth | None, known: float) -> Worth | None:
    """Of all given rows, if it was judged on those whose class is known."""
    if worth is None or known == 1:
        return worth
    score, constant = worth.score * known, worth.constant * known
    return replace(worth, score=score, constant=constant)


def _of_known_classes(
    model: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Any, Any, Any, float]:
    """The rows whose class was met in training, and their share: any answer to others
    is wrong."""
    classes = getattr(model, "classes_", None)
    y_array = np.asarray(y) if not sparse.issparse(y) else None
    if y_array is not None and y_array.ndim == 2 and y_array.shape[1] == 1:
        y_array = y_array.ravel()
    one_label = isinstance(classes, np.ndarray) and y_array is not None
    if not one_label or y_array.ndim != 1 or len(y_array) == 0:
        return X, y, sample_weight, 1.0
    same_type = (y_array.dtype.kind in "OUS") == (classes.dtype.kind in "OUS")
    known = np.isin(y_array, classes) if same_type else np.zeros(len(y_array), bool)
    weight = np.ones(len(y_array)) if sample_weight is None else sample_weight
    weight = np.asarray(weight)
    fits = _num_samples(X) == len(y_array) and weight.shape == y_array.shape
    if known.all() or not known.any() or not fits or weight.dtype.kind not in "biuf":
        return X, y, sample_weight, 1.0
    share = float(weight[known].sum() / max(weight.sum(), TINY))
    if sample_weight is not None:
        sample_weight = weight[known]
    rows = np.flatnonzero(known)
    return _safe_indexing(X, rows), y_array[known], sample_weight, share


def _settings_of(advice: str) -> dict[str, str] | None:
    """The parameters that an advice sets, None if it is an expression."""
    try:
        call = ast.parse(f"f({advice})", mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or call.args or not call.keywords:
        return None
    return {str(k.arg): ast.unparse(k.value) for k in call.keywords}


# Findings about parameters, and about those that are so only if the learning rate is
# far from usual ones.
_OF_SETTINGS = ("penalty-too-large", "too-few-steps", "network-too-small")
_OF_SETTINGS += ("label-smoothing", "clipped-steps", "starved-layer", "plateau")
_OF_SETTINGS += ("row-order",)
_OF_LOW_RATES = ("learning-rate-too-low", "update-too-small")
_OF_HIGH_RATES = ("learning-rate-too-high", "update-too-large", "divergence")


def _is_setting(fit: Fit, finding: Finding) -> bool:
    """Whether a parameter far from usual values explains the fit, whatever the data
    are: then its finding comes first."""
    code = finding.code
    if code in ("held-out-scale", "no-signal", *_OF_SETTINGS):
        return True
    if code == "stopped-by-tol":
        return fit.parameters["tol"] > 1e-3
    if code == "vanishing-gradient":
        return fit.flow.n_layers > 3
    if code == "epsilon-floor":
        return fit.parameters["epsilon"] > 1e-7
    return (code in _OF_LOW_RATES and fit.rate_is_far_below) or (
        code in _OF_HIGH_RATES and fit.rate_is_far_above
    )


def _rank(fit: Fit, finding: Finding) -> tuple[bool, bool]:
    if finding.severity == PROBLEM:
        return False, not _is_setting(fit, finding)
    return True, finding.code in _OF_DATA


def _without_consequences(findings: list[Finding]) -> list[Finding]:
    """Without what other findings explain.

    A plateau is a cause only where nothing else is. What a model is worth on rows that
    came in another way says nothing about the model.
    """
    if any(f.code == "outliers" for f in findings):  # they spoil means and spreads
        findings = [f for f in findings if f.code != "held-out-scale"]
    if any(f.code == "no-signal" and f.severity == PROBLEM for f in findings):
        findings = [f for f in findings if f.code not in _WITHOUT_SIGNAL]
    if any(f.code == "overfitting" for f in findings):  # longer, it overfits more
        findings = [f for f in findings if f.code != "not-converged"]
    scaled = [f for f in findings if f.code == "held-out-scale"]
    if any(f.severity == PROBLEM for f in scaled):
        findings = [f for f in findings if f.code not in _ON_OTHER_ROWS]
    problems = [f for f in findings if f.severity == PROBLEM]
    others = any(f.code not in ("plateau", *_OF_THE_MODEL) for f in problems)
    return [f for f in findings if not (others and f.code == "plateau")]


def _without_contradictions(findings: list[Finding]) -> list[Finding]:
    """Of two advices that give one parameter different values the first one holds.

    Nor is more training a cure where the rate is too high.
    """
    kept: list[Finding] = []
    said: dict[str, Finding] = {}
    for finding in findings:
        if finding.code == "not-converged":
            too_high = [f for f in kept if f.code == "learning-rate-too-high"]
            if too_high:
                finding = replace(finding, advice=too_high[0].advice)
        if kept and finding.code in _CONSEQUENCES and kept[0].severity == PROBLEM:
            finding = replace(finding, advice=kept[0].advice)
        settings = _settings_of(finding.advice) or {}
        earlier = next((said[name] for name in settings if name in said), None)
        if earlier is not None:
            finding = replace(finding, advice=earlier.advice)
        for name in settings:
            said.setdefault(name, finding)
        kept.append(finding)
    return kept


# ---- the verdict


def _verdict(fit: Fit, findings: list[Finding]) -> str:
    """How training went, and what came out, each with its number."""
    if fit.summary.constant_cost <= TINY and fit.outcome not in ("diverged", "partial"):
        return say("went.constant")
    return " ".join([_went(fit, findings), *_came_out(fit)])


def _went(fit: Fit, findings: list[Finding]) -> str:
    problems = [finding for finding in findings if finding.severity == PROBLEM]
    title = TITLES[problems[0].code] if problems else ""
    if fit.outcome == "diverged":
        return say("went.diverged", title=title)
    if fit.idle:
        tol = fit.parameters["tol"]
        return say(f"went.idle{'_tol' * (fit.outcome == 'converged')}", tol=tol)
    n = fit.n_epochs
    numbers = {"n": n, "epochs": count(n, fit.solver.epoch)}
    ended = ""
    if fit.outcome == "interrupted" or (fit.outcome == "stopped" and not fit.learned):
        ended = say(f"went.{fit.outcome}", **numbers)
    if problems:
        kind = "badly"
        if fit.learned or problems[0].code in _OF_THE_MODEL:
            kind = "improvable"
        if fit.reached > NOTHING_LEARNED:
            kind = "nowhere"
        return f"{ended} {say(f'went.{kind}', title=title)}".lstrip()
    if ended:
        return ended
    if fit.outcome == "max_iter" and fit.late_fall > 0.05 and not fit.learned:
        limit = "max_fun" if fit.max_fun_ended else "max_iter"
        return say("went.short", limit=f"{limit}={fit.parameters[limit]}", **numbers)
    if fit.reached > NOTHING_LEARNED:
        return say("went.unsure")
    if any(finding.code == "overfitting" for finding in findings):
        return say("went.by_heart")
    if any(finding.code == "no-signal" for finding in findings):
        return say("went.perhaps_noise")
    if fit.only_linear:
        return say("went.as_linear", linear=max(fit.linear_held.score, 0.0))
    return say("went.well")


# What follows if there is nothing to learn.
_WITHOUT_SIGNAL = ("overfitting", "worse-than-linear", "majority-only", "underfitting")
_WITHOUT_SIGNAL += ("penalty-too-large", "constant-prediction", "not-converged")
# Notes about data come after those about the model.
_OF_DATA = ("constant-columns", "outliers", "sentinel-values", "skewed-target")
_OF_DATA += ("classes-as-targets", "counts-as-targets", "id-column")
# What follows from another problem: its cure is that of the other one.
_CONSEQUENCES = ("underfitting", "worse-than-linear", "constant-prediction")
# What held-out rows say.
_ON_OTHER_ROWS = ("overfitting", "worse-than-linear", "no-signal", "majority-only")

# Training may have gone well, and yet the model be bad.
_OF_THE_MODEL = ("overfitting", "majority-only", "worse-than-linear", "underfitting")
_OF_THE_MODEL += ("constant-prediction", "no-signal", "held-out-scale")
_OF_THE_MODEL += ("target-in-features", "id-column", "duplicate-rows")


def _came_out(fit: Fit) -> Iterator[str]:
    train, held = fit.train, fit.held
    if fit.outcome == "diverged":
        return
    if train is None and held is None:
        share = 1 - fit.reached
        known = math.isfinite(share) and share > 0
        if known or fit.outcome != "partial":
            yield say("worth.cost", share=share) if known else say("worth.nothing")
        if fit.outcome != "partial":
            yield say("worth.given")
        return
    some = train or held
    numbers = {
        "score": explained(some.score, some.kind),
        "held": explained(held.score, held.kind) if held else "",
    }
    if train is None:
        yield say("worth.held", **numbers)
    else:
        if train.kind == "accuracy":
            numbers["label"] = repr(_label(fit))
            numbers["constant"] = (held or train).constant
        yield say(f"worth.{train.kind}{'' if held is None else '_held'}", **numbers)
    if held is None:
        yield say("worth.given")
    elif fit.known < 1:
        yield say("worth.unknown", share=1 - fit.known)


def _label(fit: Fit) -> Any:
    """The commonest class of the training rows, as Python writes it."""
    label = fit.classes[fit.standing.common]
    return label.item() if isinstance(label, np.generic) else label
