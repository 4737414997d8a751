"""Records as plain values: a closed table, and fields that come and go."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import cbp
from cbp import BPClassifier, _records
from cbp._records import KINDS, fields_of, from_plain, to_plain

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Spot(NamedTuple):
    kind: str
    column: int | None
    evidence: dict[str, float]


@dataclass(frozen=True)
class Inner:
    score: float
    W: NDArray[np.float64] | None = None
    spots: tuple[Spot, ...] = ()


@dataclass(frozen=True)
class Outer:
    n: int
    inner: Inner | None = None
    names: tuple[str, ...] = ("a",)
    flag: bool | None = None
    any: Any = None


@pytest.fixture
def known(monkeypatch):
    """The table with the classes above."""
    kinds = KINDS | {kind.__name__: kind for kind in (Spot, Inner, Outer)}
    monkeypatch.setattr(_records, "KINDS", kinds)


def make():
    spots = (Spot("far", 3, {"share": 0.5, "n": 2}), Spot("near", None, {}))
    inner = Inner(float("nan"), np.arange(6.0).reshape(2, 3), spots)
    return Outer(np.int64(3), inner, ("x", "y"), np.True_)


def test_what_is_made_plain_is_made_again(known):
    given = make()
    plain = to_plain(given)
    again = from_plain(plain)
    assert type(again) is Outer and type(again.inner.spots[0]) is Spot
    assert again.n == 3 and type(again.n) is int and again.flag is True
    assert again.inner.spots == given.inner.spots and np.isnan(again.inner.score)
    np.testing.assert_array_equal(again.inner.W, given.inner.W)
    assert from_plain(again) is again  # records that were made stay


def test_fields_that_are_not_known_are_left_out_and_missing_ones_have_defaults(known):
    plain = to_plain(make())
    plain["fields"]["more"] = 1
    del plain["fields"]["names"], plain["fields"]["inner"]
    again = from_plain(plain)
    assert again.names == ("a",) and again.inner is None
    del plain["fields"]["n"]
    with pytest.raises(ValueError, match="lacks some of its fields"):
        from_plain(plain)


@pytest.mark.parametrize(
    "field, wrong",
    [
        ("n", 1.5),
        ("n", True),
        ("n", None),
        ("inner", 3),
        ("inner", (1,)),
        ("names", ["x"]),
        ("names", (1,)),
        ("flag", 1),
    ],
)
def test_a_field_holds_what_it_says(field, wrong, known):
    plain = to_plain(make())
    plain["fields"][field] = wrong
    with pytest.raises(ValueError, match=rf"Outer\.{field} is "):
        from_plain(plain)


@pytest.mark.parametrize(
    "wrong",
    [
        {"record": "os.system", "fields": {}},
        {"record": "Outer", "fields": []},
        {"record": ["Outer"], "fields": {}},
        {"record": "Outer"},
        {},
        {"dict": 3},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"dict": [[1, 2], [1, 3]]},
    ],
)
def test_what_is_no_record_is_refused(wrong, known):
    with pytest.raises(ValueError):
        from_plain(wrong)


def test_a_class_that_is_not_in_the_table_is_refused():
    with pytest.raises(TypeError, match="Outer is no kind of record"):
        to_plain(make())


def test_every_class_that_a_record_may_hold_is_in_the_table():
    """Else a fit that makes one could not be pickled. Fields with types that the checks
    do not know would be refused."""
    simple = {"None", "bool", "int", "float", "str", "Any", "NDArray", "Floats"}
    simple |= {"tuple", "list", "dict", "np", "int64", "float32", "floating", "float64"}
    for kind in KINDS.values():
        for field, says in fields_of(kind).items():
            names = set(re.findall(r"\w+", says))
            assert names <= simple | KINDS.keys(), f"{kind.__name__}.{field}: {says}"


def test_all_that_a_fit_leaves_behind_is_made_plain():
    X = np.arange(40.0).reshape(20, 2)
    model = BPClassifier(3, max_iter=2).fit(X, np.arange(20) % 2)

    def look(value):
        assert not dataclasses.is_dataclass(value)
        assert type(value).__module__ in ("builtins", "numpy"), type(value)
        if isinstance(value, dict):
            value = value.values()
        if isinstance(value, list | tuple) or type(value).__name__ == "dict_values":
            for each in value:
                look(each)

    look({k: v for k, v in model.__getstate__().items()})
    assert cbp.__version__ == model.__getstate__()["_cbp_version"]
