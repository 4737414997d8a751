"""BPClassifier and BPRegressor as estimators: inputs, attributes, state, company.

What scikit-learn's own checks cover is in test_estimator_checks.py, agreement with its
runs in test_same_run.py, its mended faults in test_differences.py, errors in
test_errors.py.
"""

import copy
import inspect
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import reference
import scipy.sparse as sp
import sklearn
from child import run_python
from sklearn.base import clone
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    load_iris,
    make_multilabel_classification,
)
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import check_is_fitted

import cbp
from cbp import BPClassifier, BPRegressor, _base, _fitting, _solvers
from cbp._catalog import LABEL_LOSSES, LOSSES, OUTPUT_OF

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
X = scale(X)
X_real, y_real = load_diabetes(return_X_y=True)
X_real, y_real = scale(X_real), scale(y_real)
BOTH = pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
CLASSIFIERS_LOSSES = pytest.mark.parametrize("loss", sorted(LABEL_LOSSES))
SOLVERS = pytest.mark.parametrize("solver", _solvers.SOLVERS)
PREDICTIONS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def predictions(model, data):
    return {
        name: getattr(model, name)(data) for name in PREDICTIONS if hasattr(model, name)
    }


def assert_same_predictions(one, other, data, other_data=None):
    expected = predictions(one, data)
    got = predictions(other, data if other_data is None else other_data)
    assert set(got) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


# ------------------------------------------------------------------------ the interface


@pytest.mark.parametrize(
    "ours, theirs", [(BPClassifier, MLPClassifier), (BPRegressor, MLPRegressor)]
)
def test_parameters_have_scikit_learns_names_order_and_defaults(ours, theirs):
    ours, theirs = (
        inspect.signature(estimator.__init__).parameters for estimator in (ours, theirs)
    )
    new = set(ours) - set(theirs) | {"loss"}
    keywords = [p for name, p in ours.items() if name in new - {"loss"}]
    assert {p.kind for p in keywords} == {inspect.Parameter.KEYWORD_ONLY}
    shared = [name for name in theirs if name != "loss"]
    for name in shared:
        assert ours[name].default == theirs[name].default
        assert ours[name].kind == theirs[name].kind
    assert [name for name in ours if name not in new] == shared
    assert ours["n_jobs"].default is None and ours["precision"].default is None


@BOTH
def test_every_parameter_and_attribute_is_in_the_docstring(estimator):
    text = inspect.cleandoc(estimator.__doc__)  # Python 3.13 dedents by itself
    for name in estimator().get_params():
        assert f"\n{name} : " in text
    model = estimator(max_iter=2).fit(X, y)
    for name in {*vars(model._fitted), "coefs_", "intercepts_"}:
        if name.endswith("_") and not name.startswith("_"):
            assert f"\n{name} : " in text
    for name in dir(estimator):
        if not name.startswith("_") and callable(getattr(estimator, name)):
            assert getattr(estimator, name).__doc__


@BOTH
def test_public_methods_are_annotated(estimator):
    names = ["__init__", "fit", "partial_fit", *PREDICTIONS]
    for name in names:
        method = inspect.getattr_static(estimator, name, None)
        if method is None:
            continue
        method = getattr(method, "fn", method)
        signature = inspect.signature(method)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in list(signature.parameters.values())[1:]:
            assert parameter.annotation is not inspect.Parameter.empty


def test_the_package_exports_the_estimators_and_its_version():
    names = {"BPClassifier", "BPRegressor", "NetworkFeatures", "__version__"}
    names |= {"backpropagate", "check_gradient", "diagnose"}
    names |= {"save", "load", "ModelFileError", "from_weights"}
    assert set(cbp.__all__) == names
    assert all(hasattr(cbp, name) for name in names)
    assert isinstance(cbp.__version__, str)


def test_importing_cbp_adds_little_to_importing_sklearn():
    """Its own modules and some of sklearn.utils; nothing of what may take long."""
    code = """if True:
        import sys, sklearn.base
        before = set(sys.modules)
        import cbp
        print(*set(sys.modules) - before, sep="\\n")
    """
    added = run_python(code).split()
    ours = ("cbp", "_cython", "sklearn.utils")
    foreign = {name.split(".")[0] for name in added if not name.startswith(ours)}
    assert "cbp" in added
    assert foreign <= sys.stdlib_module_names


@BOTH
@SOLVERS
@pytest.mark.parametrize("early_stopping", [False, True])
def test_fitted_attributes_are_complete(estimator, solver, early_stopping):
    model = estimator(hidden_layer_sizes=(5, 6), solver=solver, max_iter=7)
    model.set_params(early_stopping=early_stopping).fit(X, y)
    n_outputs = 3 if estimator is BPClassifier else 1
    assert [W.shape for W in model.coefs_] == [(4, 5), (5, 6), (6, n_outputs)]
    assert [b.shape for b in model.intercepts_] == [(5,), (6,), (n_outputs,)]
    assert model.n_layers_ == 4
    assert model.n_outputs_ == n_outputs
    assert model.n_features_in_ == 4
    assert 0 < model.n_iter_ <= 7
    assert len(model.loss_curve_) == model.n_iter_
    assert model.loss_ == model.loss_curve_[-1]
    kind = {BPClassifier: "softmax", BPRegressor: "identity"}[estimator]
    assert model.out_activation_ == kind
    rows = 135 if early_stopping else 150
    assert model.t_ == (0 if solver == "lbfgs" else rows * model.n_iter_)
    if early_stopping:
        assert len(model.validation_scores_) == model.n_iter_
        assert model.best_validation_score_ == max(model.validation_scores_)
        assert model.best_loss_ is None
    else:
        assert model.validation_scores_ is None
        assert model.best_validation_score_ is None
        assert model.best_loss_ == min(model.loss_curve_)


