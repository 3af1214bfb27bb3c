"""The catalog: what is protected, when, and every restore point there is or was."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import Base, Id, Json, JsonList, NewId, Time, UtcTime


class Source(Base):
    """Something that can be captured: for kind ``path``, a path on a host.

    For kind ``task`` it is the directory of one instance, and `path` is ``/job``.

    `options`: exclude (patterns), one_file_system, consistency. A source outlives its
    host; `removed_at` hides it from lists of what is protected.
    """

    __tablename__ = "sources"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "host_id", "created_at", "id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    kind: Mapped[str] = mapped_column(String(16), default="path")
    path: Mapped[str] = mapped_column(Text)
    options: Mapped[Json] = mapped_column(default=dict)
    labels: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[Time]
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    protected_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Schedule(Base):
    """A backup configuration: when a source is captured, and for how long that is kept.

    Exactly one of `interval_hours`, `cron`. `retention` holds the fields of
    `model.retention.RetentionPolicy`. Every slot up to `settled_until` has its row in
    `snapshots`; `due_at` is the next slot, None while paused. At `retention_due_at` the next
    point may become too old; None when no point will without a new run. What completes from
    `copy_since` on is copied to `copy_region_id`; every `drill_days` the newest point is
    restored as a test, next at `drill_due_at`.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "source_id"),
        Index(None, "due_at"),
        Index(None, "retention_due_at"),
        Index(None, "copy_region_id"),
        Index(None, "drill_due_at"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id"))
    name: Mapped[str] = mapped_column(String(50), default="")
    interval_hours: Mapped[int | None]
    cron: Mapped[str | None] = mapped_column(String(200))
    timezone: Mapped[str] = mapped_column(String(64), default="UTC")
    window: Mapped[str | None] = mapped_column(String(20))
    offset_seconds: Mapped[int] = mapped_column(default=0)
    retention: Mapped[Json] = mapped_column(default=dict)
    archive_format: Mapped[str] = mapped_column(String(16), default="repository")
    paused: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[Time]
    updated_at: Mapped[Time]
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    settled_until: Mapped[Time]
    due_at: Mapped[datetime | None] = mapped_column(UtcTime)
    retention_due_at: Mapped[datetime | None] = mapped_column(UtcTime)
    copy_region_id: Mapped[str | None] = mapped_column(ForeignKey("regions.id"))
    copy_since: Mapped[datetime | None] = mapped_column(UtcTime)
    drill_days: Mapped[int | None]
    drill_due_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Snapshot(Base):
    """One run and the restore point that it made, if it did.

    `status`: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, SKIPPED, EXPIRED (removed by
    retention) or DELETED (removed by a person). `manifest_id` is the snapshot's id in the
    repository; `manifest_ids` lists also those that failed attempts may have left. An
    expired or deleted one can be recovered until `purge_at`; at `purged_at` its data was
    gone. `trigger`: manual, schedule, catch-up or copy; `slot_at` is the schedule's instant.
    A copy is a row of its own, in the repository of another region, without a schedule:
    `copy_of_id` is what it was made of. `drill` is the result of the last restore test.
    `kept_because` are retention's last reasons. A snapshot of a task's instance has the job
    that runs the instance and belongs to a snapshot of the whole task; its results belong to
    none. The database itself allows one row for each slot of a schedule.
    """

    __tablename__ = "snapshots"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "account_id", "status", "created_at", "id"),
        Index(None, "account_id", "name", "id"),
        Index(None, "source_id", "created_at", "id"),
        Index(None, "schedule_id", "created_at", "id"),
        Index(None, "host_id", "created_at", "id"),
        Index("uq_snapshots_schedule_id_slot_at", "schedule_id", "slot_at", unique=True),
        Index(None, "schedule_id", "status"),
        Index(None, "repository_id", "manifest_id"),
        Index(None, "repository_id", "finished_at"),
        Index(None, "repository_id", "purged_at"),
        Index(None, "task_snapshot_id"),
        Index(None, "copy_of_id", "created_at", "id"),
        Index(
            "ix_snapshots_purge_at",
            "purge_at",
            sqlite_where=text("purged_at IS NULL"),
            postgresql_where=text("purged_at IS NULL"),
        ),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id"))
    schedule_id: Mapped[Id | None]
    host_id: Mapped[Id]
    repository_id: Mapped[str] = mapped_column(ForeignKey("repositories.id"))
    job_id: Mapped[Id | None]
    task_snapshot_id: Mapped[Id | None]
    copy_of_id: Mapped[Id | None]
    kind: Mapped[str] = mapped_column(String(16), default="path")
    name: Mapped[str] = mapped_column(String(50), default="")
    description: Mapped[str] = mapped_column(Text, default="")
    labels: Mapped[Json] = mapped_column(default=dict)
    status: Mapped[str] = mapped_column(String(16), default="PENDING")
    trigger: Mapped[str] = mapped_column(String(16), default="manual")
    slot_at: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[Time]
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    captured_at: Mapped[datetime | None] = mapped_column(UtcTime)
    archive_format: Mapped[str] = mapped_column(String(16), default="repository")
    manifest_id: Mapped[str | None] = mapped_column(String(64))
    parent_id: Mapped[Id | None]
    consistency: Mapped[str | None] = mapped_column(String(16))
    files: Mapped[int | None] = mapped_column(BigInteger)
    logical_bytes: Mapped[int | None] = mapped_column(BigInteger)
    read_bytes: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    share_bytes: Mapped[int | None] = mapped_column(BigInteger)
    freed_bytes: Mapped[int | None] = mapped_column(BigInteger)
    findings: Mapped[JsonList] = mapped_column(default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    verified_at: Mapped[datetime | None] = mapped_column(UtcTime)
    verification: Mapped[Json | None]
    drilled_at: Mapped[datetime | None] = mapped_column(UtcTime)
    drill: Mapped[Json | None]
    kept_because: Mapped[JsonList] = mapped_column(default=list)
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    removed_because: Mapped[str | None] = mapped_column(Text)
    purge_at: Mapped[datetime | None] = mapped_column(UtcTime)
    purged_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Hold(Base):
    """A reason for which a snapshot must stay; while one is not released it does."""

    __tablename__ = "holds"
    __table_args__ = (Index(None, "snapshot_id"),)

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[Time]
    created_by: Mapped[str] = mapped_column(String(120))
    released_at: Mapped[datetime | None] = mapped_column(UtcTime)
    released_by: Mapped[str | None] = mapped_column(String(120))


class Restore(Base):
    """Putting a snapshot, or a part of one, back: onto any host of the account.

    `status`: PENDING, RUNNING, COMPLETED, FAILED or CANCELLED. `paths` are the chosen
    ones, relative to the captured path; empty for all.
    """

    __tablename__ = "restores"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "snapshot_id", "created_at", "id"),
        Index(None, "host_id", "created_at", "id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    job_id: Mapped[Id | None]
    target: Mapped[str] = mapped_column(Text)
    paths: Mapped[JsonList] = mapped_column(default=list)
    status: Mapped[str] = mapped_column(String(16), default="PENDING")
    created_at: Mapped[Time]
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    files: Mapped[int | None] = mapped_column(BigInteger)
    restored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    findings: Mapped[JsonList] = mapped_column(default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)


class Drill(Base):
    """A restore test: a snapshot, or chosen paths of it, restored to scratch and compared.

    Done by any keeper of the snapshot's region, or by `host_id`. `status`: PENDING, RUNNING,
    COMPLETED, FAILED (it could not be done, which says nothing of the snapshot) or CANCELLED.
    `passed` is set at COMPLETED: whether everything came back as it was captured. `trigger`:
    manual or schedule.
    """

    __tablename__ = "drills"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "snapshot_id", "created_at", "id"),
        Index(None, "schedule_id", "created_at", "id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    schedule_id: Mapped[Id | None]
    host_id: Mapped[Id | None]
    job_id: Mapped[Id | None]
    trigger: Mapped[str] = mapped_column(String(16), default="manual")
    paths: Mapped[JsonList] = mapped_column(default=list)
    status: Mapped[str] = mapped_column(String(16), default="PENDING")
    passed: Mapped[bool | None]
    created_at: Mapped[Time]
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    files: Mapped[int | None] = mapped_column(BigInteger)
    restored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    compared_bytes: Mapped[int | None] = mapped_column(BigInteger)
    restore_milliseconds: Mapped[int | None] = mapped_column(BigInteger)
    findings: Mapped[JsonList] = mapped_column(default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
