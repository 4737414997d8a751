"""The container of a model file: a safetensors file, read more strictly than by others.

    8 bytes   n, the length of the header, little-endian
    n bytes   the header: JSON in ASCII, filled up with spaces
    the rest  the tensors, one after the other without a gap

Nothing here knows a model. All numbers of the header are checked, as integers of
Python, before anything of their size is made. docs/model_files.md says it byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The names of types in a header, and those of NumPy.
DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
_KINDS = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
_NAMES = {dtype: name for name, dtype in _KINDS.items()}
_OF_TENSOR = {"dtype", "shape", "data_offsets"}

MOST_HEADER = 2**20
MOST_TENSORS = 4096
# Lists, objects and commas of a text of JSON, which say how much memory it can take.
MOST_TOKENS = 2**16
_MOST_BYTES = 2**48
_ALIGNMENT = 64
_ZEROS = "0" * 64


class ModelFileError(ValueError):
    """A file is no model file that this version can read, or it is damaged."""


class Tensor(NamedTuple):
    """The place of a tensor in the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Container(NamedTuple):
    """Texts by name, and tensors by name in the order of the data."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    data: NDArray[np.uint8]

    def array(self, name: str) -> NDArray:
        """A tensor as an array that shares the memory of the data."""
        dtype, shape, start, end = self.tensors[name]
        return self.vector(dtype, start, end).reshape(shape)

    def vector(self, dtype: np.dtype, start: int, end: int) -> NDArray:
        """Some of the data as a vector, in this machine's byte order."""
        return native(self.data[start:end].view(dtype))


def demand(condition: Any, what: str) -> None:
    """ModelFileError with the reason `what`, unless the condition is true."""
    if not condition:
        raise ModelFileError(what)


def native(array: NDArray) -> NDArray:
    """The array in this machine's byte order; itself, if it has it."""
    if sys.byteorder == "big":
        return array.astype(array.dtype.newbyteorder("="))
    return array


# ---- writing


