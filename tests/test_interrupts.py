"""An interrupt leaves the weights of a whole step, and says how many were made."""

import sys
import warnings
from functools import partial
from itertools import count

import numpy as np
import pytest
from interrupts import interrupt, needs_timer
from problem import Problem, no_thread_outlives
from sklearn.base import clone

from cbp import BPClassifier
from cbp._solvers import _LBFGS

# (layers, batch, more settings). A step is made while gradients are summed, by threads
# that share rows or units; or afterwards, from gradients of several pieces.
SHAPES = {
    "rows": ((64, 900, 900, 10), 256, {}),
    "units": ((500, 3000, 10), 256, {"average": 0.9}),
    "pieces": ((64, 900, 900, 10), 2048, {}),
    "clipped": ((64, 900, 900, 10), 256, {"max_grad_norm": 0.1}),
    "one row": ((64, 3000, 10), 1, {}),
}
N_ROWS = 2**16  # of an epoch that no interrupt is late enough for


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_an_interrupt_leaves_the_weights_of_as_many_steps_as_are_counted(
    name, n_threads
):
    """Those of a fit to the rows of so many batches, bit for bit."""
    sizes, batch, more = SHAPES[name]
    hidden = ("relu",) * (len(sizes) - 2)
    problem = Problem(activations=hidden, sizes=sizes, n_rows=512, dtype=np.float32)
    problem.X = np.resize(problem.X, (N_ROWS, sizes[0]))
    problem.target = np.resize(problem.target, N_ROWS)
    start = partial(
        problem.trainer,
        n_threads=n_threads,
        batch_size=batch,
        shuffle=False,
        solver="adam",
        **more,
    )
    for look in range(1, 4):
        trainer, looks = start(), count(1)
        with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
            interrupt(partial(trainer.run, 1), lambda n=look, k=looks: next(k) >= n)
        steps = trainer.progress.optimizer.steps
        assert trainer.progress.n_iter == 0
        twin = start(rows=np.arange(steps * batch)) if steps else start()
        if steps:
            twin.run(1)
        assert trainer.theta.tobytes() == twin.theta.tobytes(), steps
        state = trainer.progress.optimizer.state
        assert state.tobytes() == twin.progress.optimizer.state.tobytes()


@pytest.mark.thread_unsafe(reason="sets a trace function")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_at_any_line_lbfgs_has_the_weights_of_the_iterations_that_it_counts(
    early_stopping,
):
    X = np.random.RandomState(0).randn(100, 5)
    y = (X[:, 0] > 0).astype(int)
    code = _LBFGS.after_iteration.__code__
    model = BPClassifier(5, solver="lbfgs", tol=0, random_state=0)
    model.set_params(early_stopping=early_stopping)

    def fitted(max_iter):
        with warnings.catch_warnings(action="ignore"):
            return clone(model).set_params(max_iter=max_iter).fit(X, y)

    def interrupted(line):
        """The model, or None if the third iteration does not come to this line."""
        seen = count(1)

        def trace(frame, event, argument):
            if frame.f_code is not code:
                return None
            if event == "line" and frame.f_lineno == line and next(seen) == 3:
                raise KeyboardInterrupt
            return trace

        found = clone(model).set_params(max_iter=8)
        sys.settrace(trace)
        try:
            with warnings.catch_warnings(action="ignore"):
                found.fit(X, y)
        except KeyboardInterrupt:
            return found
        finally:
            sys.settrace(None)
        return None

    lines = sorted({line for _, _, line in code.co_lines() if line})
    found = [left for line in lines if (left := interrupted(line)) is not None]
    assert {left.n_iter_ for left in found} == {2, 3}
    for left in found:
        assert len(left.loss_curve_) == left.n_iter_
        whole = fitted(left.best_iter_ if early_stopping else left.n_iter_)
        for one, other in zip(left.coefs_, whole.coefs_, strict=True):
            np.testing.assert_array_equal(one, other)
