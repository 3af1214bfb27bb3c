"""Errors that a server reports, raised as what they are: the classes of `holdfast.errors`.

A problem document (RFC 9457) carries the error's `code`; the class with that code is
raised with the server's own message. A code that this version does not know becomes the
nearest class by HTTP status, never a bare exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from holdfast import errors
from holdfast.errors import HoldfastError, TooManyRequests

_BY_STATUS: dict[int, type[HoldfastError]] = {
    400: errors.UsageError,
    401: errors.NotSignedIn,
    402: errors.CreditExhausted,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.NotFound,
    412: errors.Changed,
    413: errors.UsageError,
    422: errors.UsageError,
    507: errors.StoreFull,
}


def error_of(status: int, document: object, *, retry_after_seconds: int = 1) -> HoldfastError:
    """The error that an answer with this status and body stands for."""
    members = document if isinstance(document, Mapping) else {}
    detail = members.get("detail") or members.get("message") or members.get("title")
    message = detail if isinstance(detail, str) else f"The server answered with status {status}."
    if request := members.get("request_id"):
        message = f"{message} (request {request})" if status >= 500 else message
    message += _parts(members.get("errors"))
    code = members.get("code") or members.get("error")
    kind = _by_code().get(code) if isinstance(code, str) else None
    if kind is TooManyRequests or (kind is None and status == 429):
        return TooManyRequests(message, retry_after_seconds)
    if kind is None:
        kind = _BY_STATUS.get(status)
    if kind is None:
        kind = errors.ServerUnavailable if status >= 500 else errors.UsageError
    return kind(message)


def _parts(found: object) -> str:
    """What is wrong with which part of a request, as the end of a sentence."""
    if not isinstance(found, list) or not found:
        return ""
    parts = [
        f"{each.get('field', '')}: {each.get('message', '')}"
        for each in found
        if isinstance(each, Mapping)
    ]
    return f" ({'; '.join(parts)})" if parts else ""


@lru_cache(maxsize=1)
def _by_code() -> dict[str, type[HoldfastError]]:
    return {kind.code: kind for kind in _kinds(HoldfastError)}


def _kinds(kind: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from _kinds(each)
