"""A blob index that one process keeps between its write sessions.

Each session asks, while it holds its lock, which index files are listed. As long as all
that this view was made from are, everything that it knows of is alive still: a prune takes
a pack away only after it has replaced every index file that lists it as alive. Then the
view is used again, with what this process has written since; otherwise it is read anew.
Index files that others have added meanwhile are not read until then: that may store a blob
a second time, and never misses one. It deletes nothing.
"""

from __future__ import annotations

from holdfast.repo.index import BlobIndex, IndexCache
from holdfast.repo.repository import FileKind, Repository


class WarmIndex:
    """The view of one process. `generation` grows whenever it was read anew."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.cache: IndexCache = repository.open_index_cache()
        self._index: BlobIndex | None = None
        self.generation = 0

    def open(self) -> BlobIndex:
        """Return the index; called under a lock that keeps packs from being removed."""
        if self._index is not None:
            listed = {bytes.fromhex(name) for name in self._repository.ids(FileKind.INDEX)}
            if self._index.sources <= listed:
                return self._index
        self._index = None
        self._index = self._repository.open_index(self.cache)
        self.generation += 1
        return self._index

    def forget(self) -> None:
        """Read everything anew next time."""
        self._index = None
