"""Snapshots of tasks: asked for now or taken periodically, and what filters would take."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import PathId, Text
from holdfast.api.jobs import Finding
from holdfast.api.operation import PREFIX, router
from holdfast.api.tasks import OBSERVED as OBSERVED_OF_TASK
from holdfast.api.tasks import Pattern, Periodic, Place, Task
from holdfast.control import task_snapshots as service
from holdfast.control import tasks
from holdfast.control.database import Tx
from holdfast.control.tables import Snapshot, TaskPreview, TaskSnapshot
from holdfast.edge.answers import change, document, listing
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("task snapshots")

OBSERVED: Final = ("status", "updated_at", "bytes_total", "bytes_done", "findings", "parts")
Status = Literal["triggered", "inProgress", "success", "failure", "skipped"]
Label = Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")]


class Part(Document):
    """The snapshot of one instance, which is one of the account's snapshots.

    `instance` is the number of the instance.
    """

    id: str
    instance: int
    host_id: str
    source_id: str
    status: str
    captured_at: datetime | None
    consistency: str | None
    files: int | None
    logical_bytes: int | None
    stored_bytes: int | None
    error_code: str | None
    error_message: str | None


class ShownTaskSnapshot(Document):
    """A snapshot of a task. `directory` is its place in `bucket`.

    `bytes_total` is the size to upload, `bytes_done` what of it was transferred.
    """

    id: str
    task_id: str
    trigger: Literal["manual", "periodic"]
    slot_at: datetime | None
    triggered_at: datetime
    updated_at: datetime
    status: Status
    whitelist: str | None
    blacklist: str | None
    bucket: str | None
    bucket_prefix: str | None
    directory: str
    label: str
    notes: str
    bytes_total: int
    bytes_done: int
    findings: list[Finding]
    parts: list[Part]


class TaskSnapshots(Listing[ShownTaskSnapshot]):
    """A page of snapshots of a task."""


class NewTaskSnapshot(Place):
    """What to take, and where it is seen."""

    label: Label = ""
    notes: Text = ""


class TaskSnapshotEdit(Changes):
    """What people write about a snapshot."""

    label: Label = ""
    notes: Text = ""


class NewPreview(Body):
    """Filters to try on an instance that executes: the first one, unless one is named."""

    whitelist: Pattern | None = None
    blacklist: Pattern | None = None
    instance: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    entries_wanted: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 1000


class Preview(Document):
    """What filters would take; `answer` is null until the host has looked."""

    id: str
    task_id: str
    instance_id: str
    whitelist: str | None
    blacklist: str | None
    asked_at: datetime
    answered_at: datetime | None
    answer: dict[str, Any] | None


_Shown = tuple[TaskSnapshot, list[Snapshot], dict[str, int]]


@routes.post("/tasks/{task_id}/snapshots", response_model=ShownTaskSnapshot, status_code=202)
def create_task_snapshot(
    call: Asked, task_id: PathId, body: NewTaskSnapshot, key: KeyHeader = None
) -> Response:
    """Take a snapshot of every instance of a task that executes now."""

    def act(tx: Tx) -> _Shown:
        row = service.request(tx, call.who, task_id, now=call.now, **body.model_dump())
        return _with_parts(tx, row)

    return once(
        call,
        key,
        body,
        act,
        _show,
        status=202,
        location=lambda shown: f"{PREFIX}/task-snapshots/{shown[0].id}",
        observed=OBSERVED,
    )


@routes.get("/tasks/{task_id}/snapshots", response_model=TaskSnapshots)
def list_task_snapshots(
    call: Asked,
    task_id: PathId,
    *,
    status: Status | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List a task's snapshots, newest first."""
    with call.reading() as tx:
        page = service.snapshots(tx, call.who, task_id, cursor=cursor, limit=limit, status=status)
        ids = [each.id for each in page.items]
        parts, numbers = service.parts_of(tx, ids), service.numbers_of(tx, ids)
    return listing(call.request, page, lambda row: _show((row, parts.get(row.id, []), numbers)))


