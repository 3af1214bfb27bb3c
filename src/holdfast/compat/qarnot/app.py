"""The app under ``/qarnot``: its routes, and errors as Qarnot's clients read them.

Every path is there unversioned, as the SDK asks for it, and below ``/v1`` (any version), as
the vendor's guide writes it. A client takes the sentence from ``message`` and the kind of
error from the status alone. It repeats every request that was answered with 429 or 5xx,
also one that makes something, so 5xx says that nothing was done.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from holdfast.compat.qarnot import account, output, snapshots, tasks
from holdfast.edge.deployment import Deployment
from holdfast.edge.requests import RequestScope
from holdfast.errors import (
    CreditExhausted,
    HoldfastError,
    NotReady,
    QuotaExceeded,
    TooManyRequests,
)

PREFIX: Final = "/qarnot"
PREFIXES: Final = (PREFIX, PREFIX + "/v{version}")

_STATUS: Final[dict[type[HoldfastError], int]] = {
    # "Invalid operation on a task that does not run".
    NotReady: HTTPStatus.FORBIDDEN,
    QuotaExceeded: HTTPStatus.FORBIDDEN,
    CreditExhausted: HTTPStatus.PAYMENT_REQUIRED,
}


def make_app(deployment: Deployment) -> FastAPI:
    """The app, for one deployment."""
    app = FastAPI(title="Holdfast for Qarnot's clients", openapi_url=None, docs_url=None)
    app.state.deployment = deployment
    app.add_middleware(RequestScope, deployment=deployment)
    # The SDK asks for some paths with a slash at the end; a redirection would lose its body.
    app.router.redirect_slashes = False
    for prefix in PREFIXES:
        for resource in (account, tasks, snapshots, output):
            app.include_router(resource.router, prefix=prefix)
    app.add_exception_handler(HoldfastError, _error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _status)
    return app


def _error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HoldfastError)
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, error.retry_after_seconds))
    status = next(
        (status for kind, status in _STATUS.items() if isinstance(error, kind)), error.http_status
    )
    return _answer(request, status, error.message, headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}"
        for each in error.errors()[:5]
    )
    return _answer(request, HTTPStatus.BAD_REQUEST, found[:1000], {})


def _status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _answer(request: Request, status: int, message: str, headers: dict[str, str]) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    return JSONResponse({"message": message}, status, {**headers, "X-Request-Id": request_id})
