"""A write session: from the first blob to a committed snapshot, in the order that keeps
a repository whole.

Packs, then index, then snapshot. A session holds a shared lock, collects what the writers
of all processes have stored, and writes index files as it goes, so that an interrupted
run is picked up where it was. It never deletes anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from holdfast.errors import HoldfastError, RepositoryLocked, StoreDenied, StoreError
from holdfast.model.snapshot import Snapshot
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.known import KnownBlobs
from holdfast.repo.lock import BESIDE_PRUNE, PRUNE, Lock
from holdfast.repo.pack import decode_header
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.resurrect import resurrect_marked, resurrect_packs
from holdfast.repo.warm_index import WarmIndex
from holdfast.repo.writer import PACK_BYTES, Compression, StoredPack, WriteSetup

_BLOBS_IN_INDEX_FILE = 50_000
_SECONDS_BETWEEN_INDEX_FILES = 600.0


class WriteSession:
    """Use with ``with``; leaving it without `commit` makes no restore point."""

    def __init__(
        self,
        repository: Repository,
        purpose: str,
        *,
        compression: Compression = Compression.FAST,
        uploads: int = 1,
        pack_bytes: int = PACK_BYTES,
        wait_seconds: float = 0.0,
        warm: WarmIndex | None = None,
    ) -> None:
        """`warm` is an index that this process keeps from one session to the next."""
        assert purpose in BESIDE_PRUNE
        self.repository = repository
        self._warm = warm
        self._lock: Lock = repository.lock(purpose, tolerates={PRUNE}, wait_seconds=wait_seconds)
        self._options = (compression, uploads, pack_bytes)
        self._pending: list[IndexedPack] = []
        self._pending_blobs = 0
        self._index_written = time.monotonic()
        self.indexes: list[str] = []
        """The ids of the index files that this session has written."""

    def __enter__(self) -> WriteSession:
        self._lock.__enter__()
        try:
            if self._warm is None:
                self._cache = self.repository.open_index_cache()
                self.index = self.repository.open_index(self._cache)
            else:
                self._cache, self.index = self._warm.cache, self._warm.open()
            self._sources = self.index.sources
            self.known = KnownBlobs()
        except BaseException:
            self._lock.release()
            raise
        compression, uploads, pack_bytes = self._options
        self.setup = WriteSetup(
            store=self.repository.store,
            key=self.repository.key,
            index=self.index,
            known=self.known,
            version=self.repository.config.version,
            compression=compression,
            uploads=uploads,
            pack_bytes=pack_bytes,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None and not issubclass(kind, StoreError):
                # What was stored before the end is found by the next run.
                with suppress(HoldfastError):
                    self.write_index()
        finally:
            self.known.close()
            self._lock.release()

    def keep_lock(self) -> None:
        """Begin to refresh the lock; called after workers were forked, as it makes a thread."""
        self._lock.keep()

    def take(self, stored: Iterable[StoredPack]) -> None:
        """Take in packs that the store has acknowledged; write an index file when it is time."""
        for pack in stored:
            blobs = decode_header(pack.header, f"pack {pack.id.hex()[:8]}")
            self._pending.append(IndexedPack(pack.id, blobs))
            self._pending_blobs += len(blobs)
        now = time.monotonic()
        if (
            self._pending_blobs >= _BLOBS_IN_INDEX_FILE
            or now - self._index_written > _SECONDS_BETWEEN_INDEX_FILES
        ):
            self.write_index()

    def write_index(self) -> None:
        """Make everything taken in so far known to this and other runs."""
        if not self._pending:
            return
        self._refuse_if_lapsed()
        name = self.repository.save(FileKind.INDEX, encode_index(self._pending))
        self.indexes.append(name)
        source = bytes.fromhex(name)
        # A prune that replaces this file must be noticed like one that replaces an older one.
        self._sources |= {source}
        self._cache.add(self.index, source, self._pending)
        self._pending, self._pending_blobs = [], 0
        self._index_written = time.monotonic()

    def commit(self, document: dict[str, object]) -> Snapshot:
        """Make a restore point; returns only when it and all that it needs are durable.

        A prune may have marked packs meanwhile that this snapshot counts on. Both sides
        look after they have written, so that at least one sees the other: what the new
        snapshot needs of marked packs is listed as alive again.
        """
        self.write_index()
        self._refuse_if_lapsed()
        snapshot = self.repository.save_snapshot(document)
        if self._marked_since():
            try:
                resurrect_marked(self.repository, [snapshot])
            except StoreDenied:
                # Who may only add cannot look what the snapshot needs: then everything that
                # this session may have counted on counts as needed, until the next prune.
                alive = {pack for pack, marked in self.index.packs() if marked is None}
                resurrect_packs(self.repository, alive)
        return snapshot

    def _refuse_if_lapsed(self) -> None:
        # A sweep may have deleted packs that no index lists yet; listing them now would
        # offer blobs to everybody that are not there.
        if self._lock.lapsed():
            raise RepositoryLocked(
                "this process was stopped for so long that its lock expired, and what it "
                "counted on may be gone; run it again, what was stored is not sent twice"
            )

    def _marked_since(self) -> bool:
        """Whether index files were replaced since this session read them."""
        listed = {bytes.fromhex(name) for name in self.repository.ids(FileKind.INDEX)}
        return not self._sources <= listed
