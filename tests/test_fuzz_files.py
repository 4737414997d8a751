"""Changed model files by the ten thousand: refused cleanly, or a model that predicts.

tools/fuzz_files.py makes them, and is called by hand for millions.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "fuzz_files.py"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="the tools are not here")


@pytest.fixture(scope="module")
def tool():
    spec = spec_from_file_location(TOOL.stem, TOOL)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.thread_unsafe(reason="measures memory of the whole process")
@pytest.mark.parametrize("seed", range(4))
def test_changed_files_are_refused_by_one_error_or_are_models(tool, seed):
    """12,500 in each of four tests, which may run side by side."""
    failures = []
    counts, _, _ = tool.run(12_500, seed, measure=True, say=failures.append)
    assert not failures and not counts["failures"]
    # Both ends are met often, else the changes would prove little.
    assert counts["accepted"] > 500 and counts["refused"] > 5000


def test_the_same_number_makes_the_same_mutant(tool):
    corpus = [*tool.seeds()]
    for number in range(50):
        assert tool.mutant(corpus, number) == tool.mutant(corpus, number)


def test_a_reader_that_fails_is_noticed(tool, monkeypatch):
    """Another exception, and a model that others refuse."""

    def broken(content):
        if len(content) % 2:
            raise KeyError("broken")
        return real(content)

    real, failures = tool.loads, []
    monkeypatch.setattr(tool, "loads", broken)
    counts, _, _ = tool.run(100, say=failures.append)
    assert counts["failures"] == len(failures) > 0
    assert all("KeyError" in failure for failure in failures)
