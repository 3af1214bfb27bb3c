"""Export a stored disk: as a raw image, a qcow2 image, or onto a block device.

Workers take the packs one after another, each read once for a stretch of the disk, and
write chunks where they belong. An image appears under its name only when it is complete.
What cannot be read is zero in the export and a finding; it is never passed over in
silence, and such an export is not `complete`.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from holdfast.errors import Damaged, UsageError
from holdfast.flows.backup_disk import DISK_TAG
from holdfast.flows.disk_tree import ID_BYTES
from holdfast.flows.export_tasks import (
    CheckChunks,
    CheckZero,
    ChunkCopies,
    ChunksWritten,
    ExportSetup,
    WriteChunks,
    ZeroRange,
)
from holdfast.flows.read_disk import StoredDisk
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.index import BlobIndex
from holdfast.repo.lock import PRUNE, Lock
from holdfast.repo.pack import BlobType
from holdfast.repo.pool import Pool
from holdfast.repo.repository import Repository
from holdfast.sources.disk.export import (
    flush,
    is_device,
    larger_device_findings,
    open_device,
)
from holdfast.sources.disk.qcow2 import Qcow2Image
from holdfast.sources.disk.target import TargetFile, translated

_CHUNKS_PLANNED_AT_ONCE = 32 << 10
"""So many chunks are sorted by packs at a time: 32 GiB of disk, and some 10 MB of memory."""

_ZERO_AT_ONCE_BYTES = 1 << 30
_TASKS_PER_WORKER = 3
_REPORT_SECONDS = 0.2


class DiskFormat(StrEnum):
    """How a disk is written. A block device is always raw."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class DiskExportRequest:
    """Which disk goes where.

    `snapshot` is an id, the beginning of one, or ``latest``; `disk` may be empty where the
    snapshot has only one. `overwrite` allows to replace a file, or the content of a block
    device. `verify` reads everything back afterwards. `durable` waits until all of it is on
    the medium. `workers` is 0 to work inside this process.
    """

    snapshot: str
    output: str | os.PathLike[str]
    disk: str = ""
    format: DiskFormat = DiskFormat.RAW
    overwrite: bool = False
    verify: bool = False
    durable: bool = True
    workers: int = 2
    wait_for_lock_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DiskExportResult:
    """What an export made. `data_bytes` were written; the rest of the disk is zero."""

    snapshot: str
    disk: str
    size_bytes: int
    data_bytes: int
    damaged_bytes: int
    verified: bool
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every byte is what it was; if not, the findings say which are lost."""
        return not self.damaged_bytes


def export_disk(
    repository: Repository, request: DiskExportRequest, report: Report = ignore_progress
) -> DiskExportResult:
    """Write a disk of a snapshot to `request.output`.

    Raises `NotFound` for a snapshot or disk that is not there, `TargetNotEmpty`,
    `TargetFull` or `TargetError` for the output, `Damaged` where the snapshot's own trees
    cannot be read. Lost chunks are findings.
    """
    lock = repository.lock("restore", tolerates={PRUNE}, wait_seconds=request.wait_for_lock_seconds)
    with lock:
        snapshot = repository.find_snapshot(
            request.snapshot, lambda candidate: DISK_TAG in candidate.tags
        )
        index = repository.open_index()
        with StoredDisk.open(repository, index, snapshot, request.disk) as disk:
            run = _Run(repository, index, disk, request, report)
            run.execute(lock)
            return run.result(snapshot.id)


class _Target(NamedTuple):
    """The open output. `image` places chunks where they do not lie as they do on the disk."""

    fd: int
    name: str
    device: bool
    image: Qcow2Image | None


class _Run:
    """One export under way."""

    def __init__(
        self,
        repository: Repository,
        index: BlobIndex,
        disk: StoredDisk,
        request: DiskExportRequest,
        report: Report,
    ) -> None:
        self._repository, self._index, self._disk = repository, index, disk
        self._layout, self._request = disk.layout, request
        self._report, self._reported = report, 0.0
        self._started = time.monotonic()
        self._findings = list(index.findings)
        self._done_bytes = self._data_bytes = 0
        self._lost: list[tuple[int, int, str]] = []
        # Where an image has the chunks that are not zero, in disk order.
        self._placed = array("Q")
        # The end of what was planned, and the begin of the zeroes before it.
        self._zero_from = 0

    def execute(self, lock: Lock) -> None:
        with ExitStack() as stack:
            target = self._open(stack)
            store = self._repository.store
            setup = ExportSetup(
                self._repository,
                self._index,
                target.fd,
                None if store.fork_safe or not store.shareable else os.getpid(),
                target.name,
                target.device,
            )
            workers = self._request.workers if store.shareable else 0
            with Pool(workers, setup, fork=store.fork_safe) as pool:
                lock.keep()
                self._drive(pool, self._plan(target), "export")
                if target.image is not None:
                    target.image.finish()
                if target.device:
                    self._findings.extend(
                        larger_device_findings(target.fd, target.name, self._layout.size_bytes)
                    )
                    if self._request.durable:
                        flush(target.fd, target.name)
                if self._request.verify:
                    flush(target.fd, target.name)
                    # What is still in memory proves nothing about the medium.
                    os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    self._done_bytes = 0
                    self._drive(pool, self._checks(target), "verify")
        self._tell("export", done=True)

    def result(self, snapshot: str) -> DiskExportResult:
        return DiskExportResult(
            snapshot,
            self._disk.disk.name,
            self._layout.size_bytes,
            self._data_bytes,
            sum(length for _, length, _ in self._lost),
            self._request.verify,
            (*self._findings, *self._lost_findings()),
            time.monotonic() - self._started,
        )

    def _open(self, stack: ExitStack) -> _Target:
        request, size_bytes = self._request, self._layout.size_bytes
        path = os.fspath(request.output)
        if is_device(path):
            if request.format is not DiskFormat.RAW:
                raise UsageError(
                    f"{path} is a block device; export to it raw, or name a file for the image."
                )
            fd = open_device(path, size_bytes, overwrite=request.overwrite)
            stack.callback(os.close, fd)
            return _Target(fd, path, device=True, image=None)
        file = stack.enter_context(
            TargetFile(path, overwrite=request.overwrite, fsync=request.durable)
        )
        if request.format is DiskFormat.QCOW2:
            image = Qcow2Image(file.fd, file.path, size_bytes)
            return _Target(file.fd, file.path, device=False, image=image)
        try:
            os.ftruncate(file.fd, size_bytes)
        except OSError as error:
            raise translated(error, file.path) from error
        return _Target(file.fd, file.path, device=False, image=None)

    # The loop

    def _drive(self, pool: Pool, tasks: Iterator[Any], step: str) -> None:
        most = _TASKS_PER_WORKER * pool.workers
        planned = True
        while planned or pool.outstanding:
            while planned and pool.outstanding < most:
                task = next(tasks, None)
                planned = task is not None
                if planned:
                    pool.submit(None, task)
            for _, written in pool.results():
                if isinstance(written, ChunksWritten):
                    self._done_bytes += written.done_bytes
                    self._data_bytes += written.data_bytes
                    self._lost.extend(written.lost)
            self._tell(step)

    def _tell(self, step: str, *, done: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        total = self._layout.size_bytes
        self._report(
            Progress(
                step,
                files_done=int(done),
                files_total=1,
                bytes_done=total if done else min(self._done_bytes, total),
                bytes_total=total,
                current=self._disk.disk.name,
            )
        )

    # Writing

    def _plan(self, target: _Target) -> Iterator[WriteChunks | ZeroRange]:
        """Yield tasks in about the order of the disk, grouped by pack."""
        wanted: dict[bytes, list[tuple[int, int]]] = {}
        held = 0
        for segment in range(self._layout.segment_count):
            for position, length, blob_id in self._segment(segment, note_lost=True):
                if target.device:
                    yield from self._zeroes_up_to(position)
                    self._zero_from = position + length
                at = position
                if target.image is not None:
                    at = target.image.allocate(position, length)
                    self._placed.append(at)
                wanted.setdefault(blob_id, []).append((position, at))
                held += 1
            if held >= _CHUNKS_PLANNED_AT_ONCE:
                yield from self._by_pack(wanted, target)
                wanted, held = {}, 0
        yield from self._by_pack(wanted, target)
        if target.device:
            yield from self._zeroes_up_to(self._layout.size_bytes)

    def _segment(self, segment: int, *, note_lost: bool) -> Iterator[tuple[int, int, bytes]]:
        """Yield (position, length, id) of the chunks of a segment that are not zero."""
        start = segment * self._layout.segment_size_bytes
        length = self._layout.segment_length(segment)
        chunk_bytes = self._layout.chunk_size_bytes
        try:
            ids = self._disk.segment_ids(segment)
        except Damaged as error:
            if note_lost:
                self._lost.append((start, length, error.message))
                self._done_bytes += length
            return
        if ids == self._disk.zero_ids(segment):
            self._done_bytes += length
            return
        for number in range(len(ids) // ID_BYTES):
            blob_id = ids[number * ID_BYTES : (number + 1) * ID_BYTES]
            inside = number * chunk_bytes
            size = min(chunk_bytes, length - inside)
            if self._disk.is_zero(blob_id):
                self._done_bytes += size
            else:
                yield start + inside, size, blob_id

    def _by_pack(
        self, wanted: dict[bytes, list[tuple[int, int]]], target: _Target
    ) -> Iterator[WriteChunks | ZeroRange]:
        packs: dict[bytes, list[ChunkCopies]] = {}
        for blob_id, places in wanted.items():
            location = self._index.find(BlobType.DATA, blob_id)
            length = min(self._layout.chunk_size_bytes, self._layout.size_bytes - places[0][0])
            if location is not None:
                chunk = ChunkCopies(blob_id, location, length, places)
                packs.setdefault(location.pack, []).append(chunk)
                continue
            why = f"chunk {blob_id.hex()[:16]} is in no index"
            for position, at in places:
                self._lost.append((position, length, why))
                self._done_bytes += length
                if target.device:
                    yield ZeroRange(at, at + length)
        for chunks in packs.values():
            chunks.sort(key=lambda chunk: chunk.location.offset)
            yield WriteChunks(chunks)

    def _zeroes_up_to(self, end: int) -> Iterator[ZeroRange]:
        while self._zero_from < end:
            until = min(end, self._zero_from + _ZERO_AT_ONCE_BYTES)
            yield ZeroRange(self._zero_from, until)
            self._zero_from = until

    # Checking

    def _checks(self, target: _Target) -> Iterator[CheckChunks | CheckZero]:
        """Yield what proves that the target holds what was meant to be written to it."""
        lost = {position for position, _, _ in self._lost}
        placed = iter(self._placed)
        behind = 0
        for segment in range(self._layout.segment_count):
            chunks: list[tuple[int, int, bytes]] = []
            for position, length, blob_id in self._segment(segment, note_lost=False):
                at = position if target.image is None else next(placed)
                if position in lost:
                    continue
                if target.image is None and behind < position:
                    yield CheckZero(behind, position)
                behind = position + length
                chunks.append((at, length, blob_id))
            if chunks:
                yield CheckChunks(chunks)
        if target.image is None and behind < self._layout.size_bytes:
            yield CheckZero(behind, self._layout.size_bytes)

    # What was lost

    def _lost_findings(self) -> Iterator[Finding]:
        """One finding for each range, with its first reason: a lost pack takes many chunks."""
        begin = end = -1
        why = ""
        for position, length, reason in sorted(self._lost):
            if position == end:
                end += length
                continue
            if begin >= 0:
                yield self._lost_finding(begin, end, why)
            begin, end, why = position, position + length, reason
        if begin >= 0:
            yield self._lost_finding(begin, end, why)

    def _lost_finding(self, begin: int, end: int, why: str) -> Finding:
        return Finding(
            "disk_damaged",
            f"{end - begin} bytes at {begin} could not be read and are zero in the export: {why}",
            self._disk.disk.name,
        )
