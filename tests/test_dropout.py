"""Dropout: which units, in training and not in prediction; slopes that are kept.

The slow twin is reference.train, whose random numbers have the published ones of their
own; the kernels are compared bit by bit here, those of activations in test_kernels.py.
"""

import pickle
import tracemalloc
from ctypes import byref

import numpy as np
import pytest
import reference
from kernel_table import DTYPES, TABLES, Matrix, Vector, assert_same_bytes, cbp_drop
from problem import Problem, every_dtype, every_solver, outcome
from scipy.sparse import csr_matrix
from sklearn.base import clone

from cbp import BPClassifier, BPRegressor
from cbp._batch import fit_bytes
from cbp._data import most_entries
from cbp._kernels import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_table = pytest.mark.parametrize("kernels", TABLES, ids=repr)

RATES = {
    "hidden": (0.0, 0.3, 0.5),
    "inputs": (0.2, 0.0, 0.0),
    "one layer": (0.0, 0.0, 0.4),
    "all": (0.1, 0.2, 0.3),
}
every_rate = pytest.mark.parametrize("rates", RATES.values(), ids=RATES)

# By a, by z, with slopes that fall, with a slope of 0.
PAIRS = [
    ("relu", "relu"),
    ("relu", "tanh"),
    ("gelu", "logistic"),
    ("identity", "mish"),
    ("elu", "relu"),
]


def test_random_words_are_those_of_the_paper():
    # The known answers that its authors publish for seven rounds.
    for counter, key, words in [
        ((0,) * 4, (0,) * 2, "5f6fb7090d893f644f121f814f730a48"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "5207ddc245165e594d8ee7518c52f662"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "4dfccaba190a87f0c47362bab6b5242a",
        ),
    ]:
        got = reference.philox(counter, key)
        assert "".join(f"{int(word):08x}" for word in got) == words


@every_table
@pytest.mark.parametrize("n_cols", [1, 7, 16, 37])
def test_units_are_dropped_by_number_alone(kernels, n_cols):
    rng, P = np.random.RandomState(0), kernels.P
    a = rng.standard_normal((40, n_cols)).astype(kernels.dtype)
    seed, step, layer, below = 2**62 + 12345, 2**33 + 7, 3, 20000
    d = cbp_drop(seed, layer, below, 65536 / (65536 - below))
    for first, r0, r1, unit in [
        (0, 0, 40, 0),
        (8, 0, 9, 0),
        (3, 5, 30, 64),
        (0, 9, 9, 0),
    ]:
        A, S = Matrix(P, a), Matrix(P, a)
        kernels.drop(
            A.panels, S.panels, n_cols, unit, r0, r1, first + r0, byref(d), step
        )
        bits = reference.drop_bits(first + 40, unit + n_cols, seed, step, layer)
        bits = bits[first:, unit:]
        scaled = a * kernels.dtype.type(d.scale)
        expected = np.where(bits >= below, scaled, kernels.dtype.type(0))
        assert_same_bytes(A.values[r0:r1], expected[r0:r1])
        assert_same_bytes(A.values[:r0], a[:r0])
        assert_same_bytes(A.values[r1:], a[r1:])
        slopes = np.where(bits >= below, scaled, kernels.dtype.type(-0.0))
        assert_same_bytes(S.values[r0:r1], slopes[r0:r1])
        assert not S.padding().any()
        kernels.drop(
            A.panels, A.panels, n_cols, unit, r0, r1, first + r0, byref(d), step
        )
        marked = np.where(bits >= below, expected * d.scale, -0.0)
        assert_same_bytes(A.values[r0:r1], marked.astype(a.dtype)[r0:r1])
        counts = Vector(np.zeros(P, np.int32))
        kernels.count_dropped(S.panel(0), 40, counts.pointer)
        counts.assert_guards()
        expected = (bits < below)[r0:r1, :P].sum(axis=0)
        assert (counts.values[: min(n_cols, P)] == expected).all()


@every_table
def test_items_of_sparse_rows_are_dropped_like_those_of_dense_ones(kernels):
    rng = np.random.RandomState(1)
    x = rng.standard_normal(90).astype(kernels.dtype)
    columns = np.sort(rng.permutation(90)[:33]).astype(np.int32)
    d = cbp_drop(99, 0, 30000, 65536 / 35536)
    for row in (0, 5, 8, 1001):
        items, places = Vector(x[columns]), Vector(columns)
        kernels.drop_items(items.pointer, places.pointer, 33, row, byref(d), 4)
        whole = np.zeros((row + 1, 90), kernels.dtype)
        whole[row] = x
        expected = reference.drop(whole, 30000, 99, 4, 0)[row, columns]
        assert_same_bytes(items.values, expected)
        items.assert_guards()


