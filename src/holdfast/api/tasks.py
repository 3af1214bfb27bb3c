"""Tasks: computations that run on hosts, what they wrote, and how they are ended."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path, Query, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import (
    Boolean,
    Id,
    JsonObject,
    Labels,
    PathId,
)
from holdfast.api.jobs import Finding
from holdfast.api.operation import PREFIX, router
from holdfast.control import task_output, task_profiles, task_text
from holdfast.control import tasks as service
from holdfast.control.paging import Page
from holdfast.control.tables import TaskInstance as InstanceRow
from holdfast.edge.answers import change, document, listing, plain
from holdfast.edge.call import Asked, Call
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, AfterId, Cursor, Limit, page_of_all

routes = router("tasks")

OBSERVED: Final = (
    "state",
    "previous_state",
    "state_since",
    "started_at",
    "ended_at",
    "periodic_since",
    "results_count",
    "findings",
)
State = Literal[
    "Submitted",
    "PartiallyDispatched",
    "FullyDispatched",
    "PartiallyExecuting",
    "FullyExecuting",
    "DownloadingResults",
    "UploadingResults",
    "Success",
    "Failure",
    "Cancelled",
    "PendingCancel",
    "PendingDelete",
]
Stream = Literal["stdout", "stderr"]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Pattern = Annotated[
    str,
    Field(max_length=10_000, pattern=r"^[^\x00]*$", description="A regular expression (RE2)."),
]
Key = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]
BucketName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9.-]+$")]
Interval = Annotated[
    int, Field(strict=True, description="Seconds from one snapshot to the next: 1 to 604800.")
]
Tag = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Number = Annotated[int | None, Query(ge=0, le=255, description="One instance; without it, all.")]


class Constant(Body):
    """A constant: the profile's own, or an environment variable of the command."""

    key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    value: Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")]


class Input(Body):
    """Objects of a bucket that are in `/job` before the command begins."""

    bucket: BucketName
    prefix: Key = ""
    strip_prefix: Key = ""


class Place(Body):
    """Filters of a snapshot, and where it is seen; what is null is as the task has it."""

    whitelist: Pattern | None = None
    blacklist: Pattern | None = None
    bucket: BucketName | None = None
    bucket_prefix: Annotated[str, Field(max_length=900, pattern=r"^[^\x00]*$")] | None = None


class Periodic(Place):
    """How often a snapshot is taken, and how."""

    seconds: Interval


class NewTask(Body):
    """What is to be computed.

    Filters are searched in paths relative to `/job`; a blacklist wins over a whitelist.
    `starts_from` is a snapshot of a task, or any snapshot, that `/job` is filled with.
    """

    name: Name
    profile: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
    constants: Annotated[list[Constant], Field(max_length=200)] = Field(default_factory=list)
    inputs: Annotated[list[Input], Field(max_length=64)] = Field(default_factory=list)
    result_bucket: BucketName | None = None
    tags: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)
    instance_count: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    short_name: Name | None = None
    runs_on: Id | None = None
    snapshot_whitelist: Pattern | None = None
    snapshot_blacklist: Pattern | None = None
    results_whitelist: Pattern | None = None
    results_blacklist: Pattern | None = None
    results_on_cancel: Boolean = False
    starts_from: Id | None = None
    time_limit_seconds: Annotated[int, Field(strict=True, ge=1, le=366 * 86400)] | None = None
    periodic: Periodic | None = None
    extra: JsonObject = Field(default_factory=dict)


class TaskEdit(Changes):
    """What can be changed of a task; what it computes cannot."""

    name: Name = ""
    tags: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)


class ShownConstant(Document):
    """A constant that was given."""

    key: str
    value: str


class ShownInput(Document):
    """An input."""

    bucket: str
    prefix: str
    strip_prefix: str


