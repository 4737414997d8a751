"""Objects of a fitted model as plain values, for pickles and for model files.

`to_plain` makes of a record (a dataclass, a named tuple, an optimizer) a dict with the
name of its kind and its fields; `from_plain` makes the record again. Both know one
closed table, `KINDS`: no name is ever resolved to code. So a record may move to another
module, and gain fields, and old files stay readable: a field that a file lacks has its
default, and one that this version does not know is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np

from cbp._columns import DataFaults, Fault
from cbp._fit_summary import FitSummary
from cbp._given_rows import Seen
from cbp._progress import Optimizer
from cbp._worth import Linear, Signal, Standing, Worth
from cbp.gradient_flow import FailedFlow, GradientFlow

# Every kind of record that a file may name. A new one needs a line here, no more.
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        GradientFlow,
        FailedFlow,
        FitSummary,
        Standing,
        Worth,
        Linear,
        Signal,
        Seen,
        DataFaults,
        Fault,
        Optimizer,
    )
}

# Fields of kinds that do not say them by themselves.
_FIELDS = {
    Optimizer: {
        "solver": "str",
        "learning_rate": "float",
        "steps": "int",
        "state": "NDArray",
    }
}


def to_plain(value: Any) -> Any:
    """The value with all records, dicts and NumPy numbers in it made plain.

    Plain are None, bool, int, float, str, bytes, arrays, lists and tuples of plain
    values, and dicts with one tag: ``{"record": kind, "fields": {...}}`` and
    ``{"dict": [[key, value], ...]}``.

    Raises
    ------
    TypeError
        If it holds a dataclass that is not in `KINDS`.
    """
    kind = type(value)
    if KINDS.get(kind.__name__) is kind:
        fields = {name: to_plain(getattr(value, name)) for name in fields_of(kind)}
        return {"record": kind.__name__, "fields": fields}
    if dataclasses.is_dataclass(value):
        raise TypeError(f"{kind.__name__} is no kind of record that files know")
    if isinstance(value, np.generic):
        return to_plain(value.item()) if value.dtype.kind in "biufUS" else value
    if isinstance(value, list):
        return [to_plain(x) for x in value]
    if isinstance(value, tuple):
        return tuple([to_plain(x) for x in value])
    if isinstance(value, dict):
        return {"dict": [[to_plain(k), to_plain(v)] for k, v in value.items()]}
    return value


def from_plain(value: Any) -> Any:
    """What `to_plain` was given; records that were made already stay as they are.

    Raises
    ------
    ValueError
        If a kind is not in `KINDS`, or a field does not hold what it should.
    """
    if isinstance(value, list):
        return [from_plain(x) for x in value]
    if type(value) is tuple:
        return tuple([from_plain(x) for x in value])
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dict"}:
        return _dict_of(value["dict"])
    if value.keys() != {"record", "fields"}:
        raise ValueError(f"a record cannot have the keys {list(value)[:5]}")
    return _record_of(value["record"], value["fields"])


def _dict_of(pairs: Any) -> dict:
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError("a dict is no list of pairs")
    try:
        made = {from_plain(key): from_plain(value) for key, value in pairs}
    except TypeError:
        raise ValueError("a key of a dict is a list or a dict") from None
    if len(made) != len(pairs):
        raise ValueError("a dict has a key twice")
    return made


def _record_of(name: Any, fields: Any) -> Any:
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(fields, dict):
        raise ValueError(f"no record has the kind {name!r}")
    known = {}
    for field, says in fields_of(kind).items():
        if field in fields:
            known[field] = held = from_plain(fields[field])
            if not _holds(held, says):
                raise ValueError(f"{name}.{field} is {held!r:.60}, no {says}")
    try:
        return kind(**known)
    except TypeError:
        raise ValueError(f"a {name} lacks some of its fields") from None


def fields_of(kind: type) -> dict[str, str]:
    """The fields of a kind of record, and what each says that it holds."""
    if kind in _FIELDS:
        return _FIELDS[kind]
    if dataclasses.is_dataclass(kind):
        return {field.name: _words(field.type) for field in dataclasses.fields(kind)}
    return {name: _words(kind.__annotations__[name]) for name in kind._fields}


def _words(annotation: Any) -> str:
    """An annotation as it is written, also if it was evaluated or wrapped."""
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return annotation.__name__
    return str(getattr(annotation, "__forward_arg__", annotation))


# What a field may hold, by the words of its annotation.
_IS: dict[str, Callable[[Any], bool]] = {
    "None": lambda x: x is None,
    "bool": lambda x: isinstance(x, bool),
    "int": lambda x: isinstance(x, Integral) and not isinstance(x, bool),
    "float": lambda x: isinstance(x, Real) and not isinstance(x, bool),
    "str": lambda x: isinstance(x, str),
    "Any": lambda x: True,
    "NDArray": lambda x: isinstance(x, np.ndarray) and x.dtype.kind in "biuf",
    "Floats": lambda x: isinstance(x, np.ndarray) and x.dtype.kind == "f",
}


def _holds(value: Any, says: str) -> bool:
    """Whether a value is what an annotation says."""
    return any(_is(value, part) for part in re.split(r" \| (?![^\[]*\])", says))


def _is(value: Any, says: str) -> bool:
    outer, _, inner = says.partition("[")
    inner = inner.removesuffix("]")
    if outer == "tuple":
        return type(value) is tuple and all(
            _holds(x, inner.removesuffix(", ...")) for x in value
        )
    if outer == "list":
        return isinstance(value, list) and all(_holds(x, inner) for x in value)
    if outer == "dict":
        key, _, held = inner.partition(", ")
        return isinstance(value, dict) and all(
            _holds(k, key) and _holds(v, held) for k, v in value.items()
        )
    if outer in KINDS:
        return type(value) is KINDS[outer]
    return outer in _IS and _IS[outer](value)
