"""A run of a task's instance: what its begin and end mean for the task and its snapshots.

An attempt that ends without the computation's end is no end: another attempt attaches to
what goes on, and only when the host was away for too long has the instance failed.
Invariant: when an instance has ended, so have its snapshots.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from holdfast.control import task_parts
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_end import HOST_REVOKED, LEASE_LOST, NOT_TAKEN, JobState
from holdfast.control.storable import storable_text
from holdfast.control.tables import Job, Task, TaskInstance
from holdfast.control.task_report import instance_of
from holdfast.control.task_state import end_instance, lock, settle
from holdfast.errors import UsageError
from holdfast.model.task import InstanceState

HOST_LOST: Final = "host_lost"
HOST_AWAY: Final = timedelta(seconds=300)
"""How long after a lost lease a host may come back and attach to what it runs."""

_LONGEST_PAUSE: Final = 60
_ENDS: Final = {
    "success": InstanceState.SUCCEEDED,
    "failure": InstanceState.FAILED,
    "cancelled": InstanceState.CANCELLED,
}


def lock_behind(tx: Tx, job: Job) -> None:
    """Lock the task, behind the job and before the account."""
    lock(tx, job.subject_id)


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    job.give_up_at = None
    task, instance = _both(tx, job)
    if instance is None or instance.state != InstanceState.WAITING:
        return
    instance.state = InstanceState.PREPARING
    settle(tx, task, now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    del tx
    # Whoever attaches should do so soon: nobody watches the computation until then.
    job.not_before = now + timedelta(seconds=min(5 * (job.attempt - 1), _LONGEST_PAUSE))
    job.give_up_at = now + HOST_AWAY


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    task, instance = _both(tx, job)
    if instance is None:
        return
    end = _ENDS[report.word("outcome", frozenset(_ENDS))]
    results = report.result.get("results")
    results_id = job.spec.get("results", {}).get("snapshot_id")
    if results is not None and results_id is not None:
        if not isinstance(results, dict):
            raise UsageError("The result's results are no object.")
        of_results = Report(results, report.findings)
        task_parts.results(tx, task, instance, results_id, of_results, job=job, now=now)
    instance.exit_code = _exit_code(report.result.get("exit_code"))
    if instance.started_at is None and report.result.get("started_at") is not None:
        # Without one the command never began: a job that was cancelled in its queue.
        instance.started_at = _time(report, "started_at", now)
    instance.ended_at = _time(report, "ended_at", now)
    instance.frozen_micro = _micro(report.result.get("frozen_seconds"))
    error = _error(report.result.get("error"), end, instance.exit_code)
    _end(tx, job, task, instance, end, error, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    task, instance = _both(tx, job)
    if instance is None:
        return
    wanted = task.cancel_requested_at is not None
    if job.state == JobState.CANCELLED:
        _end(tx, job, task, instance, InstanceState.CANCELLED, None, now=now)
    elif not job.attempt and not wanted:
        # No host has begun with it, so another one can.
        instance.job_id = instance.host_id = None
        settle(tx, task, now=now)
    else:
        away = (LEASE_LOST, NOT_TAKEN, HOST_REVOKED, "interrupted")
        lost = job.error_code is None or job.error_code in away
        error = (HOST_LOST if lost else job.error_code or HOST_LOST, job.error_message or "")
        end = InstanceState.CANCELLED if wanted else InstanceState.FAILED
        _end(tx, job, task, instance, end, error, now=now)


def _both(tx: Tx, job: Job) -> tuple[Task, TaskInstance | None]:
    task = lock(tx, job.subject_id)
    instance = instance_of(tx, job)
    if instance is not None and InstanceState(instance.state).has_ended:
        instance = None
    return task, instance


def _end(  # noqa: PLR0917
    tx: Tx,
    job: Job,
    task: Task,
    instance: TaskInstance,
    end: InstanceState,
    error: tuple[str, str] | None,
    *,
    now: datetime,
) -> None:
    code, message = task_parts.TASK_ENDED, "The task ended before this snapshot was taken."
    if error is not None and error[0] == HOST_LOST:
        code, message = error
    task_parts.fail_unfinished(tx, task, instance, code, message, job=job, now=now)
    end_instance(tx, instance, end, error=error, now=now)
    settle(tx, task, now=now)


def _error(said: Any, end: InstanceState, exit_code: int | None) -> tuple[str, str] | None:
    if isinstance(said, dict) and said.get("code"):
        message = storable_text(str(said.get("message") or ""), limit=4000)
        return storable_text(str(said["code"]), limit=64), message
    if end == InstanceState.FAILED:
        return "command_failed", f"The command ended with the exit status {exit_code}."
    return None


def _exit_code(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise UsageError("The result's exit_code is no exit status.")
    return value


def _micro(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return 0
    return round(value * 1_000_000)


def _time(report: Report, name: str, now: datetime) -> datetime:
    return now if report.result.get(name) is None else min(report.time(name), now)
