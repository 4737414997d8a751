"""Networks as ONNX: labels and probabilities of onnxruntime are those of predict."""

import importlib
import sys

import numpy as np
import pytest
from fits import fitted
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import cbp
from cbp import BPClassifier, BPRegressor, onnx_export
from cbp._catalog import ACTIVATIONS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
CLOSE = {"float32": 2e-6, "float64": 1e-14}

RNG = np.random.RandomState(0)
X = 2 * RNG.randn(10_000, 6)
SCORES = X @ RNG.randn(6, 3)
SOME = slice(0, 400)


def run(made, X):
    """The outputs of onnxruntime by their names."""
    full = made.graph.output[0].name != "output_label"  # it knows no maps
    onnx.checker.check_model(made, full_check=full)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


def classifier(y, dtype="float64", **parameters):
    chosen = {"hidden_layer_sizes": (16, 8), "max_iter": 5, "random_state": 0}
    model = BPClassifier(**chosen | parameters, precision=dtype)
    return fitted(model, X[SOME], y[SOME])


def regressor(y, dtype="float64", **parameters):
    chosen = {"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0}
    model = BPRegressor(**chosen | parameters, precision=dtype)
    return fitted(model, X[SOME], y[SOME])


def assert_labels(got, model, rows):
    """Equal but where the two best classes are as good as equally probable."""
    expected = model.predict(rows)
    assert got.shape == expected.shape
    odd = np.flatnonzero((got != expected).reshape(len(rows), -1).any(axis=1))
    if len(odd):
        z = np.sort(model.decision_function(rows[odd]).reshape(len(odd), -1), axis=1)
        gap = z[:, -1] - z[:, -2] if z.shape[1] > 1 else np.abs(z[:, 0])
        assert (gap <= 1e-5 * np.abs(z).max(axis=1)).all()


def check(model, dtype, made=None):
    rows = X.astype(dtype)
    got = run(made or cbp.to_onnx(model), rows)
    assert list(got) == ["label", "probabilities"]
    expected = model.predict_proba(rows)
    pairs = [(got["probabilities"], expected)]
    if isinstance(expected, list):
        pairs = list(zip(got["probabilities"], expected, strict=True))
    for p, q in pairs:
        assert p.dtype == q.dtype == dtype and p.shape == q.shape
        assert np.abs(p - q).max() <= CLOSE[dtype]
    if not isinstance(expected, list):
        assert_labels(got["label"], model, rows)
    return got


@every_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_gives_the_probabilities_of_the_estimator(activation, dtype):
    check(classifier(SCORES.argmax(1), dtype, activation=activation), dtype)


TWO = (SCORES[:, 0] > 0).astype(int)
TARGETS = {
    "two classes": (TWO, {}),
    "focal loss": (TWO, {"focal_gamma": 2.0, "label_smoothing": 0.1}),
    "one class": (np.zeros(len(X), int), {}),
    "squared error": (SCORES.argmax(1), {"loss": "squared_error"}),
    "two classes, squared": (TWO + 4, {"loss": "squared_error"}),
    "strings": (np.array(["no", "é", "yes"])[SCORES.argmax(1)], {}),
    "two strings": (np.array(["no", "yes"], object)[TWO], {}),
    "booleans": (TWO > 0, {}),
    "floats": (SCORES.argmax(1) / 1.0, {}),
    "multilabel": ((SCORES > 0).astype(int), {}),
}


@every_dtype
@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_labels_gives_those_of_the_estimator(kind, dtype):
    y, parameters = TARGETS[kind]
    model = classifier(y, dtype, activation=("tanh", "relu"), **parameters)
    got = check(model, dtype)
    if y.dtype.kind in "biuf":
        assert got["label"].dtype == (np.int64 if y.ndim == 2 else y.dtype)


@every_dtype
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_columns_of_labels_are_a_matrix_and_a_sequence_of_probabilities(loss, dtype):
    y = np.column_stack([SCORES.argmax(1), (SCORES[:, :2] > 0).sum(1) + 5, TWO * 0])
    model = classifier(y, dtype, loss=loss)
    got = check(model, dtype)
    assert (got["label"] == model.predict(X.astype(dtype))).mean() > 0.9999
    words = np.array([["a", "b", "c"]] * len(X))[np.arange(len(X)), SCORES.argmax(1)]
    model = classifier(np.column_stack([words, words]), dtype)
    assert (
        run(cbp.to_onnx(model), X[:9].astype(dtype))["label"]
        == model.predict(X[:9].astype(dtype))
    ).all()


def test_columns_of_several_types_are_refused_by_name():
    y = np.empty((len(X), 2), object)
    y[:, 0], y[:, 1] = SCORES.argmax(1), np.array(["no", "yes"])[TWO]
    with pytest.raises(ValueError, match="columns of labels have several types"):
        cbp.to_onnx(classifier(y))


LOSSES = {
    "squared_error": {},
    "absolute_error": {},
    "huber": {},
    "quantile": {"quantile": (0.1, 0.5, 0.9)},
    "poisson": {},
    "gamma": {},
    "tweedie": {},
}


@every_dtype
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_a_regressor_gives_its_predictions(loss, dtype):
    y = np.log1p(np.abs(SCORES[:, 0])) + 0.1
    model = regressor(y, dtype, loss=loss, **LOSSES[loss])
    rows = X.astype(dtype)
    got = run(cbp.to_onnx(model), rows)
    assert list(got) == ["variable"] and got["variable"].dtype == dtype
    expected = model.predict(rows).reshape(len(rows), -1)
    assert got["variable"].shape == expected.shape
    error = np.abs(got["variable"] - expected) / np.maximum(1, np.abs(expected))
    assert error.max() <= CLOSE[dtype]


@pytest.mark.parametrize("layers", [(), (1,), (3, 40, 2)], ids=str)
def test_any_number_of_layers_and_outputs(layers):
    model = regressor(SCORES, hidden_layer_sizes=layers)
    got = run(cbp.to_onnx(model), X)["variable"]
    np.testing.assert_allclose(got, model.predict(X), rtol=0, atol=1e-13)


def test_far_rows_are_no_nan():
    for activation in ACTIVATIONS:
        for loss in ("log_loss", "squared_error"):
            model = classifier(SCORES.argmax(1), activation=activation, loss=loss)
            got = run(cbp.to_onnx(model), 1e6 * X[:50])
            p = model.predict_proba(1e6 * X[:50])
            np.testing.assert_allclose(got["probabilities"], p, rtol=0, atol=1e-9)


@every_dtype
def test_zipmap_gives_a_map_for_each_row(dtype):
    for y in (SCORES.argmax(1) + 2, np.array(["no", "é", "yes"])[SCORES.argmax(1)]):
        model = classifier(y, dtype)
        rows = X[:20].astype(dtype)
        got = run(cbp.to_onnx(model, zipmap=True), rows)
        assert list(got) == ["output_label", "output_probability"]
        assert got["output_label"].tolist() == model.predict(rows).tolist()
        maps, expected = got["output_probability"], model.predict_proba(rows)
        for row, p in zip(maps, expected, strict=True):
            assert set(row) == set(model.classes_.tolist())
            found = [row[label] for label in model.classes_.tolist()]
            np.testing.assert_allclose(found, p, atol=2e-6)
    for model in (classifier((SCORES > 0).astype(int)), regressor(SCORES[:, 0])):
        with pytest.raises(ValueError, match="zipmap=True needs a classifier"):
            cbp.to_onnx(model, zipmap=True)


# ---- skl2onnx


@every_dtype
@pytest.mark.parametrize("kind", TARGETS)
def test_a_whole_pipeline_converts(kind, dtype):
    pytest.importorskip("skl2onnx")
    y, parameters = TARGETS[kind]
    chosen = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    net = BPClassifier(**chosen | parameters, precision=dtype)
    scaler = MinMaxScaler() if dtype == "float32" else StandardScaler()
    model = fitted(make_pipeline(scaler, net), X[SOME].astype(dtype), y[SOME])
    rows = X.astype(dtype)
    got = run(cbp.to_onnx(model), rows)
    assert list(got) == ["label", "probabilities"]
    p = model.predict_proba(rows)
    assert got["probabilities"].dtype == dtype
    # The scaler of skl2onnx rounds otherwise than scikit-learn's.
    atol = 2e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(got["probabilities"], p, rtol=0, atol=atol)
    labels = model.predict(rows)
    assert (got["label"] == labels).mean() > 0.999


@every_dtype
def test_a_pipeline_of_a_regressor_converts(dtype):
    pytest.importorskip("skl2onnx")
    net = BPRegressor(hidden_layer_sizes=(8,), max_iter=5, precision=dtype)
    columns = make_column_transformer((StandardScaler(), [0, 1]), (MinMaxScaler(), [3]))
    model = fitted(make_pipeline(columns, net), X[SOME].astype(dtype), SCORES[SOME])
    rows = X.astype(dtype)
    got = run(cbp.to_onnx(model), rows)
    assert list(got) == ["variable"]
    atol = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got["variable"], model.predict(rows), rtol=0, atol=atol)


