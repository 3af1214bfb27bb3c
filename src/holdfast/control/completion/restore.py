"""A restore: what its begin and end mean for its row, and what was taken out is booked."""

from __future__ import annotations

from datetime import datetime

from holdfast.control import events, metering, run_row
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_end import JobState
from holdfast.control.tables import Job, Restore


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    run_row.has_begun(_restore(tx, job), now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del now
    run_row.waits_again(_restore(tx, job), job)


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    restore = _restore(tx, job)
    restore.status = "COMPLETED"
    restore.finished_at = now
    restore.files = report.number("files")
    restore.restored_bytes = report.number("restored_bytes")
    restore.findings = list(report.findings)
    restore.error_code = restore.error_message = None
    metering.book_once(
        tx,
        account_id=job.account_id,
        region_id=job.region_id,
        what="downloaded",
        resource_kind="restore",
        resource_id=restore.id,
        quantity_bytes=restore.restored_bytes,
        at=now,
    )
    message = f"{restore.files:,} files were restored to {restore.target}."
    _tell(tx, job, restore, "restore.completed", message, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    restore = _restore(tx, job)
    run_row.has_failed(restore, job, now=now)
    if job.state == JobState.CANCELLED:
        restore.status = "CANCELLED"
        message = f"The restore to {restore.target} was cancelled."
        _tell(tx, job, restore, "restore.cancelled", message, now=now)
    else:
        restore.status = "FAILED"
        message = f"The restore to {restore.target} has failed. {job.error_message or ''}"
        _tell(tx, job, restore, "restore.failed", message.strip(), now=now)


def _restore(tx: Tx, job: Job) -> Restore:
    return tx.get_one(Restore, job.subject_id, with_for_update=True, populate_existing=True)


def _tell(tx: Tx, job: Job, restore: Restore, kind: str, message: str, *, now: datetime) -> None:
    data = {
        "status": restore.status,
        "snapshot_id": restore.snapshot_id,
        "host_id": restore.host_id,
        "job_id": job.id,
        "attempt": job.attempt,
        "findings": len(restore.findings),
        "error_code": restore.error_code,
    }
    events.emit(
        tx,
        job.account_id,
        kind,
        "restore",
        restore.id,
        message,
        now=now,
        data=data,
        correlation_id=job.correlation_id,
    )
