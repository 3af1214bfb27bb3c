"""An operation: a route that checks what FastAPI lets pass, in this order.

Who asks, before anything that they sent is read. A query parameter that no operation knows
is refused, because a filter with a spelling mistake would otherwise give the whole list; so
is one that is there twice. A body must be declared as JSON and not be too large. What kind
of credential is asked for goes into the OpenAPI document, from the dependency that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from holdfast.edge.call import CREDENTIALS, deployment_of, identify

CREDENTIAL: Final = "x-credential"
PREFIX: Final = "/api/v1"

_LARGEST_BODY: Final = "holdfast_largest_body"
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


def largest_body(limit_bytes: int) -> Callable[[_Endpoint], _Endpoint]:
    """Give an operation a limit of its own for what is sent to it."""

    def limited(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _LARGEST_BODY, limit_bytes)
        return endpoint

    return limited


class Operation(APIRoute):
    """One method of one path."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        extra = self.openapi_extra or {}
        self.openapi_extra = {CREDENTIAL: _credential(self) or "none", **extra}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler behind our checks."""
        handle = super().get_route_handler()
        credential = _credential(self)
        known = {each.alias for each in self.dependant.query_params}
        has_body = self.body_field is not None
        own_limit: int | None = getattr(self.endpoint, _LARGEST_BODY, None)

        async def checked(request: Request) -> Response:
            if credential is not None:
                await run_in_threadpool(identify, request, credential)
            _check_query(request, known)
            if has_body:
                limit = own_limit or deployment_of(request).limits.max_body_bytes
                request = _limited(request, limit)
                await _check_media_type(request)
            return await handle(request)

        return checked


def router(tag: str) -> APIRouter:
    """A router for the operations of one resource."""
    return APIRouter(
        prefix=PREFIX,
        tags=[tag],
        route_class=Operation,
        generate_unique_id_function=lambda route: route.name,
    )


def _credential(route: APIRoute) -> str | None:
    """The kind of credential that a dependency of the operation asks for."""
    asked = (CREDENTIALS.get(each.call) for each in route.dependant.dependencies)  # type: ignore[arg-type]
    return next(filter(None, asked), None)


def _check_query(request: Request, known: set[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    wrong = [
        {"type": "unknown", "loc": ("query", name), "msg": "there is no such parameter"}
        for name in dict.fromkeys(names)
        if name not in known
    ] + [
        {"type": "repeated", "loc": ("query", name), "msg": "it is given more than once"}
        for name in dict.fromkeys(names)
        if name in known and names.count(name) > 1
    ]
    if wrong:
        raise RequestValidationError(wrong)


def _limited(request: Request, limit_bytes: int) -> Request:
    """The same request, which ends with 413 where its body is larger."""
    declared = request.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise HTTPException(413)
    return Request(request.scope, _counted(request.receive, limit_bytes))


def _counted(receive: Receive, limit_bytes: int) -> Receive:
    left = limit_bytes

    async def next_message() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413)
        return message

    return next_message


async def _check_media_type(request: Request) -> None:
    declared = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if declared != "application/json" and await request.body():
        raise HTTPException(415)
