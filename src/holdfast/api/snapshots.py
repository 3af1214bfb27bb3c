"""Snapshots: every run of a backup, and the restore point that it made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self, get_args

from fastapi import Query, Response
from pydantic import Field, model_validator

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import FilterId, Flag, Id, Labels, PathId, Text, Time
from holdfast.api.jobs import Finding, Log, log_of_run
from holdfast.api.operation import PREFIX, router
from holdfast.control import copies as service_of_copies
from holdfast.control import holds, regions
from holdfast.control import snapshots as service
from holdfast.control.tables import Snapshot as Row
from holdfast.edge.answers import change, document, listing, nothing
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, AfterId, Cursor, Limit, page_of_all
from holdfast.errors import NotFound

routes = router("snapshots")

OBSERVED: Final = (
    "share_bytes",
    "freed_bytes",
    "verified_at",
    "verification",
    "drilled_at",
    "drill",
    "proven_at",
    "kept_because",
    "findings",
)
Status = Literal[
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "SKIPPED",
    "EXPIRED",
    "DELETED",
]
Name = Annotated[
    str, Field(max_length=50, pattern=r"^([A-Za-z0-9_.-]([A-Za-z0-9 _.-]*[A-Za-z0-9_.-])?)?$")
]


Statuses = Annotated[
    str | None,
    Query(
        max_length=200,
        pattern="^({0})(,({0}))*$".format("|".join(get_args(Status))),
        description="One status, or several with commas.",
    ),
]


class Snapshot(Document):
    """One run and the restore point that it made, if it did.

    Bytes: `logical` is the size of what was captured, `read` what of it had to be read,
    `stored` what it added to the repository, `share` its part of what is stored now,
    `freed` what deleting it alone would free. `drill` is the result of the last drill, and
    `drilled_at` the beginning of the last one of all of it that passed; `proven_at` is the
    later of that and `verified_at`. A copy in another region has `copy_of_id`; `region_id` is
    where the snapshot lies.
    """

    id: str
    kind: str
    source_id: str
    schedule_id: str | None
    host_id: str
    job_id: str | None
    task_snapshot_id: str | None
    copy_of_id: str | None
    region_id: str
    name: str
    description: str
    labels: dict[str, str]
    status: Status
    trigger: str
    slot_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    captured_at: datetime | None
    archive_format: str
    manifest_id: str | None
    parent_id: str | None
    consistency: str | None
    files: int | None
    logical_bytes: int | None
    read_bytes: int | None
    stored_bytes: int | None
    share_bytes: int | None
    freed_bytes: int | None
    findings: list[Finding]
    error_code: str | None
    error_message: str | None
    verified_at: datetime | None
    verification: dict[str, Any] | None
    drilled_at: datetime | None
    drill: dict[str, Any] | None
    proven_at: datetime | None = None
    kept_because: list[str]
    removed_at: datetime | None
    removed_because: str | None
    purge_at: datetime | None
    purged_at: datetime | None

    @model_validator(mode="after")
    def _prove(self) -> Self:
        self.proven_at = max(filter(None, (self.verified_at, self.drilled_at)), default=None)
        return self


_COLUMNS: Final = Snapshot.model_fields.keys() - {"region_id", "proven_at"}


class NewCopy(Body):
    """Where to copy a snapshot to."""

    region_id: Id


class Snapshots(Listing[Snapshot]):
    """A page of snapshots."""


class NewSnapshot(Body):
    """What to back up now."""

    source_id: Id
    name: Name = ""
    description: Text = ""
    labels: Labels = Field(default_factory=dict)


class SnapshotEdit(Changes):
    """What can be changed of a snapshot."""

    name: Name = ""
    description: Text = ""
    labels: Labels = Field(default_factory=dict)


class Hold(Document):
    """A reason for which a snapshot must stay."""

    id: str
    snapshot_id: str
    reason: str
    created_at: datetime
    created_by: str
    released_at: datetime | None
    released_by: str | None


class Holds(Listing[Hold]):
    """A page of holds."""


class NewHold(Body):
    """Why a snapshot must stay."""

    reason: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


def show_snapshot(row: Row) -> Snapshot:
    """A snapshot's row as a document; its transaction is not over yet."""
    members = {name: getattr(row, name) for name in _COLUMNS}
    return Snapshot.model_validate({**members, "region_id": regions.region_of(row)})


