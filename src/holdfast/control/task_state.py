"""Where a task stands, kept from its instances: the one place where its state changes.

It starts and stops nothing. Invariants: a task's state is what `model.task.state_of` says
of its instances; each change is told once, in the transaction that brings it about; a task
that shall be deleted is gone when it has ended.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import select

from holdfast.control import audit, events
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, system
from holdfast.control.storable import storable_text
from holdfast.control.tables import Source, Task, TaskInstance, TaskPreview
from holdfast.model.finding import Finding
from holdfast.model.task import InstanceState, TaskSnapshotStatus, TaskState, state_of

MAX_FINDINGS: Final = 200
_BEGUN: Final = (InstanceState.EXECUTING, InstanceState.UPLOADING)
_UNFINISHED: Final = frozenset({"PENDING", "RUNNING"})
_BAD: Final = frozenset({"FAILED", "CANCELLED"})


def lock(tx: Tx, task_id: str) -> Task:
    """The task, locked until the transaction ends.

    After jobs, and before repositories, snapshots, sources and the account.
    """
    return tx.get_one(Task, task_id, with_for_update={"key_share": True}, populate_existing=True)


def instances_of(tx: Tx, task_id: str) -> list[TaskInstance]:
    """A task's instances in their order, as the database has them now."""
    found = select(TaskInstance).where(TaskInstance.task_id == task_id)
    found = found.order_by(TaskInstance.number).execution_options(populate_existing=True)
    return list(tx.scalars(found))


def settle(tx: Tx, task: Task, *, now: datetime) -> None:
    """Bring a locked task's state into line with its instances, and tell what changed."""
    tx.flush()
    found = select(TaskInstance.state).where(TaskInstance.task_id == task.id)
    instances = [InstanceState(each) for each in tx.scalars(found)]
    if task.started_at is None and any(each in _BEGUN for each in instances):
        task.started_at = now
        if task.periodic_seconds is not None and task.periodic_since is None:
            task.periodic_since = now
        _tell(tx, task, "task.started", f"Task {task.name} runs.", now=now)
    state = state_of(
        instances,
        cancel_wanted=task.cancel_requested_at is not None,
        delete_wanted=task.delete_requested_at is not None,
    )
    if state != task.state:
        task.previous_state, task.state, task.state_since = task.state, state, now
        if state.has_ended:
            _end(tx, task, state, now=now)
    if state.has_ended and task.delete_requested_at is not None:
        drop(tx, task, system(task.account_id), now=now)


def end_instance(
    tx: Tx,
    instance: TaskInstance,
    state: InstanceState,
    *,
    error: tuple[str, str] | None = None,
    now: datetime,
) -> None:
    """An instance has come to its end; the caller settles the task afterwards."""
    instance.state = state
    instance.ended_at = instance.ended_at or now
    instance.error_code, instance.error_message = error or (None, None)
    if instance.source_id is not None:
        # Nothing of it will be captured any more; its snapshots stay.
        tx.get_one(Source, instance.source_id).removed_at = now
    unanswered = select(TaskPreview).where(
        TaskPreview.instance_id == instance.id, TaskPreview.answered_at.is_(None)
    )
    for preview in tx.scalars(unanswered):
        preview.answered_at = now
        message = "The task ended before its host had looked."
        preview.answer = {"error": {"code": "task_ended", "message": message}}


def note(task: Task, finding: Finding) -> bool:
    """Keep a finding on the locked task, unless one like it is there; whether it is new."""
    kept = {
        "code": storable_text(finding.code, limit=64),
        "message": storable_text(finding.message, limit=2000),
        "subject": storable_text(finding.subject, limit=1000),
    }
    same = (kept["code"], kept["subject"])
    if any((each.get("code"), each.get("subject")) == same for each in task.findings):
        return False
    if len(task.findings) >= MAX_FINDINGS:
        return False
    task.findings = [*task.findings, kept]
    return True


def warn(tx: Tx, task: Task, finding: Finding, *, now: datetime) -> None:
    """Tell of a warning about a locked task's snapshots: of each kind once for a task."""
    if any(each.get("code") == finding.code for each in task.findings):
        return
    if note(task, finding):
        message = f"Task {task.name}: {finding.message}"
        _tell(tx, task, "task.warning", message, code=finding.code, now=now)


def drop(tx: Tx, task: Task, who: Principal, *, now: datetime) -> None:
    """A task that has ended is gone; its snapshots and what is in buckets stay."""
    if task.removed_at is not None:
        return
    task.removed_at = now
    task.delete_requested_at = task.delete_requested_at or now
    audit.record(tx, who, "task.remove", "task", task.id, now=now, before={"state": task.state})
    message = f"Task {task.name} was deleted; its snapshots stay."
    _tell(tx, task, "task.removed", message, now=now)


def snapshot_status_of(statuses: Collection[str]) -> TaskSnapshotStatus:
    """The status of a snapshot of a task whose instances' snapshots have these.

    Those that were removed since were completed once.
    """
    kinds = frozenset(statuses)
    if kinds & _UNFINISHED:
        waiting = kinds == {"PENDING"}
        return TaskSnapshotStatus.TRIGGERED if waiting else TaskSnapshotStatus.IN_PROGRESS
    if kinds & _BAD:
        return TaskSnapshotStatus.FAILURE
    if kinds == {"SKIPPED"}:
        return TaskSnapshotStatus.SKIPPED
    return TaskSnapshotStatus.SUCCESS


def _end(tx: Tx, task: Task, state: TaskState, *, now: datetime) -> None:
    task.ended_at = now
    cancelled = state == TaskState.CANCELLED
    kind = "task.cancelled" if cancelled else "task.ended"
    words = "was cancelled" if cancelled else f"has ended: {state}"
    audit.record(
        tx,
        system(task.account_id),
        kind,
        "task",
        task.id,
        now=now,
        before={"state": task.previous_state},
        after={"state": state},
    )
    _tell(tx, task, kind, f"Task {task.name} {words}.", now=now)


def _tell(tx: Tx, task: Task, kind: str, message: str, *, code: str = "", now: datetime) -> None:
    data = {"state": task.state, "profile": task.profile}
    if code:
        data["code"] = code
    events.emit(tx, task.account_id, kind, "task", task.id, message, now=now, data=data)
