"""What every request gets, whatever it asks for: an id, an address, a limit and a log line.

The id is the caller's ``X-Request-ID`` when that is a plain word, or a new one; it comes
back in the answer and stands in every log line, audit entry and problem of the request.
The log has method, path, status and time; never a query, a header or a body, because
those carry secrets. What nobody foresaw is logged here with its traceback and answered
as a problem that says nothing but the id.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.edge.deployment import Deployment
from holdfast.edge.problems import of_error, of_unexpected
from holdfast.errors import HoldfastError

REQUEST_ID_HEADER: Final = "X-Request-ID"
_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNLIMITED_PATHS: Final = frozenset({"/health", "/ready"})
"""What load balancers ask for; it must answer also when everything else is busy."""

_log = structlog.get_logger("holdfast.access")


class RequestScope:
    """The outermost layer of an app; pure ASGI, so that streams pass through unchanged."""

    def __init__(self, app: ASGIApp, deployment: Deployment) -> None:
        self._app = app
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        address = client_address(scope, headers, self._deployment.trusted_proxies)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, address=address)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = MutableHeaders(scope=message)
                ours[REQUEST_ID_HEADER] = request_id
                ours.setdefault("X-Content-Type-Options", "nosniff")
                ours.setdefault("Cache-Control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if scope["path"] not in _UNLIMITED_PATHS and not is_in(
                    address, self._deployment.gateway_networks
                ):
                    self._deployment.gates.pass_address(address)
                await self._app(scope, receive, answer)
            except HoldfastError as error:
                refusal = of_error(Request(scope), error)
                await refusal(scope, receive, answer)
            except Exception:
                # As text: a renderer that formats exceptions itself may show local variables.
                _log.error(
                    "unexpected",
                    method=scope["method"],
                    path=scope["path"],
                    exception=traceback.format_exc(),
                )
                if status:
                    raise  # half an answer is out; the server can only cut the connection
                await of_unexpected(Request(scope))(scope, receive, answer)
            finally:
                _log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.monotonic() - began, 4),
                    address=address,
                    caller=state.get("caller", ""),
                )


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _PLAIN_WORD.fullmatch(given) else str(uuid4())


def client_address(
    scope: Scope, headers: Headers, trusted: Sequence[IPv4Network | IPv6Network]
) -> str:
    """Where the request comes from: the last address that no trusted proxy wrote.

    ``X-Forwarded-For`` is believed from right to left for as long as the one who wrote
    the entry is trusted; anybody can write what stands further left.
    """
    peer = scope.get("client")
    address = peer[0] if peer else ""
    hops = [each.strip() for each in headers.get("X-Forwarded-For", "").split(",")]
    while hops and is_in(address, trusted):
        hop = hops.pop()
        if not _is_address(hop):
            break
        address = hop
    return address[:64]


def is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether this is an address, and in one of these networks."""
    return _is_address(address) and any(ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
