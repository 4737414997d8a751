"""Every sentence of a diagnosis, in one table, and how its numbers are written.

Rules name a text and give its numbers; `say` puts them together. A place in a text
names a number and how it is written: `{share:%}` is a percentage, `{size}` a number of
two digits, `{n:,}` a count, `{name:s}` a word.
"""

from __future__ import annotations

import math
import string
from typing import Any

# What each finding says in a few words, after "Training did not go well: ".
TITLES = {
    "unscaled-input": "the columns of X are not scaled",
    "unscaled-target": "the targets are not scaled",
    "divergence": "the weights or the cost became infinite",
    "exploding-gradient": "the error grows on its way back through the layers",
    "vanishing-gradient": "the error shrinks on its way back through the layers",
    "starved-layer": "dropout takes too much of a layer",
    "label-smoothing": "the labels are too smooth",
    "clipped-steps": "max_grad_norm shortens nearly all steps",
    "saturated-units": "most units of a layer are saturated",
    "dead-units": "most units of a layer are dead",
    "epsilon-floor": "epsilon shortens the steps",
    "learning-rate-too-high": "the learning rate is too high",
    "learning-rate-too-low": "the learning rate is too low",
    "update-too-large": "the steps are too large",
    "update-too-small": "the weights have hardly changed",
    "too-few-steps": "there were too few steps",
    "stopped-by-tol": "training stopped too early",
    "plateau": "training stopped on a plateau",
    "penalty-too-large": "the penalty holds the weights down",
    "network-too-small": "the network is too small",
    "constant-prediction": "it predicts the same for all rows",
    "not-converged": "training was not finished",
    "schedule-ended": "the learning rate fell to zero too early",
    "small-weights": "the sample weights are small",
    "class-imbalance": "a rare class is hardly ever predicted",
    "majority-only": "it predicts hardly any class but the commonest",
    "overfitting": "it learned its training rows by heart",
    "underfitting": "it has not learned what there is to learn",
    "worse-than-linear": "a linear model does better",
    "no-signal": "X seems to say nothing about y",
    "row-order": "the rows come in an order that training follows",
    "outliers": "a few rows of X lie far from all others",
    "outliers-in-target": "a few targets lie far from all others",
    "sentinel-values": "a column holds a number that stands for a missing value",
    "skewed-target": "the targets spread over several powers of ten",
    "counts-as-targets": "the targets are counts",
    "classes-as-targets": "the targets look like class numbers",
    "constant-columns": "columns of X are constant",
    "id-column": "a column of X numbers the rows",
    "target-in-features": "one column of X alone gives away the target",
    "duplicate-rows": "many rows occur several times",
    "held-out-scale": "the given rows are not scaled as the training rows were",
}

