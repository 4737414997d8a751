"""Training and prediction by cbp._training and cbp._network, without the estimators.

Same bits for any number of threads, tier, format and batch position; the trainings of
the reference network; scikit-learn's shuffles; what happens at divergence, interrupts
and forks; memory.
"""

import _thread
import os
import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reference
from child import run_python
from interrupts import interrupt, needs_timer
from kernel_table import TIERS
from problem import Problem
from scipy.sparse import csr_array, csr_matrix
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import shuffle as sklearn_shuffle

from cbp._kernels import ACTIVATIONS, LOSSES, table_address
from cbp._network import CsrData, Network
from cbp._recorder import Recorder
from cbp._training import Optimizer, Trainer

SOLVERS = ("adam", "sgd")

every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_loss = pytest.mark.parametrize("output, loss", sorted(LOSSES))


def outcome(trainer):
    """All that must have the same bits whenever a run is the same."""
    return (
        trainer.theta.tobytes(),
        tuple(trainer.loss_curve),
        trainer.optimizer.state.tobytes(),
        trainer.t,
        trainer.learning_rate,
    )


# ---- one run, one set of bits


BATCHES = {
    "one": dict(batch_size=1, n_rows=37),
    "few": dict(batch_size=32, n_rows=150),
    "blocks": dict(batch_size=333, n_rows=900),
    "chunks": dict(batch_size=2500, n_rows=5100),
}
every_batch = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)


@every_batch
@every_solver
@every_dtype
def test_csr_training_has_the_bits_of_the_dense_one(batch, solver, dtype):
    problem = Problem(n_rows=batch["n_rows"], dtype=dtype, zeros=0.7)
    settings = dict(solver=solver, batch_size=batch["batch_size"], alpha=1e-3)
    dense, _ = problem.train(**settings)
    for X in (csr_matrix(problem.X), csr_array(problem.X)):
        sparse, _ = problem.train(X, **settings)
        assert outcome(sparse) == outcome(dense)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    wide, _ = problem.train(X, **settings)
    assert outcome(wide) == outcome(dense)


@pytest.mark.parametrize(
    "n_rows",
    [512, 513, 640, 768, 1025, 1281, 1537, 1920, 2048, 2049, 2304, 2305, 2700, 4097],
)
@every_dtype
def test_sums_in_pieces_have_the_bits_of_those_at_once(n_rows, dtype):
    """Dense batches of more than 512 rows come in pieces, sparse ones never do."""
    problem = Problem(n_rows=n_rows, dtype=dtype, zeros=0.5)
    sparse = csr_matrix(problem.X)
    assert problem.network.divides(n_rows) == (n_rows > 512)
    gradients = [
        problem.trainer(X, solver="lbfgs", weighted=True).loss_gradient(problem.theta)
        for X in (problem.X, sparse)
    ]
    assert gradients[0][0] == gradients[1][0]
    assert np.array_equal(gradients[0][1], gradients[1][1])
    settings = dict(batch_size=n_rows, max_iter=2, alpha=0.1, monitor=True)
    dense, whole = (
        problem.train(X, weighted=True, **settings)[0] for X in (problem.X, sparse)
    )
    assert outcome(dense) == outcome(whole)
    for name, records in dense.recorder.flow().items():
        assert np.array_equal(records, whole.recorder.flow()[name]), name


@pytest.mark.parametrize("n_threads", [2, 3, 4, 8])
@pytest.mark.parametrize("batch_size", [200, 333, 700, 2500])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@every_solver
def test_any_number_of_threads_gives_the_same_bits(
    n_threads, batch_size, sparse, solver
):
    problem = Problem(sizes=(64, 100, 100, 10), n_rows=2 * batch_size + 17, zeros=0.5)
    X = csr_matrix(problem.X) if sparse else problem.X
    settings = dict(
        solver=solver, batch_size=batch_size, alpha=1e-3, weighted=True, max_iter=2
    )
    alone, _ = problem.train(X, **settings)
    team, _ = problem.train(X, n_threads=n_threads, **settings)
    assert team.n_threads == n_threads
    assert outcome(team) == outcome(alone)


@pytest.mark.parametrize("n_threads", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [150, 333, 700, 2500])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@every_dtype
def test_threads_that_share_units_give_the_same_bits(
    n_threads, batch_size, sparse, dtype
):
    """The first layer keeps W (20 inputs) or its transpose (100) as master copy."""
    settings = dict(
        batch_size=batch_size, alpha=1e-3, weighted=True, monitor=True, max_iter=2
    )
    for n_in in (20, 100):
        problem = Problem(
            sizes=(n_in, 100, 10),
            activations=("tanh",),
            n_rows=2 * batch_size + 17,
            dtype=dtype,
            zeros=0.5,
        )
        X = csr_matrix(problem.X) if sparse else problem.X
        alone, _ = problem.train(X, **settings)
        team, _ = problem.train(X, n_threads=n_threads, **settings)
        assert team.by_units or (n_in, batch_size) == (20, 150)  # too little work
        assert outcome(team) == outcome(alone)
        flow = alone.recorder.flow()
        for name, records in team.recorder.flow().items():
            assert np.array_equal(records, flow[name]), name


