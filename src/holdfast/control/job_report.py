"""What a host says about a job that it works on: progress, and the end.

It never trusts a report: it counts only from the host and for the attempt that hold the
job now. Invariants: a stale report changes nothing; the first finish of an attempt decides,
and its repetition is answered in the same way and has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select

from holdfast.control import completion, job_end
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_claim import LEASE_SECONDS, working_host
from holdfast.control.job_end import JobState
from holdfast.control.job_scope import any_job, no_such_job
from holdfast.control.principal import Principal
from holdfast.control.sealing import MasterKeys
from holdfast.control.storable import storable_document, storable_text
from holdfast.control.tables import Host, Job, JobLine
from holdfast.errors import StaleAttempt, UsageError

LEVELS: Final = ("debug", "info", "warning", "error")
MAX_LINES_PER_REPORT: Final = 500
MAX_LINES_PER_JOB: Final = 10_000
MAX_LINE_CHARACTERS: Final = 4_000
MAX_FINDINGS: Final = 1_000
_MAX_PROGRESS_BYTES: Final = 64 * 1024
_MAX_FINDING_CHARACTERS: Final = 4_000
# A measurement lists every snapshot of a repository, 200 bytes each.
_MAX_RESULT_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's log, as its host sent it."""

    at: datetime
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt failed, in the words of the tree of errors."""

    code: str
    message: str
    retryable: bool = False


def report(
    tx: Tx,
    who: Principal,
    job_id: str,
    *,
    attempt: int,
    stage: str,
    progress: Mapping[str, Any],
    lines: Sequence[LogLine] = (),
    messages: Sequence[Mapping[str, Any]] = (),
    lease_seconds: float = LEASE_SECONDS,
    now: datetime,
) -> tuple[datetime, bool, dict[str, Any] | None]:
    """Note where an attempt stands and renew its lease.

    Returns until when the lease holds, whether somebody wants the job to be cancelled, and
    the orders for an instance of a task; other jobs have none, and send no `messages`.
    `StaleAttempt` where this attempt holds the job no longer.
    """
    job = _held(tx, who, job_id, attempt)
    if job.state != JobState.LEASED:
        raise _stale(job)
    job.stage = storable_text(stage, limit=32)
    job.progress = storable_document(progress, limit_bytes=_MAX_PROGRESS_BYTES)
    job.lease_until = now + timedelta(seconds=lease_seconds)
    _add_lines(tx, job, lines, now=now)
    orders = None
    if job.kind == "task":
        from holdfast.control import task_report  # which reads what jobs are made of

        task_report.take(tx, job, messages, now=now)
        orders = task_report.orders(tx, job)
    return job.lease_until, job.cancel_requested_at is not None, orders


def finish(
    tx: Tx,
    who: Principal,
    job_id: str,
    *,
    attempt: int,
    outcome: str,
    result: Mapping[str, Any] | None = None,
    findings: Sequence[Mapping[str, Any]] = (),
    error: JobError | None = None,
    lines: Sequence[LogLine] = (),
    messages: Sequence[Mapping[str, Any]] = (),
    now: datetime,
    keys: MasterKeys | None = None,
) -> Job:
    """End an attempt: the job, the catalog, meters, events and what follows, all or nothing.

    `outcome` is succeeded, failed or cancelled. A failure that may pass is queued again; so
    is a cancellation that nobody asked for, because then the agent was stopped and not the
    job. What succeeded counts as that even if a wish to cancel came on the way.
    """
    del keys  # nothing that follows so far needs a secret
    if outcome not in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        raise UsageError(f"{outcome[:40]!r} is no outcome; say succeeded, failed or cancelled.")
    host = working_host(tx, who)
    seen = any_job(tx, job_id)
    if outcome == JobState.SUCCEEDED and seen is not None and seen.leased_to == host.id:
        completion.lock_ahead(tx, seen)
    job = _held(tx, who, job_id, attempt)
    if job.state != JobState.LEASED:
        return job  # `leased_to` says that this attempt's own report ended it
    _add_lines(tx, job, lines, now=now)
    if job.kind == "task":
        from holdfast.control import task_report

        task_report.take(tx, job, messages, now=now)
    told = Report(
        storable_document(result or {}, limit_bytes=_MAX_RESULT_BYTES), _findings(findings)
    )
    if outcome == JobState.SUCCEEDED:
        job_end.succeed(tx, job, who, told, now=now)
        return job
    job.findings = list(told.findings)
    if outcome == JobState.CANCELLED and job.cancel_requested_at is not None:
        job_end.cancel(tx, job, who, now=now)
        return job
    if outcome == JobState.CANCELLED:
        message = "The agent was stopped while it worked on this."
        error = JobError("interrupted", message, retryable=True)
    error = error or JobError("error", "The agent gave no reason; look at the job's log.")
    code = storable_text(error.code, limit=64)
    message = storable_text(error.message, limit=MAX_LINE_CHARACTERS)
    if error.retryable or job.cancel_requested_at is not None:
        job_end.try_again(tx, job, who, code, message, now=now)
    else:
        job_end.fail(tx, job, who, code, message, now=now)
    return job


def _held(tx: Tx, who: Principal, job_id: str, attempt: int) -> Job:
    """The job, locked, whose attempt this host holds or has ended by its own report."""
    host = working_host(tx, who)
    job = any_job(tx, job_id, lock=True)
    if job is None or not _may_know(host, job):
        raise no_such_job()
    if job.attempt != attempt or job.leased_to != host.id:
        raise _stale(job)
    return job


def _may_know(host: Host, job: Job) -> bool:
    if job.host_id is None:
        return host.keeper and host.region_id == job.region_id
    return job.host_id == host.id


def _stale(job: Job) -> StaleAttempt:
    return StaleAttempt(
        f"This attempt holds the job no longer (it stands at attempt {job.attempt}, "
        f"{job.state}). Stop working on it; nothing of this attempt counts."
    )


def _add_lines(tx: Tx, job: Job, lines: Sequence[LogLine], *, now: datetime) -> None:
    if not lines:
        return
    if len(lines) > MAX_LINES_PER_REPORT:
        raise UsageError(f"{len(lines)} log lines at once; send at most {MAX_LINES_PER_REPORT}.")
    kept = tx.scalar(select(func.count()).where(JobLine.job_id == job.id)) or 0
    for line in lines[: max(MAX_LINES_PER_JOB - kept, 0)]:
        tx.add(
            JobLine(
                job_id=job.id,
                attempt=job.attempt,
                at=line.at,
                level=line.level if line.level in LEVELS else "info",
                text=storable_text(line.text, limit=MAX_LINE_CHARACTERS),
            )
        )
    if kept < MAX_LINES_PER_JOB <= kept + len(lines):
        text = f"The log has {MAX_LINES_PER_JOB:,} lines; what came after them is not kept."
        tx.add(JobLine(job_id=job.id, attempt=job.attempt, at=now, level="warning", text=text))


def _findings(findings: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], ...]:
    listed = list(findings)
    kept = [
        {
            "code": storable_text(str(each.get("code", "")), limit=64),
            "message": storable_text(str(each.get("message", "")), limit=_MAX_FINDING_CHARACTERS),
            "subject": storable_text(str(each.get("subject", "")), limit=_MAX_FINDING_CHARACTERS),
        }
        for each in listed[:MAX_FINDINGS]
    ]
    if len(listed) > MAX_FINDINGS:
        left = len(listed) - MAX_FINDINGS
        message = f"{left:,} more findings were reported than are kept."
        kept.append({"code": "more_findings", "message": message, "subject": ""})
    return tuple(kept)
