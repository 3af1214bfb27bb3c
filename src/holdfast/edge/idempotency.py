"""Idempotency keys: a POST that is repeated under one key is done once.

The answer is kept in the same transaction as the work, so that there is never one without
the other. The same key with the same request gets that answer again; with another one,
or from somebody else, it is refused (422). An answer that holds a secret is kept sealed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, Final, TypeVar

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from holdfast.control import idempotency as kept
from holdfast.control.database import Tx
from holdfast.edge.answers import JSON_TYPE, Show, document
from holdfast.edge.call import Call
from holdfast.errors import Conflict, KeyReused, WrongMasterKey

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Any text of your choice: repeating the request with it does nothing twice. "
        "It is remembered for 24 hours.",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
    ),
]
REPLAYED: Final = "Idempotent-Replayed"

_Row = TypeVar("_Row")
_SEALED: Final = "sealed"


def once(
    call: Call,
    key: str | None,
    body: BaseModel | None,
    act: Callable[[Tx], _Row],
    show: Show[_Row],
    *,
    status: int = 200,
    location: Callable[[_Row], str] | None = None,
    secret: bool = False,
    observed: Collection[str] = (),
) -> Response:
    """Do it, unless this key says that it was done; answers with what `show` makes of it.

    `secret`: the answer holds one, which is shown this once and never kept in the clear.
    """

    def attempt(tx: Tx) -> Response:
        if key is not None and (found := _recall(tx, call, key, digest)) is not None:
            return found
        row = act(tx)
        tx.flush()
        shown = show(row)
        where = None if location is None else location(row)
        if key is not None:
            content = shown.model_dump(mode="json")
            if secret:
                content = {_SEALED: _seal(call, key, content)}
            kept.keep(tx, call.who.account_id, key, digest, status, content, where, now=call.now)
        return document(call.request, shown, status=status, location=where, observed=observed)

    if key is None:
        # What was done may have been committed although the answer was lost; without a key
        # a second attempt could do it twice.
        with call.writing() as tx:
            answer = attempt(tx)
        call.deployment.wakeups.nudge()
        return answer
    digest = _digest(call, body)
    try:
        answer = call.deployment.database.transact(attempt)
    except Conflict:
        # Perhaps the same request was under way beside this one and its answer is there now.
        with call.reading() as tx:
            found = _recall(tx, call, key, digest)
        if found is None:
            raise
        return found
    call.deployment.wakeups.nudge()
    return answer


def _recall(tx: Tx, call: Call, key: str, digest: str) -> Response | None:
    found = kept.recall(tx, call.who.account_id, key, digest)
    if found is None:
        return None
    content: dict[str, Any] = found.body or {}
    if set(content) == {_SEALED}:
        content = _unseal(call, key, content[_SEALED])
    headers = {REPLAYED: "true"}
    if found.location is not None:
        headers["Location"] = found.location
    return Response(json.dumps(content).encode(), found.status, headers, JSON_TYPE)


def _digest(call: Call, body: BaseModel | None) -> str:
    """Of all that makes one request another one, and of who asks: an answer is for one only."""
    sent = "" if body is None else body.model_dump_json(exclude_unset=True)
    url = call.request.url
    parts = [call.who.kind, call.who.id, call.request.method, url.path, url.query, sent]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _context(call: Call, key: str) -> str:
    return f"idempotency_keys:{call.who.account_id}:{key}"


def _seal(call: Call, key: str, content: dict[str, Any]) -> str:
    return call.keys.seal(json.dumps(content).encode(), _context(call, key))


def _unseal(call: Call, key: str, sealed: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(call.keys.unseal(sealed, _context(call, key)))
    except WrongMasterKey:
        raise KeyReused(
            "What this key's request was answered with cannot be shown again, because the "
            "master key was changed since. Use a new key; the first request was done."
        ) from None
    return content
