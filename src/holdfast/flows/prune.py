"""Prune: give back the space of what no snapshot needs, in two phases or at once.

`plan_prune` says what would be done with which pack and why; `prune` takes that plan and
nothing else. Backups may run meanwhile unless it is to be instant. A repository whose
snapshots cannot all be read is not pruned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.index_merge import IndexMerge, merge_small_index_files
from holdfast.repo.lock import BESIDE_PRUNE, PRUNE, Lock
from holdfast.repo.prune import PruneOutcome, PruneRun, make_plan
from holdfast.repo.prune_plan import PackAction, PackDecision, PruneLimits, PrunePlan
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

__all__ = ["PackAction", "PackDecision", "PruneLimits", "PrunePlan", "PruneRequest", "PruneResult"]
INSTANT = "prune-instant"
"""Purpose of the lock of a prune that tolerates nobody."""
_REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """How far to go; `now` is for tests, and the present otherwise."""

    limits: PruneLimits = field(default_factory=PruneLimits)
    workers: int = 2
    now: datetime | None = None
    wait_for_lock_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What was done: see `PruneOutcome`; `merge` is what became of small index files."""

    plan: PrunePlan
    outcome: PruneOutcome
    findings: tuple[Finding, ...]
    seconds: float
    merge: IndexMerge


def plan_prune(
    repository: Repository, request: PruneRequest, report: Report = ignore_progress
) -> PrunePlan:
    """Return what a prune would do now.

    Raises `Damaged` where a snapshot, a tree or a pack that is needed cannot be read.
    """
    tell = _teller(report)
    with repository.lock(
        "read", tolerates={PRUNE}, wait_seconds=request.wait_for_lock_seconds
    ) as lock:
        lock.keep()
        return make_plan(
            repository,
            request.limits,
            now=request.now or datetime.now(UTC),
            workers=request.workers,
            on_tree=lambda trees: tell(Progress("trees", files_done=trees)),
        )


def prune(
    repository: Repository,
    plan: PrunePlan,
    report: Report = ignore_progress,
    *,
    now: datetime | None = None,
    wait_for_lock_seconds: float = 0.0,
) -> PruneResult:
    """Execute a plan; raise `Conflict` where the repository has changed too much since."""
    started = time.monotonic()
    tell = _teller(report)
    with _lock(repository, plan, wait_for_lock_seconds) as lock:
        run = PruneRun(
            repository,
            plan,
            lock,
            clock=(lambda: now) if now is not None else (lambda: datetime.now(UTC)),
            on_moved=lambda done, total: tell(
                Progress("packs", bytes_done=done, bytes_total=total)
            ),
        )
        outcome = run.execute()
        merge = merge_small_index_files(repository, lock)
        if isinstance(repository.store, LocalStore):
            repository.store.remove_stale_temporaries()
    return PruneResult(plan, outcome, outcome.findings, time.monotonic() - started, merge)


def _lock(repository: Repository, plan: PrunePlan, wait_seconds: float) -> Lock:
    if plan.limits.instant:
        return repository.lock(INSTANT, exclusive=True, wait_seconds=wait_seconds)
    return repository.lock(PRUNE, exclusive=True, tolerates=BESIDE_PRUNE, wait_seconds=wait_seconds)


def _teller(report: Report) -> Report:
    said = 0.0

    def tell(progress: Progress) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _REPORT_SECONDS:
            said = now
            report(progress)

    return tell
