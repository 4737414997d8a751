"""The fitted object: swapped whole, copied whole, and believed only if it agrees."""

import copy
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from cbp import BPClassifier, BPRegressor, _fitting
from cbp._parameters import n_threads
from cbp._solvers import STOCHASTIC, _OneBlasThread

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
MULTILABEL = np.eye(3, dtype=int)[y]
BOTH = pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])


def fitted(kind, **options):
    """A small model of one kind of targets."""
    estimator, target = {
        "binary": (BPClassifier, y > 0),
        "multiclass": (BPClassifier, y),
        "multilabel": (BPClassifier, MULTILABEL),
        "regression": (BPRegressor, y.astype(float)),
    }[kind]
    options = {"hidden_layer_sizes": (4, 3), "max_iter": 2, "random_state": 0} | options
    classes = [0, 1, 2] if kind == "multilabel" else np.unique(target)
    more = {} if estimator is BPRegressor else {"classes": classes}
    return estimator(**options).partial_fit(X, target, **more)


KINDS = pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])


# ------------------------------------------------------------ swapped in one assignment


@pytest.mark.thread_unsafe(reason="settrace of one thread disturbs others")
@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit", "initialize"])
def test_a_call_that_trains_makes_one_assignment_at_its_end(estimator, method):
    """Whatever a reader sees at any step of the call is one model whole."""
    model = estimator(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
    model.fit(X, y)
    before, seen = model._fitted, []

    def look(frame, event, argument):
        seen.append(model._fitted)
        return look

    tracer = sys.gettrace()
    sys.settrace(look)
    try:
        getattr(model, method)(X, y)
    finally:
        sys.settrace(tracer)
    changes = sum(a is not b for a, b in zip(seen[:-1], seen[1:], strict=True))
    assert seen[0] is before and model._fitted is not before
    assert changes <= 1


@pytest.mark.thread_unsafe(reason="settrace of one thread disturbs others")
@BOTH
@pytest.mark.parametrize("method", ["fit", "initialize"])
def test_an_interrupt_at_any_line_leaves_a_model_whole(estimator, method):
    """KeyboardInterrupt at every line in turn of a call, and of one that fails."""
    narrow, wide = X[:, :3], X

    class AtLine:
        def __init__(self, number):
            self.left = number

        def __call__(self, frame, event, argument):
            if "cbp" not in frame.f_code.co_filename:
                return None
            if event == "line":
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
            return self

    for data in (narrow, np.full((5, 2), np.nan)):
        model = estimator(hidden_layer_sizes=(4,), max_iter=1, random_state=0)
        model.fit(wide, y)
        line, ended = 0, False
        while not ended:
            line += 1
            sys.settrace(AtLine(line))
            try:
                getattr(model, method)(data, y[: len(data)])
                ended = True
            except KeyboardInterrupt:
                pass
            except ValueError:
                ended = True
            finally:
                sys.settrace(None)
            n = model.n_features_in_
            assert model.coefs_[0].shape[0] == n
            model.predict(X[:, :n])
        assert line > 20


@BOTH
def test_readers_in_other_threads_see_the_old_model_or_the_new_one(estimator):
    model = estimator(hidden_layer_sizes=(4,), max_iter=1, random_state=0)
    sides = [(X, model.fit(X, y).predict(X)), (X[:, :2], None)]
    sides[1] = (X[:, :2], copy.deepcopy(model).fit(X[:, :2], y).predict(X[:, :2]))
    done = threading.Event()

    def read():
        seen = set()
        while not done.is_set() or not seen:
            for data, expected in sides:
                try:
                    result = model.predict(data)
                except ValueError as error:
                    assert "features" in str(error) or "columns" in str(error)
                    continue
                np.testing.assert_array_equal(result, expected)
                seen.add(data.shape[1])
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for i in range(60):
            model.fit(sides[(i + 1) % 2][0], y)
            with pytest.raises(ValueError):
                model.fit(np.full_like(X, np.nan), y)
        done.set()
        assert all(reader.result() for reader in readers)


def test_a_model_whose_columns_are_miscounted_by_hand_is_an_error():
    model = fitted("multiclass")
    model.n_features_in_ = 2
    for n_rows in (1, 50):
        with pytest.raises(ValueError, match=r"2|4"):
            model.predict(X[:n_rows, :2])


def test_weights_may_be_given_before_the_first_fit_and_training_begins_with_them():
    source = fitted("multiclass")
    model = BPClassifier((4, 3), random_state=0)
    model.coefs_ = [W.copy() for W in source.coefs_]
    model.intercepts_ = [b.copy() for b in source.intercepts_]
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.partial_fit(X, y, classes=[0, 1, 2], sample_weight=0)
    for mine, its in zip(model.coefs_, source.coefs_, strict=True):
        np.testing.assert_array_equal(mine, its)


# ------------------------------------------------------------------------------- copies


@KINDS
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_a_copy_goes_on_training_as_the_original_does(kind, make, solver):
    model = fitted(kind, solver=solver, learning_rate_init=0.01)
    target = {"binary": y > 0}.get(kind, y)
    for _ in range(3):
        model.partial_fit(X, target)
    twin = make(model)
    for _ in range(3):
        model.partial_fit(X, target)
        twin.partial_fit(X, target)
    np.testing.assert_array_equal(twin._theta, model._theta)
    assert twin._optimizer.steps == model._optimizer.steps


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_is_changed_alone(make):
    model = fitted("multiclass")
    before, n_iter = model.predict_proba(X), model.n_iter_
    twin = make(model)
    twin.n_iter_ = 7
    twin.fit(X[:, :2], y)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.n_iter_ == n_iter and model.n_features_in_ == 4


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_an_array_that_is_replaced_in_a_copy_is_replaced_there_alone(make):
    model = fitted("multiclass")
    before = model.predict_proba(X)
    twin = make(model)
    twin.coefs_[0] = np.zeros_like(twin.coefs_[0])
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert not np.array_equal(twin.predict_proba(X), before)


def test_a_deep_copy_shares_no_weights():
    model = fitted("multiclass")
    twin = copy.deepcopy(model)
    assert not np.shares_memory(twin._theta, model._theta)
    twin.coefs_[0][...] = 0
    assert np.shares_memory(twin.coefs_[0], twin._theta) and model.coefs_[0].all()


# ------------------------------------------------------------ a pickle that was changed


def mutants(state):
    """Pairs of a name and a state in which one thing is wrong."""
    theta, network = state["_theta"], state["_network_arguments"]
    sizes = network["layer_sizes"]
    for name, wrong in {
        "longer": np.append(theta, 0),
        "shorter": theta[:-1],
        "2-D": theta[:, None],
        "nan": np.where(np.arange(theta.size) == 3, np.nan, theta),
        "ints": theta.astype(int),
        "text": theta.astype(str),
        "list": theta.tolist(),
        "none": None,
    }.items():
        yield f"theta {name}", {**state, "_theta": wrong}
    for wrong in [
        (),
        (4,),
        list(sizes),
        (0, *sizes[1:]),
        (-4, *sizes[1:]),
        (sizes[0] + 1, *sizes[1:]),
        (*sizes[:-1], sizes[-1] + 1),
        (4.0, *sizes[1:]),
        (2**62, *sizes[1:]),
    ]:
        arguments = {**network, "layer_sizes": wrong}
        yield f"layers {wrong}", {**state, "_network_arguments": arguments}
    for name, wrong in [
        ("activations", ("relu",)),
        ("activations", ("relu", "swoosh")),
        ("activations", ("relu", 3)),
        ("output", "identity" if network["output"] != "identity" else "softmax"),
        ("output", None),
        ("loss", "hinge"),
        ("loss", ["log_loss"]),
    ]:
        arguments = {**network, name: wrong}
        yield f"{name} {wrong}", {**state, "_network_arguments": arguments}
    yield "no network", {k: v for k, v in state.items() if k != "_network_arguments"}
    yield "no weights", {k: v for k, v in state.items() if k != "_theta"}
    for name, wrongs in {
        "n_features_in_": [3, 5, 0, "4", None],
        "n_outputs_": [2, 7, None],
        "n_layers_": [3, 5],
        "out_activation_": ["exp", None],
        "n_iter_": [-1, 1.5, None],
        "t_": [-150, 2**63, "t"],
        "loss_": [None, "x"],
        "loss_curve_": [None, 3, ["x"]],
        "_no_improvement_count": [-1, None],
        "_partially_fitted": [None, "yes"],
        "feature_names_in_": [np.array(["a"], object), ["a", "b", "c", "d"]],
        "_optimizer": ["adam", 3],
        "_fit_summary": [5],
        "gradient_flow_": [{}],
        "_format": [None, -1, "1"],
    }.items():
        for wrong in wrongs:
            yield f"{name} {wrong!r}", {**state, name: wrong}
    if state.get("_optimizer") is not None:
        moments = state["_optimizer"]["fields"]["state"]
        for name, wrong in [
            ("steps", -1),
            ("steps", 2**63),
            ("steps", 1.5),
            ("learning_rate", np.nan),
            ("learning_rate", -1.0),
            ("solver", "lbfgs"),
            ("solver", "sgd"),
            ("state", None),
            ("state", moments[:, :-16]),
            ("state", moments.astype(np.float32)),
            ("state", moments * np.nan),
        ]:
            optimizer = copy.deepcopy(state["_optimizer"])
            optimizer["fields"][name] = wrong
            yield f"optimizer {name}", {**state, "_optimizer": optimizer}
    if "classes_" not in state:
        yield "classes of a regressor", {**state, "classes_": np.arange(3)}
        return
    classes = state["classes_"]
    for name, wrong in {
        "doubled": np.concatenate([classes, classes]),
        "twice": np.repeat(classes, 2),
        "reversed": classes[::-1],
        "2-D": classes[:, None],
        "fewer": classes[:-1],
        "more": np.append(classes.astype(int), 9),
        "list": classes.tolist(),
        "empty": classes[:0],
        "no axis": np.array(5),
        "mixed": np.array([1, "a", None][: len(classes)], object),
        "nan": np.full(len(classes), np.nan),
    }.items():
        yield f"classes {name}", {**state, "classes_": wrong}
    yield "no classes", {k: v for k, v in state.items() if k != "classes_"}
    flipped = not state["_multilabel"]
    yield "multilabel flipped", {**state, "_multilabel": flipped}
    yield "multilabel no bool", {**state, "_multilabel": 1}


@pytest.mark.parametrize("loss", [None, "squared_error"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_a_pickle_in_which_one_thing_is_wrong_is_refused(kind, loss):
    model = fitted(kind, **({"loss": loss} if loss else {}))
    state = model.__getstate__()
    type(model)().__setstate__(state)
    count = 0
    for name, mutant in mutants(state):
        other = type(model)(alpha=0.5)
        with pytest.raises(ValueError, match="damaged or was changed") as error:
            other.__setstate__(mutant)
            pytest.fail(f"accepted: {name}")
        assert type(model).__name__ in str(error.value)
        assert other.get_params() == type(model)(alpha=0.5).get_params()
        count += 1
    assert count > 60


def test_a_pickle_of_the_first_version_is_read():
    """It held no _sparse_labels where partial_fit was told the classes."""
    model = fitted("multiclass")
    state = model.__getstate__()
    del state["_labels"], state["_sparse_labels"]
    loaded = BPClassifier()
    loaded.__setstate__(state)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(
        loaded.partial_fit(X, y)._theta, model.partial_fit(X, y)._theta
    )


def test_weights_that_are_strided_or_no_state_at_all():
    model = fitted("multiclass")
    state = model.__getstate__()
    strided = np.repeat(state["_theta"], 2)[::2]
    loaded = BPClassifier()
    loaded.__setstate__({**state, "_theta": strided})
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="cannot be made of int"):
        BPClassifier().__setstate__(5)


def test_a_pickle_of_one_estimator_is_not_read_as_another():
    state = fitted("regression").__getstate__()
    with pytest.raises(ValueError, match="BPClassifier is damaged"):
        BPClassifier().__setstate__(state)


def test_moments_that_have_overflowed_go_into_no_pickle():
    model = BPClassifier(max_iter=2, random_state=0).fit(X, y).partial_fit(X, y)
    assert pickle.loads(pickle.dumps(model))._optimizer is not None
    model._optimizer.state[-1, 3] = np.inf
    twin = pickle.loads(pickle.dumps(model))
    assert twin._optimizer is None
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))


