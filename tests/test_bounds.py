"""No caller leads a kernel out of its buffers: what does not fit is refused.

These are the checks of the compiled rooms, for any caller; those of the estimators are
in test_errors.py.
"""

from contextlib import suppress

import numpy as np
import pytest
from child import run_python
from problem import (
    Problem,
    make_trainer,
    outcome,
)
from scipy.sparse import csr_matrix

from cbp._data import CsrData, Data
from cbp._kernels import table_address
from cbp._network import Network
from cbp._prediction import predict
from cbp._progress import Optimizer
from cbp._recorder import Recorder
from cbp._training import Trainer
from cbp._weights import Layout, Weights

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
        predict(problem.network, problem.theta, spoil(problem.X))


@pytest.mark.parametrize("n_rows", [0, 1, 100])
@pytest.mark.parametrize("spoil", UNREADABLE_VECTOR.values(), ids=UNREADABLE_VECTOR)
def test_predict_refuses_a_theta_that_it_cannot_read(spoil, n_rows):
    problem = Problem(n_rows=n_rows)
    for X in (problem.X, csr_matrix(problem.X)):
        with pytest.raises(ValueError, match="theta"):
            predict(problem.network, spoil(problem.theta), X)


def test_predict_reads_arrays_that_nobody_may_write():
    problem = Problem()
    expected = predict(problem.network, problem.theta, problem.X)
    problem.theta.flags.writeable = problem.X.flags.writeable = False
    assert np.array_equal(predict(problem.network, problem.theta, problem.X), expected)


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
@pytest.mark.parametrize("method", ["loss_gradient", "backpropagate", "score_weights"])
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


@pytest.mark.parametrize("cls", [Network, Trainer, Recorder, CsrData, Data, Weights])
def test_no_object_is_made_without_its_arguments(cls):
    with pytest.raises(TypeError):
        cls.__new__(cls)
    with pytest.raises(TypeError):
        cls(None, None, None, None)


def test_to_initialize_an_object_again_changes_nothing():
    problem = Problem()
    expected = predict(problem.network, problem.theta, problem.X)
    trainer = problem.trainer()
    small = Problem(sizes=(1, 2), activations=())
    with suppress(TypeError):
        problem.network.__init__((1, 2), (), "softmax", "log_loss", np.float64)
    with suppress(TypeError):
        trainer.__init__(small.network, small.theta, small.X, small.target)
    assert np.array_equal(predict(problem.network, problem.theta, problem.X), expected)
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
        predict(problem.network, problem.theta, X)
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
        predict(problem.network, problem.theta, X)
        place, value = change
        X.indices[X.indptr[where] + place] = value
        with pytest.raises(ValueError, match="malformed"):
            predict(problem.network, problem.theta, X)


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
    expected = predict(problem.network, problem.theta, problem.X)
    assert np.array_equal(predict(problem.network, problem.theta, X), expected)
    assert outcome(problem.train(X)[0]) == outcome(problem.train()[0])


def test_another_sparse_format_is_refused():
    problem = Problem(sizes=(12, 3), activations=(), n_rows=12)
    for X in (csr_matrix(problem.X).tocsc(), csr_matrix(problem.X).tobsr()):
        with pytest.raises(ValueError, match="CSR"):
            predict(problem.network, problem.theta, X)
        with pytest.raises(ValueError, match="CSR"):
            problem.trainer(X)


def optimizer_with(**changes):
    optimizer = Problem().train()[0].progress.optimizer
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
    "an unknown schedule": dict(learning_rate="sine"),
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
        make_trainer(
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
    spread_out = np.repeat(first.progress.optimizer.state, 2, axis=1)[:, ::2]
    runs = [
        problem.train(optimizer=Optimizer("adam", first.learning_rate, 10, state))[0]
        for state in (first.progress.optimizer.state, spread_out)
    ]
    assert outcome(runs[0]) == outcome(runs[1])


def test_training_goes_on_with_its_own_state_whatever_becomes_of_the_optimizer():
    problem = Problem()
    trainer = problem.trainer()
    trainer.progress.optimizer.state = None
    trainer.run(3)
    assert trainer.theta.tobytes() == problem.train()[0].theta.tobytes()


def test_labels_that_change_during_training_lead_nowhere():
    problem = Problem()
    expected, _ = problem.train()
    labels = problem.target
    settings = dict(after_epoch=lambda *_: labels.fill(2**30))
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
    assert trainer.progress.validation_scores == [1, 1, 1]
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
from problem import Problem

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
    layout = Layout(Problem().network)
    for chunk_rows, batches in ((0, 1), (-1, 1), (2049, 1), (10, 0)):
        with pytest.raises(ValueError):
            Recorder(layout, chunk_rows, batches, False)


def test_a_kernel_table_is_of_floats():
    for dtype in (np.dtype(np.int64), np.dtype(np.complex64)):
        with pytest.raises(ValueError, match="dtype"):
            table_address("scalar", dtype)