@every_dtype
def test_the_best_model_of_a_search_converts_in_its_own_type(dtype):
    pytest.importorskip("skl2onnx")
    net = BPClassifier((8,), max_iter=3, precision=dtype)
    search = GridSearchCV(make_pipeline(MinMaxScaler(), net), {}, cv=2)
    check(fitted(search, X[SOME].astype(dtype), TWO[SOME]).best_estimator_[-1], dtype)
    got = run(cbp.to_onnx(search), X.astype(dtype))
    p = search.predict_proba(X.astype(dtype))
    np.testing.assert_allclose(got["probabilities"], p, rtol=0, atol=1e-5)


def test_skl2onnx_knows_the_estimators_once_they_are_registered():
    skl2onnx = pytest.importorskip("skl2onnx")
    cbp.onnx_export.register()
    model = classifier(SCORES.argmax(1), "float32")
    made = skl2onnx.to_onnx(model, X[:1].astype("f4"), options={"zipmap": False})
    check(model, "float32", made)
    y = np.column_stack([SCORES.argmax(1), SCORES.argmax(1)])
    with pytest.raises(ValueError, match="several columns of labels"):
        cbp.to_onnx(
            fitted(make_pipeline(StandardScaler(), classifier(y)), X[SOME], y[SOME])
        )


# ---- refusals


def test_a_missing_package_names_the_extra(monkeypatch):
    model = classifier(SCORES.argmax(1))
    pipeline = fitted(make_pipeline(StandardScaler(), model), X[SOME], TWO[SOME])
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r'pip install "cbp-learn\[onnx\]"'):
        cbp.to_onnx(pipeline)
    cbp.to_onnx(model)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'needs the package onnx; .*\[onnx\]"'):
        cbp.to_onnx(model)
    importlib.reload(onnx_export)  # which needs neither


def test_what_cannot_be_exported_is_refused(monkeypatch):
    with pytest.raises(NotFittedError):
        cbp.to_onnx(BPClassifier())
    pytest.importorskip("skl2onnx")
    with pytest.raises(NotFittedError):
        cbp.to_onnx(make_pipeline(StandardScaler(), BPClassifier()))
    for other in (BPClassifier, "model", None):
        with pytest.raises(TypeError, match="a fitted estimator"):
            cbp.to_onnx(other)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="no more than 2 GiB"):
        cbp.to_onnx(classifier(SCORES.argmax(1)))