def test_parameters_that_are_newer_than_a_pickle_have_their_defaults():
    state = fitted("multiclass").__getstate__()
    del state["monitor"], state["precision"]
    loaded = BPClassifier(monitor=False).__class__.__new__(BPClassifier)
    loaded.__setstate__(state)
    assert loaded.monitor is True and loaded.precision is None


# ----------------------------------------------------- state of the process, left alone


@pytest.mark.thread_unsafe(reason="seeds the generator of the process")
def test_fits_without_a_seed_in_many_threads_never_draw_the_same():
    np.random.seed(0)

    def fit(_):
        return BPClassifier((3,), max_iter=3).fit(X, y)._theta.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fit, range(60)))) == 60


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("seed", [None, np.random.RandomState(0)])
def test_others_draw_from_the_generator_while_a_fit_goes_on(seed, monkeypatch):
    """Its lock is held for a shuffle, not for all of a fit."""
    generator = np.random if seed is None else seed
    started, run = threading.Event(), _fitting._train

    def run_and_say(*arguments):
        started.set()
        run(*arguments)

    def draw():
        started.wait()
        for _ in range(10_000):
            generator.uniform()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_fitting, "_train", run_and_say)
    # Some seconds, if nobody interrupts it.
    model = BPClassifier((50,), max_iter=50_000, n_iter_no_change=np.inf, tol=0)
    thread = threading.Thread(target=draw)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        model.set_params(random_state=seed).fit(X, y)
        thread.join()
        pytest.fail("the fit ended before others could draw")
    thread.join()


