"""Tasks: computations that run on hosts, their instances, output and snapshots."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import (
    Base,
    Id,
    Json,
    JsonList,
    NewId,
    Number,
    Sequence,
    Time,
    UtcTime,
)


class Task(Base):
    """A computation of one or more instances, each with a directory ``/job`` of its own.

    `state` is a word of `model.task.TaskState`, kept from those of the instances.
    `constants` are ``[{"key": ..., "value": ...}]``; `inputs` are
    ``[{"bucket": name, "prefix": "", "strip_prefix": ""}]``. The filters are regular
    expressions or None. `extra` is what a foreign client wants to have back unchanged.
    With `periodic_seconds` the instances take a snapshot at `periodic_since` plus every
    multiple of it; `periodic_options` are the filters and the place that were given with
    it. `runs_on` is a host that was wished for. `results_count` only grows. What came into
    the inputs until `inputs_renewed_at` shall be in the directories of running instances;
    None where that was never wished for.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "account_id", "state", "created_at", "id"),
        Index(
            "uq_tasks_short_name",
            "account_id",
            "short_name",
            unique=True,
            sqlite_where=text("removed_at IS NULL AND short_name IS NOT NULL"),
            postgresql_where=text("removed_at IS NULL AND short_name IS NOT NULL"),
        ),
        Index(None, "state"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(String(200))
    short_name: Mapped[str | None] = mapped_column(String(200))
    profile: Mapped[str] = mapped_column(String(64))
    constants: Mapped[JsonList] = mapped_column(default=list)
    inputs: Mapped[JsonList] = mapped_column(default=list)
    result_bucket: Mapped[str | None] = mapped_column(String(63))
    tags: Mapped[JsonList] = mapped_column(default=list)
    labels: Mapped[Json] = mapped_column(default=dict)
    instance_count: Mapped[int] = mapped_column(default=1)
    runs_on: Mapped[Id | None]
    snapshot_whitelist: Mapped[str | None] = mapped_column(Text)
    snapshot_blacklist: Mapped[str | None] = mapped_column(Text)
    results_whitelist: Mapped[str | None] = mapped_column(Text)
    results_blacklist: Mapped[str | None] = mapped_column(Text)
    results_on_cancel: Mapped[bool] = mapped_column(default=False)
    starts_from: Mapped[Id | None]
    time_limit_seconds: Mapped[int | None]
    extra: Mapped[Json] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(24), default="Submitted")
    previous_state: Mapped[str | None] = mapped_column(String(24))
    state_since: Mapped[Time]
    created_at: Mapped[Time]
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    inputs_renewed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcTime)
    delete_requested_at: Mapped[datetime | None] = mapped_column(UtcTime)
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    periodic_seconds: Mapped[int | None]
    periodic_since: Mapped[datetime | None] = mapped_column(UtcTime)
    periodic_options: Mapped[Json] = mapped_column(default=dict)
    results_count: Mapped[Number] = mapped_column(default=0)
    findings: Mapped[JsonList] = mapped_column(default=list)


class TaskInstance(Base):
    """One run of a task's command: on one host, as one job, with one source to capture.

    `state` is a word of `model.task.InstanceState`. `runner` is what runs it (local,
    podman, slurm), `reference` what that calls it. `exit_code` is None where it was not
    seen, and negative for the number of a signal.
    """

    __tablename__ = "task_instances"
    __table_args__ = (
        UniqueConstraint("task_id", "number"),
        Index(None, "state"),
        Index(None, "job_id"),
        Index(None, "host_id", "state"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    host_id: Mapped[Id | None]
    job_id: Mapped[Id | None]
    source_id: Mapped[Id | None]
    runner: Mapped[str] = mapped_column(String(16), default="")
    reference: Mapped[str] = mapped_column(String(120), default="")
    exit_code: Mapped[int | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    stdout_bytes: Mapped[Number] = mapped_column(default=0)
    stderr_bytes: Mapped[Number] = mapped_column(default=0)
    frozen_micro: Mapped[Number] = mapped_column(default=0)


class TaskOutput(Base):
    """A piece of what an instance wrote, in the order in which it arrived.

    `stream` is stdout or stderr, `offset_bytes` where in that instance's stream it begins.
    """

    __tablename__ = "task_output"
    __table_args__ = (
        UniqueConstraint("instance_id", "stream", "offset_bytes"),
        Index(None, "task_id", "stream", "id"),
    )

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    instance_id: Mapped[str] = mapped_column(ForeignKey("task_instances.id"))
    stream: Mapped[str] = mapped_column(String(8))
    offset_bytes: Mapped[Number]
    data: Mapped[bytes] = mapped_column(LargeBinary)


class TaskOutputRead(Base):
    """How far a reader of "what is new" has come: of a whole task (number -1) or an instance."""

    __tablename__ = "task_output_reads"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    stream: Mapped[str] = mapped_column(String(8), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    after_id: Mapped[Number] = mapped_column(default=0)


class TaskSnapshot(Base):
    """A snapshot of a task: the snapshots of its instances taken for one reason.

    `trigger`: manual or periodic; a periodic one has its slot, and a task has one row for
    each slot. `status`: triggered, inProgress, success or failure; skipped where it would
    have overlapped the one before. `directory` is its place in `bucket`, ending in a slash.
    Its instances' snapshots are the rows of `snapshots` with this `task_snapshot_id`; of
    each, by the instance's number, `transfer` has ``[bytes in all, bytes done]``.
    """

    __tablename__ = "task_snapshots"
    __table_args__ = (
        Index(None, "task_id", "triggered_at", "id"),
        Index(None, "account_id", "triggered_at", "id"),
        Index("uq_task_snapshots_task_id_slot_at", "task_id", "slot_at", unique=True),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    trigger: Mapped[str] = mapped_column(String(16), default="manual")
    slot_at: Mapped[datetime | None] = mapped_column(UtcTime)
    triggered_at: Mapped[Time]
    updated_at: Mapped[Time]
    status: Mapped[str] = mapped_column(String(16), default="triggered")
    whitelist: Mapped[str | None] = mapped_column(Text)
    blacklist: Mapped[str | None] = mapped_column(Text)
    bucket: Mapped[str | None] = mapped_column(String(63))
    bucket_prefix: Mapped[str | None] = mapped_column(Text)
    directory: Mapped[str] = mapped_column(Text, default="")
    label: Mapped[str] = mapped_column(String(100), default="")
    notes: Mapped[str] = mapped_column(Text, default="")
    bytes_total: Mapped[Number] = mapped_column(default=0)
    bytes_done: Mapped[Number] = mapped_column(default=0)
    transfer: Mapped[Json] = mapped_column(default=dict)
    findings: Mapped[JsonList] = mapped_column(default=list)


class TaskPreview(Base):
    """What a pair of filters would take of a running instance, asked for and answered.

    `answer` is None until the host has looked: ``{"files": n, "bytes": n, "entries":
    [{"path": ..., "bytes": n}], "cut": bool}`` or ``{"error": {...}}``.
    """

    __tablename__ = "task_previews"
    __table_args__ = (Index(None, "instance_id"), Index(None, "asked_at"))

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    instance_id: Mapped[str] = mapped_column(ForeignKey("task_instances.id"))
    whitelist: Mapped[str | None] = mapped_column(Text)
    blacklist: Mapped[str | None] = mapped_column(Text)
    asked_at: Mapped[Time]
    answered_at: Mapped[datetime | None] = mapped_column(UtcTime)
    answer: Mapped[Json | None]
    entries_wanted: Mapped[int] = mapped_column(BigInteger, default=1000)
