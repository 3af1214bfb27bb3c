"""Answers whose body is produced while it is sent.

A client that takes nothing for a while, or goes away, ends the production. A failure in the
middle never looks like success: the connection is broken off before the promised length, or
before the last chunk, and the exception goes to the server, which logs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_SLICE_BYTES = 1 << 20


class BrokenOff(Exception):
    """Raised to the server once a body cannot be completed."""


class Outflow(Response):
    """Sends what `read` returns until it returns nothing; then, or in any case, closes."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        resources: AsyncExitStack,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str,
        stall_seconds: float,
    ) -> None:
        """`resources` are closed when the answer is over, however it ends."""
        super().__init__(None, status, headers, media_type)
        if "Content-Length" not in (headers or {}):
            del self.headers["Content-Length"]
        self._read, self._resources, self._stall_seconds = read, resources, stall_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            sending = asyncio.ensure_future(self._send_all(send))
            leaving = asyncio.ensure_future(until_left(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        while True:
            try:
                data = await self._read()
            except Exception as error:
                raise BrokenOff("a body could not be completed") from error
            if not data:
                break
            # In slices, so that what the client has not taken yet is little.
            for at in range(0, len(data), _SLICE_BYTES):
                part = data if len(data) <= _SLICE_BYTES else data[at : at + _SLICE_BYTES]
                try:
                    async with asyncio.timeout(self._stall_seconds):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                except TimeoutError:
                    raise BrokenOff("the client takes nothing any more") from None
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_left(receive: Receive) -> None:
    """Return when the client has gone away, or the answer is over."""
    while (await receive())["type"] != "http.disconnect":
        pass


def then(first: bytes, read: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[bytes]]:
    """Read what has been read already, and then on."""
    waiting = [first]

    async def next_piece() -> bytes:
        return waiting.pop() if waiting else await read()

    return next_piece