@pytest.mark.parametrize("n_threads", [2, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_loss
def test_threads_share_units_with_every_activation_and_cost(
    n_threads, output, loss, activation
):
    problem = Problem(output, loss, (activation,), (70, 90, 3), n_rows=1300)
    for solver in ("sgd", "adam"):
        settings = dict(solver=solver, batch_size=640, max_iter=2)
        alone, _ = problem.train(**settings)
        team, _ = problem.train(n_threads=n_threads, **settings)
        assert team.by_units and not alone.by_units
        assert team.n_threads == n_threads
        assert outcome(team) == outcome(alone)
    alone, team = (problem.trainer(solver="lbfgs", n_threads=n) for n in (1, n_threads))
    expected, gradient = alone.loss_gradient(problem.theta)
    assert team.by_units
    value, other = team.loss_gradient(problem.theta)
    assert value == expected
    assert np.array_equal(gradient, other)


@pytest.mark.parametrize("n_threads", [2, 3, 4])
def test_any_number_of_threads_gives_the_same_gradient(n_threads):
    problem = Problem(sizes=(64, 100, 100, 10), n_rows=2500, dtype=np.float32)
    settings = dict(solver="lbfgs", alpha=0.1, weighted=True)
    value, gradient = problem.trainer(**settings).loss_gradient(problem.theta)
    team = problem.trainer(n_threads=n_threads, **settings)
    other_value, other = team.loss_gradient(problem.theta)
    assert value == other_value
    assert np.array_equal(gradient, other)


@every_batch
@every_solver
@every_dtype
def test_recording_gradient_flow_changes_no_bit(batch, solver, dtype):
    problem = Problem(n_rows=batch["n_rows"], dtype=dtype, zeros=0.5)
    settings = dict(
        solver=solver, batch_size=batch["batch_size"], alpha=1e-3, weighted=True
    )
    for X in (problem.X, csr_matrix(problem.X)):
        plain, _ = problem.train(X, **settings)
        monitored, _ = problem.train(X, monitor=True, **settings)
        assert outcome(monitored) == outcome(plain)


def test_callbacks_change_no_bit_and_see_the_weights_of_their_epoch():
    problem = Problem()
    seen = []
    trainer = problem.trainer(batch_size=40)
    trainer.run(4, lambda epoch, loss: seen.append((loss, trainer.theta.copy())))
    for epoch, (loss, theta) in enumerate(seen, 1):
        plain, _ = problem.train(batch_size=40, max_iter=epoch)
        assert plain.theta.tobytes() == theta.tobytes()
        assert plain.loss_curve[-1] == loss
    assert len(seen) == 4


TRAININGS_ON_THIS_TIER = """
import hashlib
import numpy as np
from scipy.sparse import csr_matrix
from problem import Problem
from test_engine import LOSSES, outcome
from cbp import _kernels

print(_kernels.isa())
for dtype in (np.float32, np.float64):
    for output, loss in sorted(LOSSES):
        for activation in ("tanh", "logistic", "relu"):
            problem = Problem(
                output, loss, (activation, "relu"), (9, 18, 7, 3), 150, dtype, 0.5
            )
            for solver, batch_size, n_rows, X in (
                ("adam", 1, 40, problem.X),
                ("sgd", 1, 40, problem.X),
                ("adam", 131, 150, problem.X),
                ("sgd", 64, 150, csr_matrix(problem.X)),
            ):
                run, _ = problem.train(
                    X,
                    rows=np.arange(n_rows),
                    solver=solver,
                    batch_size=batch_size,
                    alpha=1e-3,
                    weighted=batch_size > 1,
                    max_iter=2,
                )
                digest = hashlib.sha256(repr(outcome(run)).encode())
                digest.update(problem.network.predict(run.theta, X))
                print(output, loss, activation, solver, digest.hexdigest())
"""


@pytest.fixture(scope="module")
def scalar_trainings():
    return run_python(TRAININGS_ON_THIS_TIER, CBP_ISA="scalar").splitlines()


@pytest.mark.parametrize("tier", TIERS[1:])
def test_every_tier_trains_the_bits_of_the_scalar_one(tier, scalar_trainings):
    lines = run_python(TRAININGS_ON_THIS_TIER, CBP_ISA=tier).splitlines()
    assert (scalar_trainings[0], lines[0]) == ("scalar", tier)
    assert len(lines) > 100
    assert lines[1:] == scalar_trainings[1:]


IMPORTS = """
import os, sys
for name in sys.argv[1:]:
    os.environ["CBP_ISA"] = name
    try:
        from cbp import _kernels
        print(_kernels.isa())
    except ImportError as error:
        print(error)
"""


def test_unknown_tier_is_an_import_error_that_lists_the_valid_ones():
    names = ["bogus", "AVX2", "scalar ", "neon\u00e9"]
    lines = run_python(IMPORTS, *names).splitlines()
    for name, line in zip(names, lines, strict=True):
        for word in ("CBP_ISA", repr(name), *map(repr, TIERS)):
            assert word in line


def test_a_cpu_with_avx512_uses_it():
    """Else, were vec_root_plus wrong, the tier would vanish, and its tests too."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    if not {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        pytest.skip("this CPU has no AVX-512, or does not tell")
    assert TIERS[-1] == "avx512"


def test_without_a_choice_the_fastest_tier_is_used():
    assert run_python(IMPORTS, "").strip() == TIERS[-1]


# ---- prediction


NETWORKS = {
    "three layers": ((12, 17, 9, 3), ("relu", "tanh")),
    "no hidden layer": ((12, 3), ()),
    "wide": ((40, 70, 33), ("logistic",)),
    "one unit": ((1, 1, 2), ("tanh",)),
}
every_network = pytest.mark.parametrize(
    "sizes, activations", NETWORKS.values(), ids=NETWORKS
)


@every_network
@every_loss
@every_dtype
def test_predict_is_the_forward_pass_of_the_reference(
    sizes, activations, output, loss, dtype
):
    problem = Problem(output, loss, activations, sizes, 300, dtype)
    theta, X = problem.theta.astype(np.float64), problem.X.astype(np.float64)
    close = dict(rtol=0, atol=500 * np.finfo(dtype).eps)
    for n_rows in (1, 5, 6, 300):  # row by row, and packed
        a = problem.network.predict(problem.theta, problem.X[:n_rows])
        assert a.dtype == dtype
        np.testing.assert_allclose(a, problem.twin.predict(theta, X[:n_rows]), **close)
        z = problem.network.predict(problem.theta, problem.X[:n_rows], logits=True)
        expected = problem.twin.forward(theta, X[:n_rows])[0][-1]
        np.testing.assert_allclose(z, expected, **close)


@every_network
@every_loss
@every_dtype
def test_row_has_the_same_bits_alone_and_in_any_batch(
    sizes, activations, output, loss, dtype
):
    problem = Problem(output, loss, activations, sizes, 521, dtype, zeros=0.5)
    predict, theta, X = problem.network.predict, problem.theta, problem.X
    whole = predict(theta, X)
    for logits in (False, True):
        whole = predict(theta, X, logits=logits)
        for r in (0, 1, 7, 255, 256, 520):
            alone = predict(theta, X[r : r + 1], logits=logits)
            assert alone.tobytes() == whole[r : r + 1].tobytes()
        for start, end in ((0, 2), (3, 8), (9, 15), (1, 260), (100, 521)):
            batch = predict(theta, X[start:end], logits=logits)
            assert batch.tobytes() == whole[start:end].tobytes()


@every_dtype
@pytest.mark.parametrize("container", [csr_matrix, csr_array])
def test_predict_of_csr_has_the_bits_of_the_dense_one(dtype, container):
    problem = Problem(n_rows=300, dtype=dtype, zeros=0.8)
    problem.X[5] = 0
    dense = problem.network.predict(problem.theta, problem.X)
    X = container(problem.X)
    for start, end in ((0, 300), (5, 6), (17, 280)):
        part = problem.network.predict(problem.theta, X[start:end])
        assert part.tobytes() == dense[start:end].tobytes()


def test_predict_takes_read_only_and_empty_arrays():
    problem = Problem()
    expected = problem.network.predict(problem.theta, problem.X)
    problem.theta.flags.writeable = problem.X.flags.writeable = False
    got = problem.network.predict(problem.theta, problem.X)
    assert got.tobytes() == expected.tobytes()
    for empty in (problem.X[:0], csr_matrix(problem.X[:0])):
        assert problem.network.predict(problem.theta, empty).shape == (0, 3)


@pytest.mark.parametrize("n_rows", [3, 40])
def test_nan_in_a_row_stays_in_that_row(n_rows):
    problem = Problem(n_rows=n_rows)
    problem.X[1, 4] = np.nan
    bad = np.isnan(problem.network.predict(problem.theta, problem.X))
    assert (bad == (np.arange(n_rows) == 1)[:, None]).all()


def test_predict_may_run_in_several_threads_at_once():
    problem = Problem(n_rows=2000)
    expected = problem.network.predict(problem.theta, problem.X)

    def predict(i):
        X = problem.X if i % 2 else problem.X[i : i + 3]
        return problem.network.predict(problem.theta, X).tobytes()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predict, range(200)))
    for i, got in enumerate(results):
        assert got == (expected if i % 2 else expected[i : i + 3]).tobytes()


# ---- the reference's trainings


TRAININGS = {
    "adam": dict(solver="adam"),
    "adam with other betas": dict(solver="adam", beta_1=0.5, beta_2=0.9, epsilon=1e-3),
    "adam without memory": dict(solver="adam", beta_1=0.0, beta_2=0.0, epsilon=1e-2),
    "sgd": dict(solver="sgd"),
    "sgd plain": dict(solver="sgd", momentum=0.0, nesterovs_momentum=False),
    "sgd momentum": dict(solver="sgd", nesterovs_momentum=False),
    "sgd invscaling": dict(solver="sgd", learning_rate="invscaling", power_t=0.3),
    "sgd adaptive": dict(
        solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=1
    ),
    "sgd out of patience": dict(solver="sgd", tol=10.0, n_iter_no_change=2),
    "adam out of patience": dict(solver="adam", tol=10.0, n_iter_no_change=2),
}
every_training = pytest.mark.parametrize("settings", TRAININGS.values(), ids=TRAININGS)


def assert_reference_trains_the_same(problem, weighted=False, max_iter=4, **settings):
    run, status = problem.train(max_iter=max_iter, weighted=weighted, **settings)
    expected = reference.train(
        problem.twin,
        problem.theta,
        problem.X,
        problem.T,
        sample_weight=problem.weight if weighted else None,
        random_state=np.random.RandomState(3),
        max_iter=max_iter,
        **settings,
    )
    assert status == expected.status
    assert run.t == expected.t
    assert run.no_improvement_count == expected.no_improvement_count
    assert run.optimizer.steps == expected.steps
    assert run.learning_rate == pytest.approx(expected.learning_rate, rel=1e-12)
    assert run.best_loss == pytest.approx(expected.best_loss, rel=1e-10)
    np.testing.assert_allclose(run.loss_curve, expected.loss_curve, rtol=1e-10)
    change = abs(expected.theta - problem.theta).max()
    assert change > 1e-4
    assert abs(run.theta - expected.theta).max() <= 1e-9 * change
    return expected


@every_training
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("batch_size, n_rows", [(1, 40), (32, 150), (150, 150)])
def test_training_equals_the_reference(settings, weighted, batch_size, n_rows):
    problem = Problem(n_rows=n_rows)
    assert_reference_trains_the_same(
        problem, weighted, batch_size=batch_size, alpha=0.1, max_iter=8, **settings
    )


@every_loss
@every_solver
def test_training_equals_the_reference_for_every_cost(output, loss, solver):
    for sizes, activations in (
        ((6, 5, 3), ("logistic",)),
        ((20, 40, 18, 9), ("tanh", "relu")),
        ((5, 2), ()),
    ):
        problem = Problem(output, loss, activations, sizes)
        for batch_size in (1, 32):
            assert_reference_trains_the_same(
                problem, solver=solver, batch_size=batch_size, shuffle=False
            )


@every_solver
def test_training_in_batches_of_several_chunks_equals_the_reference(solver):
    problem = Problem(n_rows=5003)
    assert_reference_trains_the_same(
        problem, True, batch_size=2500, alpha=0.1, solver=solver
    )


@every_solver
def test_a_first_layer_beyond_the_caches_equals_the_reference(solver):
    problem = Problem(sizes=(7000, 74, 3), activations=("relu",), n_rows=24, zeros=0.9)
    assert_reference_trains_the_same(problem, solver=solver, batch_size=10, max_iter=2)
    settings = dict(solver=solver, batch_size=10)
    expected = outcome(problem.train(**settings)[0])
    for X in (problem.X, csr_matrix(problem.X)):
        assert outcome(problem.train(X, n_threads=2, **settings)[0]) == expected


def test_adaptive_rate_falls_until_training_ends():
    problem = Problem()
    expected = assert_reference_trains_the_same(
        problem,
        solver="sgd",
        learning_rate="adaptive",
        learning_rate_init=1e-3,
        tol=10.0,
        n_iter_no_change=1,
        max_iter=100,
    )
    assert expected.status == "converged"
    assert expected.learning_rate <= 1e-6


@every_solver
def test_float32_training_stays_close_to_the_reference(solver):
    problem = Problem(dtype=np.float32)
    run, _ = problem.train(solver=solver, batch_size=32)
    expected = reference.train(
        problem.twin,
        problem.theta.astype(np.float64),
        problem.X.astype(np.float64),
        problem.T,
        random_state=np.random.RandomState(3),
        solver=solver,
        batch_size=32,
        max_iter=3,
    )
    change = abs(expected.theta - problem.theta).max()
    assert abs(run.theta - expected.theta).max() <= 1e-3 * change
    np.testing.assert_allclose(run.loss_curve, expected.loss_curve, rtol=1e-5)


@every_solver
@every_dtype
def test_rows_choose_what_is_trained_on(solver, dtype):
    problem = Problem(dtype=dtype)
    rows = np.random.RandomState(0).permutation(150)[:70]
    settings = dict(solver=solver, batch_size=32, weighted=True)
    chosen, _ = problem.train(rows=rows, **settings)
    for name in ("X", "target", "weight"):
        setattr(problem, name, getattr(problem, name)[rows])
    alone, _ = problem.train(**settings)
    assert outcome(chosen) == outcome(alone)
    assert np.array_equal(rows, np.random.RandomState(0).permutation(150)[:70])


@every_solver
@every_dtype
def test_a_pickled_optimizer_goes_on_as_if_nothing_had_happened(solver, dtype):
    problem = Problem(dtype=dtype)
    settings = dict(solver=solver, batch_size=32, shuffle=False, alpha=1e-3)
    whole, _ = problem.train(max_iter=5, **settings)
    first, _ = problem.train(max_iter=2, **settings)
    second = problem.trainer(
        theta=first.theta,
        optimizer=pickle.loads(pickle.dumps(first.optimizer)),
        t=first.t,
        best_loss=first.best_loss,
        no_improvement_count=first.no_improvement_count,
        **settings,
    )
    second.run(3)
    assert first.loss_curve + second.loss_curve == whole.loss_curve
    assert outcome(second)[2:] == outcome(whole)[2:]
    assert second.theta.tobytes() == whole.theta.tobytes()


# ---- shuffles


def last_rows(n_rows, random_state, max_iter=4):
    """The last row and the loss of every epoch.

    Each step of this network makes its only bias the target of the row just seen, and a
    row's cost tells its distance from the row before: the loss knows the permutation.
    """
    network = Network((1, 1), (), "identity", "squared_error", np.float64)
    y = np.random.RandomState(0).permutation(n_rows).astype(np.float64)[:, None]
    trainer = Trainer(
        network,
        np.zeros(2),
        np.zeros((n_rows, 1)),
        y,
        solver="sgd",
        momentum=0.0,
        nesterovs_momentum=False,
        learning_rate_init=1.0,
        batch_size=1,
        n_iter_no_change=np.inf,
        random_state=random_state,
    )
    seen = []
    trainer.run(max_iter, lambda _, loss: seen.append((trainer.theta[1], loss)))
    return y[:, 0], np.array(seen)


GENERATORS = ("MT19937", "PCG64", "Philox", "SFC64")


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 31, 255, 256, 257, 1000])
def test_shuffles_are_those_of_scikit_learn(generator, n_rows):
    make = getattr(np.random, generator)
    ours, theirs = (np.random.RandomState(make(7)) for _ in range(2))
    y, seen = last_rows(n_rows, ours)
    order, b = np.arange(n_rows), 0.0
    for last, loss in seen:
        order = sklearn_shuffle(order, random_state=theirs)
        before = np.r_[b, y[order[:-1]]]
        b = y[order[-1]]
        assert last == b
        assert loss == pytest.approx(((before - y[order]) ** 2).mean() / 2)
    states = [str(state._bit_generator.state) for state in (ours, theirs)]
    assert states[0] == states[1]


def test_training_without_shuffling_draws_nothing():
    problem, random_state = Problem(), np.random.RandomState(5)
    trainer = Trainer(
        problem.network,
        problem.theta,
        problem.X,
        problem.target,
        shuffle=False,
        random_state=random_state,
    )
    trainer.run(3)
    assert random_state.uniform() == np.random.RandomState(5).uniform()


# ---- weights of zero


@every_solver
@every_dtype
def test_batch_without_weight_changes_nothing(solver, dtype):
    problem = Problem(n_rows=120, dtype=dtype)
    settings = dict(
        solver=solver, batch_size=30, shuffle=False, alpha=1e-3, weighted=True
    )
    problem.weight[30:60] = 0
    with_zeros, _ = problem.train(**settings)
    rows = np.r_[:30, 60:120]
    without, _ = problem.train(rows=rows, **settings)
    assert outcome(with_zeros) == outcome(without)
    assert with_zeros.t == 3 * 90


@every_loss
@pytest.mark.parametrize("batch_size", [1, 30])
def test_row_without_weight_does_not_exist(output, loss, batch_size):
    problem = Problem(output, loss, n_rows=120)
    problem.weight[::3] = 0
    settings = dict(batch_size=batch_size, weighted=True)
    expected, status = problem.train(**settings)
    assert status == "max_iter"
    problem.X[::3] = 1e300  # overflows wherever the network is linear
    if problem.target.dtype != np.int32:
        problem.target[::3] = 1e300
    got, status = problem.train(**settings)
    assert status == "max_iter"
    assert outcome(got) == outcome(expected)


# ---- how a run ends


@every_dtype
@pytest.mark.parametrize("n_rows", [1, 128, 129, 385, 900, 2048, 5003])
def test_losses_and_weights_are_summed_in_one_order(n_rows, dtype):
    problem = Problem("identity", "squared_error", (), (3, 1), n_rows, dtype)
    problem.theta[:] = 0  # so that the costs are t^2 / 2
    problem.target[:, 0] = 5 * problem.X[:, 0]
    costs = (dtype(0.5) * (problem.target * problem.target)[:, 0]).astype(np.float64)
    plain, _ = problem.train(batch_size=n_rows, shuffle=False, max_iter=1)
    assert plain.loss_curve == [reference.sum_in_order(costs) / n_rows]
    weighted, _ = problem.train(
        batch_size=n_rows, shuffle=False, max_iter=1, weighted=True
    )
    total = reference.sum_in_order(problem.weight)
    products = costs * problem.weight
    assert weighted.loss_curve == [reference.sum_in_order(products) / total]


@every_dtype
@pytest.mark.parametrize("batch_size", [1, 32, 150])
@every_solver
def test_divergence_ends_the_run_in_its_epoch(dtype, batch_size, solver):
    problem = Problem("identity", "squared_error", ("relu",), (12, 9, 1), dtype=dtype)
    largest = float(np.finfo(dtype).max)
    trainer, status = problem.train(
        solver=solver,
        batch_size=batch_size,
        learning_rate_init=largest**0.4,
        momentum=0.0,
        nesterovs_momentum=False,
        max_iter=100,
    )
    assert status == "diverged"
    assert trainer.diverged_epoch == trainer.n_iter + 1 <= 20
    assert len(trainer.loss_curve) == trainer.n_iter
    assert np.isfinite(trainer.loss_curve).all()


def test_weights_that_overflow_in_the_last_step_are_divergence():
    problem = Problem("identity", "squared_error", (), (12, 1))
    trainer, status = problem.train(
        solver="sgd", learning_rate_init=1e308, batch_size=150, max_iter=1
    )
    assert status == "diverged"
    assert trainer.diverged_epoch == 1
    assert not np.isfinite(trainer.theta).all()


def test_run_that_does_not_diverge_has_no_diverged_epoch():
    trainer, status = Problem().train()
    assert status == "max_iter"
    assert trainer.diverged_epoch is None
    assert trainer.n_iter == 3


def test_callback_may_stop_the_run():
    trainer, status = Problem().train(
        max_iter=10, on_epoch=lambda epoch, loss: False if epoch == 4 else None
    )
    assert (status, trainer.n_iter, len(trainer.loss_curve)) == ("stopped", 4, 4)


# ---- early stopping


def replayed(scores, tol, patience):
    """scikit-learn's rule: the epoch that ends training, and the best score."""
    best, count = -np.inf, 0
    for epoch, score in enumerate(scores, 1):
        count = 0 if score >= best + tol else count + 1
        best = max(best, score) if score == score else best
        if count > patience:
            return epoch, best
    return None, best


HELD_OUT = np.arange(0, 150, 4)
TRAINED = np.setdiff1d(np.arange(150), HELD_OUT)


@pytest.mark.parametrize("tol, patience", [(0, 3), (1e-4, 3), (0.03, 2), (0.3, 0)])
@pytest.mark.parametrize("output, loss", [("softmax", "log_loss"), ("exp", "poisson")])
def test_validation_scores_rule_patience_in_place_of_the_loss(
    output, loss, tol, patience
):
    trainer, status = Problem(output, loss).train(
        max_iter=300,
        rows=TRAINED,
        held_out=HELD_OUT,
        learning_rate_init=0.01,
        tol=tol,
        n_iter_no_change=patience,
    )
    assert status == "converged"
    assert len(trainer.validation_scores) == trainer.n_iter
    expected = replayed(trainer.validation_scores, tol, patience)
    assert (trainer.n_iter, trainer.best_score) == expected
    assert trainer.best_loss == np.inf


def test_outputs_that_overflow_score_nan_and_use_up_patience():
    problem = Problem("identity", "squared_error", activations=("identity",) * 2)
    problem.X[HELD_OUT] = np.inf
    start = problem.theta.copy()
    trainer, status = problem.train(
        max_iter=50, rows=TRAINED, held_out=HELD_OUT, n_iter_no_change=3
    )
    assert (status, trainer.n_iter, trainer.best_score) == ("converged", 4, -np.inf)
    assert np.isnan(trainer.validation_scores).all()
    assert trainer.best_theta.tobytes() == start.tobytes()


def held_out_score(problem, theta, weighted):
    """What scikit-learn makes of the predictions for the held-out rows."""
    weight = problem.weight[HELD_OUT] if weighted else None
    outputs = problem.network.predict(theta, problem.X[HELD_OUT]).astype(float)
    truth = problem.target[HELD_OUT]
    if truth.dtype != np.int32 and problem.network.output != "logistic":
        return r2_score(truth.astype(float), outputs, sample_weight=weight)
    if truth.ndim == 2 or outputs.shape[1] == 1:
        decided = (outputs > 0.5).astype(int).reshape(truth.shape)
    else:
        decided = outputs.argmax(axis=1)
    return accuracy_score(truth.astype(int), decided, sample_weight=weight)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@every_dtype
@pytest.mark.parametrize("n_outputs", [1, 3])
@every_loss
def test_the_validation_score_is_scikit_learns(
    output, loss, n_outputs, dtype, weighted
):
    if output == "softmax" and n_outputs == 1:
        pytest.skip("softmax has two outputs or more")
    problem = Problem(output, loss, sizes=(12, 17, 9, n_outputs), dtype=dtype)
    targets = [problem.target]
    if output == "logistic" and n_outputs > 1:  # several labels per row, too
        targets.append(np.random.RandomState(1).randint(2, size=(150, 3)).astype(dtype))
    for problem.target in targets:
        expected, kept = [], []
        trainer = problem.trainer(
            weighted=weighted,
            rows=TRAINED,
            held_out=HELD_OUT,
            batch_size=16,
            learning_rate_init=0.01,
        )

        def score(*_, trainer=trainer, expected=expected, kept=kept):
            expected.append(held_out_score(problem, trainer.theta, weighted))
            kept.append(trainer.theta.copy())

        trainer.run(12, score)
        np.testing.assert_allclose(
            trainer.validation_scores, expected, rtol=1e-13, atol=1e-13
        )
        best = kept[int(np.argmax(trainer.validation_scores))]
        assert trainer.best_theta.tobytes() == best.tobytes()


def test_validation_scores_are_the_same_for_threads_batches_and_csr():
    problem = Problem(sizes=(40, 90, 90, 3), n_rows=900, zeros=0.7)
    held_out = np.arange(0, 900, 2)
    scores = set()
    for X in (problem.X, csr_matrix(problem.X)):
        for n_threads in (1, 3):
            trainer, _ = problem.train(
                X,
                rows=np.arange(1, 900, 2),
                held_out=held_out,
                n_threads=n_threads,
                batch_size=300,
            )
            scores.add((*trainer.validation_scores, trainer.best_theta.tobytes()))
    assert len(scores) == 1
    one_row = problem.trainer(rows=[1], held_out=held_out, batch_size=1)
    many = problem.trainer(rows=[1, 3], held_out=held_out, batch_size=2)
    for trainer in (one_row, many):
        trainer.judge(problem.theta)
    assert one_row.validation_scores == many.validation_scores


@pytest.mark.parametrize("value", [0.1, 7.0])
def test_constant_held_out_targets_score_1_if_hit_and_else_0(value):
    problem = Problem("identity", "squared_error", activations=(), sizes=(12, 1))
    problem.target[HELD_OUT] = value
    theta = np.zeros_like(problem.theta)
    for bias, score in ((value, 1), (value + 0.5, 0)):
        theta[-1] = bias
        trainer = problem.trainer(rows=TRAINED, held_out=HELD_OUT, weighted=True)
        trainer.judge(theta)
        assert trainer.validation_scores == [score]


def test_a_single_class_is_always_right():
    problem = Problem("logistic", "log_loss", sizes=(12, 17, 9, 1))
    problem.target[:] = 0
    trainer, _ = problem.train(rows=TRAINED, held_out=HELD_OUT)
    assert trainer.validation_scores == [1, 1, 1]


def test_early_stopping_does_not_come_back_to_python():
    calls = []

    class Counted(np.random.RandomState):
        """Asked for its bits whenever Python calls the compiled loop."""

        @property
        def _bit_generator(self):
            calls.append(1)
            return super()._bit_generator

    problem = Problem(sizes=(12, 3), activations=(), n_rows=150)

    def trainer(**settings):
        data = (problem.network, problem.theta.copy(), problem.X, problem.target)
        random_state = Counted(3)
        calls.clear()
        return Trainer(*data, rows=TRAINED, random_state=random_state, **settings)

    scored = trainer(held_out=HELD_OUT, n_iter_no_change=np.inf)
    scored.run(700)  # more than the loop keeps at once
    assert len(scored.validation_scores) == len(scored.loss_curve) == 700
    assert len(calls) == 1
    trainer().run(20, on_epoch=lambda epoch, loss: None)
    assert len(calls) == 20


def test_judge_needs_rows_to_score():
    problem = Problem()
    with pytest.raises(ValueError, match="held_out"):
        problem.trainer().judge(problem.theta)


# ---- the loss curve


def test_more_epochs_than_the_curve_keeps_at_once_are_all_recorded():
    problem = Problem(sizes=(12, 3), activations=(), n_rows=20)
    settings = dict(batch_size=20, n_iter_no_change=np.inf)
    trainer, _ = problem.train(max_iter=700, **settings)
    losses = []
    problem.train(
        max_iter=700, on_epoch=lambda _, loss: losses.append(loss), **settings
    )
    assert len(losses) == 700
    assert trainer.loss_curve == losses


def test_error_in_a_callback_leaves_the_weights_of_its_epoch():
    problem = Problem()
    trainer = problem.trainer()

    def fail(epoch, loss):
        if epoch == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.run(5, fail)
    expected, _ = problem.train(max_iter=2)
    assert trainer.theta.tobytes() == expected.theta.tobytes()
    assert trainer.optimizer.steps == expected.optimizer.steps


WRONG_ARGUMENTS = {
    "theta too short": dict(theta=np.zeros(5)),
    "theta of another dtype": dict(theta=np.zeros(Problem().network.n_params, "f4")),
    "X too narrow": dict(X=np.zeros((150, 11))),
    "X of another dtype": dict(X=np.zeros((150, 12), np.float32)),
    "label too large": dict(target=np.full(150, 3, np.int32)),
    "label below zero": dict(target=np.full(150, -1, np.int32)),
    "matrix for softmax": dict(target=np.zeros((150, 3))),
    "target too short": dict(target=np.zeros(149, np.int32)),
    "weights too short": dict(sample_weight=np.ones(149)),
    "weights of another dtype": dict(sample_weight=np.ones(150, np.float32)),
    "row beyond X": dict(rows=np.array([150])),
    "negative row": dict(rows=np.array([-1])),
    "no rows": dict(rows=np.array([], np.int64)),
    "no rows held out": dict(held_out=np.array([], np.int64)),
    "held-out row beyond X": dict(held_out=np.array([150])),
    "optimizer of another solver": dict(
        solver="sgd", optimizer=Problem().trainer(solver="adam").optimizer
    ),
    "optimizer of another network": dict(
        optimizer=Problem(sizes=(12, 40, 9, 3)).trainer().optimizer
    ),
}


@pytest.mark.parametrize(
    "arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS.keys()
)
def test_arguments_that_do_not_fit_are_refused(arguments):
    problem = Problem()
    kept = dict(theta=problem.theta, X=problem.X, target=problem.target)
    with pytest.raises(ValueError):
        Trainer(
            problem.network,
            random_state=np.random.RandomState(0),
            **{**kept, **arguments},
        )


# ---- threads and signals


def threads():
    """Threads of this process, as the operating system counts them if it says."""
    if os.path.isdir("/proc/self/task"):
        return len(os.listdir("/proc/self/task"))
    return threading.active_count()


@contextmanager
def no_thread_outlives():
    """Fails if more threads are left than there were.

    Python calls a thread ended a moment before the operating system does.
    """
    before, known = threads(), set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= known
    for _ in range(30_000):  # five minutes at least
        if threads() <= before:
            return
        time.sleep(0.01)
    pytest.fail("a thread is left that Python does not know")


def wide_problem(n_rows=400):
    """Enough work for four threads."""
    return Problem(sizes=(64, 100, 100, 10), n_rows=n_rows)


@pytest.mark.thread_unsafe(reason="counts the threads of the process")
def test_no_thread_outlives_a_call():
    problem = wide_problem()
    with no_thread_outlives():
        problem.train(n_threads=4)
    with no_thread_outlives():
        problem.trainer(n_threads=4, solver="lbfgs").loss_gradient(problem.theta)
    with no_thread_outlives(), pytest.raises(ZeroDivisionError):
        problem.train(n_threads=4, on_epoch=lambda *_: 1 / 0)
    problem.X[0, 0] = np.nan
    with no_thread_outlives():
        _, status = problem.train(n_threads=4)
    assert status == "diverged"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_one_team_serves_every_gradient_of_a_block_and_ends_with_it(error, monkeypatch):
    problem = wide_problem()
    trainer = problem.trainer(n_threads=4, solver="lbfgs")
    expected = problem.trainer(solver="lbfgs").loss_gradient(problem.theta)
    with no_thread_outlives(), suppress(RuntimeError, KeyboardInterrupt), trainer:
        assert trainer.n_threads == 4
        monkeypatch.setattr(_thread, "start_new_thread", None)
        for _ in range(3):
            loss, gradient = trainer.loss_gradient(problem.theta)
        if error:
            raise error
    assert loss == expected[0]
    assert gradient.tobytes() == expected[1].tobytes()
    monkeypatch.undo()
    trainer.loss_gradient(problem.theta)  # with a team of its own


@pytest.mark.parametrize("started", [1, 2])
def test_no_thread_outlives_an_interrupt_while_threads_are_started(
    started, monkeypatch
):
    start, count = _thread.start_new_thread, []

    def start_and_interrupt(*work):
        start(*work)
        count.append(1)
        if len(count) == started:
            raise KeyboardInterrupt

    problem = wide_problem()
    monkeypatch.setattr(_thread, "start_new_thread", start_and_interrupt)
    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        problem.train(n_threads=4)


def test_trainings_may_run_in_several_threads_at_once():
    problem = wide_problem()
    expected = outcome(problem.train()[0])
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(problem.train, n_threads=2) for _ in range(6)]
    assert all(outcome(run.result()[0]) == expected for run in runs)


def test_trainings_that_share_a_random_state_take_turns():
    problem, random_state = wide_problem(), np.random.RandomState(0)

    def train(_):
        trainer = Trainer(
            problem.network,
            problem.theta.copy(),
            problem.X,
            problem.target,
            random_state=random_state,
        )
        return trainer.run(3)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(train, range(6))) == ["max_iter"] * 6
    draws = np.random.RandomState(0)
    for _ in range(6):
        order = np.arange(len(problem.X))
        for _ in range(3):
            draws.shuffle(order)
    assert random_state.uniform() == draws.uniform()


