"""Callbacks: when they are called, what they are told, what they cannot do, and ours.

Most tests run twice: with the contexts of scikit-learn, if it has any (1.9), and with
our own, which take their place before.
"""

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import threading
import types
import warnings
import weakref

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from planted import TUNING, data_of, healthy, model_of
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cbp
from cbp import BPClassifier, BPRegressor, _callbacks, _rules, callbacks, diagnosis
from cbp.callbacks import ALARMS, Epoch, GradientAlarm, History, LiveDisplay
from cbp.diagnosis import diagnose

try:
    import sklearn.callback as theirs
except ImportError:  # before 1.9
    theirs = None

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NEEDS_THEIRS = pytest.mark.skipif(theirs is None, reason="scikit-learn is older")

X, y = load_iris(return_X_y=True)
LABELS = np.array(["setosa", "versicolor", "virginica"])[y]
SOLVERS = ["adam", "sgd", "lbfgs"]
HOOKS = ["setup", "on_fit_task_begin", "on_fit_task_end", "teardown"]


@pytest.fixture(params=["own", "theirs"])
def contexts(request, monkeypatch):
    """Whose contexts a fit makes."""
    if request.param == "own":
        monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    elif theirs is None:
        pytest.skip("scikit-learn has no contexts")
    return request.param


