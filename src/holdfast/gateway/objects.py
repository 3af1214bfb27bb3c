"""Objects of a store as HTTP bodies, in both directions.

Going out they are read in pieces of a few megabytes, the next one while one is sent. Coming in
they are held in memory whole, within a budget, and reach the store in one step once every byte
is there. A body whose client goes away leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from holdfast.gateway.answer import Gone, Refused
from holdfast.gateway.authority import Grant
from holdfast.gateway.byte_range import ByteRange, parse_range
from holdfast.gateway.outflow import Outflow
from holdfast.gateway.workroom import Workroom
from holdfast.store.protocol import ObjectStore

PIECE_BYTES = 4 << 20
# What is sent in one go: watching whether the client stays would cost more.
_SMALL_BYTES = 256 << 10
Hold = Callable[[], AbstractContextManager[ObjectStore]]
"""Holds the store that the object lies in; called in threads."""

_OCTETS = "application/octet-stream"
# Below that rate, after a minute of grace, an upload holds memory that others wait for.
_SLOWEST_BYTES_PER_SECOND = 16 << 10


async def send_object(
    room: Workroom,
    request: Request,
    grant: Grant,
    hold: Hold,
    key: str,
    *,
    headers: Mapping[str, str] | None = None,
    media_type: str = _OCTETS,
) -> Response:
    """Answer GET or HEAD of an object, whole or one range of it.

    Where a range's end is asked for and small, the object is read at once without asking for
    its size; `Content-Range` then says ``*`` for it.
    """
    shared = {"Accept-Ranges": "bytes", **(headers or {})}
    if request.method == "HEAD":
        size = await _size(room, hold, key)
        return Response(None, 200, {**shared, "Content-Length": str(size)}, media_type)
    wanted = parse_range(request.headers.get("Range"))
    async with AsyncExitStack() as stack:
        most = PIECE_BYTES
        if wanted is not None and wanted.first is not None and wanted.last is not None:
            most = min(wanted.last - wanted.first + 1, PIECE_BYTES)
        await stack.enter_async_context(room.downloads.take(grant.account_id, 2 * most))
        pieces, offset, length, size_known = await _begin(room, hold, key, wanted)
        stack.callback(pieces.close)
        shared["Content-Length"] = str(length)
        status = 200
        if wanted is not None:
            status = 206
            total = "*" if size_known is None else str(size_known)
            shared["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{total}"
        if length <= _SMALL_BYTES:
            return Response(await pieces.read(), status, shared, media_type)
        return Outflow(
            pieces.read,
            stack.pop_all(),
            status=status,
            headers=shared,
            media_type=media_type,
            stall_seconds=room.limits.stall_seconds,
        )


async def receive_body(room: Workroom, request: Request, most: int) -> bytearray:
    """The whole body, of a length that was announced; call it within `room.uploads`.

    Raises `Refused` for one that is too large, comes too slowly or is not what was announced.
    """
    length = announced_length(request, most)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + room.limits.stall_seconds + length / _SLOWEST_BYTES_PER_SECOND
    body = bytearray(length)
    at = 0
    while True:
        try:
            async with asyncio.timeout(
                min(room.limits.stall_seconds, max(0.0, deadline - loop.time()))
            ):
                message = await request.receive()
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, "too_slow", "The body came too slowly; send it again."
            ) from None
        if message["type"] == "http.disconnect":
            raise Gone("the client went away")
        part = message.get("body", b"")
        if at + len(part) > length:
            raise _not_as_announced()
        body[at : at + len(part)] = part
        at += len(part)
        if not message.get("more_body", False):
            break
    if at != length:
        raise _not_as_announced()
    return body


def announced_length(request: Request, most: int) -> int:
    """The Content-Length of a request, `most` at most."""
    text = request.headers.get("Content-Length", "")
    if not text:
        raise Refused(
            HTTPStatus.LENGTH_REQUIRED, "length_required", "Send the body with a Content-Length."
        )
    if not (text.isascii() and text.isdigit()):
        raise _not_as_announced()
    if int(text) > most:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_large",
            f"An object of this kind has {most} bytes at most.",
        )
    return int(text)


class _Pieces:
    """Reads a stretch of an object piece by piece, one ahead."""

    def __init__(
        self, fetch: Callable[[int, int], asyncio.Future[bytes]], first: bytes, at: int, end: int
    ) -> None:
        """`first` ends at `at`; the stretch ends at `end`."""
        self._fetch = fetch
        self._first: bytes | None = first
        self._at, self._end = at, end
        self._ahead: asyncio.Future[bytes] | None = None
        self._look_ahead()

    async def read(self) -> bytes:
        if self._first is not None:
            data, self._first = self._first, None
            return data
        if self._ahead is None:
            return b""
        wanted = min(PIECE_BYTES, self._end - self._at)
        data = await self._ahead
        if len(data) != wanted:
            raise EOFError("the object is shorter than it was a moment ago")
        self._at += wanted
        self._look_ahead()
        return data

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()

    def _look_ahead(self) -> None:
        left = self._end - self._at
        self._ahead = self._fetch(self._at, min(PIECE_BYTES, left)) if left > 0 else None


async def _begin(
    room: Workroom, hold: Hold, key: str, wanted: ByteRange | None
) -> tuple[_Pieces, int, int, int | None]:
    """What to send: its pieces, offset and length, and the object's size where it is known."""

    def fetch(at: int, length: int) -> asyncio.Future[bytes]:
        def act() -> bytes:
            with hold() as store:
                return store.read(key, at, length)

        return asyncio.ensure_future(room.in_thread(act))

    wanted = wanted or ByteRange(0, None)
    size = None
    if wanted.first is None:
        size = await _size(room, hold, key)
        stretch = wanted.within(size)
        if stretch is None:
            raise _unsatisfiable()
        offset, length = stretch
        first = await fetch(offset, min(PIECE_BYTES, length))
    else:
        offset = wanted.first
        last = wanted.last
        asked = PIECE_BYTES if last is None else min(PIECE_BYTES, last - offset + 1)
        first = await fetch(offset, asked)
        if len(first) < asked:
            length = len(first)
            if not first and offset:
                raise _unsatisfiable()
            size = offset + length
        elif last is not None and last - offset + 1 == asked:
            length = asked
        else:
            size = await _size(room, hold, key)
            stretch = wanted.within(size)
            assert stretch is not None
            length = stretch[1]
    return _Pieces(fetch, first, offset + len(first), offset + length), offset, length, size


async def _size(room: Workroom, hold: Hold, key: str) -> int:
    def act() -> int:
        with hold() as store:
            return store.size(key)

    return await room.in_thread(act)


def _unsatisfiable() -> Refused:
    return Refused(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        "The object holds no byte of this range.",
    )


def _not_as_announced() -> Refused:
    return Refused(
        HTTPStatus.BAD_REQUEST, "bad_body", "The body is not as long as its Content-Length says."
    )
