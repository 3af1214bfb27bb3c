"""Progress of a long act: plain counters that a flow reports and a screen shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an act stands.

    Totals are 0 while they are not known. Bytes are logical bytes of what is being
    captured, restored or checked, not stored bytes.
    """

    step: str
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    current: str = ""


Report = Callable[[Progress], None]
"""What flows call with progress; called from one thread, several times a second at most."""


def ignore_progress(progress: Progress) -> None:
    """A `Report` that drops everything."""
