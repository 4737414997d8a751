"""What partial_fit keeps from call to call: no other bits, no hold on anybody's data.

The slow twin is the same stream with nothing kept.
"""

import _thread
import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from problem import Problem, every_dtype, no_thread_outlives, outcome
from scipy.sparse import csr_matrix

from cbp import BPClassifier, BPRegressor
from cbp._data import Data
from cbp._kernels import all_finite
from cbp._progress import Progress
from cbp._solvers import STOCHASTIC

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

random = np.random.RandomState(0)
X = random.normal(size=(260, 5))
LABELS = np.arange(260) % 3
TARGETS = {
    "labels": (BPClassifier, LABELS),
    "multilabel": (BPClassifier, np.eye(3, dtype=int)[LABELS]),
    "numbers": (BPRegressor, random.normal(size=(260, 2))),
}
# Chunks of a stream: the same size again, and another.
CHUNKS = [slice(i, i + 1) for i in range(4)]
CHUNKS += [slice(10, 17), slice(17, 24), slice(0, 260), slice(5, 260), slice(0, 255)]

every_target = pytest.mark.parametrize("name", TARGETS)


def model_of(name, dtype=np.float64, **parameters):
    estimator, y = TARGETS[name]
    model = estimator(hidden_layer_sizes=7, max_iter=1, random_state=0, **parameters)
    return model.fit(X[:60].astype(dtype), y[:60])


@pytest.mark.parametrize("n_rows", [1, 20])
def test_a_stream_that_begins_with_partial_fit_goes_on(n_rows):
    models = [BPRegressor(hidden_layer_sizes=7, random_state=0) for _ in range(2)]
    for rows in (slice(0, n_rows), slice(30, 30 + n_rows)) * 2:
        forget(models[1])
        for model in models:
            model.partial_fit(X[rows], TARGETS["numbers"][1][rows])
    assert left_behind(models[0]) == left_behind(models[1])


def forget(model):
    """Nothing is kept for the next call."""
    model._fitted.__dict__.pop("_kept", None)


def kept_trainer(model):
    (kept,) = model._fitted._kept
    return kept.trainer


def left_behind(model):
    """All that must have the same bits whatever was kept."""
    optimizer = model._optimizer
    return (
        model._theta.tobytes(),
        tuple(model.loss_curve_),
        model.t_,
        optimizer.state.tobytes(),
        optimizer.steps,
        optimizer.learning_rate,
        pickle.dumps(model.gradient_flow_),
        model._fit_summary,
    )


@every_target
@every_dtype
@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_has_the_bits_of_one_that_keeps_nothing(name, dtype, solver, weighted):
    data, y = X.astype(dtype), TARGETS[name][1]
    weight = np.linspace(0, 2, 260) if weighted else None
    model = model_of(name, dtype, solver=solver)
    twin = model_of(name, dtype, solver=solver)
    for rows in CHUNKS:
        forget(twin)
        for each in (model, twin):
            w = None if weight is None else weight[rows]
            each.partial_fit(data[rows], y[rows], sample_weight=w)
        assert left_behind(model) == left_behind(twin)


def test_buffers_are_kept_as_long_as_calls_are_alike():
    model, y = model_of("labels"), LABELS
    model.partial_fit(X[:1], y[:1])
    first = kept_trainer(model)
    model.partial_fit(X[1:2], y[1:2]).partial_fit(X[:1], y[:1], sample_weight=[0.5])
    assert kept_trainer(model) is first
    model.partial_fit(X[:2], y[:2])  # another number of rows
    second = kept_trainer(model)
    assert second is not first
    for same in (csr_matrix(X[:2]), X[:2].tolist()):
        model.partial_fit(same, y[:2])
    model.partial_fit(X[:2], y[:2])
    assert kept_trainer(model) is not second  # those rows were sparse


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_params(alpha=0.1),
        lambda model: model.set_params(learning_rate_init=0.1),
        lambda model: model.set_params(solver="sgd"),
        lambda model: model.set_params(random_state=5),
        lambda model: model.set_params(shuffle=False),
        lambda model: model.set_params(n_jobs=2),
        lambda model: model.set_params(monitor=False),
        lambda model: model.set_params(batch_size=3),
        lambda model: model.coefs_.__setitem__(0, np.zeros_like(model.coefs_[0])),
        lambda model: model.coefs_[1].__imul__(0.5),
        lambda model: setattr(model._optimizer, "steps", 100),
        lambda model: model._optimizer.state.__imul__(0.5),
        lambda model: delattr(model, "_optimizer"),
    ],
)
def test_what_a_user_changes_between_calls_counts(change):
    model, twin = model_of("labels"), model_of("labels")
    for each in (model, twin):
        each.partial_fit(X[:40], LABELS[:40])
        change(each)
    forget(twin)
    for each in (model, twin):
        each.partial_fit(X[40:80], LABELS[40:80])
    assert model._theta.tobytes() == twin._theta.tobytes()
    assert model.loss_curve_ == twin.loss_curve_


