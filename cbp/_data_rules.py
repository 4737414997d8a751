"""The rules about data: what the look at the rows of a fit has found (_columns.py).

Which of it spoils a fit, and what to do about it, is decided here.
"""

from __future__ import annotations

from cbp import _advice
from cbp._columns import Fault
from cbp._evidence import CLASS_GAP, SQUEEZED, Fit
from cbp._finding import NOTE, PROBLEM, Finding
from cbp._texts import say


def _fault(fit: Fit, kind: str) -> Fault | None:
    return fit.summary.faults.of(kind)


def _found(
    fit: Fit,
    fault: Fault,
    text: str,
    advice: str,
    severity: str = PROBLEM,
    **more: object,
) -> Finding:
    numbers: dict[str, object] = {**fault.evidence, **more}
    if fault.column is not None:
        numbers["column"] = fit.column(fault.column)
    message = say(text, **numbers)
    evidence = {"column": fault.column, **fault.evidence}
    return Finding(fault.kind, None, message, evidence, advice, severity)


def find_target_in_features(fit: Fit) -> Finding | None:
    fault = _fault(fit, "target-in-features")
    if fault is None:
        return None
    e = fault.evidence
    told = abs(e["correlation"]) if "correlation" in e else 1 - e["wrong"] / e["others"]
    advice = _advice.without_columns(fit, [fault.column])
    # Where several columns tell it, or where classes touch, it may be an easy task.
    severity = PROBLEM
    if e["n_columns"] > 1 or e.get("gap", 1.0) < CLASS_GAP:
        severity = NOTE
    return _found(fit, fault, "target-in-features", advice, severity, told=told)


def find_id_column(fit: Fit) -> Finding | None:
    fault = _fault(fit, "id-column")
    if fault is None or fit.flow.layer_sizes[0] == 1:
        return None
    # A number of the rows that tells of y may be time, or an order of the rows.
    severity = PROBLEM if not fit.learned_well else NOTE
    advice = _advice.without_columns(fit, [fault.column])
    return _found(fit, fault, "id-column", advice, severity)


def find_sentinel_values(fit: Fit) -> Finding | None:
    fault = _fault(fit, "sentinel-values")
    if fault is None:
        return None
    seen = fault.evidence["value"]
    value = fit.original(fault.column or 0, seen)
    fault = fault._replace(evidence={**fault.evidence, "value": value})
    advice = _advice.impute(fit, value, scaled=value != seen)
    fine = fit.learned_well and not fit.input_off
    severity = NOTE if fine else PROBLEM
    return _found(fit, fault, "sentinel-values", advice, severity)


def find_outliers(fit: Fit) -> Finding | None:
    fault = _fault(fit, "outliers")
    if fault is None:
        return None
    # Scaled by the standard deviation they leave next to nothing of all others.
    squeezed = fault.evidence["rest_spread"] < SQUEEZED
    bad = fit.input_off or (squeezed and not fit.learned_well)
    severity = PROBLEM if bad else NOTE
    return _found(fit, fault, "outliers", _advice.tame_outliers(fit), severity)


def find_outliers_in_target(fit: Fit) -> Finding | None:
    fault = _fault(fit, "outliers-in-target")
    if fault is None or fit.loss is None or fit.loss.robust:
        return None
    severity = NOTE if fit.learned_well else PROBLEM
    return _found(fit, fault, "outliers-in-target", _advice.robust_loss(fit), severity)


def find_skewed_target(fit: Fit) -> Finding | None:
    fault = _fault(fit, "skewed-target")
    if fault is None or fit.loss is None or fit.loss.robust:
        return None
    if fit.learned_well and fit.held is not None and fit.generalises:
        return None  # another scale was worse in six of six such fits
    advice = _advice.log_target(fault.evidence)
    return _found(fit, fault, "skewed-target", advice)


def find_counts_as_targets(fit: Fit) -> Finding | None:
    fault = _fault(fit, "counts-as-targets")
    if fault is None or fit.loss is None or fit.loss.robust:
        return None
    return _found(fit, fault, "counts-as-targets", "loss='poisson'", NOTE)


def find_classes_as_targets(fit: Fit) -> Finding | None:
    fault = _fault(fit, "classes-as-targets")
    if fault is None:
        return None
    # Ordered classes, such as marks, are rightly taken for numbers.
    severity = PROBLEM if not fit.learned_well else NOTE
    advice = _advice.classifier(fit)
    return _found(fit, fault, "classes-as-targets", advice, severity)


def find_constant_columns(fit: Fit) -> Finding | None:
    fault = _fault(fit, "constant-columns")
    if fault is None:
        return None
    e = fault.evidence
    if e["n_constant"] == e["n_columns"]:
        return _found(fit, fault, "constant-columns.all", "model.fit(X, y)")
    # Zeros change nothing; numbers act as a second bias, whose steps are as large.
    severity = PROBLEM if e["constant_length"] > e["varying_length"] else NOTE
    return _found(fit, fault, "constant-columns", _advice.DROP_CONSTANT, severity)


def find_row_order(fit: Fit) -> Finding | None:
    fault = _fault(fit, "row-order")
    if fault is None:
        return None
    return _found(fit, fault, "row-order", "shuffle=True")


def find_duplicate_rows(fit: Fit) -> Finding | None:
    fault = _fault(fit, "duplicate-rows")
    if fault is None or fit.summary.row_length == 0 or fit.nothing_to_learn:
        return None
    return _found(fit, fault, "duplicate-rows", _advice.each_row_once(fit))
