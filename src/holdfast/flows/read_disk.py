"""A stored disk: what a snapshot holds of it, read by segments, by chunks, or anywhere.

Never writes and holds no lock: whoever opens one keeps the repository locked as long as
the disk is read. The list of chunks is loaded segment by segment as it is needed, so that
opening a disk of many terabytes costs one directory.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from types import TracebackType
from typing import Self

from holdfast.errors import NotFound, UsageError
from holdfast.flows.disk_tree import (
    ID_BYTES,
    layout_of,
    load_manifest,
    load_segment,
    load_segment_trees,
)
from holdfast.model.manifest import DiskManifest, Manifest
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.sources.disk.ranges import DiskRangeReader

_SEGMENTS_KEPT = 8


class StoredDisk:
    """One disk of a snapshot, opened for reading. All methods may be called from many threads."""

    def __init__(
        self,
        repository: Repository,
        index: BlobIndex,
        manifest: Manifest,
        disk: DiskManifest,
        segment_trees: list[bytes],
        *,
        cache_bytes: int = 64 << 20,
    ) -> None:
        self.manifest, self.disk, self.layout = manifest, disk, layout_of(disk)
        self._repository, self._index = repository, index
        self._trees = segment_trees
        self._local = threading.local()
        self._lock = threading.Lock()
        # By tree, as segments of zeroes share theirs.
        self._segments: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        lengths = {disk.chunk_size_bytes, disk.size_bytes % disk.chunk_size_bytes}
        self._zero_ids = {length: hashlib.sha256(bytes(length)).digest() for length in lengths}
        self._ranges = DiskRangeReader(
            disk.chunk_size_bytes, disk.size_bytes, self.fetch, cache_bytes=cache_bytes
        )

    @classmethod
    def open(
        cls, repository: Repository, index: BlobIndex, snapshot: Snapshot, name: str = ""
    ) -> StoredDisk:
        """Open the disk `name` of a snapshot; without a name, its only one.

        Raises `NotFound` where the snapshot has no such disk, `UsageError` where it has
        several and none was named, and `Damaged` where its trees cannot be read.
        """
        reader = BlobReader(repository, index)
        root = bytes.fromhex(snapshot.tree)
        manifest = load_manifest(reader, root)
        disk = choose_disk(manifest, name, snapshot)
        return cls(repository, index, manifest, disk, load_segment_trees(reader, root, disk))

    @property
    def size_bytes(self) -> int:
        """The size of the disk in bytes."""
        return self.disk.size_bytes

    def is_zero(self, chunk_id: bytes) -> bool:
        """Whether that is the id of a chunk of zeroes."""
        return chunk_id in self._zero_ids.values()

    def zero_ids(self, segment: int) -> bytes:
        """The chunk ids that the segment has if all of it is zero."""
        length = self.layout.segment_length(segment)
        full, rest = divmod(length, self.layout.chunk_size_bytes)
        ids = self._zero_ids[self.layout.chunk_size_bytes] * full
        return ids + self._zero_ids[rest] if rest else ids

    def segment_ids(self, segment: int) -> bytes:
        """The ids of a segment's chunks, one behind another; raises `Damaged`."""
        length = self.layout.segment_length(segment)
        key = (self._trees[segment], length)
        with self._lock:
            found = self._segments.get(key)
            if found is not None:
                self._segments.move_to_end(key)
                return found
        chunks = len(self.layout.chunks_of_segment(segment))
        ids = load_segment(self._blobs(), self._trees[segment], length, chunks)
        with self._lock:
            self._segments[key] = ids
            if len(self._segments) > _SEGMENTS_KEPT:
                self._segments.popitem(last=False)
        return ids

    def chunk_id(self, chunk: int) -> bytes:
        """The id of one chunk."""
        segment = self.layout.segment_of_chunk(chunk)
        at = (chunk - self.layout.chunks_of_segment(segment).start) * ID_BYTES
        return self.segment_ids(segment)[at : at + ID_BYTES]

    def fetch(self, chunk: int) -> bytes | None:
        """The bytes of one chunk, None where it is all zero; raises `Damaged`."""
        chunk_id = self.chunk_id(chunk)
        return None if self.is_zero(chunk_id) else self.load(chunk_id)

    def load(self, chunk_id: bytes) -> bytes:
        """The bytes of the chunk with that id; raises `Damaged`."""
        return self._blobs().load(BlobType.DATA, chunk_id)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; reads ahead where reads are in order."""
        return self._ranges.read(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with what lies at `offset`."""
        self._ranges.read_into(offset, buffer)

    def close(self) -> None:
        """Stop reading ahead."""
        self._ranges.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _blobs(self) -> BlobReader:
        """This thread's reader."""
        reader: BlobReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = BlobReader(self._repository, self._index)
        return reader


def choose_disk(manifest: Manifest, name: str, snapshot: Snapshot) -> DiskManifest:
    """The disk of that name, or the only one where `name` is empty."""
    names = ", ".join(disk.name for disk in manifest.disks)
    if not manifest.disks:
        raise NotFound(f"snapshot {snapshot.short_id} holds no disk; restore it as files")
    if not name:
        if len(manifest.disks) > 1:
            raise UsageError(f"snapshot {snapshot.short_id} holds several disks; name one: {names}")
        return manifest.disks[0]
    found = manifest.disk(name)
    if found is None:
        raise NotFound(f"snapshot {snapshot.short_id} holds no disk {name!r}; it holds {names}")
    return found
