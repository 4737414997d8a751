"""What a step follows beside its gradient: schedules, warm-up, decay, clipping, a mean.

The slow twin of all of them is reference.train; the kernels are in test_kernels.py.
"""

import numpy as np
import pytest
import reference
from problem import Problem, every_dtype, every_solver, outcome
from scipy.sparse import csr_matrix

from cbp import BPClassifier, BPRegressor
from cbp._catalog import SCHEDULES
from cbp._kernels import cosine
from cbp._solvers import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OVER_TRAINING = [name for name, row in SCHEDULES.items() if row.over_training]

STEPS = {
    **{name: {"learning_rate": name} for name in OVER_TRAINING},
    "callable": {"learning_rate": lambda p: 1 - p * p},
    "warm-up": {"warmup": 0.4},
    "cosine after warm-up": {"learning_rate": "cosine", "warmup": 0.25},
    "one_cycle with its own rise": {"learning_rate": "one_cycle", "warmup": 0.5},
    "decay": {"weight_decay": 2.0},
    "decay on a schedule": {"weight_decay": 2.0, "learning_rate": "linear"},
    "clipping": {"max_grad_norm": 0.1},
    "mean": {"average": 0.9},
    "all": {
        "learning_rate": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.5,
        "max_grad_norm": 0.2,
        "average": 0.8,
    },
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
every_batch = pytest.mark.parametrize("batch_size, n_rows", [(1, 30), (32, 150)])

RATE = {name: row.rate for name, row in reference.OPTIMIZERS.items()}


@every_step
@every_solver
@every_batch
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_training_equals_the_reference(step, solver, batch_size, n_rows, weighted):
    problem = Problem(n_rows=n_rows)
    if weighted:
        problem.weight[::5] = 0  # batches of one row are then left out
    given = {
        "solver": solver,
        "batch_size": batch_size,
        "alpha": 0.1,
        "learning_rate_init": RATE[solver],
        **step,
    }
    run, _ = problem.train(max_iter=6, weighted=weighted, **given)
    expected = reference.train(
        problem.twin,
        problem.theta,
        problem.X,
        problem.T,
        sample_weight=problem.weight if weighted else None,
        random_state=np.random.RandomState(3),
        max_iter=6,
        **given,
    )
    assert run.learning_rate == pytest.approx(expected.learning_rate, rel=1e-11)
    np.testing.assert_allclose(run.progress.loss_curve, expected.loss_curve, rtol=1e-9)
    change = abs(expected.theta - problem.theta).max()
    assert change > 1e-4
    assert abs(run.theta - expected.theta).max() <= 1e-9 * change
    if "max_grad_norm" in step:  # some are shortened
        assert max(expected.norms) > step["max_grad_norm"]


@every_step
@every_solver
@every_dtype
@pytest.mark.parametrize("batch_size", [1, 64, 600])
def test_bits_depend_on_no_thread_and_not_on_the_form_of_X(
    step, solver, dtype, batch_size
):
    sizes = (20, 70, 30, 3) if batch_size < 600 else (64, 100, 100, 10)
    problem = Problem(sizes=sizes, n_rows=600, dtype=dtype, zeros=0.5)
    given = {"solver": solver, "batch_size": batch_size, "max_iter": 2, **step}
    expected = outcome(problem.train(**given)[0])
    for n_threads in (2, 3):
        assert outcome(problem.train(n_threads=n_threads, **given)[0]) == expected
    X = csr_matrix(problem.X)
    assert outcome(problem.train(X, n_threads=2, **given)[0]) == expected
    watched = problem.train(monitor=True, **given)[0]
    assert outcome(watched) == expected


def test_the_cosine_is_that_of_the_library():
    x = np.linspace(0, 1, 10001)
    ours = np.array([cosine(v) for v in x])
    np.testing.assert_allclose(ours, np.cos(np.pi * x), atol=4e-16)
    assert cosine(0.5) == 0


def test_a_gradient_below_the_limit_takes_the_same_steps():
    problem = Problem()
    plain, limited = (
        problem.train(max_iter=4, **given)[0] for given in ({}, {"max_grad_norm": 1e9})
    )
    assert outcome(limited) == outcome(plain)


@every_solver
def test_weights_that_have_no_gradient_decay_and_biases_do_not(solver):
    problem = Problem(n_rows=40)
    problem.theta[:] = 0.25
    X = np.zeros_like(problem.X)
    given = {"solver": solver, "learning_rate_init": 0.01, "weight_decay": 10.0}
    run, _ = problem.train(X, max_iter=3, batch_size=20, **given)
    W, _ = problem.network.views(run.theta)
    np.testing.assert_allclose(W[0], 0.25 * (1 - 0.1) ** 6, rtol=1e-12)
    still = problem.train(X, max_iter=3, batch_size=20, **{**given, "weight_decay": 0})
    np.testing.assert_array_equal(still[0].theta[: W[0].size], 0.25)


# ---- the estimators

random = np.random.RandomState(0)
X = random.normal(size=(90, 4))
LABELS = np.arange(90) % 3
ASKED = {
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "warmup": 0.1,
    "average": 0.9,
    "learning_rate": "cosine",
}


def fit(estimator=BPClassifier, y=LABELS, **parameters):
    return estimator(hidden_layer_sizes=6, random_state=0, **parameters).fit(X, y)


@pytest.mark.parametrize("name", ASKED)
def test_solvers_without_such_steps_refuse_them_by_name(name):
    others = [solver for solver, row in SOLVERS.items() if not row.stochastic]
    assert others
    for solver in others:
        with pytest.raises(ValueError, match=f"{name}.*must be.*sgd"):
            fit(solver=solver, **{name: ASKED[name]})


@pytest.mark.parametrize("name", ["warmup", "average", "learning_rate"])
def test_partial_fit_refuses_what_must_know_the_end_of_training(name):
    model = fit(**{name: ASKED[name]}, max_iter=2)
    before = model._theta.copy()
    with pytest.raises(ValueError, match=f"{name}=.*partial_fit does not"):
        model.partial_fit(X, LABELS)
    np.testing.assert_array_equal(model._theta, before)


@pytest.mark.parametrize("name", ["weight_decay", "max_grad_norm"])
def test_partial_fit_takes_the_others(name):
    model, plain = fit(**{name: ASKED[name]}, max_iter=2), fit(max_iter=2)
    for each in (model, plain):
        each.partial_fit(X[:1], LABELS[:1]).partial_fit(X, LABELS)
    assert (model._theta != plain._theta).any()


@pytest.mark.parametrize(
    "solver", [name for name, row in SOLVERS.items() if row.stochastic]
)
def test_a_callable_is_asked_for_every_step_in_order(solver):
    asked = []

    def rate(p):
        asked.append(p)
        return 1.0

    model = fit(solver=solver, learning_rate=rate, max_iter=3, batch_size=40)
    np.testing.assert_allclose(asked, np.arange(9) / 9)
    plain = fit(solver=solver, max_iter=3, batch_size=40)
    np.testing.assert_array_equal(model._theta, plain._theta)


@pytest.mark.parametrize("answer", [-1.0, np.nan, np.inf, "fast", None])
def test_a_callable_that_gives_no_rate_is_named_and_changes_nothing(answer):
    model = fit(max_iter=2)
    before = model._theta.copy()
    model.set_params(learning_rate=lambda p: answer if p > 0.4 else 1.0)
    with pytest.raises(ValueError, match="learning_rate must return.*progress 0.5"):
        model.fit(X, LABELS)
    np.testing.assert_array_equal(model._theta, before)


def test_what_a_callable_raises_comes_through():
    def rate(p):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(learning_rate=rate)


@pytest.mark.parametrize("scoring", [None, "loss", "accuracy"])
@pytest.mark.parametrize(
    "solver", [name for name, row in SOLVERS.items() if row.stochastic]
)
def test_the_mean_of_the_weights_is_what_is_scored_and_kept(solver, scoring):
    model = BPClassifier(
        6, solver=solver, average=0.95, early_stopping=True, max_iter=9,
        random_state=0, scoring=scoring, learning_rate_init=0.02,
    )  # fmt: skip
    model.fit(X[:60], LABELS[:60], X_val=X[60:], y_val=LABELS[60:])
    best = model.validation_loss_curve_[model.best_iter_ - 1]
    P = model.predict_proba(X[60:])
    assert best == pytest.approx(-np.log(P[np.arange(30), LABELS[60:]]).mean())


def test_a_warm_start_goes_on_from_the_mean():
    model = fit(average=0.9, max_iter=3, warm_start=True)
    start = model._theta.copy()
    model.set_params(learning_rate_init=1e-12).fit(X, LABELS)
    np.testing.assert_allclose(model._theta, start, rtol=1e-6, atol=1e-9)


def test_schedules_work_in_all_company():
    """Sparse rows, float32, early stopping, weights, threads, several outputs."""
    y = np.stack([X[:, 0], X[:, 1] ** 2], axis=1)
    for data in (X, X.astype(np.float32), csr_matrix(X)):
        model = BPRegressor(
            hidden_layer_sizes=(8, 8), learning_rate="one_cycle", weight_decay=0.01,
            max_grad_norm=1.0, average=0.9, early_stopping=True, max_iter=60,
            learning_rate_init=0.02, n_jobs=2, random_state=0,
        )  # fmt: skip
        model.fit(data, y, sample_weight=np.linspace(0.5, 1, 90))
        assert np.isfinite(model.predict(data)).all()
        assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]


@pytest.mark.parametrize(
    "given", [{"warmup": 0.3}, {"learning_rate": "one_cycle"}], ids=["warmup", "cycle"]
)
@pytest.mark.parametrize("early_stopping", [True, False])
def test_patience_waits_until_the_rate_has_risen(given, early_stopping):
    X = np.random.RandomState(0).standard_normal((80, 3))
    model = BPClassifier(
        (4,),
        tol=10.0,
        n_iter_no_change=3,
        max_iter=100,
        early_stopping=early_stopping,
        random_state=0,
        **given,
    )
    model.fit(X, X[:, 0] > 0)
    # Nothing improves by so much: the fit ends as soon as epochs count.
    assert 30 < model.n_iter_ <= 36
