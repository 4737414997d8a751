"""The rules about training: inputs, gradients, steps, and how training ended.

Each looks at a fit (_evidence.py) and returns its finding, or None. Texts stand in
_texts.py, advice in _advice.py; what the model is worth is judged in _model_rules.py.
Layers are counted from 1 to L, the output layer; docs/diagnosis.md explains every
finding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cbp import _advice
from cbp._catalog import ACTIVATIONS
from cbp._evidence import (
    CLIPPED,
    CONSTANT,
    DEAD,
    DEAD_BUT_LEARNING,
    DECAY,
    EXPLODING,
    EXPLODING_LATER,
    FLOORED,
    INPUT_HUGE,
    INPUT_LARGE,
    MOVED,
    NOTHING_LEARNED,
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
    USUAL_BATCH,
    VANISHING,
    WEIGHT_SMALL,
    Fit,
    finite,
)
from cbp._finding import NOTE, PROBLEM, Finding
from cbp._texts import count, say
from cbp.gradient_flow import GradientFlow


def find_unscaled_input(fit: Fit) -> Finding | None:
    s = fit.summary
    huge = s.column_size > INPUT_HUGE
    large = s.column_size > INPUT_LARGE and not fit.learned_well
    tiny = 0 < s.row_length < ROW_TINY
    short = 0 < s.row_length < ROW_SHORT and not fit.learned_well
    if not (huge or large or tiny or short):
        return None
    if huge or large:
        message = say(
            "unscaled-input.large",
            column=fit.column(s.column),
            size=s.column_size,
            mean=s.column_mean,
        )
    else:
        standard = fit.flow.layer_sizes[0] ** 0.5
        message = say("unscaled-input.small", length=s.row_length, standard=standard)
    evidence = {
        "column": s.column,
        "column_size": s.column_size,
        "column_mean": s.column_mean,
        "row_length": s.row_length,
    }
    return Finding("unscaled-input", 1, message, evidence, _advice.scale_input(fit))


def find_unscaled_target(fit: Fit) -> Finding | None:
    """Causes much of what follows, so it comes before steps and gradients."""
    s = fit.summary
    if not (fit.target_off or fit.counts_large) or fit.reached < 0.02:
        return None
    advice = _advice.SCALE_TARGET if fit.target_off else _advice.SCALE_COUNTS
    evidence = {"size": s.target_size, "spread": s.target_variance**0.5}
    return Finding("unscaled-target", None, _target_sentence(fit), evidence, advice)


def _target_sentence(fit: Fit) -> str:
    s = fit.summary
    if not math.isfinite(s.target_size + s.target_variance):
        return say("unscaled-target.overflow")
    if fit.counts_large:
        return say("unscaled-target.counts", size=s.target_size)
    mean = max(s.target_size**2 - s.target_variance, 0) ** 0.5
    return say("unscaled-target", mean=mean, spread=s.target_variance**0.5)


def find_divergence(fit: Fit) -> Finding | None:
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, TINY), 1)
    endless = len(fit.cost) > 1 and fit.cost[-1] > max(1e6 * start, fit.cost[0])
    if fit.outcome == "diverged":
        epoch = fit.n_epochs + 1
        message = say("divergence", epoch=fit.solver.epoch, number=epoch)
    elif endless and not fit.learned:
        epoch = fit.n_epochs
        message = say("divergence.endless", cost=float(fit.cost[-1]))
    else:
        return None
    return Finding("divergence", None, message, {"epoch": epoch}, _advice.calm(fit))


def find_exploding_from_start(fit: Fit) -> Finding | None:
    errors = finite(fit.flow.relative_error[0])
    # The first record may hold several steps: large ones explain an explosion, too.
    stepped = fit.first_step.max() > STEP_FIRST and not fit.given_weights
    if fit.learned or stepped or fit.began_well or not errors.max() > EXPLODING:
        return None
    advice = "warm_start=False" if fit.given_weights else _advice.calm(fit)
    return _exploding(fit, errors, "when.start", advice)


def find_exploding_later(fit: Fit) -> Finding | None:
    errors = finite(fit.typical(fit.flow.relative_error))
    if fit.learned or not errors.max() > EXPLODING_LATER:
        return None
    if find_exploding_from_start(fit) is not None:
        return None
    return _exploding(fit, errors, "when.later", _advice.calm(fit))


def _exploding(fit: Fit, errors: NDArray, when: str, advice: str) -> Finding:
    layer = int(errors.argmax()) + 1
    size = float(errors[layer - 1])
    per_layer = size ** (1 / max(fit.flow.n_layers - layer, 1))
    message = say(
        "exploding-gradient",
        layer=layer,
        size=size,
        per_layer=per_layer,
        when=say(when),
    )
    evidence = {"relative_error": [float(e) for e in errors], "per_layer": per_layer}
    return Finding("exploding-gradient", layer, message, evidence, advice)


def find_vanishing_gradient(fit: Fit) -> Finding | None:
    flow = fit.flow
    if flow.n_layers == 1 or fit.learned_well:
        return None
    errors = fit.typical(flow.relative_error)
    if fit.learned or not errors.min() < VANISHING:  # nor if there is a NaN
        # Deep networks may lose it in the first epochs only, and learn little.
        if not fit.vanished_at_first:
            return None
        errors = fit.first_errors
    layer = int(errors.argmin()) + 1
    size = float(errors[layer - 1])
    steps = flow.n_layers - layer
    by_activation, by_weights, share = _factors(fit, layer, size)
    names = "/".join(dict.fromkeys(flow.activations[layer - 1 :]))
    if size > 0 and 0 < by_activation * by_weights:
        message = say(
            "vanishing-gradient",
            size=size,
            layer=layer,
            per_layer=size ** (1 / steps),
            names=names,
            activation=by_activation ** (1 / steps),
            weights=by_weights ** (1 / steps),
        )
    else:
        some = "only" if size > 0 else "nothing"
        message = say(f"vanishing-gradient.{some}", size=size, layer=layer)
    evidence = {
        "relative_error": [float(e) for e in errors],
        "per_layer": size ** (1 / steps),
        "by_activation": by_activation,
        "by_weights": by_weights,
        "activation_share": share,
    }
    advice = _advice.against_vanishing(fit, share)
    return Finding("vanishing-gradient", layer, message, evidence, advice)


def _factors(fit: Fit, layer: int, size: float) -> tuple[float, float, float]:
    """What activations and weights make of the error on its way to a layer, and the
    activations' share of it on a logarithmic scale, where factors add up."""
    gains = fit.typical(fit.flow.gain_activation)[layer - 1 :]
    by_activation = float(np.prod(gains))
    if 0 < by_activation < math.inf and 0 < size < 1:
        share = min(max(math.log(by_activation) / math.log(size), 0.0), 1.0)
        return by_activation, size / by_activation, share
    # Something let nothing pass. What does so nearest to the output layer is the cause;
    # NaN is 0 / 0: what the weights passed on was 0 already.
    blocked = [gain for gain in gains[::-1] if not gain > 0]
    if blocked and blocked[0] == 0:
        return 0.0, 1.0, 1.0
    return 1.0, 0.0, 0.0


