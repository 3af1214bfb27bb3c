"""What happened and who was told: audit, events, deliveries, answers given before."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import (
    Base,
    Id,
    Json,
    JsonList,
    NewId,
    Sequence,
    Time,
    UtcTime,
)


class AuditEntry(Base):
    """One change: who, from where, what, before, after. Rows are never changed or removed."""

    __tablename__ = "audit"
    __table_args__ = (
        Index(None, "account_id", "id"),
        Index(None, "account_id", "subject_id", "id"),
    )

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    account_id: Mapped[Id]
    at: Mapped[Time]
    actor_kind: Mapped[str] = mapped_column(String(16))
    actor_id: Mapped[str] = mapped_column(String(120))
    address: Mapped[str] = mapped_column(String(64), default="")
    request_id: Mapped[str] = mapped_column(String(64), default="")
    action: Mapped[str] = mapped_column(String(64))
    subject_kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(String(120))
    before: Mapped[Json | None]
    after: Mapped[Json | None]


class Event(Base):
    """Something that people watch for, such as ``snapshot.failed``; also the outbox."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "account_id", "id"),)

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    at: Mapped[Time]
    kind: Mapped[str] = mapped_column(String(64))
    subject_kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(String(120))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[Json] = mapped_column(default=dict)
    correlation_id: Mapped[str] = mapped_column(String(64), default="")


class Webhook(Base):
    """Where events go: an address (https://...) or an e-mail address (mailto:...).

    `kinds` are the events wanted, empty for all. The signing secret is sealed.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    url: Mapped[str] = mapped_column(String(2000))
    kinds: Mapped[JsonList] = mapped_column(default=list)
    sealed_secret: Mapped[str]
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[Time]
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Delivery(Base):
    """One event on its way to one webhook, tried until it is taken or given up."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "state", "not_before"), Index(None, "webhook_id", "id"))

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempt: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[Time]
    answer: Mapped[str] = mapped_column(String(200), default="")
    delivered_at: Mapped[datetime | None] = mapped_column(UtcTime)


class IdempotencyKey(Base):
    """The answer that a request got, so that its repetition gets the same one."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    body: Mapped[Json | None]
    location: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[Time]
