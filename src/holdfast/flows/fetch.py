"""Fetching many blobs with few reads: neighbours in a pack are read together.

Every blob is checked against its id (`BlobReader.unpack`), and one that is damaged is looked
for in other packs before it is given up. Memory: a few runs of sealed bytes at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from holdfast.errors import Damaged, ObjectNotFound
from holdfast.model.node import Node
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository, pack_key

_RUN_BYTES = 4 << 20
_NEAR_GAP_BYTES = 64 << 10
# Over a network a request costs as much as about a megabyte.
_FAR_GAP_BYTES = 1 << 20
_FAR_READS = 4


class _Run(NamedTuple):
    """A stretch of a pack that is read at once."""

    pack: bytes
    start: int
    end: int
    blobs: list[tuple[bytes, Location]]


class BlobFetcher:
    """Fetches blobs of one repository. Not thread-safe: one for each thread."""

    def __init__(self, repository: Repository, index: BlobIndex) -> None:
        self._store = repository.store
        self._index = index
        self._reader = BlobReader(repository, index)
        # A store that survives a fork is a local one: it answers sooner than a thread does.
        self._near = repository.store.fork_safe
        self._threads: ThreadPoolExecutor | None = None

    def find(self, blob_id: bytes) -> Location | None:
        """Where a data blob lies."""
        return self._index.find(BlobType.DATA, blob_id)

    def fetch(self, wanted: Mapping[bytes, Location]) -> Iterator[tuple[bytes, bytes | Damaged]]:
        """Yield every wanted data blob, or why it is lost, in the order of packs."""
        runs = _runs(wanted.items(), _NEAR_GAP_BYTES if self._near else _FAR_GAP_BYTES)
        for run, sealed in self._bodies(runs):
            view = memoryview(sealed)
            for blob_id, location in run.blobs:
                at = location.offset - run.start
                try:
                    yield (
                        blob_id,
                        self._reader.unpack(view[at : at + location.length], location, blob_id),
                    )
                    continue
                except Damaged:
                    pass
                try:
                    yield blob_id, self._reader.load(BlobType.DATA, blob_id)
                except Damaged as error:
                    yield blob_id, error

    def tree(self, tree_id: bytes) -> bytes:
        """The text of a tree; raise `Damaged`."""
        return self._reader.load(BlobType.TREE, tree_id)

    def _bodies(self, runs: list[_Run]) -> Iterator[tuple[_Run, bytes]]:
        if self._near or len(runs) < 2:
            for run in runs:
                yield run, self._read(run)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_FAR_READS, thread_name_prefix="fetch")
        ahead: deque[tuple[_Run, Future[bytes]]] = deque()
        for run in runs:
            ahead.append((run, self._threads.submit(self._read, run)))
            if len(ahead) == _FAR_READS:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    def _read(self, run: _Run) -> bytes:
        try:
            return self._store.read(pack_key(run.pack), run.start, run.end - run.start)
        except ObjectNotFound:
            return b""  # its blobs are truncated, then, and looked for elsewhere


def holds_content(fd: int, node: Node, find: Callable[[bytes], Location | None]) -> bool:
    """Whether an open file holds exactly a node's content; reads it, a blob at a time."""
    at = 0
    for blob_id in node.content:
        location = find(blob_id)
        if location is None:
            return False
        data = os.pread(fd, location.raw_length, at)
        if len(data) != location.raw_length or hashlib.sha256(data).digest() != blob_id:
            return False
        at += len(data)
    return at == node.size == os.fstat(fd).st_size


def _runs(wanted: Iterable[tuple[bytes, Location]], gap: int) -> list[_Run]:
    """The wanted blobs in the order of packs, neighbours joined up to `_RUN_BYTES`."""
    runs: list[_Run] = []
    pack, start, end = b"", 0, -1
    blobs: list[tuple[bytes, Location]] = []
    for item in sorted(wanted, key=_place):
        location = item[1]
        stop = location.offset + location.length
        if (
            location.pack != pack
            or location.offset > end + gap
            or stop - start > _RUN_BYTES
            or not blobs
        ):
            if blobs:
                runs.append(_Run(pack, start, end, blobs))
            pack, start, blobs = location.pack, location.offset, []
            end = start
        blobs.append(item)
        end = max(end, stop)
    if blobs:
        runs.append(_Run(pack, start, end, blobs))
    return runs


def _place(item: tuple[bytes, Location]) -> tuple[bytes, int]:
    return item[1].pack, item[1].offset
