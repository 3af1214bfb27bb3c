"""What a worker process does of a disk's backup: runs of chunks, and segments.

A task is one of the tuples below; each answer carries what the worker's writer has stored
since, so that the parent can index it. A worker reads the disk itself, through a reader
of its own. It decides nothing: which chunks are read and which are taken over is planned
by the parent. Whatever it answers with is stored, or will be when it has been flushed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.errors import Damaged
from holdfast.flows.backup_tasks import Flush, StoreBlob
from holdfast.flows.disk_tree import ID_BYTES, load_segment, segment_tree
from holdfast.model.finding import Finding
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.writer import BlobWriter, StoredPack, WriteSetup, WriteTotals
from holdfast.sources.disk.image import ImageReader
from holdfast.sources.disk.reader import DiskReader
from holdfast.sources.disk.segments import DiskLayout
from holdfast.sources.disk.zeroes import is_zero

_BUFFER_BYTES = 2 << 20
"""Small enough that what was read is still in the cache of the core that hashes it."""

OpenDisk = Callable[[], DiskReader]
"""Opens a disk; picklable, as every worker opens it for itself."""


@dataclass(frozen=True, slots=True)
class OpenImage:
    """Opens an image file or a block device."""

    path: str
    accept_containers: bool = False

    def __call__(self) -> DiskReader:
        return ImageReader(self.path, accept_containers=self.accept_containers)


class StoreRun(NamedTuple):
    """Read and store so many `chunks` of a disk from `first`; answer is a `RunStored`."""

    disk: int
    first: int
    chunks: int


class StoreZeroes(NamedTuple):
    """Store a chunk of so many zeroes; answer is its id."""

    length: int


class LoadSegment(NamedTuple):
    """Load a segment of the parent snapshot, and look whether its chunks are still there.

    `reused` are the runs (first chunk within the segment, count) that will be taken over.
    Answer is a `SegmentLoaded`.
    """

    tree: bytes
    length: int
    chunks: int
    reused: tuple[tuple[int, int], ...]


class StoreSegment(NamedTuple):
    """Store the tree of a segment of these chunks; answer is the tree's id."""

    ids: bytes
    length: int


class CloseDisks(NamedTuple):
    """Close the disks; answer is a tuple of what the readers found."""


class RunStored(NamedTuple):
    """The ids of the chunks one behind another, and how many bytes were found to be zero."""

    ids: bytes
    zero_bytes: int


class SegmentLoaded(NamedTuple):
    """The ids of all chunks, or a `problem` for which they cannot be taken over."""

    ids: bytes
    problem: str = ""


class DiskAnswer(NamedTuple):
    """The result of a task, and what goes along with it."""

    value: Any
    stored: list[StoredPack]
    totals: WriteTotals


@dataclass(frozen=True, slots=True)
class DiskSetup:
    """Makes a worker's handler; everything in it can be sent to another process."""

    repository: Repository
    write: WriteSetup
    disks: tuple[tuple[OpenDisk, DiskLayout], ...]

    def __call__(self) -> DiskWorker:
        return DiskWorker(self)


class DiskWorker:
    """Does tasks one after another; one for each process."""

    def __init__(self, setup: DiskSetup) -> None:
        self._setup = setup
        self._writer = BlobWriter(setup.write)
        self._reader = BlobReader(setup.repository, setup.write.index)
        self._open: dict[int, DiskReader] = {}
        self._zero_ids: dict[int, bytes] = {}
        chunk_bytes = max(layout.chunk_size_bytes for _, layout in setup.disks)
        self._buffer = memoryview(bytearray(max(chunk_bytes, _BUFFER_BYTES)))

    def __call__(self, task: Any) -> DiskAnswer:
        stored: list[StoredPack] | None = None
        value: Any = None
        if isinstance(task, StoreRun):
            value = self._store_run(task)
        elif isinstance(task, StoreZeroes):
            value = self._zeroes(task.length)
        elif isinstance(task, LoadSegment):
            value = self._load_segment(task)
        elif isinstance(task, StoreSegment):
            value = self._writer.add(BlobType.TREE, segment_tree(task.ids, task.length))
        elif isinstance(task, StoreBlob):
            value = self._writer.add(task.type, task.content)
        elif isinstance(task, CloseDisks):
            value = self._close_disks()
        else:
            assert isinstance(task, Flush)
            stored = self._writer.flush()
        if stored is None:
            stored = self._writer.take_stored()
        return DiskAnswer(value, stored, self._writer.take_totals())

    def _store_run(self, task: StoreRun) -> RunStored:
        open_disk, layout = self._setup.disks[task.disk]
        disk = self._open.get(task.disk)
        if disk is None:
            disk = self._open[task.disk] = open_disk()
        chunk_bytes = layout.chunk_size_bytes
        step = len(self._buffer) - len(self._buffer) % chunk_bytes
        position = task.first * chunk_bytes
        end = min((task.first + task.chunks) * chunk_bytes, layout.size_bytes)
        ids: list[bytes] = []
        zero_bytes = 0
        while position < end:
            held = self._buffer[: min(step, end - position)]
            disk.read_into(position, held)
            for start in range(0, len(held), chunk_bytes):
                chunk = held[start : start + chunk_bytes]
                if is_zero(chunk):
                    zero_bytes += len(chunk)
                    ids.append(self._zeroes(len(chunk)))
                else:
                    ids.append(self._writer.add(BlobType.DATA, chunk))
            position += len(held)
        return RunStored(b"".join(ids), zero_bytes)

    def _zeroes(self, length: int) -> bytes:
        found = self._zero_ids.get(length)
        if found is None:
            found = self._zero_ids[length] = self._writer.add(BlobType.DATA, bytes(length))
        return found

    def _load_segment(self, task: LoadSegment) -> SegmentLoaded:
        try:
            ids = load_segment(self._reader, task.tree, task.length, task.chunks)
        except Damaged as error:
            return SegmentLoaded(b"", error.message)
        reused = {
            ids[chunk * ID_BYTES : (chunk + 1) * ID_BYTES]
            for first, count in task.reused
            for chunk in range(first, first + count)
        }
        lost = sum(not self._writer.knows(BlobType.DATA, blob_id) for blob_id in reused)
        if lost:
            return SegmentLoaded(b"", f"{lost} of its chunks are in no index")
        return SegmentLoaded(ids)

    def _close_disks(self) -> tuple[Finding, ...]:
        findings = tuple(f for disk in self._open.values() for f in disk.findings())
        for disk in self._open.values():
            disk.close()
        self._open.clear()
        return findings
