"""Errors as answers: one translation for all routes, into plain text or a problem document.

What is said never names a bucket, a directory or an endpoint: those are the operator's, and
go to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus

import orjson
from starlette.requests import Request
from starlette.responses import Response

from holdfast.errors import (
    Damaged,
    HoldfastError,
    NotARepository,
    NotSignedIn,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TooManyRequests,
)

RETRY_SECONDS = 5
PROBLEM = "application/problem+json"
_log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

_WORDS: tuple[tuple[type[HoldfastError], str], ...] = (
    (ObjectNotFound, "There is no such object."),
    (ObjectExists, "There is another object of that name; it was left as it is."),
    (StoreFull, "The storage of this region is full; the operator has to make room."),
    (StoreUnavailable, "The storage of this region does not answer now; try again soon."),
    (StoreDenied, "The storage of this region refuses this; ask the operator."),
    (StoreError, "The storage of this region failed; ask the operator."),
    (NotARepository, "Nothing was backed up to this repository yet, or its store is gone."),
    (Damaged, "What is stored here is damaged; run a verification to see what is affected."),
    (RepositoryError, "The repository cannot be opened; ask the operator."),
)
"""What is said instead of messages that name a place."""


class Refused(HoldfastError):
    """A request that HTTP itself has a status for; `status` is that of the answer."""

    code = "bad_request"

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.http_status, self.code = status, code


class Gone(HoldfastError):
    """The client went away in the middle of its request; nobody reads an answer."""

    code = "client_gone"
    http_status = 400


def plain_errors(endpoint: Endpoint) -> Endpoint:
    """Answer errors in plain text, as restic's users read them, unless problems are asked for."""
    return _answering(endpoint, plain_answer)


def problem_errors(endpoint: Endpoint) -> Endpoint:
    """Answer errors as ``application/problem+json``."""
    return _answering(endpoint, problem_answer)


def plain_answer(error: HoldfastError, request: Request) -> Response:
    """One line of text; a problem document for a client that says that it reads those."""
    if PROBLEM in request.headers.get("Accept", ""):
        return problem_answer(error, request)
    status = _status(error, request)
    headers = _headers(error, status, 'Basic realm="Holdfast", charset="UTF-8"')
    return Response(f"{message_for(error)}\n", status, headers, "text/plain; charset=utf-8")


def problem_answer(error: HoldfastError, request: Request) -> Response:
    """A problem document (RFC 9457)."""
    status = _status(error, request)
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message_for(error),
        "code": error.code,
    }
    headers = _headers(error, status, 'Bearer realm="Holdfast"')
    return Response(orjson.dumps(document), status, headers, PROBLEM)


def message_for(error: HoldfastError) -> str:
    """What a client may read about an error."""
    return next((words for kind, words in _WORDS if isinstance(error, kind)), error.message)


def _answering(
    endpoint: Endpoint, answer: Callable[[HoldfastError, Request], Response]
) -> Endpoint:
    @wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HoldfastError as error:
            if _status(error, request) >= 500:
                _log.error(
                    "%s %s: %s: %s", request.method, request.url.path, error.code, error.message
                )
            return answer(error, request)
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            return answer(Unexpected("The gateway failed; ask the operator."), request)

    return answered


class Unexpected(HoldfastError):
    """Something that should not happen; what it was is in the log."""

    code = "unexpected"


def _status(error: HoldfastError, request: Request) -> int:
    if isinstance(error, StoreDenied):
        # To a deletion it may say that a retention period protects the object. Otherwise it
        # is our credential that is refused and not the client's.
        return 403 if request.method == "DELETE" else 502
    if isinstance(error, RepositoryError) and not isinstance(error, NotARepository):
        return 500
    return error.http_status


def _headers(error: HoldfastError, status: int, challenge: str) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, NotSignedIn):
        headers["WWW-Authenticate"] = challenge
    elif isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return headers
