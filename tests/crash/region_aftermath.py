"""What has to hold of copies in other regions and of drills, by the database alone.

Whether a copy gives back what there was is asked of every repository (`control_aftermath`).
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select

from holdfast.control.database import Database
from holdfast.control.tables import Drill, Job, Snapshot

_SAME = (
    *("account_id", "source_id", "host_id", "kind", "archive_format", "captured_at"),
    *("consistency", "files", "logical_bytes"),
)


def check_copies(database: Database) -> None:
    """In a region there is one copy at most, which says what its original says."""
    with database.read() as tx:
        copies = tx.scalars(select(Snapshot).where(Snapshot.copy_of_id.is_not(None))).all()
        originals = {each.id: each for each in tx.scalars(select(Snapshot))}
    there: Counter[tuple[str | None, str]] = Counter()
    for copy in copies:
        original = originals[copy.copy_of_id or ""]
        assert original.copy_of_id is None, f"{copy.id} is a copy of a copy"
        assert original.repository_id != copy.repository_id, f"{copy.id} is beside its original"
        assert (copy.schedule_id, copy.slot_at, copy.name) == (None, None, "")
        for name in _SAME:
            assert getattr(copy, name) == getattr(original, name), f"{copy.id} has another {name}"
        if copy.status in ("PENDING", "RUNNING", "COMPLETED"):
            there[copy.copy_of_id, copy.repository_id] += 1
    twice = [each for each, times in there.items() if times > 1]
    assert not twice, f"copied twice: {twice}"


def check_purged_in_time(database: Database) -> None:
    """What somebody was reading stayed until that had ended."""
    with database.read() as tx:
        purged = {
            each.id: each
            for each in tx.scalars(select(Snapshot).where(Snapshot.purged_at.is_not(None)))
        }
        copied = tx.execute(
            select(Snapshot.copy_of_id, Job).join(Job, Job.id == Snapshot.job_id)
            .where(Snapshot.copy_of_id.is_not(None))
        ).all()  # fmt: skip
        drilled = tx.execute(
            select(Drill.snapshot_id, Job).join(Job, Job.id == Drill.job_id)
        ).all()  # fmt: skip
    for snapshot_id, job in (*copied, *drilled):
        row = purged.get(snapshot_id or "")
        if row is None or row.purged_at is None or job.created_at > row.purged_at:
            continue
        assert job.finished_at is not None, f"{row.id} was purged, a {job.kind} still reads it"
        assert job.finished_at <= row.purged_at, f"{row.id} was purged while a {job.kind} read it"
