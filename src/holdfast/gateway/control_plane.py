"""A gateway's line to the control plane: one question, put again once where its answer was lost.

It knows no question and no answer. What is asked may be repeated; whoever asks says in one
sentence what cannot be had while nobody answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import httpx

from holdfast.errors import ServerUnavailable, TooManyRequests

_BASE = "/api/v1/gateway"
_ATTEMPTS = 2
_log = logging.getLogger(__name__)


class ControlPlane:
    """The control plane at `base_url`. Thread-safe."""

    def __init__(
        self,
        base_url: str,
        credential: str,
        *,
        timeout_seconds: float,
        without: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`credential` is the gateway's own, `without` what is said where nobody answers."""
        self._client = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {credential}"},
            timeout=timeout_seconds,
            transport=transport,
        )
        self._without = without

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def ask(self, what: str, question: Mapping[str, Any]) -> httpx.Response:
        """The answer, whatever its status is; raises `ServerUnavailable` where none comes."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._client.post(f"{_BASE}/{what}", json=question)
            except httpx.TransportError as error:
                # An idle connection may have been closed just now; a new one tells.
                if attempt == _ATTEMPTS:
                    _log.warning("the control plane does not answer: %s", type(error).__name__)
                    raise self.unavailable() from error
        raise AssertionError

    def unavailable(self) -> ServerUnavailable:
        """The error for an answer that does not help."""
        return ServerUnavailable(self._without)


def problem_of(answer: httpx.Response) -> tuple[str, str]:
    """Code and detail of a refusal, as far as it has them."""
    try:
        document = answer.json()
        return str(document.get("code", "")), str(document.get("detail") or "")
    except (ValueError, AttributeError):
        return "", ""


def too_many(answer: httpx.Response, detail: str) -> TooManyRequests:
    """The error for an answer that says to slow down."""
    text = answer.headers.get("Retry-After", "")
    seconds = int(text) if text.isascii() and text.isdigit() else 1
    return TooManyRequests(detail or "Too many requests; wait a little.", seconds)
