"""Statistics of a repository, and what deleting some of its snapshots would give back.

Reads snapshots, trees and the index, no data. Counts sealed bytes, as they lie in packs.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.errors import Damaged
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.lock import PRUNE
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import Repository
from holdfast.repo.statistics import Freed, RepositoryStatistics, collect, freed_by


def statistics(
    repository: Repository,
    report: Report = ignore_progress,
    *,
    stored_each: bool = False,
    wait_for_lock_seconds: float = 0.0,
) -> RepositoryStatistics:
    """Count what is stored; raise `Damaged` where a snapshot or a tree cannot be read.

    `stored_each` also counts what each snapshot takes by itself, which takes longer.
    """
    with repository.lock("read", tolerates={PRUNE}, wait_seconds=wait_for_lock_seconds) as lock:
        lock.keep()
        snapshots = _all_snapshots(repository)
        total = len(snapshots)
        return collect(
            repository,
            PackList(repository.open_index()),
            snapshots,
            lambda done: report(Progress("snapshots", files_done=done, files_total=total)),
            stored_each=stored_each,
        )


def freed_by_deleting(
    repository: Repository, ids: Iterable[str], *, wait_for_lock_seconds: float = 0.0
) -> Freed:
    """Return what deleting these snapshots, by full id, would give back."""
    chosen = frozenset(ids)
    with repository.lock("read", tolerates={PRUNE}, wait_seconds=wait_for_lock_seconds) as lock:
        lock.keep()
        snapshots = _all_snapshots(repository)
        return freed_by(
            repository,
            PackList(repository.open_index()),
            [snapshot for snapshot in snapshots if snapshot.id in chosen],
            [snapshot for snapshot in snapshots if snapshot.id not in chosen],
        )


def _all_snapshots(repository: Repository) -> list[Snapshot]:
    snapshots, damaged = repository.snapshots()
    if damaged:
        raise Damaged(f"{damaged[0].message}; see `holdfast verify`")
    return snapshots
