"""Restores: putting a snapshot back, onto any host of the account."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import FilterId, Id, PathId, PathText
from holdfast.api.jobs import Finding, Log, log_of_run
from holdfast.api.operation import PREFIX, router
from holdfast.control import restores as service
from holdfast.edge.answers import document, listing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, AfterId, Cursor, Limit

routes = router("restores")

Status = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
InnerPath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class Restore(Document):
    """A snapshot, or chosen paths of it, on its way back to a directory of a host."""

    id: str
    snapshot_id: str
    host_id: str
    job_id: str | None
    target: str
    paths: list[str]
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    files: int | None
    restored_bytes: int | None
    findings: list[Finding]
    error_code: str | None
    error_message: str | None


class Restores(Listing[Restore]):
    """A page of restores."""


class NewRestore(Body):
    """What to restore, and where to.

    `target` is a new or empty directory inside a guarded root of the host; without it, a
    new one below `restored` there. `paths` are relative to what was captured; none: all.
    """

    snapshot_id: Id
    host_id: Id
    target: PathText | None = None
    paths: Annotated[list[InnerPath], Field(max_length=1000)] = Field(default_factory=list)


@routes.get("/restores", response_model=Restores)
def list_restores(
    call: Asked,
    *,
    snapshot_id: FilterId = None,
    host_id: FilterId = None,
    status: Status | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List restores, newest first."""
    with call.reading() as tx:
        found = service.restores(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            snapshot_id=snapshot_id,
            host_id=host_id,
            status=status,
        )
    return listing(call.request, found, Restore.model_validate)


@routes.post("/restores", response_model=Restore, status_code=202)
def create_restore(call: Asked, body: NewRestore, key: KeyHeader = None) -> Response:
    """Restore a snapshot, or a part of it, to a host of the account."""
    return once(
        call,
        key,
        body,
        lambda tx: service.request(
            tx,
            call.who,
            snapshot_id=body.snapshot_id,
            host_id=body.host_id,
            target=body.target,
            paths=body.paths,
            now=call.now,
        ),
        Restore.model_validate,
        status=202,
        location=lambda row: f"{PREFIX}/restores/{row.id}",
    )


@routes.get("/restores/{restore_id}", response_model=Restore)
def get_restore(call: Asked, restore_id: PathId) -> Response:
    """Show a restore."""
    with call.reading() as tx:
        row = service.get(tx, call.who, restore_id)
    return document(call.request, Restore.model_validate(row))


@routes.post("/restores/{restore_id}/cancel", response_model=Restore)
def cancel_restore(call: Asked, restore_id: PathId, key: KeyHeader = None) -> Response:
    """Cancel a restore; what was restored already stays where it is."""
    return once(
        call,
        key,
        None,
        lambda tx: service.cancel(tx, call.who, restore_id, now=call.now),
        Restore.model_validate,
    )


@routes.get("/restores/{restore_id}/log", response_model=Log)
def get_restore_log(
    call: Asked, restore_id: PathId, after_id: AfterId = None, limit: Limit = 200
) -> Response:
    """Read a restore's log, oldest line first."""
    return log_of_run(
        call,
        lambda tx: service.get(tx, call.who, restore_id).job_id,
        after_id=after_id,
        limit=limit,
    )
