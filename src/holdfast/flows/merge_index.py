"""Merge small index files, where there are so many that opening the repository is slow.

Beside writers and readers of ours, as a prune; not beside plain restic. It waits for nobody,
as it is never urgent, and changes nothing that any snapshot needs.
"""

from __future__ import annotations

from holdfast.repo.index_merge import (
    MANY_FILES,
    IndexMerge,
    merge_small_index_files,
    small_index_files,
)
from holdfast.repo.lock import BESIDE_PRUNE, PRUNE
from holdfast.repo.repository import Repository

__all__ = ["MANY_FILES", "IndexMerge", "merge_index_files"]


def merge_index_files(repository: Repository, *, many: int = MANY_FILES) -> IndexMerge:
    """Merge if at least `many` are small; `RepositoryLocked` where a prune or restic works."""
    if len(small_index_files(repository)) < many:
        return IndexMerge()
    with repository.lock(PRUNE, exclusive=True, tolerates=BESIDE_PRUNE) as lock:
        lock.keep()
        return merge_small_index_files(repository, lock, many=many)
