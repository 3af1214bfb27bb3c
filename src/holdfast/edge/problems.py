"""Problem documents: every failure as ``application/problem+json`` (RFC 9457).

    {"type": "urn:holdfast:error:not_found", "title": "Not found", "status": 404,
     "detail": "...", "code": "not_found", "request_id": "...", "retryable": false,
     "errors": []}

`code`, `detail` and `retryable` are the error tree's. `errors` lists what is wrong with
which part of a request: ``{"field": "body.name", "message": "..."}``. Nothing of what was
sent is repeated, because it may be a secret; and a failure that nobody foresaw is told
apart by its request id only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.errors import HoldfastError, TooManyRequests

MEDIA_TYPE: Final = "application/problem+json"
_MOST_ERRORS: Final = 50
_LONGEST_FIELD: Final = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failure of HTTP itself, which no service raises."""

    code: str
    detail: str


REFUSALS: Final[Mapping[int, Refusal]] = {
    400: Refusal("bad_request", "The request cannot be read as HTTP with a JSON body."),
    404: Refusal("not_found", "There is nothing at this address."),
    405: Refusal(
        "method_not_allowed", "This address does not know that method; see the Allow header."
    ),
    413: Refusal("too_large", "The request is larger than this server takes."),
    415: Refusal(
        "unsupported_media_type", "The body has to be JSON: send Content-Type: application/json."
    ),
    500: Refusal(
        "unexpected",
        "Something went wrong that should not have; the server's log has it under this "
        "request id. Whether anything was changed can be seen by reading it.",
    ),
}
INVALID: Final = Refusal(
    "invalid", "The request is not as this operation needs it; `errors` says what is wrong."
)


def problem(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    retryable: bool = False,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that says so."""
    document = {
        "type": f"urn:holdfast:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": getattr(request.state, "request_id", ""),
        "retryable": retryable,
        "errors": list(errors),
    }
    # Only ASCII: a request may contain what is no character, and its name may be repeated.
    body = json.dumps(document, ensure_ascii=True).encode("ascii")
    return Response(body, status, headers, MEDIA_TYPE)


def of_error(request: Request, error: HoldfastError) -> Response:
    """The problem for an error of the tree."""
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="holdfast"'
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, error.retry_after_seconds))
    elif error.http_status == 503:
        headers["Retry-After"] = "2"
    return problem(
        request,
        status=error.http_status,
        code=error.code,
        detail=error.message,
        retryable=error.retryable,
        headers=headers,
    )


def of_status(request: Request, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """The problem for a refusal by the HTTP framework."""
    refusal = REFUSALS.get(status, REFUSALS[400 if status < 500 else 500])
    return problem(
        request, status=status, code=refusal.code, detail=refusal.detail, headers=headers
    )


def of_unexpected(request: Request) -> Response:
    """The problem for a failure that nobody foresaw; it tells nothing."""
    return of_status(request, 500)


def of_validation(request: Request, found: Sequence[Mapping[str, Any]]) -> Response:
    """The problem for a request that does not fit its model."""
    if any(each["type"] == "json_invalid" for each in found):
        return of_status(request, 400)
    places = [tuple(each["loc"]) for each in found]
    errors = [
        {"field": _field(place), "message": str(each["msg"])}
        for place, each in zip(places, found, strict=True)
    ]
    return problem(
        request,
        status=422,
        code=INVALID.code,
        detail=INVALID.detail,
        errors=errors[:_MOST_ERRORS],
    )


def _field(place: Sequence[Any]) -> str:
    return ".".join(str(part) for part in place)[:_LONGEST_FIELD]
