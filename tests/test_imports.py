"""Rooms and floors: what a module of cbp may import, read from its import lines."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cbp"

# From the ground up. A module imports from lower floors, never from its own.
FLOORS = [
    "_c_text _catalog _columns _given_rows _memory _safetensors _stop _version _warn "
    "_whole_file",
    "_kernels",
    "_network _progress _shuffle _sums _threads",
    "_data _verbose _weights",
    "_prediction _recorder",
    "_batch",
    "_held_out",
    "_training",
    "_texts _worth",
    "_fit_summary",
    "gradient_flow",
    "_records",
    "_fitted _init _parameters",
    "_inside _solvers _split _targets _validation",
    "_callbacks _checkpoint _divergence _label_columns _look _paste _scoring _stream",
    "_fitting _model_config _to_sklearn",
    "_evidence",
    "_advice _colors _finding _fit_record",
    "_rules",
    "_data_rules _model_rules",
    "diagnosis _plots",
    "_base",
    "_classifier _regressor",
    "estimators",
    "_from_weights c_code datasets features inspection onnx_export plotting",
    "_report callbacks model_file",
    "__init__",
    "__main__",
]
# Where an installed package is tested, its sources are elsewhere.
pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="the sources are not here")

FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor.split()}
# On first use: for old pickles that name what has moved, and for a page with pictures
# and the version.
LATE = {("gradient_flow", "diagnosis"), ("diagnosis", "_report")}
LATE |= {("_report", "__init__")}
FILES = sorted(
    path for end in ("py", "pyx", "pxd") for path in PACKAGE.glob(f"*.{end}")
)

# "from cbp.a import b", "cimport cbp.a", "from cbp import a, b"; imports within
# functions and for type checkers count, those in docstrings (>>>) do not.
LINE = re.compile(r"^ *(?:from|c?import) +cbp\b(?:\.(\w+))?(?: +c?import +(.*))?", re.M)


def imported(path):
    """The modules of the package that a file imports."""
    for module, names in LINE.findall(path.read_text(encoding="utf-8")):
        modules = [module] if module else re.findall(r"\w+", names) or ["__init__"]
        yield from (name if name in FLOOR else module or "__init__" for name in modules)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_go_downward_only(path):
    assert path.stem in FLOOR, f"give {path.stem} a place in FLOORS"
    own = {path.stem} if path.suffix != ".py" else set()  # a .pyx and its .pxd
    for name in set(imported(path)) - own:
        assert name in FLOOR, f"{path.name} imports cbp.{name}, which has no floor"
        down = FLOOR[name] < FLOOR[path.stem] or (path.stem, name) in LATE
        assert down, f"{path.name} imports cbp.{name}"


def test_what_is_slow_or_foreign_is_imported_in_one_room_only():
    for name in ("scipy.optimize", "threadpoolctl"):
        line = re.compile(rf"^ *(?:from|import) +{re.escape(name)}\b", re.M)
        rooms = [path.name for path in FILES if line.search(path.read_text("utf-8"))]
        assert rooms == ["_solvers.py"]
