"""The repository was measured: each snapshot's share of it, and what each source costs.

A snapshot that was completed while the measurement ran is not in it and keeps what its run
reported. Invariant: shares are set for snapshots of the measured repository only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from holdfast.control.completion import stored
from holdfast.control.completion.report import Report, checked_number
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository, Snapshot
from holdfast.errors import UsageError


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    repository.stored_bytes = report.number("stored_bytes")
    # As of its beginning: what came to the repository meanwhile is not in it.
    repository.measured_at = job.started_at or now
    shares = report.by_manifest("shares")
    known = tx.execute(
        select(Snapshot.id, Snapshot.manifest_id, Snapshot.source_id)
        .where(
            Snapshot.repository_id == repository.id,
            Snapshot.manifest_id.is_not(None),
            Snapshot.purged_at.is_(None),
        )
        .order_by(Snapshot.id)
        .with_for_update()
    ).all()
    changes = [
        {"id": snapshot_id, **_share(shares[manifest_id])}
        for snapshot_id, manifest_id, _ in known
        if manifest_id in shares
    ]
    if changes:
        tx.execute(update(Snapshot), changes)
    stored.meter_sources(tx, repository, [source_id for _, _, source_id in known], now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    """The last measurement stays in force."""
    del tx, job, now


def _share(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise UsageError("The result's shares has a member that is no object.")
    return {name: checked_number(value.get(name), name) for name in ("share_bytes", "freed_bytes")}
