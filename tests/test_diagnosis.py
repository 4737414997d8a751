"""The diagnosis, judged: every planted illness is named, no healthy fit is called ill,
and the first advice helps.

The thresholds in gradient_flow.py were chosen on the data sets and seeds of TUNING; the
tests run on those of JUDGING, which played no part in it. `python test_diagnosis.py`
prints both.
"""

import sys
import warnings
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from sklearn import datasets
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from cbp import BPClassifier, BPRegressor
from cbp.gradient_flow import _Fit, diagnose

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
}
GENERATORS = {
    "moons": lambda seed: datasets.make_moons(300, noise=0.2, random_state=seed),
    "circles": lambda seed: datasets.make_circles(
        300, noise=0.1, factor=0.5, random_state=seed
    ),
    "blobs": lambda seed: datasets.make_blobs(
        400, centers=5, cluster_std=4, random_state=seed
    ),
    "classes": lambda seed: datasets.make_classification(
        600, n_informative=8, n_classes=3, random_state=seed
    ),
    "quantiles": lambda seed: datasets.make_gaussian_quantiles(
        n_samples=500, n_features=4, random_state=seed
    ),
    "friedman1": lambda seed: datasets.make_friedman1(
        400, noise=0.5, random_state=seed
    ),
    "friedman2": lambda seed: datasets.make_friedman2(400, noise=9, random_state=seed),
    "linear": lambda seed: datasets.make_regression(
        400, 15, noise=9, random_state=seed
    ),
}
REGRESSION = ("diabetes", "friedman1", "friedman2", "linear")


@dataclass(frozen=True)
class Sets:
    """Data sets and seeds: classification, regression, both healthy and ill."""

    classes: tuple
    numbers: tuple
    seed: int


TUNING = Sets(("iris", "breast_cancer", "moons", "blobs"), ("friedman1",), 0)
JUDGING = Sets(
    ("wine", "digits", "circles", "classes", "quantiles"),
    ("diabetes", "friedman2", "linear"),
    100,
)


@dataclass
class Case:
    """A fit on a data set whose X, y or starting weights may be spoiled first."""

    code: str
    data: str
    seed: int
    parameters: dict
    scale: float = 1.0  # of X
    shift: float = 0.0
    target_scale: float = 1.0
    target_shift: float = 0.0
    weights: float = 1.0  # the starting weights are multiplied by this
    biases: float = 0.0  # and this is added to the starting biases
    raw: bool = False  # X as it was loaded

    def __str__(self):
        size = self.parameters.get("hidden_layer_sizes")
        return f"{self.code} {self.data} {size} {self.seed}"


@cache
def load(name, seed, raw):
    X, y = LOADERS[name](return_X_y=True) if name in LOADERS else GENERATORS[name](seed)
    if not raw:
        X = StandardScaler().fit_transform(X)
    if name in REGRESSION:
        y = (y - y.mean()) / y.std()
    return X, y


def fit_case(case):
    """The data, and the model: fitted, or diverged."""
    X, y = load(case.data, case.seed, case.raw)
    X = X * case.scale + case.shift
    if case.data in REGRESSION:
        y = y * case.target_scale + case.target_shift
    kind = BPRegressor if case.data in REGRESSION else BPClassifier
    model = kind(random_state=case.seed, **case.parameters)
    if case.weights != 1 or case.biases:
        start(model, case, X, y)
    return X, y, fit_quietly(model, X, y)


def start(model, case, X, y):
    """Gives the model weights of the wrong size, to go on from."""
    given = model.get_params()
    model.set_params(solver="sgd", learning_rate_init=1e-12, max_iter=1)
    fit_quietly(model, X, y)
    model.set_params(**{**given, "warm_start": True})
    for W, b in zip(model.coefs_, model.intercepts_, strict=True):
        W *= case.weights
        b += case.biases


