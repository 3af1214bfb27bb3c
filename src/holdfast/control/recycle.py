"""The recycle period: what was removed stays for some days, then its data goes.

`remove` and `recover` are for people; what retention removed (EXPIRED) and what people
removed (DELETED) are purged alike. The data is removed by a keeper, in one job for each
repository at a time; when that job is done, `purged_at` is set and the row stays for good.
Invariant: nothing is given to a keeper before its `purge_at`, while it is being restored,
drilled or copied, or under a hold; and nothing is recovered from then on.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, exists, func, literal_column, or_, select
from sqlalchemy.orm import aliased

from holdfast.control import audit, copy_fate, events, holds, jobs, retention, scope
from holdfast.control.database import Database, Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.run_row import REMOVED, UNFINISHED
from holdfast.control.tables import Account, Drill, Hold, Job, Repository, Restore, Snapshot
from holdfast.errors import InUse, NotReady

MAX_PER_JOB: Final = 500

_MARGIN: Final = timedelta(minutes=1)
"""Replicas' clocks differ, and one may be recovering what another one purges."""

_PAUSE_AFTER_FAILURE: Final = timedelta(hours=1)

_unfinished = aliased(Snapshot)


def remove(tx: Tx, who: Principal, snapshot_id: str, *, now: datetime) -> Snapshot:
    """Delete a snapshot; it can be recovered for the account's recycle days."""
    who.require(Right.DELETE)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    # With its copies, which go along, and with its original, whose holds keep it.
    family = copy_fate.family_of(tx, [row.copy_of_id or row.id])
    if row.status in REMOVED:
        return row
    if row.status in UNFINISHED:
        raise NotReady(f"The run is {row.status}; cancel it, or wait for its end, then delete it.")
    if hold := holds.holding(tx, row):
        if hold.snapshot_id == row.id:
            raise InUse("The snapshot is under a hold; release its holds first, then delete it.")
        raise InUse(
            f"The snapshot is a copy of {hold.snapshot_id}, which is under a hold that keeps its "
            "copies too; release the holds of that one first, then delete this."
        )
    before = row.status
    account = tx.get_one(Account, row.account_id)
    # Without a manifest there is no data that could be recovered.
    days = account.recycle_days if row.manifest_id else 0
    row.status = "DELETED"
    row.kept_because = []
    row.removed_at = now
    row.removed_because = f"deleted by {who.kind} {who.id}"
    row.purge_at = now + timedelta(days=days)
    audit.record(
        tx,
        who,
        "snapshot.delete",
        "snapshot",
        row.id,
        now=now,
        before={"status": before},
        after={"status": row.status},
    )
    until = f" It can be recovered until {row.purge_at:%Y-%m-%d %H:%M} UTC." if days else ""
    _tell(tx, row, "deleted", f"Snapshot {row.name or row.id} was deleted.{until}", now=now)
    copy_fate.go_along(tx, who, [row], family, now=now)
    return row


def recover(tx: Tx, who: Principal, snapshot_id: str, *, now: datetime) -> Snapshot:
    """Take back a removal, also of the copies that went along.

    What retention had removed gets a hold, or it would go again; and so does a copy whose
    original is removed.
    """
    who.require(Right.CREATE)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    retention.remind(tx, row.schedule_id, now=now)  # schedules are locked before snapshots
    family = copy_fate.family_of(tx, [row.copy_of_id or row.id])
    if row.status == "COMPLETED":
        return row
    if not is_recoverable(row, now=now):
        raise NotReady(
            f"The snapshot is {row.status} and cannot be recovered: its data is gone, or there "
            "was none. Choose another snapshot of the same source."
        )
    before = row.status
    row.status = "COMPLETED"
    row.removed_at = row.removed_because = row.purge_at = None
    tx.flush()
    if before == "EXPIRED":
        holds.add(tx, who, row, "recovered after retention had removed it", now=now)
    elif row.copy_of_id is not None and copy_fate.is_original_removed(tx, row):
        holds.add(tx, who, row, "recovered while its original is removed", now=now)
    audit.record(
        tx,
        who,
        "snapshot.recover",
        "snapshot",
        row.id,
        now=now,
        before={"status": before},
        after={"status": row.status},
    )
    _tell(tx, row, "recovered", f"Snapshot {row.name or row.id} was recovered.", now=now)
    there = [each for each in family if is_recoverable(each, now=now)]
    copy_fate.come_back(tx, who, row, there, now=now)
    return row