class Empty:
    """Follows the protocol, and does nothing."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


class Recording(Empty):
    """Notes every call; may fail, or stop, in one of them."""

    def __init__(self, stop_after=None, fail_in=None):
        self.calls, self.estimators, self.progress = [], set(), []
        self.stop_after, self.fail_in = stop_after, fail_in

    def note(self, hook, estimator, context):
        self.calls.append((hook, context.task_name, context.task_id))
        self.estimators.add(id(estimator))
        if self.fail_in in (hook, (hook, context.task_name)):
            raise RuntimeError("mine")

    def setup(self, estimator, context):
        self.note("setup", estimator, context)

    def teardown(self, estimator, context):
        self.note("teardown", estimator, context)

    def on_fit_task_begin(self, estimator, context):
        self.note("begin", estimator, context)

    def on_fit_task_end(self, estimator, context):
        progress = getattr(context, "progress", None)
        if progress is not None:
            self.progress.append(progress)
        self.note("end", estimator, context)
        return progress is not None and progress.epoch == self.stop_after


class Asking(Empty):
    """Keeps what it is given after each epoch, and at the end of the fit."""

    def __init__(self):
        self.given, self.last, self.first = [], None, None

    def on_fit_task_begin(self, estimator, context, *, X, fitted_estimator):
        if self.first is None:
            self.first = fitted_estimator

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        told = (X, y, metadata, fitted_estimator)
        if context.parent is None:
            self.last = told
        else:
            self.given.append(told)


def network(solver="adam", kind=BPClassifier, **parameters):
    given = {"hidden_layer_sizes": (8,), "max_iter": 6, "random_state": 0}
    return kind(solver=solver, **given | parameters)


def target(kind):
    return LABELS if kind is BPClassifier else X[:, :2]


# ----------------------------------------------------------------- when they are called


@pytest.mark.parametrize("kind", [BPClassifier, BPRegressor])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_and_every_epoch_begin_and_end(solver, early_stopping, kind, contexts):
    callback = Recording()
    model = network(solver, kind, early_stopping=early_stopping)
    model.set_callbacks(callback).fit(X, target(kind))
    epoch = "iteration" if solver == "lbfgs" else "epoch"
    expected = [("setup", "fit", 0), ("begin", "fit", 0)]
    for i in range(model.n_iter_):
        expected += [("begin", epoch, i), ("end", epoch, i)]
    expected += [("end", "fit", 0), ("teardown", "fit", 0)]
    assert callback.calls == expected
    assert callback.estimators == {id(model)}


def test_an_epoch_begins_only_if_another_follows(contexts):
    """Patience ends training before max_iter."""
    callback = Recording()
    model = network(max_iter=500, tol=1.0, n_iter_no_change=3).set_callbacks(callback)
    model.fit(X, LABELS)
    assert model.n_iter_ < 500
    names = [call[0] for call in callback.calls]
    assert names.count("begin") == names.count("end") == model.n_iter_ + 1


def test_contexts_tell_their_place(contexts):
    seen = []

    class Place(Empty):
        def on_fit_task_end(self, estimator, context):
            seen.append(context)

    network().set_callbacks(Place()).fit(X, LABELS)
    *epochs, root = seen
    assert root.parent is None and root.max_subtasks == 6 and root.sequential_subtasks
    assert all(
        context.parent is root and context.max_subtasks == 0 for context in epochs
    )
    assert len({context.root_uuid for context in seen}) == 1
    assert {context.estimator_name for context in seen} == {"BPClassifier"}
    assert epochs[0].init_time < epochs[1].init_time
    assert root.source_task_name is None and root.source_estimator_name is None


def test_several_callbacks_are_all_told_and_any_of_them_stops(contexts):
    first, second = Recording(stop_after=2), Recording()
    model = network().set_callbacks(first, second).fit(X, LABELS)
    assert first.calls == second.calls and model.n_iter_ == 2
    other = Recording()
    model.set_callbacks(other).fit(X, LABELS)
    assert len(first.calls) == len(second.calls) and len(other.progress) == 6
    model.set_callbacks().fit(X, LABELS)
    assert len(other.progress) == 6 and not hasattr(model, "_skl_callbacks")


@pytest.mark.parametrize("solver", SOLVERS)
def test_partial_fit_and_initialize_call_nobody(solver):
    callback = Recording()
    model = network(solver).set_callbacks(callback).initialize(X, LABELS)
    if solver != "lbfgs":
        model.partial_fit(X, LABELS)
    assert callback.calls == []


# --------------------------------------------------------------------- what they change


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_callbacks_change_no_bit(solver, n_jobs, contexts):
    options = dict(early_stopping=True, n_jobs=n_jobs, learning_rate_init=0.01)
    plain = network(solver, **options).fit(X, LABELS)
    told = network(solver, **options).set_callbacks(Asking(), History())
    told.fit(X, LABELS)
    assert_array_equal(plain._theta, told._theta)
    assert plain.loss_curve_ == told.loss_curve_
    assert plain.best_loss_ == told.best_loss_
    assert vars(plain).keys() | {"_skl_callbacks"} == vars(told).keys()


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stopped_fit_is_one_with_fewer_epochs(solver, early_stopping, contexts):
    options = dict(early_stopping=early_stopping, learning_rate_init=0.01)
    model = network(solver, **options).set_callbacks(Recording(stop_after=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(X, LABELS)
    shorter = network(solver, max_iter=3, **options).fit(X, LABELS)
    assert_array_equal(model._theta, shorter._theta)
    for name in ("loss_curve_", "n_iter_", "t_", "best_loss_", "loss_"):
        assert getattr(model, name) == getattr(shorter, name), name
    for name in ("validation_scores_", "validation_loss_curve_", "best_iter_"):
        assert getattr(model, name) == getattr(shorter, name), name
    assert model._no_improvement_count == shorter._no_improvement_count


def test_a_stop_wins_over_max_iter_and_patience():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = network().set_callbacks(Recording(stop_after=6)).fit(X, LABELS)
    assert model.n_iter_ == 6 and model._fit_summary.outcome == "stopped"


def test_the_diagnosis_knows_that_a_callback_stopped_the_fit():
    rng = np.random.RandomState(0)
    model = BPClassifier((4,), learning_rate_init=0.05, random_state=0)
    model.set_callbacks(Recording(stop_after=9))
    model.fit(rng.randn(200, 3), rng.randint(0, 2, 200))
    assert model._fit_summary.outcome == "stopped"
    assert "A callback ended training after 9 epochs." in model.diagnose().verdict


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_that_callbacks_get_leads_into_the_training(solver, contexts):
    class Vandal(Empty):
        def on_fit_task_end(
            self, estimator, context, *, X, y, metadata, fitted_estimator
        ):
            for array in (X, y, metadata["sample_weight"]):
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = array[0]
            for W in [*fitted_estimator.coefs_, *fitted_estimator.intercepts_]:
                W[...] = 7
            fitted_estimator.loss_curve_.clear()
            fitted_estimator.classes_[...] = "none"
            fitted_estimator.gradient_flow_.delta[...] = 7
            estimator.set_params(alpha=5.0, max_iter=1, tol=9.0, verbose=True)

    weight = np.linspace(1, 2, len(X))
    plain = network(solver).fit(X, LABELS, weight)
    model = network(solver).set_callbacks(Vandal()).fit(X, LABELS, weight)
    assert_array_equal(plain._theta, model._theta)
    assert plain.loss_curve_ == model.loss_curve_
    assert_array_equal(plain.classes_, model.classes_)
    assert_array_equal(plain.gradient_flow_.delta, model.gradient_flow_.delta)


@pytest.mark.parametrize(
    "place",
    [
        "setup",
        ("begin", "fit"),
        ("begin", "epoch"),
        ("end", "epoch"),
        ("end", "fit"),
        "teardown",
    ],
)
def test_an_error_in_a_callback_leaves_the_model_as_it_was(place, contexts):
    model = network().fit(X, LABELS)
    before = pickle.dumps(model)
    failing = Recording(fail_in=place)
    others = Recording(), Recording()
    model.set_callbacks(others[0], failing, others[1]).set_params(alpha=1.0)
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, LABELS)
    # Who was set up is torn down.
    assert others[0].calls[-1] == ("teardown", "fit", 0)
    assert ("teardown", "fit", 0) in failing.calls
    assert (("teardown", "fit", 0) in others[1].calls) == (place != "setup")
    assert pickle.dumps(model.set_params(alpha=1e-4).set_callbacks()) == before


def test_errors_of_several_teardowns_are_raised_together(contexts):
    model = network()
    model.set_callbacks(Recording(fail_in="teardown"), Recording(fail_in="teardown"))
    with pytest.raises(ExceptionGroup) as raised:
        model.fit(X, LABELS)
    assert len(raised.value.exceptions) == 2 and not hasattr(model, "coefs_")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_in_a_teardown_leaves_none_without_its_own(fails, kind, contexts):
    class Interrupted(Recording):
        def teardown(self, estimator, context):
            super().teardown(estimator, context)
            raise kind("mine")

    callbacks = [
        Interrupted(),
        Recording(fail_in="teardown" if fails else None),
        Interrupted(),
        Recording(),
    ]
    with pytest.raises(kind, match="mine") as raised:
        network().set_callbacks(*callbacks).fit(X, LABELS)
    for callback in callbacks:
        assert callback.calls[-1] == ("teardown", "fit", 0)
    assert isinstance(raised.value.__cause__, RuntimeError if fails else type(None))


def test_an_error_of_the_fit_tears_callbacks_down(contexts):
    callback = Recording()
    with pytest.raises(ValueError, match="NaN"):
        network().set_callbacks(callback).fit(np.full_like(X, np.nan), LABELS)
    assert callback.calls == [("setup", "fit", 0), ("teardown", "fit", 0)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_interrupt_in_a_callback_is_one_of_the_fit(solver, contexts):
    class Interrupting(Recording):
        def on_fit_task_end(self, estimator, context):
            super().on_fit_task_end(estimator, context)
            if len(self.progress) == 3:
                raise KeyboardInterrupt

    callback = Interrupting()
    model = network(solver).set_callbacks(callback)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS)
    assert callback.calls[-1] == ("teardown", "fit", 0)
    shorter = network(solver, max_iter=3).fit(X, LABELS)
    assert_array_equal(model._theta, shorter._theta)
    assert model.n_iter_ == 3 and model._fit_summary.outcome == "interrupted"


# ----------------------------------------------------------------- what they are told


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", [BPClassifier, BPRegressor])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_fitted_estimator_is_that_of_a_fit_that_ends_there(
    solver, kind, early_stopping, contexts
):
    callback = Asking()
    options = dict(early_stopping=early_stopping, learning_rate_init=0.05)
    model = network(solver, kind, **options).set_callbacks(callback)
    model.fit(X, target(kind))
    for n, (*_, fitted) in enumerate(callback.given, 1):
        shorter = network(solver, kind, max_iter=n, **options).fit(X, target(kind))
        assert_array_equal(fitted.predict(X), shorter.predict(X))
        assert_array_equal(fitted._theta, shorter._theta)
        assert fitted.n_iter_ == n and fitted.loss_curve_ == shorter.loss_curve_
        assert fitted.validation_scores_ == shorter.validation_scores_
        assert fitted.best_loss_ == shorter.best_loss_
        assert_array_equal(
            fitted.gradient_flow_.gradient, shorter.gradient_flow_.gradient
        )
        assert isinstance(fitted.diagnose(), diagnosis.Diagnosis)
        pickle.loads(pickle.dumps(fitted.set_callbacks()))
    assert_array_equal(callback.last[3]._theta, model._theta)
    start = network(solver, kind, **options).initialize(X, target(kind))
    assert_array_equal(callback.first._theta, start._theta)


def test_a_fitted_estimator_is_made_only_if_somebody_asks(monkeypatch, contexts):
    made = []
    monkeypatch.setattr(
        _callbacks.Session, "_fitted_estimator", lambda self: made.append(1)
    )
    monkeypatch.setattr(_callbacks, "_read_only", lambda array: made.append(2))
    network().set_callbacks(Empty(), History(), GradientAlarm()).fit(X, LABELS)
    assert made == []

    class Now(Empty):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            pass

    network().set_callbacks(Now(), Now()).fit(X, LABELS)
    assert made == [1] * 7  # one for both, after each epoch and at the end


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        np.asfortranarray,
        sparse.csr_matrix,
        sparse.csr_array,
        np.ndarray.tolist,
        lambda X: X.astype(np.float32),
    ],
    ids=["C", "F", "csr_matrix", "csr_array", "list", "float32"],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_data_are_those_trained_on_and_cannot_be_written(
    make, early_stopping, contexts
):
    callback = Asking()
    weight = np.arange(1.0, len(X) + 1)
    given = make(X)
    network(early_stopping=early_stopping, class_weight="balanced").set_callbacks(
        callback
    ).fit(given, list(LABELS), weight)
    told, labels, metadata, fitted = callback.given[0]
    assert all(call[0] is told for call in callback.given)
    rows = metadata["sample_weight"].astype(int) - 1  # as they were given
    assert len(set(rows)) == len(rows) == (135 if early_stopping else 150)
    dense = told.toarray() if sparse.issparse(told) else told
    kept = X.astype(np.float32) if dense.dtype == np.float32 else X
    assert_array_equal(dense, kept[rows])
    assert_array_equal(labels, LABELS[rows])
    for array in (told.data if sparse.issparse(told) else told, labels):
        assert not array.flags.writeable
    assert fitted.predict(told).shape == labels.shape


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_data_frame_is_shown_as_a_copy(library, early_stopping, contexts):
    pd = pytest.importorskip(library)
    frame = (
        pd.DataFrame(X, [*"abcd"])
        if library == "polars"
        else (pd.DataFrame(X, columns=[*"abcd"]))
    )
    callback = Asking()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        network(early_stopping=early_stopping).set_callbacks(callback).fit(frame, y)
        told, labels, metadata, fitted = callback.given[0]
        if not hasattr(fitted, "feature_names_in_"):
            pytest.skip("this scikit-learn finds no names in these frames")
        assert [*told.columns] == [*"abcd"] and metadata is None and told is not frame
        assert accuracy_score(labels, fitted.predict(told)) == fitted.score(
            told, labels
        )


def test_multilabel_targets_and_several_outputs_are_shown(contexts):
    Y = np.column_stack([y == 0, y > 1]).astype(int)
    for given in (Y, sparse.csr_matrix(Y)):
        callback = Asking()
        network().set_callbacks(callback).fit(X, given)
        shown = callback.given[0][1]
        assert_array_equal(shown.toarray() if sparse.issparse(shown) else shown, Y)
        assert callback.given[0][3].score(X, Y) >= 0


def test_a_hook_that_asks_for_something_unknown_is_refused(contexts):
    class Odd(Empty):
        def on_fit_task_end(self, estimator, context, *, weights=None):
            pass

    with pytest.raises(TypeError, match="weights.*valid parameters are.*'metadata'"):
        network().set_callbacks(Odd()).fit(X, LABELS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_has_the_numbers_of_the_curves(solver, contexts):
    callback = Recording()
    model = network(solver, early_stopping=True).set_callbacks(callback)
    model.fit(X, LABELS)
    seen = callback.progress
    assert [p.epoch for p in seen] == [*range(1, model.n_iter_ + 1)]
    assert [p.loss for p in seen] == model.loss_curve_
    assert [p.validation_loss for p in seen] == model.validation_loss_curve_
    assert [p.validation_score for p in seen] == model.validation_scores_
    assert {p.learning_rate for p in seen} == {None if solver == "lbfgs" else 0.001}
    assert {p.n_rows for p in seen} == {135}
    assert all(a.seconds <= b.seconds for a, b in zip(seen, seen[1:], strict=False))


def test_the_learning_rate_is_that_of_the_schedule():
    history = History()
    rates = dict(learning_rate="linear", learning_rate_init=0.1, batch_size=150)
    network(**rates).set_callbacks(history).fit(X, LABELS)
    np.testing.assert_allclose(
        history.table()["learning_rate"], 0.1 * (1 - np.arange(6) / 6)
    )
    adaptive = dict(solver="sgd", learning_rate="adaptive", tol=10.0, max_iter=9)
    network(**adaptive, n_iter_no_change=2).set_callbacks(history).fit(X, LABELS)
    rates = history.table()["learning_rate"]
    assert len(set(rates)) > 1 and rates[0] == rates[1] == 0.001 > rates[-1]


def test_gradients_and_diagnosis_are_there_while_the_epoch_ends(contexts):
    class Looking(Recording):
        def on_fit_task_end(self, estimator, context):
            super().on_fit_task_end(estimator, context)
            if context.parent is not None:
                self.calls[-1] = [
                    context.progress.gradient(),
                    context.progress.gradient_flow().gradient[-1],
                    context.progress.diagnose(),
                ]

    callback = Looking()
    model = network().set_callbacks(callback).fit(X, LABELS)
    told = [call for call in callback.calls if isinstance(call, list)]
    recorded = model.gradient_flow_.epoch
    for epoch, (gradient, last, diagnosis_) in enumerate(told):
        assert (gradient is None) == (epoch not in recorded)
        if gradient is not None:
            np.testing.assert_allclose(gradient, last, rtol=1e-6)
        shorter = network(max_iter=epoch + 1).fit(X, LABELS)
        codes = {finding.code for finding in diagnose(shorter).findings}
        assert {f.code for f in diagnosis_.findings} == codes - {"not-converged"}
    progress = callback.progress[0]
    for method in (progress.gradient, progress.gradient_flow, progress.diagnose):
        with pytest.raises(RuntimeError, match="Epoch 1 is over"):
            method()


def test_without_monitor_there_are_no_gradients(contexts):
    class Looking(Empty):
        def on_fit_task_end(self, estimator, context):
            if context.parent is not None:
                assert context.progress.gradient() is None
                assert context.progress.gradient_flow() is None
                with pytest.raises(ValueError, match="monitor=True"):
                    context.progress.diagnose()

    model = network(monitor=False).set_callbacks(Looking()).fit(X, LABELS)
    assert model.n_iter_ == 6


def test_progress_can_be_pickled_even_while_the_epoch_ends():
    class Keeping(Empty):
        def on_fit_task_end(self, estimator, context):
            if context.parent is not None:
                self.kept = pickle.dumps(context.progress), context.progress

    callback = Keeping()
    network().set_callbacks(callback).fit(X, LABELS)
    loaded, progress = pickle.loads(callback.kept[0]), callback.kept[1]
    assert loaded == progress and isinstance(loaded, Epoch)
    with pytest.raises(AttributeError):
        loaded.loss = 0.0


# --------------------------------------------------------------------- set_callbacks


@pytest.mark.parametrize(
    "bad",
    [
        Empty,
        History,
        "History",
        None,
        print,
        types.SimpleNamespace(setup=print, teardown=print, on_fit_task_begin=print),
    ],
    ids=str,
)
def test_what_is_no_callback_is_refused_and_nothing_changes(bad):
    callback = Recording()
    model = network().set_callbacks(callback)
    with pytest.raises(TypeError, match="following the FitCallback protocol"):
        model.set_callbacks(Recording(), bad)
    assert model._skl_callbacks == [callback]


@pytest.mark.parametrize("several", [list, tuple])
def test_a_list_of_callbacks_is_refused_with_a_hint(several):
    with pytest.raises(TypeError, match=r"one by one: set_callbacks\(a, b\)"):
        network().set_callbacks(several([History(), History()]))


@pytest.mark.thread_unsafe(reason="turns the garbage collector off")
def test_data_are_freed_when_the_fit_has_ended(contexts):
    rows = X.copy()
    free = weakref.ref(rows)
    gc.disable()
    try:
        network().set_callbacks(Recording(), History()).fit(rows, LABELS)
        del rows
        assert free() is None
        rows = X.copy()
        free = weakref.ref(rows)
        model = network().set_callbacks(Recording(fail_in=("end", "fit")))
        with pytest.raises(RuntimeError):
            model.fit(rows, LABELS)
        del rows
        assert free() is None
    finally:
        gc.enable()


@NEEDS_THEIRS
def test_ours_follow_the_protocol_of_scikit_learn():
    for callback in (History(), GradientAlarm(), LiveDisplay(), Empty()):
        assert isinstance(callback, theirs.FitCallback)
        assert not isinstance(callback, theirs.AutoPropagatedCallback)
    for name in HOOKS[1:3]:
        ours = inspect.signature(getattr(History, name)).parameters
        assert [*ours] == ["self", "estimator", "context"]


def test_clones_share_callbacks_as_in_scikit_learn():
    history = History()
    model = network().set_callbacks(history)
    assert clone(model)._skl_callbacks[0] is history
    assert not hasattr(clone(network()), "_skl_callbacks")
    assert copy.copy(model)._skl_callbacks[0] is history
    assert copy.deepcopy(model)._skl_callbacks[0] is not history


def test_a_fitted_estimator_is_pickled_with_its_callbacks(contexts):
    history, alarm = History(), GradientAlarm()
    model = network().set_callbacks(history, alarm).fit(X, LABELS)
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.predict(X), model.predict(X))
    table = loaded._skl_callbacks[0].table()
    for name, column in history.table().items():
        assert_array_equal(table[name], column)
    loaded.fit(X, LABELS)
    assert loaded._skl_callbacks[0].n_fits == 2 and history.n_fits == 1
    bare = len(pickle.dumps(clone(model).set_callbacks().fit(X, LABELS)))
    assert len(pickle.dumps(model.set_callbacks())) < bare + 200


def test_a_fit_without_callbacks_makes_no_session_and_imports_nothing():
    program = """
