"""How a job ends, or goes back to the queue: the one place where its state leaves `leased`.

It never gives work out. Invariants: what a job's end means for the catalog happens in the
transaction that ends it, and only there, so at most once; a job that has ended is not
changed any more; `leased_to` of a job that is not leased names the host whose own report
ended its last attempt, and is None where the attempt was taken away.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy import Select, and_, or_, select
from sqlalchemy.exc import DBAPIError

from holdfast.control import audit, completion
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_scope import find_job
from holdfast.control.principal import Principal, Right, system
from holdfast.control.tables import Host, Job
from holdfast.errors import NotReady

RETRY_PAUSES_SECONDS: Final = (30, 120, 480, 1800)
"""How long a job rests after its first, second, third and any later failed attempt."""

LEASE_LOST: Final = "lease_lost"
NOT_TAKEN: Final = "not_taken"
HOST_REVOKED: Final = "host_revoked"

_AT_ONCE: Final = 100
_log = structlog.get_logger(__name__)


class JobState(StrEnum):
    """Where a job stands; the last three are the end."""

    QUEUED = "queued"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def pause_after(attempt: int) -> timedelta:
    """How long to wait after this attempt (the first is 1) before the next one."""
    last = len(RETRY_PAUSES_SECONDS)
    return timedelta(seconds=RETRY_PAUSES_SECONDS[min(max(attempt, 1), last) - 1])


def succeed(tx: Tx, job: Job, who: Principal, report: Report, *, now: datetime) -> None:
    """The attempt did what was asked: keep its result and apply it to the catalog."""
    job.result = dict(report.result)
    job.findings = list(report.findings)
    job.error_code = job.error_message = None
    _end(tx, job, JobState.SUCCEEDED, now=now)
    completion.complete(tx, job, report, now=now)
    _write_down(tx, job, who, now=now)


def fail(tx: Tx, job: Job, who: Principal, code: str, message: str, *, now: datetime) -> None:
    """There will be no further attempt."""
    job.error_code, job.error_message = code, message
    _end(tx, job, JobState.FAILED, now=now)
    completion.abandon(tx, job, now=now)
    _write_down(tx, job, who, now=now)


def cancel(tx: Tx, job: Job, who: Principal, *, now: datetime) -> None:
    """Somebody did not want it any more, and nobody works on it now."""
    job.error_code = job.error_message = None
    _end(tx, job, JobState.CANCELLED, now=now)
    completion.abandon(tx, job, now=now)
    _write_down(tx, job, who, now=now)


def try_again(tx: Tx, job: Job, who: Principal, code: str, message: str, *, now: datetime) -> None:
    """This attempt came to nothing, another may help: queue it, unless enough is enough.

    A job that somebody wants cancelled ends as that instead.
    """
    if job.cancel_requested_at is not None:
        cancel(tx, job, who, now=now)
        return
    again_at = now + pause_after(job.attempt)
    in_time = job.give_up_at is None or again_at < job.give_up_at
    if job.attempt >= job.max_attempts or not in_time:
        fail(tx, job, who, code, message, now=now)
        return
    job.state = JobState.QUEUED
    job.not_before = again_at
    job.lease_until = None
    job.error_code, job.error_message = code, message
    job.stage, job.progress = "", {}
    tx.flush()
    completion.requeued(tx, job, now=now)


def lose(tx: Tx, job: Job, message: str, *, now: datetime) -> None:
    """Take the current attempt away from its host; no report of it counts any more."""
    job.leased_to = None
    try_again(tx, job, system(job.account_id), LEASE_LOST, message, now=now)


def return_leases(tx: Tx, host: Host, message: str, *, now: datetime) -> int:
    """Take away all that a host has; how many jobs that were. The host's row is locked."""
    held = tx.scalars(
        select(Job)
        .where(Job.state == JobState.LEASED, Job.leased_to == host.id)
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for job in held:
        lose(tx, job, message, now=now)
    return len(held)


def fail_all_of(tx: Tx, host: Host, who: Principal, *, now: datetime) -> int:
    """End what only this host could have done, now that it is revoked; returns how many."""
    open_jobs = tx.scalars(
        select(Job)
        .where(Job.host_id == host.id, Job.state.in_((JobState.QUEUED, JobState.LEASED)))
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    message = f"The host {host.name} was revoked before this was done; run it on another host."
    for job in open_jobs:
        job.leased_to = None
        fail(tx, job, who, HOST_REVOKED, message, now=now)
    return len(open_jobs)


def request_cancel(tx: Tx, who: Principal, job_id: str, *, now: datetime) -> Job:
    """Wish that a job ends: at once where nobody works on it, else as soon as its host hears.

    A host is given until its lease runs out. Cancelling what is cancelled changes nothing;
    what has ended otherwise is `NotReady`.
    """
    job = find_job(tx, who, job_id, lock=True)
    who.require(_right_to_cancel(job))
    if job.state == JobState.CANCELLED:
        return job
    if job.state in ENDED:
        raise NotReady(f"This job has {job.state} already; there is nothing left to cancel.")
    if job.cancel_requested_at is None:
        job.cancel_requested_at = now
        job.cancelled_by = f"{who.kind}:{who.id}"[:120]
    if job.state == JobState.QUEUED:
        cancel(tx, job, who, now=now)
    elif (job.lease_until or now) <= now:
        job.leased_to = None
        cancel(tx, job, who, now=now)
    else:
        audit.record(
            tx,
            who,
            f"{job.kind}.cancel_requested",
            job.subject_kind,
            job.subject_id,
            now=now,
            after={"job_id": job.id, "attempt": job.attempt},
        )
    return job


def expire_leases(tx: Tx, *, now: datetime, limit: int = _AT_ONCE) -> int:
    """End or queue again what ran out of time, at most `limit` jobs; returns how many.

    One whose consequences cannot be applied is logged and left, so that it does not stop
    the others.
    """
    found = tx.scalars(
        overdue(now)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    done = 0
    for job in found:
        try:
            with tx.begin_nested():
                _out_of_time(tx, job, now=now)
            done += 1
        except DBAPIError:
            raise
        except Exception:
            _log.exception("job_not_ended", job_id=job.id, kind=job.kind)
    return done


def overdue(now: datetime) -> Select[Job]:
    """Jobs whose lease has run out, and waiting ones whose time has."""
    return (
        select(Job)
        .where(
            or_(
                and_(Job.state == JobState.LEASED, Job.lease_until <= now),
                and_(Job.state == JobState.QUEUED, Job.give_up_at <= now),
            )
        )
        .order_by(Job.lease_until, Job.id)
    )


def _out_of_time(tx: Tx, job: Job, *, now: datetime) -> None:
    if job.state == JobState.LEASED:
        message = (
            f"The host stopped reporting during attempt {job.attempt}. Check that the machine "
            "runs, that its agent runs, and that it reaches this server."
        )
        lose(tx, job, message, now=now)
        return
    who = system(job.account_id)
    if job.attempt:
        code, message = job.error_code or LEASE_LOST, job.error_message or "No time was left."
    else:
        code = NOT_TAKEN
        message = (
            "No host took this up in the time there was for it. Check that the host's agent "
            "runs and reaches this server, and is not busy with other jobs."
        )
    fail(tx, job, who, code, message, now=now)


def _end(tx: Tx, job: Job, state: JobState, *, now: datetime) -> None:
    job.state = state
    job.finished_at = now
    job.lease_until = None
    tx.flush()


def _write_down(tx: Tx, job: Job, who: Principal, *, now: datetime) -> None:
    after = {"job_id": job.id, "attempt": job.attempt, "state": job.state}
    if job.state == JobState.FAILED:
        after |= {"error_code": job.error_code}
    # A keeper is the operator's; what it did for a customer is the service's own doing.
    actor = who if who.account_id == job.account_id else system(job.account_id)
    audit.record(
        tx,
        actor,
        f"{job.kind}.{job.state}",
        job.subject_kind,
        job.subject_id,
        now=now,
        after=after,
    )


def _right_to_cancel(job: Job) -> Right:
    if job.kind in ("restore", "drill"):
        # Also a drill that keepers do: it is the account's own, unlike a repository's upkeep.
        return Right.RESTORE
    if job.kind == "copy":
        return Right.CREATE
    return Right.ADMINISTER if job.host_id is None else Right.CREATE