@every_rate
@every_solver
@pytest.mark.parametrize("batch_size, n_rows", [(1, 30), (32, 150), (300, 300)])
@pytest.mark.parametrize("activations", PAIRS, ids="-".join)
def test_training_equals_the_reference(rates, solver, batch_size, n_rows, activations):
    problem = Problem(n_rows=n_rows, activations=activations)
    problem.weight[::5] = 0  # batches of one row are then left out
    given = {
        "solver": solver,
        "batch_size": batch_size,
        "alpha": 0.1,
        # Small steps: in batches of one row larger ones diverge.
        "learning_rate_init": 0.1 * reference.OPTIMIZERS[solver].rate,
        "dropout": rates,
    }
    run, _ = problem.train(max_iter=4, weighted=True, **given)
    expected = reference.train(
        problem.twin,
        problem.theta,
        problem.X,
        problem.T,
        sample_weight=problem.weight,
        random_state=np.random.RandomState(3),
        max_iter=4,
        **given,
    )
    np.testing.assert_allclose(run.progress.loss_curve, expected.loss_curve, rtol=1e-9)
    change = abs(expected.theta - problem.theta).max()
    assert change > 1e-4
    assert abs(run.theta - expected.theta).max() <= 1e-9 * change


@every_rate
@every_solver
@every_dtype
@pytest.mark.parametrize("batch_size", [1, 64, 600])
def test_bits_depend_on_no_thread_and_not_on_the_form_of_X(
    rates, solver, dtype, batch_size
):
    sizes = (20, 70, 30, 3) if batch_size < 600 else (64, 100, 100, 10)
    problem = Problem(
        sizes=sizes, n_rows=600, dtype=dtype, zeros=0.5, activations=("gelu", "relu")
    )
    given = {"solver": solver, "batch_size": batch_size, "max_iter": 2}
    given["dropout"] = rates
    expected = outcome(problem.train(**given)[0])
    for n_threads in (2, 3):
        assert outcome(problem.train(n_threads=n_threads, **given)[0]) == expected
    X = csr_matrix(problem.X)
    assert outcome(problem.train(X, n_threads=2, **given)[0]) == expected
    watched = problem.train(monitor=True, **given)[0]
    assert outcome(watched) == expected


@every_dtype
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("batch_size", [200, 3000])
def test_threads_that_share_units_drop_the_same(dtype, sparse, batch_size):
    problem = Problem(
        sizes=(64, 100, 10), activations=("silu",), n_rows=3000, dtype=dtype, zeros=0.5
    )
    X = csr_matrix(problem.X) if sparse else None
    given = {"batch_size": batch_size, "max_iter": 1, "dropout": (0.1, 0.4)}
    expected = outcome(problem.train(X, **given)[0])
    team, _ = problem.train(X, n_threads=3, **given)
    assert team.by_units and outcome(team) == expected


def test_as_many_units_are_dropped_as_the_rate_says():
    for rate in (1e-6, 0.2, 0.5, 0.97):
        factors = reference.drop_factors(512, 512, rate, seed=3, step=5, layer=1)
        rounded = max(1, round(rate * 65536)) / 65536
        error = 4 * np.sqrt(rounded * (1 - rounded) / factors.size)
        assert abs((factors == 0).mean() - rounded) <= error
        assert factors.max() * (1 - rounded) == pytest.approx(1)


# ---- estimators ----------------------------------------------------------------------

rng = np.random.RandomState(0)
X = rng.standard_normal((200, 6))
y = (X[:, 0] * X[:, 1] > 0).astype(int)


def test_prediction_and_scores_use_all_units():
    model = BPClassifier((30,), dropout=0.5, random_state=0, max_iter=5)
    model.fit(X, y, X_val=X, y_val=y)
    W, b = model.coefs_, model.intercepts_
    logits = np.maximum(X @ W[0] + b[0], 0) @ W[1] + b[1]
    np.testing.assert_allclose(model.decision_function(X), logits.ravel(), atol=1e-12)
    assert model.validation_scores_[-1] == model.score(X, y)


def test_rates_are_one_for_all_or_one_for_each_layer():
    one = BPClassifier((9, 7), dropout=0.25, random_state=0, max_iter=3).fit(X, y)
    two = clone(one).set_params(dropout=[0.25, 0.25]).fit(X, y)
    other = clone(one).set_params(dropout=(0.25, 0)).fit(X, y)
    assert one.loss_curve_ == two.loss_curve_ != other.loss_curve_


@pytest.mark.parametrize("dropout", [0, [0, 0.0], np.zeros(2)])
def test_rates_of_zero_change_no_bit(dropout):
    plain = BPClassifier((9, 7), random_state=0, max_iter=3).fit(X, y)
    none = clone(plain).set_params(dropout=dropout).fit(X, y)
    assert plain.loss_curve_ == none.loss_curve_


