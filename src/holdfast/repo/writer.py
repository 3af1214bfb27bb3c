"""Writing blobs: deduplicate, compress, seal, pack, store. One writer for each process.

Invariants: a pack is reported only after the store has acknowledged it; a blob id is
returned as soon as its blob is known or taken on, so a snapshot may name it only after
every writer has been flushed and the index is written.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import zstandard

from holdfast.errors import ObjectExists
from holdfast.repo.crypto import OVERHEAD_BYTES, MasterKey, Sealer
from holdfast.repo.index import BlobIndex
from holdfast.repo.known import KnownBlobs
from holdfast.repo.pack import (
    COMPRESSED_ENTRY_BYTES,
    BlobType,
    PackedBlob,
    encode_header,
    header_length_field,
)
from holdfast.store.protocol import Buffer, ObjectStore

PACK_BYTES = 16 << 20
_TRAILER_BYTES = OVERHEAD_BYTES + 4
_MAX_BLOBS = 8192
# Worth compressing only where a restore will not pay more time than a 64th of space is worth.
_LEAST_GAIN_SHIFT = 6


class Compression(StrEnum):
    """How hard to compress: off, fast (level 1), normal (level 3) or best (level 12)."""

    OFF = "off"
    FAST = "fast"
    NORMAL = "normal"
    BEST = "best"

    @property
    def level(self) -> int:
        return {"off": 0, "fast": 1, "normal": 3, "best": 12}[self.value]


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack that the store has acknowledged: its id and its plain header."""

    id: bytes
    header: bytes


@dataclass(slots=True)
class WriteTotals:
    """What a writer has added: new blobs, their bytes before and after packing."""

    data_blobs: int = 0
    tree_blobs: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0

    def include(self, other: WriteTotals) -> None:
        self.data_blobs += other.data_blobs
        self.tree_blobs += other.tree_blobs
        self.raw_bytes += other.raw_bytes
        self.stored_bytes += other.stored_bytes


@dataclass(frozen=True, slots=True)
class WriteSetup:
    """Everything that a writer needs, in a form that can be sent to a worker process."""

    store: ObjectStore
    key: MasterKey
    index: BlobIndex
    known: KnownBlobs
    version: int
    compression: Compression = Compression.FAST
    uploads: int = 1
    pack_bytes: int = PACK_BYTES


class _OpenPack:
    """A pack that is being filled, in a buffer that is used again."""

    def __init__(self, capacity: int) -> None:
        self.buffer = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self.blobs: list[PackedBlob] = []
        self.used = 0

    def reset(self) -> None:
        self.blobs = []
        self.used = 0