class Task(Document):
    """A computation of one or more instances, each with a directory `/job` of its own.

    `periodic_since` is where slots are counted from, once the task runs.
    """

    id: str
    name: str
    short_name: str | None
    profile: str
    state: State
    previous_state: State | None
    state_since: datetime
    constants: list[ShownConstant]
    inputs: list[ShownInput]
    result_bucket: str | None
    results_count: int
    tags: list[str]
    labels: dict[str, str]
    instance_count: int
    runs_on: str | None
    snapshot_whitelist: str | None
    snapshot_blacklist: str | None
    results_whitelist: str | None
    results_blacklist: str | None
    results_on_cancel: bool
    starts_from: str | None
    time_limit_seconds: int | None
    periodic_seconds: int | None
    periodic_since: datetime | None
    periodic_options: dict[str, Any]
    extra: dict[str, Any]
    findings: list[Finding]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    delete_requested_at: datetime | None


class Tasks(Listing[Task]):
    """A page of tasks."""


class Instance(Document):
    """One run of a task's command. A negative `exit_code` is the number of a signal."""

    id: str
    number: int
    state: Literal[
        "waiting", "preparing", "executing", "uploading", "succeeded", "failed", "cancelled"
    ]
    host_id: str | None
    job_id: str | None
    source_id: str | None
    runner: str
    reference: str
    exit_code: int | None
    error_code: str | None
    error_message: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stdout_bytes: int
    stderr_bytes: int
    frozen_seconds: float


class Instances(Listing[Instance]):
    """A task's instances."""


class Output(Document):
    """A part of what was written; send `last` as `after` for what comes next.

    `text` has a replacement character for whatever is no UTF-8, and never ends inside a
    character: the next part has it. The bytes as they are come in `data_base64` instead, where
    they are asked for.
    """

    text: str
    data_base64: str | None
    last: int


class ProfileConstant(Document):
    """A constant of a profile: what it is without a wish, and what it is for."""

    name: str
    default: str
    what: str


class Profile(Document):
    """A kind of computation, and what runs it."""

    name: str
    runner: str
    what: str
    constants: list[ProfileConstant]
    required: list[str]


class Profiles(Listing[Profile]):
    """The kinds of computation that there are."""


@routes.get("/task-profiles", response_model=Profiles)
def list_task_profiles(
    call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """List the kinds of computation that there are."""
    page = page_of_all(
        task_profiles.profiles(call.who), name=lambda each: each.name, cursor=cursor, limit=limit
    )
    return listing(call.request, page, Profile.model_validate)


@routes.get("/tasks", response_model=Tasks)
def list_tasks(
    call: Asked,
    *,
    state: State | None = None,
    tag: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    label: Annotated[
        str | None,
        Query(max_length=320, pattern=r"^[^\x00]+$", description="`name` or `name=value`."),
    ] = None,
    search: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="In their names.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List tasks, newest first."""
    with call.reading() as tx:
        found = service.tasks(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            state=state,
            tag=tag,
            label=label,
            search=search,
        )
    return listing(call.request, found, Task.model_validate)


@routes.post("/tasks", response_model=Task, status_code=201)
def submit_task(call: Asked, body: NewTask, key: KeyHeader = None) -> Response:
    """Submit a task. To start from a snapshot needs the right `restore`, too."""
    wish = _wish(body)
    return once(
        call,
        key,
        body,
        lambda tx: service.submit(tx, call.who, wish, now=call.now, keys=call.keys),
        Task.model_validate,
        status=201,
        location=lambda row: f"{PREFIX}/tasks/{row.id}",
        observed=OBSERVED,
    )


@routes.get("/tasks/{task_id}", response_model=Task)
def get_task(call: Asked, task_id: PathId) -> Response:
    """Show a task."""
    with call.reading() as tx:
        row = service.get(tx, call.who, task_id)
    return document(call.request, Task.model_validate(row), observed=OBSERVED)


@routes.patch("/tasks/{task_id}", response_model=Task)
def edit_task(call: Asked, task_id: PathId, body: TaskEdit, if_match: IfMatch = None) -> Response:
    """Change a task's name, tags or labels."""
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, task_id),
        act=lambda tx: service.edit(tx, call.who, task_id, now=call.now, **body.given()),
        show=Task.model_validate,
        observed=OBSERVED,
    )


