"""The threads of one fit: they start, work, are interrupted, die; none outlives it.

Estimators in many threads at once are in test_concurrency.py.
"""

import _thread
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from child import run_python
from interrupts import interrupt, needs_timer
from problem import (
    Problem,
    make_trainer,
    no_thread_outlives,
    outcome,
    wide_problem,
)
from scipy.sparse import csr_matrix

from cbp._prediction import predict

# ---- threads and signals


@pytest.mark.thread_unsafe(reason="counts the threads of the process")
def test_no_thread_outlives_a_call():
    problem = wide_problem()
    with no_thread_outlives():
        problem.train(n_threads=4)
    with no_thread_outlives():
        problem.trainer(n_threads=4, solver="lbfgs").loss_gradient(problem.theta)
    with no_thread_outlives(), pytest.raises(ZeroDivisionError):
        problem.train(n_threads=4, after_epoch=lambda *_: 1 / 0)
    problem.X[0, 0] = np.nan
    with no_thread_outlives():
        _, status = problem.train(n_threads=4)
    assert status == "diverged"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_one_team_serves_every_gradient_of_a_block_and_ends_with_it(error, monkeypatch):
    problem = wide_problem()
    trainer = problem.trainer(n_threads=4, solver="lbfgs")
    expected = problem.trainer(solver="lbfgs").loss_gradient(problem.theta)
    with no_thread_outlives(), suppress(RuntimeError, KeyboardInterrupt), trainer:
        assert trainer.n_threads == 4
        monkeypatch.setattr(_thread, "start_new_thread", None)
        for _ in range(3):
            loss, gradient = trainer.loss_gradient(problem.theta)
        if error:
            raise error
    assert loss == expected[0]
    assert gradient.tobytes() == expected[1].tobytes()
    monkeypatch.undo()
    trainer.loss_gradient(problem.theta)  # with a team of its own


@pytest.mark.parametrize("started", [1, 2])
def test_no_thread_outlives_an_interrupt_while_threads_are_started(
    started, monkeypatch
):
    start, count = _thread.start_new_thread, []

    def start_and_interrupt(*work):
        start(*work)
        count.append(1)
        if len(count) == started:
            raise KeyboardInterrupt

    problem = wide_problem()
    monkeypatch.setattr(_thread, "start_new_thread", start_and_interrupt)
    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        problem.train(n_threads=4)


def test_trainings_may_run_in_several_threads_at_once():
    problem = wide_problem()
    expected = outcome(problem.train()[0])
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(problem.train, n_threads=2) for _ in range(6)]
    assert all(outcome(run.result()[0]) == expected for run in runs)


def test_trainings_that_share_a_random_state_take_turns():
    problem, random_state = wide_problem(), np.random.RandomState(0)

    def train(_):
        trainer = make_trainer(
            problem.network,
            problem.theta.copy(),
            problem.X,
            problem.target,
            random_state=random_state,
        )
        return trainer.run(3)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(train, range(6))) == ["max_iter"] * 6
    draws = np.random.RandomState(0)
    for _ in range(6):
        order = np.arange(len(problem.X))
        for _ in range(3):
            draws.shuffle(order)
    assert random_state.uniform() == draws.uniform()


def test_fewer_threads_are_used_when_no_more_can_be_had(monkeypatch):
    problem = wide_problem()
    alone, _ = problem.train()
    start, count = _thread.start_new_thread, []

    def refuse_the_second(*work):
        count.append(1)
        if len(count) > 1:
            raise RuntimeError("can't start new thread")
        start(*work)

    monkeypatch.setattr(_thread, "start_new_thread", refuse_the_second)
    team, _ = problem.train(n_threads=4)
    assert len(count) == 2
    assert team.n_threads == 2
    assert outcome(team) == outcome(alone)


