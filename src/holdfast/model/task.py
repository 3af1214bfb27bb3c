"""A task's states, and the names of its snapshots' directories. Pure rules, no I/O.

The words of a task's states, and of a snapshot's status, are those of Qarnot's API.
Invariant: a task has ended when all of its instances have, and only then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid5

JOB_DIRECTORY: Final = "/job"
"""What the working directory of an instance is called, wherever it lies."""

JOB_VARIABLE: Final = "HOLDFAST_JOB"
"""The environment variable that names where it lies."""


class TaskState(StrEnum):
    """Where a task stands."""

    SUBMITTED = "Submitted"
    PARTIALLY_DISPATCHED = "PartiallyDispatched"
    FULLY_DISPATCHED = "FullyDispatched"
    PARTIALLY_EXECUTING = "PartiallyExecuting"
    FULLY_EXECUTING = "FullyExecuting"
    DOWNLOADING_RESULTS = "DownloadingResults"
    UPLOADING_RESULTS = "UploadingResults"
    SUCCESS = "Success"
    FAILURE = "Failure"
    CANCELLED = "Cancelled"
    PENDING_CANCEL = "PendingCancel"
    PENDING_DELETE = "PendingDelete"

    @property
    def has_ended(self) -> bool:
        return self in (TaskState.SUCCESS, TaskState.FAILURE, TaskState.CANCELLED)


class InstanceState(StrEnum):
    """Where one instance stands; a waiting one has no host that took it yet."""

    WAITING = "waiting"
    PREPARING = "preparing"
    EXECUTING = "executing"
    UPLOADING = "uploading"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        return self in _ENDED


_ENDED: Final = frozenset({InstanceState.SUCCEEDED, InstanceState.FAILED, InstanceState.CANCELLED})


class TaskSnapshotStatus(StrEnum):
    """Where a snapshot of a task stands; `skipped` never began, and says why."""

    TRIGGERED = "triggered"
    IN_PROGRESS = "inProgress"
    SUCCESS = "success"
    FAILURE = "failure"
    SKIPPED = "skipped"


def state_of(
    instances: Sequence[InstanceState], *, cancel_wanted: bool = False, delete_wanted: bool = False
) -> TaskState:
    """The state of a task of these instances.

    Once all have ended it is Failure if one has failed, else Cancelled if one was, else
    Success; before that a wish to delete or cancel shows.
    """
    assert instances, "a task without instances has no state"
    kinds = frozenset(instances)
    if kinds <= _ENDED:
        return _end_of(kinds)
    if delete_wanted:
        return TaskState.PENDING_DELETE
    if cancel_wanted:
        return TaskState.PENDING_CANCEL
    executing = _count(instances, {InstanceState.EXECUTING})
    begun = len(instances) - _count(instances, {InstanceState.WAITING})
    running = _count(instances, {InstanceState.EXECUTING, InstanceState.UPLOADING} | _ENDED)
    if executing and running == len(instances):
        return TaskState.FULLY_EXECUTING
    if executing:
        return TaskState.PARTIALLY_EXECUTING
    if InstanceState.UPLOADING in kinds:
        return TaskState.UPLOADING_RESULTS
    if begun == len(instances):
        return TaskState.FULLY_DISPATCHED
    return TaskState.PARTIALLY_DISPATCHED if begun else TaskState.SUBMITTED


def _end_of(kinds: Collection[InstanceState]) -> TaskState:
    if InstanceState.FAILED in kinds:
        return TaskState.FAILURE
    return TaskState.CANCELLED if InstanceState.CANCELLED in kinds else TaskState.SUCCESS


def _count(instances: Sequence[InstanceState], states: Collection[InstanceState]) -> int:
    return sum(each in states for each in instances)


def snapshot_directory(at: datetime, prefix: str = "") -> str:
    """Where a snapshot taken at `at` is seen in its bucket: ``<prefix>yyyyMMddHHmmss/``, UTC."""
    return f"{prefix}{at.astimezone(UTC):%Y%m%d%H%M%S}/"


def slot_after(since: datetime, every_seconds: int, now: datetime) -> datetime:
    """The first slot after `now`: slots are at `since` plus 1, 2, ... times the interval."""
    every = timedelta(seconds=every_seconds)
    passed = max(0, (now - since) // every)
    return since + every * (passed + 1)


def periodic_snapshot_id(task_id: str, slot: datetime) -> str:
    """The id that a slot's snapshot has, whoever names it first."""
    return str(uuid5(UUID(task_id), slot.astimezone(UTC).isoformat()))


def instance_snapshot_id(task_snapshot_id: str, number: int) -> str:
    """The id of an instance's part of a snapshot of its task."""
    return str(uuid5(UUID(task_snapshot_id), str(number)))
