"""Consistency: how far the bytes of a snapshot belong to one moment.

A grade is recorded with every snapshot; nothing here decides which one can be had.
"""

from __future__ import annotations

from enum import StrEnum


class Consistency(StrEnum):
    """The grades, best first. A result made of several parts has the worst of theirs."""

    FROZEN = "frozen"
    """The workload was held still: nothing was between two writes of its own."""
    ATOMIC = "atomic"
    """One moment of the disk, as after a power cut: what programs synced is in order."""
    PER_FILE = "per_file"
    """Every file is whole in itself, but two files may be of different moments."""
    TORN = "torn"
    """At least one file changed while it was read; the findings say which."""

    def worst(self, other: Consistency) -> Consistency:
        """The weaker of the two grades."""
        grades = list(Consistency)
        return max(self, other, key=grades.index)
