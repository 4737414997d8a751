"""Test files that others call by name exist, else they would run less than they say."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLATFORMS = ROOT / "tools" / "test_platforms.py"


@pytest.mark.skipif(not PLATFORMS.exists(), reason="the tools are not here")
def test_every_test_that_runs_on_other_platforms_exists():
    spec = spec_from_file_location(PLATFORMS.stem, PLATFORMS)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.unknown_tests() == []


def test_every_test_that_a_command_or_a_page_names_exists():
    files = ["Makefile", "pyproject.toml", "CONTRIBUTING.md", "README.md", ".ci/run"]
    files += [".github/workflows/*", "docs/*.md", "tools/*.py", "src_c/*", "cbp/*.p*"]
    for path in [path for pattern in files for path in ROOT.glob(pattern)]:
        named = set(re.findall(r"tests/(\w+\.[ch]|\w+\.py)\b", path.read_text("utf-8")))
        lacking = [name for name in named if not (ROOT / "tests" / name).exists()]
        assert not lacking, f"{path.relative_to(ROOT)} names {lacking}"