@pytest.mark.parametrize("seed", [0, None], ids=["seed", "global"])
def test_partial_fit_goes_on_with_other_units(seed):
    model = BPRegressor(
        hidden_layer_sizes=(9,), dropout=0.5, shuffle=False, random_state=seed
    )
    for _ in range(4):
        model.partial_fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    if seed is not None:
        model.partial_fit(X, y)
        again.partial_fit(X, y)
        assert model.loss_curve_ == again.loss_curve_
    assert len(set(model.loss_curve_)) == len(model.loss_curve_)
    assert np.isfinite(model.loss_curve_).all()


def test_warm_start_and_early_stopping_work_with_dropout():
    model = BPClassifier(
        (9,), dropout=0.3, warm_start=True, early_stopping=True, max_iter=3
    )
    assert model.fit(X, y).fit(X, y).score(X, y) > 0.3


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"dropout": [0.1]}, "names 1 layers"),
        ({"dropout": [0.1, 1.0]}, r"dropout\[1\] must be a number in \[0, 1\)"),
        ({"dropout": [0.1, "a"]}, r"dropout\[1\]"),
        ({"dropout": [0.1, np.nan]}, r"dropout\[1\]"),
        ({"dropout": 1.0}, "dropout"),
        ({"input_dropout": -0.1}, "input_dropout"),
        ({"dropout": 0.1, "solver": "lbfgs"}, "'dropout'.*makes no steps"),
        ({"dropout": [0, 0.1], "solver": "lbfgs"}, "'dropout'.*makes no steps"),
        ({"input_dropout": 0.1, "solver": "lbfgs"}, "'input_dropout'.*makes no steps"),
    ],
)
def test_bad_rates_are_refused_by_name(parameters, message):
    model = BPClassifier((4, 3), random_state=0, max_iter=2).fit(X, y)
    before = pickle.dumps(model.coefs_)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X, y)
    assert pickle.dumps(model.coefs_) == before


def test_dropped_units_are_not_called_saturated():
    shares = []
    for rate in (0.0, 0.5):
        model = BPClassifier(
            (200,), "tanh", dropout=rate, batch_size=200, random_state=0, max_iter=2
        )
        shares.append(model.fit(30 * X, y).gradient_flow_.saturated[0, 0])
    assert 0.05 < shares[0] == pytest.approx(shares[1], rel=0.2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_activation_trains_with_dropout(activation, dtype):
    model = BPClassifier(
        (40, 20), activation, dropout=0.2, max_iter=60, random_state=0, batch_size=32
    )
    curve = model.fit(X.astype(dtype), y).loss_curve_
    slow = activation in ("identity", "logistic", "selu")
    assert curve[-1] < 0.9 * curve[0] or slow
    assert np.isfinite(curve).all()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_units_that_took_no_part_are_not_called_stuck(activation, batch_size):
    model = BPClassifier(
        (300,), activation, dropout=0.8, batch_size=batch_size, max_iter=1
    )
    flow = model.set_params(random_state=0).fit(0.1 * X, y).gradient_flow_
    if activation == "tanh":
        assert flow.saturated[0, 0] == flow.stuck[0, 0] == 0
    else:
        assert flow.stuck[0, 0] < flow.saturated[0, 0] + 0.1


def test_warm_starts_with_one_seed_drop_other_units():
    model = BPRegressor(
        hidden_layer_sizes=(64,),
        dropout=0.5,
        solver="sgd",
        momentum=0,
        alpha=0,
        max_iter=1,
        warm_start=True,
        random_state=0,
        shuffle=False,
    )
    patterns, before = set(), None
    for _ in range(6):
        model.fit(X[:1], [1.0])
        if before is not None:
            patterns.add((model.coefs_[1] != before).tobytes())
        before = model.coefs_[1].copy()
    assert len(patterns) == 5


@every_dtype
@pytest.mark.parametrize("drops", [False, True])
def test_memory_of_sparse_batches_is_counted(dtype, drops):
    problem = Problem(
        sizes=(900, 4, 3), n_rows=1500, dtype=dtype, activations=("relu",)
    )
    wide = csr_matrix(problem.X)
    promised = fit_bytes(
        problem.network,
        1500,
        "sgd",
        sparse=True,
        drops=drops,
        entries=most_entries(np.diff(wide.indptr), 1500),
        drops_entries=drops,
    )
    tracemalloc.start()
    problem.trainer(wide, batch_size=1500, solver="sgd", dropout=(0.5 * drops, 0.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    data = wide.data.nbytes + wide.indices.nbytes + 2 * wide.indptr.nbytes
    assert promised <= peak + data and peak <= 1.15 * (promised + data)
