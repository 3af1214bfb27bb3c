"""Removed from the repository: only now is a snapshot's data gone, and no more billed.

Invariant: `purged_at` is set for what the job was asked to remove and reports as removed,
and for nothing else. What was not removed is planned again by the recycle bin.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from holdfast.control import events
from holdfast.control.completion import stored
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository, Snapshot


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    asked = {each["snapshot_id"]: each["manifest_id"] for each in job.spec.get("snapshots", ())}
    removed = set(report.manifest_ids("removed"))
    wanted = [snapshot_id for snapshot_id, manifest_id in asked.items() if manifest_id in removed]
    snapshots = tx.scalars(
        select(Snapshot)
        .where(
            Snapshot.id.in_(wanted),
            Snapshot.repository_id == job.repository_id,
            Snapshot.purged_at.is_(None),
        )
        .order_by(Snapshot.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for snapshot in snapshots:
        snapshot.purged_at = now
        snapshot.share_bytes = snapshot.freed_bytes = 0
    tx.flush()
    repository = tx.get_one(Repository, job.repository_id)
    stored.meter_sources(tx, repository, [each.source_id for each in snapshots], now=now)
    message = "The data of this snapshot was removed from the repository; it cannot be recovered."
    events.emit_all(
        tx,
        job.account_id,
        "snapshot.purged",
        "snapshot",
        [
            events.Told(each.id, message, {"source_id": each.source_id, "job_id": job.id})
            for each in snapshots
        ],
        now=now,
        correlation_id=job.correlation_id,
    )


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    """Nothing was removed as far as is known; the recycle bin asks again."""
    del tx, job, now
