"""Trainer: the reference's trainings, shuffles, patience, scores, how runs end.

What estimators add is in test_estimators.py, batches are in test_batch.py.
"""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from problem import (
    Problem,
    every_dtype,
    every_loss,
    every_solver,
    make_trainer,
    no_thread_outlives,
    outcome,
    threads,
    wide_problem,
)
from scipy.sparse import csr_matrix
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import shuffle as sklearn_shuffle

from cbp._data import Data
from cbp._network import Network
from cbp._prediction import predict
from cbp._progress import Progress, Settings
from cbp._training import Trainer

# ---- the reference's trainings


USUAL = {"": {}, "out of patience": {"tol": 10.0, "n_iter_no_change": 2}}
TRAININGS = {
    case: {"solver": solver, **settings}
    for case, (solver, settings) in reference.cases("trainings", USUAL).items()
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
    assert run.progress.t == expected.t
    assert run.progress.no_improvement_count == expected.no_improvement_count
    assert run.progress.optimizer.steps == expected.steps
    assert run.learning_rate == pytest.approx(expected.learning_rate, rel=1e-12)
    assert run.progress.best_loss == pytest.approx(expected.best_loss, rel=1e-10)
    # A cost near 0 is a difference of larger numbers.
    rounding = 1e-15 * max(expected.loss_curve)
    np.testing.assert_allclose(
        run.progress.loss_curve, expected.loss_curve, rtol=1e-10, atol=rounding
    )
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
    np.testing.assert_allclose(run.progress.loss_curve, expected.loss_curve, rtol=1e-5)


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
        optimizer=pickle.loads(pickle.dumps(first.progress.optimizer)),
        t=first.progress.t,
        best_loss=first.progress.best_loss,
        no_improvement_count=first.progress.no_improvement_count,
        **settings,
    )
    second.run(3)
    assert (
        first.progress.loss_curve + second.progress.loss_curve
        == whole.progress.loss_curve
    )
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
    trainer = make_trainer(
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
    trainer.run(max_iter, lambda p: seen.append((trainer.theta[1], p.loss)))
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
    trainer = make_trainer(
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
    assert with_zeros.progress.t == 3 * 90


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
    assert plain.progress.loss_curve == [reference.sum_in_order(costs) / n_rows]
    weighted, _ = problem.train(
        batch_size=n_rows, shuffle=False, max_iter=1, weighted=True
    )
    total = reference.sum_in_order(problem.weight)
    products = costs * problem.weight
    assert weighted.progress.loss_curve == [reference.sum_in_order(products) / total]


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
    assert trainer.progress.n_iter < 20
    assert len(trainer.progress.loss_curve) == trainer.progress.n_iter
    assert np.isfinite(trainer.progress.loss_curve).all()


def test_weights_that_overflow_in_the_last_step_are_divergence():
    problem = Problem("identity", "squared_error", (), (12, 1))
    problem.target += 10
    trainer, status = problem.train(
        solver="sgd", learning_rate_init=1e308, batch_size=150, max_iter=1
    )
    assert status == "diverged"
    assert trainer.progress.n_iter == 0
    assert not np.isfinite(trainer.theta).all()


def test_callback_may_stop_the_run():
    trainer, status = Problem().train(
        max_iter=10, after_epoch=lambda progress: progress.n_iter == 4
    )
    assert (status, trainer.progress.n_iter, len(trainer.progress.loss_curve)) == (
        "stopped",
        4,
        4,
    )


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
    assert len(trainer.progress.validation_scores) == trainer.progress.n_iter
    expected = replayed(trainer.progress.validation_scores, tol, patience)
    assert (trainer.progress.n_iter, trainer.progress.best_score) == expected
    assert trainer.progress.best_loss == np.inf


def test_outputs_that_overflow_score_nan_and_use_up_patience():
    problem = Problem("identity", "squared_error", activations=("identity",) * 2)
    problem.X[HELD_OUT] = np.inf
    start = problem.theta.copy()
    trainer, status = problem.train(
        max_iter=50, rows=TRAINED, held_out=HELD_OUT, n_iter_no_change=3
    )
    assert (status, trainer.progress.n_iter, trainer.progress.best_score) == (
        "converged",
        4,
        -np.inf,
    )
    assert np.isnan(trainer.progress.validation_scores).all()
    assert trainer.best_theta.tobytes() == start.tobytes()


def held_out_score(problem, theta, weighted):
    """What scikit-learn makes of the predictions for the held-out rows."""
    weight = problem.weight[HELD_OUT] if weighted else None
    outputs = predict(problem.network, theta, problem.X[HELD_OUT]).astype(float)
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
            trainer.progress.validation_scores, expected, rtol=1e-13, atol=1e-13
        )
        best = kept[int(np.argmax(trainer.progress.validation_scores))]
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
            scores.add(
                (*trainer.progress.validation_scores, trainer.best_theta.tobytes())
            )
    assert len(scores) == 1
    one_row = problem.trainer(rows=[1], held_out=held_out, batch_size=1)
    many = problem.trainer(rows=[1, 3], held_out=held_out, batch_size=2)
    for trainer in (one_row, many):
        trainer.score_weights(problem.theta)
    assert one_row.progress.validation_scores == many.progress.validation_scores


@pytest.mark.parametrize("value", [0.1, 7.0])
def test_constant_held_out_targets_score_1_if_hit_and_else_0(value):
    problem = Problem("identity", "squared_error", activations=(), sizes=(12, 1))
    problem.target[HELD_OUT] = value
    theta = np.zeros_like(problem.theta)
    for bias, score in ((value, 1), (value + 0.5, 0)):
        theta[-1] = bias
        trainer = problem.trainer(rows=TRAINED, held_out=HELD_OUT, weighted=True)
        trainer.score_weights(theta)
        assert trainer.progress.validation_scores == [score]


def test_a_single_class_is_always_right():
    problem = Problem("logistic", "log_loss", sizes=(12, 17, 9, 1))
    problem.target[:] = 0
    trainer, _ = problem.train(rows=TRAINED, held_out=HELD_OUT)
    assert trainer.progress.validation_scores == [1, 1, 1]


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
        return make_trainer(*data, rows=TRAINED, random_state=random_state, **settings)

    scored = trainer(held_out=HELD_OUT, n_iter_no_change=np.inf)
    scored.run(700)  # more than the loop keeps at once
    assert (
        len(scored.progress.validation_scores) == len(scored.progress.loss_curve) == 700
    )
    assert len(calls) == 1
    trainer().run(20, after_epoch=lambda progress: None)
    assert len(calls) == 20


def test_judge_needs_rows_to_score():
    problem = Problem()
    with pytest.raises(ValueError, match="held_out"):
        problem.trainer().score_weights(problem.theta)


# ---- the loss curve


def test_more_epochs_than_the_curve_keeps_at_once_are_all_recorded():
    problem = Problem(sizes=(12, 3), activations=(), n_rows=20)
    settings = dict(batch_size=20, n_iter_no_change=np.inf)
    trainer, _ = problem.train(max_iter=700, **settings)
    losses = []
    problem.train(
        max_iter=700,
        after_epoch=lambda progress: losses.append(progress.loss),
        **settings,
    )
    assert len(losses) == 700
    assert trainer.progress.loss_curve == losses


def test_error_in_a_callback_leaves_the_weights_of_its_epoch():
    problem = Problem()
    trainer = problem.trainer()

    def fail(progress):
        if progress.n_iter == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.run(5, fail)
    expected, _ = problem.train(max_iter=2)
    assert trainer.theta.tobytes() == expected.theta.tobytes()
    assert trainer.progress.optimizer.steps == expected.progress.optimizer.steps


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
        solver="sgd", optimizer=Problem().trainer(solver="adam").progress.optimizer
    ),
    "optimizer of another network": dict(
        optimizer=Problem(sizes=(12, 40, 9, 3)).trainer().progress.optimizer
    ),
}


