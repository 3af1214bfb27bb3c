"""Forget snapshots: by retention rules, each with its reason, or by name.

Removes records of snapshots and nothing else; space comes back with a prune, which this
never runs. A snapshot whose record cannot be read is never forgotten by a rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.errors import Conflict, UsageError
from holdfast.model.finding import Finding
from holdfast.model.grouping import GroupBy, GroupKey, group
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.retention import (
    RestorePoint,
    RetentionDecision,
    RetentionPolicy,
    decide,
)
from holdfast.model.snapshot import Snapshot
from holdfast.repo.lock import PRUNE
from holdfast.repo.repository import FileKind, Repository


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Which snapshots to look at, and what decides about them.

    Either `ids` (ids, or beginnings of them, or ``latest``), which go whatever the rules
    would say, or a `policy`. `hosts`, `paths` and `tags` limit what a policy looks at: one
    of the hosts, all of the paths, all tags of one of the lists. `held` are ids that no
    rule removes.
    """

    ids: tuple[str, ...] = ()
    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    group_by: GroupBy = field(default_factory=GroupBy)
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tags: tuple[tuple[str, ...], ...] = ()
    held: frozenset[str] = frozenset()
    allow_remove_all: bool = False
    now: datetime | None = None
    wait_for_lock_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.ids and (self.policy.has_keep_rules or self.policy.max_age_days):
            raise UsageError("give snapshots to forget or rules to keep by, not both")
        if not all(self.tags):
            # All of no tags are on every snapshot, which nobody means who limits by tags.
            raise UsageError("a list of tags is empty; name a tag, or give no list")

    def looks_at(self, snapshot: Snapshot) -> bool:
        """Whether the policy is asked about this snapshot."""
        return (
            (not self.hosts or snapshot.hostname in self.hosts)
            and set(self.paths) <= set(snapshot.paths)
            and (not self.tags or any(set(tags) <= set(snapshot.tags) for tags in self.tags))
        )


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What would go and what stays, by group, with a reason for each."""

    repository_id: str
    groups: tuple[tuple[GroupKey, tuple[RetentionDecision, ...]], ...]
    findings: tuple[Finding, ...]

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(d.point.id for _, group in self.groups for d in group if not d.keep)

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(d.point.id for _, group in self.groups for d in group if d.keep)


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """The ids that were removed."""

    removed: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float


def plan_forget(repository: Repository, request: ForgetRequest) -> ForgetPlan:
    """Decide about the snapshots; raise `NotFound` or `UsageError` for a name that is none.

    `UsageError` also where a whole group would go and that is not allowed.
    """
    if request.ids:
        return _by_name(repository, request)
    snapshots, findings = repository.snapshots()
    points = [_point(s, request.held) for s in snapshots if request.looks_at(s)]
    now = request.now or datetime.now(UTC)
    groups = tuple(
        (
            key,
            tuple(
                decide(request.policy, group, now=now, allow_remove_all=request.allow_remove_all)
            ),
        )
        for key, group in group(points, request.group_by).items()
    )
    return ForgetPlan(repository.config.id, groups, tuple(findings))


def _by_name(repository: Repository, request: ForgetRequest) -> ForgetPlan:
    chosen = {}
    for name in request.ids:
        snapshot = repository.find_snapshot(name, request.looks_at)
        if snapshot.id in request.held:
            raise Conflict(f"snapshot {snapshot.short_id} is held; release it first")
        chosen[snapshot.id] = snapshot
    decisions = tuple(
        RetentionDecision(_point(snapshot, request.held), keep=False, reasons=("named",))
        for snapshot in chosen.values()
    )
    return ForgetPlan(repository.config.id, ((GroupKey(), decisions),), ())


def _point(snapshot: Snapshot, held: frozenset[str]) -> RestorePoint:
    return RestorePoint(
        id=snapshot.id,
        time=snapshot.time,
        tags=snapshot.tags,
        held=snapshot.id in held,
        host=snapshot.hostname,
        paths=snapshot.paths,
    )


def forget(
    repository: Repository,
    plan: ForgetPlan,
    report: Report = ignore_progress,
    *,
    wait_for_lock_seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> ForgetResult:
    """Remove what the plan says; a snapshot that is gone already is no error."""
    started = clock()
    if plan.repository_id != repository.config.id:
        raise Conflict("the plan is of another repository; plan again")
    removed = remove_records(
        repository, plan.removed, report, wait_for_lock_seconds=wait_for_lock_seconds
    )
    return ForgetResult(removed, plan.findings, clock() - started)


def remove_records(
    repository: Repository,
    ids: Sequence[str],
    report: Report = ignore_progress,
    *,
    wait_for_lock_seconds: float = 0.0,
) -> tuple[str, ...]:
    """Remove exactly these snapshots, by full id, also where a record cannot be read.

    One that is gone already is no error.
    """
    if not ids:
        return ()
    with repository.lock("forget", tolerates={PRUNE}, wait_seconds=wait_for_lock_seconds) as lock:
        lock.keep()
        for done, name in enumerate(ids, 1):
            repository.remove(FileKind.SNAPSHOT, name)
            report(Progress("forget", files_done=done, files_total=len(ids)))
    return tuple(ids)