def test_fewer_threads_are_used_when_no_more_can_be_had(monkeypatch):
    problem = wide_problem()
    alone, _ = problem.train()
    start, count = _thread.start_new_thread, []

    def refuse_the_second(*work):
        count.append(1)
        if len(count) > 1:
            raise RuntimeError("can't start new thread")
        start(*work)

    monkeypatch.setattr(_thread, "start_new_thread", refuse_the_second)
    team, _ = problem.train(n_threads=4)
    assert len(count) == 2
    assert team.n_threads == 2
    assert outcome(team) == outcome(alone)


FIT_FORK_FIT = """
import faulthandler, os
from test_engine import outcome, wide_problem

problem = wide_problem()
expected, _ = problem.train(n_threads=3)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(300, exit=True)  # the end of a hang
    run, _ = problem.train(n_threads=3)
    os._exit(0 if outcome(run) == outcome(expected) else 1)
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fit_works_in_a_fork_after_a_threaded_fit():
    assert run_python(FIT_FORK_FIT) == "status 0\n"


class Alarm(Exception):
    pass


# Endless runs; big is one batch, long enough for many looks for signals.
ENDLESS = {
    "batches": ((64, 100, 10), 2000, dict(batch_size=200)),
    "one row": ((30, 16, 2), 500, dict(batch_size=1)),
    "tiny epochs": ((3, 2), 4, dict(batch_size=4)),
    "wide": ((64, 1500, 1500, 10), 600, dict(batch_size=256)),
    "big": ((64, 1500, 1500, 10), 40000, dict(batch_size=40000)),
    "wide units": ((64, 5000, 10), 2000, dict(batch_size=1000)),
    "sparse": ((64, 100, 10), 2000, dict(batch_size=200)),
}


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", ENDLESS)
def test_interrupt_is_felt_and_leaves_usable_weights(name, n_threads):
    sizes, n_rows, settings = ENDLESS[name]
    activations = ("relu",) * (len(sizes) - 2)
    problem = Problem(
        activations=activations, sizes=sizes, n_rows=n_rows, dtype=np.float32
    )
    trainer = problem.trainer(
        csr_matrix(problem.X) if name == "sparse" else problem.X,
        n_threads=n_threads,
        n_iter_no_change=np.inf,
        **settings,
    )
    by_units = name in ("batches", "wide units", "sparse")
    assert trainer.by_units == (by_units and n_threads == 2)
    reached = []

    def under_way():
        reached.append(trainer.n_iter)
        return name == "big" or trainer.n_iter > 0

    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.run, 2**31 - 1), under_way)
    assert trainer.n_iter == reached[-1]  # not even the epoch under way was ended
    assert len(trainer.loss_curve) == trainer.n_iter
    assert np.isfinite(trainer.theta).all()
    if name == "big":  # no step was made yet
        assert trainer.n_iter == 0
        assert trainer.theta.tobytes() == problem.theta.tobytes()
    else:
        assert trainer.theta.tobytes() != problem.theta.tobytes()
    a = problem.network.predict(trainer.theta, problem.X[:50])
    assert np.isfinite(a).all()


INTERRUPTED_TEAMS = """
import faulthandler, os
from functools import partial
from itertools import count
import numpy as np
from test_engine import Problem, interrupt