def test_outputs_follow_the_kind_of_target():
    _, labels = make_multilabel_classification(150, 5, n_classes=4, random_state=0)
    cases = [
        (BPClassifier(), y, "softmax", 3),
        (BPClassifier(), y == 1, "logistic", 1),
        (BPClassifier(), labels, "logistic", 4),
        (BPClassifier(loss="squared_error"), y, "logistic", 3),
        (BPClassifier(loss="squared_error"), y == 1, "logistic", 1),
        (BPRegressor(), y, "identity", 1),
        (BPRegressor(), np.c_[y, y], "identity", 2),
        (BPRegressor("poisson"), y, "exp", 1),
    ]
    for model, target, output, n_outputs in cases:
        model.set_params(max_iter=2).fit(X, target)
        assert model.out_activation_ == output
        assert model.n_outputs_ == n_outputs
        shape = np.shape(target) if n_outputs > 1 and np.ndim(target) == 2 else (150,)
        assert model.predict(X).shape == shape
        if isinstance(model, BPClassifier):
            columns = max(n_outputs, 2)
            assert model.predict_proba(X).shape == (150, columns)
            assert model.predict_log_proba(X).shape == (150, columns)
            decision = (150,) if n_outputs == 1 else (150, n_outputs)
            assert model.decision_function(X).shape == decision


# ----------------------------------------------------------------------------- learning


@SOLVERS
@CLASSIFIERS_LOSSES
@pytest.mark.parametrize("activation", [*reference.ACTIVATIONS, ("tanh", "relu")])
def test_classifiers_learn(solver, loss, activation):
    model = BPClassifier((20, 10), activation, loss=loss, solver=solver)
    if solver in reference.OPTIMIZERS:
        model.set_params(learning_rate_init=reference.OPTIMIZERS[solver].rate)
    model.set_params(max_iter=600, tol=1e-7)
    model.set_params(batch_size=30, random_state=0)
    assert model.fit(X, y).score(X, y) > 0.94


@SOLVERS
@pytest.mark.parametrize("loss", OUTPUT_OF)
def test_regressors_learn(solver, loss):
    any_sign = LOSSES[OUTPUT_OF[loss], loss].least_target < 0
    target = y_real if any_sign else np.exp(y_real)
    model = BPRegressor(loss, (20,), "tanh", solver=solver, random_state=0)
    model.set_params(learning_rate_init=0.01, max_iter=200)
    predicted = model.fit(X_real, target).predict(X_real)
    assert r2_score(target, predicted) > 0.4


def test_multi_output_regression_learns_every_output():
    targets = np.c_[y_real, -2 * y_real, X_real[:, 0]]
    model = BPRegressor(solver="lbfgs", max_iter=200, random_state=0)
    model.fit(X_real, targets)
    scores = r2_score(targets, model.predict(X_real), multioutput="raw_values")
    assert (scores > 0.5).all()


def test_multilabel_targets_are_learned_dense_and_sparse():
    data, labels = make_multilabel_classification(200, random_state=0)
    data = scale(data)
    options = {"solver": "lbfgs", "max_iter": 100, "random_state": 0}
    dense = BPClassifier(**options).fit(data, labels)
    assert dense.score(data, labels) > 0.95
    assert set(np.unique(dense.predict(data))) == {0, 1}
    np.testing.assert_array_equal(dense.classes_, np.arange(5))
    sparse = BPClassifier(**options).fit(data, sp.csr_matrix(labels))
    np.testing.assert_array_equal(sparse.predict_proba(data), dense.predict_proba(data))


@pytest.mark.parametrize(
    "names",
    [
        np.array(["setosa", "versicolor", "virginica"]),
        np.array(["setosa", "versicolor", "virginica"], dtype=object),
        np.array([-5, 3, 1000]),
        np.array([0.0, 1.0, 7.0]),
    ],
    ids=["strings", "objects", "integers", "floats"],
)
def test_labels_of_every_kind_come_back(names):
    plain = BPClassifier(max_iter=20, random_state=0).fit(X, y)
    named = BPClassifier(max_iter=20, random_state=0).fit(X, names[y])
    np.testing.assert_array_equal(named.classes_, names)
    np.testing.assert_array_equal(named.predict(X), names[plain.predict(X)])
    np.testing.assert_array_equal(named.predict_proba(X), plain.predict_proba(X))


def test_boolean_and_column_labels_are_taken():
    model = BPClassifier(max_iter=5, random_state=0).fit(X, y == 1)
    assert model.predict(X).dtype == bool
    with pytest.warns(sklearn.exceptions.DataConversionWarning):
        column = BPClassifier(max_iter=5, random_state=0).fit(X, (y == 1)[:, None])
    assert_same_predictions(model, column, X)


def test_sigmoid_is_another_name_of_logistic():
    runs = [
        BPClassifier((5, 4), activation, max_iter=5, random_state=0).fit(X, y)
        for activation in ("logistic", "sigmoid", ("sigmoid", "logistic"))
    ]
    for run in runs[1:]:
        assert_same_predictions(runs[0], run, X)


