"""A run of a backup: what its begin and end mean for its snapshot and for what follows it.

Invariant: a completed run is never lost because something that follows it failed.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy import select

from holdfast.control import copy_policy, retention, run_row
from holdfast.control.completion import stored_snapshot
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_end import HOST_REVOKED, NOT_TAKEN, JobState
from holdfast.control.tables import Job, Schedule, Snapshot
from holdfast.errors import HoldfastError
from holdfast.model.finding import Finding

_log = structlog.get_logger(__name__)


def lock_ahead(tx: Tx, job: Job) -> None:
    """Lock the schedule whose retention is applied after the run."""
    its = select(Snapshot.schedule_id).where(Snapshot.id == job.subject_id).scalar_subquery()
    tx.execute(select(Schedule.id).where(Schedule.id == its).with_for_update(key_share=True)).all()


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    snapshot = _snapshot(tx, job)
    snapshot.status = "RUNNING"
    if snapshot.started_at is None:
        snapshot.started_at = now
        stored_snapshot.tell(
            tx, snapshot, "snapshot.started", f"{_what(snapshot)} has begun.", job=job, now=now
        )


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del now
    run_row.waits_again(_snapshot(tx, job), job)


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    snapshot = stored_snapshot.complete(tx, job.subject_id, report, job=job, now=now)
    _apply_retention(tx, snapshot, now=now)
    _start_copy(tx, snapshot, now=now)
    stored_snapshot.tell_completed(tx, snapshot, _what(snapshot), job=job, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    snapshot = _snapshot(tx, job)
    run_row.has_failed(snapshot, job, now=now)
    reason = job.error_message or ""
    if job.state == JobState.CANCELLED:
        snapshot.status = "CANCELLED"
        stored_snapshot.tell(
            tx,
            snapshot,
            "snapshot.cancelled",
            f"{_what(snapshot)} was cancelled.",
            job=job,
            now=now,
        )
    elif job.error_code in (NOT_TAKEN, HOST_REVOKED) and snapshot.slot_at and not job.attempt:
        # A slot without a run is a missed slot, not a failure of something that was tried.
        snapshot.status = "SKIPPED"
        finding = Finding("host_silent", reason, snapshot.host_id)
        snapshot.findings = [*snapshot.findings, finding.as_dict()]
        message = f"{_what(snapshot)} was missed. {reason}"
        stored_snapshot.tell(tx, snapshot, "snapshot.missed", message, job=job, now=now)
    else:
        snapshot.status = "FAILED"
        message = f"{_what(snapshot)} has failed. {reason}"
        stored_snapshot.tell(tx, snapshot, "snapshot.failed", message, job=job, now=now)


def _snapshot(tx: Tx, job: Job) -> Snapshot:
    return tx.get_one(Snapshot, job.subject_id, with_for_update=True, populate_existing=True)


def _apply_retention(tx: Tx, snapshot: Snapshot, *, now: datetime) -> None:
    if snapshot.schedule_id is None:
        return
    schedule = tx.get(Schedule, snapshot.schedule_id)
    if schedule is None or schedule.removed_at is not None:
        return
    try:
        with tx.begin_nested():
            retention.apply(tx, schedule, now=now)
    except HoldfastError as error:
        _log.warning("retention_not_applied", schedule_id=schedule.id, error=error.message)
        message = f"Retention was not applied after this run: {error.message}"
        finding = Finding("retention_not_applied", message, schedule.id)
        snapshot.findings = [*snapshot.findings, finding.as_dict()]


def _start_copy(tx: Tx, snapshot: Snapshot, *, now: datetime) -> None:
    """Begin the copy that the schedule wants; what cannot be begun now is made up for."""
    schedule = snapshot.schedule_id and tx.get(Schedule, snapshot.schedule_id)
    if not schedule or schedule.copy_region_id is None:
        return
    try:
        with tx.begin_nested():
            copy_policy.start_by_policy(tx, snapshot, schedule, now=now)
    except HoldfastError as error:
        _log.warning("copy_not_begun", schedule_id=schedule.id, error=error.message)
        finding = copy_policy.not_begun(schedule, error)
        snapshot.findings = [*snapshot.findings, finding.as_dict()]


def _what(snapshot: Snapshot) -> str:
    return f"Backup {snapshot.name}" if snapshot.name else f"Backup {snapshot.id[:8]}"
