"""What a fit notes of its data: scales, and the costs of answers that are constant."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import reference
from problem import make_trainer
from scipy import sparse
from sklearn.base import clone

from cbp import BPClassifier, BPRegressor
from cbp._catalog import LOSSES, output_of_labels
from cbp._fit_summary import FitSummary
from cbp._network import Network


def make_network(sizes, activations, output, loss):
    parameters = reference.loss_parameters(output, loss, sizes[-1])
    return Network(sizes, activations, output, loss, np.float64, parameters)


def summary_of(X, target, output, loss, n_outputs, **more):
    network = make_network((X.shape[1], 4, n_outputs), ("relu",), output, loss)
    return FitSummary.of_data(network, X, target, **more)


def test_scales_of_inputs_are_those_of_the_columns():
    rng = np.random.RandomState(0)
    X = rng.normal([0, 50, 1], [1, 2, 0.1], (64, 3))
    y = rng.normal(size=(64, 1))
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert summary.column == 1
    assert np.isclose(summary.column_size, np.sqrt(np.mean(X[:, 1] ** 2)))
    assert np.isclose(summary.column_mean, X[:, 1].mean())
    assert np.isclose(summary.row_length, np.sqrt(X.var(0).sum()))
    csr = summary_of(sparse.csr_array(X), y, "identity", "squared_error", 1)
    assert csr.is_sparse and not summary.is_sparse
    assert np.isclose(csr.row_length, summary.row_length)
    assert np.isclose(csr.column_size, summary.column_size)


def test_only_the_rows_of_training_count():
    X = np.arange(20.0).reshape(10, 2)
    y = np.arange(10.0).reshape(10, 1)
    rows = np.array([8, 2, 5])
    some = summary_of(X, y, "identity", "squared_error", 1, rows=rows)
    alone = summary_of(X[rows], y[rows], "identity", "squared_error", 1)
    assert some == alone
    assert some.n_rows == 3


# Every loss with one output and with several; its targets are labels, numbers or both.
KINDS = [
    (output, loss, n_outputs, kind)
    for (output, loss), row in LOSSES.items()
    for n_outputs in (1, 2, 3)
    for kind, known in (("labels", row.label_costs), ("columns", row.column_costs))
    # Labels exclude each other, which decides on the output.
    if known and (kind == "columns" or output == output_of_labels(loss, n_outputs > 1))
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("output, loss, n_outputs, kind", KINDS)
def test_constant_cost_is_the_least_and_zero_cost_the_first(
    output, loss, n_outputs, kind, weighted
):
    """Against networks of biases alone, trained and untrained."""
    rng = np.random.RandomState(0)
    X = np.zeros((200, 1))
    row = reference.LOSSES[output, loss]
    if kind == "labels":
        y = rng.choice(max(n_outputs, 2), 200).astype(np.int32)
        y[:40] = 0
    else:
        y = row.draw(rng, (200, n_outputs)).astype(float)
        # So that the best answers differ, and none is that of zeros.
        for j in range(n_outputs):
            y[: 40 + 20 * j, j] = min(5.0, row.targets[1])
    weight = rng.uniform(0.5, 2, 200) if weighted else None
    summary = summary_of(X, y, output, loss, n_outputs, sample_weight=weight)

    from scipy.optimize import minimize

    network = make_network((1, n_outputs), (), output, loss)
    theta = np.zeros(network.n_params)
    trainer = make_trainer(network, theta, X, y, sample_weight=weight, solver="lbfgs")
    start = theta.copy()
    zero = summary.zero_cost + summary.least_cost
    assert np.isclose(zero, trainer.loss_gradient(start)[0])
    best = minimize(trainer.loss_gradient, start, jac=True, method="L-BFGS-B")
    if LOSSES[output, loss].kink:  # where L-BFGS comes near, but no further
        biases = slice(n_outputs, None)

        def cost(b):
            return trainer.loss_gradient(np.r_[np.zeros(n_outputs), b])[0]

        best = minimize(cost, best.x[biases], method="Powell", options={"xtol": 1e-9})
    constant = summary.constant_cost + summary.least_cost
    assert np.isclose(constant, best.fun, rtol=1e-4)
    if weighted:
        assert np.isclose(summary.mean_weight, weight.mean())


def test_outputs_are_looked_at_only_if_the_cost_is_high():
    X, y = np.zeros((200, 1)), np.arange(200.0).reshape(200, 1)
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert summary.at_end("converged", 1.0, pytest.fail).output_variance is None
    sample = []

    def outputs(rows):
        sample.append(rows)
        return y[rows]

    ended = summary.at_end("max_iter", summary.constant_cost, outputs)
    assert ended.outcome == "max_iter"
    assert len(y[sample[0]]) <= 64
    assert np.isclose(ended.output_variance, y.var(), rtol=0.05)
    assert summary.at_end("diverged").output_variance is None


# ---- unusual data


@pytest.mark.parametrize("loss", ["squared_error", "huber", "absolute_error"])
def test_rows_that_weigh_nothing_count_for_no_scale_of_the_targets(loss):
    X, y = np.zeros((600, 1)), np.random.RandomState(0).normal(size=(600, 1))
    weight = np.repeat([0.0, 1.0], 300)
    scaled = y * np.where(weight, 1, 1e6)[:, np.newaxis]
    some = summary_of(X, scaled, "identity", loss, 1, sample_weight=weight)
    alone = summary_of(X[300:], y[300:], "identity", loss, 1)
    assert np.isclose(some.target_variance, alone.target_variance)
    assert np.isclose(some.target_size, alone.target_size)
    # A row that weighs twice counts as two.
    twice = summary_of(X, y, "identity", loss, 1, sample_weight=weight + 1)
    rows = np.r_[:600, 300:600]
    assert np.isclose(
        twice.target_variance,
        summary_of(X[rows], y[rows], "identity", loss, 1).target_variance,
    )


def test_rows_that_weigh_something_are_found_wherever_they_are():
    X, y = np.zeros((10000, 1)), np.arange(10000.0).reshape(-1, 1)
    weight = np.zeros(10000)
    weight[[1, 4]] = 2
    summary = summary_of(
        X, y, "identity", "squared_error", 1, sample_weight=weight, rows=None
    )
    assert np.isclose(summary.mean_weight, 4e-4)
    assert np.isclose(summary.constant_cost, 1.5**2 / 2)


@pytest.mark.parametrize("size", [1e-300, 1e30, 1e305])
def test_the_size_of_sample_weights_does_not_matter_to_scales(size):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=(50, 1))
    kind = ("identity", "squared_error", 1)
    plain = summary_of(X, y, *kind)
    weighed = summary_of(X, y, *kind, sample_weight=np.full(50, size))
    assert np.isclose(weighed.constant_cost, plain.constant_cost)
    assert np.isclose(weighed.mean_weight, size)


@pytest.mark.parametrize("value", [0.1, 1.0, 1e12])
def test_equal_targets_leave_nothing_to_learn_whatever_the_loss(value):
    X, weight = np.zeros((77, 1)), np.random.RandomState(0).uniform(size=77)
    for output, loss, n_outputs, kind in KINDS:
        greatest = reference.LOSSES[output, loss].targets[1]
        y = np.full((77, n_outputs), value if greatest > 1 else greatest)
        if kind == "labels":
            y = np.zeros(77, np.int32)
        kinds = output, loss, n_outputs
        for w in (None, weight):
            summary = summary_of(X, y, *kinds, sample_weight=w)
            assert summary.constant_cost == 0, (*kinds, kind)


def test_scales_of_the_largest_inputs_are_finite():
    X = np.array([[1e200, 1], [-3e200, 2]])
    y = np.zeros((2, 1))
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert np.isclose(summary.column_size, np.sqrt(5) * 1e200)
    assert np.isclose(summary.row_length, 2e200)


def test_the_rarest_class_is_that_with_the_least_weight():
    y = np.repeat(np.int32([0, 1, 2]), (60, 30, 10))
    X = np.random.RandomState(0).normal(size=(100, 2))
    summary = summary_of(X, y, "softmax", "log_loss", 3)
    assert (summary.rare_class, summary.rare_share) == (2, pytest.approx(0.1))
    weight = np.array([1.0, 2.0, 6.0])[y]
    even = summary_of(X, y, "softmax", "log_loss", 3, sample_weight=weight)
    assert even.rare_class is None
    # A class without rows is not rare but absent.
    some = summary_of(X, y, "softmax", "log_loss", 3, rows=np.arange(90))
    assert some.rare_class is None


@pytest.mark.parametrize("single", [False, True])
def test_recall_is_that_of_the_rarest_class(single):
    y = np.repeat(np.int32([0, 1]), (400, 40))
    X = np.random.RandomState(0).normal(size=(440, 2))
    n_outputs, output = (1, "logistic") if single else (2, "softmax")
    summary = summary_of(X, y, output, "log_loss", n_outputs)

    def outputs(rows):
        """Finds every fourth row of class 1."""
        p = np.where((np.arange(440) % 4 == 0) & (y == 1), 0.9, 0.1)[rows]
        return p[:, np.newaxis] if single else np.c_[1 - p, p]

    ended = summary.at_end("max_iter", 0.0, outputs, lambda rows: y[rows])
    assert ended.recall == 0.25
    assert summary.at_end("max_iter", 0.0, outputs).recall is None
    few = summary_of(X[:404], y[:404], output, "log_loss", n_outputs)
    assert few.rare_class == 1
    assert few.at_end("max_iter", 0.0, outputs, lambda rows: y[rows]).recall is None


def test_what_goes_wrong_in_a_look_costs_no_model(monkeypatch):
    from cbp import _look

    def fails(*arguments, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(_look, "GUARDED", True)
    monkeypatch.setattr(_look, "look_at", fails)
    monkeypatch.setattr(_look, "stand", fails)
    X = np.random.RandomState(0).randn(60, 3)
    model = BPRegressor(max_iter=5, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model.fit(X, X[:, 0])
    assert model._fit_summary.standing is None and not model._fit_summary.faults.faults
    assert model.diagnose().verdict


def test_an_outlier_that_was_not_trained_on_is_none_of_a_few_rows():
    X = np.random.RandomState(0).randn(15, 3)
    X[3, 1] = 1e6
    weight = np.ones(15)
    weight[3] = 0
    model = BPRegressor(hidden_layer_sizes=[4], max_iter=5, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model.fit(X, X[:, 0], sample_weight=weight)
    assert model._fit_summary.faults.of("outliers") is None


def classes_of_rows():
    X = np.random.RandomState(0).randn(200, 4)
    return X, (X[:, 0] > 0).astype(int)


def test_a_look_at_few_data_is_put_off_until_somebody_asks():
    X, y = classes_of_rows()
    model = BPClassifier(4, max_iter=30, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model.fit(X, y)
        at_once = pickle.loads(pickle.dumps(model))
        assert "_look_later" in model.fit(X, y)._fitted.__dict__
    # Neither data nor weights that change later are looked at.
    X[:], y[:] = 0, 0
    model.coefs_[0][:] = 7
    assert model._fit_summary == at_once._fit_summary
    assert model._fit_summary.standing.train == at_once._fit_summary.standing.train
    assert model._fit_summary.faults == at_once._fit_summary.faults
    for fitted in (model, at_once):
        assert "_look_later" not in fitted._fitted.__dict__


def waits(model):
    return "_look_later" in model._fitted.__dict__


def test_a_look_that_waits_goes_where_the_model_goes():
    X, y = classes_of_rows()
    fit = {"max_iter": 20, "random_state": 0, "solver": "adam"}
    with warnings.catch_warnings(action="ignore"):
        model = BPClassifier(4, **fit).fit(X, y)
        twin = BPClassifier(4, **fit).fit(X, y)
        assert waits(model) and not waits(clone(model))
        copied = copy.deepcopy(model)
        assert not waits(copied)
        assert copied._fit_summary == twin._fit_summary
        model = BPClassifier(4, **fit).fit(X, y)
        del model._fit_summary
        assert not waits(model)
        model.set_params(monitor=False).fit(X, y)
        assert not waits(model)


def test_a_fit_that_was_interrupted_is_judged_too():
    X, y = classes_of_rows()
    model = BPClassifier(4, max_iter=10**6, tol=0, n_iter_no_change=10**6)
    model.set_params(random_state=0, verbose=True, learning_rate_init=0.01)

    def interrupt(text):
        if "Iteration 200," in text:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("builtins.print", interrupt)
        model.fit(X, y)
    assert model._fit_summary.outcome == "interrupted"
    assert model._fit_summary.standing.train.score > 0.9
    assert model.diagnose().verdict.startswith("Training was interrupted after")


def test_a_look_without_memory_is_taken_by_the_next_who_asks(monkeypatch):
    from cbp import _look

    def fails(*arguments, **more):
        raise MemoryError

    X, y = classes_of_rows()
    with warnings.catch_warnings(action="ignore"):
        model = BPClassifier(4, max_iter=20, random_state=0).fit(X, y)
    with monkeypatch.context() as patch:
        patch.setattr(_look, "look_at", fails)
        for guarded in True, False:
            patch.setattr(_look, "GUARDED", guarded)
            with pytest.raises(MemoryError):
                model.diagnose()
    assert waits(model)
    assert model.diagnose().verdict and not waits(model)
    assert model._fit_summary.standing.train is not None
    # A copy that cannot be had costs no model.
    monkeypatch.setattr(_look, "GUARDED", True)
    monkeypatch.setattr(_look, "_copy_of", fails)
    with warnings.catch_warnings(action="ignore"):
        model.fit(X, y)
    assert not waits(model) and model._fit_summary.standing.train is not None


def test_a_look_at_many_data_is_taken_at_once(monkeypatch):
    from cbp import _look

    monkeypatch.setattr(_look, "_KEPT_BYTES", 1000)
    model = BPClassifier(4, max_iter=30, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model.fit(*classes_of_rows())
    assert "_look_later" not in model._fitted.__dict__
    assert model._fit_summary.standing.train is not None