TEXTS = {
    # ---- the verdict: how training went
    "went.well": "Training went well.",
    "went.diverged": "Training diverged: {title:s}.",
    "went.nowhere": "Training did not get going: {title:s}.",
    "went.badly": "Training did not go well: {title:s}.",
    "went.improvable": "Training ran without trouble, but {title:s}.",
    "went.by_heart": (
        "The network does much better on its training rows than on other rows."
    ),
    "went.as_linear": (
        "Training ended as it should, but a linear model does as well on held-out rows "
        "({linear:%})."
    ),
    "went.perhaps_noise": (
        "Training ran without trouble, but X may say nothing about y."
    ),
    "went.unsure": "Training brought little, and the gradients do not say why.",
    "went.interrupted": "Training was interrupted after {n:,} {epochs:s}.",
    "went.stopped": "A callback ended training after {n:,} {epochs:s}.",
    "went.short": (
        "Training was still making progress when {limit:s} ended it after {n:,} "
        "{epochs:s}."
    ),
    "went.constant": (
        "There was nothing to learn: the targets of the last fit are all the same."
    ),
    "went.idle": "Training made no step.",
    "went.idle_tol": (
        "Training ended before its first step: no entry of the gradient was above "
        "tol={tol:g}."
    ),
    # ---- the verdict: what came out
    "worth.accuracy": (
        "It is right on {score:s} of the training rows; always answering class "
        "{label:s} would be right on {constant:%}."
    ),
    "worth.accuracy_held": (
        "It is right on {score:s} of the training rows and {held:s} of the held-out "
        "rows; always answering class {label:s} would be right on {constant:%} of "
        "those."
    ),
    "worth.labels": "On average it is right on {score:s} of a training row's labels.",
    "worth.labels_held": (
        "On average it is right on {score:s} of a training row's labels and {held:s} "
        "of a held-out row's."
    ),
    "worth.r2": "It explains {score:s} of the variance of the training targets.",
    "worth.r2_held": (
        "It explains {score:s} of the variance of the training targets, {held:s} on "
        "held-out rows."
    ),
    "worth.share": (
        "It explains {score:s} of what there is to explain in the training targets."
    ),
    "worth.share_held": (
        "It explains {score:s} of what there is to explain in the training targets, "
        "{held:s} on held-out rows."
    ),
    "worth.nothing": "It explains nothing of the training targets.",
    "worth.cost": "It explains {share:%} of what there is to explain.",
    "worth.no_model": "There is no model to judge.",
    "worth.held": "On the held-out rows it is right on, or explains, {held:s}.",
    "worth.unknown": (
        "{share:%} of the held-out rows are of classes that were not in training."
    ),
    "worth.given": (
        "How good it is on other rows is not known; pass some: diagnose(X_val, y_val)."
    ),
    # ---- inputs and targets
    "unscaled-input.large": (
        "The numbers in column {column} of X have a typical size of {size} and a mean "
        "of {mean}. Weights and learning rates are made for numbers near 1."
    ),
    "unscaled-input.small": (
        "The rows of X are nearly equal: they differ from their mean by a length of "
        "{length}. Standardised rows would differ by {standard}."
    ),
    "unscaled-target": (
        "The targets have a mean of {mean} and a standard deviation of {spread}. A "
        "network learns best if they have a mean near 0 and a standard deviation "
        "near 1."
    ),
    "unscaled-target.counts": (
        "The targets have a typical size of {size}. The first gradients of this loss "
        "are as large, and the first steps, too."
    ),
    "unscaled-target.overflow": (
        "The targets are so large that their squares overflow."
    ),
    # ---- divergence and steps
    "divergence": (
        "The weights or the cost became infinite or NaN in {epoch:s} {number:,}."
    ),
    "divergence.endless": "The cost rose to {cost} times that of a constant answer.",
    "exploding-gradient": (
        "The error that reaches layer {layer:d} is {size} times as large as that of "
        "the output layer, {per_layer} times more in each layer, {when:s}."
    ),
    "when.start": "from the first step on",
    "when.later": "now that the weights have grown",
    "vanishing-gradient": (
        "Only {size:%} of the output layer's error reaches layer {layer:d}: each layer "
        "passes on {per_layer:%}. The slope of {names:s} lets {activation:%} through, "
        "and the weights {weights:%}."
    ),
    "vanishing-gradient.only": (
        "Only {size:%} of the output layer's error reaches layer {layer:d}."
    ),
    "vanishing-gradient.nothing": (
        "Nothing of the output layer's error reaches layer {layer:d}."
    ),
    "starved-layer": (
        "Dropout leaves {left} of the {width:,} {units:s} on average, and none at all "
        "in {share:%} of the rows. From such a row the layers behind learn nothing but "
        "their biases."
    ),
    "starved-layer.much": (
        "Dropout leaves {left} of the {width:,} {units:s} on average: too few to learn "
        "what the layer could."
    ),
    "units.inputs": "inputs",
    "units.layer": "units of layer {layer:d}",
    "clipped-steps": (
        "max_grad_norm={limit:g} shortened {share:%} of the steps: the gradient's "
        "length is about {norm}. So the limit decides how long a step is, as a "
        "learning rate does."
    ),
    "clipped-steps.held": (
        "The weights have hardly changed: by {moved:%} of their size."
    ),
    "saturated-units": (
        "{share:%} of the {activation:s} outputs of layer {layer:d} lie where the "
        "derivative is below 1 % of its maximum, {since:s}."
    ),
    "since.start": "from the first step on",
    "since.later": "driven there by training",
    "dead-units": (
        "{n:,} of the {width:,} {activation:s} units of layer {layer:d} are zero in "
        "every row: they pass on nothing and learn nothing. {since:s}"
    ),
    "dead.start": "They were so from the first step on.",
    "dead.later": "They died during training.",
    "epsilon-floor": (
        "In {share:%} of the weights of layer {layer:d} {solver:s}'s steps are "
        "shortened by epsilon={epsilon:g}: the gradient is about {gradient:e}, which "
        "is smaller."
    ),
    "learning-rate-too-high.rose": (
        "The cost rose from {least} to {last} times that of a constant answer."
    ),
    "learning-rate-too-high.swings": (
        "The cost goes up and down: in the second half of training it rose in "
        "{share:%} of the epochs, typically by {swing} times that of a constant answer."
    ),
    "learning-rate-too-high.jumped": (
        "The first epochs threw the cost to {most} times that of a constant answer; "
        "it came back to {last}."
    ),
    "learning-rate-too-high.steps": (
        "A step changes the weights of layer {layer:d} by {ratio:%} of their size at "
        "the start, much more than the usual 1 %. learning_rate_init={rate:g} is far "
        "above the usual {usual_rate:g}."
    ),
    "learning-rate-too-low": (
        "The cost was still falling when training ended, and a step changes the "
        "weights by only {ratio:%} of their size. learning_rate_init={rate:g} is far "
        "below the usual {usual_rate:g}."
    ),
    "learning-rate-too-low.ended": (
        "The learning rate had fallen to {last}, {factor} times less than at the "
        "start, while there was still much to learn."
    ),
    "too-few-steps": (
        "Training made {steps:,} steps: {epochs:,} epochs of {per_epoch:,}. A batch "
        "has {batch:,} of the {rows:,} rows; smaller batches make more steps in the "
        "same time."
    ),
    "too-few-steps.epochs": (
        "Training made only {steps:,} steps: {epochs:,} epochs of {per_epoch:,}. The "
        "cost was still falling."
    ),
    "label-smoothing": (
        "label_smoothing={smoothing:g} leaves hardly anything of the labels: all "
        "classes are nearly equally right."
    ),
    "update-too-large": (
        "A step changes the weights of layer {layer:d} by {ratio:%} of their size "
        "{when:s}."
    ),
    "at.start": "at the start",
    "at.later": "later on",
    "update-too-small": (
        "A step changes the weights by {ratio:%} of their size at most (layer "
        "{layer:d}). All {steps:,} steps together can have changed them by {moved:%}."
    ),
    "stopped-by-tol": (
        "Training stopped after {n:,} {epochs:s}. tol={tol:g} is {share:%} of "
        "{whole:s}, so hardly any progress counts as such."
    ),
    "whole.score": "a perfect score",
    "whole.cost": "the cost of a constant answer ({cost})",
    "stopped-by-tol.falling": (
        "Training stopped after {n:,} {epochs:s} although the cost was still falling: "
        "the {judge:s} made less progress than tol={tol:g} demands."
    ),
    "judge.cost": "cost",
    "judge.score": "validation score",
    "stopped-by-tol.idle": (
        "Training ended before its first step: no entry of the gradient was above "
        "tol={tol:g}. The cost of a constant answer is {cost}."
    ),
    "plateau": (
        "Training stopped after {n:,} {epochs:s}, because n_iter_no_change="
        "{patience:,} epochs brought too little, while much was left to learn. Such a "
        "plateau may end."
    ),
    # ---- the size of weights and of the network
    "penalty-too-large": (
        "alpha={alpha:g} is {per_row} per row of a batch; more than {limit} holds the "
        "weights down. They are {shrunk} times smaller than at the start."
    ),
    "penalty-too-large.felt": (
        "alpha={alpha:g} is {per_row} per row of a batch. Under it the weights have "
        "become {shrunk} times smaller than they were at the start."
    ),
    "penalty-too-large.only": (
        "alpha={alpha:g} is {per_row} per row of a batch; more than {limit} holds the "
        "weights down."
    ),
    "penalty-too-large.decay": (
        "weight_decay={decay:g} at a learning rate of {rate:g} takes {share:%} of the "
        "weights away in each step."
    ),
    "network-too-small": (
        "The narrowest hidden layer has {width:,} {units:s} between {inputs:,} inputs "
        "and {outputs:,} {outs:s}: everything must pass through it."
    ),
    "network-too-small.linear": (
        "All hidden layers have the activation identity. So the network is a linear "
        "model, however many layers it has."
    ),
    "constant-prediction": (
        "The predictions are {nearly:s}the same for all rows: their variance is "
        "{spread:%} of that of the targets."
    ),
    "nearly": "almost ",
    "constant-prediction.alpha": "alpha={alpha:g} holds the weights down.",
    "small-weights": (
        "The sample weights have a mean of {mean}. The penalty is divided by their sum "
        "over a batch. So alpha={alpha:g} acts as alpha={acts:g} would with weights of "
        "mean 1: {per_row} per row of a batch."
    ),
    # ---- the end of training
    "not-converged.idle": "{limit:s} ended training before its first step.",
    "not-converged.fell": (
        "{limit:s} ended training; in its last quarter the cost still fell by "
        "{share:%}."
    ),
    "not-converged.still": (
        "{limit:s} ended training; in its last quarter the cost hardly changed."
    ),
    "not-converged.rose": (
        "{limit:s} ended training; in its last quarter the cost rose by {share:%}."
    ),
    "not-converged.stuck": (
        "{solver:s} ended after {n:,} {epochs:s}: it found no step that lowers the "
        "cost."
    ),
    "schedule-ended": (
        "The learning rate had fallen to {last} when max_iter={max_iter:,} ended "
        "training. In the second half the cost had still fallen by {share:%}: the "
        "schedule was over before there was nothing left to learn."
    ),
    # ---- what the model is worth
    "class-imbalance": (
        "Class {label:s} makes up {share:%} of the data, and the network predicts it "
        "for {recall:%} of its own rows. Probabilities may be right all the same, and "
        "the accuracy may be high."
    ),
    "majority-only": (
        "It predicts class {label:s} for {answers:%} of the rows; {share:%} of them "
        "are of that class. Class {rare:s} makes up {rare_share:%} of the data."
    ),
    "overfitting.score": (
        "The validation score was best in epoch {epoch:,} ({best:.3f}) and fell to "
        "{end:.3f}, while the training cost went on falling to {share:%} of what it "
        "was."
    ),
    "overfitting.cost": (
        "The cost of the validation set was least in epoch {epoch:,} ({least} times "
        "that of a constant answer) and rose to {end}, while the training cost went "
        "on falling to {share:%} of what it was."
    ),
    "overfitting.gap": (
        "It {does:s} the training targets, but only {held:s} of the held-out ones. The "
        "network has {weights:,} weights for {rows:,} rows."
    ),
    "does.right": "is right on {score:s} of",
    "does.explains": "explains {score:s} of the variance of",
    "underfitting": (
        "It {does:s} the training targets; a linear model reaches {linear:s}. So it "
        "has not learned what there is to learn."
    ),
    "worse-than-linear.folds": (
        "A linear model that was trained on a part of the held-out rows {does:s} their "
        "targets, the network only {held:s}."
    ),
    "worse-than-linear": (
        "A linear model {does:s} the held-out targets, the network only {held:s}."
    ),
    "no-signal.held": (
        "On held-out rows neither the network nor a linear model does better than a "
        "constant answer ({held:s} and {linear:s}). Perhaps X and y are not in the "
        "same order, or X says nothing about y."
    ),
    "majority-only.nearly": (
        "It predicts class {label:s} for {answers:%} of the rows, and finds hardly any "
        "row of the other class: on average over the classes it is right on "
        "{balanced:%}. Class {rare:s} makes up {rare_share:%} of the data."
    ),
    "no-signal": (
        "A quick model with {features:,} random features predicts other rows of the "
        "data no better than after y was shuffled ({score:%} explained, {noise:%} if "
        "shuffled). Perhaps X and y are not in the same order, or X says nothing about "
        "y."
    ),
    # ---- rows and columns
    "row-order": (
        "shuffle=False, and the rows are sorted: batches of {batch_size:.0f} rows "
        "differ {times_chance} times as much in y as they would in random order."
    ),
    "outliers": (
        "{n_outliers:.0f} of {n_rows:,.0f} rows lie far from all others: column "
        "{column:s} of X reaches {value}, {times_reach} times as far from its median "
        "as the rest. Scaled by the standard deviation, the rest has a spread of only "
        "{rest_spread}."
    ),
    "outliers-in-target": (
        "{n_outliers:.0f} of {n_rows:,.0f} targets lie far from all others: up to "
        "{value}, {times_reach} times as far from the median as the rest. Squares of "
        "errors are ruled by them."
    ),
    "sentinel-values": (
        "{share:%} of the rows have {value:.6g} in column {column:s} of X, far from "
        "all its other numbers. It seems to stand for a missing value."
    ),
    "skewed-target": (
        "Most targets are near {median}, but a few go up to {high}: the tail above "
        "the median is {tail_ratio} times as long as the part below. Squares of errors "
        "are ruled by the largest."
    ),
    "counts-as-targets": (
        "The targets look like counts: whole numbers with a mean of {mean} and a "
        "variance of {variance}."
    ),
    "classes-as-targets": (
        "The targets have {n_values:.0f} different values, all of them whole numbers "
        "from {low:.0f} to {high:.0f}. If they are numbers of classes, a classifier is "
        "needed: their order and distance mean nothing then."
    ),
    "constant-columns": (
        "{n_constant:.0f} of the {n_columns:.0f} columns of X have one value in all "
        "rows (column {column:s}, for example). They say nothing. Weights behind them "
        "act as further biases."
    ),
    "constant-columns.all": (
        "Every column of X has one value in all rows, so X says nothing about y. Fit "
        "with columns that vary."
    ),
    "id-column": (
        "Column {column:s} of X seems to number the rows: all its values differ, and "
        "nearly all numbers of its range occur. Such a number says nothing about new "
        "rows."
    ),
    "target-in-features": (
        "Column {column:s} of X alone tells {told:%} of the target. Will it be known "
        "for new rows?"
    ),
    "duplicate-rows": (
        "{share:%} of the rows are copies of other rows. Copies of training rows among "
        "held-out rows make their score too good."
    ),
    "held-out-scale.target": (
        "The targets of the given rows have a mean of {mean} and a spread of {spread}, "
        "in training {seen_mean} and {seen_spread}. Were they scaled in the same way?"
    ),
    "held-out-scale.not-scaled": (
        "Most columns of the given rows lie elsewhere than in training: column "
        "{column:s} has a mean of {mean} and a spread of {spread}, in training "
        "{seen_mean} and {seen_spread}. A scaler may have been forgotten. "
        "Results on such rows are meaningless. Give rows as they came to the scaler, "
        "or use the scaler of training."
    ),
    "held-out-scale.scaler-refitted": (
        "The given rows were scaled by themselves: every column has a mean of exactly "
        "0. Use the scaler that was fitted to the training rows."
    ),
    "held-out-scale.columns-shifted": (
        "Column {column:s} of the given rows has a mean of {mean} and a spread of "
        "{spread}, in training {seen_mean} and {seen_spread}."
    ),
}


