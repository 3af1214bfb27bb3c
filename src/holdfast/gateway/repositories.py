"""Opened repositories that downloads share, each with its index.

Opening one costs a key derivation and reading the index; so they are kept, as many as their
indexes fit into a bounded number of bytes. A repository here is only read, and never locked:
a prune deletes nothing that was needed within its grace period, and whoever has to delete at
once breaks off the downloads that need it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from holdfast.errors import NotFound, NotReady, ObjectNotFound
from holdfast.gateway.authority import Grant
from holdfast.gateway.leases import Leases
from holdfast.gateway.stores import Stores
from holdfast.model.snapshot import Snapshot
from holdfast.repo.config import RepositoryConfig
from holdfast.repo.crypto import MasterKey
from holdfast.repo.index import BlobIndex, IndexCache
from holdfast.repo.indextable import ROW_BYTES
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.protocol import ObjectStore

_IDLE_SECONDS = 600.0
_SNAPSHOTS_KEPT = 256
_LISTED_SECONDS = 60.0
_LEAST_WEIGHT_BYTES = 1 << 20


class SharedRepository(Repository):
    """A repository whose index is opened once and brought up to date when it must be.

    That is when a snapshot is loaded that was not known yet, as its blobs may be in younger
    index files, and otherwise once a minute. Snapshots never change, so a few are kept.
    """

    def __init__(
        self,
        store: ObjectStore,
        config: RepositoryConfig,
        key: MasterKey,
        key_id: str,
        cache_directory: str | None = None,
    ) -> None:
        super().__init__(store, config, key, key_id, cache_directory)
        self._opening = threading.Lock()
        self._loaded: OrderedDict[str, Snapshot] = OrderedDict()
        self._kept: BlobIndex | None = None
        self._listed: set[str] = set()
        self._listed_at = 0.0  # of the monotonic clock
        self.resources = ExitStack()

    @property
    def weight_bytes(self) -> int:
        """About what its index takes."""
        rows = 0 if self._kept is None else len(self._kept)
        return _LEAST_WEIGHT_BYTES + rows * ROW_BYTES

    def find_snapshot(
        self, name: str, _matching: Callable[[Snapshot], bool] | None = None
    ) -> Snapshot:
        """Return the snapshot with this full id; see `Repository.find_snapshot`."""
        with self._opening:
            known = self._loaded.get(name)
            if known is not None:
                self._loaded.move_to_end(name)
                return known
        try:
            snapshot = self.snapshot(name)
        except ObjectNotFound:
            raise NotFound("The data of this snapshot is not there any more.") from None
        with self._opening:
            self._loaded[name] = snapshot
            if len(self._loaded) > _SNAPSHOTS_KEPT:
                self._loaded.popitem(last=False)
            self._listed_at = 0.0
        return snapshot

    def open_index(self, cache: IndexCache | None = None, *, tolerant: bool = True) -> BlobIndex:
        """Return the index; what of it cannot be read is missing from it."""
        with self._opening:
            now = time.monotonic()
            if (
                self._kept is not None
                and self._listed_at
                and now - self._listed_at < _LISTED_SECONDS
            ):
                return self._kept
            listed = set(self.ids(FileKind.INDEX))
            if self._kept is None or listed != self._listed:
                self._kept = super().open_index(cache, tolerant=tolerant)
                self._listed = listed
            self._listed_at = now
            return self._kept

    def doubt_index(self) -> None:
        """Look at the index files again before the next use, as something was not found."""
        with self._opening:
            self._listed_at = 0.0


class Repositories:
    """Opens and shares repositories; thread-safe.

    `cache_directory` is where indexes and packs of trees are kept on disk; it may be emptied
    whenever the gateway does not run.
    """

    def __init__(self, stores: Stores, cache_directory: str, index_limit_bytes: int) -> None:
        self._stores, self._cache_directory = stores, cache_directory
        os.makedirs(cache_directory, mode=0o700, exist_ok=True)
        self._leases: Leases[SharedRepository] = Leases(
            lambda repository: repository.resources.close(),
            limit=index_limit_bytes,
            idle_seconds=_IDLE_SECONDS,
            weigh=lambda repository: repository.weight_bytes,
        )

    @contextmanager
    def use(self, grant: Grant) -> Iterator[SharedRepository]:
        """Hold the repository that a grant for a snapshot speaks of."""
        password = grant.password
        if password is None:
            raise NotReady("This snapshot cannot be opened here; it has no repository yet.")
        # Who knows another password opens something else, or nothing.
        key = (grant.repository_location, hashlib.sha256(password.encode()).digest())
        with self._leases.use(key, lambda: self._open(grant, password)) as repository:
            yield repository

    def close(self) -> None:
        self._leases.close()

    def _open(self, grant: Grant, password: str) -> SharedRepository:
        with ExitStack() as resources:
            store = resources.enter_context(
                self._stores.use(grant.repository_location, grant.options)
            )
            repository = SharedRepository.open(
                store, password, cache_directory=self._cache_directory
            )
            assert isinstance(repository, SharedRepository)
            repository.resources = resources.pop_all()
            return repository
