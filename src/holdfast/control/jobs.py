"""Jobs: making them and looking at them; claiming, reporting and ending are beside it.

A job is made in the transaction of the thing that it is for. Nothing here decides what a
job's end means for the catalog (`completion`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from holdfast.control.completion import KINDS
from holdfast.control.database import Tx
from holdfast.control.job_claim import (
    LEASE_SECONDS,
    Room,
    claim,
    is_worth_claiming,
    waiting_hosts,
)
from holdfast.control.job_end import ENDED, JobState, expire_leases, request_cancel
from holdfast.control.job_report import JobError, LogLine, finish, report
from holdfast.control.job_scope import find_job, visible_jobs
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Job, JobLine
from holdfast.control.unindexed import unindexed
from holdfast.errors import UsageError

__all__ = [
    "ENDED",
    "KINDS",
    "LEASE_SECONDS",
    "JobError",
    "JobState",
    "LogLine",
    "Room",
    "claim",
    "enqueue",
    "expire_leases",
    "finish",
    "get",
    "is_worth_claiming",
    "jobs",
    "lines",
    "report",
    "request_cancel",
    "waiting_hosts",
]

_MAX_LOCK_KEY: Final = 120
_MAX_LINES: Final = 1000


def enqueue(
    tx: Tx,
    *,
    account_id: str,
    region_id: str,
    repository_id: str | None,
    host_id: str | None,
    kind: str,
    subject_kind: str,
    subject_id: str,
    lock_key: str,
    spec: Mapping[str, Any],
    now: datetime,
    idempotency_key: str | None = None,
    max_attempts: int = 4,
    give_up_at: datetime | None = None,
    not_before: datetime | None = None,
    priority: int = 0,
    correlation_id: str = "",
) -> Job:
    """Put a job in the queue; `host_id` None is for any keeper of the region.

    With an idempotency key that the account has used, the job made then is returned and
    nothing is added.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no kind of job {kind!r}; there are {', '.join(KINDS)}.")
    if idempotency_key is not None and (known := _known(tx, account_id, idempotency_key)):
        return known
    job = Job(
        id=str(uuid4()),
        account_id=account_id,
        region_id=region_id,
        repository_id=repository_id,
        host_id=host_id,
        kind=kind,
        subject_kind=subject_kind,
        subject_id=subject_id,
        lock_key=_lock_key(lock_key),
        idempotency_key=idempotency_key,
        spec=dict(spec),
        state=JobState.QUEUED,
        priority=priority,
        attempt=0,
        max_attempts=max_attempts,
        give_up_at=give_up_at,
        not_before=not_before or now,
        correlation_id=correlation_id,
        created_at=now,
    )
    if idempotency_key is None:
        # Flushed together with others: a thousand schedules may be due at once.
        tx.add(job)
        return job
    try:
        with tx.begin_nested():
            tx.add(job)
    except IntegrityError:
        known = _known(tx, account_id, idempotency_key)
        if known is None:
            raise
        return known
    return job


def get(tx: Tx, who: Principal, job_id: str) -> Job:
    """One job of the account."""
    who.require(Right.READ)
    return find_job(tx, who, job_id)


def jobs(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    state: str | None = None,
    kind: str | None = None,
    subject_id: str | None = None,
) -> Page[Job]:
    """The account's jobs, newest first."""
    who.require(Right.READ)
    statement, sieve = select(Job), visible_jobs(who)
    if subject_id is not None:
        statement = statement.where(
            Job.subject_id == subject_id, unindexed(Job.account_id) == who.account_id
        )
    else:
        statement = statement.where(Job.account_id == who.account_id)
    if state is not None and subject_id is None:
        statement = statement.where(Job.state == state)
    elif state is not None:
        sieve.append(unindexed(Job.state) == state)
    if kind is not None:
        sieve.append(Job.kind == kind)
    order = (Job.created_at.desc(), Job.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def lines(
    tx: Tx, who: Principal, job_id: str, *, after_id: int | None = None, limit: int = 200
) -> list[JobLine]:
    """The log of a job from after a line on, oldest first."""
    job = get(tx, who, job_id)
    statement = select(JobLine).where(JobLine.job_id == job.id).order_by(JobLine.id)
    if after_id is not None:
        statement = statement.where(JobLine.id > after_id)
    return list(tx.scalars(statement.limit(min(max(limit, 1), _MAX_LINES))))


def _known(tx: Tx, account_id: str, idempotency_key: str) -> Job | None:
    return tx.scalars(
        select(Job).where(Job.account_id == account_id, Job.idempotency_key == idempotency_key)
    ).first()


def _lock_key(key: str) -> str:
    """A key that is too long for its column, such as one with a path in it, by its hash."""
    if len(key) <= _MAX_LOCK_KEY:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{key[: _MAX_LOCK_KEY - len(digest) - 1]}#{digest}"
