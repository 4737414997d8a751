"""The network inside a model: that it is found, what reaches it, and that advice
written for the model works when it is pasted."""

import copy
import warnings
from unittest.mock import MagicMock

import numpy as np
import pytest
from scipy.stats import uniform
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import (
    RFE,
    SelectFromModel,
    SelectKBest,
    VarianceThreshold,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import (
    ClassifierChain,
    MultiOutputClassifier,
    MultiOutputRegressor,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

from cbp import BPClassifier, BPRegressor, NetworkFeatures, diagnose
from cbp._divergence import DivergenceError
from cbp._inside import find_network
from cbp._paste import _MODULE_OF, imports, rewrite

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


def test_columns_are_named_as_they_reach_the_network(classes):
    pd = pytest.importorskip("pandas")
    X, y = classes
    frame = pd.DataFrame(X, columns=[f"size {j}" for j in range(X.shape[1])])
    for model in (
        classifier(),
        make_pipeline(StandardScaler(), classifier()),
        GridSearchCV(make_pipeline(StandardScaler(), classifier()), {}, cv=2),
    ):
        assert find_network(model.fit(frame, y)).columns == tuple(frame.columns)
        assert find_network(clone(model).fit(X, y)).columns in ((), NUMBERED(X))
    squares = make_pipeline(PolynomialFeatures(include_bias=False), classifier())
    names = find_network(squares.fit(frame, y)).columns
    assert names[0] == "size 0" and "size 0 size 1" in names
    # A step that cannot tell.
    blind = make_pipeline(FunctionTransformer(np.asarray), classifier())
    assert find_network(blind.fit(frame, y)).columns == ()
    model = classifier().set_params(max_iter=100).fit(1000 * frame, y)
    assert "('size " in model.diagnose().findings[0].message


def test_a_number_for_a_missing_value_is_named_as_the_user_has_it(classes):
    rng = np.random.RandomState(0)
    X = 50 + 10 * rng.randn(400, 3)
    y = (X[:, 0] + X[:, 1] > 100).astype(int)
    X[rng.rand(400) < 0.1, 1] = -999
    model = make_pipeline(StandardScaler(), classifier()).fit(X, y)
    found = {f.code: f for f in diagnose(model).findings}["sentinel-values"]
    assert "have -999 in column 1" in found.message
    assert found.advice == (
        "make_pipeline(SimpleImputer(missing_values=-999.0, strategy='median'), model)"
    )
    names = {"model": clone(model)}
    for line in imports(found.advice):
        exec(line, names)
    better = eval(found.advice, names).fit(X, y)
    assert not (better[0].transform(X) == -999).any()
    # Behind steps that mix columns nobody knows.
    inside = find_network(make_pipeline(PCA(), classifier()).fit(X, y))
    assert inside.original(0, 1.5) is None
    assert find_network(model[-1]).original(1, 1.5) == 1.5


def NUMBERED(X):
    # What scikit-learn calls columns that have no name.
    return tuple(f"x{j}" for j in range(X.shape[1]))


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


def test_values_that_a_grid_holds_win_so_the_advice_is_for_the_grid(classes):
    X, y = classes
    for grid, text in (
        (
            {"alpha": [1e-4]},
            "{**model.param_grid, 'alpha': [*model.param_grid['alpha'], 0.01]}",
        ),
        (
            [{"alpha": [1e-4]}],
            "[{**grid, 'alpha': [0.01]} for grid in model.param_grid]",
        ),
    ):
        model = GridSearchCV(classifier(), grid, cv=2).fit(X, y)
        advice, remark = rewrite("alpha=0.01", find_network(model))
        assert advice == f"param_grid={text}"
        assert "wins over" in remark
        new = pasted("alpha=0.01", model, X, y).fit(X, y)
        assert 0.01 in new.cv_results_["param_alpha"]
    search = RandomizedSearchCV(classifier(), {"alpha": uniform(0, 1)}, n_iter=1, cv=2)
    new = pasted("alpha=0.01, tol=0.5", search.fit(X, y), X, y).fit(X, y)
    assert new.best_estimator_.alpha == 0.01
    assert new.best_estimator_.tol == 0.5


def test_network_and_steps_that_a_grid_holds_are_left_to_it(classes):
    X, y = classes
    pipeline = Pipeline([("scale", "passthrough"), ("net", LogisticRegression())])
    grid = {"net": [classifier()], "scale": [MinMaxScaler()]}
    model = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    advice, remark = rewrite("alpha=0.01", find_network(model))
    assert advice == "alpha=0.01"
    assert "model.best_estimator_[-1]" in remark
    model = GridSearchCV(clone(pipeline).set_params(net=classifier()), grid, cv=2)
    advice, remark = rewrite("alpha=0.01", find_network(model.fit(X, y)))
    assert advice == "alpha=0.01"
    assert "where the grid lists it" in remark
    new = pasted("make_pipeline(StandardScaler(), model)", model, X, y).fit(X, y)
    rows, _ = find_network(new).estimator.seen_
    np.testing.assert_allclose(rows.std(axis=0), 1)


def test_networks_that_were_trained_before_are_not_trained_again(classes):
    X, y = classes
    network = classifier().fit(X, y)
    model = StackingClassifier([("net", network)], LogisticRegression(), cv="prefit")
    inside = find_network(model.fit(X, y))
    assert inside.targets(y) is y
    advice, remark = rewrite("alpha=0.01", inside)
    assert advice == "alpha=0.01"
    assert "StackingClassifier does not train it again" in remark


def test_target_of_a_network_in_a_classifier_is_not_transformed(classes):
    X, y = classes
    features = NetworkFeatures(regressor())
    model = make_pipeline(features, LogisticRegression()).fit(X, (y == "a").astype(int))
    advice = "TransformedTargetRegressor(model, transformer=StandardScaler())"
    advice, remark = rewrite(advice, find_network(model))
    assert advice.startswith("TransformedTargetRegressor(model['networkfeatures']")
    assert "for the network itself" in remark


def test_advice_reads_well_for_what_make_pipeline_made(classes):
    X, y = classes
    model = make_pipeline(SelectKBest(k=3), classifier()).fit(X, y)
    advice, _ = rewrite("make_pipeline(StandardScaler(), model)", find_network(model))
    assert advice == "make_pipeline(*model[:-1], StandardScaler(), model[-1])"
    model = scaled(classifier()).fit(X, y)
    advice, _ = rewrite("make_pipeline(MaxAbsScaler(), model)", find_network(model))
    assert advice == "standardscaler=MaxAbsScaler()"
    advice, _ = rewrite("activation='relu'", find_network(model))
    assert advice == "classifier__activation='relu'"


def test_names_of_steps_stay_unique(classes):
    X, y = classes
    steps = [("variancethreshold", VarianceThreshold()), ("net", classifier())]
    model = Pipeline(steps).fit(X, y)
    new = pasted("make_pipeline(VarianceThreshold(), model)", model, X, y).fit(X, y)
    names = [name for name, _ in new.steps]
    assert names == ["variancethreshold", "variancethreshold-2", "net"]


@pytest.mark.parametrize(
    "name", ["pipeline", "nested pipeline", "grid search", "bagging"]
)
@pytest.mark.parametrize(
    "advice",
    ["model.fit(X, y, sample_weight=w / w.mean())", "model.set_callbacks().fit(X, y)"],
)
def test_calls_of_fit_are_those_of_the_model(name, advice, classes):
    X, y = classes
    model = clone(CLASSIFIERS[name][0]).fit(X, y)
    new = pasted(advice, model, X, y)
    assert type(new) is type(model)
    assert find_network(new).estimator.n_iter_ > 0


@pytest.mark.parametrize("name", ["nested pipeline", "grid search"])
def test_partial_fit_gets_the_rows_of_the_network(name, classes):
    X, y = classes
    model = clone(CLASSIFIERS[name][0]).fit(X, y)
    pasted("model.partial_fit(X, y)", model, X, y)  # raises if X is not


def test_logarithm_that_the_model_has_is_kept(numbers):
    X, y = numbers
    model = clone(REGRESSORS["logarithm"][0]).fit(X, y)
    advice = "TransformedTargetRegressor(model, transformer=StandardScaler())"
    new = pasted(advice, model, X, y).fit(X, y)
    np.testing.assert_allclose(
        new.regressor_.seen_[1],
        StandardScaler().fit_transform(np.arcsinh(y)[:, None])[:, 0],
    )


@pytest.mark.parametrize(
    ("advice", "lines"),
    [
        ("alpha=0.01", ()),
        (
            "make_pipeline(StandardScaler(), model)",
            (
                "from sklearn.pipeline import make_pipeline",
                "from sklearn.preprocessing import StandardScaler",
            ),
        ),
        (
            "transformer=FunctionTransformer(np.log1p, np.expm1)",
            (
                "import numpy as np",
                "from sklearn.preprocessing import FunctionTransformer",
            ),
        ),
        ("BPClassifier().fit(X, y)", ("from cbp import BPClassifier",)),
        ("not Python", ()),
    ],
)
def test_imports_are_those_that_advice_needs(advice, lines):
    assert imports(advice) == lines


def test_every_name_in_the_table_can_be_imported():
    for name in _MODULE_OF:
        (line,) = imports(name)
        exec(line, {})


# ---- Several networks, and none


def test_of_several_networks_the_worst_is_diagnosed_and_named(classes):
    X, y = classes
    good, bad = classifier(), classifier().set_params(learning_rate_init=1e-9)
    model = VotingClassifier([("good", good), ("bad", bad)]).fit(X, y)
    inside = find_network(model)
    assert inside.path == "model.named_estimators_['bad']"
    assert inside.note == (
        "The VotingClassifier holds 2 networks (model.named_estimators_['good'], "
        "model.named_estimators_['bad']). This is about "
        "model.named_estimators_['bad'], whose training ended worst."
    )


def test_outputs_have_networks_of_their_own(numbers):
    X, y = numbers
    for model, network in (
        (MultiOutputRegressor(regressor()), "model.estimators_[0]"),
        (MultiOutputClassifier(scaled(classifier())), "model.estimators_[0][-1]"),
    ):
        Y = np.column_stack([y, -y])
        Y = LABELS[(Y > 1).astype(int)] if is_classifier(model) else Y
        inside = find_network(model.fit(X, Y))
        assert similar(inside.path, network)
        seen = inside.estimator.seen_
        np.testing.assert_array_equal(inside.inputs(X), seen[0])
        np.testing.assert_array_equal(inside.targets(Y), seen[1])


@pytest.mark.parametrize("maker", [OneVsOneClassifier, ClassifierChain])
def test_rows_of_a_part_of_the_task_are_refused(maker, classes):
    X, y = classes
    if maker is ClassifierChain:
        y = np.column_stack([y == "a", y == "b"]).astype(int)
    inside = find_network(maker(classifier()).fit(X, y))
    assert len(inside.paths) > 1
    with pytest.raises(ValueError, match="without X_val and y_val"):
        inside.inputs(X)
    with pytest.raises(ValueError, match="without X_val and y_val"):
        inside.targets(y)


def test_frozen_network_is_found_and_its_advice_says_that_it_is_frozen(classes):
    X, y = classes
    network = classifier().fit(X, y)
    for model, path in (
        (FrozenEstimator(network), "model.estimator"),
        (
            CalibratedClassifierCV(FrozenEstimator(network)).fit(X, y),
            "model.calibrated_classifiers_[0].estimator.estimator",
        ),
        (
            make_pipeline(
                NetworkFeatures(FrozenEstimator(network)), LogisticRegression()
            ).fit(X, y),
            "model['networkfeatures'].estimator_.estimator",
        ),
    ):
        inside = find_network(model)
        assert inside.path == path
        assert eval(path, {"model": model}) is inside.estimator
        advice, remark = rewrite("make_pipeline(StandardScaler(), model)", inside)
        assert advice == f"make_pipeline(StandardScaler(), {path})"
        assert "does not train it again" in remark
        assert rewrite("alpha=0.01", inside).advice == "alpha=0.01"


def test_other_models_that_hold_one_estimator(classes):
    X, y = classes
    yes = (y == "a").astype(int)
    for model in (
        FixedThresholdClassifier(classifier()),
        SelectFromModel(classifier(), importance_getter=lambda e: e.coefs_[0][:, 0]),
        Wrapper(classifier()),
    ):
        inside = find_network(model.fit(X, yes))
        assert inside.path == "model.estimator_" or isinstance(model, Wrapper)
        np.testing.assert_array_equal(inside.inputs(X), inside.estimator.seen_[0])
        new = pasted("alpha=0.01", model, X, yes).fit(X, yes)
        assert find_network(new).estimator.alpha == 0.01


class Wrapper(RegressorMixin, BaseEstimator):
    """A user's: its fitted attribute has a name of its own, and a property fails."""

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y):
        self.network_ = clone(self.estimator).fit(X, y)
        self.me_ = self
        return self

    @property
    def best_estimator_(self):
        raise RuntimeError


class Grumpy:
    def __getattr__(self, name):
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (MLPClassifier(), "MLPClassifier"),
        (
            scaled(MLPClassifier()),
            "Pipeline, which holds MLPClassifier, StandardScaler",
        ),
        (GridSearchCV(MLPClassifier(), {}), "GridSearchCV"),
        (BPClassifier, "the class BPClassifier"),
        (None, "NoneType"),
        ("model", "str"),
        (np.ones(3), "ndarray"),
        (MagicMock(), "MagicMock"),
        (Grumpy(), "Grumpy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_network_the_error_says_what_was_expected(model, got):
    with pytest.raises(TypeError) as error:
        find_network(model)
    assert str(error.value) == (
        "Pass a fitted BPClassifier or BPRegressor, or a pipeline, search or other "
        f"model that holds one; got {got}."
    )


def test_forests_hold_no_network(classes):
    with pytest.raises(TypeError, match="which holds DecisionTreeClassifier"):
        find_network(RandomForestClassifier(3).fit(*classes))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "network"])
