"""Retention: which snapshots of a schedule stay, which expire, and why.

It decides about the completed snapshots of a schedule together, those of a person's own
runs for it too, after each completed run and whenever one may have become too old. The
reasons are kept with each. What goes is EXPIRED and stays recoverable for the account's
recycle days; the data itself goes later (`recycle`). Copies go with their original.

Three things never go by retention: a snapshot under hold; the newest one of a schedule that
has not been removed, however old it is, because it may be all that is left of a machine that
went away; and everything, when the rules would remove everything or cannot be read, which
is an event instead.
When a person has removed the schedule or its source, age alone takes the last one, too.

Locks are taken in the order schedule, snapshots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam, exists, or_, select, update

from holdfast.control import audit, copy_fate, events
from holdfast.control.database import Database, Tx
from holdfast.control.principal import system
from holdfast.control.schedule_row import RETENTION_REST, policy_of
from holdfast.control.tables import Account, Hold, Schedule, Snapshot, Source
from holdfast.errors import HoldfastError, UsageError
from holdfast.model.retention import RestorePoint, RetentionDecision, RetentionPolicy, decide

NEWEST: Final = "newest snapshot of its schedule"
WOULD_REMOVE_ALL: Final = "kept because retention would remove every snapshot of the schedule"
UNREADABLE: Final = "kept because the schedule's rules or time zone cannot be read"

BATCH_SCHEDULES: Final = 100

_SOONEST: Final = timedelta(hours=1)
"""Points that age one by one are removed together, at most so often."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What becomes of the snapshots of one schedule, newest first.

    `refused`: why the rules were not followed, so that everything stays.
    """

    decided: list[RetentionDecision]
    refused: str | None


def apply(tx: Tx, schedule: Schedule, *, now: datetime) -> None:
    """Let a schedule's snapshots expire as its retention says, and note why others stay."""
    apply_all(tx, [schedule.id], now=now)


def apply_all(tx: Tx, schedule_ids: Iterable[str], *, now: datetime) -> int:
    """The same for several schedules at once; returns how many snapshots expired."""
    locked = _locked(tx, schedule_ids)
    schedules = [schedule for schedule, _ in locked]
    points = _points(tx, [each.id for each in schedules])
    ended = {each.id for each, gone_at in locked if each.removed_at or gone_at}
    going: dict[str, tuple[Schedule, str]] = {}
    notes: list[dict[str, Any]] = []
    for schedule in schedules:
        its = points[schedule.id]
        found = _decide(schedule, None, its, ended=schedule.id in ended, now=now)
        kept = [each for each in found.decided if each.keep]
        going |= {
            each.point.id: (schedule, each.reasons[0]) for each in found.decided if not each.keep
        }
        known = {each.point.id: each.reasons for each in its}
        changed = [each for each in kept if known[each.point.id] != each.reasons]
        notes += [{"b_id": each.point.id, "b_because": list(each.reasons)} for each in changed]
        if found.refused and changed:
            _tell_refused(tx, schedule, found.refused, len(kept), now=now)
        schedule.retention_due_at = _due_again(schedule, found, ended=schedule.id in ended, now=now)
    tx.flush()
    _note(tx, notes)
    return _expire(tx, going, now=now)


def apply_due(database: Database, *, now: datetime) -> int:
    """Apply where a snapshot may have become too old by now; returns how many expired."""
    expired = 0
    while True:

        def apply_some(tx: Tx) -> tuple[int, int]:
            due = (
                select(Schedule.id)
                .where(Schedule.retention_due_at <= now)
                .order_by(Schedule.retention_due_at, Schedule.id)
                .limit(BATCH_SCHEDULES)
                .with_for_update(skip_locked=True, key_share=True)
            )
            ids = tx.scalars(due).all()
            return len(ids), apply_all(tx, ids, now=now)

        found, gone = database.transact(apply_some)
        expired += gone
        if found < BATCH_SCHEDULES:
            return expired


def decisions(tx: Tx, schedule: Schedule, policy: RetentionPolicy, *, now: datetime) -> Decisions:
    """What `apply` would do at this moment if this were the schedule's retention."""
    ended = bool(schedule.removed_at or tx.get_one(Source, schedule.source_id).removed_at)
    return _decide(schedule, policy, _points(tx, [schedule.id])[schedule.id], ended=ended, now=now)


