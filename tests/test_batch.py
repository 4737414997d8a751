"""One batch, by any threads, pieces, formats and tiers: the same bits; its memory."""

import platform
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from child import run_python
from kernel_table import N_STATES, TIERS
from problem import (
    Problem,
    every_dtype,
    every_loss,
    every_solver,
    outcome,
)
from scipy.sparse import csr_array, csr_matrix

from cbp._batch import divides, fit_bytes
from cbp._catalog import SOLVER_NAMES
from cbp._kernels import ACTIVATIONS, OPTIMIZERS
from cbp._network import Network
from cbp._weights import Layout

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
    assert divides(Layout(problem.network), n_rows) == (n_rows > 512)
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
    for solver in OPTIMIZERS:
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
    trainer.run(4, lambda p: seen.append((p.loss, trainer.theta.copy())))
    for epoch, (loss, theta) in enumerate(seen, 1):
        plain, _ = problem.train(batch_size=40, max_iter=epoch)
        assert plain.theta.tobytes() == theta.tobytes()
        assert plain.progress.loss_curve[-1] == loss
    assert len(seen) == 4


TRAININGS_ON_THIS_TIER = """
import hashlib
from itertools import product

import numpy as np
from scipy.sparse import csr_matrix
from problem import Problem, make_trainer, outcome
from cbp._kernels import ACTIVATIONS, LOSSES, OPTIMIZERS
from cbp._prediction import predict
from cbp import _kernels

print(_kernels.isa())
for dtype in (np.float32, np.float64):
    for output, loss in sorted(LOSSES):
        for activation in ACTIVATIONS:
            problem = Problem(
                output, loss, (activation, "relu"), (9, 18, 7, 3), 150, dtype, 0.5
            )
            cases = (
                (1, 40, problem.X),
                (131, 150, problem.X),
                (64, 150, csr_matrix(problem.X)),
            )
            for solver, (batch_size, n_rows, X) in product(OPTIMIZERS, cases):
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
                digest.update(predict(problem.network, run.theta, X))
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
    if platform.machine() not in ("x86_64", "AMD64"):  # an emulator shows its host's
        flags = set()
    if not {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        pytest.skip("this CPU has no AVX-512, or does not tell")
    assert TIERS[-1] == "avx512"


def test_without_a_choice_the_fastest_tier_is_used():
    assert run_python(IMPORTS, "").strip() == TIERS[-1]


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
@pytest.mark.parametrize("solver", SOLVER_NAMES)
@every_dtype
def test_fit_allocates_what_fit_bytes_says(sizes, n_rows, batch_size, solver, dtype):
    problem = Problem(activations=("relu",), sizes=sizes, n_rows=n_rows, dtype=dtype)
    theta = problem.theta.copy()
    if solver == "lbfgs":
        batch_size = n_rows
    promised = fit_bytes(problem.network, batch_size, solver)
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
    promised = fit_bytes(problem.network, 2000, "sgd", sparse=True)
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
    promised = fit_bytes(problem.network, 300, "sgd")
    tracemalloc.start()
    try:
        problem.train(solver="sgd", batch_size=300, n_threads=16, max_iter=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.05 * promised + (1 << 23)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@every_dtype
def test_fit_keeps_few_copies_of_the_parameters(solver, dtype):
    """Panels and their mirror, and what the solver keeps; theta comes on top."""
    copies = 2 + N_STATES.get(solver, 1)
    network = Network(
        (1000, 1000, 1000, 10), ("relu",) * 2, "softmax", "log_loss", dtype
    )
    theta_bytes = network.n_params * network.dtype.itemsize
    assert fit_bytes(network, 1, solver) <= 1.05 * copies * theta_bytes