@pytest.mark.parametrize(
    "make", [list, tuple, np.array], ids=["list", "tuple", "array"]
)
def test_sizes_and_activations_may_be_any_sequence(make):
    model = BPClassifier(make([5, 4]), make(["tanh", "relu"]), max_iter=3).fit(X, y)
    assert [W.shape for W in model.coefs_] == [(4, 5), (5, 4), (4, 3)]
    clone(model).fit(X, y)
    same = BPClassifier((5, 4), "relu", max_iter=3, random_state=0).fit(X, y)
    each = BPClassifier((5, 4), ["relu"] * 2, max_iter=3, random_state=0).fit(X, y)
    assert_same_predictions(same, each, X)


@BOTH
@SOLVERS
def test_no_hidden_layer_is_a_linear_model(estimator, solver):
    model = estimator(hidden_layer_sizes=(), solver=solver, max_iter=20).fit(X, y)
    assert len(model.coefs_) == 1
    z = X @ model.coefs_[0] + model.intercepts_[0]
    if estimator is BPClassifier:
        np.testing.assert_allclose(model.decision_function(X), z, rtol=1e-9)
    else:
        np.testing.assert_allclose(model.predict(X), z[:, 0], rtol=1e-9)
    estimator(hidden_layer_sizes=(), activation=(), max_iter=2).fit(X, y)


@BOTH
def test_weights_are_drawn_within_the_bound_of_each_layers_activation(estimator):
    model = estimator(
        hidden_layer_sizes=(200, 300), activation=("logistic", "tanh"), random_state=0
    )
    classes = {"classes": [0, 1, 2]} if estimator is BPClassifier else {}
    model.partial_fit(X, y, sample_weight=0, **classes)  # draws, does not train
    for W, b, factor in zip(model.coefs_, model.intercepts_, (2, 6, 6), strict=True):
        bound = np.sqrt(factor / sum(W.shape))
        assert 0.97 * bound < np.abs(W).max() <= bound
        assert np.abs(b).max() <= bound


# ------------------------------------------------------------------------------- input


@BOTH
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_give_the_run_of_the_array_and_name_the_features(
    estimator, library
):
    frames = pytest.importorskip(library)
    if library == "polars" and not hasattr(frames.DataFrame, "__dataframe__"):
        if parse_version(sklearn.__version__) < parse_version("1.7"):
            pytest.skip("this scikit-learn cannot see the names in this polars")
    columns = {name: X[:, i] for i, name in enumerate(["a", "b", "c", "d"])}
    frame, series = frames.DataFrame(columns), frames.Series(y)
    plain = estimator(max_iter=5, random_state=0).fit(X, y)
    framed = estimator(max_iter=5, random_state=0).fit(frame, series)
    assert_same_predictions(plain, framed, X, frame)
    assert list(framed.feature_names_in_) == ["a", "b", "c", "d"]
    assert not hasattr(plain, "feature_names_in_")
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        framed.predict(X)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        plain.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        framed.predict(frames.DataFrame({f"{name}_": v for name, v in columns.items()}))


@BOTH
def test_a_frame_with_early_stopping_warns_of_nothing(estimator):
    pd = pytest.importorskip("pandas")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        estimator(early_stopping=True, max_iter=5).fit(
            pd.DataFrame(X).add_prefix("c"), y
        )


@BOTH
@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(">f8"),
        lambda a: a.tolist(),
        lambda a: a.astype(np.longdouble),
        lambda a: a.astype(object),
        sp.csr_matrix,
        sp.csc_matrix,
        sp.coo_matrix,
        sp.csr_array,
    ],
    ids=["F", "strided", "byteorder", "list", "longdouble", "object"]
    + ["csr", "csc", "coo", "csr_array"],
)
def test_every_form_of_the_same_numbers_gives_the_same_bits(estimator, convert):
    data = np.where(np.abs(X) < 0.5, 0, X)
    plain = estimator(max_iter=5, random_state=0).fit(data, y)
    other = estimator(max_iter=5, random_state=0).fit(convert(data), y)
    assert_same_predictions(plain, other, data)
    assert_same_predictions(plain, plain, data, convert(data))


def test_unaligned_arrays_are_taken():
    buffer = np.zeros(X.nbytes + 1, np.uint8)
    unaligned = buffer[1:].view(np.float64).reshape(X.shape)
    unaligned[...] = X
    assert not unaligned.flags.aligned
    plain = BPClassifier(max_iter=5, random_state=0).fit(X, y)
    other = BPClassifier(max_iter=5, random_state=0).fit(unaligned, y)
    assert_same_predictions(plain, other, X, unaligned)


@BOTH
def test_a_sparse_matrix_of_the_caller_is_left_alone(estimator):
    matrix = sp.csr_matrix(np.where(np.abs(X) < 0.5, 0, X))
    for row in range(0, 150, 3):  # unsort some rows
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        matrix.indices[span] = matrix.indices[span][::-1].copy()
        matrix.data[span] = matrix.data[span][::-1].copy()
    matrix.has_sorted_indices = False
    indices, data = matrix.indices.copy(), matrix.data.copy()
    model = estimator(max_iter=5, random_state=0).fit(matrix, y)
    model.predict(matrix)
    np.testing.assert_array_equal(matrix.indices, indices)
    np.testing.assert_array_equal(matrix.data, data)
    dense = estimator(max_iter=5, random_state=0).fit(matrix.toarray(), y)
    assert_same_predictions(model, dense, matrix.toarray())


