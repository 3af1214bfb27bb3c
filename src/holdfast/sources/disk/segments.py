"""Segments: the pure arithmetic of how a disk lies in the repository.

A disk is a sequence of fixed, aligned chunks (the last may be short). Its chunks are kept
in a directory of segments, ``segment-000000/data``, ``segment-000001/data`` and so on,
each segment a directory of its own, so that a segment in which nothing changed shares its
tree with the parent snapshot. Names are zero-padded decimals: sorted bytewise they are in
disk order, and ``cat DISK/*/data`` of a restored directory is the raw disk. For trees to
be shared, whoever writes them must give segment nodes metadata that never varies.

Does no I/O. Everything costs time and memory by extents and runs, never by chunks: a
1 TiB hole is one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from holdfast.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.model.extent import Extent

DEFAULT_CHUNK_BYTES = 1 << 20

CHUNKS_PER_SEGMENT = 1024
"""How many chunks a segment holds unless the disk is huge.

A chunk costs 67 bytes in its segment's tree, a segment about 330 bytes in the disk's
directory. One write anywhere rewrites one segment tree and the directory: at 1 GiB per
segment (1024 chunks of 1 MiB) that is 69 kB and, for a disk of 1 TiB, 340 kB; at 4 GiB
270 kB and 85 kB. As zstd halves the former and takes most of the latter away, and as
writes are scattered, the smaller segment costs a third or less where it matters.
"""

SEGMENTS_AT_MOST = 4096
"""Above this many segments they are made larger, to keep the directory below 1.4 MB."""

SEGMENT_FILE = "data"
"""The name of the one file in a segment's directory."""

_NAME_DIGITS = 6


