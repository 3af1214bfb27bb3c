"""Views: snapshots that are seen in a bucket, below a prefix, without bytes of their own.

A view is seen while its snapshot is COMPLETED and nobody has removed the view; a snapshot
that is recycled goes out of sight, and one that is recovered comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast.control.database import Tx
from holdfast.control.tables import Bucket, Snapshot, Source, Task, View
from holdfast.errors import UsageError


@dataclass(frozen=True, slots=True)
class SeenView:
    """A snapshot in a bucket: files of `captured_path` are keys below `prefix`."""

    prefix: str
    snapshot_id: str
    manifest_id: str
    repository_id: str
    captured_path: str
    created_at: datetime


def show(
    tx: Tx,
    bucket: Bucket,
    prefix: str,
    snapshot: Snapshot,
    task: Task | None = None,
    *,
    now: datetime,
) -> bool:
    """Let a snapshot be seen in a bucket of its account; again does nothing.

    Returns whether the bucket is there: it may have been removed meanwhile. The last thing
    of a transaction, after meters: buckets are locked behind the account.
    """
    if prefix and not prefix.endswith("/"):
        raise UsageError(f"A place in a bucket ends with a slash, and {prefix!r} does not.")
    if bucket.account_id != snapshot.account_id:
        raise UsageError("A snapshot can be seen in buckets of its own account only.")
    insert = sqlite.insert if tx.connection().dialect.name == "sqlite" else postgresql.insert
    row = {
        "bucket_id": bucket.id,
        "snapshot_id": snapshot.id,
        "task_id": None if task is None else task.id,
        "prefix": prefix,
        "created_at": now,
    }
    tx.flush()
    there = select(Bucket.id).where(Bucket.id == bucket.id)
    # FOR KEY SHARE: it stays until the transaction ends.
    if tx.scalars(there.with_for_update(read=True, key_share=True)).first() is None:
        return False
    tx.execute(insert(View).values(row).on_conflict_do_nothing())
    return True


def views(tx: Tx, bucket: Bucket) -> list[SeenView]:
    """What is seen in a bucket, oldest first; of two with the same key the later one wins."""
    rows = tx.execute(
        select(
            View.prefix,
            View.snapshot_id,
            Snapshot.manifest_id,
            Snapshot.repository_id,
            Source.path,
            View.created_at,
        )
        .join(Snapshot, Snapshot.id == View.snapshot_id)
        .join(Source, Source.id == Snapshot.source_id)
        .where(*_seen(bucket))
        .order_by(View.created_at, View.id)
    )
    return [
        SeenView(prefix, snapshot_id, manifest_id, repository_id, path, created_at)
        for prefix, snapshot_id, manifest_id, repository_id, path, created_at in rows
        if manifest_id is not None
    ]


def has_any(tx: Tx, bucket: Bucket) -> bool:
    """Whether anything is seen in a bucket; whether it shows a file only gateways can tell."""
    found = select(View.id).join(Snapshot, Snapshot.id == View.snapshot_id).where(*_seen(bucket))
    return bool(tx.scalar(select(exists(found))))


def _seen(bucket: Bucket) -> tuple[ColumnElement[bool], ...]:
    return (
        View.bucket_id == bucket.id,
        View.removed_at.is_(None),
        Snapshot.status == "COMPLETED",
        Snapshot.manifest_id.is_not(None),
    )