def test_sparse_entries_stored_twice_are_added():
    parts = sp.coo_matrix(X)
    twice = sp.csr_matrix(
        (
            np.repeat(parts.data / 2, 2),
            np.repeat(parts.col, 2),
            2 * sp.csr_matrix(X).indptr,
        ),
        shape=X.shape,
    )
    plain = BPClassifier(max_iter=5, random_state=0).fit(X, y)
    other = BPClassifier(max_iter=5, random_state=0).fit(twice, y)
    assert_same_predictions(plain, other, X, twice)


@BOTH
def test_the_data_are_not_copied_or_changed(estimator, monkeypatch):
    seen = []
    make_data = _fitting.Data

    def spy(network, data, target, weight):
        seen.append((data, target))
        return make_data(network, data, target, weight)

    monkeypatch.setattr(_fitting, "Data", spy)
    before = X.copy()
    for early_stopping in (False, True):
        estimator(max_iter=2, early_stopping=early_stopping).fit(X, y)
        data, target = seen[-1]
        assert np.shares_memory(data, X)
        if estimator is BPClassifier:
            assert target.dtype == np.int32 and target.shape == (150,)
    np.testing.assert_array_equal(X, before)


@BOTH
def test_read_only_data_are_taken(estimator):
    data, target, weight = X.copy(), y.copy(), np.ones(len(y))
    for array in (data, target, weight):
        array.flags.writeable = False
    model = estimator(max_iter=2, early_stopping=True)
    model.fit(data, target, sample_weight=weight).predict(data)


class MustBeReadOnly(BPClassifier):
    """Refuses data that are not a read-only memory map, as joblib's workers get."""

    def fit(self, X, y, sample_weight=None):
        assert isinstance(X, np.memmap) and not X.flags.writeable
        return super().fit(X, y, sample_weight)


@pytest.mark.thread_unsafe(reason="joblib's processes serve one thread at a time")
def test_a_fit_in_another_process_takes_joblibs_memory_map():
    data, target = np.tile(X, (400, 1)), np.tile(y, 400)
    with joblib.Parallel(n_jobs=2, max_nbytes=1000) as parallel:
        fits = parallel(
            joblib.delayed(MustBeReadOnly((4,), max_iter=1, random_state=0).fit)(
                data, target
            )
            for _ in range(2)
        )
    here = BPClassifier((4,), max_iter=1, random_state=0).fit(data, target)
    for model in fits:
        np.testing.assert_array_equal(model._theta, here._theta)


@pytest.mark.thread_unsafe(reason="joblib's processes serve one thread at a time")
def test_a_grid_search_runs_in_processes():
    model = BPClassifier((4,), max_iter=1)
    search = GridSearchCV(model, {"alpha": [1e-4, 1e-3]}, cv=2, n_jobs=2)
    search.set_params(error_score="raise").fit(X, y)


@BOTH
def test_a_constant_weight_changes_only_the_penalty(estimator):
    one = estimator(max_iter=5, random_state=0, alpha=0).fit(X, y)
    two = estimator(max_iter=5, random_state=0, alpha=0).fit(X, y, sample_weight=2.0)
    for a, b in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


# ------------------------------------------------------------------------ float32, type


@BOTH
@SOLVERS
def test_float32_stays_float32_and_all_else_is_float64(estimator, solver):
    model = estimator(solver=solver, max_iter=3)
    for dtype, expected in (
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float64),
        (np.int64, np.float64),
        (np.int8, np.float64),
    ):
        data = (10 * X).astype(dtype)
        model.fit(data, y)
        for array in model.coefs_ + model.intercepts_:
            assert array.dtype == expected
        for name, result in predictions(model, data).items():
            if name != "predict" or estimator is BPRegressor:
                assert result.dtype == expected


@BOTH
def test_precision_decides_the_type_whatever_the_input(estimator):
    for precision in ("float32", "float64"):
        for dtype in (np.float32, np.float64, np.int64):
            model = estimator(max_iter=3, precision=precision)
            model.fit((10 * X).astype(dtype), y)
            assert model.coefs_[0].dtype == precision
    single = estimator(max_iter=20, precision="float32", random_state=0).fit(X, y)
    follows = estimator(max_iter=20, random_state=0).fit(X.astype(np.float32), y)
    assert_same_predictions(single, follows, X.astype(np.float32))


@BOTH
def test_predictions_have_the_wider_type_of_model_and_input(estimator):
    single, double = X.astype(np.float32), X
    types = (np.float32, np.float64)
    for dtype in types:
        model = estimator(max_iter=3).fit(X.astype(dtype), y)
        for data in (single, double, sp.csr_matrix(single), sp.csr_matrix(double)):
            for name, result in predictions(model, data).items():
                if name != "predict" or estimator is BPRegressor:
                    assert result.dtype == np.promote_types(dtype, data.dtype)
    model = estimator(max_iter=3, precision="float32").fit(X, y)
    rounded = predictions(model, single)
    for name, result in predictions(model, single.astype(float)).items():
        np.testing.assert_allclose(result, rounded[name], rtol=1e-6)