def find_starved_layer(fit: Fit) -> Finding | None:
    starved = fit.starved
    if fit.learned or not (starved.max() > STARVED or fit.drops_much):
        return None
    # Whatever is left of them, such inputs tell nothing.
    if fit.summary.row_length == 0 or fit.input_overflows:
        return None
    # Nor do weights without any gradient learn with fewer dropped units.
    if len(fit.flow.epoch) and not fit.flow.gradient[fit.late].any():
        return None
    place = int(starved.argmax())
    if not starved.max() > STARVED:
        place = int(np.argmax(fit.dropout[1:])) + 1
    width, rate = fit.flow.layer_sizes[place], fit.dropout[place]
    units = say("units.layer", layer=place) if place else say("units.inputs")
    message = say(
        "starved-layer" if starved.max() > STARVED else "starved-layer.much",
        left=width * (1 - rate),
        width=width,
        units=units,
        share=float(starved[place]),
    )
    evidence = {"nothing_left": [float(x) for x in starved]}
    advice = _advice.less_dropout(fit)
    return Finding("starved-layer", max(place, 1), message, evidence, advice)


def find_clipped_steps(fit: Fit) -> Finding | None:
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
    norm = float(np.median(fit.gradient_norms))
    message = say("clipped-steps", limit=limit, share=share, norm=norm)
    if held:
        message += " " + say("clipped-steps.held", moved=fit.moved)
    evidence = {"clipped": share, "gradient_norm": norm, "moved": fit.moved}
    advice, severity = _advice.wider_limit(fit), PROBLEM if held else NOTE
    return Finding("clipped-steps", None, message, evidence, advice, severity)