class _Sentence(string.Formatter):
    """Puts numbers into a text, written as people write them."""

    def format_field(self, value: Any, spec: str) -> str:
        if spec == "%":
            return percent(value)
        if spec == "e":
            return small(value)
        if spec == "s":
            return str(value)
        if spec == "":
            return plain(value)
        if spec.endswith("g"):  # as Python reads a number, but for the + of 1e+06
            return format(value, spec).replace("e+0", "e").replace("e+", "e")
        return super().format_field(value, spec)


def say(text: str, **numbers: Any) -> str:
    """A text of the table with its numbers.

    Parameters
    ----------
    text : str
        Its name.
    **numbers : Any
        What its places name.

    Returns
    -------
    str
        Its first letter is a capital if it is a sentence.
    """
    said = _Sentence().vformat(TEXTS[text], (), numbers)
    said = said.replace("Only less than", "Less than")
    # 126 times their size; less than 0.01 % of it
    said = said.replace(" times of ", " times ")
    return said.replace("Only less than", "Less than")


def plain(x: float) -> str:
    """A number of two digits. What is infinite overflowed float32."""
    if isinstance(x, str):
        return x
    if not math.isfinite(x):
        return "more than 10^38" if x == math.inf else "an unknown number"
    if x == 0:
        return "0"
    size = abs(x)
    if size >= 1e15 or size < 1e-6:
        return power_of_ten(x)
    if size >= 1e6:
        unit, name = next(u for u in _LARGE if size >= u[0])
        return f"{float(f'{x / unit:.2g}'):g} {name}"
    if size >= 100:
        return f"{float(f'{x:.3g}'):,.0f}"
    return f"{float(f'{x:.2g}'):.12f}".rstrip("0").rstrip(".")


