"""Values in a model file: a text of JSON, and the tensors that it names.

`Writer` takes plain values (_records.py) apart, `Reader` puts them together. JSON has
no tuples, no infinity and no arrays; such a value is an object with one key, its tag:

    {"tuple": [...]}   {"float": "inf"}   {"bytes": "00ff"}   {"array": "name"}
    {"floats": "name"}                      a list of float
    {"text": [kind, width, "name"]}         an array of strings or bytes
    {"time": [kind, unit, count, "name"]}   an array of dates or times
    {"record": kind, "fields": {...}}   {"dict": [[key, value], ...]}
    {"generator": {...}}                    a RandomState

The tags are a closed list, and none of them names code.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import MT19937, RandomState
from numpy.typing import NDArray

from cbp._safetensors import DTYPES, Container, ModelFileError, demand, parse_json

MOST_TOKENS = 2**15
# So deep values can be nested in each other.
_MOST_DEPTH = 24
# From here on a list of floats is a tensor.
_MANY = 16
# Arrays of strings have one width; so many bytes may be filled up.
_MOST_FILLED = 2**22

_STORED = {np.dtype(dtype).newbyteorder("=") for dtype in DTYPES.values()}
# Of all numbers: floats, and whole ones that are not beyond them.
_MOST = sys.float_info.max
_LEAST = -_MOST
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
# Of an array of text: U and S as in NumPy, objects that are str or bytes.
_TEXT_KINDS = ("U", "S", "str", "bytes")


class Writer:
    """Makes JSON of values, and collects their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray] = {}

    def text(self, value: Any) -> str:
        """The values as a text of JSON."""
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        n = text.count(",") + text.count("[") + text.count("{")
        if n > MOST_TOKENS:
            raise ValueError(
                f"its parameters have {n} parts, the most is {MOST_TOKENS}"
            )
        return text

    def value(self, value: Any, name: str) -> Any:
        """A value for `text`; its arrays become tensors named after `name`."""
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, RandomState):
            return {"generator": self._generator(value, name)}
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, range | tuple):
            return {"tuple": self._list(list(value), name)}
        if isinstance(value, list):
            return self._list(value, name)
        if isinstance(value, dict):
            return self._dict(value, name)
        if isinstance(value, int | str):  # of a class of their own
            return int(value) if isinstance(value, int) else str(value)
        what = "is a function" if callable(value) else f"is a {type(value).__name__}"
        raise TypeError(f"{name} {what}, which a file of data cannot hold")

    def _list(self, values: list, name: str) -> Any:
        if len(values) >= _MANY and all(type(x) is float for x in values):
            return {"floats": self._tensor(np.array(values), name)}
        return [self.value(x, f"{name}.{i}") for i, x in enumerate(values)]

    def _dict(self, plain: dict, name: str) -> dict:
        """A dict that `to_plain` made."""
        if "dict" in plain:
            pairs = plain["dict"]
            return {
                "dict": [
                    self._list(pair, f"{name}.{i}") for i, pair in enumerate(pairs)
                ]
            }
        fields = plain["fields"]
        return {
            "record": plain["record"],
            "fields": {k: self.value(v, f"{name}.{k}") for k, v in fields.items()},
        }

    def _array(self, array: NDArray, name: str) -> dict:
        array = np.asarray(array)
        if array.ndim not in (1, 2):
            raise TypeError(
                f"{name} is an array of {array.ndim} dimensions, not 1 or 2"
            )
        dtype = array.dtype
        if dtype.newbyteorder("=") in _STORED:
            array = array.astype(dtype.newbyteorder("="), copy=False)
            return {"array": self._tensor(array, name)}
        if dtype.kind in "mM" and array.ndim == 1:
            unit, count = np.datetime_data(dtype)
            if unit in _UNITS:
                tensor = self._tensor(
                    array.astype(dtype.newbyteorder("=")).view("i8"), name
                )
                return {"time": [dtype.kind, unit, count, tensor]}
        elif dtype.kind in "USO" and array.ndim == 1:
            return {"text": self._strings(array, name)}
        raise TypeError(f"{name} is an array of {dtype}, which a file cannot hold")

    def _strings(self, array: NDArray, name: str) -> list:
        parts, kind = array.tolist(), array.dtype.kind
        width = array.dtype.itemsize // {"U": 4, "S": 1, "O": 8}[kind]
        if kind == "O":
            one = next(
                (t for t in (str, bytes) if all(isinstance(x, t) for x in parts)), None
            )
            if one is None:
                raise TypeError(f"{name} holds objects that are not all strings")
            kind, width = one.__name__, 0
        if kind in ("U", "str"):
            parts = [x.encode("utf-8", "surrogatepass") for x in parts]
        ends = np.cumsum([len(x) for x in parts], dtype=np.int64)
        together = np.frombuffer(b"".join(parts), np.uint8)
        _demand_width(width, len(parts), len(together))
        self._tensor(ends, f"{name}.ends")
        return [
            kind,
            width,
            self._tensor(together, f"{name}.text").removesuffix(".text"),
        ]

    def _generator(self, given: RandomState, name: str) -> dict:
        state = given.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            raise TypeError(f"{name} draws from {state['bit_generator']}, not MT19937")
        return {
            "key": self._array(np.array(state["state"]["key"], np.uint32), name),
            "pos": int(state["state"]["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        }

    def _tensor(self, array: NDArray, name: str) -> str:
        name = name.encode("ascii", "backslashreplace").decode()
        if name in self.tensors:
            raise TypeError(f"{name} would be stored twice")
        self.tensors[name] = array
        return name


def _demand_width(width: int, n: int, n_bytes: int) -> None:
    if 4 * width * n > 4 * n_bytes + _MOST_FILLED:
        raise ValueError(
            f"{n} strings, as an array of the width {width}, are mostly empty"
        )


class Reader:
    """Puts values together; each tensor may be named once."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.left = set(container.tensors)

    def parse(self, text: str) -> dict:
        """An object of JSON, not yet put together."""
        return parse_json(text, MOST_TOKENS)

    def value(self, given: Any, depth: int = 0) -> Any:
        """The plain value of some JSON.

        Raises
        ------
        ModelFileError
            If it is none that `Writer` makes.
        """
        if given is None or isinstance(given, str):
            return given
        if isinstance(given, int | float):
            if not _LEAST <= given <= _MOST:
                raise ModelFileError("it has a number that is too large")
            return given
        demand(depth < _MOST_DEPTH, "its values are nested too deeply")
        if isinstance(given, list):
            return [self.value(x, depth + 1) for x in given]
        if given.keys() == {"record", "fields"}:
            fields = given["fields"]
            demand(isinstance(fields, dict), "a record has no fields")
            made = {name: self.value(fields[name], depth + 1) for name in fields}
            return {"record": given["record"], "fields": made}
        demand(len(given) == 1, f"a value has the tags {list(given)[:4]}")
        ((tag, held),) = given.items()
        demand(tag in _TAGS, f"a value has the tag {tag!r:.20}")
        return _TAGS[tag](self, held, depth + 1)

    def array(self, name: Any, kinds: str = "biuf") -> NDArray:
        """A tensor that no one else has named."""
        known = isinstance(name, str) and name in self.left
        demand(known, f"there is no tensor {name!r:.60}, or it is named twice")
        self.left.remove(name)
        array = self.container.array(name)
        demand(array.dtype.kind in kinds, f"tensor {name!r:.60} has the wrong type")
        if array.dtype == bool:
            demand((array.view(np.uint8) <= 1).all(), f"{name!r:.60} is not 0 and 1")
        return array

    def _tuple(self, held: Any, depth: int) -> tuple:
        made = self.value(held, depth)
        demand(isinstance(made, list), "a tuple is no list")
        return tuple(made)

    def _dict(self, held: Any, depth: int) -> dict:
        return {"dict": self.value(held, depth)}

    def _float(self, held: Any, depth: int) -> float:
        known = isinstance(held, str) and held in _NON_FINITE
        demand(known, f"{held!r:.20} is no float")
        return _NON_FINITE[held]

    def _bytes(self, held: Any, depth: int) -> bytes:
        demand(isinstance(held, str), "bytes are no text")
        return bytes.fromhex(held)

    def _array(self, held: Any, depth: int) -> NDArray:
        return self.array(held)

    def _floats(self, held: Any, depth: int) -> list[float]:
        array = self.array(held, "f")
        demand(array.ndim == 1 and array.dtype == np.float64, "floats are no float64")
        return array.tolist()

    def _time(self, held: Any, depth: int) -> NDArray:
        demand(isinstance(held, list) and len(held) == 4, "times are not described")
        kind, unit, count, name = held
        known = kind in ("m", "M") and unit in _UNITS and type(count) is int
        demand(known and 0 < count < 2**31, "times have no unit")
        array = self.array(name, "i")
        demand(array.dtype == np.int64, "times are no int64")
        return array.view(np.dtype(f"{kind}8[{count}{unit}]"))

    def _text(self, held: Any, depth: int) -> NDArray:
        demand(isinstance(held, list) and len(held) == 3, "text is not described")
        kind, width, name = held
        known = kind in _TEXT_KINDS and type(width) is int and 0 <= width < 2**31
        demand(known and isinstance(name, str), "text has no kind")
        ends, together = (
            self.array(f"{name}.ends", "i"),
            self.array(f"{name}.text", "u"),
        )
        right = ends.dtype == np.int64 and together.dtype == np.uint8
        demand(right and ends.ndim == together.ndim == 1, "text has the wrong types")
        last = ends[-1] if len(ends) else 0
        rising = (np.diff(ends, prepend=0) >= 0).all()
        demand(rising and last == len(together), "text ends in wrong places")
        _demand_width(width, len(ends), len(together))
        return _strings(kind, width, ends.tolist(), together.tobytes())

    def _generator(self, held: Any, depth: int) -> RandomState:
        demand(isinstance(held, dict), "a generator is not described")
        demand(
            held.keys() == {"key", "pos", "has_gauss", "gauss"},
            "a generator lacks some of its state",
        )
        key = self.value(held["key"], depth)
        right = isinstance(key, np.ndarray) and key.dtype == np.uint32
        # NumPy does not look: it would read beyond the key.
        demand(right and key.shape == (624,), "a generator has no key")
        pos, has_gauss, gauss = held["pos"], held["has_gauss"], held["gauss"]
        demand(type(pos) is int and 0 <= pos <= 624, "a generator stands nowhere")
        demand(has_gauss in (0, 1) and type(has_gauss) is int, "a generator lies")
        demand(type(gauss) is float, "a generator has kept no number")
        made = RandomState(MT19937(0))
        made.set_state(("MT19937", key.copy(), pos, has_gauss, gauss))
        return made


def _strings(kind: str, width: int, ends: list[int], together: bytes) -> NDArray:
    starts = [0, *ends[:-1]]
    parts: list = [together[a:b] for a, b in zip(starts, ends, strict=True)]
    if kind in ("U", "str"):
        parts = [part.decode("utf-8", "surrogatepass") for part in parts]
    if kind in ("str", "bytes"):
        array = np.empty(len(parts), object)
        array[:] = parts
        return array
    demand(all(len(part) <= width for part in parts), "a text is longer than its width")
    # NumPy takes zeros at the end off.
    demand(
        not any(part[-1:] in ("\0", b"\0") for part in parts), "a text ends in zeros"
    )
    return np.array(parts, f"{kind}{width}")


_TAGS: dict[str, Callable[[Reader, Any, int], Any]] = {
    "tuple": Reader._tuple,
    "dict": Reader._dict,
    "float": Reader._float,
    "bytes": Reader._bytes,
    "array": Reader._array,
    "floats": Reader._floats,
    "time": Reader._time,
    "text": Reader._text,
    "generator": Reader._generator,
}
