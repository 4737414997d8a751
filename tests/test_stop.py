"""`request_stop`: another thread ends a fit as Ctrl-C would end it."""

import copy
import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris

from cbp import BPClassifier, _stop
from cbp.callbacks import Checkpoint, History

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.thread_unsafe(reason="all fits under way are counted"),
]

X, y = load_iris(return_X_y=True)
ENDLESS = {"max_iter": 2**31, "tol": 0, "n_iter_no_change": math.inf}


def ask(model, until=lambda: True):
    """Asks until a fit was there to be ended."""
    while not until():
        pass
    while not model.request_stop():
        pass


def fit_until_asked(model, until=lambda: True, fit="fit", *first):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(getattr(model, fit), *first, X, y)
        ask(model, until)
        with pytest.raises(KeyboardInterrupt, match="request_stop"):
            future.result(timeout=600)
    assert id(model) not in {owner for owner, _ in _stop._running.values()}


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_fit_is_ended_with_the_weights_of_its_last_step(solver, n_jobs):
    model = BPClassifier((50, 20), solver=solver, n_jobs=n_jobs, random_state=0)
    model.set_params(batch_size=150, **ENDLESS)
    fit_until_asked(model)
    # A step is an epoch: as many of them by another way, without the one under way.
    steps = model._optimizer.steps
    ends = [BPClassifier((50, 20), random_state=0).initialize(X, y)._theta]
    for n in {max(steps - 1, 1), max(steps, 1)}:
        again = copy.deepcopy(model).set_params(max_iter=n)
        with warnings.catch_warnings(action="ignore"):
            ends.append(again.fit(X, y)._theta)
    assert any((theta == model._theta).all() for theta in ends)
    assert np.isfinite(model.predict_proba(X)).all()


class Wait(History):
    """From the third epoch on waits for another thread."""

    def __init__(self):
        super().__init__()
        self.third, self.asked = threading.Event(), threading.Event()

    def _after_epoch(self, table, progress):
        super()._after_epoch(table, progress)
        if progress.epoch == 3:
            self.third.set()
            assert self.asked.wait(600)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_fit_that_is_listened_to_ends_between_two_epochs(solver):
    wait = Wait()
    model = BPClassifier(9, solver=solver, random_state=0, **ENDLESS)
    model.set_callbacks(wait)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(model.fit, X, y)
        assert wait.third.wait(600)
        assert model.request_stop()
        wait.asked.set()
        with pytest.raises(KeyboardInterrupt):
            future.result(timeout=600)
    whole = BPClassifier(9, solver=solver, random_state=0, max_iter=3)
    with warnings.catch_warnings(action="ignore"):
        whole.fit(X, y)
    assert model.n_iter_ == 3
    assert model.loss_curve_ == whole.loss_curve_ == list(wait.table()["loss"])
    assert_array_equal(model.coefs_[0], whole.coefs_[0])


def test_only_the_fits_of_this_estimator_are_ended():
    models = [BPClassifier(9, random_state=0, **ENDLESS) for _ in range(3)]
    assert not models[0].request_stop()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(model.fit, X, y) for model in models]
        for model, future in zip(models, futures, strict=True):
            assert not future.done()
            ask(model)
            with pytest.raises(KeyboardInterrupt):
                future.result(timeout=600)
    assert not models[0].request_stop()


def test_the_next_fit_is_not_ended():
    model = BPClassifier(9, random_state=0, **ENDLESS)
    fit_until_asked(model)
    whole = BPClassifier(9, random_state=0, max_iter=5, tol=0).fit(X, y)
    model.set_params(max_iter=5).fit(X, y)
    assert_array_equal(model.coefs_[0], whole.coefs_[0])


def test_a_resumed_fit_is_ended_too(tmp_path):
    path = str(tmp_path / "fit")
    model = BPClassifier(9, random_state=0, **ENDLESS)
    checkpoint = Checkpoint(path, 50)
    model.set_callbacks(checkpoint)
    fit_until_asked(model, lambda: checkpoint.n_written > 1)
    before = len(model.loss_curve_)
    written = checkpoint.n_written
    fit_until_asked(model, lambda: checkpoint.n_written > written + 1, "resume", path)
    assert len(model.loss_curve_) >= 50 * (checkpoint.n_written)
    assert before >= 50 * written