def _losing(flow: GradientFlow, lost_units: str) -> NDArray[np.bool_]:
    """Which hidden layers have units that can be lost in this way."""
    return np.array([ACTIVATIONS[f].lost_units == lost_units for f in flow.activations])


def find_saturated_units(fit: Fit) -> Finding | None:
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
    message = say(
        "saturated-units",
        share=float(last[layer - 1]),
        activation=flow.activations[layer - 1],
        layer=layer,
        since=say("since.start" if start else "since.later"),
    )
    evidence = {"saturated": [float(x) for x in last], "at_start": start}
    advice = _advice.against_lost_units(fit, start)
    return Finding("saturated-units", layer, message, evidence, advice)


def find_dead_units(fit: Fit) -> Finding | None:
    flow = fit.flow
    dying = _losing(flow, "dead")
    if not dying.any() or fit.learned:
        return None
    first, last = fit.dead
    first, last = np.where(dying, first, 0), np.where(dying, last, 0)
    if last.max() <= (DEAD if fit.reached > 0.5 else DEAD_BUT_LEARNING):
        return None
    layer = int(last.argmax()) + 1
    start = bool(first[layer - 1] > DEAD)
    width = flow.layer_sizes[layer]
    message = say(
        "dead-units",
        n=round(last[layer - 1] * width),
        width=width,
        activation=flow.activations[layer - 1],
        layer=layer,
        since=say("dead.start" if start else "dead.later"),
    )
    evidence = {"dead": [float(x) for x in last], "at_start": start}
    advice = _advice.against_lost_units(fit, start)
    return Finding("dead-units", layer, message, evidence, advice)


def find_epsilon_floor(fit: Fit) -> Finding | None:
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
    message = say(
        "epsilon-floor",
        share=float(floored[layer - 1]),
        layer=layer,
        solver=fit.solver.title,
        epsilon=epsilon,
        gradient=gradient,
    )
    advice = _advice.against_floor(fit, epsilon, gradient)
    evidence = {"floored": [float(x) for x in floored], "gradient": gradient}
    return Finding("epsilon-floor", layer, message, evidence, advice)


def find_learning_rate_too_high(fit: Fit) -> Finding | None:
    cost = fit.cost
    if fit.chooses_its_steps or len(cost) < 4:
        return None
    large = fit.steps_are_large
    if fit.learned and not large:
        return None
    # It may do better with less, but it has learned.
    severity = NOTE if fit.learned_well and not fit.rate_is_extreme else PROBLEM
    swing, share, rise = fit.swing, fit.share_of_rises, float(cost[-1] - cost.min())
    start = max(fit.summary.zero_cost / max(fit.summary.constant_cost, TINY), 1)
    jumped = cost[-1] > 2 * start and cost[0] > 2 * start
    swings = share > RISES and swing > max(SWING, UNDONE * (1 - fit.reached))
    rose = rise > max(0.1, float(cost.min()))
    # What was far too large from the beginning was not made so by the learning rate.
    jumped = jumped and not (fit.input_off or fit.target_off or fit.given_weights)
    jumped = jumped and bool(fit.first_step.max() > STEP_LATER)
    if not (swings or rose or jumped or large):
        return None
    # What dropout takes differs from epoch to epoch, and so does the cost.
    steps = max(fit.first_step.max(), finite(fit.typical(fit.step_ratio)).max())
    if fit.dropout and not jumped and steps < STEP_LATER:
        return None
    if rose:
        name, numbers = "rose", {"least": float(cost.min()), "last": float(cost[-1])}
    elif swings:
        name, numbers = "swings", {"share": share, "swing": swing}
    elif jumped:
        name, numbers = "jumped", {"most": float(cost.max()), "last": float(cost[-1])}
    else:
        name = "steps"
        numbers = {
            "layer": int(fit.first_step.argmax()) + 1,
            "ratio": float(fit.first_step.max()),
            "rate": fit.rate,
            "usual_rate": fit.usual_rate,
        }
        # Large steps alone are no proof: many fits learn all the same.
        proven = fit.rate_is_extreme or not fit.generalises or fit.reached > 0.3
        severity = severity if proven else NOTE
    message = say(f"learning-rate-too-high.{name}", **numbers)
    evidence = {"typical_rise": swing, "share_of_rises": share, "end": rise}
    evidence["first_step"] = float(fit.first_step.max())
    advice = _advice.calm(fit)
    return Finding("learning-rate-too-high", None, message, evidence, advice, severity)


