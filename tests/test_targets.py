"""Targets: read exactly, or refused by what is wrong with them."""

import datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_iris
from sklearn.utils.class_weight import compute_sample_weight

from cbp import BPClassifier, BPRegressor
from cbp._targets import index_of, read_labels, read_numbers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
LARGE = 2**53  # the first whole number whose successor float64 does not know


def classifier(**options):
    options = {"max_iter": 200, "learning_rate_init": 0.02, "random_state": 0} | options
    return BPClassifier((8,), **options)


# ------------------------------------------------------------------------ whole numbers


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_labels_that_float64_cannot_tell_apart_are_classes_of_their_own(dtype):
    labels = (y + LARGE).astype(dtype)
    model = classifier().fit(X, labels)
    assert model.classes_.tolist() == [LARGE, LARGE + 1, LARGE + 2]
    assert model.classes_.dtype == dtype
    assert (model.predict(X) == labels).mean() > 0.9
    expected = classifier().fit(X, y)
    np.testing.assert_array_equal(model._theta, expected._theta)


def test_labels_of_another_whole_type_are_compared_exactly():
    signed, unsigned = (y + LARGE).astype(np.int64), (y + LARGE).astype(np.uint64)
    one, two = classifier(), classifier()
    one.partial_fit(X, signed, classes=np.unique(signed))
    two.partial_fit(X, unsigned, classes=np.unique(unsigned))
    np.testing.assert_array_equal(one._theta, two._theta)
    with pytest.raises(ValueError, match="classes not in"):
        two.partial_fit(X, unsigned + np.uint64(1))
    with pytest.raises(ValueError, match="not the same as on last call"):
        two.partial_fit(X, unsigned, classes=np.unique(unsigned) + np.uint64(1))
    one.set_params(warm_start=True)
    one.fit(X, unsigned)
    with pytest.raises(ValueError, match="same classes"):
        one.fit(X, unsigned + np.uint64(1))


@pytest.mark.parametrize("dtype", ["Int64", "UInt64", "int64[pyarrow]"])
def test_nullable_whole_numbers_are_read_exactly(dtype):
    pd = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    labels = pd.Series((y + LARGE).astype(np.int64)).astype(dtype)
    model = classifier().fit(X, labels)
    assert model.classes_.tolist() == [LARGE, LARGE + 1, LARGE + 2]
    np.testing.assert_array_equal(model._theta, classifier().fit(X, y)._theta)
    BPRegressor(max_iter=1).fit(X, labels)


def test_polars_labels_are_read_exactly():
    pl = pytest.importorskip("polars")
    model = classifier().fit(X, pl.Series((y + LARGE).astype(np.int64)))
    np.testing.assert_array_equal(model._theta, classifier().fit(X, y)._theta)
    with pytest.raises(ValueError, match=r"y has missing values \(1\)"):
        classifier().fit(X, pl.Series([None, *y[1:].tolist()]))


def test_arrow_arrays_are_read():
    pa = pytest.importorskip("pyarrow")
    for labels in (y, np.array(["a", "b", "c"])[y], y > 0):
        for make in (pa.array, lambda v: pa.chunked_array([v[:50], v[50:]])):
            model = classifier(max_iter=2).fit(X, make(labels))
            assert model.classes_.tolist() == np.unique(labels).tolist()
    with pytest.raises(ValueError, match="missing values"):
        classifier().fit(X, pa.array([None, *y[1:].tolist()]))


def test_index_of_finds_places_and_marks_strangers():
    for classes in (
        np.array([2, 5, 7]),
        np.array([2, 5, 7], np.uint8),
        np.array([2.0, 5.0, 7.0]),
        np.array(["2", "5", "7"]),
        np.array(["2", "5", "7"], object),
    ):
        stranger = np.array([1, 3, 9]).astype(classes.dtype)
        mixed = np.concatenate([classes[[2, 0, 1, 1]], stranger])
        assert index_of(classes, mixed).tolist() == [2, 0, 1, 1, -1, -1, -1]
        assert index_of(classes, mixed).dtype == np.int32
    assert index_of(np.array([0, 1]), np.array([1.0, 0.5])).tolist() == [1, -1]
    assert index_of(np.array([0, 1]), np.array([True, False])).tolist() == [1, 0]
    assert index_of(np.array([0, 1]), np.array(["0", "1"])).tolist() == [-1, -1]


# ----------------------------------------------------------------------- missing values


def missing():
    pd = pytest.importorskip("pandas")
    dates = np.array(["2020-01-01"] * 150, "datetime64[D]")
    dates[3] = "NaT"
    holes = [1.0] * 150
    holes[3] = None
    words = ["a", "b"] * 75
    words[3] = None
    masked = np.ma.MaskedArray(y, mask=np.arange(150) == 3)
    return {
        "None among floats": holes,
        "None among words": words,
        "NaN among words": np.array([*words[:3], np.nan, *words[4:]], object),
        "NA": pd.Series([0, 1, 0, pd.NA, *([1] * 146)], dtype="Int64"),
        "NA in a column": pd.DataFrame({"y": [0, 1, 0, pd.NA, *([1] * 146)]}),
        "None in a series": pd.Series(words),
        "NA among strings": pd.Series(words, dtype="string"),
        "a category": pd.Series(words, dtype="category"),
        "NaT": dates,
        "NaT in a series": pd.Series(dates),
        "masked": masked,
    }


