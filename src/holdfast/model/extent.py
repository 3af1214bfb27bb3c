"""Extents: which ranges of a disk hold data, read as zeroes, or changed since a parent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes `start` <= position < `start + length` of a disk.

    `zero`: it reads as zeroes (a hole, or known to be zero) and need not be read.
    `dirty`: it may differ from the parent snapshot; without a parent everything is dirty.
    """

    start: int
    length: int
    zero: bool = False
    dirty: bool = True

    @property
    def end(self) -> int:
        """The first position behind the extent."""
        return self.start + self.length
