"""Given rows beside those of training: what is named, and that usual rows are not."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler

from cbp._given_rows import (
    COLUMNS,
    NOT_SCALED,
    REFITTED,
    SHIFTED,
    Seen,
    compare_rows,
    kept_columns,
)

SETS = ["iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud"]


def rows_of(name):
    scaled = {"scaled": False} if name == "diabetes" else {}
    return getattr(datasets, f"load_{name}")(**scaled).data


@pytest.mark.parametrize("name", SETS)
def test_random_splits_are_not_named(name):
    X = rows_of(name)
    for seed in range(12):
        for size in (5, 20, 50, 0.25):
            if size > len(X) // 2:
                continue
            train, given = train_test_split(X, test_size=size, random_state=seed)
            scaler = StandardScaler().fit(train)
            for change in (np.asarray, scaler.transform, np.float32):
                assert compare_rows(Seen.of(change(train)), change(given)).kind == ""


@pytest.mark.parametrize("name", SETS[1:4])
@pytest.mark.parametrize("n", [60, 20])
def test_forgotten_and_refitted_scalers_are_named(name, n):
    train, given = train_test_split(rows_of(name), test_size=n, random_state=0)
    scaler = StandardScaler().fit(train)
    seen = Seen.of(scaler.transform(train))
    if n == 60:
        assert compare_rows(seen, given).kind == NOT_SCALED
        assert compare_rows(Seen.of(train), scaler.transform(given)).kind == NOT_SCALED
    for dtype in (np.float64, np.float32):
        refitted = StandardScaler().fit_transform(given.astype(dtype))
        assert compare_rows(seen, refitted).kind == REFITTED


def test_rows_of_training_themselves_are_not_called_refitted():
    """Nor are more rows than these, which the scaler may have seen."""
    X = StandardScaler().fit_transform(rows_of("wine"))
    assert compare_rows(Seen.of(X), X).kind == ""
    assert compare_rows(Seen.of(X[:100]), X).kind == ""


def test_columns_of_two_values_tell_nothing_of_a_scaler():
    """A balanced design has mean 0 and spread 1 by itself."""
    X = np.repeat([[-1.0, 1.0, -1.0], [1.0, -1.0, -1.0]], 50, axis=0)
    assert compare_rows(Seen.of(np.tile(X, (3, 1))), X).kind == ""


def test_some_columns_that_lie_elsewhere_are_listed():
    rng = np.random.RandomState(0)
    train, given = rng.standard_normal((500, 20)), rng.standard_normal((100, 20))
    given[:, [3, 4, 11, 17]] += np.array([5, 100, 9, 7])
    comparison = compare_rows(Seen.of(train), given)
    assert comparison.kind == SHIFTED
    assert comparison.columns == (4, 11, 17)
    assert comparison.n_columns == 4
    assert comparison.evidence["mean"] == pytest.approx(100, abs=1)
    assert comparison.evidence["seen_spread"] == pytest.approx(1, abs=0.1)


def test_constant_column_is_named_only_if_most_rows_differ():
    rng = np.random.RandomState(0)
    train, given = rng.standard_normal((500, 5)), rng.standard_normal((100, 5))
    train[:, 2] = given[:, 2] = 1e6 + 0.1
    assert compare_rows(Seen.of(train), given).kind == ""
    given[:10, 2] = 0
    assert compare_rows(Seen.of(train), given).kind == ""
    given[:, 2] = 0
    assert compare_rows(Seen.of(train), given).columns == (2,)


def test_rare_categories_and_heavy_tails_are_not_named():
    rng = np.random.RandomState(0)
    for _ in range(10):
        kinds = OneHotEncoder(sparse_output=False).fit_transform(
            rng.zipf(1.5, (3000, 1)).clip(max=300)
        )
        money, tails = rng.lognormal(0, 2, (3000, 5)), rng.standard_t(2, (3000, 5))
        X = np.hstack([money, tails, rng.standard_cauchy((3000, 1)), kinds])
        for n in (5, 20, 100, 1000):
            assert compare_rows(Seen.of(X[n:]), X[:n]).kind == ""


def test_words_that_are_rare_are_not_named():
    rng = np.random.RandomState(0)
    shares = 0.5 / np.arange(1, 3001)
    for _ in range(3):
        X = sparse.csr_array((rng.random_sample((2000, 3000)) < shares) * 0.3)
        for n in (5, 20, 50, 200, 1000):
            for dense in (False, True):
                seen, given = Seen.of(X[n:]), X[:n].toarray() if dense else X[:n]
                assert compare_rows(seen, given).kind == ""


def test_sparse_rows_are_compared_like_dense_ones():
    X = rows_of("digits")
    train, given = sparse.csr_array(X[:1000]), sparse.csr_array(X[1000:])
    scaler = MaxAbsScaler().fit(train)
    seen = Seen.of(scaler.transform(train))
    np.testing.assert_array_equal(seen.means, Seen.of(X[:1000] / scaler.scale_).means)
    assert compare_rows(seen, scaler.transform(given)).kind == ""
    assert compare_rows(seen, given).kind == NOT_SCALED


@pytest.mark.parametrize("n", [1, 64, COLUMNS, COLUMNS + 1, 50_000])
def test_a_bounded_number_of_columns_is_kept(n):
    columns = kept_columns(n)
    assert len(columns) <= COLUMNS
    assert len(Seen.of(np.zeros((3, n))).means) == len(columns)
    assert compare_rows(Seen.of(np.zeros((9, n))), np.zeros((9, n))).kind == ""


def test_few_rows_and_rows_of_another_width_tell_nothing():
    X = np.arange(40.0).reshape(10, 4)
    assert compare_rows(Seen.of(X), X[:4] + 1000).kind == ""
    assert compare_rows(Seen.of(X), X[:, :2]).kind == ""
    assert compare_rows(Seen.of(X), X[:5] + 1000).kind == NOT_SCALED
