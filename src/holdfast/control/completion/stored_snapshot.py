"""A snapshot's data is in the repository: what that means for its row, meter and source.

Shared by runs of backups and by snapshots of tasks. Invariants: a snapshot is COMPLETED
only with a manifest that no other snapshot has; its bytes count in its source's meter, and
its transfer is booked, once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import select

from holdfast.control import events, metering
from holdfast.control.completion import stored
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository, Snapshot, Source
from holdfast.errors import UsageError
from holdfast.model.consistency import Consistency

_GRADES: Final = frozenset(each.value for each in Consistency)


def complete(tx: Tx, snapshot_id: str, report: Report, *, job: Job, now: datetime) -> Snapshot:
    """Note what was stored; `job` is the one that did it. `UsageError` for too little a report."""
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    snapshot = tx.get_one(Snapshot, snapshot_id, with_for_update=True, populate_existing=True)
    manifest_id = report.manifest_id("manifest_id")
    check_own(tx, snapshot, manifest_id)
    snapshot.status = "COMPLETED"
    snapshot.finished_at = now
    snapshot.manifest_id = manifest_id
    snapshot.captured_at = min(report.time("captured_at"), now)
    snapshot.consistency = report.word("consistency", _GRADES)
    snapshot.files = report.number("files")
    snapshot.logical_bytes = report.number("logical_bytes")
    snapshot.read_bytes = report.number("read_bytes")
    snapshot.stored_bytes = report.number("stored_bytes")
    # Until the repository is measured: what this run added, and nothing of what it reused.
    snapshot.share_bytes = snapshot.freed_bytes = snapshot.stored_bytes
    snapshot.findings = list(report.findings)
    snapshot.error_code = snapshot.error_message = None
    if report.flag("verified"):
        snapshot.verified_at = now
        snapshot.verification = {"at": now.isoformat(), "clean": True, "by": "backup"}
    source = tx.get_one(Source, snapshot.source_id)
    if source.protected_at is None or source.protected_at < snapshot.captured_at:
        source.protected_at = snapshot.captured_at
    repository.stored_bytes += snapshot.stored_bytes
    if repository.created_in_store_at is None:
        repository.created_in_store_at = now
    tx.flush()
    stored.meter_sources(tx, repository, [snapshot.source_id], now=now)
    metering.book_once(
        tx,
        account_id=job.account_id,
        region_id=repository.region_id,
        what="uploaded",
        resource_kind="snapshot",
        resource_id=snapshot.id,
        quantity_bytes=snapshot.stored_bytes,
        at=now,
    )
    return snapshot


def tell_completed(tx: Tx, snapshot: Snapshot, what: str, *, job: Job, now: datetime) -> None:
    """Say that it is complete; `what` begins the sentence."""
    message = f"{what} is complete: {snapshot.files:,} files."
    if snapshot.findings:
        message += f" {len(snapshot.findings):,} findings should be looked at."
    tell(tx, snapshot, "snapshot.completed", message, job=job, now=now)


def tell(tx: Tx, snapshot: Snapshot, kind: str, message: str, *, job: Job, now: datetime) -> None:
    """Say what happened to a snapshot that this job makes."""
    data = {
        "status": snapshot.status,
        "source_id": snapshot.source_id,
        "schedule_id": snapshot.schedule_id,
        "host_id": snapshot.host_id,
        "job_id": job.id,
        "attempt": job.attempt,
        "findings": len(snapshot.findings),
        "error_code": snapshot.error_code,
    }
    if snapshot.task_snapshot_id is not None:
        data["task_snapshot_id"] = snapshot.task_snapshot_id
    if snapshot.copy_of_id is not None:
        data["copy_of_id"] = snapshot.copy_of_id
    events.emit(
        tx,
        job.account_id,
        kind,
        "snapshot",
        snapshot.id,
        message.strip(),
        now=now,
        data=data,
        correlation_id=job.correlation_id,
    )


def check_own(tx: Tx, snapshot: Snapshot, manifest_id: str) -> None:
    """Refuse another snapshot's manifest: when this one expires, that one would be lost."""
    other = tx.scalar(
        select(Snapshot.id).where(
            Snapshot.repository_id == snapshot.repository_id,
            Snapshot.manifest_id == manifest_id,
            Snapshot.id != snapshot.id,
        )
    )
    if other is not None:
        raise UsageError(
            f"The manifest {manifest_id} is another snapshot's; each run reports the one that "
            "it has written itself."
        )