class BlobWriter:
    """Stores blobs. Not thread-safe: it belongs to the thread that made it."""

    def __init__(self, setup: WriteSetup) -> None:
        self._setup = setup
        self._index, self._known = setup.index, setup.known
        self._sealer = Sealer(setup.key)
        level = setup.compression.level if setup.version >= 2 else 0
        self._compressor = zstandard.ZstdCompressor(level=level) if level else None
        # Trees compress four times and are read at every run: a better level costs nothing.
        self._tree_compressor = (
            zstandard.ZstdCompressor(level=max(level, 3)) if setup.version >= 2 else None
        )
        self._capacity = setup.pack_bytes + _MAX_BLOBS * COMPRESSED_ENTRY_BYTES + 4096
        self._open: dict[BlobType, _OpenPack] = {}
        self._spare: list[_OpenPack] = []
        self._threads = ThreadPoolExecutor(setup.uploads, thread_name_prefix="upload")
        self._uploads: list[Future[StoredPack]] = []
        self.totals = WriteTotals()

    def add(self, kind: BlobType, data: Buffer) -> bytes:
        """Return the id of a blob, having stored it unless it is known."""
        blob_id = hashlib.sha256(data).digest()
        if not self._index.knows(kind, blob_id) and self._known.take(kind, blob_id):
            self._store(kind, blob_id, data)
        return blob_id

    def knows(self, kind: BlobType, blob_id: bytes) -> bool:
        """Whether the blob is in the repository already."""
        return self._index.knows(kind, blob_id)

    def add_sealed(self, blob: PackedBlob, sealed: Buffer) -> None:
        """Take over a sealed blob as it is, for repacking; it is not looked up."""
        length = len(sealed)
        pack = self._room(blob.type, length)
        at = pack.used
        pack.view[at : at + length] = sealed
        pack.blobs.append(blob._replace(offset=at))
        pack.used = at + length
        self.totals.stored_bytes += length

    def _store(self, kind: BlobType, blob_id: bytes, data: Buffer) -> None:
        tree = kind is BlobType.TREE
        compressor = self._tree_compressor if tree else self._compressor
        raw_length = len(data)
        compressed = False
        if compressor is not None and raw_length:
            packed = compressor.compress(data)
            # restic repacks packs of trees in which one is not compressed, however small it is.
            worth = len(packed) + (raw_length >> _LEAST_GAIN_SHIFT) < raw_length
            if worth or kind is BlobType.TREE:
                data, compressed = packed, True
        length = len(data) + OVERHEAD_BYTES
        pack = self._room(kind, length)
        at = pack.used
        self._sealer.seal_into(data, pack.view[at:])
        pack.blobs.append(PackedBlob(blob_id, kind, at, length, raw_length, compressed))
        pack.used = at + length
        totals = self.totals
        totals.raw_bytes += raw_length
        totals.stored_bytes += length
        if tree:
            totals.tree_blobs += 1
        else:
            totals.data_blobs += 1

    def _room(self, kind: BlobType, length: int) -> _OpenPack:
        """Return the open pack of that type, with room for `length` sealed bytes."""
        pack = self._open.get(kind)
        if pack is not None:
            if pack.used + length <= self._setup.pack_bytes and len(pack.blobs) < _MAX_BLOBS:
                return pack
            self._finish(kind)
        pack = self._open[kind] = self._fresh(length)
        return pack

    def _fresh(self, length: int) -> _OpenPack:
        if length + _TRAILER_BYTES + COMPRESSED_ENTRY_BYTES + 4096 > self._capacity:
            return _OpenPack(length + 8192)  # one blob larger than a pack has a pack of its own
        self._reap(wait_below=self._setup.uploads + 1)
        return self._spare.pop() if self._spare else _OpenPack(self._capacity)

    def _finish(self, kind: BlobType) -> None:
        pack = self._open.pop(kind)
        header = encode_header(pack.blobs)
        sealed_length = self._sealer.seal_into(header, pack.view[pack.used :])
        pack.used += sealed_length
        pack.view[pack.used : pack.used + 4] = header_length_field(sealed_length)
        pack.used += 4
        self.totals.stored_bytes += sealed_length + 4
        self._uploads.append(self._threads.submit(self._upload, pack, header))

    def _upload(self, pack: _OpenPack, header: bytes) -> StoredPack:
        content = pack.view[: pack.used]
        digest = hashlib.sha256(content).digest()
        name = digest.hex()
        with suppress(ObjectExists):  # the same bytes, as the name is their hash
            self._setup.store.create(f"data/{name[:2]}/{name}", content)
        pack.reset()
        if len(pack.buffer) == self._capacity:
            self._spare.append(pack)
        return StoredPack(digest, header)

    def _reap(self, wait_below: int) -> None:
        """Wait until fewer than `wait_below` buffers are on their way; raise what one raised."""
        pending = []
        for upload in self._uploads:
            if upload.done():
                upload.result()
            else:
                pending.append(upload)
        while len(pending) >= wait_below:
            pending.pop(0).result()

    def take_stored(self) -> list[StoredPack]:
        """Return packs that were acknowledged since the last call; raise what an upload raised."""
        done = [upload for upload in self._uploads if upload.done()]
        if done:
            self._uploads = [upload for upload in self._uploads if upload not in done]
        return [upload.result() for upload in done]

    def take_totals(self) -> WriteTotals:
        """Return what was added since the last call."""
        totals, self.totals = self.totals, WriteTotals()
        return totals

    def flush(self) -> list[StoredPack]:
        """Store all open packs and wait; return the packs acknowledged since the last call."""
        for kind in list(self._open):
            self._finish(kind)
        stored = [upload.result() for upload in self._uploads]
        self._uploads = []
        return stored

    def close(self) -> None:
        self._threads.shutdown(wait=True)