def pack(
    metadata: dict[str, str], tensors: dict[str, NDArray]
) -> tuple[bytes, NDArray[np.uint8]]:
    """The header, with its length, and the data of a file.

    Tensors lie in the order of their item sizes, the largest first, else as given. So
    each lies at a multiple of its item size, without gaps.
    """
    placed = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    data = np.empty(sum(array.nbytes for array in tensors.values()), np.uint8)
    table, end = {}, 0
    for name, array in placed:
        start, end = end, end + array.nbytes
        dtype = array.dtype.newbyteorder("<")
        data[start:end].view(dtype)[...] = array.ravel()
        table[name] = {
            "dtype": _NAMES[np.dtype(dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    metadata = {
        **metadata,
        "data_blake2b": _digest(data),
        "header_blake2b": _ZEROS,
    }
    text = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":"))
    header = text.encode("ascii")
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    last = header.rindex(b'"header_blake2b":"' + _ZEROS.encode())
    place = last + len('"header_blake2b":"')
    digest = _digest(header).encode()
    header = header[:place] + digest + header[place + len(digest) :]
    return len(header).to_bytes(8, "little") + header, data


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


# ---- reading


def read(path: str | os.PathLike, mapped: bool) -> Container:
    """Read a file into memory, or map its data.

    Raises
    ------
    ModelFileError
        If it is no safetensors file, or damaged. The data of a mapped file are not
        looked at.
    OSError
        Of the system, for one that cannot be read.
    """
    demand(stat.S_ISREG(os.stat(path).st_mode) or os.path.isdir(path), "it is no file")
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        demand(size < _MOST_BYTES, f"it is too large, {size} bytes")
        first = _read_some(file, np.empty(min(size, 8), np.uint8)).tobytes()
        n = _header_length(first, size)
        header = _read_some(file, np.empty(n, np.uint8)).tobytes()
        metadata, tensors = _parse(header, size - 8 - n)
        if mapped:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            demand(len(memory) == size, "it has changed while it was read")
            demand(size > 8 + n, "it has no data")
            data = np.frombuffer(memory, np.uint8, offset=8 + n)
        else:
            data = _read_some(file, np.empty(size - 8 - n, np.uint8))
    return _checked(header, metadata, tensors, data, mapped)


def parse(content: bytes, data: NDArray[np.uint8] | None = None) -> Container:
    """The same of a file that is in memory; `data` are those that do not follow."""
    n = _header_length(content[:8], len(content))
    header = content[8 : 8 + n]
    if data is None:
        data = np.frombuffer(content, np.uint8)[8 + n :]
    metadata, tensors = _parse(header, len(data))
    return _checked(header, metadata, tensors, data, False)


def _read_some(file: Any, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    left = memoryview(buffer)
    while len(left):
        n = file.readinto(left)
        demand(n, "it ends too early")
        left = left[n:]
    return buffer


def _header_length(first: bytes, size: int) -> int:
    demand(len(first) == 8, f"it is too short, {size} bytes")
    n = int.from_bytes(first, "little")
    demand(n <= MOST_HEADER, "it does not begin with the length of a header")
    # So that data that are mapped lie where the kernels can read them.
    demand((8 + n) % _ALIGNMENT == 0, "its header does not end at a multiple of 64")
    demand(8 + n <= size, f"it ends too early: {size} bytes, but the header needs {n}")
    return n


def _parse(header: bytes, n_bytes: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts and the tensors that a header names; `n_bytes` of data follow it."""
    demand(header[:1] == b"{" and header.isascii(), "its header is no text of JSON")
    table = parse_json(header.decode("ascii"), MOST_TOKENS, counts_only=True)
    metadata = table.pop("__metadata__", None)
    demand(
        isinstance(metadata, dict)
        and all(isinstance(text, str) for text in metadata.values()),
        "its header has no metadata, or others than texts",
    )
    demand(len(table) <= MOST_TENSORS, f"it has {len(table)} tensors")
    for text in [*table, *metadata, *metadata.values()]:
        demand(text.isascii(), "a text of its header is not ASCII")
    tensors = {name: _tensor(name, table[name]) for name in table}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1][2:]))
    end = 0
    for name, tensor in tensors.items():
        if tensor.start != end:
            raise ModelFileError(
                f"tensor {name!r:.60} begins at {tensor.start}, the last ends at {end}"
            )
        end = tensor.end
    what = "has bytes after its tensors" if end < n_bytes else "ends too early"
    demand(end == n_bytes, f"it {what}: {n_bytes} bytes of data, tensors need {end}")
    return metadata, tensors


def _tensor(name: str, given: Any) -> Tensor:
    """One line of the header's table."""
    if not isinstance(given, dict) or given.keys() != _OF_TENSOR:
        raise ModelFileError(f"tensor {name!r:.60} is not described")
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _KINDS:
        raise ModelFileError(f"tensor {name!r:.60} has the type {dtype!r:.20}")
    lists = isinstance(shape, list) and isinstance(offsets, list)
    if not lists or len(shape) not in (1, 2) or len(offsets) != 2:
        raise ModelFileError(f"tensor {name!r:.60} has no valid shape and offsets")
    for n in shape + offsets:
        if type(n) is not int or n >= _MOST_BYTES:
            raise ModelFileError(f"tensor {name!r:.60} has the size {n!r:.20}")
    start, end = offsets
    kind = _KINDS[dtype]
    if end - start != math.prod(shape) * kind.itemsize or start % kind.itemsize:
        raise ModelFileError(f"tensor {name!r:.60} does not fit its offsets")
    return Tensor(kind, tuple(shape), start, end)


def _checked(
    header: bytes,
    metadata: dict[str, str],
    tensors: dict[str, Tensor],
    data: NDArray[np.uint8],
    mapped: bool,
) -> Container:
    """The container, if this version reads it and no bit is wrong."""
    demand(metadata.get("format") == "cbp", "it is a file of safetensors, not of cbp")
    version = metadata.get("format_version", "")
    if version != "1":
        newer = re.fullmatch("[1-9][0-9]{0,8}", version)
        demand(newer, f"it has the format version {version!r:.20}")
        by = metadata.get("cbp_version", "unknown")
        raise ModelFileError(
            f"it was written by a newer version of cbp ({by:.20}), in format "
            f"{version}; this version reads format 1. Update cbp to load it"
        )
    digest = metadata.get("header_blake2b", "")
    demand(re.fullmatch("[0-9a-f]{64}", digest), "its header has no BLAKE2b hash")
    before, _, after = header.partition(digest.encode())
    right = _digest(before + _ZEROS.encode() + after) == digest
    demand(right, "its header does not have its BLAKE2b hash")
    if not mapped:
        right = _digest(data) == metadata.get("data_blake2b")
        demand(right, "its data do not have their BLAKE2b hash")
    return Container(metadata, tensors, data)


# ---- JSON


def parse_json(text: str, most_tokens: int, counts_only: bool = False) -> dict:
    """An object of JSON, without NaN and without a key that comes twice.

    counts_only: all numbers are integers >= 0. Else one may be too large for a float.
    """
    n = text.count(",") + text.count("[") + text.count("{")
    demand(n <= most_tokens, f"its header has more than {most_tokens} parts")
    try:
        made = json.loads(
            text,
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_number,
            parse_int=_count if counts_only else None,
            parse_float=_no_number if counts_only else None,
        )
    except ModelFileError:
        raise
    except (ValueError, RecursionError):
        raise ModelFileError("its header is no text of JSON") from None
    demand(isinstance(made, dict), "its header is no object of JSON")
    return made


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ModelFileError("its header has a key twice")
    return made


def _no_number(text: str) -> Any:
    raise ModelFileError(f"its header has the number {text:.20}")


def _count(text: str) -> int:
    if len(text) > 15 or text[0] == "-":
        _no_number(text)
    return int(text)


def names_of(tensors: dict[str, Tensor], prefix: str) -> Iterator[str]:
    """``prefix.0``, ``prefix.1`` and so on, as far as there are such tensors."""
    i = 0
    while (name := f"{prefix}.{i}") in tensors:
        yield name
        i += 1
