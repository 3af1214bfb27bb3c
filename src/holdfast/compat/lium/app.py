"""The app under ``/lium/api``: its routes, and errors as Lium's client reads them.

The client takes the sentence from ``detail``, and code and request id from ``error``; the key
comes in X-API-KEY. Lists come by page number; a page holds at most 100 entries.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from holdfast.compat.lium import backup_configs, backup_logs, pods, restore_logs
from holdfast.edge.deployment import Deployment
from holdfast.edge.requests import RequestScope
from holdfast.errors import HoldfastError, TooManyRequests

PREFIX: Final = "/lium/api"


def make_app(deployment: Deployment) -> FastAPI:
    """The app, for one deployment."""
    app = FastAPI(title="Holdfast for Lium's clients", openapi_url=None, docs_url=None)
    app.state.deployment = deployment
    app.add_middleware(RequestScope, deployment=deployment)
    for resource in (pods, backup_configs, backup_logs, restore_logs):
        app.include_router(resource.router, prefix=PREFIX)
    app.add_exception_handler(HoldfastError, _error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _status)
    return app


def _error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HoldfastError)
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, error.retry_after_seconds))
    return _answer(request, error.http_status, error.code, error.message, headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}"
        for each in error.errors()[:5]
    )
    return _answer(request, 422, "invalid_request", found[:1000], {})


def _status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return _answer(request, error.status_code, "refused", str(error.detail), headers)


def _answer(
    request: Request, status: int, code: str, message: str, headers: dict[str, str]
) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    document: dict[str, Any] = {
        "detail": message,
        "error": {"code": code, "message": message, "hint": None, "request_id": request_id},
    }
    return JSONResponse(document, status, {**headers, "X-Request-Id": request_id})
