"""Jobs: what agents are doing, did, and said meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from holdfast.api.document import Document, Listing
from holdfast.api.fields import FilterId, PathId
from holdfast.api.operation import router
from holdfast.control import jobs as service
from holdfast.control.database import Tx
from holdfast.control.tables import JobLine
from holdfast.edge.answers import document, listing
from holdfast.edge.call import Asked, Call
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, AfterId, Cursor, Limit, page_by_id

routes = router("jobs")

State = Literal["queued", "leased", "succeeded", "failed", "cancelled"]
Kind = Literal[
    "backup",
    "restore",
    "drill",
    "copy",
    "task",
    "verify",
    "remove",
    "prune",
    "measure",
    "reconcile",
]


class Finding(Document):
    """Something that a person should know about a result."""

    code: str
    message: str
    subject: str = ""


class Job(Document):
    """One piece of work. `progress` is the agent's last report."""

    id: str
    kind: str
    subject_kind: str
    subject_id: str
    host_id: str | None
    state: State
    stage: str
    progress: dict[str, Any]
    attempt: int
    max_attempts: int
    not_before: datetime
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    findings: list[Finding]
    error_code: str | None
    error_message: str | None
    correlation_id: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Jobs(Listing[Job]):
    """A page of jobs."""


class Line(Document):
    """One line of a log."""

    id: int
    attempt: int
    at: datetime
    level: str
    text: str


class Log(Listing[Line]):
    """A part of a log, oldest first; `next_cursor` is the next part's `after_id`."""


@routes.get("/jobs", response_model=Jobs)
def list_jobs(
    call: Asked,
    *,
    state: State | None = None,
    kind: Kind | None = None,
    subject_id: Annotated[
        FilterId, Query(description="The snapshot, restore or repository that it is for.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List jobs, newest first."""
    with call.reading() as tx:
        found = service.jobs(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            state=state,
            kind=kind,
            subject_id=subject_id,
        )
    return listing(call.request, found, Job.model_validate)


@routes.get("/jobs/{job_id}", response_model=Job)
def get_job(call: Asked, job_id: PathId) -> Response:
    """Show a job."""
    with call.reading() as tx:
        row = service.get(tx, call.who, job_id)
    return document(call.request, Job.model_validate(row))


@routes.post("/jobs/{job_id}/cancel", response_model=Job)
def cancel_job(call: Asked, job_id: PathId, key: KeyHeader = None) -> Response:
    """Cancel a job: at once while it waits, else as soon as its host hears of it."""
    return once(
        call,
        key,
        None,
        lambda tx: service.request_cancel(tx, call.who, job_id, now=call.now),
        Job.model_validate,
    )


@routes.get("/jobs/{job_id}/log", response_model=Log)
def get_job_log(
    call: Asked, job_id: PathId, after_id: AfterId = None, limit: Limit = 200
) -> Response:
    """Read a job's log, oldest line first."""
    return log_of_run(call, lambda _tx: job_id, after_id=after_id, limit=limit)


def log_of_run(
    call: Call, find_job: Callable[[Tx], str | None], *, after_id: int | None, limit: int
) -> Response:
    """A part of the log of the job that `find_job` names, as an answer; empty without one."""
    found: Sequence[JobLine] = ()
    with call.reading() as tx:
        job_id = find_job(tx)
        if job_id is not None:
            found = service.lines(tx, call.who, job_id, after_id=after_id, limit=limit)
    page = page_by_id(found, name=lambda line: line.id, limit=limit)
    return listing(call.request, page, Line.model_validate, cursor="after_id")
