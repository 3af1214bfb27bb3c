"""Events: what people watch for, and the outbox that webhooks are served from.

An event and its deliveries are written in the transaction of what happened, so neither is
there without the other. Nothing is sent from here.

Invariant: who reads from an id on misses nothing. Numbers are taken when an event is
written and seen when it is committed, so on PostgreSQL a reader waits for the account's
writers that have a number and are not done yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select

from holdfast.control.database import Tx
from holdfast.control.paging import LOOKED_AT, Page
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Delivery, Event, Webhook
from holdfast.errors import UsageError

KINDS: Final = (
    "snapshot.started",
    "snapshot.completed",
    "snapshot.failed",
    "snapshot.cancelled",
    "snapshot.missed",
    "snapshot.skipped",
    "snapshot.expired",
    "snapshot.deleted",
    "snapshot.recovered",
    "snapshot.purged",
    "snapshot.copied",
    "snapshot.copy_failed",
    "restore.completed",
    "restore.failed",
    "restore.cancelled",
    "drill.passed",
    "drill.failed",
    "drill.not_done",
    "drill.cancelled",
    "verification.completed",
    "verification.damaged",
    "task.submitted",
    "task.started",
    "task.ended",
    "task.cancelled",
    "task.removed",
    "task.warning",
    "host.enrolled",
    "host.silent",
    "host.returned",
    "host.revoked",
    "schedule.created",
    "schedule.changed",
    "schedule.paused",
    "schedule.resumed",
    "schedule.removed",
    "retention.refused",
    "credit.low",
    "credit.exhausted",
    "credit.restored",
    "deletion.ahead",
    "repository.reconciled",
    "prices.unreadable",
)
TEST: Final = "webhook.test"
"""The kind of an event that only tries whether a webhook is reached."""

MAX_LIMIT: Final = 500
_MAX_ID: Final = 2**63 - 1
# The first key of advisory locks; another use of them takes another number.
_LOCK_SPACE: Final = 0x4576


# Built once: every event asks for them, and it takes longer to build than to run.
_ACTIVE_WEBHOOKS: Final = select(Webhook).where(
    Webhook.account_id == bindparam("account_id"),
    Webhook.active.is_(True),
    Webhook.removed_at.is_(None),
)


def emit(  # noqa: PLR0917
    tx: Tx,
    account_id: str,
    kind: str,
    subject_kind: str,
    subject_id: str,
    message: str,
    *,
    now: datetime,
    data: Mapping[str, Any] | None = None,
    correlation_id: str = "",
) -> Event:
    """Say that something happened, and have the account's webhooks that want it told."""
    wanting = _wanting(tx, account_id, kind)
    event = Event(
        account_id=account_id,
        at=now,
        kind=kind,
        subject_kind=subject_kind,
        subject_id=subject_id,
        message=message,
        data=dict(data or {}),
        correlation_id=correlation_id,
    )
    return post(tx, event, wanting, now=now)


@dataclass(frozen=True, slots=True)
class Told:
    """What an event says of one thing."""

    subject_id: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


def emit_all(
    tx: Tx,
    account_id: str,
    kind: str,
    subject_kind: str,
    told: Iterable[Told],
    *,
    now: datetime,
    correlation_id: str = "",
) -> None:
    """Say the same of many things at once, in their order."""
    wanting = _wanting(tx, account_id, kind)
    made = [
        Event(
            account_id=account_id,
            at=now,
            kind=kind,
            subject_kind=subject_kind,
            subject_id=each.subject_id,
            message=each.message,
            data=dict(each.data),
            correlation_id=correlation_id,
        )
        for each in told
    ]
    _order(tx, account_id, reading=False)
    tx.add_all(made)
    tx.flush()
    tx.add_all(
        Delivery(event_id=event.id, webhook_id=hook.id, not_before=now)
        for event in made
        for hook in wanting
    )


def post(tx: Tx, event: Event, hooks: Collection[Webhook], *, now: datetime) -> Event:
    """Write an event and one delivery of it to each of these webhooks."""
    _order(tx, event.account_id, reading=False)
    tx.add(event)
    tx.flush()
    tx.add_all(Delivery(event_id=event.id, webhook_id=hook.id, not_before=now) for hook in hooks)
    return event


def events(
    tx: Tx,
    who: Principal,
    *,
    after_id: int | None = None,
    until_id: int | None = None,
    limit: int = 100,
    kinds: Collection[str] = (),
) -> list[Event]:
    """The account's events after one of them, oldest first; none is ever left out."""
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"At most {MAX_LIMIT} events are given at once; {limit} were asked for.")
    statement = _after(who, after_id)
    _order(tx, who.account_id, reading=True)
    if until_id is not None:
        statement = statement.where(Event.id <= until_id)
    if kinds:
        statement = statement.where(Event.kind.in_(kinds))
    return list(tx.scalars(statement.order_by(Event.id).limit(limit)))


def listed(
    tx: Tx,
    who: Principal,
    *,
    after_id: int | None = None,
    limit: int = 100,
    kinds: Collection[str] = (),
) -> Page[Event]:
    """The same as a page, whose cursor is the id to go on after.

    Of rare kinds a page may have none and yet be followed by another one.
    """
    last = None
    if kinds:
        of_all = _after(who, after_id).with_only_columns(Event.id)
        last = tx.scalar(of_all.order_by(Event.id).offset(LOOKED_AT - 1).limit(1))
    found = events(tx, who, after_id=after_id, until_id=last, limit=limit, kinds=kinds)
    if len(found) >= limit:
        last = found[-1].id
    return Page(found, None if last is None else str(last))


def newest_id(tx: Tx, who: Principal) -> int:
    """The id of the account's last event, from which on a screen wants to be told; or 0."""
    who.require_everywhere(Right.READ)
    _order(tx, who.account_id, reading=True)
    return tx.scalar(select(func.max(Event.id)).where(Event.account_id == who.account_id)) or 0


def _after(who: Principal, after_id: int | None) -> Select[Event]:
    who.require_everywhere(Right.READ)
    if after_id is not None and not 0 <= after_id <= _MAX_ID:
        raise UsageError("The event to begin after is no event's id; use one that you were given.")
    return select(Event).where(Event.account_id == who.account_id, Event.id > (after_id or 0))


def _wanting(tx: Tx, account_id: str, kind: str) -> list[Webhook]:
    """The account's webhooks that want events of this kind."""
    assert kind in KINDS, f"{kind} is no kind of event"
    hooks = tx.scalars(_ACTIVE_WEBHOOKS, {"account_id": account_id})
    return [hook for hook in hooks if not hook.kinds or kind in hook.kinds]


def check_kinds(kinds: Collection[str]) -> list[str]:
    """The kinds in their usual order, or `UsageError` that names one that there is not."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UsageError(f"There is no kind of event {unknown[0]!r}; there are {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in kinds]


def _order(tx: Tx, account_id: str, *, reading: bool) -> None:
    """Let writers pass beside each other, and a reader only when none is between.

    The lock ends with the transaction. SQLite has one writer at a time, so there the order
    of numbers is the order of commits.
    """
    if tx.get_bind().dialect.name != "postgresql":
        return
    lock = func.pg_advisory_xact_lock if reading else func.pg_advisory_xact_lock_shared
    tx.execute(select(lock(_LOCK_SPACE, func.hashtext(account_id))))