@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
@pytest.mark.parametrize("name", missing())
def test_missing_targets_are_named_with_their_row_and_dtype(estimator, name):
    with pytest.raises(ValueError, match=r"y has missing values \(1, .*dtype.*row 3"):
        estimator().fit(X, missing()[name])


def test_nan_among_floats_is_named_as_scikit_learn_does():
    holes = y.astype(float)
    holes[3] = np.nan
    for estimator in (BPClassifier, BPRegressor):
        with pytest.raises(ValueError, match="Input y contains NaN"):
            estimator().fit(X, holes)


# ------------------------------------------------------------- what is no number, label


@pytest.mark.parametrize(
    "target",
    [
        np.array(["1.5"] * 150),
        ["1.5"] * 150,
        np.array([b"1"] * 150),
        np.array(["2020-01-01"] * 150, "datetime64[s]"),
        np.array([1] * 150, "timedelta64[s]"),
        [datetime.date(2020, 1, 1)] * 150,
        np.array(["1.5"] * 150, object),
        [object()] * 150,
    ],
    ids=["U", "list", "S", "dates", "timedelta", "date", "O", "object"],
)
def test_a_regressor_wants_numbers_and_names_what_it_got(target):
    with pytest.raises(ValueError, match=r"y must hold numbers, got .*(dtype|type)"):
        BPRegressor().fit(X, target)


@pytest.mark.parametrize("make", [int, float, Decimal, Fraction, np.float32, bool])
def test_numbers_of_any_type_are_targets(make):
    target = [make(v) for v in y.tolist()]
    for form in (target, np.array(target, object)):
        one = BPRegressor(max_iter=2, random_state=0).fit(X, form)
        two = BPRegressor(max_iter=2, random_state=0).fit(X, np.array(target, float))
        np.testing.assert_array_equal(one._theta, two._theta)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", 1, *["a"] * 148],
        np.array(["a", 1, *["a"] * 148], object),
        ("b", True) * 75,
    ],
)
def test_strings_mixed_with_numbers_are_named(labels):
    with pytest.raises(
        ValueError, match=r"y mixes labels of several types \((int|bool), "
    ):
        BPClassifier().fit(X, labels)


def test_whole_numbers_of_dtype_object_are_labels():
    model = classifier(max_iter=3).fit(X, y.astype(object))
    np.testing.assert_array_equal(model._theta, classifier(max_iter=3).fit(X, y)._theta)


def test_what_scikit_learn_refuses_is_left_to_it():
    assert read_labels(None) is None and read_numbers(None) is None
    matrix = sp.csr_matrix(np.eye(3))
    assert read_labels(matrix) is matrix
    ragged = [[1, 2], [3]]
    assert read_labels(ragged) is ragged
    with pytest.raises(ValueError, match="Complex data not supported"):
        BPRegressor().fit(X, y + 1j)


def test_whole_numbers_beyond_64_bits_are_named():
    for estimator in (BPClassifier, BPRegressor):
        huge = [10**400, 1] * 75
        with pytest.raises(ValueError, match="y holds .*(64 bits|float64)"):
            estimator().fit(X, huge)
        with pytest.raises(ValueError, match="X holds .* too large"):
            estimator().fit([[10**400]] * 150, y)
        for weight in (10**400, [10**400] * 150):
            with pytest.raises(ValueError, match="sample_weight holds .* too large"):
                estimator().fit(X, y, sample_weight=weight)


def test_numbers_beyond_float32_are_said_to_be_so():
    with pytest.raises(ValueError, match="too large for float32"):
        BPRegressor().fit(X.astype(np.float32), np.full(150, 1e300))


# ------------------------------------------------------------------- weights of classes

WEIGHTS = {0: 0.5, 2: 3.0}
MULTILABEL = np.stack([y == 0, y == 1, y < 2], axis=1).astype(int)


def same(a, b):
    np.testing.assert_array_equal(a._theta, b._theta)
    assert a.loss_curve_ == b.loss_curve_


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("class_weight", [WEIGHTS, "balanced"])
def test_weights_of_classes_are_weights_of_rows(solver, early_stopping, class_weight):
    some = slice(0, 120)  # classes of 50, 50 and 20 rows
    options = {"solver": solver, "early_stopping": early_stopping, "max_iter": 5}
    w = np.linspace(0.5, 1.5, 120)
    rows = compute_sample_weight(class_weight, y[some])
    model = classifier(class_weight=class_weight, **options)
    same(
        model.fit(X[some], y[some], w),
        classifier(**options).fit(X[some], y[some], w * rows),
    )
    same(
        model.fit(X[some], y[some]),
        classifier(**options).fit(X[some], y[some], rows),
    )


