"""Advice: what would change a fit, given what it was and how it ended.

Each function returns Python to paste: parameters and their values, or an expression.
Which finding asks for which advice is decided by the rules.
"""

from __future__ import annotations

import math

import numpy as np

from cbp._evidence import (
    DEEP_FOR_ALL,
    DEEP_FOR_RELU,
    MUCH_DROPOUT,
    STARVED,
    TINY,
    VANISHING,
    Fit,
)

SCALE_INPUT = "make_pipeline(StandardScaler(), model)"
SCALE_SPARSE_INPUT = "make_pipeline(MaxAbsScaler(), model)"
SCALE_TARGET = "TransformedTargetRegressor(model, transformer=StandardScaler())"
# Targets of exponential outputs must stay >= 0, or above 0.
SCALE_COUNTS = "TransformedTargetRegressor(model, transformer=MaxAbsScaler())"


# Ranks do not know how far an outlier is.
RANK_INPUT = "make_pipeline(QuantileTransformer(output_distribution='normal'), model)"
DROP_CONSTANT = "make_pipeline(VarianceThreshold(1e-10), StandardScaler(), model)"


def without_columns(fit: Fit, columns: list[int]) -> str:
    """Without some columns of X."""
    others = "remainder='passthrough'"
    drop = f"make_column_transformer(('drop', {columns}), {others})"
    return f"make_pipeline({drop}, {_scaler(fit)}, model)"


def each_row_once(fit: Fit) -> str:
    """A fit in which copies of a row and its target count once."""
    sparse = fit.summary.is_sparse
    rows = "X.toarray()" if sparse else "X"
    numbers = "np.unique(y, return_inverse=True)[1]"  # y may be of words
    found = f"np.unique(np.column_stack(({rows}, {numbers})), axis=0, "
    found += "return_index=True)[1]"
    weight = "" if fit.mean_weight == 1 else ", sample_weight=w[i]"
    X = "X" if sparse else "np.asarray(X)"  # a data frame, too
    return f"model.fit({X}[(i := {found})], np.asarray(y)[i]{weight})"


def impute(fit: Fit, value: float, scaled: bool) -> str:
    """Medians in the place of a number that stands for a missing value."""
    imputer = f"SimpleImputer(missing_values={value!r}, strategy='median')"
    return f"make_pipeline({imputer}, {'' if scaled else _scaler(fit) + ', '}model)"


def robust_loss(fit: Fit) -> str:
    """A loss that far targets do not rule, on targets that they do not scale."""
    if fit.target_off:
        robust = "transformer=RobustScaler()"
        return f"TransformedTargetRegressor(model.set_params(loss='huber'), {robust})"
    return "loss='huber'"


def log_target(tail: dict[str, float]) -> str:
    """The logarithm of the target, if it can be taken; else its ranks."""
    if tail["not_negative"]:
        steps = "FunctionTransformer(np.log1p, np.expm1), StandardScaler()"
        return f"TransformedTargetRegressor(model, transformer=make_pipeline({steps}))"
    ranks = "QuantileTransformer(output_distribution='normal')"
    return f"TransformedTargetRegressor(model, transformer={ranks})"


def classifier(fit: Fit) -> str:
    """The same network as a classifier."""
    hidden = tuple(map(int, fit.flow.layer_sizes[1:-1]))
    return f"BPClassifier(hidden_layer_sizes={hidden})"


def _scaler(fit: Fit) -> str:
    return "MaxAbsScaler()" if fit.summary.is_sparse else "StandardScaler()"


def tame_outliers(fit: Fit) -> str:
    return SCALE_SPARSE_INPUT if fit.summary.is_sparse else RANK_INPUT


def scale_input(fit: Fit) -> str:
    return SCALE_SPARSE_INPUT if fit.summary.is_sparse else SCALE_INPUT