def fit_quietly(model, X, y):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return model.fit(X, y)
        except ValueError as error:
            assert "non-finite" in str(error)
            return model


# ---- the planted illnesses


def planted(sets):
    """At least three cases of every illness, over depths, widths, data and seeds."""
    seeds = iter(range(sets.seed, sets.seed + 1000))
    classes, numbers = sets.classes, sets.numbers

    def plant(code, names, variants, **more):
        """The variants, dealt out over the data sets."""
        for i, variant in enumerate(variants):
            settings = {"max_iter": 100, **more, **variant}
            spoiled = {
                name: settings.pop(name)
                for name in list(settings)
                if name in Case.__dataclass_fields__
            }
            yield Case(code, names[i % len(names)], next(seeds), settings, **spoiled)

    def layers(depth, width, **more):
        return {"hidden_layer_sizes": (width,) * depth, **more}

    both = [name for pair in zip(classes, numbers * 9, strict=False) for name in pair]
    fast = {"solver": "sgd", "learning_rate_init": 0.1}
    yield from plant(
        "vanishing-gradient",
        both,
        [layers(depth, width) for depth, width in [(6, 30), (7, 20), (8, 10), (10, 40)]]
        + [layers(depth, width, **fast) for depth, width in [(4, 25), (5, 12), (7, 50)]]
        + [layers(7, 40, solver="lbfgs"), layers(6, 15, solver="lbfgs")],
        activation="logistic",
    )
    yield from plant(
        "vanishing-gradient",
        both,
        [layers(24, 20), layers(30, 30), layers(28, 12)],
        activation="relu",
        solver="sgd",
        learning_rate_init=0.01,
    )
    yield from plant(
        "exploding-gradient",
        both,
        [
            layers(6, 20, weights=4, activation="relu"),
            layers(8, 30, weights=3, activation="identity"),
            layers(10, 15, weights=3, activation="relu"),
            layers(12, 20, weights=3, activation="relu"),
            layers(5, 40, weights=5, activation="identity"),
        ],
        solver="adam",
        max_iter=30,
    )
    yield from plant(
        "saturated-units",
        both,
        [
            layers(2, 20, weights=40, activation="tanh"),
            layers(1, 50, weights=100, activation="logistic"),
            layers(3, 30, weights=40, activation="tanh"),
            layers(4, 15, weights=60, activation="logistic"),
            layers(2, 30, activation="tanh", learning_rate_init=5),
        ],
        max_iter=50,
    )
    yield from plant(
        "dead-units",
        both,
        [
            layers(1, 40, biases=-20),
            layers(2, 20, biases=-10),
            layers(4, 30, biases=-5),
            layers(3, 20, learning_rate_init=5),
            layers(4, 40, learning_rate_init=3),
        ],
        activation="relu",
    )
    yield from plant(
        "epsilon-floor",
        both,
        [
            layers(1, 30, epsilon=10.0),
            layers(2, 20, epsilon=1.0, activation="tanh"),
            layers(3, 30, epsilon=3.0),
            layers(1, 60, epsilon=1.0, activation="logistic"),
            layers(4, 15, epsilon=0.3),
        ],
    )
    yield from plant(
        "update-too-small",
        both,
        [
            layers(1, 40, learning_rate_init=1e-6),
            layers(2, 30, learning_rate_init=3e-6, activation="tanh"),
            layers(3, 20, learning_rate_init=1e-7),
            layers(1, 60, solver="sgd", learning_rate_init=1e-6),
            layers(2, 20, solver="sgd", learning_rate_init=3e-6, activation="tanh"),
        ],
    )
    yield from plant(
        "update-too-small",
        numbers,
        [
            layers(1, 40, target_scale=77, target_shift=152),
            layers(2, 20, target_shift=2000, activation="tanh"),
            layers(3, 30, target_scale=1e4),
        ],
    )
    yield from plant(
        "update-too-large",
        both,
        [
            layers(3, 40, learning_rate_init=20),
            layers(2, 30, learning_rate_init=5, activation="tanh"),
            layers(3, 20, learning_rate_init=3),
            layers(2, 20, learning_rate_init=10, activation="logistic"),
            layers(1, 60, solver="sgd", learning_rate_init=30, activation="tanh"),
        ],
    )
    yield from plant(
        "learning-rate-too-high",
        both,
        [
            layers(1, 40, learning_rate_init=20),
            layers(2, 30, learning_rate_init=3, solver="sgd", activation="tanh"),
            layers(3, 20, learning_rate_init=5, solver="sgd", activation="tanh"),
            layers(1, 30, learning_rate_init=20, solver="sgd", activation="tanh"),
            layers(4, 20, learning_rate_init=10, solver="sgd", activation="tanh"),
        ],
    )
    yield from plant(
        "stopped-by-tol",
        classes,
        [
            layers(1, 30, tol=0.1),
            layers(2, 20, tol=0.05, activation="tanh"),
            layers(3, 15, tol=0.2, solver="sgd", learning_rate_init=0.01),
        ],
    )
    yield from plant(
        "stopped-by-tol",
        numbers,
        [
            layers(1, 40, target_scale=1e-3),
            layers(2, 20, target_scale=1e-5, activation="tanh"),
            layers(3, 30, target_scale=3e-3, activation="logistic"),
            layers(1, 20, target_scale=1e-4, solver="sgd", activation="tanh"),
        ],
        max_iter=500,
    )
    yield from plant(
        "unscaled-input",
        both,
        [
            layers(1, 40, scale=1000),
            layers(2, 20, shift=1000),
            layers(3, 30, scale=1e-4, activation="tanh"),
            layers(1, 30, scale=300, activation="logistic", max_iter=300),
            layers(2, 30, shift=-500, activation="tanh", solver="sgd"),
            layers(2, 20, scale=1e-3, solver="lbfgs"),
            layers(1, 20, shift=300, solver="lbfgs", activation="tanh"),
        ],
    )
    loaded = [name for name in classes if name in ("wine", "breast_cancer")]
    yield from plant(
        "unscaled-input",
        loaded,
        [layers(1, 30), layers(2, 20, activation="tanh")],
        raw=True,
    )
    yield from plant(
        "constant-prediction",
        both,
        [
            layers(1, 30, alpha=300),
            layers(2, 20, alpha=1000, activation="tanh"),
            layers(5, 20, activation="logistic", solver="sgd"),
            layers(6, 40, activation="logistic"),
            layers(2, 30, biases=-50, activation="relu"),
        ],
    )
    yield from plant(
        "divergence",
        numbers,
        [
            layers(1, 40, learning_rate_init=10),
            layers(2, 20, learning_rate_init=3),
            layers(3, 30, learning_rate_init=1),
            layers(1, 20, learning_rate_init=0.1, target_scale=1e4, activation="relu"),
            layers(2, 30, learning_rate_init=0.01, scale=1000),
        ],
        solver="sgd",
    )