def test_models_that_are_not_fitted_say_so(name):
    model = clone(MODELS[name][0])
    with pytest.raises(NotFittedError, match=f"This {type(model).__name__} holds"):
        find_network(model)


def test_search_without_refit_is_a_clear_error(classes):
    search = GridSearchCV(scaled(classifier()), GRID, cv=2, refit=False)
    with pytest.raises(NotFittedError):
        find_network(search)
    with pytest.raises(ValueError, match="refit=False: it keeps no fitted model"):
        find_network(search.fit(*classes))


@pytest.mark.parametrize("name", ["pipeline", "nested pipeline", "target"])
def test_network_that_diverged_is_found(name, classes, numbers):
    X, y = classes if name in CLASSIFIERS else numbers
    model = clone(MODELS[name][0])
    name = {"nested pipeline": "pipeline__classifier", "pipeline": "classifier"}.get(
        name, "regressor"
    )
    for parameter, value in (("solver", "sgd"), ("learning_rate_init", 1e200)):
        model.set_params(**{f"{name}__{parameter}": value})
    with pytest.raises(DivergenceError):
        model.fit(X * 1e9, y)
    inside = find_network(model)
    assert inside.name == name
    assert inside.estimator._failed_flow is not None


# ---- Rows


def test_rows_of_another_width_are_refused(classes):
    X, y = classes
    inside = find_network(Wrapper(classifier()).fit(X, (y == "a").astype(int)))
    with pytest.raises(
        ValueError, match="X has 2 columns where it reaches the network"
    ):
        inside.inputs(X[:, :2])


