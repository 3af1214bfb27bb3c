"""A copy of a snapshot into another region's repository: what its end means for its row.

Its bytes count in the meter that its source has in that region; what came into that region
and what was read in the other one are booked, each once. Invariant: a copy says nothing of
how well its source is protected now, because it is no capture.
"""

from __future__ import annotations

from datetime import datetime

from holdfast.control import copy_fate, metering, run_row
from holdfast.control.completion import stored, stored_snapshot
from holdfast.control.completion.report import Report
from holdfast.control.copy_policy import ORIGINAL_REMOVED
from holdfast.control.database import Tx
from holdfast.control.job_end import JobState
from holdfast.control.tables import Job, Repository, Snapshot


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    run_row.has_begun(_copy(tx, job), now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del now
    run_row.waits_again(_copy(tx, job), job)


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    copy = _copy(tx, job)
    manifest_id = report.manifest_id("manifest_id")
    stored_snapshot.check_own(tx, copy, manifest_id)
    copy.status = "COMPLETED"
    copy.finished_at = now
    copy.manifest_id = manifest_id
    copy.read_bytes = report.number("bytes_read")
    copy.stored_bytes = report.number("stored_bytes")
    # Until the repository is measured: what this copy added, and nothing of what it reused.
    copy.share_bytes = copy.freed_bytes = copy.stored_bytes
    copy.findings = list(report.findings)
    copy.error_code = copy.error_message = None
    repository.stored_bytes += copy.stored_bytes
    if repository.created_in_store_at is None:
        repository.created_in_store_at = now
    tx.flush()
    stored.meter_sources(tx, repository, [copy.source_id], now=now)
    # It goes out of the one region and into the other one.
    for what, region_id, quantity_bytes in (
        ("downloaded", job.spec["source_region_id"], copy.read_bytes),
        ("uploaded", repository.region_id, copy.stored_bytes),
    ):
        metering.book_once(
            tx,
            account_id=job.account_id,
            region_id=region_id,
            what=what,
            resource_kind="snapshot",
            resource_id=copy.id,
            quantity_bytes=quantity_bytes,
            at=now,
        )
    message = f"{_what(copy)} is complete: {copy.files or 0:,} files."
    stored_snapshot.tell(tx, copy, "snapshot.copied", message, job=job, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    copy = _copy(tx, job)
    run_row.has_failed(copy, job, now=now)
    if job.state == JobState.CANCELLED:
        copy.status = "CANCELLED"
        message = f"{_what(copy)} was cancelled."
        if copy_fate.is_original_removed(tx, copy):
            # Not what anybody wished: were the original recovered, it would be copied again.
            copy.error_code = ORIGINAL_REMOVED
            copy.error_message = "Its original was removed before the copy was made."
            message += f" {copy.error_message}"
        stored_snapshot.tell(tx, copy, "snapshot.cancelled", message, job=job, now=now)
    else:
        copy.status = "FAILED"
        message = f"{_what(copy)} has failed. {job.error_message or ''}"
        stored_snapshot.tell(tx, copy, "snapshot.copy_failed", message, job=job, now=now)


def _copy(tx: Tx, job: Job) -> Snapshot:
    return tx.get_one(Snapshot, job.subject_id, with_for_update=True, populate_existing=True)


def _what(copy: Snapshot) -> str:
    return f"The copy {copy.name or copy.id[:8]} of snapshot {(copy.copy_of_id or '')[:8]}"
