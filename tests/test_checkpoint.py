"""Checkpoints: a fit that was lost goes on to the bits of one that was not."""

import copy
import errno
import math
import os
import sys
import warnings

import numpy as np
import pytest
from child import run_python
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.datasets import load_iris, make_regression

import cbp
from cbp import (
    BPClassifier,
    BPRegressor,
    _checkpoint,
    _solvers,
    _whole_file,
    callbacks,
)
from cbp._safetensors import ModelFileError
from cbp.callbacks import Checkpoint, History

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.thread_unsafe(reason="threads would share files"),
]

X, y = load_iris(return_X_y=True)
SCHEDULES = ["constant", "invscaling", "adaptive", "cosine", "linear", "exponential"]
SCHEDULES += ["one_cycle"]


NEEDS_OPEN = pytest.mark.skipif(
    not _solvers.OpenLBFGS.is_there(), reason="SciPy is older"
)


class Lost(Exception):
    """A fit ends here, as if the process had been killed."""


class Bomb:
    """Ends a fit after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        progress = getattr(context, "progress", None)
        if progress is not None and progress.epoch == self.epoch:
            raise Lost


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a fit")


def lose(model, path, epoch, *data, every=1, **more):
    """Fits a copy of the model until an epoch, with checkpoints."""
    twin = copy.deepcopy(model).set_callbacks(Checkpoint(path, every), Bomb(epoch))
    with pytest.raises(Lost):
        twin.fit(*data, **more)


def contents(value):
    """Arrays and numbers in a fitted object, to be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: contents(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [contents(x) for x in value]
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if hasattr(value, "__dict__") and not callable(value):
        return contents(vars(value))
    return value


def result(model):
    model._fitted.complete()
    own = {k: v for k, v in vars(model._fitted).items() if k not in ("_network",)}
    weights = own.pop("_weights")
    return contents(own | {"theta": weights.theta})


def assert_same_fit(model, other):
    ours, theirs = result(model), result(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name
    if model.monitor:
        assert str(model.diagnose()) == str(other.diagnose())


def assert_resumes(model, path, epochs, *data, **more):
    whole = copy.deepcopy(model).fit(*data, **more)
    for epoch in epochs:
        lose(model, path, epoch, *data, **more)
        assert_same_fit(copy.deepcopy(model).resume(path, *data, **more), whole)
    return whole


OPTIONS = {
    "plain": {},
    "float32": {"precision": "float32"},
    "threads": {"n_jobs": 2, "hidden_layer_sizes": (64, 32)},
    "one row": {"batch_size": 1, "max_iter": 8},
    "all rows": {"batch_size": 150},
    "unmonitored": {"monitor": False},
    "not shuffled": {"shuffle": False},
    "dropout": {"dropout": 0.3, "input_dropout": 0.1},
    "averaged": {"average": 0.99},
    "decays": {"weight_decay": 0.01, "max_grad_norm": 0.5, "warmup": 0.3},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 4, "max_iter": 60},
    "averaged, early": {"average": 0.9, "early_stopping": True, "dropout": 0.2},
    "scorer": {"early_stopping": True, "scoring": "balanced_accuracy"},
    "orthogonal": {"init": "orthogonal"},
    "patience": {"tol": 0.05, "n_iter_no_change": 3, "max_iter": 60},
    "class weights": {"class_weight": "balanced"},
}


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_fit_has_the_bits_of_a_whole_one(name, solver, path):
    options = {"max_iter": 20, "batch_size": 16, "hidden_layer_sizes": 20}
    options |= {"learning_rate_init": 0.02, "solver": solver, "random_state": 3}
    model = BPClassifier(**options | OPTIONS[name])
    assert_resumes(model, path, [1, 5], X, y)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", [*SCHEDULES, lambda share: 1 - share / 2])
def test_a_resumed_fit_follows_its_schedule(solver, schedule, path):
    model = BPClassifier(
        10, solver=solver, learning_rate=schedule, max_iter=40, random_state=0
    ).set_params(tol=0.01, n_iter_no_change=2, learning_rate_init=0.1, batch_size=30)
    whole = assert_resumes(model, path, [2, 7], X, y)
    assert whole.n_iter_ > 7


@NEEDS_OPEN
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "float32"},
        {"n_jobs": 2, "hidden_layer_sizes": (64, 32)},
        {"early_stopping": True, "n_iter_no_change": 5},
        {"early_stopping": True, "scoring": "accuracy", "monitor": False},
        {"max_iter": 13},
        {"max_fun": 15},
        {"tol": 0.003},
    ],
    ids=str,
)
def test_lbfgs_is_resumed_to_the_same_bits(options, path):
    model = BPClassifier(12, solver="lbfgs", max_iter=60, random_state=0)
    model.set_params(**options)
    whole = assert_resumes(model, path, [1, 8, 12], X, y)
    assert whole.n_iter_ > 12