# ---- the healthy fits


def healthy(sets):
    """Fits that go well: scaled data, three solvers, three activations."""
    solvers = [
        {"solver": "adam", "learning_rate_init": 0.005, "max_iter": 300},
        {"solver": "sgd", "learning_rate_init": 0.05, "max_iter": 300},
        {"solver": "lbfgs", "max_iter": 300, "alpha": 0.01},
    ]
    shapes = [("relu", (50,)), ("tanh", (30, 20)), ("logistic", (40,))]
    shapes += [("relu", (20, 20, 20))]
    seed = sets.seed
    for name in sets.classes + sets.numbers:
        for i, (activation, sizes) in enumerate(shapes):
            for solver in solvers[i % 2 :: 2] if i < 2 else solvers[i % 3 :][:1]:
                seed += 1
                settings = {"activation": activation, "hidden_layer_sizes": sizes}
                yield Case("healthy", name, seed, {**settings, **solver})


def codes_of(diagnosis):
    return [finding.code for finding in diagnosis.findings]


# ---- the two benches


def apply(advice, model):
    """A new model, made as a reader of the advice would make it."""
    names = (make_pipeline, StandardScaler, MaxAbsScaler, TransformedTargetRegressor)
    model = clone(model)
    if advice.startswith(("make_pipeline", "TransformedTargetRegressor")):
        known = {thing.__name__: thing for thing in names}
        return eval(advice, {**known, "model": model})
    return model.set_params(**eval(f"dict({advice})"))


