"""Moving blobs out of packs into new ones: for repacking, for salvage, and for copies.

A task of worker processes. Every blob is opened and checked against its id before it is
written anywhere, so that damage is never carried over and never hidden under the right name
of a new pack. Packs are read in runs, not blob by blob. Nothing is deleted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from holdfast.errors import Damaged, ObjectNotFound
from holdfast.repo.crypto import Sealer
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository, pack_key
from holdfast.repo.writer import BlobWriter, StoredPack, WriteSetup, WriteTotals

_LARGEST_GAP_BYTES = 256 << 10
_LARGEST_RUN_BYTES = 32 << 20


class Sealing(StrEnum):
    """What becomes of a blob on its way: taken over as it is, or sealed under another key."""

    KEPT = "kept"
    RENEWED = "renewed"


class MovePack(NamedTuple):
    """Move these blobs of a pack."""

    pack: bytes
    blobs: list[PackedBlob]


class StoreBlobs(NamedTuple):
    """Store plain blobs that the parent has made or fetched."""

    blobs: list[tuple[BlobType, bytes]]


class Flush(NamedTuple):
    """Store what is buffered."""


@dataclass(slots=True)
class Moved:
    """What a task did: packs acknowledged since the last answer, and blobs that do not open."""

    pack: bytes = b""
    stored: list[StoredPack] = field(default_factory=list)
    totals: WriteTotals = field(default_factory=WriteTotals)
    bytes_read: int = 0
    failed: list[tuple[PackedBlob, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TransferSetup:
    """Makes the handler of the tasks above; `source` is where packs are read."""

    source: Repository
    write: WriteSetup
    sealing: Sealing

    def __call__(self) -> Callable[[MovePack | StoreBlobs | Flush], Moved]:
        return _Mover(self).handle


class _Mover:
    def __init__(self, setup: TransferSetup) -> None:
        self._source, self._sealing, self._write = setup.source, setup.sealing, setup.write
        self._writer = BlobWriter(setup.write)
        self._reader = BlobReader(setup.source, BlobIndex([]))
        self._opener, self._sealer = Sealer(setup.source.key), Sealer(setup.write.key)

    def handle(self, task: MovePack | StoreBlobs | Flush) -> Moved:
        moved = Moved()
        if isinstance(task, Flush):
            moved.stored = self._writer.flush()
        elif isinstance(task, StoreBlobs):
            for kind, content in task.blobs:
                self._writer.add(kind, content)
            moved.stored = self._writer.take_stored()
        else:
            moved.pack = task.pack
            self._move(task, moved)
            moved.stored = self._writer.take_stored()
        moved.totals = self._writer.take_totals()
        return moved

    def _move(self, task: MovePack, moved: Moved) -> None:
        key = pack_key(task.pack)
        for run in runs(task.blobs):
            begin = run[0].offset
            length = run[-1].offset + run[-1].length - begin
            try:
                content = memoryview(self._source.store.read(key, begin, length))
            except ObjectNotFound:
                moved.failed.extend((blob, "the pack is gone") for blob in run)
                continue
            moved.bytes_read += len(content)
            for blob in run:
                at = blob.offset - begin
                self._move_blob(task.pack, blob, content[at : at + blob.length], moved)

    def _move_blob(self, pack: bytes, blob: PackedBlob, sealed: memoryview, moved: Moved) -> None:
        place = Location(
            pack,
            blob.offset,
            blob.length,
            blob.raw_length,
            blob.compressed,
            blob.type,
            marked=False,
        )
        try:
            plain = self._reader.unpack(sealed, place, blob.id)
        except Damaged as error:
            moved.failed.append((blob, error.message))
            return
        if self._sealing is Sealing.KEPT:
            self._writer.add_sealed(blob, bytes(sealed))
        else:
            self._renew(blob, sealed, plain)

    def _renew(self, blob: PackedBlob, sealed: memoryview, plain: bytes) -> None:
        """Seal a blob under the other key, compressed as it was where that can be."""
        if self._write.version < 2 or self._source.config.version < 2:
            self._writer.add(blob.type, plain)
            return
        if self._writer.knows(blob.type, blob.id) or not self._write.known.take(blob.type, blob.id):
            return
        content = self._opener.open(sealed, "a blob") if blob.compressed else plain
        self._writer.add_sealed(blob, self._sealer.seal(content))
        totals = self._writer.totals
        totals.raw_bytes += blob.raw_length
        totals.data_blobs += blob.type is BlobType.DATA
        totals.tree_blobs += blob.type is BlobType.TREE


def runs(blobs: list[PackedBlob]) -> Iterator[list[PackedBlob]]:
    """Divide blobs of one pack, in the order of offsets, into stretches read at once."""
    run: list[PackedBlob] = []
    for blob in sorted(blobs, key=lambda blob: blob.offset):
        if run:
            gap = blob.offset - (run[-1].offset + run[-1].length)
            whole = blob.offset + blob.length - run[0].offset
            if gap > _LARGEST_GAP_BYTES or whole > _LARGEST_RUN_BYTES:
                yield run
                run = []
        run.append(blob)
    if run:
        yield run