def find_update_too_large(fit: Fit) -> Finding | None:
    if fit.chooses_its_steps or fit.learned:
        return None
    first = fit.first_step
    last = np.nan_to_num(fit.typical(fit.step_ratio), nan=math.inf, posinf=math.inf)
    if not (first.max() > STEP_FIRST or last.max() > STEP_LATER):
        return None
    start = bool(first.max() > STEP_FIRST)
    ratios = first if start else last
    layer = int(ratios.argmax()) + 1
    message = say(
        "update-too-large",
        layer=layer,
        ratio=float(ratios.max()),
        when=say("at.start" if start else "at.later"),
    )
    evidence = {"first": [float(x) for x in first], "later": [float(x) for x in last]}
    return Finding("update-too-large", layer, message, evidence, _advice.calm(fit))


def find_update_too_small(fit: Fit) -> Finding | None:
    """Weights that hardly move: by the rate if that is far too low, else by gradients.

    A rate of which more would have brought more is too low by degrees.
    """
    if fit.chooses_its_steps or fit.learned or fit.outcome == "diverged":
        return None
    if len(fit.cost) == 0:
        return None
    if fit.began_well or fit.few_steps:  # at an optimum steps are small
        return None
    cost, moved = fit.cost, fit.moved
    # Of a rate that comes from zero or goes there no step is typical.
    ratios = fit.step_ratio.max(0) if fit.scheduled else fit.typical(fit.step_ratio)
    # Where nothing moves the cost rises and falls by rounding.
    rises = cost[-1] > cost[0] and fit.flow.update.any()
    if moved >= MOVED or rises:
        return None
    layer = int(finite(ratios).argmax()) + 1
    n_steps = fit.n_epochs * fit.steps_per_epoch
    ratio = float(ratios[layer - 1])
    message = say(
        "update-too-small", ratio=ratio, layer=layer, steps=n_steps, moved=moved
    )
    evidence = {"update_ratio": [float(x) for x in ratios], "moved": moved}
    advice = _advice.higher_rate(fit)
    return Finding("update-too-small", layer, message, evidence, advice)


def find_learning_rate_too_low(fit: Fit) -> Finding | None:
    if fit.chooses_its_steps or fit.learned or fit.outcome == "diverged":
        return None
    if len(fit.cost) < 2 or fit.began_well or find_update_too_small(fit) is not None:
        return None
    evidence = {"rate": fit.rate, "usual_rate": fit.usual_rate, "moved": fit.moved}
    if fit.rate_ran_out:
        last = float(fit.summary.last_rate or 0)
        message = say(
            "learning-rate-too-low.ended", last=last, factor=fit.rate / max(last, TINY)
        )
        advice = "learning_rate='constant'"
        return Finding("learning-rate-too-low", None, message, evidence, advice)
    if not fit.rate_is_low:
        return None
    ratio = float(finite(fit.typical(fit.step_ratio)).max())
    message = say(
        "learning-rate-too-low",
        ratio=ratio,
        rate=fit.rate,
        usual_rate=fit.usual_rate,
    )
    advice = _advice.higher_rate(fit)
    return Finding("learning-rate-too-low", None, message, evidence, advice)


def find_too_few_steps(fit: Fit) -> Finding | None:
    """A batch so large that an epoch is a step or two, or few epochs."""
    if fit.chooses_its_steps or fit.learned or fit.outcome != "max_iter":
        return None
    steps, large = fit.n_steps, fit.batch > 2 * USUAL_BATCH
    if not (fit.still_learning and (large or fit.few_steps)):
        return None
    message = say(
        "too-few-steps" if large else "too-few-steps.epochs",
        steps=steps,
        epochs=fit.n_epochs,
        per_epoch=fit.steps_per_epoch,
        batch=fit.batch,
        rows=fit.summary.n_rows,
    )
    evidence = {"steps": steps, "batch_size": fit.batch}
    advice = "batch_size='auto'" if large else _advice.longer(fit)
    return Finding("too-few-steps", None, message, evidence, advice)