def remind(tx: Tx, schedule_id: str | None, *, now: datetime) -> None:
    """Look at a schedule's snapshots again in a while, because one may go now."""
    at = now + RETENTION_REST
    tx.execute(
        update(Schedule)
        .where(
            Schedule.id == schedule_id,
            or_(Schedule.retention_due_at.is_(None), Schedule.retention_due_at > at),
        )
        .values(retention_due_at=at)
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """A completed snapshot, and the reasons that were kept with it last time."""

    point: RestorePoint
    reasons: tuple[str, ...]


def _locked(tx: Tx, schedule_ids: Iterable[str]) -> list[tuple[Schedule, datetime | None]]:
    """The schedules, each with the time at which its source was removed."""
    found = tx.execute(
        select(Schedule, Source.removed_at)
        .join(Source, Source.id == Schedule.source_id)
        .where(Schedule.id.in_(list(schedule_ids)))
        .order_by(Schedule.id)
        .with_for_update(of=Schedule, key_share=True)
        .execution_options(populate_existing=True)
    )
    return [(schedule, removed_at) for schedule, removed_at in found]


def _points(tx: Tx, schedule_ids: Sequence[str]) -> dict[str, list[_Known]]:
    held = exists().where(Hold.snapshot_id == Snapshot.id, Hold.released_at.is_(None))
    rows = tx.execute(
        select(
            Snapshot.schedule_id,
            Snapshot.id,
            Snapshot.captured_at,
            Snapshot.created_at,
            Snapshot.kept_because,
            held,
        ).where(Snapshot.schedule_id.in_(schedule_ids), Snapshot.status == "COMPLETED")
    )
    points: dict[str, list[_Known]] = defaultdict(list)
    for schedule_id, snapshot_id, captured_at, created_at, kept_because, is_held in rows:
        assert schedule_id is not None
        point = RestorePoint(snapshot_id, captured_at or created_at, held=bool(is_held))
        points[schedule_id].append(_Known(point, tuple(kept_because)))
    return points


def _decide(
    schedule: Schedule,
    policy: RetentionPolicy | None,
    known: Iterable[_Known],
    *,
    ended: bool,
    now: datetime,
) -> Decisions:
    """What the schedule's own policy, or another one, makes of its snapshots."""
    points = [each.point for each in known]
    try:
        zone = ZoneInfo(schedule.timezone)
        policy = policy or policy_of(schedule)
    except (KeyError, ValueError, OSError, HoldfastError):
        return _all_stay(points, UNREADABLE, now=now)
    try:
        decided = decide(policy, points, now=now, timezone=zone, allow_remove_all=ended)
    except UsageError:
        return _all_stay(points, WOULD_REMOVE_ALL, now=now)
    if decided and not ended and not decided[0].keep:
        decided[0] = RetentionDecision(decided[0].point, keep=True, reasons=(NEWEST,))
    return Decisions(decided, None)


def _all_stay(points: Iterable[RestorePoint], reason: str, *, now: datetime) -> Decisions:
    newest_first = decide(RetentionPolicy(), points, now=now)
    return Decisions(
        [RetentionDecision(each.point, keep=True, reasons=(reason,)) for each in newest_first],
        reason,
    )


def _due_again(
    schedule: Schedule, found: Decisions, *, ended: bool, now: datetime
) -> datetime | None:
    """When the next snapshot may be too old; None when none will be without a new run."""
    if found.refused:
        return now + RETENTION_REST
    days = policy_of(schedule).max_age_days
    # The newest stays as long as the schedule does.
    aging = found.decided if ended else found.decided[1:]
    may_go = [each.point.time for each in aging if each.keep and not each.point.held]
    if not days or not may_go:
        return None
    return max(min(may_go) + timedelta(days=days), now) + _SOONEST


def _note(tx: Tx, notes: Sequence[dict[str, Any]]) -> None:
    if notes:
        changed = update(Snapshot.__table__).where(  # type: ignore[arg-type]
            Snapshot.__table__.c.id == bindparam("b_id")
        )
        tx.connection().execute(changed.values(kept_because=bindparam("b_because")), notes)


def _expire(tx: Tx, going: dict[str, tuple[Schedule, str]], *, now: datetime) -> int:
    if not going:
        return 0
    # A hold is placed under the snapshot's lock, so it is looked for again under that.
    family = copy_fate.family_of(tx, going)
    held = copy_fate.held_among(tx, going)
    expired = [
        row
        for row in family
        if row.id in going and row.status == "COMPLETED" and row.id not in held
    ]
    accounts = {
        account.id: account
        for account in tx.scalars(
            select(Account).where(Account.id.in_({row.account_id for row in expired}))
        )
    }
    told: dict[str, list[events.Told]] = defaultdict(list)
    for row in expired:
        schedule, reason = going[row.id]
        row.status = "EXPIRED"
        row.kept_because = []
        row.removed_at = now
        row.removed_because = reason
        row.purge_at = now + timedelta(days=accounts[row.account_id].recycle_days)
        audit.record(
            tx,
            system(row.account_id),
            "snapshot.expire",
            "snapshot",
            row.id,
            now=now,
            after={"because": reason, "schedule_id": schedule.id},
        )
        told[row.account_id].append(
            events.Told(
                row.id,
                f"Snapshot {row.name or row.id} expired: {reason}. It can be recovered until "
                f"{row.purge_at:%Y-%m-%d %H:%M} UTC.",
                {"schedule_id": schedule.id, "because": reason},
            )
        )
    for account_id, each in told.items():
        events.emit_all(tx, account_id, "snapshot.expired", "snapshot", each, now=now)
    copy_fate.go_along(tx, None, expired, family, now=now)
    return len(expired)


def _tell_refused(tx: Tx, schedule: Schedule, reason: str, number: int, *, now: datetime) -> None:
    events.emit(
        tx,
        schedule.account_id,
        "retention.refused",
        "schedule",
        schedule.id,
        f"All {number} snapshots of the schedule {schedule.name or schedule.id} were {reason}. "
        "Let it run again, or change its retention.",
        now=now,
    )