@routes.delete("/tasks/{task_id}", response_model=Task)
def delete_task(call: Asked, task_id: PathId, if_match: IfMatch = None) -> Response:
    """Delete a task; where it runs it is aborted first. Its snapshots stay."""
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, task_id),
        act=lambda tx: service.remove(tx, call.who, task_id, now=call.now),
        show=Task.model_validate,
        observed=OBSERVED,
    )


@routes.post("/tasks/{task_id}/abort", response_model=Task)
def abort_task(call: Asked, task_id: PathId, key: KeyHeader = None) -> Response:
    """Abort a task: at once where no host has begun, else as soon as its hosts hear of it."""
    return once(
        call,
        key,
        None,
        lambda tx: service.abort(tx, call.who, task_id, now=call.now),
        Task.model_validate,
        observed=OBSERVED,
    )


@routes.post("/tasks/{task_id}/renew-inputs", response_model=Task)
def renew_task_inputs(call: Asked, task_id: PathId, key: KeyHeader = None) -> Response:
    """Copy what came into the input buckets since into a running task; nothing is deleted."""
    return once(
        call,
        key,
        None,
        lambda tx: service.renew_inputs(tx, call.who, task_id, now=call.now),
        Task.model_validate,
        observed=OBSERVED,
    )


@routes.get("/tasks/{task_id}/instances", response_model=Instances)
def list_task_instances(
    call: Asked, task_id: PathId, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """List a task's instances, by their numbers."""
    with call.reading() as tx:
        found = service.instances(tx, call.who, task_id)
    page: Page[InstanceRow] = page_of_all(
        found, name=lambda row: row.id, cursor=cursor, limit=limit
    )
    return listing(call.request, page, _show_instance)


@routes.get("/tasks/{task_id}/output", response_model=Output)
def get_task_output(
    call: Asked,
    task_id: PathId,
    *,
    stream: Stream = "stdout",
    instance: Number = None,
    after: AfterId = None,
    encoding: Literal["text", "base64"] = "text",
) -> Response:
    """Read a part of what a task wrote, from after the part before; ask again for more."""
    with call.reading() as tx:
        page = task_text.read(tx, call.who, task_id, stream, number=instance, after_id=after or 0)
    if encoding == "base64":
        data = base64.b64encode(page.data).decode("ascii")
        return plain(Output(text="", data_base64=data, last=page.last_id))
    return plain(Output(text=page.text, data_base64=None, last=page.last_id))


@routes.get(
    "/tasks/{task_id}/output/{stream}",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_whole_task_output(
    call: Asked,
    task_id: PathId,
    stream: Annotated[Stream, Path()],
    instance: Number = None,
) -> Response:
    """Read all that a task has written so far, as it was written."""
    with call.reading() as tx:
        first = task_output.read(tx, call.who, task_id, stream, number=instance)
    return StreamingResponse(
        _rest(call, task_id, stream, instance, first),
        media_type="text/plain; charset=utf-8",
        headers={"Cache-Control": "no-store"},
    )


def _rest(
    call: Call, task_id: str, stream: str, number: int | None, page: task_output.OutputPage
) -> Iterator[bytes]:
    """A page and those after it, each read for itself: readers may be slow."""
    while page.pieces:
        yield page.data
        with call.reading() as tx:
            page = task_output.read(
                tx, call.who, task_id, stream, number=number, after_id=page.last_id
            )


def _show_instance(row: InstanceRow) -> Instance:
    columns = {name: getattr(row, name) for name in Instance.model_fields if hasattr(row, name)}
    return Instance.model_validate(columns | {"frozen_seconds": row.frozen_micro / 1_000_000})


def _wish(body: NewTask) -> service.NewTask:
    periodic = None if body.periodic is None else body.periodic.model_dump()
    seconds = None if periodic is None else periodic.pop("seconds")
    given = body.model_dump(exclude={"constants", "periodic"})
    return service.NewTask(
        **given,
        constants=[(each.key, each.value) for each in body.constants],
        periodic_seconds=seconds,
        periodic_options=periodic or {},
    )