def calm(fit: Fit) -> str:
    """Against steps that are too large: what makes them so, or the learning rate."""
    if fit.input_overflows:
        return scale_input(fit)
    if fit.target_off:
        return SCALE_TARGET
    if fit.counts_large:
        return SCALE_COUNTS
    if fit.overpenalized:
        return lower_alpha(fit)
    if fit.given_weights and fit.outcome == "diverged" and fit.n_epochs == 0:
        # With a usual rate it was the weights.
        if fit.steps_usual:
            return "warm_start=False"
    if not fit.chooses_its_steps:
        return _lower_rate(fit)
    if len(fit.flow.epoch):
        least = max(fit.mean_weight, 10 * fit.parameters["alpha"])
        return f"alpha={one_digit(least)}"
    # The first weights already had an infinite cost, which no penalty makes finite.
    return scale_input(fit) if fit.input_off else other_solver(fit)


def against_vanishing(fit: Fit, activation_share: float) -> str:
    if fit.given_weights and fit.flow.relative_error[0].min() < VANISHING:
        return "warm_start=False"
    if fit.target_off:
        return SCALE_TARGET
    if activation_share < 0.5 and fit.overpenalized:
        return lower_alpha(fit)
    if set(fit.flow.activations) & {"logistic", "relu"}:
        return other_activation(fit)
    return _fewer_layers(fit)


def against_lost_units(fit: Fit, start: bool) -> str:
    if fit.input_off:
        return scale_input(fit)
    if fit.overpenalized:
        return lower_alpha(fit)
    if start and fit.given_weights:
        return "warm_start=False"
    if not start and fit.target_off:
        return SCALE_TARGET
    if not start and not fit.chooses_its_steps:
        return _lower_rate(fit)
    return other_activation(fit)


def against_floor(fit: Fit, epsilon: float, gradient: float) -> str:
    if epsilon > 1e-7:
        return "epsilon=1e-08"
    if fit.target_off:
        return SCALE_TARGET
    wanted = one_digit(min(gradient / 100, epsilon / 10))
    if wanted >= 1e-20:
        return f"epsilon={wanted}"
    # The squares of so small gradients have no place in float32.
    return scale_input(fit) if fit.input_off else other_activation(fit)


def other_activation(fit: Fit) -> str:
    """Another activation than the present one, or fewer layers if none would do."""
    depth = fit.flow.n_layers - 1
    if depth == 0:
        return longer(fit)
    if depth <= DEEP_FOR_RELU and "relu" not in fit.flow.activations:
        return "activation='relu'"
    if depth <= DEEP_FOR_ALL and set(fit.flow.activations) != {"tanh"}:
        return "activation='tanh'"
    return _fewer_layers(fit)


def _fewer_layers(fit: Fit) -> str:
    """The first three hidden layers; of so few, another activation."""
    flow = fit.flow
    if flow.n_layers - 1 <= 3:
        return other_activation(fit)
    advice = f"hidden_layer_sizes={tuple(map(int, flow.layer_sizes[1:4]))}"
    if not isinstance(fit.parameters["activation"], str):  # one for every layer
        advice += f", activation={list(flow.activations[:3])}"
    # Weights to go on from are those of all the layers.
    return advice + (", warm_start=False" if fit.parameters["warm_start"] else "")


def other_solver(fit: Fit) -> str:
    return f"solver={fit.solver.instead!r}"


def lower_alpha(fit: Fit) -> str:
    """A penalty a thousand times smaller than the limit."""
    return f"alpha={one_digit(fit.penalty_limit / 1000)}"


def _lower_rate(fit: Fit) -> str:
    """A learning rate at which a first step changes some 2 % of the weights; the
    default where no first step tells."""
    factor = 0.02 / fit.first_step.max() if len(fit.flow.epoch) else 0.0
    wanted = min(fit.rate * min(max(factor, 1e-4), 0.1), fit.highest_rate)
    if factor < 1e-4:
        wanted = min(wanted, fit.usual_rate)
    if wanted < 1e-30:  # then it is not the rate that makes steps large
        return "warm_start=False" if fit.given_weights else other_solver(fit)
    return f"learning_rate_init={one_digit(wanted)}"