def test_layers_in_a_list_are_looked_at_in_every_call():
    model = BPClassifier(hidden_layer_sizes=[7], max_iter=1, random_state=0)
    model.fit(X, LABELS).partial_fit(X[:1], LABELS[:1])
    model.hidden_layer_sizes[0] = 8
    with pytest.raises(ValueError, match="another shape"):
        model.partial_fit(X[:1], LABELS[:1])


def test_two_copies_of_a_model_go_their_own_ways():
    model, alone = model_of("labels"), model_of("labels")
    for each in (model, alone):
        each.partial_fit(X[:1], LABELS[:1])
    twin = copy.copy(model)
    model.partial_fit(X[5:6], LABELS[5:6])
    before = left_behind(model)
    twin.partial_fit(X[1:2], LABELS[1:2]).partial_fit(X[2:3], LABELS[2:3])
    assert left_behind(model) == before
    alone.partial_fit(X[1:2], LABELS[1:2]).partial_fit(X[2:3], LABELS[2:3])
    assert left_behind(twin) == left_behind(alone)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 40)])
def test_a_call_that_fails_leaves_the_stream_as_it_was(rows):
    y = TARGETS["numbers"][1]
    options = {"solver": "sgd", "learning_rate_init": 0.5}
    model, twin = model_of("numbers", **options), model_of("numbers", **options)
    for each in (model, twin):
        each.partial_fit(X[rows], y[rows])
    before = left_behind(model)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="finite"):
        model.partial_fit(X[rows], y[rows] * 1e200)
    assert left_behind(model) == before
    for each in (model, twin):
        each.partial_fit(X[rows], y[rows])
    assert left_behind(model) == left_behind(twin)


def test_nothing_that_is_kept_goes_into_a_pickle_or_a_deep_copy():
    model = model_of("labels").partial_fit(X[:1], LABELS[:1])
    twins = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for twin in twins:
        assert "_kept" not in vars(twin._fitted)
    for each in (model, *twins):
        each.partial_fit(X[1:2], LABELS[1:2])
    assert all(left_behind(twin)[:5] == left_behind(model)[:5] for twin in twins)


def test_no_data_is_held_after_a_call():
    model = model_of("numbers")
    data, y = X[:3].copy(), TARGETS["numbers"][1][:3].copy()
    weight = np.ones(3)
    model.partial_fit(data, y, weight)
    assert kept_trainer(model)
    held = [weakref.ref(array) for array in (data, y, weight)]
    del data, y, weight
    gc.collect()
    assert [array() for array in held] == [None, None, None]


@pytest.mark.parametrize(
    "layers, data",
    [((400, 400), X[:1]), (7, np.zeros((1000, 2000))), (2, np.zeros((600_000, 1)))],
)
def test_what_is_large_is_not_kept(layers, data):
    model = BPRegressor(hidden_layer_sizes=layers, max_iter=1, random_state=0)
    model.partial_fit(data, np.zeros(len(data)))
    assert model._fitted._kept == []


def test_the_class_of_a_user_keeps_nothing():
    """Its parameters may be checked in other ways, or not at all."""

    class Own(BPRegressor):
        _parameter_constraints = {}

    y = TARGETS["numbers"][1]
    model = Own(hidden_layer_sizes=5, random_state=0).partial_fit(X, y)
    plain = BPRegressor(hidden_layer_sizes=5, random_state=0).partial_fit(X, y)
    for each in (model, plain):
        each.set_params(alpha=100.0).partial_fit(X, y)
    np.testing.assert_array_equal(model._theta, plain._theta)


def test_every_call_warns_of_batches_larger_than_the_data():
    model = model_of("labels", batch_size=50)
    for _ in range(3):
        with pytest.warns(UserWarning, match="clipped"):
            model.partial_fit(X[:10], LABELS[:10])