def choose_segment_bytes(size_bytes: int, chunk_size_bytes: int = DEFAULT_CHUNK_BYTES) -> int:
    """The segment size for a disk that has no parent; one with a parent keeps the parent's."""
    if chunk_size_bytes < 1 or size_bytes < 0:
        raise UsageError("A disk cannot have a negative size, nor chunks of less than one byte.")
    segment_bytes = chunk_size_bytes * CHUNKS_PER_SEGMENT
    while size_bytes > segment_bytes * SEGMENTS_AT_MOST:
        segment_bytes *= 2
    return segment_bytes


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """Where the chunks of a disk of `size_bytes` lie; segments are whole chunks long."""

    size_bytes: int
    chunk_size_bytes: int
    segment_size_bytes: int

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise UsageError(f"A disk cannot have {self.size_bytes} bytes.")
        if self.chunk_size_bytes < 1:
            raise UsageError(f"A disk cannot have chunks of {self.chunk_size_bytes} bytes.")
        if self.segment_size_bytes < 1 or self.segment_size_bytes % self.chunk_size_bytes:
            raise UsageError(
                f"The segment size {self.segment_size_bytes} is not a multiple of the "
                f"chunk size {self.chunk_size_bytes}."
            )
        if self.segment_count > 10**_NAME_DIGITS:
            raise UsageError(
                f"A disk of {self.size_bytes} bytes would have {self.segment_count} segments; "
                "choose a larger segment size."
            )

    @property
    def chunk_count(self) -> int:
        """How many chunks the disk has, a short last one included."""
        return -(-self.size_bytes // self.chunk_size_bytes)

    @property
    def chunks_per_segment(self) -> int:
        """How many chunks every segment but the last holds."""
        return self.segment_size_bytes // self.chunk_size_bytes

    @property
    def segment_count(self) -> int:
        """How many segments the disk has; a disk of 0 bytes has none."""
        return -(-self.size_bytes // self.segment_size_bytes)

    def chunk_start(self, chunk: int) -> int:
        """Where on the disk the chunk begins."""
        self._require(chunk, self.chunk_count, "chunk")
        return chunk * self.chunk_size_bytes

    def chunk_length(self, chunk: int) -> int:
        """The bytes in the chunk: the chunk size but for a short last one."""
        return min(self.chunk_size_bytes, self.size_bytes - self.chunk_start(chunk))

    def segment_of_chunk(self, chunk: int) -> int:
        """The segment that holds the chunk."""
        self._require(chunk, self.chunk_count, "chunk")
        return chunk // self.chunks_per_segment

    def chunks_of_segment(self, segment: int) -> range:
        """The chunks that the segment holds, in order."""
        self._require(segment, self.segment_count, "segment")
        first = segment * self.chunks_per_segment
        return range(first, min(first + self.chunks_per_segment, self.chunk_count))

    def segment_length(self, segment: int) -> int:
        """The bytes in the segment: the segment size but for a short last one."""
        self._require(segment, self.segment_count, "segment")
        start = segment * self.segment_size_bytes
        return min(self.segment_size_bytes, self.size_bytes - start)

    def segment_name(self, segment: int) -> str:
        """The name of the segment's directory."""
        self._require(segment, self.segment_count, "segment")
        return f"segment-{segment:0{_NAME_DIGITS}}"

    def segment_names(self) -> Iterator[str]:
        """The names of all segments, in disk order, which is their bytewise order."""
        return (self.segment_name(segment) for segment in range(self.segment_count))

    @staticmethod
    def _require(index: int, count: int, what: str) -> None:
        if not 0 <= index < count:
            raise UsageError(f"There is no {what} {index} in a disk of {count} {what}s.")


class RunKind(Enum):
    """What is to be done with a run of chunks."""

    ZERO = "zero"
    """Every byte is zero: nothing to read."""
    REUSE = "reuse"
    """Nothing changed since the parent, zero or not: the parent's chunks are taken over."""
    READ = "read"
    """To be read whole."""


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Chunks `first` <= chunk < `first + count` that share a kind."""

    first: int
    count: int
    kind: RunKind

    @property
    def end(self) -> int:
        """The first chunk behind the run."""
        return self.first + self.count


def plan_chunks(
    size_bytes: int, chunk_size_bytes: int, extents: Iterable[Extent]
) -> Iterator[ChunkRun]:
    """Turn the extents of a disk into runs of whole chunks, lazily and in order.

    A chunk of which any byte is dirty is dirty, and zero only if all of it is. What is
    clean is reused even where it is zero, so that an untouched segment is one reuse run
    and shares its tree without being looked at. Neighbouring runs differ in kind.
    Raises `SourceError` where the extents do not cover the disk exactly once in order.
    """
    waiting: ChunkRun | None = None
    for run in _runs(size_bytes, chunk_size_bytes, extents):
        if waiting is None:
            waiting = run
        elif waiting.kind is run.kind:
            waiting = ChunkRun(waiting.first, waiting.count + run.count, run.kind)
        else:
            yield waiting
            waiting = run
    if waiting is not None:
        yield waiting


def runs_by_segment(
    layout: DiskLayout, runs: Iterable[ChunkRun]
) -> Iterator[tuple[int, tuple[ChunkRun, ...]]]:
    """Cut runs that cover the disk at segment borders; yield each segment with its runs."""
    per_segment = layout.chunks_per_segment
    current: list[ChunkRun] = []
    for run in runs:
        first = run.first
        while first < run.end:
            segment = first // per_segment
            border = min((segment + 1) * per_segment, layout.chunk_count)
            end = min(run.end, border)
            current.append(ChunkRun(first, end - first, run.kind))
            first = end
            if end == border:
                yield segment, tuple(current)
                current = []


def _runs(size_bytes: int, chunk_bytes: int, extents: Iterable[Extent]) -> Iterator[ChunkRun]:
    """The runs of `plan_chunks` before neighbours of one kind are joined."""
    position = 0
    # What the extents so far say about the chunk that `position` lies inside of.
    zero = dirty = False
    for extent in extents:
        if extent.start != position or extent.length < 1 or extent.end > size_bytes:
            raise SourceError(
                f"The disk of {size_bytes} bytes reports a range of {extent.length} bytes at "
                f"{extent.start} where one at {position} was due. The disk's driver is at "
                "fault; read the disk without its allocation map."
            )
        position = extent.end
        first, inside = divmod(extent.start, chunk_bytes)
        if inside:
            zero = zero and extent.zero
            dirty = dirty or extent.dirty
            if extent.end < min((first + 1) * chunk_bytes, size_bytes):
                continue
            yield ChunkRun(first, 1, _kind(zero=zero, dirty=dirty))
            first += 1
        behind = position // chunk_bytes if position < size_bytes else -(-size_bytes // chunk_bytes)
        if behind > first:
            yield ChunkRun(first, behind - first, _kind(zero=extent.zero, dirty=extent.dirty))
        zero, dirty = extent.zero, extent.dirty
    if position != size_bytes:
        raise SourceError(
            f"The disk of {size_bytes} bytes reports its first {position} bytes only. The "
            "disk's driver is at fault; read the disk without its allocation map."
        )


def _kind(*, zero: bool, dirty: bool) -> RunKind:
    if not dirty:
        return RunKind.REUSE
    return RunKind.ZERO if zero else RunKind.READ
