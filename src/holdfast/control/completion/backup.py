"""A run of a backup: what its begin and end mean for its snapshot, its source and the meters.

Invariants: a snapshot is COMPLETED only with the manifest of its own run, which no other
snapshot has; a completed run is never lost because something that follows it failed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import select

from holdfast.control import events, metering, retention
from holdfast.control.completion import stored
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_end import HOST_REVOKED, NOT_TAKEN, JobState
from holdfast.control.tables import Job, Repository, Schedule, Snapshot, Source
from holdfast.errors import HoldfastError, UsageError
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding

_GRADES: Final = frozenset(each.value for each in Consistency)
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
        _tell(tx, job, snapshot, "snapshot.started", f"{_what(snapshot)} has begun.", now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del now
    snapshot = _snapshot(tx, job)
    snapshot.status = "PENDING"
    snapshot.error_code, snapshot.error_message = job.error_code, job.error_message


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    snapshot = _snapshot(tx, job)
    manifest_id = report.manifest_id("manifest_id")
    _check_own(tx, snapshot, manifest_id)
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
    _apply_retention(tx, snapshot, now=now)
    message = f"{_what(snapshot)} is complete: {snapshot.files:,} files."
    if snapshot.findings:
        message += f" {len(snapshot.findings):,} findings should be looked at."
    _tell(tx, job, snapshot, "snapshot.completed", message, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    snapshot = _snapshot(tx, job)
    snapshot.finished_at = now
    snapshot.findings = list(job.findings)
    snapshot.error_code, snapshot.error_message = job.error_code, job.error_message
    reason = job.error_message or ""
    if job.state == JobState.CANCELLED:
        snapshot.status = "CANCELLED"
        _tell(tx, job, snapshot, "snapshot.cancelled", f"{_what(snapshot)} was cancelled.", now=now)
    elif job.error_code in (NOT_TAKEN, HOST_REVOKED) and snapshot.slot_at and not job.attempt:
        # A slot without a run is a missed slot, not a failure of something that was tried.
        snapshot.status = "SKIPPED"
        finding = Finding("host_silent", reason, snapshot.host_id)
        snapshot.findings = [*snapshot.findings, finding.as_dict()]
        message = f"{_what(snapshot)} was missed. {reason}"
        _tell(tx, job, snapshot, "snapshot.missed", message, now=now)
    else:
        snapshot.status = "FAILED"
        message = f"{_what(snapshot)} has failed. {reason}"
        _tell(tx, job, snapshot, "snapshot.failed", message, now=now)


def _snapshot(tx: Tx, job: Job) -> Snapshot:
    return tx.get_one(Snapshot, job.subject_id, with_for_update=True, populate_existing=True)


def _check_own(tx: Tx, snapshot: Snapshot, manifest_id: str) -> None:
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


def _what(snapshot: Snapshot) -> str:
    return f"Backup {snapshot.name}" if snapshot.name else f"Backup {snapshot.id[:8]}"


def _tell(tx: Tx, job: Job, snapshot: Snapshot, kind: str, message: str, *, now: datetime) -> None:
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
