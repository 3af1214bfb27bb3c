"""The instances' parts of a task's snapshot: each a snapshot of its own, of one directory.

It asks nobody for anything: what hosts say is passed in. Invariants: a part is in the row
of one instance and gets its end once; the status and sizes of the whole are those of its
parts; a completed part is seen in its bucket in the transaction that completes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from sqlalchemy import or_, select

from holdfast.control import task_warnings, views
from holdfast.control.completion import stored_snapshot
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.run_row import UNFINISHED
from holdfast.control.tables import (
    Bucket,
    Job,
    Repository,
    Snapshot,
    Task,
    TaskInstance,
    TaskSnapshot,
)
from holdfast.control.task_state import note, snapshot_status_of, warn
from holdfast.control.unindexed import unindexed
from holdfast.model.finding import Finding
from holdfast.model.task import instance_snapshot_id

TASK_ENDED: Final = "task_ended"
_MAX_FINDINGS: Final = 1000


def add(
    tx: Tx, whole: TaskSnapshot, instance: TaskInstance, job: Job, *, now: datetime
) -> Snapshot:
    """The part of an instance, PENDING; the job is the one that runs the instance."""
    part = Snapshot(
        id=instance_snapshot_id(whole.id, instance.number),
        account_id=whole.account_id,
        source_id=instance.source_id,
        host_id=instance.host_id,
        repository_id=job.repository_id,
        job_id=job.id,
        task_snapshot_id=whole.id,
        kind="task",
        status="PENDING",
        trigger=whole.trigger,
        slot_at=whole.slot_at,
        created_at=now,
    )
    tx.add(part)
    tx.flush()
    return part


def begin(tx: Tx, part: Snapshot, task: Task, *, job: Job, now: datetime) -> None:
    """The host has begun with it; again changes nothing."""
    if part.status != "PENDING":
        return
    part.status = "RUNNING"
    part.started_at = now
    message = f"{_what(task)} has begun."
    stored_snapshot.tell(tx, part, "snapshot.started", message, job=job, now=now)


def complete(
    tx: Tx,
    part: Snapshot,
    whole: TaskSnapshot,
    task: Task,
    report: Report,
    *,
    capture_seconds: float,
    job: Job,
    now: datetime,
) -> None:
    """Its data is in the repository. `UsageError` for too little a report."""
    part = stored_snapshot.complete(tx, part.id, report, job=job, now=now)
    part.started_at = part.started_at or now
    interval = task.periodic_seconds if whole.trigger == "periodic" else None
    found = task_warnings.of_snapshot(
        part.logical_bytes or 0, capture_seconds, interval_seconds=interval, subject=part.id
    )
    for each in found:
        warn(tx, task, each, now=now)
    add_findings(whole, (each.as_dict() for each in found))
    show(tx, task, part, whole.bucket, whole.directory, now=now)
    stored_snapshot.tell_completed(tx, part, _what(task), job=job, now=now)


def show(
    tx: Tx, task: Task, snapshot: Snapshot, bucket: str | None, prefix: str, *, now: datetime
) -> None:
    """Have a completed snapshot be seen in a bucket of the account, if it has this one."""
    if bucket is None:
        return
    row = tx.scalars(
        select(Bucket).where(Bucket.account_id == task.account_id, Bucket.name == bucket)
    ).first()
    if row is None:
        message = (
            f"The bucket {bucket} is not there any more, so what was stored is not seen in it; "
            "the snapshot itself is complete."
        )
        note(task, Finding("bucket_missing", message, bucket))
        return
    views.show(tx, row, prefix, snapshot, task, now=now)
    if bucket == task.result_bucket:
        # Clients look whether it has grown, and for no other thing.
        task.results_count += max(snapshot.files or 0, 1)


def fail(
    tx: Tx, part: Snapshot, task: Task, code: str, message: str, *, job: Job, now: datetime
) -> None:
    """There will be nothing of it."""
    part.status = "FAILED"
    part.finished_at = now
    part.error_code, part.error_message = code, message
    told = f"{_what(task)} has failed. {message}"
    stored_snapshot.tell(tx, part, "snapshot.failed", told, job=job, now=now)


def skip(
    tx: Tx, part: Snapshot, whole: TaskSnapshot, task: Task, *, job: Job, now: datetime
) -> None:
    """Its slot passed; that is recorded and not made up for.

    Either the one before was still being taken, or the host attended to nothing then.
    """
    before = tx.scalars(
        select(Snapshot)
        .where(
            Snapshot.account_id == part.account_id,
            Snapshot.status.in_(UNFINISHED),
            unindexed(Snapshot.source_id) == part.source_id,
            Snapshot.copy_of_id.is_(None),
            Snapshot.id != part.id,
            or_(Snapshot.started_at.is_not(None), unindexed(Snapshot.trigger) == "periodic"),
        )
        .order_by(Snapshot.created_at, Snapshot.id)
        .limit(1)
    ).first()
    if before is None:
        message = "The host did not attend to the task when its time had come."
        finding = Finding("host_silent", message, part.source_id)
    else:
        message = "The snapshot before it was still being taken when its time had come."
        finding = Finding("still_running", message, part.source_id)
    part.status = "SKIPPED"
    part.finished_at = now
    part.findings = [finding.as_dict()]
    add_findings(whole, part.findings)
    if before is not None:
        running = (part.slot_at or now) - (before.started_at or before.created_at)
        seconds = max(running.total_seconds(), 0.0)
        short = task_warnings.of_overlap(task.periodic_seconds or 0, seconds, subject=part.id)
        warn(tx, task, short, now=now)
        add_findings(whole, [short.as_dict()])
    told = f"{_what(task)} was skipped. {message}"
    stored_snapshot.tell(tx, part, "snapshot.skipped", told, job=job, now=now)


def fail_unfinished(
    tx: Tx,
    task: Task,
    instance: TaskInstance,
    code: str,
    message: str,
    *,
    before_slot: datetime | None = None,
    job: Job,
    now: datetime,
) -> None:
    """Fail what an instance has not finished; with `before_slot` periodic ones before that."""
    if instance.source_id is None:
        return
    found = select(Snapshot).where(
        Snapshot.account_id == instance.account_id,
        Snapshot.status.in_(UNFINISHED),
        unindexed(Snapshot.source_id) == instance.source_id,
        Snapshot.copy_of_id.is_(None),  # which has a job of its own
    )
    if before_slot is not None:
        found = found.where(Snapshot.slot_at < before_slot)
    wholes = set()
    for part in tx.scalars(found.order_by(Snapshot.created_at, Snapshot.id)).all():
        fail(tx, part, task, code, message, job=job, now=now)
        if part.task_snapshot_id is not None:
            wholes.add(part.task_snapshot_id)
    for each in sorted(wholes):
        summarise(tx, tx.get_one(TaskSnapshot, each), now=now)


def summarise(tx: Tx, whole: TaskSnapshot, *, now: datetime) -> None:
    """Bring the whole into line with its parts."""
    tx.flush()
    statuses = list(
        tx.scalars(select(Snapshot.status).where(Snapshot.task_snapshot_id == whole.id))
    )
    whole.status = snapshot_status_of(statuses)
    whole.bytes_total = sum(total for total, _ in whole.transfer.values())
    whole.bytes_done = sum(done for _, done in whole.transfer.values())
    whole.updated_at = now


def add_findings(whole: TaskSnapshot, findings: Iterable[dict[str, str]]) -> None:
    """Keep findings on the whole, each once, up to a number that no screen shows anyway."""
    kept = list(whole.findings)
    for each in findings:
        if each not in kept and len(kept) < _MAX_FINDINGS:
            kept.append(each)
    whole.findings = kept


def results(
    tx: Tx, task: Task, instance: TaskInstance, snapshot_id: str, report: Report, *, job: Job,
    now: datetime,
) -> Snapshot:  # fmt: skip
    """The final results of an instance: a snapshot of no snapshot of the task."""
    repository = tx.get_one(Repository, job.repository_id)
    tx.add(
        Snapshot(
            id=snapshot_id,
            account_id=task.account_id,
            source_id=instance.source_id,
            host_id=instance.host_id,
            repository_id=repository.id,
            job_id=job.id,
            kind="task",
            status="RUNNING",
            trigger="results",
            created_at=now,
            started_at=now,
        )
    )
    tx.flush()
    snapshot = stored_snapshot.complete(tx, snapshot_id, report, job=job, now=now)
    show(tx, task, snapshot, task.result_bucket, "", now=now)
    what = f"The results of task {task.name}"
    message = f"{what} are stored: {snapshot.files:,} files."
    stored_snapshot.tell(tx, snapshot, "snapshot.completed", message, job=job, now=now)
    return snapshot


def _what(task: Task) -> str:
    return f"The snapshot of task {task.name}"
