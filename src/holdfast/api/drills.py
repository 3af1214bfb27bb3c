"""Drills: restoring a snapshot to scratch, as a test of whether it comes back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import FilterId, Id, PathId
from holdfast.api.jobs import Finding, Log, log_of_run
from holdfast.api.operation import PREFIX, router
from holdfast.api.restores import InnerPath
from holdfast.control import drills as service
from holdfast.edge.answers import document, listing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, AfterId, Cursor, Limit

routes = router("drills")

Status = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]


class Drill(Document):
    """A snapshot, or chosen paths of it, restored to scratch and compared.

    `passed` is set when it is COMPLETED: whether everything came back as it was captured.
    FAILED says that it could not be done, and nothing of the snapshot. Without `host_id` a
    keeper of the snapshot's region does it.
    """

    id: str
    snapshot_id: str
    schedule_id: str | None
    host_id: str | None
    job_id: str | None
    trigger: str
    paths: list[str]
    status: Status
    passed: bool | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    files: int | None
    restored_bytes: int | None
    compared_bytes: int | None
    restore_milliseconds: int | None
    findings: list[Finding]
    error_code: str | None
    error_message: str | None


class Drills(Listing[Drill]):
    """A page of drills."""


class NewDrill(Body):
    """What to drill, and where: on a host of the account, or without one by a keeper.

    `paths` are relative to what was captured; none: all, and only that proves the snapshot.
    """

    snapshot_id: Id
    host_id: Id | None = None
    paths: Annotated[list[InnerPath], Field(max_length=1000)] = Field(default_factory=list)


@routes.get("/drills", response_model=Drills)
def list_drills(
    call: Asked,
    *,
    snapshot_id: FilterId = None,
    schedule_id: FilterId = None,
    status: Status | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List drills, newest first."""
    with call.reading() as tx:
        found = service.drills(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            snapshot_id=snapshot_id,
            schedule_id=schedule_id,
            status=status,
        )
    return listing(call.request, found, Drill.model_validate)


@routes.post("/drills", response_model=Drill, status_code=202)
def create_drill(call: Asked, body: NewDrill, key: KeyHeader = None) -> Response:
    """Drill a snapshot: restore it to scratch, compare it, remove the scratch."""
    return once(
        call,
        key,
        body,
        lambda tx: service.request(
            tx,
            call.who,
            snapshot_id=body.snapshot_id,
            host_id=body.host_id,
            paths=body.paths,
            now=call.now,
        ),
        Drill.model_validate,
        status=202,
        location=lambda row: f"{PREFIX}/drills/{row.id}",
    )


@routes.get("/drills/{drill_id}", response_model=Drill)
def get_drill(call: Asked, drill_id: PathId) -> Response:
    """Show a drill."""
    with call.reading() as tx:
        row = service.get(tx, call.who, drill_id)
    return document(call.request, Drill.model_validate(row))


@routes.post("/drills/{drill_id}/cancel", response_model=Drill)
def cancel_drill(call: Asked, drill_id: PathId, key: KeyHeader = None) -> Response:
    """Cancel a drill; it then says nothing of its snapshot."""
    return once(
        call,
        key,
        None,
        lambda tx: service.cancel(tx, call.who, drill_id, now=call.now),
        Drill.model_validate,
    )


@routes.get("/drills/{drill_id}/log", response_model=Log)
def get_drill_log(
    call: Asked, drill_id: PathId, after_id: AfterId = None, limit: Limit = 200
) -> Response:
    """Read a drill's log, oldest line first."""
    return log_of_run(
        call, lambda tx: service.get(tx, call.who, drill_id).job_id, after_id=after_id, limit=limit
    )
