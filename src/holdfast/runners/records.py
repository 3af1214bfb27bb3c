"""Small JSON files in the runner's directory of a place: whole, or not there.

A record is on disk when `write` returns, and a reader never sees half of one. Room for one that
must not fail can be reserved, since a command may well have filled the disk by then. Imported by
the supervisor, which is to stay small.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any, Final

_RESERVED_BYTES: Final = 16384


def reserve(path: str) -> None:
    """Have the disk keep room for one `write` of this record."""
    descriptor = os.open(f"{path}.reserved", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVED_BYTES)
    finally:
        os.close(descriptor)


def write(path: str, document: dict[str, Any]) -> None:
    """Write a record, replacing a former one; only its owner may read it."""
    fresh = f"{path}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.rename(f"{path}.reserved", fresh)
    # Not truncated before it is written: the blocks may be reserved.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(document).encode())
        file.flush()
        file.truncate()
        os.fsync(descriptor)
    os.rename(fresh, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path: str) -> dict[str, Any] | None:
    """The record, or None where there is none."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        return None
    assert isinstance(found, dict)
    return found