_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def small(x: float) -> str:
    """A very small number: one digit and the power of ten."""
    return power_of_ten(x) if 0 < x < 1e-4 else plain(x)


def power_of_ten(x: float) -> str:
    """One digit and the power of ten: 2 * 10^150, or 10^-9."""
    digit, power = f"{x:.0e}".split("e")
    ten = f"10^{int(power)}"
    return {"1": ten, "-1": f"-{ten}"}.get(digit, f"{digit} * {ten}")


def percent(share: float) -> str:
    """A share as people write it: never -0 %, never 1.8e+02 %."""
    if not math.isfinite(share):
        return "more than 10^38 %" if share == math.inf else "an unknown share"
    hundred = 100 * share
    if abs(hundred) < 0.005:
        return "0 %" if share <= 0 else "less than 0.01 %"
    if abs(hundred) < 1:
        return f"{float(f'{hundred:.1g}'):g} %"
    if 99 < hundred < 100:
        # Not 100 % where some are missing.
        return f"{math.floor(10 * hundred) / 10:g} %"
    if abs(hundred) < 1000:
        return f"{hundred:.0f} %"
    return f"{plain(share)} times"


def explained(score: float, kind: str) -> str:
    """A score in words: of R2 below 0 its value, too."""
    if kind in ("accuracy", "labels") or score > -0.005:
        return percent(score)
    name = "R\u00b2" if kind == "r2" else "D\u00b2"
    return f"0 % ({name} = {plain(score)})"


def count(n: int, noun: str) -> str:
    """A noun, with an s if there is not one of it."""
    return noun if n == 1 else f"{noun}s"
