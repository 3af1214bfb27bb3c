"""Asks the control plane who a credential is, and keeps each answer for a few seconds.

So that is how long a revoked credential still works. Only grants are kept, never refusals:
what was made a moment ago is found at once. A credential is kept as its SHA-256 only.
Concurrent questions about the same thing are asked once.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import httpx

from holdfast.errors import (
    Forbidden,
    HoldfastError,
    NotFound,
    NotReady,
    NotSignedIn,
)
from holdfast.gateway.authority import Grant
from holdfast.gateway.control_plane import ControlPlane, problem_of, too_many

KEPT_SECONDS = 5.0
_ENTRIES = 4096
_TIMEOUT_SECONDS = 10.0
_OWN_CREDENTIAL_REFUSED = "gateway_not_signed_in"

_log = logging.getLogger(__name__)
_Key = tuple[bytes, str, str]


class HttpAuthority:
    """An `Authority` (and a `RecallingAuthority`) that is the control plane at `base_url`."""

    def __init__(
        self,
        base_url: str,
        credential: str,
        *,
        kept_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`credential` is the gateway's own."""
        self._control = ControlPlane(
            base_url,
            credential,
            timeout_seconds=_TIMEOUT_SECONDS,
            without="Who you are cannot be checked now; try again in a few seconds.",
            transport=transport,
        )
        self._kept_seconds, self._clock = kept_seconds, clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, tuple[float, Grant]] = OrderedDict()
        self._asked: dict[_Key, Future[Grant]] = {}

    def close(self) -> None:
        """Give back connections."""
        self._control.close()

    def resolve(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant:
        key = _key(credential, repository_id, snapshot_id)
        with self._lock:
            kept = self._recall(key)
            if kept is not None:
                return kept
            future = self._asked.get(key)
            asks = future is None
            if future is None:
                future = self._asked[key] = Future()
        if not asks:
            return future.result()
        # Kept from before the question was asked: its answer may be old when it comes.
        until = self._clock() + self._kept_seconds
        try:
            grant = self._ask({"credential": credential, key[1]: key[2]})
        except BaseException as error:
            with self._lock:
                del self._asked[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._asked[key]
            self._kept[key] = (until, grant)
            self._kept.move_to_end(key)
            while len(self._kept) > _ENTRIES:
                self._kept.popitem(last=False)
        future.set_result(grant)
        return grant

    def recall(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant | None:
        with self._lock:
            return self._recall(_key(credential, repository_id, snapshot_id))

    def _recall(self, key: _Key) -> Grant | None:
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept[0]:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def _ask(self, question: Mapping[str, str]) -> Grant:
        answer = self._control.ask("resolve", question)
        if answer.status_code == 200:
            try:
                return _grant(answer.json())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                _log.exception("the control plane's answer is not a grant")
                raise self._control.unavailable() from error
        raise _refusal(answer) or self._control.unavailable()


def _key(credential: str, repository_id: str | None, snapshot_id: str | None) -> _Key:
    digest = hashlib.sha256(credential.encode()).digest()
    if repository_id is not None:
        return digest, "repository_id", repository_id
    return digest, "snapshot_id", snapshot_id or ""


def _grant(document: Mapping[str, Any]) -> Grant:
    who = document["principal"]
    return Grant(
        account_id=str(document["account_id"]),
        principal=f"{who['kind']}:{who['id']}" if isinstance(who, dict) else str(who),
        rights=frozenset(str(right) for right in document["rights"]),
        repository_id=str(document["repository_id"]),
        location=str(document["location"]),
        put_only=bool(document.get("put_only", False)),
        options=dict(document.get("options") or {}),
        password=document.get("password"),
        manifest_id=document.get("manifest_id"),
        captured_path=document.get("captured_path"),
        name=document.get("snapshot_name") or "",
        status=document.get("snapshot_status") or "",
    )


def _refusal(answer: httpx.Response) -> HoldfastError | None:
    """The error for an answer that is no grant; the control plane's own words where it has some.

    None where it is nothing that whoever asks could do anything about.
    """
    code, detail = problem_of(answer)
    match answer.status_code:
        case 401 if code == _OWN_CREDENTIAL_REFUSED:
            _log.error("the control plane does not accept the gateway's own credential")
            return None
        case 401:
            return NotSignedIn(detail or "This credential is unknown, expired or revoked.")
        case 403:
            return Forbidden(detail or "This credential does not carry the right for this.")
        case 404 | 422:
            return NotFound(detail or "There is no such repository or snapshot.")
        case 409:
            return NotReady(detail or "It is not in a state that allows this.")
        case 429:
            return too_many(answer, detail)
    _log.warning("the control plane answered %d to a gateway's question", answer.status_code)
    return None
