"""Refusals of a foreign API: which status and sentence, whatever document they come in.

Each API says how an answer is written; what a sentence is made of is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from holdfast.errors import HoldfastError, TooManyRequests

INVALID = "invalid_request"
REFUSED = "refused"


class Written(Protocol):
    """The document of a refusal, for one request."""

    def __call__(self, code: str, message: str, request_id: str, /) -> Mapping[str, Any]: ...


def answer_refusals(
    app: FastAPI,
    written: Written,
    *,
    invalid_status: HTTPStatus,
    status_of: Callable[[HoldfastError], int] = lambda error: error.http_status,
) -> None:
    """Have `app` answer errors of ours, requests that are malformed, and HTTP's own."""

    def answer(
        request: Request, status: int, code: str, message: str, headers: Mapping[str, str]
    ) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "")
        document = written(code, message, request_id)
        return JSONResponse(document, status, {**headers, "X-Request-Id": request_id})

    def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HoldfastError)
        headers = {}
        if isinstance(error, TooManyRequests):
            headers["Retry-After"] = str(max(1, error.retry_after_seconds))
        return answer(request, status_of(error), error.code, error.message, headers)

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}"
            for each in error.errors()[:5]
        )
        return answer(request, invalid_status, INVALID, found[:1000], {})

    def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return answer(request, error.status_code, REFUSED, str(error.detail), headers)

    app.add_exception_handler(HoldfastError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