@BOTH
def test_a_model_that_is_trained_further_keeps_its_type(estimator):
    model = estimator(max_iter=3, warm_start=True).fit(X.astype(np.float32), y)
    assert model.fit(X, y).coefs_[0].dtype == np.float32
    assert model.partial_fit(X, y).coefs_[0].dtype == np.float32
    model.set_params(precision="float64")
    assert model.partial_fit(X, y).coefs_[0].dtype == np.float64


# ------------------------------------------------------------------------------ threads


@BOTH
@SOLVERS
@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
def test_the_bits_are_the_same_for_every_n_jobs(estimator, solver, make):
    digits, labels = load_digits(return_X_y=True)
    data, labels = make(digits[:600] / 16), labels[:600]
    runs = [
        estimator(
            hidden_layer_sizes=(60, 30),
            solver=solver,
            max_iter=4,
            n_jobs=n_jobs,
            random_state=0,
        ).fit(data, labels)
        for n_jobs in (None, 1, 2, 3, 4, -1)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run._theta, runs[0]._theta)
        assert run.loss_curve_ == runs[0].loss_curve_


def test_n_jobs_is_resolved_by_joblib(monkeypatch):
    seen = []
    settings = _fitting.Settings

    def spy(**options):
        seen.append(options["n_threads"])
        return settings(**options)

    monkeypatch.setattr(_fitting, "Settings", spy)
    BPClassifier(max_iter=1).fit(X, y)
    BPClassifier(max_iter=1, n_jobs=3).fit(X, y)
    BPClassifier(max_iter=1, n_jobs=-1).fit(X, y)
    with joblib.parallel_config("threading", n_jobs=2):
        BPClassifier(max_iter=1).fit(X, y)
    assert seen == [1, 3, joblib.cpu_count(), 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@CLASSIFIERS_LOSSES
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(kind, loss, dtype):
    target = {"binary": y == 1, "multiclass": y, "multilabel": np.eye(3, dtype=int)[y]}
    data = X.astype(dtype)
    model = BPClassifier((17,), loss=loss, max_iter=20, random_state=0)
    model.fit(data, target[kind])
    whole = predictions(model, data)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 14), slice(9, 140), [5, 3, 99]):
        for name, result in predictions(model, data[rows]).items():
            np.testing.assert_array_equal(result, whole[name][rows])
    strided = predictions(model, np.asfortranarray(data)[::2])
    for name, result in strided.items():
        np.testing.assert_array_equal(result, whole[name][::2])


def test_one_model_predicts_in_many_threads_at_once():
    digits, labels = load_digits(return_X_y=True)
    model = BPClassifier((50,), max_iter=3, random_state=0).fit(digits, labels)
    expected = model.predict_proba(digits)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(model.predict_proba, [digits] * 40))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_many_threads_may_take_over_replaced_weights_at_once():
    model = BPClassifier((50,), max_iter=3, random_state=0).fit(X, y)
    new = [W + 0.1 for W in model.coefs_]
    fresh = copy.deepcopy(model)
    fresh.coefs_ = new
    expected = fresh.predict_proba(X)
    model.coefs_ = list(new)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(model.predict_proba, [X] * 40):
            np.testing.assert_array_equal(result, expected)


# ------------------------------------------------------------------------ the weights


@BOTH
def test_weights_are_views_of_one_vector(estimator):
    model = estimator(hidden_layer_sizes=(5, 6), max_iter=3).fit(X, y)
    flat = np.concatenate([a.ravel() for a in model.coefs_ + model.intercepts_])
    np.testing.assert_array_equal(model._theta, flat)
    for array in model.coefs_ + model.intercepts_:
        assert np.shares_memory(array, model._theta)


@BOTH
def test_weights_changed_in_place_or_replaced_are_used(estimator):
    model = estimator(hidden_layer_sizes=(5,), max_iter=3, random_state=0).fit(X, y)
    other = estimator(hidden_layer_sizes=(5,), max_iter=9, random_state=1).fit(X, y)
    for a, b in zip(
        model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True
    ):
        a[...] = b
    assert_same_predictions(model, other, X)
    third = estimator(hidden_layer_sizes=(5,), max_iter=9, random_state=2).fit(X, y)
    model.coefs_[0] = third.coefs_[0].tolist()
    model.coefs_[1] = np.asfortranarray(third.coefs_[1])
    model.intercepts_ = tuple(third.intercepts_)
    assert_same_predictions(model, third, X)
    assert model.coefs_[1].flags.c_contiguous, "a view of the vector again"
    model.coefs_[0] *= 2
    third.coefs_[0] *= 2
    assert_same_predictions(model, third, X)


@BOTH
def test_replaced_weights_are_where_training_goes_on(estimator):
    options = {"hidden_layer_sizes": (5,), "solver": "sgd", "momentum": 0.0}
    source = estimator(**options, max_iter=9, random_state=1).fit(X, y)
    for warm in (False, True):
        model = estimator(**options, max_iter=1, random_state=0, warm_start=warm)
        model.fit(X, y)
        model.coefs_ = [W.copy() for W in source.coefs_]
        model.intercepts_ = [b.copy() for b in source.intercepts_]
        expected = copy.deepcopy(source).set_params(random_state=0)
        expected.partial_fit(X, y)
        (model.fit if warm else model.partial_fit)(X, y)
        np.testing.assert_array_equal(model._theta, expected._theta)


