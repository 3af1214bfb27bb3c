"""The copies that schedules want: begun when a run completes, and made up for when not.

A schedule with `copy_region_id` wants a copy there of all that it completes from
`copy_since` on. It does not want again what a person cancelled or deleted, and waits longer
after each failure, up to a day. A paused schedule's snapshots are copied, a removed one's
no more. Invariant: however many replicas plan, a snapshot gets one copy in a region, because
each is begun under the original's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import aliased

from holdfast.control import copies, credit, quotas, regions
from holdfast.control.backup_run import REPOSITORY
from holdfast.control.completion.verify import without_finding
from holdfast.control.copies import Terms
from holdfast.control.database import Database, Tx
from holdfast.control.run_row import UNFINISHED
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Repository, Schedule, Snapshot
from holdfast.errors import CreditExhausted, HoldfastError, QuotaExceeded
from holdfast.model.finding import Finding

NOT_BEGUN: Final = "copy_not_begun"
"""The finding of a snapshot whose copy could not be begun when it was completed."""

ORIGINAL_REMOVED: Final = "original_removed"
"""`error_code` of a copy that was cancelled because its original was removed."""

BATCH_SCHEDULES: Final = 200

_LASTS: Final = timedelta(days=7)
_PAUSE: Final = timedelta(hours=1)
_MOST_PAUSES: Final = 24

_copy, _place, _home = aliased(Snapshot), aliased(Repository), aliased(Repository)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Missing:
    """A snapshot that a schedule wants to have in a region, and has not."""

    snapshot_id: str
    account_id: str
    region_id: str


def owed() -> Select[str]:
    """Ids of snapshots, with `Schedule`, whose schedule wants a copy that is not there.

    It may be under way, or have failed and be tried again.
    """
    settled = or_(
        _copy.status.in_(("COMPLETED", "EXPIRED", "DELETED")),
        and_(
            _copy.status == "CANCELLED",
            func.coalesce(_copy.error_code, "") != ORIGINAL_REMOVED,
        ),
    )
    return (
        select(Snapshot.id)
        .join(Schedule, Schedule.id == Snapshot.schedule_id)
        .join(_home, _home.id == Snapshot.repository_id)
        .where(
            Schedule.copy_region_id.is_not(None),
            Schedule.removed_at.is_(None),
            Snapshot.status == "COMPLETED",
            Snapshot.manifest_id.is_not(None),
            Snapshot.archive_format == REPOSITORY,
            Snapshot.finished_at >= Schedule.copy_since,
            _home.region_id != Schedule.copy_region_id,
            ~_is_there(settled),
        )
    )


def start_by_policy(
    tx: Tx,
    snapshot: Snapshot,
    schedule: Schedule,
    *,
    now: datetime,
    keys: MasterKeys | None = None,
) -> Snapshot | None:
    """Begin the copy that the schedule wants of a locked snapshot; None where it wants none.

    Also None where that region has no repository of the account yet and there are no keys
    to make one. Raises where the account may not have more.
    """
    tx.flush()
    wanted = owed().where(
        Snapshot.id == snapshot.id,
        Schedule.id == schedule.id,
        ~_is_there(_copy.status.in_(UNFINISHED)),
    )
    if tx.scalar(wanted) is None:
        return None
    assert schedule.copy_region_id is not None
    target = _repository(tx, snapshot.account_id, schedule.copy_region_id, keys, now=now)
    if target is None:
        return None
    account = tx.get_one(Account, snapshot.account_id)
    credit.check_may_create(tx, account)
    quotas.check(tx, account, snapshots=0)
    snapshot.findings = without_finding(snapshot.findings, NOT_BEGUN)
    return copies.start(tx, snapshot, snapshot, target, Terms(now + _LASTS), now=now)


def not_begun(schedule: Schedule, error: HoldfastError) -> Finding:
    """What a snapshot says until its copy was begun after all."""
    message = f"The copy to another region was not begun after this run: {error.message}"
    return Finding(NOT_BEGUN, message, schedule.id)


def plan_missing(database: Database, keys: MasterKeys, *, now: datetime) -> int:
    """Begin the copies that are missing; returns how many were begun."""
    begun = 0
    after = ""
    while True:
        with database.read() as tx:
            schedule_ids = tx.scalars(
                select(Schedule.id)
                .where(
                    Schedule.copy_region_id.is_not(None),
                    Schedule.removed_at.is_(None),
                    Schedule.id > after,
                )
                .order_by(Schedule.id)
                .limit(BATCH_SCHEDULES)
            ).all()
            due = _due(tx, schedule_ids, now=now)
        begun += _begin_all(database, due, keys, now=now)
        if len(schedule_ids) < BATCH_SCHEDULES:
            return begun
        after = schedule_ids[-1]


def _begin_all(
    database: Database, due: Sequence[_Missing], keys: MasterKeys, *, now: datetime
) -> int:
    # Repositories are locked before snapshots, so one is made for itself.
    for account_id, region_id in sorted({(each.account_id, each.region_id) for each in due}):

        def prepare(tx: Tx, account_id: str = account_id, region_id: str = region_id) -> None:
            _repository(tx, account_id, region_id, keys, now=now)

        database.transact(prepare)
    begun = 0
    refused: set[str] = set()
    for each in due:
        if each.account_id in refused:
            continue

        def begin(tx: Tx, snapshot_id: str = each.snapshot_id) -> int:
            return _begin(tx, snapshot_id, now=now)

        try:
            begun += database.transact(begin)
        except (CreditExhausted, QuotaExceeded) as error:
            refused.add(each.account_id)
            _log.warning("copies_not_begun", account_id=each.account_id, error=error.message)
    return begun


def _is_there(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the wanted region has such a copy of the snapshot."""
    return exists().where(
        _copy.copy_of_id == Snapshot.id,
        _place.id == _copy.repository_id,
        _place.region_id == Schedule.copy_region_id,
        *conditions,
    )


