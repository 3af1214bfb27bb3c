"""Answers that were given before, so that a repeated request has no second effect.

The answer is kept in the transaction of its effect: either both are there or neither is.
Two at once with the same key: the second one's transaction fails and leaves nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from holdfast.control.database import Tx
from holdfast.control.tables import IdempotencyKey
from holdfast.errors import Conflict, KeyReused, UsageError

KEPT_FOR: Final = timedelta(hours=24)
MAX_KEY: Final = 200


def recall(tx: Tx, account_id: str, key: str, request_sha256: str) -> IdempotencyKey | None:
    """The answer that this request got before; `KeyReused` where the key had another one."""
    if not 1 <= len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"An idempotency key has 1 to {MAX_KEY} printable ASCII characters; a random UUID "
            "is a good one."
        )
    kept = tx.get(IdempotencyKey, (account_id, key))
    if kept is not None and kept.request_sha256 != request_sha256:
        raise KeyReused(
            "This idempotency key was used for another request in the last 24 hours; use a new "
            "one for each thing that you want done."
        )
    return kept


def keep(  # noqa: PLR0917
    tx: Tx,
    account_id: str,
    key: str,
    request_sha256: str,
    status: int,
    body: dict[str, Any] | None,
    location: str | None,
    *,
    now: datetime,
) -> None:
    """Keep an answer; `Conflict`, which undoes the transaction, where one is kept already."""
    tx.flush()  # so that what fails below is this row and nothing else
    tx.add(
        IdempotencyKey(
            account_id=account_id,
            key=key,
            request_sha256=request_sha256,
            status=status,
            body=body,
            location=location,
            created_at=now,
        )
    )
    try:
        tx.flush()
    except IntegrityError:
        raise Conflict(
            "The same request was being answered at the same time; send it again to get that "
            "answer."
        ) from None


def forget_old(tx: Tx, *, now: datetime) -> int:
    """Drop the answers that are older than a day; how many those were."""
    old = delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEPT_FOR)
    return tx.connection().execute(old).rowcount
