"""The network inside a model: that it is found, what reaches it, and that advice
written for the model works when it is pasted."""

import copy
import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_transformer,
)
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from cbp import BPClassifier, BPRegressor, NetworkFeatures
from cbp._inside import find_network
from cbp._paste import imports, rewrite

LABELS = np.array(["a", "b", "c"])


class Classifier(BPClassifier):
    """Remembers what it was trained on."""

    def fit(self, X, y, sample_weight=None):
        self.seen_ = np.asarray(X), np.asarray(y)
        return super().fit(X, y, sample_weight)


class Regressor(BPRegressor):
    def fit(self, X, y, sample_weight=None):
        self.seen_ = np.asarray(X), np.asarray(y)
        return super().fit(X, y, sample_weight)


def classifier():
    return Classifier((4,), max_iter=5, learning_rate_init=0.1, random_state=0)


def regressor():
    return Regressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0)


def scaled(network):
    return make_pipeline(StandardScaler(), network)


@pytest.fixture(scope="module")
def classes():
    X, y = make_classification(
        90, 6, n_informative=4, n_classes=3, shift=3.0, random_state=0
    )
    return X, LABELS[y]


@pytest.fixture(scope="module")
def numbers():
    X, y = make_regression(90, 6, noise=1.0, random_state=0)
    return X + 3, y / 100 + 1


GRID = {"classifier__alpha": [1e-4, 1e-3]}
# The model, and the way to its network.
CLASSIFIERS = {
    "network": (classifier(), "model"),
    "pipeline": (scaled(classifier()), "model[-1]"),
    "nested pipeline": (scaled(scaled(classifier())), "model[-1][-1]"),
    "named pipeline": (
        Pipeline([("scale", MinMaxScaler()), ("net", classifier())]),
        "model[-1]",
    ),
    "pipeline of one": (make_pipeline(classifier()), "model[-1]"),
    "grid search": (
        GridSearchCV(scaled(classifier()), GRID, cv=2),
        "model.best_estimator_[-1]",
    ),
    "bare grid search": (
        GridSearchCV(classifier(), {"alpha": [1e-4, 1e-3]}, cv=2),
        "model.best_estimator_",
    ),
    "random search": (
        RandomizedSearchCV(scaled(classifier()), GRID, n_iter=1, cv=2, random_state=0),
        "model.best_estimator_[-1]",
    ),
    "halving search": (
        HalvingGridSearchCV(scaled(classifier()), GRID, cv=2, random_state=0),
        "model.best_estimator_[-1]",
    ),
    "search in a pipeline": (
        scaled(GridSearchCV(classifier(), {"alpha": [1e-4, 1e-3]}, cv=2)),
        "model[-1].best_estimator_",
    ),
    "calibrated": (
        CalibratedClassifierCV(scaled(classifier()), cv=2),
        "model.calibrated_classifiers_[0].estimator[-1]",
    ),
    "calibrated at once": (
        CalibratedClassifierCV(classifier(), cv=2, ensemble=False),
        "model.calibrated_classifiers_[0].estimator",
    ),
    "stacking": (
        StackingClassifier(
            [("net", scaled(classifier())), ("linear", LogisticRegression())], cv=2
        ),
        "model.named_estimators_['net'][-1]",
    ),
    "on top of a stack": (
        StackingClassifier([("linear", LogisticRegression())], classifier(), cv=2),
        "model.final_estimator_",
    ),
    "voting": (
        VotingClassifier([("linear", LogisticRegression()), ("net", classifier())]),
        "model.named_estimators_['net']",
    ),
    "bagging": (
        BaggingClassifier(classifier(), 3, random_state=0),
        "model.estimators_[0]",
    ),
    "bagging of columns": (
        BaggingClassifier(scaled(classifier()), 2, max_features=0.5, random_state=0),
        "model.estimators_[0][-1]",
    ),
    "boosting": (
        AdaBoostClassifier(classifier(), n_estimators=2, random_state=0),
        "model.estimators_[0]",
    ),
    "one vs rest": (OneVsRestClassifier(classifier()), "model.estimators_[0]"),
    "selected": (
        make_pipeline(RFE(LogisticRegression(), n_features_to_select=3), classifier()),
        "model[-1]",
    ),
    "features": (
        make_pipeline(NetworkFeatures(classifier()), LogisticRegression()),
        "model['networkfeatures'].estimator_",
    ),
    "side by side": (
        make_pipeline(
            FeatureUnion(
                [("x", StandardScaler()), ("net", NetworkFeatures(classifier()))]
            ),
            LogisticRegression(),
        ),
        "model['featureunion'].transformer_list[0][1].estimator_",
    ),
    "of some columns": (
        make_pipeline(
            make_column_transformer((NetworkFeatures(classifier()), [0, 2, 4])),
            LogisticRegression(),
        ),
        "model['columntransformer'].named_transformers_['networkfeatures'].estimator_",
    ),
}
REGRESSORS = {
    "target": (TransformedTargetRegressor(regressor()), "model.regressor_"),
    "scaled target": (
        TransformedTargetRegressor(scaled(regressor()), transformer=StandardScaler()),
        "model.regressor_[-1]",
    ),
    "logarithm": (
        TransformedTargetRegressor(
            regressor(), func=np.arcsinh, inverse_func=np.sinh, check_inverse=False
        ),
        "model.regressor_",
    ),
    "target in a pipeline": (
        scaled(TransformedTargetRegressor(regressor(), transformer=StandardScaler())),
        "model[-1].regressor_",
    ),
    "target in a search": (
        GridSearchCV(
            TransformedTargetRegressor(scaled(regressor()), transformer=MinMaxScaler()),
            {"regressor__regressor__alpha": [1e-4, 1e-3]},
            cv=2,
        ),
        "model.best_estimator_.regressor_[-1]",
    ),
    "voting of regressors": (
        VotingRegressor([("net", scaled(regressor())), ("linear", Ridge())]),
        "model.named_estimators_['net'][-1]",
    ),
    "stack of regressors": (
        StackingRegressor([("linear", Ridge())], regressor(), cv=2),
        "model.final_estimator_",
    ),
    "bagging of regressors": (
        BaggingRegressor(scaled(regressor()), 2, random_state=0),
        "model.estimators_[0][-1]",
    ),
}
MODELS = {**CLASSIFIERS, **REGRESSORS}


