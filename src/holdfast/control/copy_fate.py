"""What becomes of copies when their original is removed, and when it comes back.

Copies go with their original and come back with it. One under a hold stays, and goes when
the hold is released; one that was recovered while its original is removed gets a hold for
that reason. What is still being made is left to `copy_follow`.

Locks: a snapshot and its copies are locked together, in the order of their ids, and no job
is ended under those locks, because jobs come before snapshots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, or_, select

from holdfast.control import audit, events
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, system
from holdfast.control.run_row import REMOVED
from holdfast.control.tables import Account, Hold, Snapshot

WITH_ORIGINAL: Final = "went with its original"
"""`removed_because` of such a copy begins so, and of nothing else."""


def kin(original_ids: Collection[str]) -> Select[Snapshot]:
    """These snapshots and all copies of them, in the order of their ids."""
    return (
        select(Snapshot)
        .where(or_(Snapshot.id.in_(original_ids), Snapshot.copy_of_id.in_(original_ids)))
        .order_by(Snapshot.id)
        .execution_options(populate_existing=True)
    )


def family_of(tx: Tx, original_ids: Collection[str]) -> Sequence[Snapshot]:
    """The same, locked. A copy that was begun while this waited for the locks is not in it."""
    return tx.scalars(kin(original_ids).with_for_update(key_share=True)).all()


def go_along(
    tx: Tx,
    who: Principal | None,
    originals: Iterable[Snapshot],
    family: Iterable[Snapshot],
    *,
    now: datetime,
    purge_at: datetime | None = None,
) -> int:
    """Remove the completed copies of removed originals, but what a hold keeps; how many.

    `family` is locked and has the copies. They are purged when their original is, or at
    `purge_at`. `who` None is Holdfast itself.
    """
    gone = {each.id: each for each in originals}
    copies = [each for each in family if each.copy_of_id in gone and each.status == "COMPLETED"]
    held = held_among(tx, [each.id for each in copies])
    told: dict[tuple[str, str], list[events.Told]] = defaultdict(list)
    for copy in copies:
        if copy.id in held:
            continue
        assert copy.copy_of_id is not None
        original = gone[copy.copy_of_id]
        copy.status = original.status
        copy.kept_because = []
        copy.removed_at = now
        copy.removed_because = f"{WITH_ORIGINAL}: {original.removed_because}"
        copy.purge_at = purge_at or original.purge_at
        act = "expire" if copy.status == "EXPIRED" else "delete"
        audit.record(
            tx,
            who or system(copy.account_id),
            f"snapshot.{act}",
            "snapshot",
            copy.id,
            now=now,
            before={"status": "COMPLETED"},
            after={"status": copy.status, "because": copy.removed_because},
        )
        message = (
            f"The copy {copy.name or copy.id} went with its original, "
            f"{original.name or original.id}. It can be recovered until "
            f"{copy.purge_at:%Y-%m-%d %H:%M} UTC."
        )
        data = {"source_id": copy.source_id, "copy_of_id": original.id}
        word = "expired" if act == "expire" else "deleted"
        told[copy.account_id, word].append(events.Told(copy.id, message, data))
    for (account_id, word), each in told.items():
        events.emit_all(tx, account_id, f"snapshot.{word}", "snapshot", each, now=now)
    return sum(len(each) for each in told.values())


def come_back(
    tx: Tx, who: Principal, original: Snapshot, recoverable: Iterable[Snapshot], *, now: datetime
) -> int:
    """Take back the copies that went with their original, which was just recovered."""
    back = 0
    for copy in recoverable:
        if copy.copy_of_id != original.id:
            continue
        if not (copy.removed_because or "").startswith(WITH_ORIGINAL):
            continue
        before = copy.status
        copy.status = "COMPLETED"
        copy.removed_at = copy.removed_because = copy.purge_at = None
        audit.record(
            tx,
            who,
            "snapshot.recover",
            "snapshot",
            copy.id,
            now=now,
            before={"status": before},
            after={"status": copy.status},
        )
        events.emit(
            tx,
            copy.account_id,
            "snapshot.recovered",
            "snapshot",
            copy.id,
            f"The copy {copy.name or copy.id} was recovered with its original.",
            now=now,
            data={"source_id": copy.source_id, "copy_of_id": original.id},
        )
        back += 1
    return back


def after_release(tx: Tx, copy: Snapshot, *, now: datetime) -> None:
    """A hold on it was released: it goes after an original that went before it.

    It can be recovered for as long as anything can, however long the original is gone.
    """
    if copy.copy_of_id is None:
        return
    family = family_of(tx, [copy.copy_of_id])
    gone = [each for each in family if each.id == copy.copy_of_id and each.status in REMOVED]
    days = tx.get_one(Account, copy.account_id).recycle_days
    its = [each for each in family if each.id == copy.id]
    go_along(tx, None, gone, its, now=now, purge_at=now + timedelta(days=days))


def held_among(tx: Tx, snapshot_ids: Collection[str]) -> set[str]:
    """Those of them that a hold of their own keeps."""
    if not snapshot_ids:
        return set()
    found = select(Hold.snapshot_id).where(
        Hold.snapshot_id.in_(snapshot_ids), Hold.released_at.is_(None)
    )
    return set(tx.scalars(found))


def is_original_removed(tx: Tx, copy: Snapshot) -> bool:
    """Whether what it is a copy of is in the recycle bin, or gone."""
    found = select(Snapshot.status).where(Snapshot.id == copy.copy_of_id)
    return tx.scalar(found) in REMOVED
