"""Drills: restoring a snapshot to a scratch directory, as a test of whether it comes back.

People ask for one, and schedules do every so many days. A keeper of the snapshot's region
does it, or a host that was chosen. Nothing is compared here, and nothing of a snapshot is
changed: what a drill's end means is in `completion.drill`. Invariants: of a snapshot and a
host (or the keepers) one drill is unfinished at a time; what is being drilled is not purged.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import ColumnElement, exists, select

from holdfast.control import audit, jobs, scope
from holdfast.control.backup_run import REPOSITORY
from holdfast.control.database import Database, Tx
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.restores import checked_selection
from holdfast.control.run_row import UNFINISHED
from holdfast.control.tables import Drill, Host, Repository, Schedule, Snapshot, Source
from holdfast.control.unindexed import by_lead
from holdfast.errors import InUse, NotReady

MANUAL: Final = "manual"
SCHEDULED: Final = "schedule"

BATCH_SCHEDULES: Final = 100

_PERSON_PRIORITY: Final = 20
_WAITS: Final = timedelta(days=1)
"""What no host took up in this time could not be done; the next one is tried in its turn."""

_LOOK_AGAIN: Final = timedelta(days=1)
"""When a schedule without anything to drill is looked at again."""


def request(
    tx: Tx,
    who: Principal,
    *,
    snapshot_id: str,
    host_id: str | None = None,
    paths: Sequence[str] = (),
    now: datetime,
) -> Drill:
    """Drill a completed snapshot, on any keeper of its region or on a host of the account.

    `paths` are relative to the captured path, all without any; a part proves only itself.
    """
    who.require(Right.RESTORE)
    # The host first, as everybody locks; then one that is revoked meanwhile gets no job.
    host = scope.find(tx, who, Host, host_id, lock=True) if host_id is not None else None
    snapshot = scope.find(tx, who, Snapshot, snapshot_id, lock=True)
    if host is not None:
        _check_host(host)
    _check_snapshot(snapshot)
    selected = checked_selection(paths)
    busy = _unfinished(tx, snapshot, host_id)
    if busy is not None:
        raise InUse(
            f"The drill {busy} of this snapshot is not finished there; wait for its end, or "
            "cancel it."
        )
    row = _start(
        tx,
        snapshot,
        host_id=host.id if host is not None else None,
        paths=selected,
        priority=_PERSON_PRIORITY,
        correlation_id=who.request_id,
        now=now,
    )
    after = {"snapshot_id": snapshot.id, "host_id": row.host_id, "paths": selected}
    audit.record(tx, who, "drill.request", "drill", row.id, now=now, after=after)
    return row


def get(tx: Tx, who: Principal, drill_id: str) -> Drill:
    """One drill."""
    who.require(Right.READ)
    return scope.find(tx, who, Drill, drill_id)


def drills(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    snapshot_id: str | None = None,
    schedule_id: str | None = None,
    status: str | None = None,
) -> Page[Drill]:
    """The drills, newest first."""
    who.require(Right.READ)
    leads = {Drill.snapshot_id: snapshot_id, Drill.schedule_id: schedule_id}
    statement, sieve = by_lead(select(Drill), Drill.account_id, who.account_id, leads)
    sieve += _visible(who)
    if status is not None:
        sieve.append(Drill.status == status)
    order = (Drill.created_at.desc(), Drill.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def cancel(tx: Tx, who: Principal, drill_id: str, *, now: datetime) -> Drill:
    """Wish that a drill ends; its scratch directory goes with it."""
    who.require(Right.RESTORE)
    row = scope.find(tx, who, Drill, drill_id)
    if row.status == "CANCELLED":
        return row
    if row.status not in UNFINISHED or row.job_id is None:
        raise NotReady(f"The drill is {row.status}, so there is nothing left to cancel.")
    jobs.request_cancel(tx, who, row.job_id, now=now)
    return tx.get_one(Drill, drill_id, populate_existing=True)


def plan_due(database: Database, *, now: datetime) -> int:
    """Start the drills of schedules that are due; returns how many were started."""
    started = 0
    while True:
        made, looked_at = database.transact(lambda tx: _plan_some(tx, now=now))
        started += made
        if looked_at < BATCH_SCHEDULES:
            return started


def _plan_some(tx: Tx, *, now: datetime) -> tuple[int, int]:
    """How many drills were started, and of how many schedules that were due."""
    schedules = tx.scalars(
        select(Schedule)
        .where(Schedule.drill_due_at <= now)
        .order_by(Schedule.drill_due_at, Schedule.id)
        .limit(BATCH_SCHEDULES)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    made = 0
    for schedule in schedules:
        if _plan_one(tx, schedule, now=now) is None:
            schedule.drill_due_at = now + _LOOK_AGAIN
        else:
            schedule.drill_due_at = now + timedelta(days=schedule.drill_days or 1)
            made += 1
    return made, len(schedules)


def _plan_one(tx: Tx, schedule: Schedule, *, now: datetime) -> Drill | None:
    """A drill of the schedule's newest snapshot, unless it has one or there is nothing."""
    if _schedule_is_busy(tx, schedule):
        return None
    snapshot = tx.scalars(
        select(Snapshot)
        .where(
            Snapshot.schedule_id == schedule.id,
            Snapshot.status == "COMPLETED",
            Snapshot.manifest_id.is_not(None),
            Snapshot.archive_format == REPOSITORY,
        )
        .order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
        .limit(1)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).first()
    if snapshot is None or _unfinished(tx, snapshot, None) is not None:
        return None
    return _start(tx, snapshot, schedule_id=schedule.id, correlation_id="", now=now)