@BOTH
def test_read_only_weights_predict_and_can_be_trained_further(estimator, tmp_path):
    model = estimator(hidden_layer_sizes=(300,), max_iter=3).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert not mapped._theta.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        mapped.coefs_[0][0, 0] = 1
    assert_same_predictions(model, mapped, X)
    mapped.partial_fit(X, y)
    assert mapped._theta.flags.writeable


# --------------------------------------------------- warm start, partial fit, patience


@BOTH
@SOLVERS
def test_warm_start_goes_on_where_fit_ended(estimator, solver):
    model = estimator(solver=solver, warm_start=True, max_iter=10, random_state=0)
    first = model.fit(X, y).loss_curve_
    length, weights = len(first), model.coefs_[0].copy()
    model.fit(X, y)
    assert model.loss_curve_[:length] == first
    assert len(model.loss_curve_) == length + model.n_iter_
    assert model.loss_curve_[length] < first[0]
    assert len(first) == length, "the former list is not the new one"
    assert not np.array_equal(model.coefs_[0], weights)
    cold = estimator(solver=solver, max_iter=10, random_state=0)
    assert cold.fit(X, y).loss_curve_ == cold.fit(X, y).loss_curve_ == first


@BOTH
def test_warm_start_may_switch_solver_and_early_stopping(estimator):
    model = estimator(warm_start=True, max_iter=5, random_state=0).fit(X, y)
    for options in (
        {"solver": "lbfgs"},
        {"solver": "sgd", "early_stopping": True},
        {"solver": "lbfgs"},
        {"solver": "adam", "early_stopping": False},
    ):
        model.set_params(**options).fit(X, y)
        assert (model.validation_scores_ is None) == (not model.early_stopping)
    assert np.isfinite(model.best_loss_)


def test_partial_fit_is_one_epoch_per_call():
    model = BPClassifier(random_state=0)
    for calls in range(1, 4):
        assert model.partial_fit(X, y, classes=[0, 1, 2]) is model
        assert model.n_iter_ == 1
        assert model.t_ == calls * 150
        assert len(model.loss_curve_) == calls
    model.partial_fit(X[:50], y[:50])
    assert model.t_ == 500


def test_partial_fit_knows_classes_before_it_has_seen_them():
    model = BPClassifier(random_state=0, learning_rate_init=0.05)
    model.partial_fit(X[:50], y[:50], classes=[0, 1, 2, 9])
    assert model.predict_proba(X).shape == (150, 4)
    for _ in range(60):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, 1, 2]),
        np.array([3, 1, 2], np.uint8),
        np.array([-1.0, 0.0, 7.0]),
        np.array(["c", "a", "bb"]),
        np.array([True, False]),
        ["c", "a", "bb"],
        np.array(["c", "a", "bb"], object),
    ],
    ids=lambda labels: str(getattr(labels, "dtype", "list")),
)
def test_partial_fit_takes_a_label_the_same_way_early_and_late(labels):
    """The first call looks closely at y, later ones only for what they do not know."""
    y_all = np.resize(labels, 60) if isinstance(labels, np.ndarray) else labels * 20
    models = [BPClassifier(random_state=0) for _ in range(2)]
    for model in models:
        model.partial_fit(X[:60], y_all, classes=np.unique(labels))
    models[1]._known_index = lambda y: None  # always the close look
    for part in (slice(0, 1), slice(1, 2), slice(0, 60)):
        for model in models:
            model.partial_fit(X[:60][part], y_all[part])
        np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])
    unknown = "b" if isinstance(labels[0], str) else labels[0] + 10
    with pytest.raises(ValueError):
        models[0].partial_fit(X[:2], np.array([y_all[0], unknown]))
    with pytest.raises(ValueError):
        models[0].partial_fit(X[:2], [[0, 1], [1, 0]])


def test_partial_fit_of_two_declared_classes_sees_one_at_a_time():
    model = BPClassifier(random_state=0).partial_fit(
        X[:9], ["a"] * 9, classes=["a", "b"]
    )
    model.partial_fit(X[60:70], ["b"] * 10)
    assert model.predict_proba(X).shape == (150, 2)
    assert list(model.classes_) == ["a", "b"]


def test_partial_fit_of_multilabel_targets():
    data, labels = make_multilabel_classification(200, random_state=0)
    model = BPClassifier(learning_rate_init=0.01, random_state=0)
    for _ in range(100):
        model.partial_fit(scale(data), labels, classes=range(5))
    assert model.score(scale(data), labels) > 0.9


def test_sparse_multilabel_targets_make_sparse_predictions():
    data, labels = make_multilabel_classification(random_state=0)
    dense = BPClassifier(max_iter=20, random_state=0).fit(data, labels)
    model = BPClassifier(max_iter=20, random_state=0).fit(data, sp.csr_matrix(labels))
    peer = MLPClassifier(max_iter=20, random_state=0).fit(data, sp.csr_matrix(labels))
    predicted, expected = model.predict(data), peer.predict(data)
    assert type(predicted) is type(expected) and predicted.dtype == expected.dtype
    np.testing.assert_array_equal(predicted.toarray(), dense.predict(data))
    assert model.score(data, labels) == dense.score(data, labels)
    assert sp.issparse(pickle.loads(pickle.dumps(model)).predict(data))
    assert not sp.issparse(model.fit(data, labels).predict(data))


