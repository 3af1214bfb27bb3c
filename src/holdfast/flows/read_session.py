"""A read session: a shared lock, and an index that knows every snapshot that was looked up.

Snapshots are read before the index, as writers store in the other order, so that nothing a
snapshot refers to is missing from the index. A session writes nothing but its lock.
"""

from __future__ import annotations

import functools
from types import TracebackType

from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.lock import PRUNE, Lock
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository


class ReadSession:
    """Use with ``with``. Look snapshots up first; `index` is opened when it is first needed."""

    def __init__(
        self,
        repository: Repository,
        purpose: str = "read",
        *,
        with_lock: bool = True,
        wait_seconds: float = 0.0,
    ) -> None:
        """`with_lock` False is for repositories that cannot be written to: then nothing keeps
        another program from deleting what is being read."""
        self.repository = repository
        self._lock: Lock | None = None
        if with_lock:
            self._lock = repository.lock(purpose, tolerates={PRUNE}, wait_seconds=wait_seconds)

    def __enter__(self) -> ReadSession:
        if self._lock is not None:
            self._lock.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def keep_lock(self) -> None:
        """Begin to refresh the lock; called after workers were forked, as it makes a thread."""
        if self._lock is not None:
            self._lock.keep()

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot that a person means; see `Repository.find_snapshot`."""
        assert "index" not in self.__dict__, "snapshots are looked up before the index is opened"
        return self.repository.find_snapshot(name)

    @functools.cached_property
    def index(self) -> BlobIndex:
        return self.repository.open_index()

    @functools.cached_property
    def reader(self) -> BlobReader:
        return BlobReader(self.repository, self.index)