def find_stopped_by_tol(fit: Fit) -> Finding | None:
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
    numbers = {
        "n": fit.n_epochs,
        "epochs": count(fit.n_epochs, fit.solver.epoch),
        "tol": p["tol"],
    }
    if tol > TOL_LARGE:
        whole = "whole.score" if fit.scores else "whole.cost"
        numbers |= {"share": tol, "whole": say(whole, cost=s.constant_cost)}
        message = say("stopped-by-tol", **numbers)
    else:
        judge = "judge.cost" if fit.scores is None else "judge.score"
        message = say("stopped-by-tol.falling", judge=say(judge), **numbers)
    by_score = fit.scores is not None and tol <= TOL_LARGE
    if fit.parameters["label_smoothing"] > 0.5:
        return None
    advice = _advice.longer(fit) if by_score else _advice.smaller_tol(fit)
    evidence = {"tol_over_cost": tol, "fall": fall, "epochs": fit.n_epochs}
    return Finding("stopped-by-tol", None, message, evidence, advice)


def find_stopped_before_first_step(fit: Fit) -> Finding | None:
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
    message = say("stopped-by-tol.idle", tol=p["tol"], cost=cost)
    evidence = {"tol_over_cost": tol, "epochs": 0}
    return Finding("stopped-by-tol", None, message, evidence, "tol=0.0")


def find_plateau(fit: Fit) -> Finding | None:
    """Patience ended a fit long before max_iter, at a cost that a longer one leaves."""
    if fit.outcome != "converged" or fit.learned or not fit.was_patient:
        return None
    p, limit = fit.parameters, fit.parameters["max_iter"]
    if not fit.stopped_on_plateau:
        return None
    message = say(
        "plateau",
        n=fit.n_epochs,
        epochs=count(fit.n_epochs, fit.solver.epoch),
        patience=p["n_iter_no_change"],
        share=1 - fit.reached,
    )
    evidence = {"epochs": fit.n_epochs, "max_iter": limit, "cost": fit.reached}
    return Finding("plateau", None, message, evidence, _advice.more_patience(fit))


def find_penalty_too_large(fit: Fit) -> Finding | None:
    if fit.learned or fit.outcome == "diverged" or not len(fit.flow.epoch):
        return None
    p = fit.parameters
    decay, last = p["weight_decay"], fit.summary.last_rate or fit.rate
    if decay * last > DECAY and not fit.chooses_its_steps:
        message = say(
            "penalty-too-large.decay", decay=decay, rate=last, share=decay * last
        )
        advice = f"weight_decay={_advice.one_digit(decay / 100)}"
        evidence = {"weight_decay": decay, "rate": last}
        return Finding("penalty-too-large", None, message, evidence, advice)
    # Where small sample weights make it large, they are named.
    felt = fit.overpenalized or fit.pressed
    if fit.input_overflows:  # whatever the penalty is
        return None
    if not felt or note_small_weights(fit) is not None:
        return None
    per_row = p["alpha"] / max(fit.batch * fit.mean_weight, TINY)
    numbers = {"alpha": p["alpha"], "per_row": per_row, "limit": PENALTY}
    shrunk = fit.shrunk
    if not fit.overpenalized:
        message = say("penalty-too-large.felt", shrunk=shrunk, **numbers)
    elif shrunk > 1.5:
        message = say("penalty-too-large", shrunk=shrunk, **numbers)
    else:
        message = say("penalty-too-large.only", **numbers)
    evidence = {"per_row": per_row, "shrunk": shrunk}
    advice = _advice.lower_alpha(fit)
    return Finding("penalty-too-large", None, message, evidence, advice)


def find_network_too_small(fit: Fit) -> Finding | None:
    sizes, flow = fit.flow.layer_sizes, fit.flow
    if fit.learned or fit.outcome == "diverged" or flow.n_layers == 1:
        return None
    evidence = {"layer_sizes": list(map(int, sizes))}
    if set(flow.activations) == {"identity"}:
        if fit.summary.n_rows <= sizes[0] + 1:  # a linear model can fit them all
            return None
        message = say("network-too-small.linear")
        advice = "activation='relu'"
        return Finding("network-too-small", None, message, evidence, advice)
    width = int(min(sizes[1:-1]))
    layer = sizes[1:-1].index(width) + 1
    outputs = fit.n_answers
    if width >= fit.least_width:
        return None
    message = say(
        "network-too-small",
        width=width,
        units=count(width, "unit"),
        inputs=int(sizes[0]),
        outputs=outputs,
        outs="classes" if fit.classes is not None else count(outputs, "output"),
    )
    advice = _advice.wider(fit)
    return Finding("network-too-small", layer, message, evidence, advice)


