"""HTTP to one server: the credential, time limits, repetitions, errors.

What may pass is tried again: 429, 502, 503, 504 and lost connections, with growing
pauses, or as long as the server says. Every request can be repeated: a POST carries an
Idempotency-Key that is the same in every attempt, and what PUT, PATCH and DELETE do twice
they do once. It knows no resource and no path.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx

from holdfast import __version__
from holdfast.errors import HoldfastError, ServerUnavailable, UsageError
from holdfast.sdk.problem import error_of

_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_PAUSE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.25

Query = Mapping[str, Any]

# Ranges count the bytes of the thing itself, so nothing may be packed on the way.
_PLAIN: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the parsed JSON (None for an empty body), and the headers."""

    status: int
    document: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport:
    """Requests to the server at `url`. Thread-safe.

    `timeout_seconds` is for connecting and for each silence of the server, not for a
    whole download. `attempts` counts the first one. `pause` waits, and is a parameter so
    that tests need not.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float = 30.0,
        attempts: int = 5,
        pause: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url)
        headers = {"User-Agent": f"holdfast/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_seconds, transport=transport
        )
        self._attempts = max(1, attempts)
        self._pause = pause

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON at `path`."""
        return self.request("GET", path, query=query).document

    def post(self, path: str, body: object = None, *, key: str = "") -> Any:
        return self.request("POST", path, body=body, key=key).document

    def patch(self, path: str, body: object) -> Any:
        return self.request("PATCH", path, body=body).document

    def put(self, path: str, body: object) -> Any:
        return self.request("PUT", path, body=body).document

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self.request("DELETE", path, query=query).document

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send it, again where that may help; raise what the server reports.

        `key` is the Idempotency-Key of a changing request; without one it is made here.
        """
        sent = dict(headers or {})
        if method == "POST":
            sent.setdefault("Idempotency-Key", key or str(uuid4()))
        return self._repeated(
            lambda: self._client.request(
                method, path, params=_query(query), json=body, headers=sent
            ),
            removes=method == "DELETE",
        )

    def upload(
        self,
        path: str,
        content: Callable[[], Iterable[bytes]],
        length: int,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """PUT bytes, `length` of them; `content` is asked for them anew in each attempt."""
        sent = {"Content-Length": str(length), **(headers or {})}
        return self._repeated(lambda: self._client.put(path, content=content(), headers=sent))

    def _repeated(self, send: Callable[[], httpx.Response], *, removes: bool = False) -> Answer:
        """Send until it is answered for good; what a removal does not find again, it removed."""
        attempt = 0
        while True:
            attempt += 1
            wait: float | None = None
            try:
                response = send()
            except httpx.TransportError as error:
                failure: HoldfastError = self._unreachable(error)
            else:
                if response.is_success:
                    return Answer(response.status_code, _json(response), response.headers)
                wait = _retry_after(response)
                failure = error_of(
                    response.status_code, _json(response), retry_after_seconds=round(wait or 1)
                )
                if removes and response.status_code == 404 and attempt > 1:
                    return Answer(204, None)  # an earlier attempt did it; its answer was lost
                if response.status_code not in _AGAIN:
                    raise failure
            if attempt >= self._attempts:
                raise failure
            self._pause(_pause_seconds(attempt, wait))

    @contextmanager
    def stream(
        self, path: str, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """The body at `path`, piece by piece; opened again until it begins to come."""
        attempt = 0
        while True:
            attempt += 1
            wait: float | None = None
            try:
                request = self._client.build_request(
                    "GET", path, params=_query(query), headers={**_PLAIN, **(headers or {})}
                )
                response = self._client.send(request, stream=True)
                if response.is_success:
                    break
                response.read()
            except httpx.TransportError as error:
                failure: HoldfastError = self._unreachable(error)
            else:
                response.close()
                wait = _retry_after(response)
                failure = error_of(
                    response.status_code, _json(response), retry_after_seconds=round(wait or 1)
                )
                if response.status_code not in _AGAIN:
                    raise failure
            if attempt >= self._attempts:
                raise failure
            self._pause(_pause_seconds(attempt, wait))
        try:
            yield response
        except httpx.TransportError as error:
            raise ServerUnavailable(
                f"The connection to {self.url} was lost in the middle of a download "
                f"({_words(error)}). Nothing was kept; start it again."
            ) from error
        finally:
            response.close()

    def _unreachable(self, error: httpx.TransportError) -> ServerUnavailable:
        return ServerUnavailable(
            f"No answer from {self.url} ({_words(error)}). Check the address, and that the "
            "server runs; then try again."
        )


def checked_url(url: str) -> str:
    """The address without a slash at its end; raises `UsageError` where it is none."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no address of a server: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address of a server; write https://backup.example.org")
    if parsed.userinfo:
        raise UsageError("The address of a server holds no password; give a token instead.")
    return url.rstrip("/")


def _query(query: Query | None) -> list[tuple[str, str | int | float | bool | None]]:
    found: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in (query or {}).items():
        for each in value if isinstance(value, (list, tuple, set, frozenset)) else (value,):
            if each is None or each == "":
                continue
            text = str(each).lower() if isinstance(each, bool) else str(each)
            found.append((name, each.isoformat() if hasattr(each, "isoformat") else text))
    return found


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    if "json" not in response.headers.get("content-type", ""):
        return response.text if response.is_success else None
    try:
        return response.json()
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _pause_seconds(attempt: int, wanted: float | None) -> float:
    if wanted is not None:
        return min(wanted, _LONGEST_PAUSE_SECONDS)
    grown = _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1)
    return float(min(grown, _LONGEST_PAUSE_SECONDS) * random.uniform(0.75, 1.25))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
