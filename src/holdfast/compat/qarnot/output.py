"""What a task wrote: GET gives all of it, POST what is new since the last POST."""

from __future__ import annotations

from typing import Literal

from fastapi import Response
from starlette.responses import StreamingResponse

from holdfast.compat import route
from holdfast.control import task_output, task_text, tasks
from holdfast.edge.call import Asked

router = route.router()

Stream = Literal["stdout", "stderr"]
_TEXT = "text/plain; charset=utf-8"


@router.get("/tasks/{task_id}/{stream}")
@router.get("/tasks/{task_id}/{stream}/{number}")
def whole(call: Asked, task_id: str, stream: Stream, number: int | None = None) -> Response:
    """Everything that the task, or one instance, has written so far."""
    with call.reading() as tx:
        task = tasks.find(tx, call.who, task_id)
        pieces = list(task_output.whole(tx, call.who, task.id, stream, number=number))
    return StreamingResponse(iter(pieces), media_type=_TEXT)


@router.post("/tasks/{task_id}/{stream}")
@router.post("/tasks/{task_id}/{stream}/{number}")
def fresh(call: Asked, task_id: str, stream: Stream, number: int | None = None) -> Response:
    """What has come since this was asked the last time."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        page = task_text.read_new(tx, call.who, task.id, stream, number=number)
        return Response(page.text, media_type=_TEXT)