def _due(tx: Tx, schedule_ids: Sequence[str], *, now: datetime) -> list[_Missing]:
    """What is missing of these schedules, the oldest first, but what waits after failures."""
    failed_lately = and_(_copy.status == "FAILED", _copy.finished_at > now - _PAUSE)
    found = tx.execute(
        owed()
        .where(
            Snapshot.schedule_id.in_(schedule_ids),
            ~_is_there(or_(_copy.status.in_(UNFINISHED), failed_lately)),
        )
        .with_only_columns(Snapshot.id, Snapshot.account_id, Schedule.copy_region_id)
        .order_by(Snapshot.finished_at, Snapshot.id)
    ).all()
    if not found:
        return []
    failed = tx.execute(
        select(_copy.copy_of_id, _place.region_id, func.count(), func.max(_copy.finished_at))
        .join(Snapshot, Snapshot.id == _copy.copy_of_id)
        .join(_place, _place.id == _copy.repository_id)
        .where(
            Snapshot.schedule_id.in_(schedule_ids),
            Snapshot.status == "COMPLETED",
            _copy.status == "FAILED",
        )
        .group_by(_copy.copy_of_id, _place.region_id)
    )
    again_at = {
        (snapshot_id, region_id): last + _PAUSE * min(failures, _MOST_PAUSES)
        for snapshot_id, region_id, failures, last in failed
        if last is not None
    }
    return [
        _Missing(snapshot_id, account_id, region_id)
        for snapshot_id, account_id, region_id in found
        if region_id is not None and again_at.get((snapshot_id, region_id), now) <= now
    ]


def _begin(tx: Tx, snapshot_id: str, *, now: datetime) -> int:
    snapshot = tx.get_one(
        Snapshot, snapshot_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if snapshot.schedule_id is None:
        return 0
    schedule = tx.get_one(Schedule, snapshot.schedule_id)
    return int(start_by_policy(tx, snapshot, schedule, now=now) is not None)


def _repository(
    tx: Tx, account_id: str, region_id: str, keys: MasterKeys | None, *, now: datetime
) -> Repository | None:
    if keys is not None:
        return regions.repository_for(tx, account_id, region_id, keys=keys, now=now)
    return tx.scalar(
        select(Repository).where(
            Repository.account_id == account_id, Repository.region_id == region_id
        )
    )
