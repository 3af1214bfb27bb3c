"""What one capture of a task's directory is asked for, and what it answers. Values only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.sources.path.selection import Selection

Freeze = Callable[[], AbstractContextManager[object]]
"""Holds a computation still while its context is open."""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """One capture. `whitelist` and `blacklist` are RE2 expressions on relative paths.

    `freeze` holds the computation still while its context is open; it raises a
    `HoldfastError` where that is not possible, which is a finding `not_frozen`. `verify`
    reads back what was stored.
    """

    whitelist: str | None = None
    blacklist: str | None = None
    tags: tuple[str, ...] = ()
    freeze: Freeze | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """What a capture made.

    `captured_ns` is the moment that the snapshot shows, or when the last look began where
    nothing was held still. `read_bytes` came from the directory, `stored_bytes` were added
    to the repository. `frozen_seconds` is what the computation lost.
    """

    manifest_id: str
    consistency: Consistency
    captured_ns: int
    files: int
    logical_bytes: int
    read_bytes: int
    stored_bytes: int
    verified: bool
    frozen_seconds: float
    capture_seconds: float
    findings: tuple[Finding, ...]


def selection_of(whitelist: str | None, blacklist: str | None) -> Selection:
    """The pair of filters as a selection; raises `BadPattern` at once."""
    selection = Selection(
        whitelist=(whitelist,) if whitelist else (), blacklist=(blacklist,) if blacklist else ()
    )
    selection.check()
    return selection
