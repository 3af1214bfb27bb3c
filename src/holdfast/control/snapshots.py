"""Snapshots: a person's runs, and what people may do with any snapshot.

Scheduled runs come from `due`, removal is in `recycle`, lists are in `snapshot_list`.
Invariant: among an account's snapshots that have, or may get, data, a name that a person
gave is there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import or_, select

from holdfast.control import audit, backup_run, credit, jobs, quotas, regions, scope, sources
from holdfast.control.backup_run import MANUAL, REPOSITORY, Run
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.recycle import recover, remove
from holdfast.control.run_row import UNFINISHED
from holdfast.control.sealing import MasterKeys
from holdfast.control.snapshot_list import ORDERS, snapshots
from holdfast.control.tables import Account, Host, Schedule, Snapshot
from holdfast.errors import NameTaken, NotReady, UsageError
from holdfast.model.caption import check_labels, check_text
from holdfast.model.name import check_name

__all__ = [
    "ORDERS",
    "STATUSES",
    "cancel",
    "delete",
    "edit",
    "get",
    "is_name_free",
    "recover",
    "request",
    "snapshots",
]

STATUSES: Final = (
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "SKIPPED",
    "EXPIRED",
    "DELETED",
)

delete = remove

_PERSON_WAITS: Final = timedelta(days=1)
"""A run that a person asked for and no agent took in this time has failed."""


def request(
    tx: Tx,
    who: Principal,
    *,
    source_id: str,
    schedule_id: str | None = None,
    name: str = "",
    description: str = "",
    labels: Mapping[str, object] | None = None,
    trigger: str = MANUAL,
    slot_at: datetime | None = None,
    now: datetime,
    keys: MasterKeys,
) -> Snapshot:
    """Back up now. With a schedule, the snapshot is under that schedule's retention."""
    who.require(Right.CREATE)
    source = sources.current(tx, who, source_id)
    host = tx.get_one(Host, source.host_id)
    if host.revoked_at is not None:
        raise NotReady(f"The host {host.name} was revoked, so nothing on it can be captured.")
    schedule = None
    if schedule_id is not None:
        schedule = scope.find(tx, who, Schedule, schedule_id)
        if schedule.source_id != source.id or schedule.removed_at is not None:
            raise UsageError("That schedule is not one of this source; leave it out or choose one.")
    checked = check_labels(labels or {})
    check_text(description, "description")
    account = tx.get_one(Account, who.account_id)
    credit.check_may_create(tx, account)
    quotas.check(tx, account)
    if name:
        check_name(name)
        _claim_name(tx, account.id, name)
    run = Run(
        source=source,
        host=host,
        repository=regions.repository_for(tx, account.id, host.region_id, keys=keys, now=now),
        trigger=trigger,
        schedule_id=schedule_id,
        slot_at=slot_at,
        give_up_at=now + _PERSON_WAITS,
        archive_format=schedule.archive_format if schedule else REPOSITORY,
        name=name,
        description=description,
        labels=checked,
        correlation_id=who.request_id,
    )
    snapshot = backup_run.start(tx, [run], now=now)[0]
    audit.record(
        tx,
        who,
        "snapshot.request",
        "snapshot",
        snapshot.id,
        now=now,
        after=_record(snapshot) | {"source_id": source.id, "schedule_id": schedule_id},
    )
    return snapshot


def get(tx: Tx, who: Principal, snapshot_id: str) -> Snapshot:
    """One snapshot, whatever became of it."""
    who.require(Right.READ)
    return scope.find(tx, who, Snapshot, snapshot_id)


def edit(
    tx: Tx,
    who: Principal,
    snapshot_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    labels: Mapping[str, object] | None = None,
    now: datetime,
) -> Snapshot:
    """Change what is given; an empty name takes the name away."""
    who.require(Right.CREATE)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    if name and name != row.name:
        check_name(name)
        _claim_name(tx, row.account_id, name)
    row = scope.find(tx, who, Snapshot, snapshot_id, lock=True)
    before = _record(row)
    if name is not None:
        row.name = name
    if description is not None:
        row.description = check_text(description, "description")
    if labels is not None:
        row.labels = check_labels(labels)
    audit.record(
        tx, who, "snapshot.edit", "snapshot", row.id, now=now, before=before, after=_record(row)
    )
    return row


def cancel(tx: Tx, who: Principal, snapshot_id: str, *, now: datetime) -> Snapshot:
    """Wish that a run ends: at once where no agent has it, else as soon as its agent hears."""
    who.require(Right.CREATE)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    if row.status == "CANCELLED":
        return row
    if row.kind == sources.TASK and row.copy_of_id is None:
        raise NotReady(
            "This is a snapshot of a task and taken by the task's own job; it ends by itself, or "
            "with the task."
        )
    if row.status not in UNFINISHED or row.job_id is None:
        raise NotReady(f"The run is {row.status}, so there is nothing left to cancel.")
    jobs.request_cancel(tx, who, row.job_id, now=now)
    return tx.get_one(Snapshot, snapshot_id, populate_existing=True)


def is_name_free(tx: Tx, who: Principal, name: str) -> bool:
    """Whether a snapshot could have this name; `UsageError` where none can."""
    who.require(Right.READ)
    return _bearer(tx, who.account_id, check_name(name)) is None


def _claim_name(tx: Tx, account_id: str, name: str) -> None:
    # Under the account's lock, or two requests at once would both find the name free.
    tx.execute(select(Account.id).where(Account.id == account_id).with_for_update(key_share=True))
    bearer = _bearer(tx, account_id, name)
    if bearer is not None:
        raise NameTaken(f"The snapshot {bearer} is called {name!r} already; choose another name.")


def _bearer(tx: Tx, account_id: str, name: str) -> str | None:
    return tx.scalar(
        select(Snapshot.id)
        .where(
            Snapshot.account_id == account_id,
            Snapshot.name == name,
            or_(
                Snapshot.status.in_(("PENDING", "RUNNING", "COMPLETED")),
                # Removed, but it may come back.
                Snapshot.status.in_(("EXPIRED", "DELETED"))
                & Snapshot.purged_at.is_(None)
                & Snapshot.manifest_id.is_not(None),
            ),
        )
        .limit(1)
    )


def _record(row: Snapshot) -> dict[str, Any]:
    """What the audit log keeps of what people write about a snapshot."""
    return {"name": row.name, "description": row.description, "labels": row.labels}