def _start(
    tx: Tx,
    snapshot: Snapshot,
    *,
    host_id: str | None = None,
    schedule_id: str | None = None,
    paths: Sequence[str] = (),
    priority: int = 0,
    correlation_id: str,
    now: datetime,
) -> Drill:
    source = tx.get_one(Source, snapshot.source_id)
    repository = tx.get_one(Repository, snapshot.repository_id)
    row = Drill(
        id=str(uuid4()),
        account_id=snapshot.account_id,
        snapshot_id=snapshot.id,
        schedule_id=schedule_id,
        host_id=host_id,
        trigger=MANUAL if schedule_id is None else SCHEDULED,
        paths=list(paths),
        created_at=now,
    )
    job = jobs.enqueue(
        tx,
        account_id=snapshot.account_id,
        region_id=repository.region_id,
        repository_id=repository.id,
        host_id=host_id,
        kind="drill",
        subject_kind="drill",
        subject_id=row.id,
        lock_key=f"drill:{row.id}",
        spec={
            "drill_id": row.id,
            "snapshot_id": snapshot.id,
            "manifest_id": snapshot.manifest_id,
            "captured_path": source.path,
            "paths": list(paths),
        },
        now=now,
        give_up_at=now + _WAITS,
        priority=priority,
        correlation_id=correlation_id,
    )
    row.job_id = job.id
    tx.add(row)
    tx.flush()
    return row


def _visible(who: Principal) -> list[ColumnElement[bool]]:
    """The conditions for which of its account's drills `who` can see."""
    found = scope.narrowing_drills(who)
    return [exists().where(Snapshot.id == Drill.snapshot_id, *found)] if found else []


def _check_host(host: Host) -> None:
    if host.revoked_at is not None:
        raise NotReady(
            f"The host {host.name} was revoked, so nothing can be drilled on it; choose another "
            "host, or none, and a keeper of the snapshot's region does it."
        )
    if host.put_only:
        raise NotReady(
            f"The host {host.name} may only add to the repository and cannot read from it; "
            "choose another host, or none, and a keeper of the snapshot's region does it."
        )


def _check_snapshot(snapshot: Snapshot) -> None:
    if snapshot.status != "COMPLETED":
        raise NotReady(f"The snapshot is {snapshot.status}; a drill needs a completed one.")
    if snapshot.manifest_id is None or snapshot.archive_format != REPOSITORY:
        raise NotReady(
            "The snapshot is an archive and not restored file by file, so it cannot be drilled; "
            "download it instead, or choose a snapshot in the repository's own format."
        )


def _unfinished(tx: Tx, snapshot: Snapshot, host_id: str | None) -> str | None:
    """The unfinished drill of a locked snapshot on this host, or on the keepers."""
    return tx.scalar(
        select(Drill.id)
        .where(
            Drill.snapshot_id == snapshot.id,
            Drill.host_id.is_(None) if host_id is None else Drill.host_id == host_id,
            Drill.status.in_(UNFINISHED),
        )
        .limit(1)
    )


def _schedule_is_busy(tx: Tx, schedule: Schedule) -> bool:
    unfinished = exists().where(Drill.schedule_id == schedule.id, Drill.status.in_(UNFINISHED))
    return bool(tx.scalar(select(unfinished)))
