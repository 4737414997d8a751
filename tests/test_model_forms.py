"""A model in other forms: scikit-learn's estimators, arrays, pickles, skops."""

import copy
import pickle
import re

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cbp
from cbp import BPClassifier, BPRegressor, from_weights
from cbp._base import FORMAT

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.RandomState(0)
X = rng.randn(80, 4)
CODES = rng.randint(0, 3, 80)
NAMES = np.array(["low", "middle", "top"])[CODES]
MANY = np.eye(3, dtype=int)[CODES]


def fitted(model, y, **options):
    return model.set_params(max_iter=8, random_state=0, **options).fit(X, y)


def demand_close(a, b):
    """Equal labels, or numbers that differ by rounding."""
    if sparse.issparse(a):
        assert sparse.issparse(b)
        a, b = a.toarray(), b.toarray()
    if a.dtype.kind == "f":
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    else:
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


# --------------------------------------------------------------------- to scikit-learn

HELD = {
    "classes": (BPClassifier((5, 4), "tanh"), NAMES),
    "two classes": (BPClassifier(5, "sigmoid"), CODES > 0),
    "no hidden layer": (BPClassifier(()), NAMES),
    "early stopping": (BPClassifier(5, early_stopping=True), CODES),
    "multilabel": (BPClassifier(5), MANY),
    "sparse multilabel": (BPClassifier(5), sparse.csr_matrix(MANY)),
    "equal activations": (BPClassifier((5, 4), ("relu", "relu")), NAMES),
    "what theirs has not": (
        BPClassifier(5, dropout=0.1, learning_rate="cosine", class_weight="balanced"),
        NAMES,
    ),
    "a callable": (BPClassifier(5, learning_rate=lambda p: 1 - p, verbose=0), NAMES),
    "float32": (BPClassifier(5, precision="float32"), NAMES),
    "regressor": (BPRegressor(hidden_layer_sizes=5, activation="identity"), X[:, 0]),
    "several outputs": (BPRegressor(hidden_layer_sizes=5), X),
    "lbfgs": (BPRegressor(hidden_layer_sizes=5, solver="lbfgs"), X[:, 0]),
}


@pytest.mark.parametrize("name", HELD)
def test_theirs_predicts_the_same(name):
    model, y = HELD[name]
    model = fitted(copy.deepcopy(model), y)
    twin = model.to_sklearn()
    assert type(twin) is (MLPClassifier if hasattr(model, "classes_") else MLPRegressor)
    if name == "float32":
        np.testing.assert_allclose(
            twin.predict_proba(X), model.predict_proba(X), rtol=1e-5, atol=1e-6
        )
        assert twin.coefs_[0].dtype == np.float32
        return
    demand_close(model.predict(X), twin.predict(X))
    if hasattr(model, "classes_"):
        demand_close(model.predict_proba(X), twin.predict_proba(X))
    for attribute in ("n_iter_", "loss_curve_", "n_features_in_", "out_activation_"):
        assert getattr(twin, attribute) == getattr(model, attribute)


def test_theirs_predicts_the_same_for_counts():
    model = fitted(BPRegressor("poisson", 5), CODES)
    try:
        MLPRegressor(loss="poisson")
    except TypeError:
        with pytest.raises(ValueError, match="poisson"):
            model.to_sklearn()
        return
    demand_close(model.predict(X), model.to_sklearn().predict(X))


@pytest.mark.parametrize("name", ["classes", "two classes", "multilabel", "regressor"])
def test_theirs_can_be_trained_on_and_shares_nothing(name):
    model, y = HELD[name]
    model = fitted(copy.deepcopy(model), y)
    before = model._theta.copy()
    twin = model.to_sklearn()
    if name != "multilabel":
        twin.partial_fit(X, y)
        assert twin.t_ == model.t_ + len(X)
    twin.coefs_[0][...] = 7
    np.testing.assert_array_equal(model._theta, before)