def test_fit_after_partial_fit_begins_anew():
    model = BPClassifier(random_state=0, max_iter=5)
    model.partial_fit(X, y, classes=[0, 1, 2, 3]).fit(X, y)
    assert_same_predictions(
        model, BPClassifier(random_state=0, max_iter=5).fit(X, y), X
    )
    assert list(model.classes_) == [0, 1, 2]


@pytest.mark.parametrize("solver", _solvers.STOCHASTIC)
def test_partial_fit_after_loading_goes_on_with_the_saved_optimizer(solver):
    model = BPClassifier(solver=solver, random_state=0)
    model.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y)
    loaded = pickle.loads(pickle.dumps(model))
    for each in (model, loaded):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(loaded._theta, model._theta)


def test_another_solver_begins_with_an_optimizer_of_its_own():
    model = BPClassifier(solver="adam", max_iter=3, random_state=0).fit(X, y)
    model.set_params(solver="sgd").partial_fit(X, y)
    assert model._optimizer.solver == "sgd"
    model.set_params(solver="lbfgs").fit(X, y)
    assert model._optimizer is None
    model.set_params(solver="adam").partial_fit(X, y)
    assert model._optimizer.solver == "adam"


def test_the_optimizers_learning_rate_is_public_as_in_scikit_learn():
    model = BPClassifier(solver="sgd", learning_rate="invscaling", max_iter=4)
    model.set_params(learning_rate_init=0.1, power_t=0.25).fit(X, y)
    expected = 0.1 / (4 * 150 + 1) ** 0.25
    assert model._optimizer.learning_rate == pytest.approx(expected, rel=1e-12)


def epochs_until_patience_runs_out(scores, tol, patience):
    best, count = -np.inf, 0
    for epoch, score in enumerate(scores, 1):
        count = count + 1 if score < best + tol else 0
        best = max(best, score)
        if count > patience:
            return epoch
    return None


@BOTH
@SOLVERS
def test_early_stopping_ends_training_by_the_score(estimator, solver):
    model = estimator(solver=solver, early_stopping=True, n_iter_no_change=3, tol=1e-3)
    model.set_params(max_iter=500, learning_rate_init=0.01, random_state=0).fit(X, y)
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) < 500
    assert model.n_iter_ == epochs_until_patience_runs_out(scores, 1e-3, 3)
    assert model._no_improvement_count == 4


@BOTH
@SOLVERS
def test_verbose_prints_loss_score_and_the_reason_to_stop(estimator, solver, capsys):
    model = estimator(solver=solver, early_stopping=True, n_iter_no_change=2, tol=1e-3)
    model.set_params(verbose=True, learning_rate_init=0.01, random_state=0).fit(X, y)
    text = capsys.readouterr().out
    assert text.count("Iteration") == text.count("Validation score:") == model.n_iter_
    assert f"Iteration 1, loss = {model.loss_curve_[0]:.8f}\n" in text
    assert "Validation score did not improve more than tol=0.001" in text
    model.set_params(verbose=False).fit(X, y)
    assert capsys.readouterr().out == ""


def test_verbose_changes_no_bit():
    quiet = BPClassifier(max_iter=5, random_state=0).fit(X, y)
    loud = BPClassifier(max_iter=5, random_state=0, verbose=True).fit(X, y)
    np.testing.assert_array_equal(quiet._theta, loud._theta)
    assert quiet.loss_curve_ == loud.loss_curve_


# -------------------------------------------------------------------------------- state


@BOTH
@SOLVERS
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickles_predict_the_same_bits(estimator, solver, protocol):
    model = estimator(hidden_layer_sizes=(5, 6), solver=solver, max_iter=5)
    model.set_params(activation=("tanh", "relu"), early_stopping=True).fit(X, y)
    loaded = pickle.loads(pickle.dumps(model, protocol))
    assert_same_predictions(model, loaded, X)
    for array in loaded.coefs_ + loaded.intercepts_:
        assert np.shares_memory(array, loaded._theta)
    for name in vars(model._fitted):
        if name.endswith("_") and name not in ("coefs_", "intercepts_"):
            value, kept = getattr(model, name), getattr(loaded, name)
            if name == "gradient_flow_":
                value, kept = vars(value), vars(kept)
            np.testing.assert_equal(kept, value)
    loaded.coefs_[0][...] = 0
    assert not np.array_equal(loaded.coefs_[0], model.coefs_[0])


@BOTH
def test_an_unfitted_model_can_be_pickled(estimator):
    loaded = pickle.loads(pickle.dumps(estimator(alpha=0.5)))
    assert loaded.alpha == 0.5
    loaded.set_params(max_iter=2).fit(X, y)


@BOTH
def test_a_pickle_holds_what_the_user_put_in(estimator):
    model = estimator(max_iter=3).fit(X, y)
    model.coefs_[0] = np.ones_like(model.coefs_[0])
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.coefs_[0], 1)
    assert_same_predictions(model, loaded, X)


@BOTH
def test_a_pickle_of_a_later_format_is_refused(estimator):
    state = estimator(max_iter=2).fit(X, y).__getstate__()
    assert state["_format"] == _base.FORMAT
    with pytest.raises(ValueError, match=r"newer version of cbp.*format 99.*Update"):
        estimator().__setstate__({**state, "_format": 99})
    estimator().__setstate__(state)