def test_weights_of_classes_go_by_labels_as_they_are_given():
    names = np.array(["a", "b", "c"])[y]
    model = classifier(class_weight={"a": 0.5, "c": 3.0}, max_iter=5).fit(X, names)
    same(model, classifier(class_weight=WEIGHTS, max_iter=5).fit(X, y))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(
    "class_weight", ["balanced", [{0: 1, 1: 2}, {0: 1, 1: 0.5}, {0: 3, 1: 1}]]
)
def test_weights_of_labels_are_multiplied(form, class_weight):
    rows = compute_sample_weight(class_weight, MULTILABEL)
    model = classifier(class_weight=class_weight, max_iter=5)
    model.fit(X, form(MULTILABEL))
    same(model, classifier(max_iter=5).fit(X, MULTILABEL, rows))


def test_a_validation_set_has_the_weights_of_the_classes_that_are_trained():
    balanced = compute_sample_weight("balanced", y[:120])
    weights = {label: balanced[y[:120] == label][0] for label in range(3)}
    given = {"X_val": X[100:], "y_val": y[100:]}
    models = [
        classifier(class_weight=class_weight, max_iter=5).fit(X[:120], y[:120], **given)
        for class_weight in ("balanced", weights)
    ]
    np.testing.assert_allclose(
        models[0].validation_loss_curve_, models[1].validation_loss_curve_, rtol=1e-12
    )


def test_partial_fit_takes_weights_of_classes_but_cannot_balance_them():
    model = classifier(class_weight=WEIGHTS, max_iter=2)
    plain = classifier(max_iter=2)
    rows = compute_sample_weight(WEIGHTS, y)
    for part in (slice(0, 150), slice(0, 1), slice(140, 141), slice(0, 1)):
        model.partial_fit(X[part], y[part], classes=[0, 1, 2])
        plain.partial_fit(X[part], y[part], rows[part], classes=[0, 1, 2])
    same(model, plain)
    model.set_params(class_weight="balanced")
    with pytest.raises(ValueError, match="class_weight='balanced'.*partial_fit"):
        model.partial_fit(X, y)


def test_weights_for_another_kind_of_targets_are_refused():
    with pytest.raises(ValueError, match="(?i)class_weight|class weight"):
        classifier(class_weight=[WEIGHTS]).fit(X, MULTILABEL)
    with pytest.raises(ValueError):
        classifier(class_weight={0: -1.0}).fit(X, y)


def test_weights_of_classes_may_name_a_class_that_a_part_of_the_data_lacks():
    without = y > 0
    model = classifier(class_weight=WEIGHTS, max_iter=3)
    given = {"X_val": X[without], "y_val": y[without]}
    model.fit(X, y, **given)
    rows = compute_sample_weight(WEIGHTS, y)
    plain = classifier(max_iter=3)
    plain.fit(X, y, rows, **given, sample_weight_val=rows[without])
    same(model, plain)
    assert model.validation_loss_curve_ == plain.validation_loss_curve_
    for part in (y == 1, without, y == 2):
        model.partial_fit(X[part], y[part])
        plain.partial_fit(X[part], y[part], rows[part])
    same(model, plain)


def test_weights_of_classes_know_labels_of_digits_as_strings_and_as_numbers():
    digits = np.array(["1", "2", "10"])[y]
    model = classifier(max_iter=3).fit(X, digits, compute_sample_weight(WEIGHTS, y))
    for weights in ({"1": 0.5, "10": 3.0}, {1: 0.5, 10: 3.0}):
        same(model, classifier(class_weight=weights, max_iter=3).fit(X, digits))


def test_a_weight_for_no_class_is_named_and_not_the_classes_without_one():
    for weights in ({7: 2}, {0: 1, 7: 2}):
        with pytest.raises(ValueError, match="a weight for 7, but the .* 0, 1, 2"):
            classifier(class_weight=weights).fit(X, y)
    with pytest.raises(ValueError, match="for column 1 of y has a weight for 'a'"):
        classifier(class_weight=[{}, {"a": 1}, {}]).fit(X, MULTILABEL)
    # As in scikit-learn: one dict may serve rows that lack a class.
    classifier(class_weight={0: 1, 1: 1, 2: 1, 7: 2}, max_iter=1).fit(X, y)


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf, None, "2", 10**400])
def test_bad_weights_of_classes_are_called_class_weight(weight):
    with pytest.raises(ValueError, match=r"^class_weight must .* for class 1\.$"):
        classifier(class_weight={1: weight}).fit(X, y)
    with pytest.raises(ValueError, match=r"^class_weight for column 2 of y must "):
        classifier(class_weight=[{}, {}, {1: weight}]).fit(X, MULTILABEL)
    with pytest.raises(ValueError, match="^class_weight is zero in every row"):
        classifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, y)


def test_a_list_of_weights_is_refused_for_one_column():
    with pytest.raises(ValueError, match="y has one column, so that class_weight"):
        classifier(class_weight=[WEIGHTS]).fit(X, y)
