"""Plain ZIP archives in a region's store, for people who want nothing but a bucket and unzip.

One object each, written as a stream while it arrives and seen once it is complete. They lie
beside the repository, are not encrypted by us, and share nothing with anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from http import HTTPStatus

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.errors import NotFound, StoreError
from holdfast.gateway.answer import Gone, Refused, problem_errors
from holdfast.gateway.authority import Grant, GrantedRight
from holdfast.gateway.disposition import attachment
from holdfast.gateway.objects import send_object
from holdfast.gateway.workroom import Workroom
from holdfast.store.protocol import StreamingStore

_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.zip", re.ASCII)
_GATHERED_BYTES = 4 << 20
_MEMORY_BYTES = 128 << 20
"""What one upload takes: parts that are being sent, and the next one."""


class Archives:
    """The routes below ``/archives/``."""

    def __init__(self, room: Workroom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        endpoint = problem_errors(self._archive)
        methods = ["GET", "PUT", "DELETE"]
        return [Route("/archives/{repository_id}/{name}", endpoint, methods=methods)]

    async def _archive(self, request: Request) -> Response:
        repository_id, name = request.path_params["repository_id"], request.path_params["name"]
        grant = await self._room.repository_grant(request, repository_id)
        if _NAME.fullmatch(name) is None:
            raise NotFound("There is no such archive.")
        key = f"archives/{grant.repository_id}/{name}"
        match request.method:
            case "PUT":
                grant.require(GrantedRight.APPEND)
                return await self._put(request, grant, key)
            case "DELETE":
                grant.require(GrantedRight.DELETE)
                await self._room.in_thread(lambda: self._delete(grant, key))
                return Response(None, 204)
            case _:
                grant.require(GrantedRight.READ)
                headers = {
                    "Content-Disposition": attachment(name.encode()),
                    "X-Content-Type-Options": "nosniff",
                    "Cache-Control": "private, no-cache",
                }
                return await send_object(
                    self._room,
                    request,
                    grant,
                    lambda: self._room.region(grant),
                    key,
                    headers=headers,
                    media_type="application/zip",
                )

    async def _put(self, request: Request, grant: Grant, key: str) -> Response:
        room = self._room
        announced = _announced(request)
        body = _ArrivingBody(request, announced, room.limits.stall_seconds)

        def act() -> int:
            with room.region(grant) as store:
                if not isinstance(store, StreamingStore):
                    raise StoreError("this store takes no streams")
                return store.create_stream(key, body.chunks(), size_bytes=announced)

        async with room.uploads.take(grant.account_id, _MEMORY_BYTES):
            size_bytes = await room.in_thread(act)
        return Response(
            orjson.dumps({"size_bytes": size_bytes}), HTTPStatus.CREATED, None, "application/json"
        )

    def _delete(self, grant: Grant, key: str) -> None:
        with self._room.region(grant) as store:
            store.delete(key)


class _ArrivingBody:
    """The body of a request, for a thread that reads it as fast as it can use it."""

    def __init__(self, request: Request, announced: int | None, stall_seconds: float) -> None:
        self._request, self._announced, self._stall = request, announced, stall_seconds
        self._loop = asyncio.get_running_loop()
        self._ended = False

    def chunks(self) -> Iterator[bytes]:
        """Called in a thread. Raises `Gone` where the body breaks off."""
        total = 0
        while not self._ended:
            chunk = asyncio.run_coroutine_threadsafe(self._gather(), self._loop).result()
            total += len(chunk)
            if chunk:
                yield chunk
        if self._announced is not None and total != self._announced:
            raise Gone("the body is not as long as was announced")

    async def _gather(self) -> bytes:
        gathered = bytearray()
        while len(gathered) < _GATHERED_BYTES and not self._ended:
            try:
                async with asyncio.timeout(self._stall):
                    message = await self._request.receive()
            except TimeoutError:
                raise Gone("nothing came for too long") from None
            if message["type"] == "http.disconnect":
                raise Gone("the client went away")
            gathered += message.get("body", b"")
            self._ended = not message.get("more_body", False)
        return bytes(gathered)


def _announced(request: Request) -> int | None:
    text = request.headers.get("Content-Length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_body", "The Content-Length is no number.")
    return int(text)