def inner(model):
    """The network in a pipeline or round which targets are transformed."""
    if isinstance(model, TransformedTargetRegressor):
        return model.regressor_
    return model[-1] if hasattr(model, "steps") else model


def quality(model, X, y):
    """Score on the training data, and cost relative to that of a constant answer."""
    cost = _Fit(inner(model)).reached
    if not np.isfinite(cost):
        return -np.inf, np.inf
    with np.errstate(all="ignore"):
        try:
            return model.score(X, y), cost
        except ValueError:  # predictions that overflow
            return -np.inf, cost


def advice_helps(case):
    """Whether the first advice raises the score by 0.01 or lowers the cost by a tenth."""
    X, y, model = fit_case(case)
    findings = diagnose(model).findings
    if not findings:
        return False
    better = apply(findings[0].advice, model)
    if case.weights != 1 or case.biases:
        if better.get_params().get("warm_start"):  # the wrong weights stay
            better.set_params(**{k: v for k, v in better.get_params().items()})
            start(better, case, X, y)
    try:
        fit_quietly(better, X, y)
    except (ValueError, AttributeError):
        return False
    score, cost = quality(model, X, y)
    new_score, new_cost = quality(better, X, y)
    return bool(new_score > score + 0.01 or new_cost < 0.9 * cost)


@pytest.mark.parametrize("case", planted(JUDGING), ids=str)
def test_every_planted_illness_is_named(case):
    model = fit_case(case)[2]
    assert case.code in codes_of(diagnose(model))
    assert not diagnose(model).healthy


@pytest.mark.parametrize("case", healthy(JUDGING), ids=str)
def test_no_healthy_fit_is_called_ill(case):
    X, y, model = fit_case(case)
    assert model.score(X, y) > 0.4
    assert diagnose(model).healthy, str(diagnose(model))


def test_the_first_advice_helps_in_four_of_five_cases():
    helped = [advice_helps(case) for case in planted(JUDGING)]
    assert len(helped) >= 40
    assert np.mean(helped) >= 0.8


def report(sets):
    named = helped = clean = 0
    cases, sound = list(planted(sets)), list(healthy(sets))
    for case in cases:
        X, y, model = fit_case(case)
        found = codes_of(diagnose(model))
        ok, helps = case.code in found, advice_helps(case)
        named, helped = named + ok, helped + helps
        first = diagnose(model).findings[0].advice if found else ""
        print(f"{'' if ok else 'MISSED':7}{'' if helps else 'USELESS':8}{case}"[:74].ljust(75), f"{_Fit(model).reached:.2g}", first, found)
    for case in sound:
        X, y, model = fit_case(case)
        diagnosis = diagnose(model)
        clean += diagnosis.healthy
        if not diagnosis.healthy or model.score(X, y) < 0.6:
            print(f"{'ILL' if not diagnosis.healthy else 'weak':7} {case} {case.parameters} {model.score(X, y):.3f} {_Fit(model).reached:.2g}\n{diagnosis if not diagnosis.healthy else ''}")
    print(f"named {named}/{len(cases)}, advice helps {helped}/{len(cases)}, healthy fits clean {clean}/{len(sound)}")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["tuning"]:
        report({"tuning": TUNING, "judging": JUDGING}[name])
