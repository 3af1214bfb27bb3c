"""Dirty ranges: what changed since the parent snapshot, and whether that can be believed.

Takes lists of changed ranges as callers know them (a hypervisor's bitmap, a storage
array's difference, a JSON file), checks them, and marks a disk's extents by them.
Never reads a disk. The invariant: a list that is in any way doubtful leads to a whole
read and a finding, never to a smaller read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from holdfast.errors import UsageError
from holdfast.model.extent import Extent
from holdfast.model.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.model.manifest import DiskManifest
    from holdfast.sources.disk.reader import DiskReader


class DirtyRange(NamedTuple):
    """`length` bytes from `start` that may differ from the parent."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first position behind the range."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class ReadDecision:
    """Whether a disk is read whole or by its dirty ranges.

    `ranges` is None for a whole read, else sorted, merged and aligned to chunks.
    `whole_read_reason` is a sentence for the manifest, None for an incremental read.
    """

    ranges: tuple[DirtyRange, ...] | None
    whole_read_reason: str | None = None
    findings: tuple[Finding, ...] = ()


def parse_dirty_ranges(document: bytes | str) -> list[DirtyRange]:
    """Read a JSON list of ``[start, length]`` or ``{"start": ..., "length": ...}``.

    An object may say ``"dirty": false``, as lists of all extents do; it is then left out.
    Other members are ignored. Raises `UsageError` for anything else.
    """
    try:
        items = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The list of changed ranges is not JSON: {error}.") from error
    if not isinstance(items, list):
        raise UsageError("The list of changed ranges must be a JSON array.")
    ranges: list[DirtyRange] = []
    for number, item in enumerate(items):
        match item:
            case {"dirty": False, "start": int(), "length": int()}:
                continue
            case {"dirty": marked} if marked is not True:
                start: object = None
                length: object = None
            case [start, length] | {"start": start, "length": length}:
                pass
            case _:
                start = length = None
        if type(start) is not int or type(length) is not int:
            raise UsageError(
                f"Entry {number} of the list of changed ranges is neither [start, length] "
                'nor {"start": ..., "length": ...} with whole numbers.'
            )
        ranges.append(DirtyRange(start, length))
    return ranges


def normalise_dirty_ranges(
    ranges: Iterable[tuple[int, int]], size_bytes: int, chunk_size_bytes: int
) -> tuple[DirtyRange, ...]:
    """Sort and merge ranges and widen them to whole chunks, at most to the disk's end.

    Empty ranges vanish. Raises `UsageError` for a range that is not inside the disk: a
    list made for another disk or another size must not be trusted for any part.
    """
    widened: list[tuple[int, int]] = []
    for start, length in ranges:
        if start < 0 or length < 0 or start + length > size_bytes:
            raise UsageError(
                f"The changed range of {length} bytes at {start} is not inside the disk of "
                f"{size_bytes} bytes."
            )
        if length:
            first = start - start % chunk_size_bytes
            end = -(-(start + length) // chunk_size_bytes) * chunk_size_bytes
            widened.append((first, min(end, size_bytes)))
    widened.sort()
    merged: list[tuple[int, int]] = []
    for start, end in widened:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(DirtyRange(start, end - start) for start, end in merged)


def decide_read(
    disk: str,
    size_bytes: int,
    chunk_size_bytes: int,
    parent: DiskManifest | None,
    changed: Iterable[tuple[int, int]] | bytes | str | None,
) -> ReadDecision:
    """Decide how to read `disk`, given its parent and what is said to have changed.

    No parent, or nobody who says what changed, is a plain whole read. A parent of another
    shape or a list that does not fit is a whole read with a finding.
    """
    if parent is None:
        return ReadDecision(None, "There is no parent snapshot of this disk.")
    if parent.size_bytes != size_bytes:
        return _read_whole(
            disk,
            "disk_resized",
            f"The disk had {parent.size_bytes} bytes in the parent snapshot and has "
            f"{size_bytes} now.",
        )
    if parent.chunk_size_bytes != chunk_size_bytes:
        return _read_whole(
            disk,
            "chunk_size_changed",
            f"The parent snapshot has chunks of {parent.chunk_size_bytes} bytes, this one of "
            f"{chunk_size_bytes}.",
        )
    if changed is None:
        return ReadDecision(None, "What changed since the parent snapshot is not known.")
    try:
        listed = parse_dirty_ranges(changed) if isinstance(changed, bytes | str) else changed
        return ReadDecision(normalise_dirty_ranges(listed, size_bytes, chunk_size_bytes))
    except UsageError as error:
        return _read_whole(disk, "dirty_list_unusable", error.message)


def mark_dirty(extents: Iterable[Extent], ranges: Sequence[DirtyRange]) -> Iterator[Extent]:
    """Yield the extents anew, dirty inside `ranges` (sorted and merged) and clean outside.

    What the extents said about dirtiness before is replaced; zero is kept.
    """
    index = 0
    for extent in extents:
        position = extent.start
        while position < extent.end:
            while index < len(ranges) and ranges[index].end <= position:
                index += 1
            if index == len(ranges):
                dirty, end = False, extent.end
            elif ranges[index].start > position:
                dirty, end = False, min(ranges[index].start, extent.end)
            else:
                dirty, end = True, min(ranges[index].end, extent.end)
            yield Extent(position, end - position, zero=extent.zero, dirty=dirty)
            position = end


class MarkedReader:
    """A `DiskReader` that adds dirty ranges to one which knows nothing of a parent."""

    def __init__(self, reader: DiskReader, ranges: Sequence[DirtyRange]) -> None:
        self._reader = reader
        self._ranges = tuple(ranges)

    @property
    def size_bytes(self) -> int:
        """The size of the disk in bytes."""
        return self._reader.size_bytes

    def extents(self) -> Iterator[Extent]:
        """The wrapped reader's extents, marked."""
        return mark_dirty(self._reader.extents(), self._ranges)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read from the wrapped reader."""
        self._reader.read_into(offset, buffer)

    def findings(self) -> tuple[Finding, ...]:
        """The wrapped reader's findings."""
        return self._reader.findings()

    def close(self) -> None:
        """Close the wrapped reader."""
        self._reader.close()


def _read_whole(disk: str, code: str, reason: str) -> ReadDecision:
    message = f"{reason} The disk is read whole."
    return ReadDecision(None, reason, (Finding(code, message, disk),))