@pytest.fixture(scope="module", params=MODELS)
def case(request, classes, numbers):
    """A fitted model, its data, and the way to its network."""
    model, path = MODELS[request.param]
    X, y = classes if request.param in CLASSIFIERS else numbers
    model = clone(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y), X, y, path


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def similar(path, other):
    """Whether two ways differ at most in which of several networks they lead to."""
    return [c for c in path if not c.isdigit()] == [c for c in other if not c.isdigit()]


def test_network_is_found_and_its_path_is_python(case):
    model, _, _, path = case
    inside = find_network(model)
    assert similar(inside.path, path)
    assert eval(inside.path, {"model": model}) is inside.estimator
    assert isinstance(inside.estimator, BPClassifier | BPRegressor)
    assert all(eval(p, {"model": model}) is not None for p in inside.paths)


def test_what_reaches_the_network_is_what_it_was_trained_on(case):
    model, X, y, path = case
    inside = find_network(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, targets = np.asarray(inside.inputs(X)), inside.targets(y)
        assert inside.estimator.predict(rows).shape == np.shape(targets)
    if "final" in path:  # a stack trains it on predictions of other networks
        if is_classifier(inside.estimator):
            assert set(targets) == set(inside.estimator.classes_)
        return
    # Bootstraps and folds leave rows out, but none is new.
    for row, target in zip(*inside.estimator.seen_, strict=True):
        near = np.abs(rows - row).max(axis=1) < 1e-6
        assert near.any()
        if np.issubdtype(np.asarray(targets).dtype, np.floating):
            np.testing.assert_allclose(targets[near], target, atol=1e-6)
        else:
            assert (targets[near] == target).all()


# ---- Advice


def pasted(advice, model, X, y):
    """The model after an advice for its network was written for it, and followed."""
    model = copy.deepcopy(model)
    text = rewrite(advice, find_network(model)).advice
    names = {"model": model, "X": X, "y": y, "w": np.ones(len(y))}
    for line in imports(text):
        exec(line, names)
    try:
        compile(f"f({text})", "", "eval")
        compile(text, "", "eval")
        changed = eval(text, names)
    except SyntaxError:  # parameters
        changed = eval(f"model.set_params({text})", names)
    return changed


def test_parameters_reach_the_network(case):
    model, X, y, _ = case
    new = pasted("alpha=0.01, max_iter=2", model, X, y).fit(X, y)
    network = find_network(new).estimator
    assert network.max_iter == 2
    grids = [
        m.param_grid
        for m in (new, getattr(new, "steps", [[0]])[-1][-1])
        if hasattr(m, "param_grid")
    ] + ([new.param_distributions] if hasattr(new, "param_distributions") else [])
    if grids:
        assert 0.01 in next(iter(grids[0].values()))
    else:
        assert network.alpha == 0.01


def test_scaler_is_put_where_the_network_gets_what_it_scales(case):
    model, X, y, _ = case
    new = pasted("make_pipeline(StandardScaler(), model)", model, X, y).fit(X, y)
    rows, _ = find_network(new).estimator.seen_
    # Folds and bootstraps move them a little.
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.35)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=0.35)


def test_steps_go_before_the_network(case):
    model, X, y, _ = case
    advice = (
        "make_pipeline(VarianceThreshold(), QuantileTransformer(n_quantiles=10), model)"
    )
    new = pasted(advice, model, X, y).fit(X, y)
    rows, _ = find_network(new).estimator.seen_
    assert rows.min() >= 0
    assert rows.max() <= 1


@pytest.mark.parametrize("name", REGRESSORS)
def test_scaler_of_targets_works_with_any_regressor(name, numbers):
    X, y = numbers
    model = clone(REGRESSORS[name][0]).fit(X, y)
    advice = "TransformedTargetRegressor(model, transformer=StandardScaler())"
    new = pasted(advice, model, X, y).fit(X, y)
    _, targets = find_network(new).estimator.seen_
    np.testing.assert_allclose(targets.mean(), 0, atol=0.3)
    np.testing.assert_allclose(targets.std(), 1, atol=0.3)