FIT_FORK_FIT = """
import faulthandler, os
from problem import outcome, wide_problem

problem = wide_problem()
expected, _ = problem.train(n_threads=3)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(300, exit=True)  # the end of a hang
    run, _ = problem.train(n_threads=3)
    os._exit(0 if outcome(run) == outcome(expected) else 1)
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fit_works_in_a_fork_after_a_threaded_fit():
    assert run_python(FIT_FORK_FIT) == "status 0\n"


class Alarm(Exception):
    pass


# Endless runs; big is one batch, long enough for many looks for signals.
ENDLESS = {
    "batches": ((64, 100, 10), 2000, dict(batch_size=200)),
    "one row": ((30, 16, 2), 500, dict(batch_size=1)),
    "tiny epochs": ((3, 2), 4, dict(batch_size=4)),
    "wide": ((64, 1500, 1500, 10), 600, dict(batch_size=256)),
    "big": ((64, 1500, 1500, 10), 40000, dict(batch_size=40000)),
    "wide units": ((64, 5000, 10), 2000, dict(batch_size=1000)),
    "sparse": ((64, 100, 10), 2000, dict(batch_size=200)),
}


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", ENDLESS)
def test_interrupt_is_felt_and_leaves_usable_weights(name, n_threads):
    sizes, n_rows, settings = ENDLESS[name]
    activations = ("relu",) * (len(sizes) - 2)
    problem = Problem(
        activations=activations, sizes=sizes, n_rows=n_rows, dtype=np.float32
    )
    trainer = problem.trainer(
        csr_matrix(problem.X) if name == "sparse" else problem.X,
        n_threads=n_threads,
        n_iter_no_change=np.inf,
        **settings,
    )
    by_units = name in ("batches", "wide units", "sparse")
    assert trainer.by_units == (by_units and n_threads == 2)
    reached = []

    def under_way():
        reached.append(trainer.progress.n_iter)
        return name == "big" or trainer.progress.n_iter > 0

    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.run, 2**31 - 1), under_way)
    assert (
        trainer.progress.n_iter == reached[-1]
    )  # not even the epoch under way was ended
    assert len(trainer.progress.loss_curve) == trainer.progress.n_iter
    assert np.isfinite(trainer.theta).all()
    if name == "big":  # no step was made yet
        assert trainer.progress.n_iter == 0
        assert trainer.theta.tobytes() == problem.theta.tobytes()
    else:
        assert trainer.theta.tobytes() != problem.theta.tobytes()
    a = predict(problem.network, trainer.theta, problem.X[:50])
    assert np.isfinite(a).all()


INTERRUPTED_TEAMS = """
import faulthandler, os
from functools import partial
from itertools import count
import numpy as np
from interrupts import interrupt
from problem import Problem