@pytest.mark.parametrize(
    "arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS.keys()
)
def test_arguments_that_do_not_fit_are_refused(arguments):
    problem = Problem()
    kept = dict(theta=problem.theta, X=problem.X, target=problem.target)
    with pytest.raises(ValueError):
        make_trainer(
            problem.network,
            random_state=np.random.RandomState(0),
            **{**kept, **arguments},
        )


# ---- a trainer has one user at a time


def test_a_callback_cannot_use_the_trainer_that_calls_it():
    problem = wide_problem()
    trainer = problem.trainer(held_out=[0, 1])
    uses = {
        "run": lambda: trainer.run(1),
        "score_weights": lambda: trainer.score_weights(problem.theta),
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
    assert public == {
        "run",
        "score_weights",
        "loss_gradient",
        "end_iteration",
        "backpropagate",
        "let_go",
        "renew",
        "restore",
        "state",
        "watch",
    }
    assert not {name for name in methods - public if not name.startswith("__")}
    with pytest.raises(TypeError):
        pickle.dumps(Problem().trainer())


# ---- what a run shares with others


def test_labels_are_out_of_reach_once_they_are_checked():
    problem = Problem()
    data = Data(problem.network, problem.X, problem.target)
    assert not [
        name for name in dir(data) if isinstance(getattr(data, name), np.ndarray)
    ]


def test_dense_rows_cannot_score_a_sparse_training_but_sparse_ones_a_dense_one():
    problem = Problem(zeros=0.6)
    data = [
        Data(problem.network, X, problem.target)
        for X in (problem.X, csr_matrix(problem.X))
    ]
    scores = []
    for trained, held_out in ((0, 0), (0, 1), (1, 1)):
        trainer = Trainer(
            problem.network,
            problem.theta.copy(),
            data[trained],
            Settings(),
            rows=TRAINED,
            held_out=(data[held_out], HELD_OUT),
            random_state=np.random.RandomState(0),
        )
        trainer.run(3)
        scores.append(trainer.progress.validation_scores)
    assert scores[0] == scores[1] == scores[2]
    with pytest.raises(ValueError, match="must be sparse"):
        Trainer(
            problem.network,
            problem.theta.copy(),
            data[1],
            Settings(),
            held_out=(data[0], HELD_OUT),
            random_state=np.random.RandomState(0),
        )


def test_trainers_that_share_one_progress_spoil_nothing_but_its_numbers():
    network = Network((1, 1), (), "identity", "squared_error", np.float64)
    data = Data(network, np.zeros((1, 1)), np.zeros((1, 1)))
    progress = Progress()

    def run(_):
        settings = Settings(solver="sgd", n_iter_no_change=np.inf, shuffle=False)
        trainer = Trainer(network, np.zeros(2), data, settings, progress)
        return trainer.run(20_000)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(4))) == ["max_iter"] * 4
    assert len(progress.loss_curve) == 4 * 20_000


def test_who_listens_cannot_change_what_the_run_counts():
    calls = []

    def after_epoch(progress):
        calls.append(progress.n_iter)
        progress.n_iter = 0
        for name in ("optimizer", "loss_curve", "validation_scores", "t"):
            with pytest.raises(AttributeError):
                setattr(progress, name, None)

    trainer, status = Problem().train(max_iter=3, after_epoch=after_epoch)
    assert (status, calls) == ("max_iter", [1, 2, 3])
    assert trainer.progress.optimizer.steps == 3
