"""Space was freed in the repository: how much it has now."""

from __future__ import annotations

from datetime import datetime

from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    report.number("freed_bytes")
    repository.stored_bytes = report.number("stored_bytes")
    repository.pruned_at = now


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    """What was not freed stays as it was; a later one frees it."""
    del tx, job, now
