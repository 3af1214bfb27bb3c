"""What reading requests have in common: a snapshot that is there, a place in it, an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from holdfast.errors import Damaged, Interrupted, NotFound, NotReady
from holdfast.flows.locate import Place, Trees, locate
from holdfast.flows.read_session import ReadSession
from holdfast.gateway.authority import Grant
from holdfast.gateway.outflow import until_left
from holdfast.gateway.repositories import SharedRepository
from holdfast.gateway.workroom import Workroom
from holdfast.model.snapshot import Snapshot

T = TypeVar("T")
Check = Callable[[], None]
"""Raises `Interrupted` once nobody waits for the result."""

UNCACHED = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


def manifest_of(grant: Grant) -> str:
    """The snapshot's id in its repository; raises `NotReady` where there is nothing to read."""
    if grant.manifest_id is None:
        state = f"; its status is {grant.status}" if grant.status else ""
        raise NotReady(f"This snapshot holds no data{state}.")
    return grant.manifest_id


@contextmanager
def opened(room: Workroom, grant: Grant) -> Iterator[SharedRepository]:
    """Hold a snapshot's repository; after damage its index is read anew."""
    with room.repositories.use(grant) as repository:
        try:
            yield repository
        except Damaged:
            repository.doubt_index()
            raise


@contextmanager
def located(
    repository: SharedRepository, grant: Grant, path: bytes
) -> Iterator[tuple[Snapshot, Trees, Place]]:
    """A place in the snapshot's tree, by its path from there."""
    with ReadSession(repository, with_lock=False) as session:
        snapshot = session.snapshot(manifest_of(grant))
        trees = Trees(session.reader)
        yield snapshot, trees, place_in(trees, snapshot, path)


def place_in(trees: Trees, snapshot: Snapshot, path: bytes) -> Place:
    """As `locate`, in words for people who have no command line."""
    try:
        return locate(trees, snapshot, path)
    except NotFound:
        raise NotFound("There is no such path in this snapshot.") from None


async def while_wanted(room: Workroom, request: Request, act: Callable[[Check], T]) -> T:
    """Run what blocks and may take long; it is told when the client has gone away."""
    unwanted = threading.Event()

    def check() -> None:
        if unwanted.is_set():
            raise Interrupted("the client does not wait any more")

    leaving = asyncio.ensure_future(until_left(request.receive))
    leaving.add_done_callback(lambda _future: unwanted.set())
    try:
        return await room.in_thread(lambda: act(check))
    finally:
        leaving.cancel()


def json_answer(document: object) -> Response:
    """A document that no cache keeps."""
    return Response(orjson.dumps(document), 200, UNCACHED, "application/json")
