"""A drill: what its begin and end mean for its row and for the snapshot's proof.

Invariants: a snapshot counts as proven by a drill only when all of it came back as it was
captured, and as of the drill's beginning, never later; a drill that could not be done says
nothing of the snapshot.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import exists, select

from holdfast.control import events, metering, run_row
from holdfast.control.completion.report import Report
from holdfast.control.completion.verify import with_finding, without_finding
from holdfast.control.database import Tx
from holdfast.control.job_end import JobState
from holdfast.control.tables import Drill, Job, Snapshot
from holdfast.errors import Damaged
from holdfast.model.finding import Finding

NOT_PASSED: Final = "drill_failed"


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    run_row.has_begun(_drill(tx, job), now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del now
    run_row.waits_again(_drill(tx, job), job)


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    drill = _drill(tx, job)
    drill.status = "COMPLETED"
    drill.finished_at = now
    drill.passed = report.flag("passed")
    drill.files = report.number("files")
    drill.restored_bytes = report.number("restored_bytes")
    drill.compared_bytes = report.number("compared_bytes")
    drill.restore_milliseconds = report.number("restore_milliseconds")
    drill.findings = list(report.findings)
    drill.error_code = drill.error_message = None
    _prove(tx, drill, job)
    if drill.host_id is not None:
        # What a keeper reads is the service's own doing; a chosen host takes the bytes out.
        metering.book_once(
            tx,
            account_id=job.account_id,
            region_id=job.region_id,
            what="downloaded",
            resource_kind="drill",
            resource_id=drill.id,
            quantity_bytes=drill.restored_bytes,
            at=now,
        )
    if drill.passed:
        message = f"{drill.files:,} files of {_what(drill)} came back as they were captured."
        _tell(tx, job, drill, "drill.passed", message, now=now)
    else:
        _tell_not_passed(tx, job, drill, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    drill = _drill(tx, job)
    run_row.has_failed(drill, job, now=now)
    if job.state == JobState.CANCELLED:
        drill.status = "CANCELLED"
        _tell(
            tx,
            job,
            drill,
            "drill.cancelled",
            f"The drill of {_what(drill)} was cancelled.",
            now=now,
        )
    elif job.error_code == Damaged.code:
        # Not even what there is to restore can be read: just what a drill is to find out.
        drill.status, drill.passed = "COMPLETED", False
        drill.files = drill.restored_bytes = drill.compared_bytes = 0
        drill.restore_milliseconds = 0
        _prove(tx, drill, job)
        _tell_not_passed(tx, job, drill, now=now)
    else:
        drill.status = "FAILED"
        message = f"The drill of {_what(drill)} could not be done. {job.error_message or ''}"
        _tell(tx, job, drill, "drill.not_done", message.strip(), now=now)


def _prove(tx: Tx, drill: Drill, job: Job) -> None:
    """Note the result with the snapshot, and what it proves."""
    begun = job.started_at or job.created_at
    snapshot = tx.get_one(Snapshot, drill.snapshot_id, with_for_update=True, populate_existing=True)
    whole = not drill.paths
    snapshot.drill = {
        "drill_id": drill.id,
        "at": begun.isoformat(),
        "passed": drill.passed,
        "files": drill.files,
        "bytes": drill.restored_bytes,
        "restore_seconds": (drill.restore_milliseconds or 0) / 1000,
        "partial": not whole,
    }
    if not drill.passed:
        message = (
            "A drill restored this snapshot, and it did not come back as it was captured: "
            f"{drill.error_message or f'{len(drill.findings):,} findings.'}"
        )
        finding = Finding(NOT_PASSED, message, drill.id)
        snapshot.findings = with_finding(snapshot.findings, finding)
    elif whole:
        snapshot.drilled_at = max(snapshot.drilled_at or begun, begun)
        # One that goes on at the same time may have seen what this one has not.
        failed_since = exists().where(
            Drill.snapshot_id == snapshot.id, Drill.passed.is_(False), Drill.finished_at > begun
        )
        if not tx.scalar(select(failed_since)):
            snapshot.findings = without_finding(snapshot.findings, NOT_PASSED)


def _drill(tx: Tx, job: Job) -> Drill:
    return tx.get_one(Drill, job.subject_id, with_for_update=True, populate_existing=True)


def _what(drill: Drill) -> str:
    snapshot = f"the snapshot {drill.snapshot_id[:8]}"
    return f"{len(drill.paths):,} chosen paths of {snapshot}" if drill.paths else snapshot


def _tell_not_passed(tx: Tx, job: Job, drill: Drill, *, now: datetime) -> None:
    message = (
        f"Not everything of {_what(drill)} came back as it was captured. Look at the drill's "
        "findings, take a new backup, and have the repository checked."
    )
    _tell(tx, job, drill, "drill.failed", message, now=now)


def _tell(tx: Tx, job: Job, drill: Drill, kind: str, message: str, *, now: datetime) -> None:
    data = {
        "status": drill.status,
        "passed": drill.passed,
        "snapshot_id": drill.snapshot_id,
        "schedule_id": drill.schedule_id,
        "host_id": drill.host_id,
        "job_id": job.id,
        "attempt": job.attempt,
        "findings": len(drill.findings),
        "error_code": drill.error_code,
    }
    events.emit(
        tx,
        job.account_id,
        kind,
        "drill",
        drill.id,
        message,
        now=now,
        data=data,
        correlation_id=job.correlation_id,
    )