def find_label_smoothing(fit: Fit) -> Finding | None:
    """Labels so smooth that hardly anything is left to learn."""
    smoothing = fit.parameters["label_smoothing"]
    if smoothing <= 0.5 or fit.outcome == "diverged":
        return None
    message = say("label-smoothing", smoothing=smoothing)
    evidence = {"label_smoothing": smoothing}
    advice = "label_smoothing=0.1"
    return Finding("label-smoothing", None, message, evidence, advice)


def find_constant_prediction(fit: Fit) -> Finding | None:
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
    nearly = "" if spread < 1e-3 else say("nearly")
    message = say("constant-prediction", nearly=nearly, spread=spread)
    if fit.overpenalized:
        alpha = fit.parameters["alpha"]
        message += " " + say("constant-prediction.alpha", alpha=alpha)
    evidence = {"spread": spread, "cost": fit.reached}
    advice = _against_constant(fit)
    return Finding("constant-prediction", None, message, evidence, advice)


def _against_constant(fit: Fit) -> str:
    if fit.target_off:
        return _advice.SCALE_TARGET
    if fit.summary.column_size > INPUT_HUGE:
        return _advice.scale_input(fit)
    if fit.overpenalized:
        return _advice.lower_alpha(fit)
    if fit.starved.max() > STARVED:
        return _advice.less_dropout(fit)
    if "logistic" in fit.flow.activations:
        return _advice.other_activation(fit)
    if fit.chooses_its_steps:
        return _advice.other_solver(fit)
    return _advice.higher_rate(fit)


def note_not_converged(fit: Fit) -> Finding | None:
    if fit.outcome != "max_iter" or fit.summary.constant_cost <= TINY:
        return None
    if fit.schedule_ended:  # as it was meant to
        return None
    fall = fit.late_fall
    advice = _advice.longer(fit)
    name = advice.split("=")[0]  # max_iter or max_fun
    kind = "still" if abs(fall) < 0.005 else "fell" if fall > 0 else "rose"
    message = say(
        f"not-converged.{'idle' if fit.idle else kind}",
        limit=f"{name}={fit.parameters[name]}",
        share=abs(fall),
    )
    return Finding("not-converged", None, message, {"fall": fall}, advice, NOTE)


def note_schedule_ended(fit: Fit) -> Finding | None:
    if fit.summary.constant_cost <= TINY or not fit.schedule_ended:
        return None
    if not fit.still_falls:
        return None
    before, after = fit.late_half
    last = fit.summary.last_rate
    message = say(
        "schedule-ended",
        last=last,
        max_iter=fit.parameters["max_iter"],
        share=1 - after / before,
    )
    evidence = {"last_rate": last, "fall": before - after}
    advice = _advice.longer(fit)
    return Finding("schedule-ended", None, message, evidence, advice, NOTE)


def note_stuck(fit: Fit) -> Finding | None:
    if fit.outcome != "stuck" or fit.learned:
        return None
    message = say(
        "not-converged.stuck",
        solver=fit.solver.title,
        n=fit.n_epochs,
        epochs=count(fit.n_epochs, fit.solver.epoch),
    )
    advice = _advice.SCALE_TARGET if fit.target_off else _advice.other_solver(fit)
    evidence = {"iterations": fit.n_epochs}
    return Finding("not-converged", None, message, evidence, advice, NOTE)


def note_small_weights(fit: Fit) -> Finding | None:
    """The penalty is divided by the sum of a batch's sample weights."""
    mean, alpha = fit.mean_weight, fit.parameters["alpha"]
    # With weights of mean 1 it would be a usual one: else alpha is the cause.
    usual = alpha <= PENALTY * fit.batch
    if not (0 < mean < WEIGHT_SMALL and fit.overpenalized and usual):
        return None
    message = say(
        "small-weights",
        mean=mean,
        alpha=alpha,
        acts=float(f"{alpha / mean:.2g}"),
        per_row=alpha / (fit.batch * mean),
    )
    evidence = {"mean_weight": mean, "alpha_at_mean_1": alpha / mean}
    advice = _advice.call_again(fit, "w / w.mean()")
    return Finding("small-weights", None, message, evidence, advice, NOTE)
