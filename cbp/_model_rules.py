"""The rules about the model: what its answers are worth, and what the data allow.

They read what the fit noted of its end (`Standing`, _worth.py) and what is known of
rows that it was not trained on. Rules about training stand in _rules.py.
"""

from __future__ import annotations

import numpy as np

from cbp import _advice
from cbp._evidence import (
    BEATS_LINEAR,
    GAP,
    GAP_ALONE,
    GAP_BY_HEART,
    GAP_LEAST,
    GAP_NOTE,
    LOST_TO_LINEAR,
    MANY,
    MOST,
    NEVER_PREDICTED,
    NO_SHARE,
    ONE_ANSWER,
    OVERFITS,
    RARE,
    RARE_FOUND,
    SIGNAL_CLEAR,
    SIGNAL_MANY,
    SIGNAL_ROWS,
    Fit,
)
from cbp._finding import NOTE, PROBLEM, Finding
from cbp._texts import explained, say
from cbp._worth import Signal, Worth


def find_held_out_scale(fit: Fit) -> Finding | None:
    """Rows that are given and did not go the way of the training rows."""
    rows, target = fit.rows, fit.given_target
    if target is not None:
        message = say("held-out-scale.target", **target)
        advice = _advice.SCALE_TARGET
        return Finding("held-out-scale", None, message, dict(target), advice)
    if rows is None or not rows.kind:
        return None
    # Standardised columns have means that are rounding.
    numbers = {k: x if abs(x) > 1e-9 else 0.0 for k, x in (rows.evidence or {}).items()}
    if rows.columns:
        numbers["column"] = fit.column(rows.columns[0])
    message = say(f"held-out-scale.{rows.kind}", **numbers)
    evidence = {"columns": list(rows.columns), "n_columns": rows.n_columns, **numbers}
    shifted = rows.kind == "columns-shifted"
    severity = NOTE if shifted and fit.generalises else PROBLEM
    advice = _advice.scale_input(fit)
    return Finding("held-out-scale", None, message, evidence, advice, severity)


def _is_noise(signal: Signal) -> bool:
    """Whether the quick model explains no more than it does of shuffled targets."""
    noise = signal.noise
    if signal.n_rows >= SIGNAL_MANY:
        noise = max(noise, 0.0)
    return signal.score <= noise + SIGNAL_CLEAR


def find_no_signal(fit: Fit) -> Finding | None:
    signal, held, linear = fit.standing.signal, fit.held, fit.linear_held
    if fit.outcome == "diverged":
        return None
    # What the network or a linear model knows of other rows is a signal, too.
    unknown = NO_SHARE + 2 * fit.score_noise
    some = held is not None and held.share > unknown
    if some or (linear is not None and linear.share > unknown):
        return None
    if signal is not None and fit.train is not None:
        if signal.n_rows * (1 - fit.train.constant) < SIGNAL_ROWS:
            return None
    if signal is not None and _is_noise(signal):
        message = say(
            "no-signal",
            features=signal.n_features,
            score=max(signal.score, 0.0),
            noise=max(signal.noise, 0.0),
        )
        evidence = {"score": signal.score, "noise": signal.noise}
    elif held is not None and linear is not None and fit.summary.rare_share == 0:
        if signal is not None:
            return None
        # Of rows that it was trained on it knows something, of others nothing.
        if fit.train is None or not fit.train.share > 0.3 or held.share > NO_SHARE:
            return None
        message = say(
            "no-signal.held",
            held=_score(held),
            linear=explained(linear.score, linear.kind),
        )
        evidence = {"held_out": held.score, "linear": linear.score}
    else:
        return None
    # Without other rows nobody knows what the network has found that a quick model
    # has not.
    severity = NOTE if held is None else PROBLEM
    advice = _advice.against_noise(fit)
    return Finding("no-signal", None, message, evidence, advice, severity)


def find_majority_only(fit: Fit) -> Finding | None:
    worth, s = fit.held or fit.train, fit.summary
    if worth is None or worth.kind != "accuracy" or fit.classes is None:
        return None
    if fit.outcome in ("diverged", "partial") or fit.class_weight == "balanced":
        return None
    if s.rare_class is None or worth.constant >= 1:
        return None
    numbers = {
        "label": str(fit.classes[fit.standing.common]),
        "answers": worth.answers,
        "rare": str(fit.classes[s.rare_class]),
        "rare_share": s.rare_share,
    }
    least = 1 / len(fit.classes)
    balanced = (worth.balanced - least) / (1 - least)
    if worth.answers >= ONE_ANSWER:
        message = say("majority-only", share=worth.constant, **numbers)
    elif worth.answers > MOST and s.rare_share < RARE and balanced < RARE_FOUND:
        message = say("majority-only.nearly", balanced=worth.balanced, **numbers)
    else:
        return None
    evidence = {"answers": worth.answers, "constant": worth.constant}
    evidence["balanced"] = worth.balanced
    advice = "class_weight='balanced'"
    return Finding("majority-only", None, message, evidence, advice)


def note_class_imbalance(fit: Fit) -> Finding | None:
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
    if find_majority_only(fit) is not None:
        return None
    label = str(fit.classes[s.rare_class])
    message = say("class-imbalance", label=label, share=s.rare_share, recall=s.recall)
    evidence = {"class": label, "share": s.rare_share, "recall": s.recall}
    advice = "class_weight='balanced'"
    return Finding("class-imbalance", None, message, evidence, advice, NOTE)