def is_recoverable(row: Snapshot, *, now: datetime) -> bool:
    """Whether a removed snapshot still has its data, and keeps it for a while."""
    return (
        row.status in REMOVED
        and row.manifest_id is not None
        and row.purged_at is None
        and row.purge_at is not None
        and now < row.purge_at
    )


def purge_due(database: Database, *, now: datetime) -> int:
    """Give what is past its recycle period to keepers; returns how many snapshots."""
    with database.read() as tx:
        waiting = tx.execute(
            select(Snapshot.repository_id, Snapshot.manifest_id.is_(None))
            .where(*_due(now))
            .distinct()
        ).all()
    purged = 0
    if any(without_data for _, without_data in waiting):
        purged += database.transact(lambda tx: _purge_without_data(tx, now=now))
    for repository_id in sorted({each for each, without_data in waiting if not without_data}):

        def remove_some(tx: Tx, repository_id: str = repository_id) -> int:
            return _order_removal(tx, repository_id, now=now)

        purged += database.transact(remove_some)
    return purged


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        Snapshot.purge_at <= now - _MARGIN,
        # The words themselves and not parameters: only then is the partial index used.
        literal_column("purged_at IS NULL"),
        Snapshot.status.in_(REMOVED),
        ~exists().where(Hold.snapshot_id == Snapshot.id, Hold.released_at.is_(None)),
        ~exists().where(Restore.snapshot_id == Snapshot.id, Restore.status.in_(UNFINISHED)),
        # What is copied is read from it, or from another copy: it does not matter which.
        ~exists().where(
            _unfinished.copy_of_id == func.coalesce(Snapshot.copy_of_id, Snapshot.id),
            _unfinished.id != Snapshot.id,
            _unfinished.status.in_(UNFINISHED),
        ),
        ~exists().where(Drill.snapshot_id == Snapshot.id, Drill.status.in_(UNFINISHED)),
    )


def _purge_without_data(tx: Tx, *, now: datetime) -> int:
    """Runs that failed and were deleted have nothing that a keeper could remove."""
    rows = tx.scalars(
        select(Snapshot)
        .where(*_due(now), Snapshot.manifest_id.is_(None))
        .order_by(Snapshot.id)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for row in rows:
        row.purged_at = now
    return len(rows)


def _order_removal(tx: Tx, repository_id: str, *, now: datetime) -> int:
    """Make the one job that removes data from a repository, unless there is one."""
    repository = tx.scalars(
        select(Repository)
        .where(Repository.id == repository_id)
        .with_for_update(skip_locked=True, key_share=True)
    ).first()
    if repository is None or _removal_in_hand(tx, repository, now=now):
        return 0
    rows = tx.execute(
        select(Snapshot.id, Snapshot.manifest_id)
        .where(*_due(now), Snapshot.repository_id == repository.id)
        .where(Snapshot.manifest_id.is_not(None))
        .order_by(Snapshot.purge_at, Snapshot.id)
        .limit(MAX_PER_JOB)
        .with_for_update(key_share=True)
    ).all()
    if not rows:
        return 0
    jobs.enqueue(
        tx,
        account_id=repository.account_id,
        region_id=repository.region_id,
        repository_id=repository.id,
        host_id=None,
        kind="remove",
        subject_kind="repository",
        subject_id=repository.id,
        lock_key=f"repository:{repository.id}",
        spec={"snapshots": [{"snapshot_id": each, "manifest_id": it} for each, it in rows]},
        now=now,
    )
    return len(rows)


def _removal_in_hand(tx: Tx, repository: Repository, *, now: datetime) -> bool:
    """Whether a removal waits, goes on, or failed so lately that another would fail, too."""
    return bool(
        tx.scalar(
            select(
                exists().where(
                    Job.subject_id == repository.id,
                    Job.kind == "remove",
                    or_(
                        Job.state.in_(("queued", "leased")),
                        (Job.state == "failed") & (Job.finished_at > now - _PAUSE_AFTER_FAILURE),
                    ),
                )
            )
        )
    )


def _tell(tx: Tx, row: Snapshot, word: str, message: str, *, now: datetime) -> None:
    events.emit(
        tx,
        row.account_id,
        f"snapshot.{word}",
        "snapshot",
        row.id,
        message,
        now=now,
        data={"source_id": row.source_id, "schedule_id": row.schedule_id},
    )