@BOTH
def test_a_pickle_from_a_machine_of_the_other_byte_order_is_read(estimator):
    model = estimator(max_iter=3).fit(X, y)
    state = model.__getstate__()
    theta = state["_theta"]
    swapped = theta.astype(theta.dtype.newbyteorder())
    assert swapped.dtype != theta.dtype
    loaded = estimator()
    loaded.__setstate__({**state, "_theta": swapped})
    assert loaded._theta.dtype.isnative
    assert_same_predictions(model, loaded, X)


@BOTH
def test_deepcopy_and_clone(estimator):
    model = estimator(
        hidden_layer_sizes=[5, 6], activation=["tanh", "relu"], max_iter=3
    )
    model.fit(X, y)
    twin = copy.deepcopy(model)
    assert_same_predictions(model, twin, X)
    twin.coefs_[0][...] = 0
    assert model.coefs_[0].any()
    fresh = clone(model)
    assert not hasattr(fresh, "coefs_")
    assert fresh.get_params() == model.get_params()


@BOTH
def test_fitted_is_what_fit_made(estimator):
    model = estimator(max_iter=2)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(model)
    check_is_fitted(model.fit(X, y))


@BOTH
def test_predicting_changes_no_attribute(estimator):
    model = estimator(max_iter=2).fit(X, y)
    before, fitted = dict(vars(model)), dict(vars(model._fitted))
    predictions(model, X)
    for old, new in ((before, vars(model)), (fitted, vars(model._fitted))):
        assert old.keys() == new.keys()
        assert all(old[name] is new[name] for name in old)


@BOTH
def test_two_fits_with_one_seed_are_equal_and_without_differ(estimator):
    one, two = (estimator(max_iter=3, random_state=5).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one._theta, two._theta)
    one, two = (estimator(max_iter=3).fit(X, y) for _ in range(2))
    assert not np.array_equal(one._theta, two._theta)
    state = np.random.RandomState(0)
    one, two = (estimator(max_iter=3, random_state=state).fit(X, y) for _ in range(2))
    assert not np.array_equal(one._theta, two._theta)


@pytest.mark.thread_unsafe(reason="seeds the generator of the process")
@BOTH
def test_the_global_random_state_is_used_under_None_as_in_scikit_learn(estimator):
    np.random.seed(3)
    one = estimator(max_iter=3).fit(X, y)
    two = estimator(max_iter=3, random_state=3).fit(X, y)
    np.testing.assert_array_equal(one._theta, two._theta)


# ------------------------------------------------------------------------------ company


def test_a_grid_search_over_activations_in_a_pipeline():
    search = GridSearchCV(
        make_pipeline(
            StandardScaler(), BPClassifier((8, 8), max_iter=30, batch_size=10)
        ),
        {
            "bpclassifier__activation": ["relu", "sigmoid", ("tanh", "relu")],
            "bpclassifier__alpha": [1e-4, 1e-2],
        },
        cv=3,
        error_score="raise",
    ).fit(X, y)
    assert search.best_score_ > 0.5
    assert ("tanh", "relu") in list(
        search.cv_results_["param_bpclassifier__activation"]
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("c", [1e-30, 1e25])
def test_a_common_factor_of_the_weights_changes_nothing(precision, c):
    X, y = load_digits(return_X_y=True)
    model = BPClassifier((16,), alpha=0, precision=precision, max_iter=5)
    fits = [
        clone(model).set_params(random_state=0).fit(X / 16, y, np.full(len(y), weight))
        for weight in (1.0, c)
    ]
    curves = [fit.loss_curve_ for fit in fits]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_sample_weight_is_routed():
    weight = np.where(y == 2, 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = BPClassifier(max_iter=100, learning_rate_init=0.02, random_state=0)
        model.set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        scores = cross_val_score(model, X, y, cv=3, params={"sample_weight": weight})
        assert scores.min() > 0.9, "the class without weight does not count"
        model.set_partial_fit_request(sample_weight=True, classes=True)
        regressor = BPRegressor().set_fit_request(sample_weight=True)
        regressor.set_partial_fit_request(sample_weight=True)


def test_score_is_scikit_learns():
    weight = np.random.RandomState(0).uniform(size=150)
    model = BPClassifier(max_iter=20, random_state=0).fit(X, y)
    expected = accuracy_score(y, model.predict(X), sample_weight=weight)
    assert model.score(X, y, weight) == expected
    regressor = BPRegressor(max_iter=20, random_state=0).fit(X, y)
    expected = r2_score(y, regressor.predict(X), sample_weight=weight)
    assert regressor.score(X, y, weight) == expected


def test_the_loss_is_scikit_learns_log_loss_plus_the_penalty():
    model = BPClassifier(solver="lbfgs", max_iter=15, alpha=0.3, random_state=0)
    model.fit(X, y)
    penalty = 0.15 * sum((W**2).sum() for W in model.coefs_) / 150
    expected = log_loss(y, model.predict_proba(X)) + penalty
    assert model.loss_ == pytest.approx(expected, rel=1e-9)


def test_subclasses_work():
    class Mine(BPClassifier):
        def __init__(self, hidden_layer_sizes=(3,), *, max_iter=3):
            super().__init__(hidden_layer_sizes, max_iter=max_iter)

    model = Mine().fit(X, y)
    assert set(model.predict(X)) <= {0, 1, 2}
    assert clone(model).get_params() == {"hidden_layer_sizes": (3,), "max_iter": 3}
