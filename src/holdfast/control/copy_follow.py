"""The clockwork's step after copies: what is left of them when their original is removed.

Unfinished copies of a removed snapshot are cancelled here and not where it is removed: that
is done under locks of snapshots, and jobs are locked before those. Until then the snapshot
is not purged (see `recycle`), so the minute between harms nothing. What was completed
meanwhile goes as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import exists, func, literal_column, select
from sqlalchemy.orm import aliased

from holdfast.control import credit, job_end
from holdfast.control.copies import COPY
from holdfast.control.copy_fate import (
    family_of,
    go_along,
    is_original_removed,
)
from holdfast.control.database import Database, Tx
from holdfast.control.principal import system
from holdfast.control.run_row import REMOVED, UNFINISHED
from holdfast.control.tables import Account, Hold, Job, Snapshot

_AT_ONCE: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def follow(database: Database, *, now: datetime) -> int:
    """Cancel and remove what is left of copies whose original is removed; how many."""
    with database.read() as tx:
        unfinished = _unfinished(tx)
        left = _left(tx)
    done = 0
    for job_id in unfinished:

        def cancel(tx: Tx, job_id: str = job_id) -> int:
            return _cancel(tx, job_id, now=now)

        done += database.transact(cancel)
    for start in range(0, len(left), _AT_ONCE):
        some = left[start : start + _AT_ONCE]

        def take(tx: Tx, some: Sequence[str] = some) -> int:
            return _take(tx, some, now=now)

        done += database.transact(take)
    return done


def _unfinished(tx: Tx) -> list[str]:
    """The jobs of copies that nobody wants any more."""
    original = aliased(Snapshot)
    # From the jobs: few wait or run, and many snapshots are in the history.
    found = (
        select(Job.id)
        .join(Snapshot, Snapshot.id == Job.subject_id)
        .join(original, original.id == Snapshot.copy_of_id)
        .where(
            Job.state.in_(("queued", "leased")),
            Job.kind == COPY,
            Job.cancel_requested_at.is_(None),
            original.status.in_(REMOVED),
        )
        .order_by(Job.id)
    )
    return list(tx.scalars(found))


def _cancel(tx: Tx, job_id: str, *, now: datetime) -> int:
    job = tx.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state in job_end.ENDED:
        return 0
    copy = tx.get_one(Snapshot, job.subject_id)
    if copy.status not in UNFINISHED or not is_original_removed(tx, copy):
        return 0
    job_end.request_cancel(tx, system(job.account_id), job.id, now=now)
    return 1


def _left(tx: Tx) -> list[str]:
    """Removed originals with a completed copy that no hold keeps.

    Not those without credit: `credit` takes copies as it takes every snapshot.
    """
    copy = aliased(Snapshot)
    held = exists().where(Hold.snapshot_id == copy.id, Hold.released_at.is_(None))
    # From the recycle bin, by its index: many snapshots are in the history.
    found = select(Snapshot.id).where(
        Snapshot.purge_at > _EPOCH,
        literal_column("purged_at IS NULL"),
        Snapshot.status.in_(REMOVED),
        func.coalesce(Snapshot.removed_because, "") != credit.REASON,
        exists().where(copy.copy_of_id == Snapshot.id, copy.status == "COMPLETED", ~held),
    )
    return sorted(tx.scalars(found))


def _take(tx: Tx, original_ids: Sequence[str], *, now: datetime) -> int:
    family = family_of(tx, original_ids)
    gone = [each for each in family if each.id in original_ids and each.status in REMOVED]
    by_account: dict[str, list[Snapshot]] = defaultdict(list)
    for each in gone:
        by_account[each.account_id].append(each)
    taken = 0
    for account_id, originals in sorted(by_account.items()):
        days = tx.get_one(Account, account_id).recycle_days
        # The original may be long gone; a copy can be recovered for as long as anything can.
        taken += go_along(tx, None, originals, family, now=now, purge_at=now + timedelta(days=days))
    return taken
