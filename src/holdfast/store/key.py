"""What a key may look like: the one rule that every store applies before it does anything.

A key is one or more segments of ``[A-Za-z0-9._-]`` joined by ``/``; a segment has at most
200 characters, so that a file system has room for it and a temporary ending, and is never
``.`` or ``..``, so a key cannot leave the store's root. A last segment that ends in
``-tmp-`` and digits is refused: that is how `LocalStore`, and restic, name a file that is
still being written. This module does no I/O.
"""

from __future__ import annotations

import re

from holdfast.errors import UsageError

_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,200}"
_KEY = re.compile(rf"(?:{_SEGMENT}/)*{_SEGMENT}", re.ASCII)
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*", re.ASCII)
_TEMPORARY = re.compile(r"-tmp-[0-9]+\Z")


def is_temporary(name: str) -> bool:
    """Whether a file of that name is one that was not finished."""
    return _TEMPORARY.search(name) is not None


def is_segment(name: str) -> bool:
    """Whether `name` may be one segment of a key."""
    return "/" not in name and _KEY.fullmatch(name) is not None


def check_key(key: str) -> None:
    """Raise `UsageError` unless `key` can name an object."""
    if _KEY.fullmatch(key) is None or is_temporary(key):
        raise UsageError(
            f"{key!r} cannot name an object: a key is segments of letters, digits, '.', '_' "
            "and '-' joined by '/', each 200 characters at most, and does not end like a "
            "temporary name."
        )


def check_prefix(prefix: str) -> None:
    """Raise `UsageError` unless `prefix` is empty or whole segments ending with ``/``."""
    if _PREFIX.fullmatch(prefix) is None:
        raise UsageError(f"{prefix!r} cannot be listed: a prefix is empty or ends with '/'.")


def check_range(offset: int, length: int | None) -> None:
    """Raise `UsageError` for a range that cannot be meant."""
    if offset < 0 or (length is not None and length < 0):
        raise UsageError(f"Cannot read {length} bytes from offset {offset}: both count from 0.")
