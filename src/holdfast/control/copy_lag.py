"""How far the copies of schedules are behind what they are copies of.

What counts is what a schedule's policy still owes: completed snapshots whose copy is
missing, under way, or failed. One that a person cancelled or deleted is not owed any more.
It changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import aliased, object_session

from holdfast.control.copy_policy import owed
from holdfast.control.database import Tx
from holdfast.control.tables import Repository, Schedule, Snapshot

_IDS_AT_ONCE: Final = 1000

_copy, _place = aliased(Snapshot), aliased(Repository)


@dataclass(frozen=True, slots=True)
class CopyLag:
    """How many snapshots wait for their copy, and for how long the oldest of them has."""

    pending: int
    lag_seconds: int
    last_copied_at: datetime | None


def lag(tx: Tx, schedules: Iterable[Schedule], *, now: datetime) -> dict[str, CopyLag]:
    """By id of those schedules that are copied; others are left out."""
    wanted = [each.id for each in schedules if each.copy_region_id is not None]
    found: dict[str, CopyLag] = {}
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        found |= _lag(tx, wanted[start : start + _IDS_AT_ONCE], now=now)
    return found


def lag_of(schedule: Schedule, *, now: datetime) -> CopyLag | None:
    """The same of one schedule, whose transaction is not over yet; None where nothing is copied."""
    tx = object_session(schedule)
    assert tx is not None
    return lag(tx, [schedule], now=now).get(schedule.id)


def _lag(tx: Tx, schedule_ids: Sequence[str], *, now: datetime) -> dict[str, CopyLag]:
    waiting = {
        schedule_id: (int(number), oldest)
        for schedule_id, number, oldest in tx.execute(
            owed()
            .where(Snapshot.schedule_id.in_(schedule_ids))
            .with_only_columns(Schedule.id, func.count(), func.min(Snapshot.finished_at))
            .group_by(Schedule.id)
        )
    }
    newest = (
        select(Schedule.id, func.max(_copy.finished_at))
        .join(Snapshot, Snapshot.schedule_id == Schedule.id)
        .join(_copy, _copy.copy_of_id == Snapshot.id)
        .join(_place, _place.id == _copy.repository_id)
        .where(
            Snapshot.schedule_id.in_(schedule_ids),
            Snapshot.status == "COMPLETED",
            _copy.status == "COMPLETED",
            _place.region_id == Schedule.copy_region_id,
        )
        .group_by(Schedule.id)
    )
    last = {row[0]: row[1] for row in tx.execute(newest)}
    found: dict[str, CopyLag] = {}
    for each in schedule_ids:
        pending, oldest = waiting.get(each, (0, None))
        seconds = 0 if oldest is None else max(int((now - oldest).total_seconds()), 0)
        found[each] = CopyLag(pending, seconds, last.get(each))
    return found