sizes = {sizes}
problem = Problem(activations=("relu",) * (len(sizes) - 2), sizes=sizes, n_rows=1000)
for trial in range(30):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(300, exit=True)  # the end of a hang
        trainer = problem.trainer(n_threads=4, n_iter_no_change=np.inf)
        looks = count(1)
        late = lambda: next(looks) > trial % 4
        try:
            interrupt(partial(trainer.run, 2**31 - 1), late)
        except KeyboardInterrupt:
            os._exit(0 if trainer.n_threads == 4 else 1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
print("passed")
"""


@needs_timer
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("sizes", [(64, 128, 10), (64, 300, 300, 10)])
def test_interrupts_end_every_thread_however_slow(sizes):
    """With more threads than cores, some see the interrupt late."""
    assert run_python(INTERRUPTED_TEAMS.format(sizes=sizes)).strip() == "passed"


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
def test_interrupt_is_felt_within_one_gradient(n_threads):
    sizes, n_rows, _ = ENDLESS["big"]
    problem = Problem(
        activations=("relu", "relu"), sizes=sizes, n_rows=n_rows, dtype=np.float32
    )
    trainer = problem.trainer(solver="lbfgs", n_threads=n_threads)
    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.loss_gradient, problem.theta))


@needs_timer
def test_any_error_of_a_signal_handler_is_raised():
    def handler(*_):
        raise Alarm

    trainer = wide_problem().trainer(n_threads=2, n_iter_no_change=np.inf)
    with pytest.raises(Alarm):
        interrupt(partial(trainer.run, 2**31 - 1), lambda: trainer.n_iter > 0, handler)
    assert trainer.n_iter > 0


@needs_timer
def test_signal_whose_handler_returns_disturbs_nothing():
    problem, handled = wide_problem(), []
    settings = dict(n_iter_no_change=np.inf, max_iter=600)  # for some looks
    expected, _ = problem.train(**settings)
    trainer = problem.trainer(n_iter_no_change=np.inf)
    interrupt(
        partial(trainer.run, 600),
        lambda: trainer.n_iter > 0,
        lambda *_: handled.append(trainer.n_iter),
    )
    assert len(handled) == 1 and 0 < handled[0] < 600
    assert outcome(trainer) == outcome(expected)


@needs_timer
def test_run_goes_on_after_an_interrupt():
    problem = wide_problem()
    trainer = problem.trainer(n_iter_no_change=np.inf)
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.run, 2**31 - 1), lambda: trainer.n_iter > 0)
    again = problem.trainer(
        theta=trainer.theta, optimizer=trainer.optimizer, n_threads=2
    )
    assert again.run(2) in ("max_iter", "converged")
    assert again.loss_curve[-1] < trainer.loss_curve[0]


# ---- memory


MEMORY = {
    "large network": ((300, 400, 20), 600, 32),
    "large batch": ((40, 30, 5), 1500, 1000),
    "large batch of a large network": ((400, 500, 20), 1500, 1000),
    "several chunks": ((40, 30, 5), 9000, 5000),
    "one row": ((100, 50, 3), 50, 1),
}


@pytest.mark.thread_unsafe(reason="measures the memory of the process")
@pytest.mark.parametrize("sizes, n_rows, batch_size", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@every_dtype
def test_fit_allocates_what_fit_bytes_says(sizes, n_rows, batch_size, solver, dtype):
    problem = Problem(activations=("relu",), sizes=sizes, n_rows=n_rows, dtype=dtype)
    theta = problem.theta.copy()
    if solver == "lbfgs":
        batch_size = n_rows
    promised = problem.network.fit_bytes(batch_size, solver)
    tracemalloc.start()
    try:
        trainer = problem.trainer(theta=theta, solver=solver, batch_size=batch_size)
        if solver != "lbfgs":
            trainer.run(2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{peak / promised:.3f} of what was promised")
    rows = 8 * n_rows  # the shuffled row numbers belong to the data
    assert peak <= 1.05 * promised + rows + 65536
    assert peak >= promised / 2


@pytest.mark.thread_unsafe(reason="measures the memory of the process")
def test_fit_bytes_knows_that_sparse_batches_come_whole():
    problem = Problem(activations=("relu",), sizes=(10, 900, 3), n_rows=2000, zeros=0.9)
    promised = problem.network.fit_bytes(2000, "sgd", sparse=True)
    X = csr_matrix(problem.X)
    tracemalloc.start()
    try:
        problem.train(X, solver="sgd", batch_size=2000, max_iter=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert promised / 2 <= peak <= 1.1 * promised + X.data.nbytes + 65536


@pytest.mark.thread_unsafe(reason="measures the memory of the process")
def test_copies_of_the_inputs_for_threads_are_bounded():
    problem = Problem(activations=("relu",), sizes=(3000, 60, 3), n_rows=600)
    promised = problem.network.fit_bytes(300, "sgd")
    tracemalloc.start()
    try:
        problem.train(solver="sgd", batch_size=300, n_threads=16, max_iter=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.05 * promised + (1 << 23)


@pytest.mark.parametrize("solver, copies", [("adam", 4), ("sgd", 3), ("lbfgs", 3)])
@every_dtype
def test_fit_keeps_few_copies_of_the_parameters(solver, copies, dtype):
    """Panels and their mirror, and what the solver keeps; theta comes on top."""
    network = Network(
        (1000, 1000, 1000, 10), ("relu",) * 2, "softmax", "log_loss", dtype
    )
    theta_bytes = network.n_params * network.dtype.itemsize
    assert network.fit_bytes(1, solver) <= 1.05 * copies * theta_bytes


# ---- no caller leads a kernel out of its buffers


def misaligned(a):
    """The same array one byte beside where its items should lie."""
    room = np.zeros(a.nbytes + 1, np.uint8)[1:]
    moved = room.view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


# What makes an array unreadable for C that NumPy would read.
UNREADABLE = {
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "of another dtype": lambda a: a.astype(np.float32),
    "of the other byte order": lambda a: a.astype(">f8"),
    "misaligned": misaligned,
    "with an axis more": lambda a: a[None],
    "a list": lambda a: a.tolist(),
    "None": lambda a: None,
}
UNREADABLE_MATRIX = {
    **UNREADABLE,
    "too narrow": lambda X: X[:, 1:].copy(),
    "too wide": lambda X: np.c_[X, X],
    "in Fortran's order": np.asfortranarray,
    "flat": np.ravel,
}
UNREADABLE_VECTOR = {
    **UNREADABLE,
    "too short": lambda a: a[1:],
    "too long": lambda a: np.r_[a, 0],
    "of one item": lambda a: a[:1],
    "complex": lambda a: a.astype(complex),
}


@pytest.mark.parametrize("n_rows", [1, 2, 100])
@pytest.mark.parametrize("spoil", UNREADABLE_MATRIX.values(), ids=UNREADABLE_MATRIX)
def test_predict_refuses_an_x_that_it_cannot_read(spoil, n_rows):
    problem = Problem(n_rows=n_rows)
    if n_rows == 1 and spoil is np.asfortranarray:
        pytest.skip("of one row it is C's order too")
    with pytest.raises(ValueError, match="X"):
        problem.network.predict(problem.theta, spoil(problem.X))


@pytest.mark.parametrize("n_rows", [0, 1, 100])
@pytest.mark.parametrize("spoil", UNREADABLE_VECTOR.values(), ids=UNREADABLE_VECTOR)
def test_predict_refuses_a_theta_that_it_cannot_read(spoil, n_rows):
    problem = Problem(n_rows=n_rows)
    for X in (problem.X, csr_matrix(problem.X)):
        with pytest.raises(ValueError, match="theta"):
            problem.network.predict(spoil(problem.theta), X)


def test_predict_reads_arrays_that_nobody_may_write():
    problem = Problem()
    expected = problem.network.predict(problem.theta, problem.X)
    problem.theta.flags.writeable = problem.X.flags.writeable = False
    assert np.array_equal(problem.network.predict(problem.theta, problem.X), expected)


@pytest.mark.parametrize("spoil", UNREADABLE_VECTOR.values(), ids=UNREADABLE_VECTOR)
def test_a_trainer_refuses_vectors_that_it_cannot_read(spoil):
    problem = Problem()
    if spoil(problem.theta) is None:
        pytest.skip("means that there are none")
    with pytest.raises(ValueError, match="theta"):
        problem.trainer(theta=spoil(problem.theta))
    problem.weight = spoil(problem.weight)
    with pytest.raises(ValueError, match="sample_weight"):
        problem.trainer(weighted=True)


@pytest.mark.parametrize("spoil", UNREADABLE_MATRIX.values(), ids=UNREADABLE_MATRIX)
def test_a_trainer_refuses_matrices_that_it_cannot_read(spoil):
    problem = Problem("identity", "squared_error")
    if spoil(problem.X) is not None:
        with pytest.raises(ValueError):
            problem.trainer(spoil(problem.X))
    if not isinstance(spoil(problem.target), list):  # lists are made arrays
        problem.target = spoil(problem.target)
        with pytest.raises(ValueError):
            problem.trainer()


def test_a_trainer_refuses_a_theta_that_nobody_may_write():
    problem = Problem()
    theta = problem.theta.copy()
    theta.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        problem.trainer(theta=theta)


@pytest.mark.parametrize(
    "theta",
    [np.zeros(1), np.zeros(()), 0.5, None, np.zeros((1, Problem().network.n_params))],
)
@pytest.mark.parametrize("method", ["loss_gradient", "backpropagate", "judge"])
def test_parameters_of_another_shape_are_not_spread_over_the_network(method, theta):
    problem = Problem()
    trainer = problem.trainer(solver="lbfgs", held_out=[0])
    with pytest.raises(ValueError, match="theta"):
        getattr(trainer, method)(theta)
    assert trainer.theta.tobytes() == problem.theta.tobytes()
    getattr(trainer, method)(problem.theta.astype(np.float32))


NO_NETWORKS = {
    "no layers": dict(layer_sizes=()),
    "one layer": dict(layer_sizes=(3,)),
    "no units": dict(layer_sizes=(3, 0, 2)),
    "an activation too few": dict(activations=()),
    "an unknown activation": dict(activations=("swish",)),
    "an unknown output": dict(output="argmax"),
    "a loss of another output": dict(loss="poisson"),
    "integers": dict(dtype=np.int64),
    "the other byte order": dict(dtype=">f8"),
}


@pytest.mark.parametrize("wrong", NO_NETWORKS.values(), ids=NO_NETWORKS)
def test_networks_that_cannot_be_are_refused(wrong):
    right = dict(
        layer_sizes=(3, 4, 2),
        activations=("relu",),
        output="softmax",
        loss="log_loss",
        dtype=np.float64,
    )
    Network(**right)
    with pytest.raises(ValueError):
        Network(**{**right, **wrong})


@pytest.mark.parametrize("cls", [Network, Trainer, Recorder, CsrData])
def test_no_object_is_made_without_its_arguments(cls):
    with pytest.raises(TypeError):
        cls.__new__(cls)
    with pytest.raises(TypeError):
        cls(None, None, None, None)


def test_to_initialize_an_object_again_changes_nothing():
    problem = Problem()
    expected = problem.network.predict(problem.theta, problem.X)
    trainer = problem.trainer()
    small = Problem(sizes=(1, 2), activations=())
    with suppress(TypeError):
        problem.network.__init__((1, 2), (), "softmax", "log_loss", np.float64)
    with suppress(TypeError):
        trainer.__init__(small.network, small.theta, small.X, small.target)
    assert np.array_equal(problem.network.predict(problem.theta, problem.X), expected)
    assert trainer.run(2) == "max_iter"
    assert outcome(trainer) == outcome(problem.train(max_iter=2)[0])


def spoiled_csr(name, value):
    """A 4 x 12 CSR matrix of which one array or the shape was replaced."""
    X = csr_matrix(np.eye(4, 12) + np.eye(4, 12, k=5))
    assert X.indices.tolist() == [0, 5, 1, 6, 2, 7, 3, 8]
    if name == "shape":
        X._shape = value
    else:
        setattr(X, name, value)
    return X


MALFORMED = {
    "indptr of two axes": ("indptr", np.array([[0, 2, 4, 6, 8]])),
    "indptr too short": ("indptr", np.array([0, 2, 4, 8])),
    "indptr too long": ("indptr", np.array([0, 2, 4, 6, 8, 8])),
    "indptr begins late": ("indptr", np.array([1, 2, 4, 6, 8])),
    "indptr begins below 0": ("indptr", np.array([-1, 2, 4, 6, 8])),
    "indptr descends": ("indptr", np.array([0, 4, 2, 6, 8])),
    "indptr ends late": ("indptr", np.array([0, 2, 4, 6, 9])),
    "indptr far out": ("indptr", np.array([0, 2, 4, 6, 2**62])),
    "unsigned indptr descends": ("indptr", np.array([0, 4, 2, 6, 8], np.uint32)),
    "unsigned indptr far out": ("indptr", np.array([0, 2, 4, 2**63, 8], np.uint64)),
    "indptr of floats": ("indptr", np.array([0, 2, 4, 6, 8.0])),
    "index below 0": ("indices", np.array([-1, 5, 1, 6, 2, 7, 3, 8], np.int32)),
    "index beyond": ("indices", np.array([0, 5, 1, 6, 2, 7, 3, 12], np.int32)),
    "index wraps to 3": ("indices", np.array([0, 5, 1, 6, 2, 7, 2**32 + 3, 2**32 + 8])),
    "index wraps": ("indices", np.array([0, 5, 1, 6, 2, 7, 3, 2**64 - 1], np.uint64)),
    "indices descend": ("indices", np.array([0, 5, 6, 1, 2, 7, 3, 8], np.int32)),
    "index twice": ("indices", np.array([0, 5, 1, 6, 7, 7, 3, 8], np.int32)),
    "wide index twice": ("indices", np.array([0, 5, 1, 6, 7, 7, 3, 8])),
    "too few indices": ("indices", np.array([0, 5, 1, 6, 2, 7, 3], np.int32)),
    "indices of floats": ("indices", np.array([0, 5, 1, 6, 2, 7, 3, 8.0])),
    "too few items": ("data", np.ones(7)),
    "items of two axes": ("data", np.ones((8, 1))),
    "items of another dtype": ("data", np.ones(8, np.float32)),
    "items of the other byte order": ("data", np.ones(8, ">f8")),
    "rows that are not there": ("shape", (5, 12)),
    "a row too many": ("shape", (3, 12)),
    "columns that are not there": ("shape", (4, 13)),
}


@pytest.mark.parametrize("name, value", MALFORMED.values(), ids=MALFORMED)
def test_malformed_csr_matrices_are_refused(name, value):
    problem = Problem(n_rows=4)
    X = spoiled_csr(name, value)
    with pytest.raises(ValueError, match="X"):
        problem.network.predict(problem.theta, X)
    with pytest.raises(ValueError, match="X"):
        problem.trainer(X)


@pytest.mark.parametrize("where", [0, 1, 63, 64, 65, 300, 599])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_one_wrong_index_is_found_in_any_row(where, dtype):
    problem = Problem(n_rows=600, zeros=0.6)
    problem.X[where] = 1  # a full row, after and before which others may be empty
    problem.X[where - 1 : where] = problem.X[where + 1 : where + 2] = 0
    for change in ((0, -1), (11, 12), (5, 4), (5, 6), (5, 99)):
        X = csr_matrix(problem.X)
        X.indices, X.indptr = X.indices.astype(dtype), X.indptr.astype(dtype)
        problem.network.predict(problem.theta, X)
        place, value = change
        X.indices[X.indptr[where] + place] = value
        with pytest.raises(ValueError, match="malformed"):
            problem.network.predict(problem.theta, X)


def spread(a):
    return np.repeat(a, 2)[::2]


LEGAL_CSR = {
    "strided items": dict(data=spread),
    "strided indices": dict(indices=spread),
    "strided indptr": dict(indptr=spread),
    "misaligned": dict(data=misaligned, indices=misaligned, indptr=misaligned),
    "unsigned": dict(indices=np.uint32, indptr=np.uint64),
    "small integers": dict(indices=np.uint8, indptr=np.int16),
    "the other byte order": dict(
        indices=lambda a: a.astype(">i4"), indptr=lambda a: a.astype(">i8")
    ),
    "more room than entries": dict(
        data=lambda a: np.r_[a, np.nan], indices=lambda a: np.r_[a, 99].astype(np.int32)
    ),
    "read-only": dict.fromkeys(
        ("data", "indices", "indptr"), lambda a: np.frombuffer(a.tobytes(), a.dtype)
    ),
}


@pytest.mark.parametrize("changes", LEGAL_CSR.values(), ids=LEGAL_CSR)
def test_every_form_of_a_csr_matrix_gives_the_bits_of_the_dense_one(changes):
    problem = Problem(n_rows=20, zeros=0.7)
    X = csr_matrix(problem.X)
    for name, change in changes.items():
        setattr(X, name, change(getattr(X, name)))
    expected = problem.network.predict(problem.theta, problem.X)
    assert np.array_equal(problem.network.predict(problem.theta, X), expected)
    assert outcome(problem.train(X)[0]) == outcome(problem.train()[0])


def test_another_sparse_format_is_refused():
    problem = Problem(sizes=(12, 3), activations=(), n_rows=12)
    for X in (csr_matrix(problem.X).tocsc(), csr_matrix(problem.X).tobsr()):
        with pytest.raises(ValueError, match="CSR"):
            problem.network.predict(problem.theta, X)
        with pytest.raises(ValueError, match="CSR"):
            problem.trainer(X)


def optimizer_with(**changes):
    optimizer = Problem().train()[0].optimizer
    for name, value in changes.items():
        setattr(optimizer, name, value)
    return optimizer


SWAPPED = optimizer_with().state.astype(">f8")
NO_NUMBERS = {
    "no rows in a batch": dict(batch_size=0),
    "fewer than no rows in a batch": dict(batch_size=-5),
    "half a row in a batch": dict(batch_size=2.5),
    "no threads": dict(n_threads=0),
    "a negative t": dict(t=-1),
    "an absurd t": dict(t=2**63),
    "a negative patience": dict(no_improvement_count=-1),
    "nan for patience": dict(n_iter_no_change=np.nan),
    "nan for alpha": dict(alpha=np.nan),
    "nan for the rate": dict(learning_rate_init=np.nan),
    "nan for beta_1": dict(beta_1=np.nan),
    "nan for momentum": dict(solver="sgd", momentum=np.nan),
    "nan for epsilon": dict(epsilon=np.nan),
    "an unknown solver": dict(solver="newton"),
    "an unknown schedule": dict(learning_rate="cosine"),
    "no random state": dict(random_state=None),
    "another generator": dict(random_state=np.random.default_rng(0)),
    "rows of two axes": dict(rows=np.zeros((2, 2), np.int64)),
    "a mask of rows": dict(rows=np.ones(150, bool)),
    "rows of floats": dict(rows=np.arange(150.0)),
    "unsigned rows beyond X": dict(rows=np.array([2**64 - 1], np.uint64)),
    "held-out rows of two axes": dict(held_out=np.zeros((2, 2), np.int64)),
    "a negative weight": dict(sample_weight=np.r_[-1.0, np.ones(149)]),
    "a weight of nan": dict(sample_weight=np.r_[np.ones(149), np.nan]),
    "an infinite weight": dict(sample_weight=np.r_[np.inf, np.ones(149)]),
    "labels of the other byte order": dict(target=np.zeros(150, ">i4")),
    "labels of two axes": dict(target=np.zeros((150, 1), np.int32)),
    "negative steps": dict(optimizer=optimizer_with(steps=-1)),
    "absurd steps": dict(optimizer=optimizer_with(steps=2**63)),
    "half a step": dict(optimizer=optimizer_with(steps=1.5)),
    "a rate of nan": dict(optimizer=optimizer_with(learning_rate=np.nan)),
    "state of the other byte order": dict(optimizer=optimizer_with(state=SWAPPED)),
    "state that is no array": dict(optimizer=optimizer_with(state=[1.0, 2.0])),
    "no optimizer": dict(optimizer=np.zeros(3)),
}


@pytest.mark.parametrize("arguments", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_numbers_that_would_lead_training_astray_are_refused(arguments):
    problem = Problem()
    kept = dict(target=problem.target, random_state=np.random.RandomState(0))
    with pytest.raises(ValueError):
        Trainer(
            problem.network,
            problem.theta.copy(),
            problem.X,
            **{**kept, **arguments},
        )


@pytest.mark.parametrize("max_iter", [0, -1, 2**31, 2**80])
def test_run_refuses_a_number_of_epochs_that_it_cannot_count(max_iter):
    with pytest.raises(ValueError, match="max_iter"):
        Problem().trainer().run(max_iter)


def test_strided_optimizer_states_are_copied():
    problem = Problem()
    first, _ = problem.train()
    spread_out = np.repeat(first.optimizer.state, 2, axis=1)[:, ::2]
    runs = [
        problem.train(optimizer=Optimizer("adam", first.learning_rate, 10, state))[0]
        for state in (first.optimizer.state, spread_out)
    ]
    assert outcome(runs[0]) == outcome(runs[1])


def test_training_goes_on_with_its_own_state_whatever_becomes_of_the_optimizer():
    problem = Problem()
    trainer = problem.trainer()
    trainer.optimizer.state = None
    trainer.run(3)
    assert trainer.theta.tobytes() == problem.train()[0].theta.tobytes()


def test_labels_that_change_during_training_lead_nowhere():
    problem = Problem()
    expected, _ = problem.train()
    labels = problem.target
    settings = dict(on_epoch=lambda *_: labels.fill(2**30))
    assert outcome(problem.train(**settings)[0]) == outcome(expected)


def test_strided_labels_are_read_as_they_are():
    problem = Problem()
    expected, _ = problem.train()
    problem.target = np.repeat(problem.target, 3)[::3]
    assert outcome(problem.train()[0]) == outcome(expected)


def test_softmax_of_one_output_has_one_label():
    problem = Problem(sizes=(12, 1), activations=(), n_rows=600)
    problem.target[:] = 0
    trainer, _ = problem.train(held_out=np.arange(600), batch_size=600)
    assert trainer.validation_scores == [1, 1, 1]
    problem.target[0] = 1
    with pytest.raises(ValueError, match="labels"):
        problem.trainer()


def test_labels_have_no_r2():
    problem = Problem("identity", "squared_error")
    problem.target = np.zeros(150, np.int32)
    problem.train()
    with pytest.raises(ValueError, match="matrix of targets"):
        problem.trainer(held_out=[0, 1])


MANY_RECORDS = """
import numpy as np
from test_engine import Problem

problem = Problem()
trainer = problem.trainer(monitor=True)
for _ in range(2000):
    trainer.run(1)
trainer = problem.trainer(solver="lbfgs", monitor=True)
for _ in range(2000):
    trainer.loss_gradient(problem.theta)
    trainer.end_iteration(0, problem.theta, problem.theta)
assert len(trainer.recorder.flow()["epoch"]) == 1
for iteration in (-1, 2**62):
    try:
        trainer.end_iteration(iteration, problem.theta, problem.theta)
        print("not refused")
    except ValueError:
        print("refused")
"""


def test_records_of_epochs_that_do_not_ascend_end():
    """The recorder looked for one to drop for ever, or divided by 0."""
    assert run_python(MANY_RECORDS, timeout=300).split() == ["refused"] * 2


def test_a_recorder_refuses_batches_that_cannot_be():
    network = Problem().network
    for chunk_rows, batches in ((0, 1), (-1, 1), (2049, 1), (10, 0)):
        with pytest.raises(ValueError):
            Recorder(network, chunk_rows, batches, False)


def test_a_kernel_table_is_of_floats():
    for dtype in (np.dtype(np.int64), np.dtype(np.complex64)):
        with pytest.raises(ValueError, match="dtype"):
            table_address("scalar", dtype)


# ---- a trainer has one user at a time


def test_a_callback_cannot_use_the_trainer_that_calls_it():
    problem = wide_problem()
    trainer = problem.trainer(held_out=[0, 1])
    uses = {
        "run": lambda: trainer.run(1),
        "judge": lambda: trainer.judge(problem.theta),
        "loss_gradient": lambda: trainer.loss_gradient(problem.theta),
        "backpropagate": lambda: trainer.backpropagate(problem.theta),
        "end_iteration": lambda: trainer.end_iteration(0, problem.theta, problem.theta),
        "enter": trainer.__enter__,
        "exit": trainer.__exit__,
    }
    refused = []

    def use(*_):
        for name, call in uses.items():
            with pytest.raises(RuntimeError, match="at work"):
                call()
            refused.append(name)

    trainer.run(2, use)
    assert refused == [*uses, *uses]
    assert outcome(trainer) == outcome(problem.train(held_out=[0, 1], max_iter=2)[0])


def test_two_threads_cannot_use_one_trainer_at_once():
    problem = wide_problem()
    trainer = problem.trainer(n_threads=2)
    inside, free = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        free.wait(300)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(trainer.run, 1, wait)
        assert inside.wait(300)
        try:
            with pytest.raises(RuntimeError, match="at work"):
                trainer.run(1)
        finally:
            free.set()
        assert first.result() == "max_iter"
    assert trainer.run(1) == "max_iter"


def test_of_threads_that_use_one_trainer_each_is_refused_or_told_its_own_status():
    problem = Problem(sizes=(3, 2), activations=(), n_rows=4)
    trainer = problem.trainer(batch_size=4, n_iter_no_change=np.inf)
    barrier = threading.Barrier(4)

    def use():
        told = set()
        barrier.wait()
        for _ in range(2000):
            try:
                told.add(trainer.run(1))
            except RuntimeError as error:
                assert "at work" in str(error)
        return told

    with ThreadPoolExecutor(4) as pool:
        uses = [pool.submit(use) for _ in range(4)]
    assert set().union(*[use.result() for use in uses]) == {"max_iter"}


def test_run_is_not_for_lbfgs_nor_gradients_for_the_others():
    problem = Problem()
    with pytest.raises(ValueError, match="solver"):
        problem.trainer(solver="lbfgs").run(1)
    trainer = problem.trainer()
    for method in (trainer.loss_gradient, trainer.backpropagate):
        with pytest.raises(ValueError, match="lbfgs"):
            method(problem.theta)
    assert outcome(trainer) == outcome(problem.trainer())


@pytest.mark.thread_unsafe(reason="counts the threads of the process")
def test_a_block_is_entered_once_and_left_once():
    problem = wide_problem()
    trainer = problem.trainer(n_threads=3)
    with pytest.raises(RuntimeError, match="not entered"):
        trainer.__exit__(None, None, None)
    with no_thread_outlives(), trainer:
        with pytest.raises(RuntimeError, match="started"):
            trainer.__enter__()
        trainer.run(3)  # with the threads of the block
        assert threads() >= 3
    assert outcome(trainer) == outcome(problem.train()[0])


def test_python_sees_nothing_of_a_trainer_that_only_compiled_code_may_call():
    methods = {name for name in dir(Trainer) if callable(getattr(Trainer, name))}
    public = {name for name in methods if not name.startswith("_")}
    assert public == {"run", "judge", "loss_gradient", "end_iteration", "backpropagate"}
    assert not {name for name in methods - public if not name.startswith("__")}
    with pytest.raises(TypeError):
        pickle.dumps(Problem().trainer())


# ---- threads that cannot be had, or die

# Each gives a thread that never works, in its own way.
DEAD_THREADS = {
    "dies at once": lambda start, work: start(lambda: None, ()),
    "never begins": lambda start, work: None,
    "begins with an error": lambda start, work: start(work[0], ()),
    "dies with what it came with": lambda start, work: start(lambda *_: None, work[1]),
}

DEAD_THREAD = """
import _thread, sys
from test_engine import DEAD_THREADS, no_thread_outlives, outcome, wide_problem

problem = wide_problem()
alone, _ = problem.train()
start, count = _thread.start_new_thread, []

def start_but_one(*work):
    count.append(1)
    if len(count) == int(sys.argv[2]):
        return DEAD_THREADS[sys.argv[1]](start, work)
    return start(*work)

_thread.start_new_thread = start_but_one
with no_thread_outlives():
    team, _ = problem.train(n_threads=4)
assert len(count) == 3
print(team.n_threads, outcome(team) == outcome(alone))
"""


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("death", DEAD_THREADS)
def test_nobody_waits_for_a_thread_that_dies_before_it_works(death, which):
    assert run_python(DEAD_THREAD, death, str(which), timeout=300) == "3 True\n"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("comes", ["before", "after"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_an_error_while_threads_start_ends_them_and_is_raised(
    which, comes, error, monkeypatch
):
    problem = wide_problem()
    expected, _ = problem.train(max_iter=2)
    trainer = problem.trainer(n_threads=4)
    start, count = _thread.start_new_thread, []

    def fail(*work):
        count.append(1)
        if len(count) < which or comes == "after":
            start(*work)
        if len(count) == which:
            raise error

    with no_thread_outlives(), monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        with pytest.raises(error):
            trainer.run(2)
    assert trainer.theta.tobytes() == problem.theta.tobytes()
    trainer.run(2)
    assert trainer.n_threads == 4
    assert outcome(trainer) == outcome(expected)


OUT_OF_MEMORY = """
import sys, time
import _testcapi
import numpy as np
from test_engine import Problem, threads, wide_problem

name, forever = sys.argv[1], sys.argv[2] == "True"
settings = dict(n_iter_no_change=np.inf)
if name == "curves":  # more epochs than the compiled loop keeps
    problem, epochs = Problem(sizes=(3, 2), activations=(), n_rows=4), 600
    settings["batch_size"] = 4
else:
    problem, epochs = wide_problem(), 3
    settings["n_threads"] = 3

def pass_by(epoch, loss):
    pass

def gradients(trainer):
    with trainer:
        trainer.loss_gradient(problem.theta)
        trainer.loss_gradient(problem.theta)

calls = {
    "run": lambda trainer: trainer.run(epochs),
    "curves": lambda trainer: trainer.run(epochs),
    "callback": lambda trainer: trainer.run(epochs, pass_by),
    "gradients": gradients,
}
if name == "gradients":
    settings["solver"] = "lbfgs"
call = calls[name]

# Weights may be those after any epoch, and no others.
whole = {problem.theta.tobytes()}
if name != "gradients":
    alone = problem.trainer(**{**settings, "n_threads": 1})
    alone.run(epochs, lambda *_: whole.add(alone.theta.tobytes()))
before = threads()
failed, k = 0, 0
while True:
    trainer, ended = problem.trainer(**settings), False
    _testcapi.set_nomemory(k, 0 if forever else k + 1)
    try:
        call(trainer)
        ended = True
    except MemoryError:
        failed += 1
    finally:
        _testcapi.remove_mem_hooks()
    while threads() > before:  # the operating system takes its time
        time.sleep(0.001)
    assert trainer.theta.tobytes() in whole, k
    assert len(trainer.loss_curve) == trainer.n_iter or not ended
    call(trainer)
    assert len(trainer.validation_scores) == 0
    if name in ("run", "curves"):
        # What could not be moved came later.
        done = epochs if ended else len(trainer.loss_curve) - epochs
        assert len(trainer.loss_curve) == epochs + done, (k, len(trainer.loss_curve))
    if ended and forever:
        break
    k += 1 if name != "curves" or k < 40 else 7
    if k >= (1500 if name == "curves" else 120):
        break
assert failed > 5
print("passed")
"""


def can_fail_allocations():
    try:
        import _testcapi
    except ImportError:
        return False
    return hasattr(_testcapi, "set_nomemory")


@pytest.mark.skipif(not can_fail_allocations(), reason="needs _testcapi.set_nomemory")
@pytest.mark.parametrize("forever", [True, False], ids=["from then on", "once"])
@pytest.mark.parametrize("name", ["run", "curves", "callback", "gradients"])
def test_training_without_memory_ends_and_can_go_on(name, forever):
    printed = run_python(OUT_OF_MEMORY, name, str(forever), timeout=600)
    assert printed.strip() == "passed"


FORK_IN_CALLBACK = """
import os
from test_engine import outcome, wide_problem

problem = wide_problem()
parent = os.getpid()

def fork(epoch, loss):
    if epoch == 1:
        fork.child = os.fork()

trainer = problem.trainer(n_threads=3)
try:
    trainer.run(3, fork)
except RuntimeError as error:
    os._exit(7 if "forked" in str(error) and os.getpid() != parent else 1)
_, status = os.waitpid(fork.child, 0)
same = outcome(trainer) == outcome(problem.train()[0])
print(os.waitstatus_to_exitcode(status), same)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_within_a_run_is_told_that_its_threads_are_elsewhere():
    assert run_python(FORK_IN_CALLBACK, timeout=300) == "7 True\n"
