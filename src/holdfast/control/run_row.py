"""The row that stands for a run: a snapshot that is made or copied, a restore, a drill.

Their statuses have the same words, and a job's life does the same to each of them; what an
end means beyond that is each kind's business. It neither reads nor locks anything.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from holdfast.control.tables import Drill, Job, Restore, Snapshot

UNFINISHED: Final = ("PENDING", "RUNNING")
REMOVED: Final = ("EXPIRED", "DELETED")
"""Of snapshots: by retention, or by a person."""

RunRow = Snapshot | Restore | Drill


def has_begun(row: RunRow, *, now: datetime) -> None:
    """A host has taken it, for the first time or again."""
    row.status = "RUNNING"
    row.started_at = row.started_at or now


def waits_again(row: RunRow, job: Job) -> None:
    """An attempt came to nothing, and another one will be made."""
    row.status = "PENDING"
    row.error_code, row.error_message = job.error_code, job.error_message


def has_failed(row: RunRow, job: Job, *, now: datetime) -> None:
    """It ended without its result; the caller says with which status."""
    row.finished_at = now
    row.findings = list(job.findings)
    row.error_code, row.error_message = job.error_code, job.error_message
