"""How far a run or a restore has come, in the members that Lium's client shows.

Progress is in percent, times are RFC 3339, rates are bytes of a second. What is not known
is null: the client leaves it out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast.control.tables import Job

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED", "DELETED"})


def written(moment: datetime | None) -> str | None:
    """A time as the client parses it."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def of(
    *,
    status: str,
    started_at: datetime | None,
    finished_at: datetime | None,
    files: int | None,
    size_bytes: int | None,
    job: Job | None,
    now: datetime,
) -> dict[str, Any]:
    """The counters of one run; `files` and `size_bytes` are those of a finished one."""
    reported = dict(job.progress) if job is not None and status == "RUNNING" else {}
    done_files = _count(reported, "files_done") if reported else files
    all_files = _count(reported, "files_total") if reported else files
    done_bytes = _count(reported, "bytes_done") if reported else size_bytes
    all_bytes = _count(reported, "bytes_total") if reported else size_bytes
    elapsed = None
    if started_at is not None:
        elapsed = max(0, int(((finished_at or now) - started_at).total_seconds()))
    rate = done_bytes // elapsed if done_bytes and elapsed else None
    left = None
    if rate and status == "RUNNING" and all_bytes and done_bytes is not None:
        left = max(0, all_bytes - done_bytes) // rate
    return {
        "progress": _percent(status, done_bytes, all_bytes),
        "processed_files": done_files,
        "total_files": all_files,
        "processed_bytes": done_bytes,
        "total_bytes": all_bytes,
        "elapsed_seconds": elapsed,
        "throughput_bytes_per_second": rate,
        "estimated_remaining_seconds": left,
    }


def _count(progress: dict[str, Any], name: str) -> int | None:
    value = progress.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _percent(status: str, done: int | None, whole: int | None) -> float:
    if status in ("COMPLETED", "EXPIRED", "DELETED"):
        return 100.0
    if not done or not whole:
        return 0.0
    return round(min(100.0, 100 * done / whole), 2)
