"""What a worker process does of a disk's export: chunks out of packs, into their places.

Workers share the target through the parent's descriptor and write at disjoint positions,
so nothing has an order. A chunk that cannot be read in any of its copies is reported and
its place reads as zero; nothing that is not exactly what its id says is ever written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.errors import Damaged, ObjectNotFound, TargetError
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository, pack_key
from holdfast.sources.disk.export import HOLE_BYTES, zero_device
from holdfast.sources.disk.target import translated, write_all
from holdfast.sources.disk.zeroes import ZEROES, is_zero, nonzero_runs

_READ_AT_ONCE_BYTES = 16 << 20
_GAP_BYTES = 128 << 10
"""A gap of this size is read along: one more request costs as much, on a disk and far away."""

Place = tuple[int, int]
"""Where a chunk goes: its position on the disk, and that in the target."""


class ChunkCopies(NamedTuple):
    """One chunk of `length` bytes, where it lies, and all the places that it goes to."""

    id: bytes
    location: Location
    length: int
    places: list[Place]


class WriteChunks(NamedTuple):
    """Write chunks of one pack, sorted by offset; answer is a `ChunksWritten`."""

    chunks: list[ChunkCopies]


class ZeroRange(NamedTuple):
    """Make a range of a device read as zero."""

    start: int
    end: int


class CheckChunks(NamedTuple):
    """Read chunks back, as (position in the target, length, id); raises `TargetError`."""

    chunks: list[tuple[int, int, bytes]]


class CheckZero(NamedTuple):
    """Look whether a range of a raw target reads as zero; raises `TargetError`."""

    start: int
    end: int


class ChunksWritten(NamedTuple):
    """Bytes that are done, of them bytes of data, and what was lost: (position, length, why)."""

    done_bytes: int
    data_bytes: int
    lost: list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class ExportSetup:
    """Makes a worker's handler.

    `fd` is the parent's descriptor of the target, which messages call `name`. A worker has
    inherited it, or else opens it through the process `owner`.
    """

    repository: Repository
    index: BlobIndex
    fd: int
    owner: int | None
    name: str
    device: bool

    def __call__(self) -> ExportWorker:
        return ExportWorker(self)


class ExportWorker:
    """Does tasks one after another; one for each process."""

    def __init__(self, setup: ExportSetup) -> None:
        self._setup = setup
        self._store = setup.repository.store
        self._reader = BlobReader(setup.repository, setup.index)
        self._fd = setup.fd
        if setup.owner is not None:
            self._fd = os.open(f"/proc/{setup.owner}/fd/{setup.fd}", os.O_RDWR | os.O_CLOEXEC)

    def __call__(self, task: Any) -> ChunksWritten | None:
        if isinstance(task, WriteChunks):
            return self._write_chunks(task)
        if isinstance(task, ZeroRange):
            zero_device(self._fd, self._setup.name, task.start, task.end)
        elif isinstance(task, CheckChunks):
            self._check_chunks(task)
            return ChunksWritten(sum(length for _, length, _ in task.chunks), 0, [])
        else:
            assert isinstance(task, CheckZero)
            self._check_zero(task)
        return None

    # Writing

    def _write_chunks(self, task: WriteChunks) -> ChunksWritten:
        lost: list[tuple[int, int, str]] = []
        done_bytes = data_bytes = 0
        for part in _read_together(task.chunks):
            start = part[0].location.offset
            length = part[-1].location.offset + part[-1].location.length - start
            sealed: memoryview | None = None
            try:
                key = pack_key(part[0].location.pack)
                sealed = memoryview(self._store.read(key, start, length))
            except ObjectNotFound:
                pass  # each chunk is looked for in other packs, and says so where there is none
            for chunk in part:
                done_bytes += chunk.length * len(chunk.places)
                try:
                    plain = self._plain(chunk, sealed, chunk.location.offset - start)
                except Damaged as error:
                    for position, _ in chunk.places:
                        lost.append((position, chunk.length, error.message))
                    if self._setup.device:
                        self._zero(chunk)
                    continue
                for _, at in chunk.places:
                    data_bytes += self._write(at, plain)
        return ChunksWritten(done_bytes, data_bytes, lost)

    def _plain(self, chunk: ChunkCopies, sealed: memoryview | None, at: int) -> bytes:
        try:
            if sealed is None:
                raise Damaged("the pack is missing")
            found = sealed[at : at + chunk.location.length]
            plain = self._reader.unpack(found, chunk.location, chunk.id)
        except Damaged:
            plain = self._reader.load(BlobType.DATA, chunk.id)
        if len(plain) != chunk.length:
            raise Damaged(
                f"chunk {chunk.id.hex()[:16]} has {len(plain)} bytes where the disk has "
                f"{chunk.length}"
            )
        return plain

    def _write(self, at: int, plain: bytes) -> int:
        if self._setup.device:
            write_all(self._fd, memoryview(plain), at, self._setup.name)
            return len(plain)
        written = 0
        for start, run in nonzero_runs(at, plain, HOLE_BYTES):
            write_all(self._fd, run, start, self._setup.name)
            written += len(run)
        return written

    def _zero(self, chunk: ChunkCopies) -> None:
        for _, at in chunk.places:
            zero_device(self._fd, self._setup.name, at, at + chunk.length)

    # Checking

    def _check_chunks(self, task: CheckChunks) -> None:
        for at, length, blob_id in task.chunks:
            if hashlib.sha256(self._read(at, length)).digest() != blob_id:
                raise self._differs(at)

    def _check_zero(self, task: CheckZero) -> None:
        at = self._next_data(task.start)
        while at < task.end:
            length = min(len(ZEROES), task.end - at)
            if not is_zero(self._read(at, length)):
                raise self._differs(at)
            at = self._next_data(at + length)

    def _next_data(self, at: int) -> int:
        """The first position from `at` on that has to be looked at."""
        if self._setup.device:
            return at
        try:
            return os.lseek(self._fd, at, os.SEEK_DATA)
        except OSError as error:
            return sys.maxsize if error.errno == errno.ENXIO else at

    def _read(self, at: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, at)
        except OSError as error:
            raise translated(error, self._setup.name) from error

    def _differs(self, at: int) -> TargetError:
        return TargetError(
            f"{self._setup.name} does not read back as it was written, at byte {at}. The medium "
            "or the memory of this machine is failing; export to another place."
        )


def _read_together(chunks: list[ChunkCopies]) -> Iterator[list[ChunkCopies]]:
    """Cut chunks, sorted by offset, into parts that are each worth one read."""
    part: list[ChunkCopies] = []
    for chunk in chunks:
        if part:
            first, last = part[0].location, part[-1].location
            gap = chunk.location.offset - last.offset - last.length
            whole = chunk.location.offset + chunk.location.length - first.offset
            if gap > _GAP_BYTES or whole > _READ_AT_ONCE_BYTES:
                yield part
                part = []
        part.append(chunk)
    if part:
        yield part