def higher_rate(fit: Fit) -> str:
    """A learning rate at which the weights could change three times over, or more
    steps if the rate is high enough."""
    if fit.stands_still or fit.rate_ran_out or fit.schedule_is_low:
        return "learning_rate='constant'"
    if not fit.flow.update[fit.late].any():  # without a gradient no rate makes a step
        if fit.input_off:
            return scale_input(fit)
        return "warm_start=False" if fit.given_weights else other_activation(fit)
    if fit.rate > fit.highest_rate / 2:
        return longer(fit)
    wanted = fit.rate * max(3 / max(fit.moved, 1e-12), 10)
    if fit.rate < fit.usual_rate < math.inf:
        wanted = max(wanted, fit.usual_rate)
    return f"learning_rate_init={one_digit(min(wanted, fit.highest_rate))}"


def more_patience(fit: Fit) -> str:
    """A patience that a plateau does not exhaust."""
    patience = max(5 * fit.parameters["n_iter_no_change"], 50)
    return _with_more_epochs(fit, f"n_iter_no_change={int(patience)}")


def wider(fit: Fit, least: int = 0) -> str:
    """The usual width for every hidden layer that is a bottleneck."""
    sizes = [
        100 if width < max(fit.least_width, least) else int(width)
        for width in fit.flow.layer_sizes[1:-1]
    ]
    more = ", warm_start=False" if fit.parameters["warm_start"] else ""
    return f"hidden_layer_sizes={tuple(sizes)}{more}"


def less_dropout(fit: Fit) -> str:
    """Rates that leave next to no row without a unit, of the layers that starve."""
    if fit.starved.max() <= STARVED:  # most units go, not all
        least = min(0.2, *fit.dropout[1:])
        rates = tuple(0.2 if r > MUCH_DROPOUT else r for r in fit.dropout[1:])
        return f"dropout={least if fit.dropout_is_one else rates}"
    rates = [
        _moderate(width) if share > STARVED else rate
        for width, share, rate in zip(
            fit.flow.layer_sizes[:-1], fit.starved, fit.dropout, strict=True
        )
    ]
    advice = []
    if rates[0] != fit.dropout[0]:
        advice.append(f"input_dropout={rates[0]}")
    if tuple(rates[1:]) != fit.dropout[1:]:
        one = fit.dropout_is_one
        advice.append(f"dropout={min(rates[1:]) if one else rates[1:]}")
    return ", ".join(advice)


def _moderate(width: int) -> float:
    """The highest usual rate that leaves nothing in a hundredth of the rows at most."""
    usual = (0.5, 0.4, 0.3, 0.2, 0.1)
    return next((rate for rate in usual if rate**width <= 0.01), 0.0)


def wider_limit(fit: Fit) -> str:
    """A limit that the gradients of the records would not have reached, or none."""
    wanted = one_digit(2 * float(fit.gradient_norms.max()))
    if not fit.parameters["max_grad_norm"] < wanted < math.inf:
        return "max_grad_norm=None"
    return f"max_grad_norm={wanted}"


# Penalties per row of a batch. In 77 fits on 13 sets, 2.5 times as much was worse than
# nothing in 12 of them, this in 9, and half of this in 8, which gained less. Early
# stopping was worse in 25: it takes rows away.
_MILD, _STRONG = 0.001, 0.002


