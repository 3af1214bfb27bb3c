"""Work to be done: jobs under leases, what they say, and who leads among replicas."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, text
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


class Job(Base):
    """One piece of work for one host, or (host_id None) for any keeper of its region.

    `state`: queued, leased, succeeded, failed or cancelled. A queued job may be claimed
    from `not_before` on. While it is leased, `attempt` is the fence: reports of any other
    attempt are refused. The database itself allows one leased job per `lock_key`.
    `result` is what the agent reported, `progress` its last report.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_lock_key_leased",
            "lock_key",
            unique=True,
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
        Index("uq_jobs_idempotency_key", "account_id", "idempotency_key", unique=True),
        Index(None, "account_id", "created_at", "id"),
        Index(None, "account_id", "state", "created_at", "id"),
        Index(None, "state", "host_id", "not_before"),
        Index(None, "state", "lease_until"),
        Index(None, "subject_id", "created_at", "id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    repository_id: Mapped[Id | None]
    host_id: Mapped[Id | None]
    kind: Mapped[str] = mapped_column(String(32))
    subject_kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[Id]
    lock_key: Mapped[str] = mapped_column(String(120))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    spec: Mapped[Json] = mapped_column(default=dict)
    spec_version: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = mapped_column(String(16), default="queued")
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=4)
    give_up_at: Mapped[datetime | None] = mapped_column(UtcTime)
    not_before: Mapped[Time]
    leased_to: Mapped[Id | None]
    lease_until: Mapped[datetime | None] = mapped_column(UtcTime)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcTime)
    cancelled_by: Mapped[str | None] = mapped_column(String(120))
    stage: Mapped[str] = mapped_column(String(32), default="")
    progress: Mapped[Json] = mapped_column(default=dict)
    result: Mapped[Json | None]
    findings: Mapped[JsonList] = mapped_column(default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    correlation_id: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[Time]
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)


class JobLine(Base):
    """One line of a job's log."""

    __tablename__ = "job_lines"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    at: Mapped[Time]
    level: Mapped[str] = mapped_column(String(8), default="info")
    text: Mapped[str] = mapped_column(Text)


class Leadership(Base):
    """Which replica does what only one may do at a time, and until when."""

    __tablename__ = "leaderships"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    holder: Mapped[Id]
    until: Mapped[Time]
