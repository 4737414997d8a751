"""What is wrong with data is found where it was planted, and nowhere else."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor
from cbp._columns import NOTHING_SEEN, look_at
from cbp._divergence import DivergenceError

N = 2000
WORK = 1e12  # of a fit so long that all rows are looked at


def problem(classes=False, seed=0):
    """Columns of many kinds that no look should find fault with, and a target."""
    rng = np.random.RandomState(seed)
    X = np.column_stack(
        [
            rng.normal(size=(N, 4)),
            rng.lognormal(size=N),
            rng.random_sample(N).round(3),
            rng.randint(0, 5, N),
            np.eye(4)[rng.choice(4, N, p=(0.6, 0.3, 0.09, 0.01))],
            rng.poisson(0.2, N),
            np.where(rng.random_sample(N) < 0.8, 0, rng.exponential(size=N)),
        ]
    )
    y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.3 * rng.normal(size=N)
    return X, np.digitize(y, (-1.0, 0.5)) if classes else y


def look(X, y, dtype=np.float64, **more):
    """The look at X and y; y is labels if it is whole numbers."""
    y = np.asarray(y)
    if y.dtype.kind == "i":
        target, output = y.astype(np.int32), "softmax"
    else:
        target, output = y.reshape(len(y), -1).astype(dtype), "identity"
    X = X.astype(dtype) if sparse.issparse(X) else np.ascontiguousarray(X, dtype)
    more = {"work": WORK, "output": output} | more
    found = look_at(X, target, **more)
    assert len(pickle.dumps(found)) < 8192 + 2048
    assert pickle.loads(pickle.dumps(found)) == found
    return found


def kinds(found):
    return {fault.kind for fault in found.faults}


def with_column(X, x):
    return np.column_stack([X, x])


def constant(X, y, rng):
    return np.column_stack([X, np.full((N, 5), 3.0)]), y


def row_numbers(X, y, rng):
    return with_column(X, np.arange(N)), y


def random_ids(X, y, rng):
    return with_column(X, 10**6 + rng.permutation(5 * N)[:N]), y


def target_copied(X, y, rng):
    return with_column(X, 3.0 * y + 1), y


def target_with_noise(X, y, rng):
    return with_column(X, y + 0.01 * rng.normal(size=N)), y


def twice(X, y, rng):
    return np.vstack([X, X]), np.concatenate([y, y])


def missing_as_number(value, share):
    def plant(X, y, rng):
        X = X.copy()
        X[rng.random_sample(N) < share, 1] = value
        return X, y

    return plant


def three_rows(X, y, rng):
    X = X.copy()
    X[rng.choice(N, 3, replace=False), 2] = 1e3
    return X, y


PLANTED = [
    ("constant-columns", constant, None),
    ("id-column", row_numbers, 13),
    ("id-column", random_ids, 13),
    ("target-in-features", target_copied, 13),
    ("target-in-features", target_with_noise, 13),
    ("duplicate-rows", twice, None),
    ("sentinel-values", missing_as_number(-999, 0.05), 1),
    ("sentinel-values", missing_as_number(9999, 0.3), 1),
    ("outliers", three_rows, 2),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("kind", "plant", "column"), PLANTED)
def test_what_is_planted_in_columns_is_found(
    kind, plant, column, classes, scaled, dtype
):
    X, y = plant(*problem(classes), np.random.RandomState(1))
    if scaled:
        X = StandardScaler().fit_transform(X)
    found = look(X, y, dtype)
    if plant is constant and scaled:  # a column of zeros is still constant
        assert found.of(kind).evidence["n_nonzero"] == 0
    assert kinds(found) == {kind}
    assert column is None or found.of(kind).column == column


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("work", [0, 1e8, WORK])
@pytest.mark.parametrize("seed", range(5))
def test_ordinary_columns_have_no_faults(classes, work, seed):
    X, y = problem(classes, seed)
    for dtype in (np.float32, np.float64):
        assert look(X, y, dtype, work=work, batch_size=50).faults == ()
        scaled = StandardScaler().fit_transform(X)
        assert look(scaled, y, dtype, work=work).faults == ()


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
@pytest.mark.parametrize("work", [0, WORK])
def test_classes_of_toy_sets_have_no_faults(name, work):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    assert look(X, y, work=work).faults == ()
    assert look(StandardScaler().fit_transform(X), y, np.float32).faults == ()


@pytest.mark.parametrize("name", ["diabetes", "linnerud"])
def test_amounts_of_toy_sets_have_no_faults(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    assert look(X, y.astype(float)).faults == ()
    assert look(StandardScaler().fit_transform(X), y.astype(float)).faults == ()


def test_evidence_of_columns_is_in_plain_numbers():
    rng = np.random.RandomState(1)
    X, y = problem()
    evidence = look(*constant(X, y, rng)).of("constant-columns").evidence
    assert evidence["n_constant"] == evidence["n_nonzero"] == 5
    assert evidence["constant_length"] == pytest.approx(3 * 5**0.5)
    found = look(*missing_as_number(-999, 0.05)(X, y, rng)).of("sentinel-values")
    assert found.evidence["value"] == -999
    assert found.evidence["share"] == pytest.approx(0.05, abs=0.02)
    found = look(*three_rows(X, y, rng)).of("outliers")
    assert found.evidence["n_outliers"] == 3
    assert found.evidence["value"] == 1e3
    assert found.evidence["rest_spread"] < 0.1
    assert look(*twice(X, y, rng)).of("duplicate-rows").evidence["share"] == 0.5
    ordered = look(*row_numbers(X, y, rng)).of("id-column").evidence
    assert ordered["in_row_order"] and ordered["whole_numbers"]
    drawn = look(*random_ids(X, y, rng)).of("id-column").evidence
    assert not drawn["in_row_order"]
    for fault in look(*twice(X, y, rng)).faults:
        assert all(type(x) in (int, float) for x in fault.evidence.values())


def test_a_time_along_which_the_target_changes_is_no_id():
    X, y = problem()
    time = np.arange(N)
    assert look(with_column(X, time), y + time / 500).of("id-column") is None


@pytest.mark.parametrize("classes", [False, True])
def test_what_is_planted_in_the_fullest_columns_of_csr_is_found(classes):
    X, y = problem(classes)
    rng = np.random.RandomState(1)
    for kind, plant, column in PLANTED:
        if plant is not constant:
            found = look(sparse.csr_array(plant(X, y, rng)[0]), plant(X, y, rng)[1])
            assert kind in kinds(found)
            assert column is None or found.of(kind).column == column
    assert look(sparse.csr_array(X), y).faults == ()
    words = sparse.random_array((N, 5000), density=0.01, rng=0, format="csr")
    found = look(words, y)
    assert found.faults == ()


def amounts(kind, rng):
    X, y = problem()
    z = (y - y.mean()) / y.std()
    if kind == "outliers-in-target":
        y = y.copy()
        y[rng.choice(N, 3, replace=False)] = 1e3
    elif kind == "skewed-target":
        y = np.exp(1.5 * z)
    elif kind == "counts-as-targets":
        y = rng.poisson(np.exp(0.5 * z + 1)).astype(float)
    elif kind == "classes-as-targets":
        y = np.digitize(y, (-1.0, 0.5)).astype(float)
    return X, y


@pytest.mark.parametrize(
    "kind",
    [
        "outliers-in-target",
        "skewed-target",
        "counts-as-targets",
        "classes-as-targets",
    ],
)
def test_what_is_planted_in_targets_is_found(kind):
    X, y = amounts(kind, np.random.RandomState(1))
    for dtype in (np.float32, np.float64):
        assert kinds(look(X, y, dtype)) == {kind}
    both = look(X, np.column_stack([problem()[1], y]))
    assert kinds(both) == {kind} and both.of(kind).column == 1
    csr = look_at(X, sparse.csr_array(y[:, None]), work=WORK, output="identity")
    assert kinds(csr) == {kind}
    # Labels in a matrix are no amounts.
    assert look(X, y, output="logistic").faults == ()


@pytest.mark.parametrize("kind", ["outliers-in-target", "skewed-target"])
def test_scaled_targets_still_show_it(kind):
    X, y = amounts(kind, np.random.RandomState(1))
    found = look(X, (y - y.mean()) / y.std())
    assert kinds(found) == {kind}


def test_an_exponential_output_is_made_for_counts_and_tails():
    for kind in ("counts-as-targets", "skewed-target"):
        X, y = amounts(kind, np.random.RandomState(1))
        assert look(X, y, output="exp").faults == ()


def test_normal_exponential_and_heavy_tailed_columns_have_no_outliers():
    rng = np.random.RandomState(0)
    X = np.column_stack(
        [
            rng.normal(size=(N, 20)),
            rng.exponential(size=(N, 20)),
            rng.lognormal(0, 1, (N, 20)),
            rng.exponential(size=(N, 20)) ** 2,
        ]
    )
    assert look(X, rng.normal(size=N)).faults == ()


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("batch_size", [1, 32, 200])
def test_sorted_rows_are_found_where_their_order_counts(classes, batch_size):
    X, y = problem(classes)
    order = np.argsort(y)
    found = look(X[order], y[order], batch_size=batch_size)
    assert kinds(found) == {"row-order"}
    assert found.of("row-order").evidence["times_chance"] > 10
    assert look(X[order], y[order]).faults == ()
    assert look(X, y, batch_size=batch_size).faults == ()


def test_only_rows_that_are_trained_on_count():
    rng = np.random.RandomState(1)
    X, y = three_rows(*problem(), rng)
    sound = np.flatnonzero(np.abs(X[:, 2]) < 100)
    assert look(X, y, rows=rng.permutation(sound)).faults == ()
    weight = np.zeros(N)
    weight[sound] = 1
    assert look(X, y, sample_weight=weight).faults == ()
    assert look(X, y, sample_weight=np.zeros(N)) == NOTHING_SEEN


def test_what_is_looked_at_follows_what_the_fit_did():
    X, y = np.random.RandomState(0).normal(size=(20000, 10)), np.zeros(20000)
    short, longer, long = (look(X, y, work=work) for work in (0, 2.4e9, WORK))
    assert 64 <= short.n_rows < longer.n_rows < long.n_rows <= 4096
    assert short.n_all_rows == 0 and long.n_all_rows == 20000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_odd_data_raise_nothing(dtype):
    rng = np.random.RandomState(0)
    big = float(np.finfo(dtype).max)
    for n in (1, 2, 3, 5, 30, 400):
        for p in (1, 2, 70):
            numbers = rng.normal(size=(n, p))
            for X in (
                numbers,
                np.zeros((n, p)),
                rng.choice([-big, 0, big], (n, p)),
                numbers * (big / 10),
                np.arange(n * p).reshape(n, p),
            ):
                for y in (
                    rng.randint(0, 3, n),
                    np.zeros(n, int),
                    rng.choice([-big, 0, big], n),
                    numbers[:, 0] * (big / 10),
                    rng.poisson(2, (n, 7)).astype(float),
                    np.zeros(n),
                ):
                    for Z in (X, sparse.csr_array(X)):
                        look(Z, y, dtype, batch_size=2)


def test_a_fit_leaves_what_it_saw_and_partial_fit_does_not_look():
    X, y = row_numbers(*problem(classes=True), None)
    model = BPClassifier((8,), max_iter=3, random_state=0)
    with pytest.warns(match="converged"):
        model.fit(X, y)
    faults = pickle.loads(pickle.dumps(model))._fit_summary.faults
    assert faults.of("id-column").column == 13
    model = BPClassifier((8,), random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    assert model._fit_summary.faults == NOTHING_SEEN


def test_a_fit_that_diverged_has_looked():
    X, y = three_rows(*problem(), np.random.RandomState(1))
    model = BPRegressor(
        hidden_layer_sizes=(8,), solver="sgd", learning_rate_init=100.0, random_state=0
    )
    with pytest.raises(DivergenceError) as raised:
        model.fit(X, y)
    faults = raised.value.flow.summary.faults
    assert faults.of("outliers").column == 2


def test_a_summary_of_an_older_version_has_no_faults():
    X, y = problem(classes=True)
    model = BPClassifier((4,), tol=1.0, random_state=0).fit(X[:50], y[:50])
    summary = model._fit_summary
    state = {k: v for k, v in vars(summary).items() if k != "faults"}
    old = object.__new__(type(summary))
    old.__dict__.update(state)
    assert pickle.loads(pickle.dumps(old)).faults == NOTHING_SEEN
