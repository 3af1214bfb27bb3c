"""Holds: reasons for which a snapshot must stay.

While one is not released, neither retention nor a person removes the snapshot. Placing one
takes the right to create; releasing one takes the right to delete, because after that the
snapshot can go. A hold keeps the copies of its snapshot as well. Invariant: a snapshot with
a hold that is not released is COMPLETED.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from holdfast.control import audit, copy_fate, retention, scope
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Hold, Snapshot
from holdfast.errors import NotReady, UsageError
from holdfast.model.caption import check_text


def place(tx: Tx, who: Principal, snapshot_id: str, *, reason: str, now: datetime) -> Hold:
    """Have a completed snapshot stay; several may hold it, each for a reason."""
    who.require(Right.CREATE)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id, lock=True)
    if not check_text(reason, "reason").strip():
        raise UsageError("A hold needs a reason, so that others know when it may be released.")
    if snapshot.status != "COMPLETED":
        raise NotReady(
            f"The snapshot is {snapshot.status} and only a completed one can be held; "
            "recover it first if it was removed."
        )
    return add(tx, who, snapshot, reason, now=now)


def release(tx: Tx, who: Principal, hold_id: str, *, now: datetime) -> Hold:
    """End a hold; releasing it again changes nothing. Retention looks again in a day."""
    who.require(Right.DELETE)
    hold = scope.find(tx, who, Hold, hold_id, lock=True)
    if hold.released_at is not None:
        return hold
    hold.released_at = now
    hold.released_by = _name(who)
    tx.flush()
    snapshot = tx.get_one(Snapshot, hold.snapshot_id)
    retention.remind(tx, snapshot.schedule_id, now=now)
    audit.record(
        tx,
        who,
        "hold.release",
        "snapshot",
        hold.snapshot_id,
        now=now,
        before={"hold_id": hold.id, "reason": hold.reason},
    )
    copy_fate.after_release(tx, snapshot, now=now)
    return hold


def holds(tx: Tx, who: Principal, snapshot_id: str) -> list[Hold]:
    """All holds that a snapshot has and had, oldest first."""
    who.require(Right.READ)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id)
    statement = select(Hold).where(Hold.snapshot_id == snapshot.id)
    return list(tx.scalars(statement.order_by(Hold.created_at, Hold.id)))


def holding(tx: Tx, snapshot: Snapshot) -> Hold | None:
    """A hold that keeps the snapshot: one of its own, else one of its original's.

    Ask under the locks of both before you remove it.
    """
    found = tx.scalars(
        select(Hold).where(
            Hold.snapshot_id.in_([snapshot.id, snapshot.copy_of_id or snapshot.id]),
            Hold.released_at.is_(None),
        )
    ).all()
    return min(found, key=lambda each: each.snapshot_id != snapshot.id, default=None)


def add(tx: Tx, who: Principal, snapshot: Snapshot, reason: str, *, now: datetime) -> Hold:
    """Place a hold on a locked, completed snapshot, for services that do so themselves."""
    hold = Hold(
        account_id=snapshot.account_id,
        snapshot_id=snapshot.id,
        reason=reason,
        created_at=now,
        created_by=_name(who),
    )
    tx.add(hold)
    tx.flush()
    audit.record(
        tx,
        who,
        "hold.place",
        "snapshot",
        snapshot.id,
        now=now,
        after={"hold_id": hold.id, "reason": reason},
    )
    return hold


def _name(who: Principal) -> str:
    return f"{who.kind}:{who.id}"[:120]
