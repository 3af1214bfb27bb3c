"""A route of a foreign API: who asks is found out before anything that they sent is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from holdfast.edge.call import CREDENTIALS, identify

_LARGEST_BODY: Final = 1 << 20


class Route(APIRoute):
    """One method of one path."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, behind the credential and the limit of the body."""
        handle = super().get_route_handler()
        asked = (CREDENTIALS.get(each.call) for each in self.dependant.dependencies)  # type: ignore[arg-type]
        credential = next(filter(None, asked), None)

        async def checked(request: Request) -> Response:
            if credential is not None:
                await run_in_threadpool(identify, request, credential)
            if self.body_field is not None:
                length = request.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > _LARGEST_BODY:
                    raise HTTPException(413, "The body is larger than any that this API takes.")
            return await handle(request)

        return checked


def router() -> APIRouter:
    """A router for one resource."""
    return APIRouter(route_class=Route)