@pytest.mark.thread_unsafe(reason="sets the threads of BLAS for the process")
def test_lbfgs_in_threads_leaves_blas_as_many_threads_as_before():
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas():
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]

    with threadpool_limits(limits=3, user_api="blas"):
        before = blas()
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                model = BPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=2)
                fits = [pool.submit(copy.deepcopy(model).fit, X, y) for _ in range(8)]
                for fit in fits:
                    fit.result()
            assert blas() == before


@pytest.mark.thread_unsafe(reason="sets the threads of BLAS for the process")
@pytest.mark.parametrize("line", range(1, 12))
@pytest.mark.parametrize("method", ["__enter__", "__exit__"])
def test_an_interrupt_leaves_blas_as_many_threads_as_before(method, line):
    from threadpoolctl import threadpool_limits

    code = getattr(_OneBlasThread, method).__code__
    libraries = _OneBlasThread._libraries()

    class AtLine:
        def __init__(self):
            self.left, self.seen = line, set()

        def __call__(self, frame, event, argument):
            if frame.f_code is not code:
                return None
            # Not a line once more: where a with block ends, no signal is handled before
            # its lock is released.
            if event == "line" and frame.f_lineno not in self.seen:
                self.seen.add(frame.f_lineno)
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
            return self

    with threadpool_limits(limits=3, user_api="blas"):
        before = [library.num_threads for library in libraries]
        sys.settrace(AtLine())
        try:
            with _OneBlasThread():
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        with _OneBlasThread():
            assert {library.num_threads for library in libraries} == {1}
        assert [library.num_threads for library in libraries] == before
        with _OneBlasThread():
            for library in libraries:
                library.set_num_threads(2)
        assert {library.num_threads for library in libraries} == {2}


def test_workers_of_a_cluster_are_not_counted_as_cores(monkeypatch):
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda n_jobs=-1: 32)
    cores = joblib.cpu_count()
    assert n_threads(None) == n_threads(-1) == min(32, cores)
    assert n_threads(3) == 3