def _score(worth: Worth) -> str:
    return explained(worth.score, worth.kind)


def _does(worth: Worth) -> str:
    right = worth.kind in ("accuracy", "labels")
    name = "does.right" if right else "does.explains"
    return say(name, score=_score(worth))


def find_worse_than_linear(fit: Fit) -> Finding | None:
    held, linear = fit.held, fit.linear_held
    if held is None or linear is None or fit.outcome == "diverged":
        return None
    if not linear.score - held.score > LOST_TO_LINEAR + fit.score_noise:
        return None
    text = "worse-than-linear.folds" if fit.folded else "worse-than-linear"
    message = say(text, does=_does(linear), held=_score(held))
    evidence = {"linear": linear.score, "held_out": held.score}
    # It fits its own rows better, and others worse: it has learned them by heart. A
    # short fit has no linear model of its rows; one of the given rows stands for it.
    on_own_rows = fit.linear_train or linear
    better = fit.train is not None and fit.train.score > on_own_rows.score
    advice = (
        _advice.against_overfitting(fit, True) if better else _advice.more_power(fit)
    )
    return Finding("worse-than-linear", None, message, evidence, advice)


def find_underfitting(fit: Fit) -> Finding | None:
    """A linear model does better even on the rows that were trained on."""
    train, linear = fit.train, fit.linear_train
    if train is None or linear is None or fit.outcome == "diverged":
        return None
    if not linear.score - train.score > LOST_TO_LINEAR + fit.score_noise:
        return None
    message = say(
        "underfitting", does=_does(train), linear=explained(linear.score, linear.kind)
    )
    evidence = {"train": train.score, "linear": linear.score}
    return Finding("underfitting", None, message, evidence, _advice.more_power(fit))


def find_overfitting(fit: Fit) -> Finding | None:
    """Curves tell it best; without them the gap between two scores."""
    by_curve = _overfits_by_score(fit) or _overfits_by_cost(fit)
    gap = _overfits_by_gap(fit)
    if gap is not None and gap.severity == PROBLEM:
        return gap
    return by_curve or gap


def _overfits_by_gap(fit: Fit) -> Finding | None:
    train, held = fit.train, fit.held
    if train is None or held is None or fit.outcome == "diverged":
        return None
    if find_no_signal(fit) is not None or train.share < 0.2:
        return None
    lost = train.share - held.share
    linear = fit.linear_held
    # It fits its own rows better than a linear model does, and others worse.
    worse = find_worse_than_linear(fit) is not None and lost > GAP_LEAST * train.share
    if fit.linear_train is not None:
        worse = worse and train.score > fit.linear_train.score
    # Of rows of which nearly all are of one class, few tell of the others.
    noise = fit.score_noise / max(1 - held.constant, 0.01)
    if not (worse or lost > max(GAP_NOTE * train.share, 3 * noise)):
        return None
    # A gap alone is no harm: a network that beats a linear model may have one.
    # Rows that are known to the last digit were learned by heart.
    by_heart = train.score > 0.99 and fit.reached < 0.01
    least = GAP if by_heart and linear is not None else GAP_ALONE
    if by_heart and (
        fit.chooses_its_steps or fit.n_weights > MANY * fit.summary.n_rows
    ):
        least = GAP_BY_HEART
    beats = linear is not None and held.score > linear.score + BEATS_LINEAR
    beats = beats and least != GAP_BY_HEART
    severe = worse or (lost > least * train.share and not beats)
    message = say(
        "overfitting.gap",
        does=_does(train),
        held=_score(held),
        weights=fit.n_weights,
        rows=fit.summary.n_rows,
    )
    evidence = {"train": train.score, "held_out": held.score}
    severity = PROBLEM if severe else NOTE
    advice = _advice.against_overfitting(fit, severe)
    return Finding("overfitting", None, message, evidence, advice, severity)


def _overfits_by_score(fit: Fit) -> Finding | None:
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
    share = float(cost[-1] / cost[epoch])
    message = say("overfitting.score", epoch=epoch + 1, best=best, end=end, share=share)
    evidence = {"best": best, "best_epoch": epoch + 1, "end": end}
    advice = _advice.against_overfitting(fit)
    return Finding("overfitting", None, message, evidence, advice, NOTE)


def _overfits_by_cost(fit: Fit) -> Finding | None:
    """Overfitting that no early stopping has ended."""
    held_out, cost = fit.held_out, fit.cost
    if len(held_out) < 8 or not np.isfinite(held_out).all():
        return None
    least, epoch = float(held_out.min()), int(held_out.argmin())
    end = float(held_out[-max(len(held_out) // 10, 3) :].mean())
    noise = float(np.diff(held_out[len(held_out) // 2 :]).std())
    if not (end - least > max(OVERFITS, 2 * noise) and cost[-1] < 0.9 * cost[epoch]):
        return None
    message = say(
        "overfitting.cost",
        epoch=epoch + 1,
        least=least,
        end=end,
        share=float(cost[-1] / cost[epoch]),
    )
    evidence = {"least": least, "best_epoch": epoch + 1, "end": end}
    advice = _advice.against_overfitting(fit)
    return Finding("overfitting", None, message, evidence, advice, NOTE)