import sys
import numpy as np
import cbp
X, y = np.random.RandomState(0).randn(20, 3), np.arange(20) % 2
cbp._base.Session = None
cbp.BPClassifier(max_iter=2).fit(X, y).partial_fit(X, y)
print("cbp.callbacks" in sys.modules, "sklearn.callback" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True
    )
    assert done.stdout == "False False\n", done.stderr


def test_the_package_imports_nothing_slow():
    program = """
import sys
import sklearn.base, sklearn.utils.metaestimators, sklearn.utils.validation
had = set(sys.modules)
import cbp
new = {name.split(".")[0] for name in set(sys.modules) - had}
print(sorted(new & {"matplotlib", "pandas", "IPython", "rich"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


# ------------------------------------------------------------- in scikit-learn's hands


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_searches_and_cross_validation_work_with_callbacks(n_jobs):
    history = History()
    pipe = make_pipeline(StandardScaler(), network().set_callbacks(history))
    search = GridSearchCV(
        pipe, {"bpclassifier__alpha": [1e-4, 1.0]}, cv=3, n_jobs=n_jobs
    ).fit(X, LABELS)
    # With processes the histories of the folds stay there; that of the last fit, on all
    # rows, is made here.
    assert history.n_fits == (7 if n_jobs is None else 1)
    best = search.best_estimator_[-1]
    assert best._skl_callbacks[0] is history
    assert [*history.table()["loss"]] == best.loss_curve_
    assert not hasattr(best, "_parent_callback_ctx")
    folds = cross_validate(
        pipe, X, LABELS, cv=3, n_jobs=n_jobs, return_estimator=True, error_score="raise"
    )
    for fold in folds["estimator"]:
        (own,) = fold[-1]._skl_callbacks
        losses = [[*own.table(i)["loss"]] for i in range(own.n_fits)]
        assert fold[-1].loss_curve_ in losses


def test_ensembles_of_threads_share_one_history():
    history = History()
    base = network().set_callbacks(history)
    forest = BaggingClassifier(base, 8, n_jobs=2, random_state=0)
    import joblib

    with joblib.parallel_backend("threading"):
        forest.fit(X, LABELS)
    curves = sorted(model.loss_curve_ for model in forest.estimators_)
    tables = sorted([*history.table(i)["loss"]] for i in range(history.n_fits))
    assert curves == tables
    CalibratedClassifierCV(base, cv=2, ensemble=False).fit(X, LABELS)
    assert history.n_fits == 8 + 3


def test_threads_may_fit_one_estimator_with_its_callbacks(contexts):
    callback, history = Recording(), History()
    model = network().set_callbacks(callback, history)
    threads = [threading.Thread(target=model.fit, args=(X, LABELS)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [call[0] for call in callback.calls].count("teardown") == 4
    for i in range(4):
        assert [*history.table(i)["loss"]] == model.loss_curve_


@NEEDS_THEIRS
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_scoring_monitor_scores_every_epoch(solver):
    monitor = theirs.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    model = network(solver).set_callbacks(monitor).fit(X, LABELS)
    rows = monitor.get_logs().data
    epochs = [row["accuracy"] for row in rows if row["task_name"] != "fit"]
    expected = [
        network(solver, max_iter=n).fit(X, LABELS).score(X, LABELS)
        for n in range(1, model.n_iter_ + 1)
    ]
    assert epochs == expected
    weight = np.linspace(0, 1, len(X))
    model.fit(X, LABELS, weight)
    last = [row for row in monitor.get_logs().data if row["task_name"] == "fit"]
    assert last[0]["accuracy"] == model.score(X, LABELS, weight)


@NEEDS_THEIRS
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_scoring_monitor_works_in_a_search_and_a_pipeline(n_jobs):
    monitor = theirs.ScoringMonitor(scoring="accuracy")
    pipe = make_pipeline(StandardScaler(), network().set_callbacks(monitor))
    pipe.fit(X, LABELS)
    log = monitor.get_logs()
    assert log.estimator_name == "Pipeline" and len(log.data) == 6 + 1
    search = GridSearchCV(
        pipe, {"bpclassifier__alpha": [1e-4, 1.0]}, cv=2, n_jobs=n_jobs
    ).fit(X, LABELS)
    log = monitor.get_logs()
    assert log.estimator_name == "GridSearchCV" and len(log.data) == 5 * 7
    assert search.best_estimator_.score(X, LABELS) > 0


@NEEDS_THEIRS
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_progress_bar_counts_epochs(solver, capsys):
    pytest.importorskip("rich")
    network(solver).set_callbacks(theirs.ProgressBar()).fit(X, LABELS)
    text = capsys.readouterr().out
    assert "BPClassifier - fit" in text and "100%" in text
    pipe = make_pipeline(StandardScaler(), network(solver))
    bar = theirs.ProgressBar(max_propagation_depth=None)
    pipe.set_callbacks(bar).fit(X, LABELS)
    text = capsys.readouterr().out
    assert "fit-final-estimator" in text and "BPClassifier - fit" in text
    assert not hasattr(pipe[-1], "_skl_callbacks")
    search = GridSearchCV(pipe.set_callbacks(), {"bpclassifier__alpha": [1.0]}, cv=2)
    search.set_callbacks(bar).fit(X, LABELS)
    assert "GridSearchCV" in capsys.readouterr().out
    search.set_params(n_jobs=2).fit(X, LABELS)
    assert "100%" in capsys.readouterr().out


@NEEDS_THEIRS
def test_what_a_pipeline_hands_down_is_set_up_once_and_taken_back():
    class Propagated(Recording):
        max_propagation_depth = None

    callback = Propagated()
    pipe = make_pipeline(StandardScaler(), network()).set_callbacks(callback)
    pipe.fit(X, LABELS)
    names = [call[:2] for call in callback.calls]
    assert [name for name, _ in names].count("setup") == 1
    assert [name for name, _ in names].count("teardown") == 1
    assert names.count(("begin", "epoch")) == names.count(("end", "epoch")) == 6
    assert not hasattr(pipe[-1], "_skl_callbacks")


@NEEDS_THEIRS
def test_a_pipeline_sees_the_task_of_a_network_without_callbacks():
    class Tree(Empty):
        def on_fit_task_end(self, estimator, context):
            if context.parent is None:
                self.names = [each.estimator_name for each in context]

    callback = Tree()
    make_pipeline(StandardScaler(), network()).set_callbacks(callback).fit(X, LABELS)
    assert "BPClassifier" in callback.names


def test_our_callbacks_refuse_other_estimators_by_name():
    class Other(BaseEstimator):
        pass

    for callback in (History(), GradientAlarm(), LiveDisplay()):
        with pytest.raises(TypeError, match=r"not on a Other.*model\[-1\]"):
            callback.setup(Other(), object())
    if theirs is not None:
        with pytest.raises(TypeError, match="LogisticRegression"):
            LogisticRegression().set_callbacks(History()).fit(X, y)


# ------------------------------------------------------------------------- History


def test_history_holds_the_curves_of_every_fit(contexts):
    history = History()
    assert history.n_fits == 0
    with pytest.raises(ValueError, match="no table yet: this History has seen no fit"):
        history.table()
    model = network(early_stopping=True).set_callbacks(history).fit(X, LABELS)
    table = history.table()
    assert [*table["epoch"]] == [1, 2, 3, 4, 5, 6]
    assert [*table["loss"]] == model.loss_curve_
    assert [*table["validation_loss"]] == model.validation_loss_curve_
    assert [*table["validation_score"]] == model.validation_scores_
    flow = model.gradient_flow_
    for layer in (1, 2):
        column = table[f"gradient_{layer}"]
        np.testing.assert_allclose(
            column[flow.epoch], flow.gradient[:, layer - 1], rtol=1e-6
        )
        assert np.isnan(np.delete(column, flow.epoch)).all()
    model.set_params(early_stopping=False, monitor=False, solver="lbfgs").fit(X, LABELS)
    table = history.table()
    assert "gradient_1" not in table
    for name in ("validation_score", "validation_loss", "learning_rate"):
        assert np.isnan(table[name]).all()
    assert history.n_fits == 2 and history.table(0)["validation_score"][0] >= 0
    for bad in (2, -3, 0.5, True, "last"):
        with pytest.raises(ValueError, match=r"fit must be an int in \[-2, 2\)"):
            history.table(bad)


def test_history_as_data_frames():
    pd = pytest.importorskip("pandas")
    history = History()
    assert len(history.to_frame(None)) == 0
    model = network().set_callbacks(history).fit(X, LABELS)
    model.set_params(max_iter=3, hidden_layer_sizes=(4, 4)).fit(X, LABELS)
    frame = history.to_frame()
    assert isinstance(frame, pd.DataFrame) and frame.shape == (3, 9)
    assert [*frame.columns][:2] == ["epoch", "loss"]
    both = history.to_frame(None)
    assert [*both["fit"]] == [0] * 6 + [1] * 3 and both["gradient_3"][:6].isna().all()
    assert [*history.to_frame(0)["loss"]] == [*both["loss"][:6]]


def test_history_needs_pandas_for_frames_only(monkeypatch):
    history = History()
    network().set_callbacks(history).fit(X, LABELS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        history.to_frame()


def test_history_of_a_failed_fit_keeps_its_epochs(contexts):
    history = History()
    model = network(learning_rate_init=1e200, max_iter=50, solver="sgd")
    with pytest.raises(ValueError, match="non-finite"):
        model.set_callbacks(history).fit(X * 1e30, X[:, 0] > 5)
    assert history.n_fits == 1 and len(history.table()["loss"]) < 50


# -------------------------------------------------------------------- GradientAlarm


def test_the_alarm_stops_a_vanishing_gradient_and_says_why(contexts):
    digits, numbers = load_digits(return_X_y=True)
    alarm = GradientAlarm()
    model = BPClassifier((30,) * 6, "logistic", random_state=0).set_callbacks(alarm)
    with pytest.warns(
        UserWarning, match="GradientAlarm stopped.*vanishing.*Try"
    ) as seen:
        model.fit(digits / 16, numbers)
    assert seen[0].filename == __file__
    assert alarm.finding.code == "vanishing-gradient" and alarm.epoch == model.n_iter_
    assert alarm.finding in alarm.diagnosis.findings
    assert "vanishing-gradient" in str(model.diagnose())
    assert model.n_iter_ < 5 and model._fit_summary.outcome == "stopped"
    model.set_params(activation="relu", hidden_layer_sizes=(30,), max_iter=30)
    model.fit(digits / 16, numbers)
    assert alarm.finding is alarm.diagnosis is alarm.epoch is None


@pytest.mark.parametrize("case", [*healthy(TUNING)][::5], ids=str)
def test_the_alarm_lets_healthy_fits_be(case):
    alarm = GradientAlarm()
    model_of(case).set_callbacks(alarm).fit(*data_of(case))
    assert alarm.finding is None, str(alarm.diagnosis)


def test_the_alarm_listens_to_what_it_is_told_to():
    deep = network(hidden_layer_sizes=(20,) * 6, activation="logistic", max_iter=12)
    alarm = GradientAlarm(codes=["dead-units", "divergence"])
    assert deep.set_callbacks(alarm).fit(X, LABELS).n_iter_ == 12
    # Weights that have hardly moved are no illness of the first epochs.
    slow = network(learning_rate_init=1e-7, max_iter=40, batch_size=10, tol=0)
    alarm = GradientAlarm(after=20)
    with pytest.warns(UserWarning, match="update-too-small"):
        slow.set_callbacks(alarm).fit(StandardScaler().fit_transform(X), LABELS)
    assert 20 <= alarm.epoch < 25


def test_the_alarm_knows_the_findings_that_can_come():
    import re

    source = inspect.getsource(_rules)
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', source))
    # What only the end of a fit, or more of it, can tell.
    others = {"not-converged", "small-weights", "schedule-ended", "plateau"}
    others |= {"constant-prediction", "stopped-by-tol", "starved-layer"}
    others |= {"clipped-steps", "too-few-steps", "learning-rate-too-low"}
    others |= {"penalty-too-large", "network-too-small", "label-smoothing"}
    others |= {"unscaled-target"}
    assert codes - others == set(ALARMS)


def test_the_alarm_refuses_what_it_cannot_do():
    for bad in (-1, 1.5, True, "soon", None):
        with pytest.raises(ValueError, match="after must be an int >= 0"):
            GradientAlarm(after=bad)
    for bad in ("dead-units", ["deadly"], [1], ["constant-prediction"]):
        with pytest.raises(ValueError, match="codes must be a sequence of 'unscaled"):
            GradientAlarm(codes=bad)
    with pytest.raises(ValueError, match="monitor=True"):
        network(monitor=False).set_callbacks(GradientAlarm()).fit(X, LABELS)


# ---------------------------------------------------------------------- LiveDisplay


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield pyplot
    pyplot.close("all")


def count_draws(monkeypatch):
    drawn = []
    draw = callbacks._Picture.draw

    def counting(picture, figure):
        drawn.append(len(picture.losses))
        draw(picture, figure)

    monkeypatch.setattr(callbacks._Picture, "draw", counting)
    return drawn


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_live_display_draws_every_epoch_and_the_last(solver, plt, monkeypatch):
    drawn = count_draws(monkeypatch)
    live = LiveDisplay(every=0)
    model = network(solver, early_stopping=True, max_iter=4).set_callbacks(live)
    model.fit(X, LABELS)
    assert drawn == [*range(1, model.n_iter_ + 1)]
    assert plt.gcf() is live.figure_
    labels = [axes.get_ylabel() for axes in live.figure_.axes]
    assert {"training loss", "validation score", "layer"} <= {*labels}
    (curve,) = [
        axes.get_lines()[0]
        for axes in live.figure_.axes
        if axes.get_ylabel() == "training loss"
    ]
    assert [*curve.get_ydata()] == model.loss_curve_
    drawn.clear()
    late = LiveDisplay(every=1e6, figure=live.figure_)
    model.set_callbacks(late).set_params(monitor=False, early_stopping=False)
    model.fit(X, LABELS)
    assert drawn == [1, model.n_iter_] and late.figure_ is live.figure_
    assert [axes.get_ylabel() for axes in late.figure_.axes] == ["training loss"]


def test_a_live_display_replaces_the_output_of_a_notebooks_cell(plt, monkeypatch):
    shown = []

    class Handle:
        def update(self, image):
            shown.append(("update", image))

    def display(image, display_id):
        shown.append(("display", image))
        return Handle()

    ipython, parts = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.version_info = (9, 0, 0, "")  # matplotlib asks for it
    monkeypatch.setattr(plt, "install_repl_displayhook", lambda: None)
    ipython.display, parts.display, parts.Image = parts, display, lambda data: data
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", parts)
    live = LiveDisplay(every=0)
    model = network(max_iter=3).set_callbacks(live).fit(X, LABELS)
    assert [how for how, _ in shown] == ["display", "update", "update"]
    assert all(image.startswith(b"\x89PNG") for _, image in shown)
    assert plt.get_fignums() == []  # nothing that the cell would show once more
    model.fit(X, LABELS)
    assert [how for how, _ in shown][3:] == ["display", "update", "update"]
    # IPython in a terminal is no notebook.
    ipython.get_ipython = lambda: types.SimpleNamespace()
    network(max_iter=3).set_callbacks(LiveDisplay()).fit(X, LABELS)
    assert len(shown) == 6 and plt.get_fignums() != []


def test_a_live_display_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    model = network().set_callbacks(LiveDisplay())
    with pytest.raises(ImportError, match="cbp-learn.plot."):
        model.fit(X, LABELS)
    assert not hasattr(model, "coefs_")


def test_a_live_display_refuses_bad_seconds_and_goes_into_pickles(plt):
    for bad in (-1, np.nan, "1", True, None):
        with pytest.raises(ValueError, match="every must be a number of seconds"):
            LiveDisplay(every=bad)
    model = network(max_iter=2).set_callbacks(LiveDisplay(every=0)).fit(X, LABELS)
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.fit(X, LABELS)._skl_callbacks[0].figure_ is not None


def test_callbacks_are_a_module_of_the_package():
    assert cbp.callbacks is callbacks and "callbacks" in dir(cbp)
    assert set(callbacks.__all__) == {
        "Checkpoint",
        "Epoch",
        "History",
        "GradientAlarm",
        "LiveDisplay",
    }


HEALTHY_STARTS = {
    "gelu, six layers": {"hidden_layer_sizes": (64,) * 6, "activation": "gelu"},
    "softplus, six layers": {"hidden_layer_sizes": (64,) * 6, "activation": "softplus"},
    "warmup": {"hidden_layer_sizes": (64,), "warmup": 0.1, "max_iter": 200},
    "one_cycle": {
        "hidden_layer_sizes": (64,),
        "learning_rate": "one_cycle",
        "max_iter": 60,
    },
}


@pytest.mark.parametrize("given", HEALTHY_STARTS.values(), ids=HEALTHY_STARTS)
def test_the_alarm_lets_slow_starts_pass(given):
    digits, numbers = load_digits(return_X_y=True)
    alarm = GradientAlarm()
    model = BPClassifier(random_state=0, **{"max_iter": 25, **given})
    model.set_callbacks(alarm).fit(digits / 16, numbers)
    assert alarm.finding is None and model.score(digits / 16, numbers) > 0.9