def test_threads_that_could_not_be_had_are_asked_for_again(monkeypatch):
    data = random.normal(size=(400, 64))
    y = random.normal(size=(400, 10))
    model = BPRegressor(
        hidden_layer_sizes=(100, 100), n_jobs=2, batch_size=400, random_state=0
    )
    model.partial_fit(data, y)
    started = []
    start = _thread.start_new_thread

    def fail(*_):
        raise RuntimeError("can't start new thread")

    def count(*arguments):
        started.append(arguments)
        return start(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", fail)
        model.partial_fit(data, y)
    monkeypatch.setattr(_thread, "start_new_thread", count)
    model.partial_fit(data, y)
    assert len(started) == 1


# ---- the trainer's part


def renewed(problem, trainer, **progress):
    data = Data(problem.network, problem.X, problem.target)
    theta = problem.theta.copy()
    trainer.renew(theta, data, Progress(**progress), np.random.RandomState(3))
    return trainer


@every_dtype
@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("batch_size", [1, 20])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_renewed_trainer_is_as_a_new_one(dtype, solver, batch_size, n_threads):
    problem = Problem(dtype=dtype, n_rows=70)
    settings = {
        "solver": solver,
        "batch_size": batch_size,
        "n_threads": n_threads,
        "learning_rate": "invscaling",
        "monitor": True,
    }
    new, _ = problem.train(**settings)
    used, _ = problem.train(theta=problem.theta * 2, max_iter=5, **settings)
    used.let_go()
    renewed(problem, used).run(3)
    assert outcome(used) == outcome(new)
    flows = [trainer.recorder.flow() for trainer in (used, new)]
    for key, column in flows[0].items():
        np.testing.assert_array_equal(column, flows[1][key])
    state = used.progress.optimizer
    fresh = problem.trainer(optimizer=state, **settings)
    fresh.run(2)
    renewed(problem, used, optimizer=state).run(2)
    assert outcome(used) == outcome(fresh)


def test_a_trainer_is_renewed_only_with_what_its_buffers_hold():
    problem, other = Problem(n_rows=30), Problem(n_rows=31)
    progress, rng = Progress(), np.random.RandomState(0)
    trainer = problem.trainer()
    theta = problem.theta.copy()

    def renew(problem, X=None, rng=rng):
        data = Data(problem.network, problem.X if X is None else X, problem.target)
        trainer.renew(theta, data, progress, rng)

    with pytest.raises(ValueError, match="30 dense rows"):
        renew(other)
    with pytest.raises(ValueError, match="30 dense rows"):
        renew(problem, csr_matrix(problem.X))
    with pytest.raises(ValueError, match="another network"):
        renew(Problem(n_rows=30, activations=("tanh", "tanh")))
    with pytest.raises(ValueError, match="RandomState"):
        renew(problem, rng=None)
    for options in ({"X": csr_matrix(problem.X)}, {"held_out": np.arange(5)}):
        trainer = problem.trainer(**options)
        with pytest.raises(ValueError, match="none held out"):
            renew(problem)


def test_a_trainer_without_data_refuses_to_work():
    trainer = Problem(n_rows=30).trainer()
    trainer.let_go()
    for call in (lambda: trainer.run(1), trainer.let_go, trainer.__enter__):
        with pytest.raises(RuntimeError, match="let go"):
            call()


def test_data_that_threads_may_need_stay():
    trainer = Problem(n_rows=30).trainer(n_threads=2)
    with no_thread_outlives(), trainer:
        with pytest.raises(RuntimeError, match="may still need"):
            trainer.let_go()
        trainer.run(1)


# ---- are all numbers finite?


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", ">f8", ">f4", "longdouble", "i8", "u1", "?", "c16"]
)
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::2], lambda x: x[:0]]
)
def test_all_finite_is_what_numpy_says(dtype, view):
    x = np.ones((5, 8), dtype)
    assert all_finite(view(x)) is True
    if np.dtype(dtype).kind in "fc":
        for bad in (np.inf, -np.inf, np.nan):
            x = np.ones((5, 8), dtype)
            x[4, 6] = bad
            assert all_finite(view(x)) is bool(np.isfinite(view(x)).all())


def test_all_finite_reads_what_is_not_aligned():
    raw = np.zeros(8 * 6 + 1, "u1")
    x = raw[1:].view("f8")
    assert not x.flags.aligned
    assert all_finite(x) is True
    x[5] = np.nan
    assert all_finite(x) is False