sizes = {sizes}
problem = Problem(activations=("relu",) * (len(sizes) - 2), sizes=sizes, n_rows=1000)
for trial in range(30):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(300, exit=True)  # the end of a hang
        trainer = problem.trainer(n_threads=4, n_iter_no_change=np.inf)
        looks = count(1)
        late = lambda: next(looks) > trial % 4
        try:
            interrupt(partial(trainer.run, 2**31 - 1), late)
        except KeyboardInterrupt:
            os._exit(0 if trainer.n_threads == 4 else 1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
print("passed")
"""


@needs_timer
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("sizes", [(64, 128, 10), (64, 300, 300, 10)])
def test_interrupts_end_every_thread_however_slow(sizes):
    """With more threads than cores, some see the interrupt late."""
    assert run_python(INTERRUPTED_TEAMS.format(sizes=sizes)).strip() == "passed"


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
def test_interrupt_is_felt_within_one_gradient(n_threads):
    sizes, n_rows, _ = ENDLESS["big"]
    problem = Problem(
        activations=("relu", "relu"), sizes=sizes, n_rows=n_rows, dtype=np.float32
    )
    trainer = problem.trainer(solver="lbfgs", n_threads=n_threads)
    with no_thread_outlives(), pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.loss_gradient, problem.theta))


@needs_timer
def test_any_error_of_a_signal_handler_is_raised():
    def handler(*_):
        raise Alarm

    trainer = wide_problem().trainer(n_threads=2, n_iter_no_change=np.inf)
    with pytest.raises(Alarm):
        interrupt(
            partial(trainer.run, 2**31 - 1),
            lambda: trainer.progress.n_iter > 0,
            handler,
        )
    assert trainer.progress.n_iter > 0


@needs_timer
def test_signal_whose_handler_returns_disturbs_nothing():
    problem, handled = wide_problem(), []
    settings = dict(n_iter_no_change=np.inf, max_iter=600)  # for some looks
    expected, _ = problem.train(**settings)
    trainer = problem.trainer(n_iter_no_change=np.inf)
    interrupt(
        partial(trainer.run, 600),
        lambda: trainer.progress.n_iter > 0,
        lambda *_: handled.append(trainer.progress.n_iter),
    )
    assert len(handled) == 1 and 0 < handled[0] < 600
    assert outcome(trainer) == outcome(expected)


@needs_timer
def test_run_goes_on_after_an_interrupt():
    problem = wide_problem()
    trainer = problem.trainer(n_iter_no_change=np.inf)
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial(trainer.run, 2**31 - 1), lambda: trainer.progress.n_iter > 0)
    again = problem.trainer(
        theta=trainer.theta, optimizer=trainer.progress.optimizer, n_threads=2
    )
    assert again.run(2) in ("max_iter", "converged")
    assert again.progress.loss_curve[-1] < trainer.progress.loss_curve[0]


# ---- threads that cannot be had, or die

# Each gives a thread that never works, in its own way.
DEAD_THREADS = {
    "dies at once": lambda start, work: start(lambda: None, ()),
    "never begins": lambda start, work: None,
    "begins with an error": lambda start, work: start(work[0], ()),
    "dies with what it came with": lambda start, work: start(lambda *_: None, work[1]),
}

DEAD_THREAD = """
import _thread, sys
from problem import no_thread_outlives, outcome, wide_problem
from test_threads import DEAD_THREADS

problem = wide_problem()
alone, _ = problem.train()
start, count = _thread.start_new_thread, []

def start_but_one(*work):
    count.append(1)
    if len(count) == int(sys.argv[2]):
        return DEAD_THREADS[sys.argv[1]](start, work)
    return start(*work)

_thread.start_new_thread = start_but_one
with no_thread_outlives():
    team, _ = problem.train(n_threads=4)
assert len(count) == 3
print(team.n_threads, outcome(team) == outcome(alone))
"""


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("death", DEAD_THREADS)
def test_nobody_waits_for_a_thread_that_dies_before_it_works(death, which):
    assert run_python(DEAD_THREAD, death, str(which), timeout=300) == "3 True\n"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("comes", ["before", "after"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_an_error_while_threads_start_ends_them_and_is_raised(
    which, comes, error, monkeypatch
):
    problem = wide_problem()
    expected, _ = problem.train(max_iter=2)
    trainer = problem.trainer(n_threads=4)
    start, count = _thread.start_new_thread, []

    def fail(*work):
        count.append(1)
        if len(count) < which or comes == "after":
            start(*work)
        if len(count) == which:
            raise error

    with no_thread_outlives(), monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        with pytest.raises(error):
            trainer.run(2)
    assert trainer.theta.tobytes() == problem.theta.tobytes()
    trainer.run(2)
    assert trainer.n_threads == 4
    assert outcome(trainer) == outcome(expected)


OUT_OF_MEMORY = """
import sys, time
import _testcapi
import numpy as np
from problem import Problem, threads, wide_problem

name, forever = sys.argv[1], sys.argv[2] == "True"
settings = dict(n_iter_no_change=np.inf)
if name == "curves":  # more epochs than the compiled loop keeps
    problem, epochs = Problem(sizes=(3, 2), activations=(), n_rows=4), 600
    settings["batch_size"] = 4
else:
    problem, epochs = wide_problem(), 3
    settings["n_threads"] = 3

def pass_by(progress):
    pass

def gradients(trainer):
    with trainer:
        trainer.loss_gradient(problem.theta)
        trainer.loss_gradient(problem.theta)

calls = {
    "run": lambda trainer: trainer.run(epochs),
    "curves": lambda trainer: trainer.run(epochs),
    "callback": lambda trainer: trainer.run(epochs, pass_by),
    "gradients": gradients,
}
if name == "gradients":
    settings["solver"] = "lbfgs"
call = calls[name]

# Weights may be those after any epoch, and no others.
whole = {problem.theta.tobytes()}
if name != "gradients":
    alone = problem.trainer(**{**settings, "n_threads": 1})
    alone.run(epochs, lambda *_: whole.add(alone.theta.tobytes()))
before = threads()
failed, k = 0, 0
while True:
    trainer, ended = problem.trainer(**settings), False
    _testcapi.set_nomemory(k, 0 if forever else k + 1)
    try:
        call(trainer)
        ended = True
    except MemoryError:
        failed += 1
    finally:
        _testcapi.remove_mem_hooks()
    while threads() > before:  # the operating system takes its time
        time.sleep(0.001)
    assert trainer.theta.tobytes() in whole, k
    curve = trainer.progress.loss_curve
    assert len(curve) == trainer.progress.n_iter or not ended
    call(trainer)
    assert len(trainer.progress.validation_scores) == 0
    if name in ("run", "curves"):
        # What could not be moved came later.
        done = epochs if ended else len(curve) - epochs
        assert len(curve) == epochs + done, (k, len(curve))
    if ended and forever:
        break
    k += 1 if name != "curves" or k < 40 else 7
    if k >= (1500 if name == "curves" else 120):
        break
assert failed > 5
print("passed")
"""


def can_fail_allocations():
    try:
        import _testcapi
    except ImportError:
        return False
    return hasattr(_testcapi, "set_nomemory")


@pytest.mark.skipif(not can_fail_allocations(), reason="needs _testcapi.set_nomemory")
@pytest.mark.parametrize("forever", [True, False], ids=["from then on", "once"])
@pytest.mark.parametrize("name", ["run", "curves", "callback", "gradients"])
def test_training_without_memory_ends_and_can_go_on(name, forever):
    printed = run_python(OUT_OF_MEMORY, name, str(forever), timeout=600)
    assert printed.strip() == "passed"


FORK_IN_CALLBACK = """
import os
from problem import outcome, wide_problem

problem = wide_problem()
parent = os.getpid()

def fork(progress):
    if progress.n_iter == 1:
        fork.child = os.fork()

trainer = problem.trainer(n_threads=3)
try:
    trainer.run(3, fork)
except RuntimeError as error:
    os._exit(7 if "forked" in str(error) and os.getpid() != parent else 1)
_, status = os.waitpid(fork.child, 0)
same = outcome(trainer) == outcome(problem.train()[0])
print(os.waitstatus_to_exitcode(status), same)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_within_a_run_is_told_that_its_threads_are_elsewhere():
    assert run_python(FORK_IN_CALLBACK, timeout=300) == "7 True\n"
