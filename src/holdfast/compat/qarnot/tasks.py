"""Tasks: submitted alone or several at once, looked at, listed by their tags, ended."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, RootModel

from holdfast.compat import route
from holdfast.compat.qarnot.document import task_document
from holdfast.compat.qarnot.submission import Submission
from holdfast.control import buckets, tasks
from holdfast.control.database import Tx
from holdfast.control.paging import MAX_LIMIT
from holdfast.control.tables import Task
from holdfast.edge.call import Asked, Call
from holdfast.errors import HoldfastError, UsageError

router = route.router()

_MOST_AT_ONCE: Final = 100
_DEPTH: Final = 8


class _Submissions(RootModel[Submission | Annotated[list[Submission], Field(max_length=100)]]):
    """One task, or a list of them."""


class _Tags(BaseModel):
    """What a list is narrowed to: one tag, or several filters that must all or any hold."""

    operator: str
    field: str | None = None
    value: str | None = None
    filters: list[_Tags] | None = None


class _Wanted(BaseModel):
    filter: _Tags | None = None
    token: Annotated[str | None, Field(max_length=500)] = None
    maximumResults: Annotated[int | None, Field(ge=1)] = None  # noqa: N815 - the client's name


class _Changes(BaseModel):
    """What can be changed of a task that is there; the client sends all of it."""

    tags: list[str] | None = None
    labels: dict[str, str] | None = None


@router.post("/tasks")
def submit(call: Asked, wanted: _Submissions) -> Any:
    """Submit a task; of several, each is answered for itself, in order."""
    if isinstance(wanted.root, Submission):
        return {"uuid": _submit(call, wanted.root)}
    return [_answered(call, each) for each in wanted.root]


def _submit(call: Call, wanted: Submission) -> str:
    with call.writing() as tx:
        if wanted.resultBucket:
            # What the client makes of 404 here is that a bucket is missing.
            buckets.get(tx, call.who, wanted.resultBucket)
        return tasks.submit(tx, call.who, wanted.task(), now=call.now, keys=call.keys).id


def _answered(call: Call, wanted: Submission) -> dict[str, Any]:
    try:
        uuid = _submit(call, wanted)
    except HoldfastError as error:
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        return {"statusCode": error.http_status, "uuid": None, "message": error.message}
    return {"statusCode": int(HTTPStatus.OK), "uuid": uuid, "message": ""}


@router.post("/tasks/paginate")
@router.post("/tasks/summaries/paginate")
def listed(call: Asked, wanted: _Wanted) -> dict[str, Any]:
    """A page of tasks, newest first."""
    holds = _matcher(wanted.filter) if wanted.filter else None
    single = wanted.filter.value if wanted.filter and _is_single(wanted.filter) else None
    limit = min(wanted.maximumResults or MAX_LIMIT, MAX_LIMIT)
    with call.reading() as tx:
        page = tasks.tasks(tx, call.who, cursor=wanted.token, limit=limit, tag=single)
        found = [each for each in page.items if holds is None or holds(frozenset(each.tags))]
        documents = [_document(tx, call, each) for each in found]
    return {
        "token": wanted.token,
        "nextToken": page.next_cursor,
        "isTruncated": page.next_cursor is not None,
        "data": documents,
    }


@router.get("/tasks/{task_id}")
def show(call: Asked, task_id: str) -> dict[str, Any]:
    """One task, by its id or its short name."""
    with call.reading() as tx:
        return _document(tx, call, tasks.find(tx, call.who, task_id))


@router.put("/tasks/{task_id}")
def change(call: Asked, task_id: str, wanted: _Changes) -> dict[str, Any]:
    """Change tags and labels; whatever else the client sends was fixed at submission."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        task = tasks.edit(
            tx,
            call.who,
            task.id,
            tags=None if wanted.tags is None else tuple(wanted.tags),
            labels=wanted.labels,
            now=call.now,
        )
        return _document(tx, call, task)


@router.patch("/tasks/{task_id}")
def renew_inputs(call: Asked, task_id: str) -> dict[str, Any]:
    """Copy new and replaced objects of its resources into a task; the request has no body."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        return _document(tx, call, tasks.renew_inputs(tx, call.who, task.id, now=call.now))


@router.post("/tasks/{task_id}/abort")
def abort(call: Asked, task_id: str) -> dict[str, Any]:
    """End a task that has not ended."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        return _document(tx, call, tasks.abort(tx, call.who, task.id, now=call.now))


@router.delete("/tasks/{task_id}")
def delete(call: Asked, task_id: str) -> dict[str, Any]:
    """Remove a task, ending it first; its snapshots stay."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        tasks.remove(tx, call.who, task.id, now=call.now)
    return {}


def _document(tx: Tx, call: Call, task: Task) -> dict[str, Any]:
    return task_document(task, tasks.instances(tx, call.who, task.id))


def _is_single(wanted: _Tags) -> bool:
    return wanted.filters is None


def _matcher(wanted: _Tags, depth: int = 0) -> Callable[[frozenset[str]], bool]:
    """Whether a task's tags are what is wanted."""
    if depth > _DEPTH:
        raise UsageError(f"Filters are nested deeper than {_DEPTH} levels; write them flatter.")
    if wanted.filters is None:
        if wanted.operator != "Equal" or wanted.field != "Tags" or wanted.value is None:
            raise UsageError("Tasks can be filtered by tags that are equal to a value.")
        value = wanted.value
        return lambda tags: value in tags
    if len(wanted.filters) > _MOST_AT_ONCE:
        raise UsageError(f"Give at most {_MOST_AT_ONCE} filters in one list, and join several.")
    parts = [_matcher(each, depth + 1) for each in wanted.filters]
    if wanted.operator == "And":
        return lambda tags: all(part(tags) for part in parts)
    if wanted.operator == "Or":
        return lambda tags: any(part(tags) for part in parts)
    raise UsageError(f"{wanted.operator!r} joins no filters; use And or Or.")
