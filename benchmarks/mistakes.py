"""What diagnosis.py tries: data, ordinary fits, and fits spoiled by known mistakes.

A mistake takes clean data and returns a `Case`: an estimator, rows to fit, rows that
the user holds out, and rows that judge. `MISTAKES` says which findings name its cause.
Nothing is measured here.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cbp import BPClassifier, BPRegressor

KINDS = {"binary": "b", "multiclass": "m", "regression": "r"}
CLASSES = "bm"

# ---- scores: of a model, on rows; the higher the better


def accuracy(model, X, y):
    return float(np.mean(model.predict(X) == y))


def balanced_accuracy(model, X, y):
    return float(balanced_accuracy_score(y, model.predict(X)))


def r2(model, X, y):
    return _r2(y, model.predict(X))


def r2_of_logs(model, X, y, mean, spread, least):
    """For skewed targets y = (exp(...) - mean) / spread: errors are relative."""
    logs = [np.log(np.maximum(a * spread + mean, least)) for a in (y, model.predict(X))]
    return _r2(*logs)


def accuracy_of_rounded(model, X, y):
    """Of a regressor that learned the numbers of classes."""
    numbers = np.nan_to_num(model.predict(X))
    return float(np.mean(np.clip(np.rint(numbers), y.min(), y.max()) == y))


def _r2(y, predicted):
    if not np.isfinite(predicted).all():
        return -1.0
    return float(max(r2_score(y, predicted), -1))


def worst(metric):
    """The score of a fit that left no model."""
    return 0.0 if "accuracy" in getattr(metric, "__name__", "") else -1.0


# ---- data


@dataclass(frozen=True)
class Part:
    """Rows: X (rows, columns) standardised, raw (the same, not standardised), y."""

    X: np.ndarray
    raw: np.ndarray
    y: np.ndarray

    def take(self, rows):
        return Part(self.X[rows], self.raw[rows], self.y[rows])


@dataclass(frozen=True)
class Data:
    """A set: rows to fit, rows the user holds out (val), rows that judge (test)."""

    name: str
    kind: str  # b, m or r
    seed: int
    n_numeric: int  # the first columns; the others are categories, one-hot
    fit: Part
    val: Part
    test: Part

    def with_parts(self, change):
        parts = {name: change(getattr(self, name)) for name in ("fit", "val", "test")}
        return replace(self, **parts)


def load(path, n_rows, seed):
    """A file NAME.npz as Data: at most n_rows rows, a quarter of them to judge."""
    path = Path(path)
    with np.load(path) as file:
        kind = KINDS[str(file["kind"])]
        numbers, codes, y = file["X_num"], file["X_cat"], file["y"]
    draw = np.random.default_rng(zlib.crc32(path.stem.encode()))
    rows = draw.permutation(len(y))[:n_rows]  # the same for all seeds
    rows = np.random.default_rng([seed, len(rows)]).permutation(rows)
    n_test = len(rows) // 4
    n_val = (len(rows) - n_test) // 5
    test, val, fit = np.split(rows, [n_test, n_test + n_val])
    numbers, codes = numbers[rows].astype(float), codes[rows]
    place = np.empty(len(y), int)
    place[rows] = np.arange(len(rows))
    numbers = _impute(numbers, place[fit])
    onehot, scaled = codes, numbers
    if codes.shape[1]:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        onehot = encoder.fit(codes[place[fit]]).transform(codes)
    if numbers.shape[1]:
        scaled = StandardScaler().fit(numbers[place[fit]]).transform(numbers)
    y = y[rows]
    if kind == "r":
        y = (y - y[place[fit]].mean()) / y[place[fit]].std()
    whole = Part(np.hstack([scaled, onehot]), np.hstack([numbers, onehot]), y)
    parts = [whole.take(place[part]) for part in (fit, val, test)]
    return Data(path.stem, kind, seed, numbers.shape[1], *parts)


def _impute(numbers, fit):
    """Medians of the rows to fit for what is missing; constant columns go."""
    missing = np.isnan(numbers)
    numbers = numbers[:, ~missing[fit].all(axis=0)]
    numbers = np.where(np.isnan(numbers), np.nanmedian(numbers[fit], axis=0), numbers)
    return numbers[:, np.ptp(numbers[fit], axis=0) > 0]


# ---- cases


@dataclass(frozen=True)
class Case:
    """One fit to be diagnosed.

    `clean` is the fit to compare it with; None: the default network on the clean data.
    `unscaled` are X of the fit and of the test as they were before a scaler, for advice
    that brings its own.
    """

    estimator: BaseEstimator
    fit: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    metric: Callable
    clean: "Case | None" = None
    unscaled: tuple[np.ndarray, np.ndarray] | None = None


def network(data, **parameters):
    kind = BPRegressor if data.kind == "r" else BPClassifier
    return kind(random_state=data.seed, **parameters)


def case(data, **parameters):
    """A network with these parameters, on these data."""
    parts = [(part.X, part.y) for part in (data.fit, data.val, data.test)]
    metric = r2 if data.kind == "r" else accuracy
    return Case(network(data, **parameters), *parts, metric)


def having(**parameters):
    """The mistake is a parameter."""
    return lambda data, rng: case(data, **parameters)


def _map_X(change, data):
    """Data in which X of every part went through change(part)."""
    return data.with_parts(lambda part: replace(part, X=change(part)))


def _map_y(change, data):
    return data.with_parts(lambda part: replace(part, y=change(part.y)))


def everywhere(change):
    """The mistake is in the columns, in all rows: change(part, rng) gives X."""
    return lambda data, rng: case(_map_X(partial(change, rng=rng), data))


def few_rows(data, rng, **parameters):
    return case(replace(data, fit=data.fit.take(slice(100))), **parameters)


def target(mean, spread):
    return lambda data, rng: case(_map_y(lambda y: mean + spread * y, data))


def permuted(data, rng):
    fit, val = (replace(p, y=rng.permutation(p.y)) for p in (data.fit, data.val))
    return case(replace(data, fit=fit, val=val))


def imbalanced(data, rng, share):
    """Of two classes, one becomes this share of the other; of more classes, the second
    and the third become this share of all others together."""
    classes, counts = np.unique(data.fit.y, return_counts=True)
    rare = classes[np.argsort(-counts)][1:3]
    if len(rare) > 1:
        data = _map_y(lambda y: 1 * (y == rare[0]) + 2 * (y == rare[1]), data)
        rare = [1, 2]
    balanced = replace(case(data), metric=balanced_accuracy)

    def thin(part):
        n = max(3, round(share * (~np.isin(part.y, rare)).sum()))
        drop = [np.flatnonzero(part.y == name)[n:] for name in rare]
        return part.take(np.setdiff1d(np.arange(len(part.y)), np.concatenate(drop)))

    data = replace(data, fit=thin(data.fit), val=thin(data.val))
    return replace(case(data), metric=balanced_accuracy, clean=balanced)


def whole_batch(data, rng):
    return case(data, batch_size=len(data.fit.y))


def in_order(data, rng, **parameters):
    order = np.argsort(data.fit.y, kind="stable")
    sorted_data = replace(data, fit=data.fit.take(order))
    return case(sorted_data, shuffle=False, **parameters)


def outliers(data, rng, factor, then_scaled=False):
    """Three rows to fit are multiplied by a factor."""
    X = data.fit.X.copy()
    X[rng.choice(len(X), 3, replace=False)] *= factor
    data = replace(data, fit=replace(data.fit, X=X))
    if then_scaled:
        scaler = StandardScaler().fit(X)
        data = _map_X(lambda part: scaler.transform(part.X), data)
    return case(data)


def target_outliers(data, rng, spreads):
    y = data.fit.y.copy()
    y[rng.choice(len(y), 3, replace=False)] = spreads * rng.choice([-1, 1], 3)
    return case(replace(data, fit=replace(data.fit, y=y)))


def sentinels(data, rng, then_scaled):
    """-999 for a tenth of the entries of three columns; clean has their means."""
    columns = range(min(3, data.n_numeric))
    if not columns:
        return None

    def filled(X, missing, value):
        X = X.copy()
        X[:, columns] = np.where(missing, value, X[:, columns])
        return X

    holes, clean = {}, {}
    for name in ("fit", "val", "test"):
        part = getattr(data, name)
        missing = rng.random((len(part.y), len(columns))) < 0.1
        clean[name] = replace(part, X=filled(part.X, missing, 0))
        X = part.raw if then_scaled else part.X
        holes[name] = replace(part, X=filled(X, missing, -999))
    spoiled = replace(data, **holes)
    if then_scaled:
        scaler = StandardScaler().fit(spoiled.fit.X)
        spoiled = _map_X(lambda part: scaler.transform(part.X), spoiled)
    return replace(case(spoiled), clean=case(replace(data, **clean)))


def skewed(data, rng, then_scaled):
    """exp(2 y), in its own unit or standardised."""
    data = _map_y(lambda y: np.exp(2 * y), data)
    mean, spread, least = 0.0, 1.0, data.fit.y.min()
    if then_scaled:
        mean, spread = data.fit.y.mean(), data.fit.y.std()
        data = _map_y(lambda y: (y - mean) / spread, data)
    metric = partial(r2_of_logs, mean=mean, spread=spread, least=least)
    return replace(case(data), metric=metric)


def counts(data, rng):
    """Poisson counts; clean has their loss."""
    data = _map_y(lambda y: 1.0 * rng.poisson(np.exp(1 + 0.8 * y.clip(-3, 3))), data)
    return replace(case(data), clean=case(data, loss="poisson"))


def classes(data, rng):
    """A regressor for the numbers of classes."""
    made = case(_map_y(lambda y: y.astype(float), replace(data, kind="r")))
    return replace(made, metric=accuracy_of_rounded)


def id_column(data, rng, random):
    """A further column: the number of the row in the file, or a random number."""
    n_rows = [len(part.y) for part in (data.fit, data.val, data.test)]
    if random:
        numbers = rng.choice(9_000_000, sum(n_rows), replace=False) + 1_000_000
    else:
        numbers = rng.permutation(sum(n_rows))
        numbers[: n_rows[0]].sort()
    fit, val, test = np.split(numbers, np.cumsum(n_rows)[:-1])
    with_ids = {
        name: replace(part, X=np.column_stack([part.X, ids]))
        for name, part, ids in [
            ("fit", data.fit, fit),
            ("val", data.val, val),
            ("test", data.test, test),
        ]
    }
    return case(replace(data, **with_ids))


def leak(data, rng):
    """A column that is y and a little noise; in the test rows it is noise."""
    mean, spread = data.fit.y.mean(), data.fit.y.std()
    leaked = _map_X(
        lambda part: np.column_stack(
            [part.X, (part.y - mean) / spread + 0.01 * rng.normal(size=len(part.y))]
        ),
        data,
    )
    X = leaked.test.X.copy()
    X[:, -1] = rng.normal(size=len(X))
    return case(replace(leaked, test=replace(leaked.test, X=X)))


def duplicates(data, rng):
    """A fifth of the rows, each five times, then split; clean has each once."""
    fit, val = data.fit.take(slice(None, None, 5)), data.val.take(slice(None, None, 5))
    clean = case(replace(data, fit=fit, val=val))
    pairs = [(fit.X, val.X), (fit.raw, val.raw), (fit.y, val.y)]
    both = Part(*map(np.concatenate, pairs))
    rows = rng.permutation(np.repeat(np.arange(len(both.y)), 5))
    n = len(data.val.y)
    spoiled = replace(data, fit=both.take(rows[n:]), val=both.take(rows[:n]))
    return replace(case(spoiled), clean=clean)


def forgotten_scaler(data, rng):
    """Held-out rows and those to judge were not scaled."""
    if not data.n_numeric:
        return None
    raw = _map_X(lambda part: part.raw, data)
    made = case(replace(raw, fit=data.fit))
    return replace(made, unscaled=(raw.fit.X, raw.test.X))


def refitted_scaler(data, rng):
    """Later rows, the upper half of a column, are scaled by their own mean."""
    if not data.n_numeric:
        return None

    def later(part):
        return part.take(part.X[:, 0] >= np.median(data.fit.X[:, 0]))

    def refit(part):
        return replace(part, X=StandardScaler().fit_transform(part.X))

    clean = replace(data, val=later(data.val), test=later(data.test))
    made = case(replace(clean, val=refit(clean.val), test=refit(clean.test)))
    unscaled = data.fit.raw, clean.test.raw
    return replace(made, clean=case(clean), unscaled=unscaled)


def unscaled(data, rng):
    return case(_map_X(lambda part: part.raw, data)) if data.n_numeric else None


def _one_large(part, rng):
    X = part.X.copy()
    X[:, 0] *= 1000
    return X


def _constant(part, rng):
    return np.hstack([part.X, np.full((len(part.y), 50), 5.0)])


def _almost_constant(part, rng):
    return np.hstack([part.X, 5 + 1e-6 * rng.normal(size=(len(part.y), 50))])


def _nearly_zero(progress):
    return 1e-4


# ---- the tables

ORDINARY = {
    "default": having(),
    "tanh": having(activation="tanh"),
    "two layers": having(hidden_layer_sizes=(100, 50)),
    "sgd": having(solver="sgd", learning_rate_init=0.01),
    "early stopping": having(early_stopping=True),
    "lbfgs": having(solver="lbfgs"),
    "float labels": lambda data, rng: (
        None if data.kind == "r" else case(_map_y(lambda y: y.astype(float), data))
    ),
}


@dataclass(frozen=True)
class Mistake:
    """`group` is what is wrong; findings with one of `codes` name it."""

    group: str
    make: Callable
    codes: tuple[str, ...]
    kinds: str = "bmr"


def _group(group, makes, *more_codes, kinds="bmr"):
    codes = (group, *more_codes)
    return {name: Mistake(group, make, codes, kinds) for name, make in makes.items()}


_SMALL_STEPS = ("learning-rate-too-low", "update-too-small")
_SGD = dict(solver="sgd", learning_rate_init=0.01)

MISTAKES = {
    **_group(
        "overfitting",
        {
            "overfit 512-512": partial(few_rows, hidden_layer_sizes=(512, 512)),
            "overfit lbfgs on 100": partial(few_rows, solver="lbfgs", max_iter=1000),
            "overfit lbfgs": having(solver="lbfgs", max_iter=1000),
        },
    ),
    **_group(
        "unscaled-target",
        {
            "target mean 1000": target(1000, 1),
            "target spread 20": target(0, 20),
            "target spread 0.001": target(0, 0.001),
        },
        kinds="r",
    ),
    **_group(
        "learning-rate-too-high",
        {
            "adam 0.05": having(learning_rate_init=0.05),
            "adam 0.1": having(learning_rate_init=0.1),
            "adam 1": having(learning_rate_init=1.0),
            "sgd 0.5": having(solver="sgd", learning_rate_init=0.5),
            "sgd 2": having(solver="sgd", learning_rate_init=2.0),
        },
        "update-too-large",
        "divergence",
    ),
    **_group(
        "learning-rate-too-low",
        {
            "adam 2e-5": having(learning_rate_init=2e-5),
            "adam 1e-6": having(learning_rate_init=1e-6),
            "sgd 1e-5": having(solver="sgd", learning_rate_init=1e-5),
            "invscaling": having(**_SGD, learning_rate="invscaling"),
            "invscaling power 1": having(
                **_SGD, learning_rate="invscaling", power_t=1.0
            ),
            "batch 1 rate 1e-6": having(
                batch_size=1, learning_rate_init=1e-6, max_iter=10
            ),
            "schedule near 0": having(learning_rate=_nearly_zero),
        },
        "update-too-small",
        "schedule-ended",
    ),
    **_group(
        "penalty-too-large",
        {
            "alpha 10": having(alpha=10.0),
            "alpha 100": having(alpha=100.0),
            "weight_decay 100": having(weight_decay=100.0),
        },
    ),
    **_group(
        "network-too-small",
        {
            "2 units": having(hidden_layer_sizes=(2,)),
            "identity": having(activation="identity"),
        },
        "underfitting",
    ),
    **_group(
        "plateau",
        {
            "tol 0.05": having(tol=0.05),
            "patience 2": having(n_iter_no_change=2, tol=0.01),
            "logistic 64-64 sgd": having(
                **_SGD, hidden_layer_sizes=(64, 64), activation="logistic"
            ),
        },
        "stopped-by-tol",
        "vanishing-gradient",
    ),
    **_group(
        "vanishing-gradient",
        {
            "30 x 32 relu": having(hidden_layer_sizes=(32,) * 30),
            "6 x 32 logistic": having(
                hidden_layer_sizes=(32,) * 6, activation="logistic"
            ),
            "10 x 32 tanh sgd": having(
                **_SGD, hidden_layer_sizes=(32,) * 10, activation="tanh"
            ),
        },
    ),
    **_group("no-signal", {"y permuted": permuted}),
    **_group(
        "majority-only",
        {
            "classes 1:99": partial(imbalanced, share=1 / 99),
            "classes 1:19": partial(imbalanced, share=1 / 19),
        },
        "class-imbalance",
        kinds=CLASSES,
    ),
    **_group(
        "too-few-steps",
        {"batch of all rows": whole_batch, "max_iter 5": having(max_iter=5)},
        "not-converged",
    ),
    **_group(
        "row-order",
        {
            "sorted rows": in_order,
            "sorted rows sgd": partial(
                in_order, solver="sgd", learning_rate_init=0.1, batch_size=32
            ),
        },
    ),
    **_group(
        "outliers",
        {
            "outliers x 1e3": partial(outliers, factor=1e3),
            "outliers x 1e6": partial(outliers, factor=1e6),
            "outliers then scaled": partial(outliers, factor=1e6, then_scaled=True),
        },
    ),
    **_group(
        "outliers-in-target",
        {
            "target outliers 30": partial(target_outliers, spreads=30),
            "target outliers 1000": partial(target_outliers, spreads=1000),
        },
        kinds="r",
    ),
    **_group(
        "sentinel-values",
        {
            "sentinel -999": partial(sentinels, then_scaled=False),
            "sentinel then scaled": partial(sentinels, then_scaled=True),
        },
    ),
    **_group(
        "skewed-target",
        {
            "skewed target": partial(skewed, then_scaled=False),
            "skewed target scaled": partial(skewed, then_scaled=True),
        },
        kinds="r",
    ),
    **_group("counts-as-targets", {"counts": counts}, kinds="r"),
    **_group("classes-as-targets", {"regressor on classes": classes}, kinds=CLASSES),
    **_group(
        "constant-columns",
        {
            "constant columns": everywhere(_constant),
            "almost constant columns": everywhere(_almost_constant),
        },
    ),
    **_group(
        "id-column",
        {
            "row number": partial(id_column, random=False),
            "random id": partial(id_column, random=True),
        },
    ),
    **_group("target-in-features", {"target in features": leak}),
    **_group("duplicate-rows", {"duplicate rows": duplicates}),
    **_group(
        "unscaled-input",
        {
            "a column x 1000": everywhere(_one_large),
            "X x 0.001": everywhere(lambda part, rng: part.X * 0.001),
            "X x 100 tanh": lambda data, rng: case(
                _map_X(lambda part: part.X * 100, data), activation="tanh"
            ),
            "not scaled": unscaled,
        },
        "saturated-units",
    ),
    **_group(
        "held-out-scale",
        {"forgotten scaler": forgotten_scaler, "refitted scaler": refitted_scaler},
    ),
    **_group("starved-layer", {"dropout 0.9": having(dropout=0.9)}, "underfitting"),
    **_group(
        "clipped-steps",
        {"max_grad_norm 1e-4": having(**_SGD, max_grad_norm=1e-4)},
        *_SMALL_STEPS,
    ),
    **_group(
        "label-smoothing",
        {"label_smoothing 0.99": having(label_smoothing=0.99)},
        "underfitting",
        kinds=CLASSES,
    ),
    **_group("epsilon-floor", {"epsilon 0.01": having(epsilon=0.01)}, *_SMALL_STEPS),
}
