"""A connection on which a request's body was not read is not used again.

Who is refused before its body was asked for (``Expect: 100-continue``) does not send it, and
its next request would be taken for that body. So such an answer says that it is the last one
of its connection. Nothing else is changed.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ClosingUnread:
    """`app`, with ``Connection: close`` on answers that come before the body's end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        whole = False

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                whole = True
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and not whole:
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, received, answered)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