def test_names_of_columns_are_told_to_theirs():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    twin = BPClassifier(3, max_iter=2).fit(frame, NAMES).to_sklearn()
    assert twin.feature_names_in_.tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "model, y, says",
    [
        (BPClassifier((3, 3), ("tanh", "relu")), NAMES, "several activations"),
        (BPClassifier(3, "gelu"), NAMES, "the activation 'gelu'"),
        (BPClassifier(3, loss="squared_error"), NAMES, "loss='squared_error'"),
        (BPClassifier(3, label_smoothing=0.1), NAMES, "label_smoothing"),
        (BPClassifier(3, focal_gamma=2), CODES > 0, "focal_gamma"),
        (BPClassifier(3), np.zeros(80, int), "a model of one class"),
        (BPClassifier(3), np.column_stack([NAMES, NAMES]), "several columns of labels"),
        (BPRegressor("huber", 3), X[:, 0], "loss='huber'"),
        (BPRegressor("gamma", 3), CODES + 1, "loss='gamma'"),
        (BPRegressor("quantile", 3, quantile=(0.1, 0.9)), CODES, "loss='quantile'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_theirs_cannot_hold_is_said(model, y, says):
    with pytest.raises(ValueError, match=f"cannot hold.*{re.escape(says)}"):
        fitted(model, y).to_sklearn()


def test_a_model_that_is_not_fitted_has_no_other_form():
    with pytest.raises(NotFittedError):
        BPClassifier().to_sklearn()


# ------------------------------------------------------------------------- from arrays


@pytest.mark.parametrize("name", [*HELD, "several columns"])
def test_a_model_of_its_own_arrays_predicts_the_same_bits(name):
    columns = np.column_stack([NAMES.astype(object), CODES % 2])
    model, y = HELD.get(name, (BPClassifier(5), columns))
    model = fitted(copy.deepcopy(model), y)
    twin = from_weights(
        model.coefs_,
        model.intercepts_,
        activation=model.activation,
        classes=getattr(model, "classes_", None),
        multilabel=getattr(model, "_multilabel", False),
        loss=model.loss,
    )
    assert type(twin) is type(model) and twin._theta.dtype == model._theta.dtype
    a, b = model.predict(X), twin.predict(X)
    np.testing.assert_array_equal(a.toarray() if sparse.issparse(a) else a, b)
    if hasattr(model, "classes_"):
        np.testing.assert_equal(twin.predict_proba(X), model.predict_proba(X))
    assert not np.shares_memory(twin.coefs_[0], model.coefs_[0])


def test_a_model_of_arrays_is_trained_on_saved_and_copied(tmp_path):
    W, b = [rng.randn(4, 3), rng.randn(3, 2)], [rng.randn(3), rng.randn(2)]
    model = from_weights(W, b, activation="tanh", solver="sgd", alpha=0.5)
    assert model.solver == "sgd" and model.alpha == 0.5 and model.n_iter_ == 0
    cbp.save(model, tmp_path / "x.cbp")
    for twin in (
        cbp.load(tmp_path / "x.cbp"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        model.to_sklearn(),
    ):
        np.testing.assert_allclose(twin.predict(X), model.predict(X), atol=1e-12)
    before = model.predict(X)
    model.partial_fit(X, X[:, :2])
    assert not np.array_equal(model.predict(X), before)


def shares(W, b, classes, activation=np.tanh):
    z = activation(X @ W[0] + b[0]) @ W[1] + b[1]
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [["z", "a", "k"], [3, 1, 2], ["b", "a"], [0, 1]])
def test_labels_are_sorted_with_their_outputs(classes):
    """Also the two logits of PyTorch's cross-entropy of two classes."""
    n = len(classes)
    W, b = [rng.randn(4, 3), rng.randn(3, n)], [rng.randn(3), rng.randn(n)]
    model = from_weights(W, b, activation="tanh", classes=classes)
    assert model.classes_.tolist() == sorted(classes)
    order = np.argsort(classes)
    right = shares(W, b, classes)[:, order]
    np.testing.assert_allclose(model.predict_proba(X), right, rtol=1e-12)


def test_a_single_output_tells_the_second_class():
    W, b = [np.ones((1, 1))], [np.zeros(1)]
    for classes in (["no", "yes"], ["yes", "no"]):
        model = from_weights(W, b, classes=classes)
        assert model.predict([[1.0], [-1.0]]).tolist() == [classes[1], classes[0]]


def test_arrays_of_single_precision_stay_so():
    W, b = [np.ones((2, 1), np.float32)], [np.zeros(1, np.float32)]
    assert from_weights(W, b).coefs_[0].dtype == np.float32
    assert from_weights(W, b, precision="float64").coefs_[0].dtype == np.float64
    assert from_weights(W, [[0]]).coefs_[0].dtype == np.float64


ARRAYS = {"coefs": [np.ones((4, 3)), np.ones((3, 2))], "intercepts": [[0] * 3, [0] * 2]}
TURNED = [W.T for W in ARRAYS["coefs"]]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"coefs": TURNED}, "PyTorch's; give each of them as W.T"),
        ({"coefs": ARRAYS["coefs"][:1]}, "one array for each layer"),
        ({"coefs": [], "intercepts": []}, "one array for each layer"),
        ({"coefs": [np.ones((4, 3)), np.ones((2, 2))]}, r"coefs\[1\] has the shape"),
        (
            {"coefs": [np.ones(4), np.ones((3, 2))]},
            r"coefs\[0\] must have 2 dimensions",
        ),
        ({"coefs": [[["a"]], [[1]]]}, r"coefs\[0\] must hold numbers"),
        ({"intercepts": [[0, 0, np.nan], [0, 0]]}, "NaN"),
        ({"intercepts": [[0, 0, 1e300], [0, 0]], "precision": "float32"}, "float32"),
        ({"activation": "swoosh"}, "'activation' parameter"),
        ({"activation": ["relu", "tanh"]}, "names 2 layers"),
        ({"hidden_layer_sizes": 9}, "hidden_layer_sizes"),
        ({"loss": "hinge"}, "'loss' parameter"),
        ({"loss": "quantile", "quantile": (0.1, 0.5, 0.9)}, "3 quantiles need"),
        ({"classes": ["a", "b", "c"]}, "3 classes need as many outputs, got 2"),
        ({"classes": ["a", "a"]}, "1 classes need one output|twice"),
        ({"classes": ["a"]}, "1 classes need one output"),
        ({"classes": ["a", "b"], "loss": "squared_error"}, "2 classes need one output"),
        ({"classes": [["a", "b"], ["c"]]}, "3 classes need as many outputs"),
        ({"classes": [1, 2], "multilabel": True}, "numbers of their columns"),
        ({"classes": [1.5, None]}, "missing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        from_weights(**{**ARRAYS, **change})


# ------------------------------------------------------------------- pickles and skops


def kinds():
    yield fitted(BPClassifier(3), NAMES)
    yield fitted(BPRegressor(hidden_layer_sizes=3, early_stopping=True), X[:, 0])
    model = BPClassifier(3, random_state=0)
    yield model.partial_fit(X, CODES > 0, classes=[False, True])
    model = fitted(BPRegressor(hidden_layer_sizes=3, solver="sgd"), X)
    with pytest.raises(cbp.estimators.DivergenceError):
        model.set_params(learning_rate_init=1e9, activation="identity").fit(X, X)
    yield model


def test_a_pickle_names_no_class_of_the_package_but_the_estimator():
    for model in kinds():
        content = pickle.dumps(model, protocol=4)
        names = set(re.findall(rb"cbp\.[\w.]+|cbp\._[\w.]+", content))
        assert names <= {b"cbp.estimators"}, names
        twin = pickle.loads(content)
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
        assert str(twin.diagnose()) == str(model.diagnose())


def test_a_pickle_of_a_newer_version_is_a_clear_error():
    state = fitted(BPClassifier(3), NAMES).__getstate__()
    assert state["_format"] == FORMAT and state["_cbp_version"] == cbp.__version__
    newer = {**state, "_format": FORMAT + 1, "_cbp_version": "9.1.0", "what": 1}
    says = rf"newer version of cbp \(9\.1\.0\), in format {FORMAT + 1}.*Update cbp"
    with pytest.raises(ValueError, match=says):
        BPClassifier().__setstate__(newer)


def test_skops_needs_the_two_estimators_only(tmp_path):
    io = pytest.importorskip("skops.io")
    trusted = ["cbp.estimators.BPClassifier", "cbp.estimators.BPRegressor"]
    for model in kinds():
        pipeline = make_pipeline(StandardScaler(), model)
        pipeline[0].fit(X)
        io.dump(pipeline, tmp_path / "pipeline.skops")
        asked = io.get_untrusted_types(file=tmp_path / "pipeline.skops")
        assert asked == [f"cbp.estimators.{type(model).__name__}"]
        twin = io.load(tmp_path / "pipeline.skops", trusted=trusted)
        np.testing.assert_array_equal(twin.predict(X), pipeline.predict(X))
        assert str(twin[-1].diagnose()) == str(model.diagnose())
        if model._partially_fitted:
            np.testing.assert_array_equal(
                twin[-1].partial_fit(X, CODES > 0)._theta,
                model.partial_fit(X, CODES > 0)._theta,
            )