@NEEDS_OPEN
def test_lbfgs_of_large_targets_is_resumed_to_the_same_bits(path):
    X, y = make_regression(60, 5, random_state=0)
    model = BPRegressor(hidden_layer_sizes=9, solver="lbfgs", random_state=0)
    model.set_params(precision="float32", max_iter=30)
    assert_resumes(model, path, [2, 7], X.astype("f4"), y * 1e10)


@NEEDS_OPEN
def test_what_was_changed_in_the_state_of_lbfgs_is_an_error(path):
    model = BPClassifier(8, solver="lbfgs", random_state=0)
    lose(model, path, 4, X, y)
    tensors, meta = _checkpoint.read(_checkpoint.newest(path).path)
    own = [name for name in tensors if name.startswith("lbfgs.")]
    changed = [{key: tensors[key] for key in tensors if key != name} for name in own]
    changed += [tensors | {name: tensors[name][1:]} for name in own]
    changed += [tensors | {name: tensors[name].astype(np.float32)} for name in own]
    changed.append(tensors | {"lbfgs.task": np.array([3, 0], np.int32)})
    os.unlink(f"{path}.1")
    for tensors in changed:
        _checkpoint.write(path, tensors, meta)
        with pytest.raises(ModelFileError):
            copy.deepcopy(model).resume(path, X, y)