def against_overfitting(fit: Fit, severe: bool = False) -> str:
    """What the parameters do not use yet: a penalty, dropout, an early end."""
    alpha = (_STRONG if severe else _MILD) * fit.batch * max(fit.mean_weight, TINY)
    if fit.parameters["alpha"] < alpha / 2:
        return f"alpha={one_digit(alpha)}"
    if not (fit.dropout or fit.chooses_its_steps or fit.flow.n_layers == 1):
        width = min(fit.flow.layer_sizes[1:-1])
        if (rate := min(_moderate(width), 0.2)) > 0:
            return f"dropout={rate}"
    if not fit.parameters["early_stopping"] and fit.summary.n_rows >= _ROWS_TO_SPARE:
        return "early_stopping=True"
    alpha = 5 * fit.parameters["alpha"]
    if alpha <= fit.penalty_limit:
        return f"alpha={one_digit(alpha)}"
    narrow = tuple(max(int(n) // 2, 1) for n in fit.flow.layer_sizes[1:-1])
    return f"hidden_layer_sizes={narrow}" if narrow else "early_stopping=True"


# Rows of which a tenth tells a score.
_ROWS_TO_SPARE = 1000


def more_power(fit: Fit) -> str:
    """Of a network that does worse than a linear one on its own rows: what holds it."""
    if fit.overpenalized or fit.pressed:
        return lower_alpha(fit)
    if max(fit.dropout[1:], default=0) >= 0.5:
        return "dropout=0.2"
    if not fit.chooses_its_steps and fit.rate < fit.usual_rate / 2:
        return f"learning_rate_init={fit.usual_rate}"
    if not fit.chooses_its_steps and fit.rate > 2 * fit.usual_rate:
        return f"learning_rate_init={fit.usual_rate}"
    if fit.outcome == "max_iter" or fit.still_learning:
        return longer(fit)
    if min(fit.flow.layer_sizes[1:-1], default=100) < 50:
        return wider(fit, 50)
    return longer(fit)


def against_noise(fit: Fit) -> str:
    """A penalty that leaves a constant answer, the best one where nothing is known."""
    if fit.held is None:  # held-out rows tell what is known
        return "early_stopping=True"
    alpha = max(fit.batch * max(fit.mean_weight, TINY), fit.parameters["alpha"])
    return f"alpha={one_digit(alpha)}"


def longer(fit: Fit) -> str:
    """What ended training, put off."""
    p = fit.parameters
    if fit.outcome in ("partial", "interrupted"):
        return call_again(fit)
    if fit.outcome == "stopped":  # by a callback
        return call_again(fit).replace("model.", "model.set_callbacks().", 1)
    if fit.outcome == "max_iter":
        if fit.max_fun_ended:
            return f"max_fun={max(5 * p['max_fun'], 15000)}"
        advice = f"max_iter={max(5 * p['max_iter'], 200)}"
        more = f", max_fun={10 * p['max_iter'] + 15000}"
        return advice + (more if fit.max_fun_is_next else "")
    if not fit.was_patient:
        return smaller_tol(fit) if fit.tol_was_met else other_solver(fit)
    if p["n_iter_no_change"] == math.inf:  # changed since the fit
        return f"max_iter={5 * p['max_iter']}"
    return _with_more_epochs(fit, f"n_iter_no_change={10 * p['n_iter_no_change']}")


def _with_more_epochs(fit: Fit, advice: str) -> str:
    """Advice against patience, which max_iter may have overtaken in the last epoch."""
    max_iter = fit.parameters["max_iter"]
    return advice + (f", max_iter={5 * max_iter}" if fit.n_epochs >= max_iter else "")


def smaller_tol(fit: Fit) -> str:
    """A tolerance at which training would not have ended where it did; a longer
    patience if nothing improved."""
    p = fit.parameters
    tol = min(1e-4 * fit.summary.constant_cost, p["tol"] / 100)
    if not fit.was_patient:
        return f"tol={one_digit(tol)}"
    # The largest improvement during the patience has to count as one. With warm_start
    # patience may have begun in an earlier fit, whose epochs are over.
    values = -np.array(fit.scores) if fit.scores is not None else np.array(fit.curve)
    best = np.minimum.accumulate(values)
    n_epochs = int(min(p["n_iter_no_change"] + 1, fit.n_epochs))
    window = best[-n_epochs - 1 :]
    gain = float(-np.diff(window).min(initial=0.0))
    # The first score to beat is that of weights to go on from, which is not noted.
    unknown = fit.scores is not None and fit.given_weights
    if unknown or not gain > 0 or p["tol"] == 0:
        # With early stopping either may have ended it.
        either = f"tol={one_digit(tol)}, " if fit.solver.watches_gradient else ""
        return either + longer(fit)
    return _with_more_epochs(fit, f"tol={one_digit(min(tol, gain / 2))}")


def call_again(fit: Fit, weight: str | None = None) -> str:
    """The call that trained, once more."""
    if weight is None and fit.mean_weight != 1:
        weight = "w"
    call = "partial_fit" if fit.outcome == "partial" else "fit"
    more = "" if weight is None else f", sample_weight={weight}"
    return f"model.{call}(X, y{more})"


def one_digit(x: float) -> float:
    """x to one digit, so that it looks like what it is: a proposal."""
    return float(f"{x:.0e}")