def test_unknown_labels_are_refused(classes):
    X, y = classes
    inside = find_network(VotingClassifier([("net", classifier())]).fit(X, y))
    with pytest.raises(
        ValueError, match="label that the model was not trained on: 'z'"
    ):
        inside.targets(["a", "z"])


def test_data_frames_go_through_their_columns(classes):
    pandas = pytest.importorskip("pandas")
    X, y = classes
    frame = pandas.DataFrame(X, columns=list("uvwxyz"))
    frame["kind"] = np.where(X[:, 0] > 0, "p", "q")
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(), ["kind"]),
    )
    model = make_pipeline(columns, classifier()).fit(frame, y)
    inside = find_network(model)
    np.testing.assert_array_equal(inside.inputs(frame), inside.estimator.seen_[0])
    model = BaggingClassifier(classifier(), 2, max_features=3, random_state=0)
    inside = find_network(model.fit(frame.drop(columns="kind"), y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside.estimator.predict(inside.inputs(frame.drop(columns="kind")))


def test_texts_go_through_the_vectorizer():
    texts = ["a good day", "a bad day", "good good", "bad bad"] * 5
    model = make_pipeline(TfidfVectorizer(), classifier()).fit(texts, [1, 0, 1, 0] * 5)
    inside = find_network(model)
    assert inside.inputs(texts).shape == (20, 3)
    new = pasted("make_pipeline(MaxAbsScaler(), model)", model, texts, [1, 0, 1, 0] * 5)
    assert new.fit(texts, [1, 0, 1, 0] * 5).score(texts, [1, 0, 1, 0] * 5) > 0.4
