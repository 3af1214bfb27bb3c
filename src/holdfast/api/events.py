"""Events: what happened in an account, as a list and as a live stream.

The stream is Server-Sent Events. Each has the event's id; a reader that lost its connection
sends the last one as ``Last-Event-ID``, as browsers do by themselves, and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Header, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from holdfast.api.document import Document, Listing
from holdfast.api.operation import router
from holdfast.control import events as service
from holdfast.control.paging import Page
from holdfast.control.principal import Right
from holdfast.control.tables import Event as Row
from holdfast.edge.answers import listing
from holdfast.edge.call import Asked, Call
from holdfast.edge.credentials import PEOPLE, authenticate
from holdfast.edge.pages import DEFAULT_LIMIT, LARGEST_ID, AfterId, Limit
from holdfast.errors import HoldfastError

routes = router("events")

STREAM_TYPE: Final = "text/event-stream"
_AT_ONCE: Final = 200

EventKind = Literal[service.KINDS]  # type: ignore[valid-type]


class Event(Document):
    """Something that people watch for."""

    id: int
    at: datetime
    kind: str
    subject_kind: str
    subject_id: str
    message: str
    data: dict[str, Any]
    correlation_id: str


class Events(Listing[Event]):
    """A part of the events, oldest first; `next_cursor` is the next part's `after_id`."""


Kinds = Annotated[
    str | None,
    Query(
        max_length=1000,
        pattern=r"^[a-z_.]+(,[a-z_.]+)*$",
        description="Only these kinds, separated by commas.",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="Go on after this event; without it, with what happens from now on.",
        max_length=19,
        pattern=r"^[0-9]{1,18}$",
    ),
]


@routes.get("/events", response_model=Events)
def list_events(
    call: Asked, kinds: Kinds = None, after_id: AfterId = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """List events from one on, oldest first; whoever goes on from the last id misses nothing."""
    wanted = _kinds(kinds)
    with call.reading() as tx:
        found = service.listed(tx, call.who, after_id=after_id, limit=limit, kinds=wanted)
    return listing(call.request, found, Event.model_validate, cursor="after_id")


@routes.get(
    "/events/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {STREAM_TYPE: {"schema": {"type": "string"}}}}},
)
async def stream_events(
    call: Asked, kinds: Kinds = None, last_event_id: LastEventId = None
) -> Response:
    """Watch events live, as Server-Sent Events.

    `id` is the event's, `event` its kind, `data` the event as JSON. A comment comes now and
    then while nothing happens. The stream ends after some minutes, and when the credential
    does; go on with `Last-Event-ID`.
    """
    wanted = _kinds(kinds)
    if last_event_id is not None:
        start = min(int(last_event_id), LARGEST_ID)
        call.who.require_everywhere(Right.READ)
    else:
        start = await run_in_threadpool(_newest, call)
    deployment = call.deployment
    deployment.streams.check(call.who.account_id, deployment.limits.streams_per_account)
    return StreamingResponse(
        _told(call, start, wanted),
        media_type=STREAM_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _told(call: Call, last_id: int, kinds: Collection[str]) -> AsyncIterator[bytes]:
    """The text of the stream, until its time is over or its reader may read no longer."""
    deployment, limits = call.deployment, call.deployment.limits
    loop = asyncio.get_running_loop()
    until = loop.time() + limits.stream_seconds
    beat_at = loop.time() + limits.heartbeat_seconds
    with deployment.streams.counted(call.who.account_id):
        yield b"retry: 2000\n: connected\n\n"
        while loop.time() < until and not deployment.wakeups.closing:
            try:
                if loop.time() >= beat_at:
                    beat_at = loop.time() + limits.heartbeat_seconds
                    await run_in_threadpool(_check_still, call)
                    yield b": heartbeat\n\n"
                page = await run_in_threadpool(_after, call, last_id, kinds)
            except HoldfastError:
                return  # the reader comes back and is told why as an answer
            for row in page.items:
                last_id = row.id
                yield _as_sse(row)
            if page.next_cursor is not None:
                last_id = int(page.next_cursor)  # nothing of these kinds was before it
            else:
                await asyncio.sleep(limits.stream_poll_seconds)


def _as_sse(row: Row) -> bytes:
    data = Event.model_validate(row).model_dump_json()
    return f"id: {row.id}\nevent: {row.kind}\ndata: {data}\n\n".encode()


def _after(call: Call, last_id: int, kinds: Collection[str]) -> Page[Row]:
    with call.reading() as tx:
        return service.listed(tx, call.who, after_id=last_id, limit=_AT_ONCE, kinds=kinds)


def _newest(call: Call) -> int:
    with call.reading() as tx:
        return service.newest_id(tx, call.who)


def _check_still(call: Call) -> None:
    """Raise where the credential has ended since the stream was opened."""
    deployment = call.deployment
    authenticate(call.request, deployment, kinds=PEOPLE, now=deployment.clock())


def _kinds(text: str | None) -> list[str]:
    return service.check_kinds(text.split(",")) if text else []