@pytest.mark.parametrize(
    "solver", [pytest.param("lbfgs", marks=NEEDS_OPEN), "adam", "sgd"]
)
def test_checkpoints_change_nothing(solver, path):
    model = BPClassifier(12, solver=solver, max_iter=40, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    checkpoint = Checkpoint(path, 7)
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        copy.deepcopy(model).fit(X, y)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_same_fit(model.set_callbacks(checkpoint).fit(X, y), whole)
    assert [str(w.message) for w in told] == [str(w.message) for w in ours] != []
    assert checkpoint.n_written >= 5


def test_lbfgs_of_a_scipy_that_hands_out_nothing_is_refused(path, monkeypatch):
    monkeypatch.setattr(_solvers.OpenLBFGS, "is_there", lambda: False)
    model = BPClassifier(8, solver="lbfgs").set_callbacks(Checkpoint(path))
    with pytest.raises(ValueError, match="solver='lbfgs' and this version of SciPy"):
        model.fit(X, y)


def test_a_fit_may_be_lost_many_times(path):
    model = BPClassifier(10, batch_size=20, max_iter=30, dropout=0.2, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    lose(model, path, 4, X, y)
    for epoch in (5, 11, 12, 29):
        twin = copy.deepcopy(model).set_callbacks(Checkpoint(path, 1), Bomb(epoch))
        with pytest.raises(Lost):
            twin.resume(path, X, y)
    assert_same_fit(copy.deepcopy(model).resume(path, X, y), whole)


def test_a_fit_that_had_ended_is_not_trained_any_further(path):
    for more in ({"max_iter": 7}, {"tol": 1, "n_iter_no_change": 3}):
        model = BPClassifier(10, random_state=0, **more)
        whole = copy.deepcopy(model).set_callbacks(Checkpoint(path, 50)).fit(X, y)
        history = History()
        again = copy.deepcopy(model).set_callbacks(history).resume(path, X, y)
        assert_same_fit(again, whole)
        assert len(history.table()["loss"]) == 0


def test_a_fit_that_a_callback_has_stopped_goes_on(path):
    class Stop(Bomb):
        def on_fit_task_end(self, estimator, context):
            progress = getattr(context, "progress", None)
            return progress is not None and progress.epoch == self.epoch

    model = BPClassifier(10, max_iter=12, random_state=0)
    copy.deepcopy(model).set_callbacks(Checkpoint(path, 1), Stop(3)).fit(X, y)
    whole = copy.deepcopy(model).fit(X, y)
    assert_same_fit(copy.deepcopy(model).resume(path, X, y), whole)


@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_threads_may_be_others(threads, path):
    model = BPClassifier((64, 32), n_jobs=threads[0], max_iter=8, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    lose(model, path, 3, X, y)
    assert_same_fit(model.set_params(n_jobs=threads[1]).resume(path, X, y), whole)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("scoring", [None, "loss", "accuracy"])
def test_a_validation_set_of_ones_own_is_scored_further(early_stopping, scoring, path):
    model = BPClassifier(
        10, early_stopping=early_stopping, max_iter=20, random_state=0, scoring=scoring
    )
    own = {"X_val": X[::5], "y_val": y[::5], "sample_weight_val": np.arange(30.0)}
    assert_resumes(model, path, [1, 6], X, y, **own)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_a_regressor_with_weights_is_resumed(form, path):
    X, y = make_regression(60, 5, n_targets=2, random_state=0)
    weight = np.linspace(0, 2, 60)
    model = BPRegressor(hidden_layer_sizes=8, max_iter=12, random_state=0)
    model.set_params(learning_rate_init=0.05, input_dropout=0.2)
    assert_resumes(model, path, [4], form(X), y / 100, weight)


def test_labels_of_every_kind_are_resumed(path):
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    columns = np.array([[str(a), "big" if a else "small"] for a in y], object)
    for target in (names, np.eye(3, dtype=int)[y], columns):
        model = BPClassifier(8, max_iter=6, random_state=0)
        whole = assert_resumes(model, path, [3], X, target)
        again = copy.deepcopy(model).resume(path, X, target)
        assert_array_equal(again.predict(X), whole.predict(X))


def test_without_a_seed_the_draws_are_those_of_the_lost_fit(path):
    model = BPClassifier(8, max_iter=9, batch_size=20, early_stopping=True)
    kept = os.path.join(os.path.dirname(path), "kept")

    class Keep(Bomb):
        def on_fit_task_end(self, estimator, context):
            progress = getattr(context, "progress", None)
            if progress is not None and progress.epoch == 4:
                os.link(_checkpoint.newest(path).path, kept)

    whole = copy.deepcopy(model).set_callbacks(Checkpoint(path, 1), Keep(4)).fit(X, y)
    before = np.random.get_state()[1].tobytes()
    assert_same_fit(copy.deepcopy(model).resume(kept, X, y), whole)
    assert np.random.get_state()[1].tobytes() == before


def test_a_generator_of_ones_own_stands_at_the_end_where_it_would_have_stood(path):
    own = np.random.RandomState(5)
    model = BPClassifier(8, max_iter=9, random_state=own)
    lose(model, path, 4, X, y)  # copies the generator
    whole = model.fit(X, y)
    other = np.random.RandomState(0)
    again = BPClassifier(8, max_iter=9, random_state=other).resume(path, X, y)
    assert_same_fit(again, whole)
    assert other.randint(2**30) == own.randint(2**30)


def test_a_generator_of_another_kind_is_refused(path):
    own = np.random.RandomState(np.random.PCG64(0))
    model = BPClassifier(8, max_iter=9, random_state=own)
    with pytest.raises(ValueError, match="MT19937, .* but not PCG64"):
        model.set_callbacks(Checkpoint(path)).fit(X, y)
    assert not os.path.exists(path)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_warm_start_is_resumed_in_a_model_that_was_never_fitted(dtype, path):
    model = BPClassifier(8, max_iter=6, warm_start=True, random_state=0)
    model.fit(X.astype(dtype), y)
    unfitted = BPClassifier(8, max_iter=6, warm_start=True, random_state=0)
    lose(model, path, 3, X, y)
    whole = copy.deepcopy(model).fit(X, y)
    assert_same_fit(unfitted.resume(path, X, y), whole)
    assert unfitted.n_iter_ == 6 and len(unfitted.loss_curve_) == 12


# ---- what must be the same


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"alpha": 0.5}, "alpha is 0.5, but was 0.0001"),
        ({"hidden_layer_sizes": (8, 8)}, r"hidden_layer_sizes is \[8, 8\], but was 8"),
        ({"max_iter": 10}, "max_iter is 10, but was 9"),
        ({"random_state": 1}, "random_state is 1, but was 0"),
        ({"solver": "sgd"}, "solver is 'sgd', but was 'adam'"),
        ({"learning_rate": abs}, "learning_rate is builtins.abs, but was 'constant'"),
        ({"class_weight": {0: 2.0}}, "class_weight is {0: 2}, but was None"),
    ],
)
def test_another_parameter_is_an_error_that_names_it(changed, said, path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    lose(model, path, 4, X, y)
    with pytest.raises(ValueError, match=said):
        model.set_params(**changed).resume(path, X, y)
    assert not hasattr(model, "coefs_")


def test_parameters_that_mean_the_same_are_the_same(path):
    lose(BPClassifier(np.int64(8), max_iter=9, alpha=1, random_state=0), path, 4, X, y)
    model = BPClassifier(8, max_iter=9, alpha=1.0, random_state=np.int32(0))
    model.set_params(verbose=False, n_jobs=2).resume(path, X, y)


def test_the_other_estimator_is_refused(path):
    lose(BPClassifier(8, max_iter=9, random_state=0), path, 4, X, y)
    with pytest.raises(ValueError, match="is of a BPClassifier"):
        BPRegressor(hidden_layer_sizes=8).resume(path, X, y)


WEIGHT = np.ones(150)


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ((X + 1e-12, y), {}, "X holds other values"),
        ((X[:140], y[:140]), {}, r"X is .*\(140, 4\), but was .*\(150, 4\)"),
        ((X.astype("f4"), y), {}, "X is float32 .*, but was float64"),
        ((sparse.csr_matrix(X), y), {}, "X is sparse float64"),
        ((X, np.roll(y, 1)), {}, "y holds other values"),
        ((X, y + 1), {}, "y holds other values"),
        ((X, y, 2 * WEIGHT), {}, "sample_weight was given, but .* had none"),
        ((X, y), {"X_val": X, "y_val": y}, "X_val was given"),
    ],
)
def test_other_data_are_an_error_that_names_them(data, more, said, path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    lose(model, path, 4, X, y)
    with pytest.raises(ValueError, match=said):
        model.resume(path, *data, **more)


def test_missing_data_are_an_error_that_names_them(path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    weight = np.linspace(1, 2, 150)
    lose(model, path, 4, X, y, weight, X_val=X[:9], y_val=y[:9])
    with pytest.raises(ValueError, match="sample_weight is missing"):
        model.resume(path, X, y, X_val=X[:9], y_val=y[:9])
    with pytest.raises(ValueError, match="X_val is missing"):
        model.resume(path, X, y, weight)
    with pytest.raises(ValueError, match="y_val holds other values"):
        model.resume(path, X, y, weight, X_val=X[:9], y_val=1 - y[:9])


def test_data_that_mean_the_same_are_the_same(path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    lose(model, path, 4, X, y)
    whole = copy.deepcopy(model).fit(X, y)
    again = copy.deepcopy(model).resume(path, np.asfortranarray(X).tolist(), list(y))
    assert_same_fit(again, whole)


# ---- files


def test_the_last_two_checkpoints_and_the_best_are_kept(path):
    model = BPClassifier(8, max_iter=50, early_stopping=True, random_state=0)
    model.set_params(n_iter_no_change=60)
    checkpoint = Checkpoint(path, 5)
    model.set_callbacks(checkpoint).fit(X, y)
    assert checkpoint.n_written == 10 and checkpoint.error is None
    files = sorted(os.listdir(os.path.dirname(path)))
    assert files == ["a fit", "a fit.1", "a fit.best"]
    epochs = {
        file[5:]: _checkpoint.read(f"{path}{file[5:]}")[1]["numbers"]["n_iter"]
        for file in files
    }
    assert {epochs[""], epochs[".1"]} == {50, 45}
    scores = model.validation_scores_[4::5]
    assert epochs[".best"] == 5 * (1 + int(np.argmax(scores)))


def test_the_best_stays_the_best_in_a_resumed_fit(path):
    model = BPClassifier(8, max_iter=20, early_stopping=True, random_state=0)
    lose(model, path, 9, X, y)
    best = f"{path}.best"
    before = _checkpoint.read(best)[1]["numbers"]["n_iter"]
    model.set_callbacks(Checkpoint(path, 1)).resume(path, X, y)
    scores = model.validation_scores_
    after = _checkpoint.read(best)[1]["numbers"]["n_iter"]
    assert after == 1 + int(np.argmax(scores))
    assert before == 1 + int(np.argmax(scores[:9]))


def test_the_best_checkpoint_may_be_resumed(path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    lose(model, path, 5, X, y)
    assert_same_fit(model.resume(f"{path}.best", X, y), whole)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "5", "0s", "1 day", "-1s"])
def test_an_interval_that_is_none_is_refused(every, path):
    with pytest.raises(ValueError, match="every must be a number of epochs"):
        Checkpoint(path, every)
    with pytest.raises(ValueError, match="on_error must be"):
        Checkpoint(path, on_error="ignore")


@pytest.mark.parametrize(
    ("every", "seconds"), [("30s", 30), ("1.5 min", 90), ("1h", 3600)]
)
def test_an_interval_may_be_a_time(every, seconds, path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])

    class Tick(Bomb):
        def on_fit_task_end(self, estimator, context):
            if hasattr(context, "progress"):
                now[0] += seconds / 4

    checkpoint = Checkpoint(path, every)
    model = BPClassifier(8, max_iter=18, random_state=0)
    model.set_callbacks(checkpoint, Tick(0)).fit(X, y)
    assert checkpoint.n_written == 4 + 1  # after the last epoch anyway
    assert _checkpoint.newest(path).meta["numbers"]["n_iter"] == 18


def test_a_checkpoint_is_for_one_fit_at_a_time(path):
    checkpoint = Checkpoint(path)

    class Another(Bomb):
        def on_fit_task_end(self, estimator, context):
            BPClassifier(8, max_iter=2).set_callbacks(checkpoint).fit(X, y)

    model = BPClassifier(8, max_iter=9).set_callbacks(checkpoint, Another(0))
    with pytest.raises(ValueError, match="at work for another fit"):
        model.fit(X, y)
    model.set_callbacks(checkpoint).fit(X, y)


def test_a_new_fit_is_newer_than_the_checkpoints_of_another(path):
    model = BPClassifier(8, max_iter=30, random_state=0)
    copy.deepcopy(model).set_callbacks(Checkpoint(path, 1)).fit(X, y)
    model.set_params(random_state=1)
    for epoch in (1, 2):
        lose(model, path, epoch, X, y)
        assert _checkpoint.newest(path).meta["numbers"]["n_iter"] == epoch


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(path):
    model = BPClassifier(8, max_iter=9, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    lose(model, path, 4, X, y)
    file = _checkpoint.newest(path).path
    with open(file, "r+b") as damaged:
        damaged.seek(-100, os.SEEK_END)
        damaged.write(b"damaged")
    assert _checkpoint.newest(path).path != file
    assert_same_fit(model.resume(path, X, y), whole)
    with open(_checkpoint.newest(path).path, "wb"):
        pass
    with pytest.raises(ModelFileError, match="hash.*too short|too short.*hash"):
        model.resume(path, X, y)


def test_paths_of_every_kind_are_taken(tmp_path):
    model = BPClassifier(8, max_iter=3, random_state=0)
    for number, kind in enumerate([str, os.fsencode, lambda path: path]):
        path = kind(tmp_path / f"f\u00fcr {number}")
        copy.deepcopy(model).set_callbacks(Checkpoint(path)).fit(X, y)
        copy.deepcopy(model).resume(path, X, y)


def test_a_checkpoint_is_no_model_file(path):
    model = BPClassifier(8, max_iter=3, random_state=0)
    copy.deepcopy(model).set_callbacks(Checkpoint(path)).fit(X, y)
    with pytest.raises(ModelFileError, match="holds no model"):
        cbp.load(f"{path}.1")
    other = f"{path} of a model"
    cbp.save(model.fit(X, y), other)
    with pytest.raises(ModelFileError, match="holds no checkpoint"):
        model.resume(other, X, y)


def test_without_a_checkpoint_there_is_nothing_to_resume(path):
    with pytest.raises(FileNotFoundError):
        BPClassifier().resume(path, X, y)


def test_another_file_is_not_written_over(path):
    with open(path, "w") as file:
        file.write("my only copy")
    model = BPClassifier(8).set_callbacks(Checkpoint(path))
    with pytest.raises(ValueError, match="no checkpoint.*choose another path"):
        model.fit(X, y)
    with open(path) as file:
        assert file.read() == "my only copy"


def test_a_folder_that_is_missing_is_told_before_training(tmp_path):
    model = BPClassifier(8).set_callbacks(Checkpoint(tmp_path / "none" / "a"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        model.fit(X, y)


# Every number of the description, and every tensor.
def test_what_was_changed_in_a_checkpoint_is_an_error_and_no_crash(path):
    model = BPClassifier(8, max_iter=9, dropout=0.2, early_stopping=True)
    model.set_params(average=0.5, random_state=0, batch_size=20)
    lose(model, path, 4, X, y)
    tensors, meta = _checkpoint.read(path)
    os.unlink(f"{path}.1")

    def resume(tensors, meta):
        _checkpoint.write(path, tensors, meta)
        with pytest.raises(ModelFileError):
            copy.deepcopy(model).resume(path, X, y)

    for name in tensors:
        resume({key: tensors[key] for key in tensors if key != name}, meta)
        resume(tensors | {name: tensors[name][:-1]}, meta)
        resume(tensors | {name: tensors[name].astype(np.int8)}, meta)
    for name in meta["numbers"]:
        for wrong in (None, "x", [], *([-1, 2**63] if name in WHOLE else [])):
            changed = meta["numbers"] | {name: wrong}
            resume(tensors, meta | {"numbers": changed})
    for name in meta:
        resume(tensors, {key: meta[key] for key in meta if key != name})
    order = tensors["order"].copy()
    order[0] = 2**40
    resume(tensors | {"order": order}, meta)
    epochs = tensors["record_epochs"]
    resume(tensors | {"record_epochs": epochs[::-1].copy()}, meta)
    theta = np.full_like(tensors["theta"], np.nan)
    resume(tensors | {"theta": theta}, meta)


WHOLE = ["n_iter", "t", "best_iter", "no_improvement_count", "steps", "n_clipped"]
WHOLE += ["first_drop", "first_step", "stride"]


# ---- errors of the disk


def writing_fails(monkeypatch, number, code):
    """The next writing fails at call `number` of those that touch the disk."""
    calls = []

    def failing(name, owner):
        before = getattr(owner, name)

        def call(*arguments, **more):
            calls.append(name)
            if len(calls) == number:
                raise OSError(code, os.strerror(code))
            return before(*arguments, **more)

        monkeypatch.setattr(owner, name, call)

    failing("_write_all", _whole_file)
    for name in ("open", "fsync", "replace", "link"):
        failing(name, os)
    return calls


CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]
# Open, header, data, fsync, replace, open and fsync of the folder; link and replace of
# the best one. A link that fails is a copy instead.
CALLS = 9
LINK = 8


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_wherever_writing_fails_the_checkpoints_before_stay(
    code, on_error, path, monkeypatch
):
    model = BPClassifier(8, max_iter=9, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    with monkeypatch.context() as patch:
        calls = writing_fails(patch, 0, code)
        lose(model, path, 1, X, y)
        assert len(calls) == CALLS
    for number in {*range(1, CALLS + 1)} - {LINK}:
        lose(model, path, 3, X, y)
        before = _checkpoint.newest(path).meta["numbers"]["n_iter"]
        assert before == 3
        checkpoint = Checkpoint(path, 4, on_error=on_error)
        twin = copy.deepcopy(model).set_callbacks(checkpoint, Bomb(5))
        with monkeypatch.context() as patch:
            calls = writing_fails(patch, number, code)
            expected = Lost if on_error == "warn" else OSError
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with pytest.raises(expected) as raised:
                    twin.resume(path, X, y)
        assert len(calls) == number
        said = str(told[0].message) if on_error == "warn" else str(raised.value)
        assert f"could not write '{path}" in said and os.strerror(code) in said
        assert checkpoint.error.errno == code
        assert not [name for name in os.listdir(os.path.dirname(path)) if "tmp" in name]
        assert _checkpoint.newest(path).meta["numbers"]["n_iter"] in (3, 4)
        assert_same_fit(copy.deepcopy(model).resume(path, X, y), whole)


def test_the_best_is_a_copy_where_there_are_no_links(path, monkeypatch):
    model = BPClassifier(8, max_iter=9, random_state=0)
    writing_fails(monkeypatch, LINK, errno.EPERM)
    lose(model, path, 1, X, y)
    with open(f"{path}.best", "rb") as best, open(f"{path}.1", "rb") as file:
        assert best.read() == file.read() != b""


def test_what_was_left_of_a_kill_is_written_over(path):
    for end in (".tmp", ".1.tmp", ".best.tmp"):
        with open(path + end, "w") as file:
            file.write("half a file" * 10_000)
    model = BPClassifier(8, max_iter=9, random_state=0)
    whole = copy.deepcopy(model).fit(X, y)
    lose(model, path, 3, X, y)
    assert not [name for name in os.listdir(os.path.dirname(path)) if "tmp" in name]
    assert_same_fit(model.resume(path, X, y), whole)


def test_after_a_failure_the_next_checkpoint_is_tried(path, monkeypatch):
    checkpoint = Checkpoint(path, 1)
    model = BPClassifier(8, max_iter=9, random_state=0).set_callbacks(checkpoint)
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning, match="goes on"):
        writing_fails(patch, 2, errno.ENOSPC)
        model.fit(X, y)
    assert checkpoint.error is None and checkpoint.n_written == 8
    assert_same_fit(
        BPClassifier(8, max_iter=9, random_state=0).resume(path, X, y), model
    )


FULL = """
import os, resource, sys, warnings
from sklearn.datasets import load_iris
from cbp import BPClassifier
from cbp.callbacks import Checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
warnings.simplefilter("ignore")
model = BPClassifier(50, max_iter=9, random_state=0)
try:
    model.set_callbacks(Checkpoint(sys.argv[1], 1, on_error="raise"))
    model.fit(*load_iris(return_X_y=True))
except OSError as error:
    print(error)
print(os.listdir(os.path.dirname(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of file sizes")
def test_a_file_that_the_system_does_not_let_grow_is_an_error(path):
    said, left = run_python(FULL, path).splitlines()
    assert "could not write" in said and "File too large" in said
    assert left == "[]"


# ---- kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_fits_that_are_killed_lose_less_than_one_interval():
    said = run_python("import kills; print(kills.main(['--kills', '20']))")
    assert int(said.split()[0]) >= 20 and said.endswith("; 0 wrong\n"), said


# ---- epochs one by one


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_partial_fit_n_times_is_fit_of_n_epochs_without_shuffling(
    solver, schedule, precision
):
    options = {"solver": solver, "learning_rate": schedule, "precision": precision}
    options |= {"shuffle": False, "batch_size": 7, "random_state": 0, "n_jobs": 2}
    options |= {"weight_decay": 0.01, "max_grad_norm": 1.0, "learning_rate_init": 0.05}
    # Adaptive rates fall, nothing else ends training.
    options |= {"n_iter_no_change": 2 if schedule == "adaptive" else math.inf}
    weight = np.linspace(0, 2, 150)
    whole = BPClassifier(20, max_iter=25, tol=0.01, **options).fit(X, y, weight)
    model = BPClassifier(20, tol=0.01, **options)
    for _ in range(whole.n_iter_):
        model.partial_fit(X, y, sample_weight=weight, classes=[0, 1, 2])
    assert whole.n_iter_ > 7
    for ours, theirs in zip(model.coefs_, whole.coefs_, strict=True):
        assert_array_equal(ours, theirs)
    assert model.loss_curve_ == whole.loss_curve_ and model.t_ == whole.t_
    assert_array_equal(model._optimizer.state, whole._optimizer.state)
    assert model._optimizer.learning_rate == whole._optimizer.learning_rate
