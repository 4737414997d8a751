"""A file is written whole, or the former one stays as it was."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from typing import Any


def write_whole(
    path: str | os.PathLike, parts: Iterable[Any], new: str | None = None
) -> None:
    """Put the parts, one after the other, into a file in one step.

    They go into a new file in the same folder, which is forced to the disk and then
    takes the place of the one at `path`. Whoever opens that finds the old file or the
    new one whole, also after a crash or a loss of power; whoever has the old one mapped
    into memory keeps it. A link is followed, and the permissions of the old file stay.

    new: the name of the new file, in the same folder, for who writes there alone; what
    a process that was killed has left there is written over. Else it has a name that no
    other file has.

    Raises
    ------
    OSError
        Of the system. The new file is removed; the old one is as it was (unless the
        last step failed, forcing the folder to the disk: then the new one is there).
    """
    path = os.path.realpath(os.fsdecode(path))
    if os.path.isdir(path):
        raise IsADirectoryError(
            errno.EISDIR, "path must name a file, and this is a folder", path
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "path must name a regular file", path)
    folder = os.path.dirname(path)
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
    flags |= os.O_EXCL if new is None else os.O_TRUNC
    new = new or os.path.join(folder, f".cbp-{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(new, flags, 0o666)
    except OSError as error:
        error.filename = path  # who reads this knows of no other
        raise
    try:
        with open(handle, "wb", buffering=0) as file:
            for part in parts:
                _write_all(file, memoryview(part).cast("B"))
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # there is no old file, or no such call
            os.chmod(new, os.stat(path).st_mode & 0o777)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    _sync_folder(folder)


def _write_all(file: Any, part: memoryview) -> None:
    while len(part):  # a disk that is nearly full takes some
        part = part[file.write(part) :]


def _sync_folder(folder: str) -> None:
    """Force the folder's new entry to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no such call.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