@routes.put("/tasks/{task_id}/periodic", response_model=Task)
def set_periodic_snapshots(
    call: Asked, task_id: PathId, body: Periodic, if_match: IfMatch = None
) -> Response:
    """Have a snapshot of a task taken every so many seconds, from now on."""
    return change(
        call,
        if_match,
        read=lambda tx: tasks.get(tx, call.who, task_id),
        act=lambda tx: service.set_periodic(
            tx, call.who, task_id, now=call.now, **body.model_dump()
        ),
        show=Task.model_validate,
        observed=OBSERVED_OF_TASK,
    )


@routes.delete("/tasks/{task_id}/periodic", response_model=Task)
def end_periodic_snapshots(call: Asked, task_id: PathId, if_match: IfMatch = None) -> Response:
    """Have no further periodic snapshots taken of a task."""
    return change(
        call,
        if_match,
        read=lambda tx: tasks.get(tx, call.who, task_id),
        act=lambda tx: service.set_periodic(tx, call.who, task_id, seconds=None, now=call.now),
        show=Task.model_validate,
        observed=OBSERVED_OF_TASK,
    )


@routes.get("/task-snapshots/{task_snapshot_id}", response_model=ShownTaskSnapshot)
def get_task_snapshot(call: Asked, task_snapshot_id: PathId) -> Response:
    """Show a snapshot of a task, also of one that was deleted."""
    with call.reading() as tx:
        row = service.get(tx, call.who, task_snapshot_id)
        shown = _show(_with_parts(tx, row))
    return document(call.request, shown, observed=OBSERVED)


@routes.patch("/task-snapshots/{task_snapshot_id}", response_model=ShownTaskSnapshot)
def edit_task_snapshot(call: Asked, task_snapshot_id: PathId, body: TaskSnapshotEdit) -> Response:
    """Change a snapshot's label or notes."""
    with call.writing() as tx:
        row = service.edit(tx, call.who, task_snapshot_id, now=call.now, **body.given())
        shown = _show(_with_parts(tx, row))
    return document(call.request, shown, observed=OBSERVED)


@routes.delete("/task-snapshots/{task_snapshot_id}", response_model=ShownTaskSnapshot)
def delete_task_snapshot(call: Asked, task_snapshot_id: PathId) -> Response:
    """Delete a snapshot of a task; its parts can be recovered like any snapshot."""
    with call.writing() as tx:
        row = service.remove(tx, call.who, task_snapshot_id, now=call.now)
        tx.flush()
        shown = _show(_with_parts(tx, row))
    return document(call.request, shown, observed=OBSERVED)


@routes.post("/tasks/{task_id}/previews", response_model=Preview, status_code=202)
def create_task_preview(
    call: Asked, task_id: PathId, body: NewPreview, key: KeyHeader = None
) -> Response:
    """Ask what filters would take of a task that runs; its host answers in a few seconds."""
    return once(
        call,
        key,
        body,
        lambda tx: service.preview_ask(
            tx,
            call.who,
            task_id,
            whitelist=body.whitelist,
            blacklist=body.blacklist,
            number=body.instance,
            entries_wanted=body.entries_wanted,
            now=call.now,
        ),
        Preview.model_validate,
        status=202,
        location=lambda row: f"{PREFIX}/task-previews/{row.id}",
    )


@routes.get("/task-previews/{preview_id}", response_model=Preview)
def get_task_preview(call: Asked, preview_id: PathId) -> Response:
    """Show what filters would take, once the host has answered."""
    with call.reading() as tx:
        row: TaskPreview = service.preview_get(tx, call.who, preview_id)
    return document(call.request, Preview.model_validate(row))


def _with_parts(tx: Tx, row: TaskSnapshot) -> _Shown:
    parts = service.parts_of(tx, [row.id]).get(row.id, [])
    return row, parts, service.numbers_of(tx, [row.id])


def _show(shown: _Shown) -> ShownTaskSnapshot:
    row, parts, numbers = shown
    columns = {
        name: getattr(row, name) for name in ShownTaskSnapshot.model_fields if name != "parts"
    }
    shown_parts = [
        Part.model_validate(
            {"instance": numbers[each.id]}
            | {name: getattr(each, name) for name in Part.model_fields if name != "instance"}
        )
        for each in parts
    ]
    return ShownTaskSnapshot.model_validate(columns | {"parts": shown_parts})