@routes.get("/snapshots", response_model=Snapshots)
def list_snapshots(
    call: Asked,
    *,
    source_id: FilterId = None,
    host_id: FilterId = None,
    schedule_id: FilterId = None,
    copy_of: FilterId = None,
    copies: Annotated[Flag, Query(description="Also copies in other regions.")] = False,
    status: Statuses = None,
    kind: Literal["path", "task"] | None = None,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=r"^[^\x00]*$",
            description="In names, descriptions and labels.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        Query(max_length=320, pattern=r"^[^\x00]+$", description="`name` or `name=value`."),
    ] = None,
    since: Annotated[Time | None, Query(description="Created at this time or later.")] = None,
    until: Annotated[Time | None, Query(description="Created before this time.")] = None,
    order: Literal["newest", "oldest", "name", "-name", "status"] = "newest",
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List, filter and search snapshots: every run, whatever became of it."""
    with call.reading() as tx:
        found = service.snapshots(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            source_id=source_id,
            host_id=host_id,
            schedule_id=schedule_id,
            copy_of=copy_of,
            copies=copies,
            status=status.split(",") if status else None,
            kind=kind,
            search=search,
            label=label,
            since=since,
            until=until,
            order=order,
        )
        return listing(call.request, found, show_snapshot)


@routes.post("/snapshots", response_model=Snapshot, status_code=202)
def create_snapshot(call: Asked, body: NewSnapshot, key: KeyHeader = None) -> Response:
    """Back up now.

    The snapshot is PENDING until the host's agent takes it up.
    """
    return once(
        call,
        key,
        body,
        lambda tx: service.request(
            tx,
            call.who,
            source_id=body.source_id,
            name=body.name,
            description=body.description,
            labels=body.labels,
            now=call.now,
            keys=call.keys,
        ),
        show_snapshot,
        status=202,
        location=lambda row: f"{PREFIX}/snapshots/{row.id}",
        observed=OBSERVED,
    )


@routes.get("/snapshots/{snapshot_id}", response_model=Snapshot)
def get_snapshot(call: Asked, snapshot_id: PathId) -> Response:
    """Show a snapshot."""
    with call.reading() as tx:
        row = service.get(tx, call.who, snapshot_id)
        return document(call.request, show_snapshot(row), observed=OBSERVED)


@routes.patch("/snapshots/{snapshot_id}", response_model=Snapshot)
def edit_snapshot(
    call: Asked, snapshot_id: PathId, body: SnapshotEdit, if_match: IfMatch = None
) -> Response:
    """Change a snapshot's name, description or labels."""
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, snapshot_id),
        act=lambda tx: service.edit(tx, call.who, snapshot_id, now=call.now, **body.given()),
        show=show_snapshot,
        observed=OBSERVED,
    )


@routes.delete("/snapshots/{snapshot_id}", response_model=Snapshot)
def delete_snapshot(call: Asked, snapshot_id: PathId, if_match: IfMatch = None) -> Response:
    """Delete a snapshot.

    It can be recovered until `purge_at`; then its data is removed. Under a hold it stays.
    """
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, snapshot_id),
        act=lambda tx: service.delete(tx, call.who, snapshot_id, now=call.now),
        show=show_snapshot,
        observed=OBSERVED,
    )


@routes.post("/snapshots/{snapshot_id}/cancel", response_model=Snapshot)
def cancel_snapshot(call: Asked, snapshot_id: PathId, key: KeyHeader = None) -> Response:
    """Cancel a run: at once while it waits, else as soon as its host hears of it."""
    return once(
        call,
        key,
        None,
        lambda tx: service.cancel(tx, call.who, snapshot_id, now=call.now),
        show_snapshot,
        observed=OBSERVED,
    )


@routes.post("/snapshots/{snapshot_id}/recover", response_model=Snapshot)
def recover_snapshot(call: Asked, snapshot_id: PathId, key: KeyHeader = None) -> Response:
    """Recover a snapshot that was deleted or has expired, while its data is there."""
    return once(
        call,
        key,
        None,
        lambda tx: service.recover(tx, call.who, snapshot_id, now=call.now),
        show_snapshot,
        observed=OBSERVED,
    )


@routes.post("/snapshots/{snapshot_id}/copies", response_model=Snapshot, status_code=202)
def copy_snapshot(
    call: Asked, snapshot_id: PathId, body: NewCopy, key: KeyHeader = None
) -> Response:
    """Copy a snapshot to another region.

    The copy is a snapshot of its own, PENDING until a keeper of that region takes it up.
    """
    return once(
        call,
        key,
        body,
        lambda tx: service_of_copies.request(
            tx,
            call.who,
            snapshot_id,
            region_id=body.region_id,
            now=call.now,
            keys=call.keys,
        ),
        show_snapshot,
        status=202,
        location=lambda row: f"{PREFIX}/snapshots/{row.id}",
        observed=OBSERVED,
    )


@routes.get("/snapshots/{snapshot_id}/log", response_model=Log)
def get_snapshot_log(
    call: Asked, snapshot_id: PathId, after_id: AfterId = None, limit: Limit = 200
) -> Response:
    """Read the log of a snapshot's run, oldest line first."""
    return log_of_run(
        call,
        lambda tx: service.get(tx, call.who, snapshot_id).job_id,
        after_id=after_id,
        limit=limit,
    )


@routes.get("/snapshots/{snapshot_id}/holds", response_model=Holds)
def list_holds(
    call: Asked, snapshot_id: PathId, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """List a snapshot's holds, also those that were released."""
    with call.reading() as tx:
        found = holds.holds(tx, call.who, snapshot_id)
    page = page_of_all(found, name=lambda row: row.id, cursor=cursor, limit=limit)
    return listing(call.request, page, Hold.model_validate)


@routes.post("/snapshots/{snapshot_id}/holds", response_model=Hold, status_code=201)
def place_hold(call: Asked, snapshot_id: PathId, body: NewHold, key: KeyHeader = None) -> Response:
    """Hold a snapshot: neither retention nor people delete it."""
    return once(
        call,
        key,
        body,
        lambda tx: holds.place(tx, call.who, snapshot_id, reason=body.reason, now=call.now),
        Hold.model_validate,
        status=201,
    )


@routes.delete("/snapshots/{snapshot_id}/holds/{hold_id}", status_code=204)
def release_hold(call: Asked, snapshot_id: PathId, hold_id: PathId) -> Response:
    """Release a hold."""
    with call.writing() as tx:
        row = holds.release(tx, call.who, hold_id, now=call.now)
        if row.snapshot_id != snapshot_id:
            raise NotFound("This snapshot has no such hold; list its holds.")
    return nothing()
