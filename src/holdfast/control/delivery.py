"""Delivery: takes waiting events to their webhooks, again and again until they are taken.

A parcel is reserved for a while in one transaction, sent outside of any, and its answer
noted in another one. So a replica that dies in between only makes it late, and at worst the
other side gets it twice, under the same ``Holdfast-Delivery`` number.

Each request is signed: ``Holdfast-Signature: t=<seconds>,v1=<hex>`` with HMAC-SHA256 of
``<seconds>.<body>`` under the webhook's secret. The time is of the sending, so that a
receiver can refuse what is old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import orjson
from sqlalchemy import func, select

from holdfast import __version__
from holdfast.control.courier import Answer, Parcel
from holdfast.control.database import Database, Tx
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Account, Delivery, Event, Webhook
from holdfast.errors import HoldfastError

PAUSES_SECONDS: Final = (10, 60, 300, 900, 3600, 7200, 14_400)
"""How long to wait after the first, second ... failure; the last one from there on."""

GIVE_UP_AFTER: Final = timedelta(days=1)
RESERVED_SECONDS: Final = 300
PARCELS_AT_ONCE: Final = 32
# One address that is slow must not keep the parcels of all others waiting.
PARCELS_PER_WEBHOOK: Final = 4
_SENDERS: Final = 8

Send = Callable[[Parcel], Answer]


@dataclass(frozen=True, slots=True)
class _Reserved:
    delivery_id: int
    attempt: int
    parcel: Parcel | None
    problem: str = ""


def deliver(database: Database, keys: MasterKeys, *, now: datetime, send: Send) -> int:
    """Send some of what is due; how many were tried. Call it again while that is not 0."""
    reserved = database.transact(lambda tx: _reserve(tx, keys, now=now))
    if not reserved:
        return 0
    with ThreadPoolExecutor(min(_SENDERS, len(reserved))) as senders:
        answers = list(senders.map(lambda each: _sent(each, send), reserved))
    database.transact(lambda tx: _note(tx, reserved, answers, now=now))
    return len(reserved)


def signature(secret: bytes, body: bytes, at: datetime) -> str:
    """The header that proves who sent a body, and when."""
    seconds = int(at.timestamp())
    digest = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def pause_after(attempt: int) -> timedelta:
    """How long to wait after this attempt; the first is 1."""
    return timedelta(seconds=PAUSES_SECONDS[min(max(attempt, 1), len(PAUSES_SECONDS)) - 1])


def _reserve(tx: Tx, keys: MasterKeys, *, now: datetime) -> list[_Reserved]:
    rank = func.row_number().over(partition_by=Delivery.webhook_id, order_by=Delivery.id)
    due = (
        select(Delivery.id, rank.label("rank"))
        .where(Delivery.state == "waiting", Delivery.not_before <= now)
        .subquery()
    )
    wanted = select(due.c.id).where(due.c.rank <= PARCELS_PER_WEBHOOK)
    chosen = tx.scalars(
        select(Delivery)
        .where(Delivery.id.in_(wanted), Delivery.state == "waiting", Delivery.not_before <= now)
        .order_by(Delivery.not_before, Delivery.id)
        .limit(PARCELS_AT_ONCE)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    reserved = []
    for delivery in chosen:
        hook = tx.get_one(Webhook, delivery.webhook_id)
        if hook.removed_at is not None or not hook.active:
            delivery.state, delivery.answer = "failed", "the webhook is switched off"
            continue
        delivery.attempt += 1
        delivery.not_before = now + timedelta(seconds=RESERVED_SECONDS)
        try:
            parcel, problem = _parcel(tx, keys, delivery, hook, now=now), ""
        except HoldfastError as error:
            parcel, problem = None, error.message
        reserved.append(_Reserved(delivery.id, delivery.attempt, parcel, problem))
    return reserved


def _parcel(
    tx: Tx, keys: MasterKeys, delivery: Delivery, hook: Webhook, *, now: datetime
) -> Parcel:
    event = tx.get_one(Event, delivery.event_id)
    account = tx.get_one(Account, event.account_id)
    body = orjson.dumps(
        {
            "id": event.id,
            "kind": event.kind,
            "at": event.at,
            "account_id": event.account_id,
            "subject": {"kind": event.subject_kind, "id": event.subject_id},
            "message": event.message,
            "data": event.data,
            "correlation_id": event.correlation_id,
        }
    )
    secret = keys.unseal(hook.sealed_secret, context_of(Webhook, hook.id))
    return Parcel(
        url=hook.url,
        body=body,
        headers={
            "Content-Type": "application/json",
            "User-Agent": f"holdfast/{__version__}",
            "Holdfast-Event": event.kind,
            "Holdfast-Delivery": str(delivery.id),
            "Holdfast-Signature": signature(secret, body, now),
        },
        subject=f"[{account.name}] {event.kind}: {event.message}"[:200],
        text=(
            f"{event.message}\n\n"
            f"Account: {account.name}\n"
            f"What: {event.kind}\n"
            f"When: {event.at:%Y-%m-%d %H:%M:%S} UTC\n"
            f"Concerns: {event.subject_kind} {event.subject_id}\n"
        ),
        at=now,
    )


def _sent(reserved: _Reserved, send: Send) -> Answer:
    if reserved.parcel is None:
        return Answer(taken=False, text=reserved.problem)
    return send(reserved.parcel)


def _note(
    tx: Tx, reserved: Sequence[_Reserved], answers: Sequence[Answer], *, now: datetime
) -> None:
    for each, answer in zip(reserved, answers, strict=True):
        delivery = tx.get(Delivery, each.delivery_id, with_for_update=True, populate_existing=True)
        # Another replica has it by now when this one was away longer than it was reserved.
        if delivery is None or delivery.state != "waiting" or delivery.attempt != each.attempt:
            continue
        delivery.answer = answer.text[:200]
        if answer.taken:
            delivery.state, delivery.delivered_at = "delivered", now
            continue
        event = tx.get_one(Event, delivery.event_id)
        delivery.not_before = now + pause_after(delivery.attempt)
        if delivery.not_before > event.at + GIVE_UP_AFTER:
            delivery.state = "failed"
