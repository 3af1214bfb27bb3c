"""Backup runs: the row of a snapshot to come, and the job that makes it.

The one place where both are made, for a person's wish and for a schedule's slot alike.
Whether there may be a run is decided by those who ask (`snapshots`, `due`). Invariant: a
PENDING snapshot has a job, made in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

from sqlalchemy import Select, and_, bindparam, select
from sqlalchemy.orm import aliased

from holdfast.control import jobs
from holdfast.control.database import Tx
from holdfast.control.tables import Host, Repository, Snapshot, Source
from holdfast.model.guarded_path import directory_of, roots_of

MANUAL: Final = "manual"
SCHEDULED: Final = "schedule"
CATCH_UP: Final = "catch-up"

REPOSITORY: Final = "repository"
ZIP: Final = "zip"
ARCHIVE_FORMATS: Final = (REPOSITORY, ZIP)

_PERSONS_PRIORITY = 10
"""A person who waits comes before schedules."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run that shall be: of what, where, when, and why."""

    source: Source
    host: Host
    repository: Repository
    trigger: str
    schedule_id: str | None = None
    slot_at: datetime | None = None
    not_before: datetime | None = None
    give_up_at: datetime | None = None
    archive_format: str = REPOSITORY
    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    correlation_id: str = ""

    @property
    def directory(self) -> str:
        """Where the path lies on its machine; `PathRefused` when no root holds it any more."""
        return directory_of(self.source.path, roots_of(self.host.roots))


class Parent(NamedTuple):
    """The snapshot that a run can be read against."""

    snapshot_id: str
    manifest_id: str


def start(tx: Tx, runs: Sequence[Run], *, now: datetime) -> list[Snapshot]:
    """Make the snapshots, PENDING, and their jobs."""
    parents = _parents(tx, (run.source.id for run in runs if _reads_parent(run)))
    started = []
    for run in runs:
        parent = parents.get(run.source.id) if _reads_parent(run) else None
        snapshot = Snapshot(
            id=str(uuid4()),
            account_id=run.source.account_id,
            source_id=run.source.id,
            schedule_id=run.schedule_id,
            host_id=run.host.id,
            repository_id=run.repository.id,
            kind=run.source.kind,
            name=run.name,
            description=run.description,
            labels=dict(run.labels),
            trigger=run.trigger,
            slot_at=run.slot_at,
            created_at=now,
            archive_format=run.archive_format,
            parent_id=parent.snapshot_id if parent else None,
        )
        job = jobs.enqueue(
            tx,
            account_id=run.source.account_id,
            region_id=run.repository.region_id,
            repository_id=run.repository.id,
            host_id=run.host.id,
            kind="backup",
            subject_kind="snapshot",
            subject_id=snapshot.id,
            lock_key=f"source:{run.source.id}",
            spec=_spec(run, snapshot, parent),
            now=now,
            not_before=run.not_before,
            give_up_at=run.give_up_at,
            priority=_PERSONS_PRIORITY if run.trigger == MANUAL else 0,
            correlation_id=run.correlation_id,
        )
        snapshot.job_id = job.id
        started.append(snapshot)
    tx.add_all(started)
    tx.flush()
    return started


def _spec(run: Run, snapshot: Snapshot, parent: Parent | None) -> dict[str, Any]:
    return {
        "snapshot_id": snapshot.id,
        "source_id": run.source.id,
        "path": run.source.path,
        "directory": run.directory,
        "options": run.source.options,
        "name": run.name,
        "archive_format": run.archive_format,
        "parent_manifest_id": parent.manifest_id if parent else None,
        "put_only": run.host.put_only,
        "trigger": run.trigger,
    }


def _reads_parent(run: Run) -> bool:
    # A put-only host may not read what is stored, and a ZIP is always made whole.
    return run.archive_format == REPOSITORY and not run.host.put_only


def _newest_completed() -> Select[str, str, str | None]:
    """Of each source the newest completed snapshot that is in its region's repository."""
    candidate, parent = aliased(Snapshot), aliased(Snapshot)
    newest = (
        select(candidate.id)
        .where(
            candidate.source_id == Source.id,
            candidate.copy_of_id.is_(None),
            candidate.repository_id == Repository.id,
            candidate.status == "COMPLETED",
            candidate.manifest_id.is_not(None),
            candidate.archive_format == REPOSITORY,
        )
        .order_by(candidate.created_at.desc(), candidate.id.desc())
        .limit(1)
        .correlate(Source, Repository)
        .scalar_subquery()
    )
    same = (Repository.account_id == Source.account_id, Repository.region_id == Host.region_id)
    return (
        select(Source.id, parent.id, parent.manifest_id)
        .join(Host, Host.id == Source.host_id)
        .join(Repository, and_(*same))
        .join(parent, parent.id == newest)
        .where(Source.id.in_(bindparam("source_ids", expanding=True)))
    )


# Built once: it takes longer to build than to run.
_NEWEST_COMPLETED: Final = _newest_completed()


def _parents(tx: Tx, source_ids: Iterable[str]) -> dict[str, Parent]:
    wanted = sorted(set(source_ids))
    if not wanted:
        return {}
    return {
        source_id: Parent(snapshot_id, manifest_id)
        for source_id, snapshot_id, manifest_id in tx.execute(
            _NEWEST_COMPLETED, {"source_ids": wanted}
        )
        if manifest_id is not None
    }
