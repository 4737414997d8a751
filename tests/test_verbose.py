"""What verbose prints: lines as scikit-learn's, or one line that is rewritten."""

import io
import re
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris

from cbp import BPClassifier, _verbose
from cbp._verbose import StatusLine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
SOLVERS = ["adam", "sgd", "lbfgs"]
LINE = re.compile(
    r"(Epoch|Iteration) (\d+)/(\d+), loss ([\d.e+-]+)(?:, score ([\d.]+))?"
    r", [\d.e+]+[kMG]? samples/s, [\d:]+ left *"
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def network(**parameters):
    return BPClassifier((8,), **{"max_iter": 100, "random_state": 0, **parameters})


def printed(model, stream, monkeypatch, call="fit", **more):
    """What a call prints on a stream, on which a second has a thousand epochs."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        getattr(model, call)(X, y, **more)
    return stream.getvalue()


def test_values_but_two_print_as_scikit_learn_does(monkeypatch):
    texts = [
        printed(network(max_iter=3, verbose=v), io.StringIO(), monkeypatch)
        for v in (True, 1, 3, 10)
    ]
    assert len(set(texts)) == 1 and texts[0].count("\n") == 3
    assert texts[0].startswith("Iteration 1, loss = ")


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_terminal_shows_one_line_that_is_rewritten(
    solver, early_stopping, monkeypatch
):
    clock = iter(np.arange(1, 1e6))
    monkeypatch.setattr(_verbose, "monotonic", lambda: next(clock))
    model = network(solver=solver, early_stopping=early_stopping, verbose=2)
    model.set_params(max_iter=5)
    text = printed(model, Terminal(), monkeypatch)
    assert text.count("\n") == 1 and text.endswith("\n")
    lines = text[:-1].split("\r")[1:]
    assert len(lines) == model.n_iter_
    for n, line in enumerate(lines, 1):
        word, done, total, loss, score = LINE.fullmatch(line).groups()
        assert word == ("Iteration" if solver == "lbfgs" else "Epoch")
        assert (int(done), int(total)) == (n, 5)
        assert float(loss) == pytest.approx(model.loss_curve_[n - 1], rel=1e-5)
        assert (score is not None) == early_stopping
        if early_stopping:
            assert float(score) == round(model.validation_scores_[n - 1], 4)
    # A shorter line covers all of a longer one.
    lengths = [len(line) for line in lines]
    assert lengths == sorted(lengths)


def test_a_line_tells_speed_and_the_time_that_is_left(monkeypatch):
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr(_verbose, "monotonic", lambda: next(clock))
    text = printed(network(max_iter=2, verbose=2), Terminal(), monkeypatch)
    first, last = text[:-1].split("\r")[1:]
    assert first.rstrip().endswith("75 samples/s, 0:02 left")
    assert last.rstrip().endswith("75 samples/s, 0:00 left")
    assert [_verbose._clock(t) for t in (59.6, 3599, 90061)] == [
        "1:00",
        "59:59",
        "25:01:01",
    ]
    sizes = [_verbose._plain(x) for x in (3.14159, 999.7, 25_400, 7e6, 7e12)]
    assert sizes == ["3.14", "1k", "25.4k", "7M", "7e+03G"]


def test_a_terminal_is_not_flooded_and_shows_the_end(monkeypatch):
    clock = iter(np.arange(1, 1e4) / 1000)
    monkeypatch.setattr(_verbose, "monotonic", lambda: next(clock))
    model = network(tol=0, n_iter_no_change=np.inf, verbose=2)
    lines = printed(model, Terminal(), monkeypatch)[:-1].split("\r")[1:]
    assert len(lines) == 2  # a tenth of a second is a hundred epochs
    assert lines[-1].startswith("Epoch 100/100")


def test_a_narrow_terminal_gets_a_part_of_the_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = printed(network(max_iter=3, verbose=2), Terminal(), monkeypatch)
    assert all(len(line) == 29 for line in text[:-1].split("\r")[1:])


def test_a_file_gets_whole_lines_at_each_twentieth(monkeypatch):
    clock = iter(np.arange(1, 1e4) / 1e6)
    monkeypatch.setattr(_verbose, "monotonic", lambda: next(clock))
    model = network(tol=0, n_iter_no_change=np.inf, verbose=2)
    text = printed(model, io.StringIO(), monkeypatch)
    assert "\r" not in text and text.endswith("\n")
    epochs = [int(LINE.fullmatch(line)[2]) for line in text.splitlines()]
    assert epochs == [1, *range(5, 101, 5)]
    # Where training ends between two of them, its end is shown.
    model.set_params(max_iter=1000, tol=0.5, n_iter_no_change=60)
    text = printed(model, io.StringIO(), monkeypatch)
    lines = [line for line in text.splitlines() if line.startswith("Epoch")]
    epochs = [int(LINE.fullmatch(line)[2]) for line in lines]
    assert epochs == [1, 50, model.n_iter_] and model.n_iter_ % 50
    assert "did not improve more than tol=0.5" in text.splitlines()[-1]


def test_a_file_gets_a_line_each_ten_seconds(monkeypatch):
    clock = iter(np.arange(1, 1e4))
    monkeypatch.setattr(_verbose, "monotonic", lambda: next(clock))
    model = network(max_iter=10_000, tol=1.0, n_iter_no_change=38, verbose=2)
    text = printed(model, io.StringIO(), monkeypatch)
    epochs = [int(LINE.fullmatch(line)[2]) for line in text.splitlines()[:-1]]
    assert epochs == [1, 11, 21, 31, model.n_iter_]


def test_notebooks_and_odd_streams_are_told_apart():
    class OutStream:
        __module__ = "ipykernel.iostream"

        def isatty(self):
            return False

    closed = io.StringIO()
    closed.close()
    streams = [OutStream(), Terminal(), io.StringIO(), closed, None, object()]
    rewrites = [_verbose._can_rewrite(stream) for stream in streams]
    assert rewrites == [True, True, False, False, False, False]


def test_without_a_stream_a_fit_prints_nothing(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        model = network(max_iter=3, verbose=2).fit(X, y)
    assert model.n_iter_ == 3


def test_an_error_ends_the_line(monkeypatch):
    def fail(progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(StatusLine, "_text", lambda self, progress, seconds: "here")
    stream = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(KeyboardInterrupt):
            network(verbose=2, scoring=lambda *args: fail(args)).fit(
                X, y, X_val=X, y_val=y
            )
        model = network(verbose=2)

        class Interrupting:
            setup = teardown = on_fit_task_begin = lambda self, *args: None

            def on_fit_task_end(self, estimator, context):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            model.set_callbacks(Interrupting()).fit(X, y)
    assert stream.getvalue() == "\rhere\n"


def test_partial_fit_counts_the_epochs_of_all_calls(monkeypatch):
    model = network(verbose=2)
    for n in (1, 2, 3):
        text = printed(
            model, io.StringIO(), monkeypatch, "partial_fit", classes=[0, 1, 2]
        )
        assert text.startswith(f"Epoch {n}, loss ") and text.count("\n") == 1
        assert "left" not in text


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_line_changes_no_bit(solver, capsys):
    quiet = network(solver=solver).fit(X, y)
    loud = network(solver=solver, verbose=2).fit(X, y)
    assert_array_equal(quiet._theta, loud._theta)
    assert (
        quiet.loss_curve_ == loud.loss_curve_ and "samples/s" in capsys.readouterr().out
    )
