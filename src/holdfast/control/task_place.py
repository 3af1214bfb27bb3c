"""Placing: giving waiting instances of tasks to hosts that offer what they need.

A host is given at most as many instances as it has slots; of several hosts the one with the
fewest is taken. What finds no host waits. Invariant: an instance has a job only together
with a host and a source, made in one transaction; and nobody is waited for here: a host or
task that somebody else has locked gets its turn the next time, so this may be called in
any transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select

from holdfast.control import hosts, jobs
from holdfast.control.database import Tx
from holdfast.control.tables import (
    Host,
    Repository,
    Snapshot,
    Source,
    Task,
    TaskInstance,
    TaskSnapshot,
)
from holdfast.control.task_profiles import in_full, profile_named
from holdfast.control.task_state import end_instance, instances_of, settle
from holdfast.control.unindexed import unindexed
from holdfast.model.task import JOB_DIRECTORY, InstanceState, instance_snapshot_id

SPEC_VERSION: Final = 1
MAX_ATTEMPTS: Final = 100
"""An attempt ends whenever an agent is started anew, and a task may run for weeks."""

NOT_TAKEN_AFTER: Final = timedelta(minutes=2)
"""A host that does not take an instance in this time has lost it to another one."""

GRACE_SECONDS: Final = 30
_PRIORITY: Final = 10
_AT_ONCE: Final = 200
_OPEN: Final = tuple(each.value for each in InstanceState if not each.has_ended)


def place_waiting(tx: Tx, *, account_id: str | None = None, now: datetime) -> int:
    """Place what can be placed, of one account or of all; returns how many instances."""
    waiting = (
        select(TaskInstance.account_id)
        .where(TaskInstance.state == InstanceState.WAITING, TaskInstance.job_id.is_(None))
        .distinct()
    )
    if account_id is not None:
        waiting = waiting.where(unindexed(TaskInstance.account_id) == account_id)
    return sum(_place_of_account(tx, each, now=now) for each in sorted(tx.scalars(waiting)))


@dataclass(slots=True)
class _Offer:
    """A host, and how many instances it has and can have."""

    host: Host
    repository: Repository
    slots: int
    running: int

    @property
    def runners(self) -> dict[str, Any]:
        found = self.host.inventory.get("runners")
        return found if isinstance(found, dict) else {}


def _place_of_account(tx: Tx, account_id: str, *, now: datetime) -> int:
    offers = _offers(tx, account_id, now=now)
    if not offers:
        return 0
    # By ids first: a task that is locked meanwhile is left for the next time.
    found = (
        select(Task.id)
        .join(TaskInstance, TaskInstance.task_id == Task.id)
        .where(
            TaskInstance.state == InstanceState.WAITING,
            TaskInstance.job_id.is_(None),
            unindexed(TaskInstance.account_id) == account_id,
            Task.cancel_requested_at.is_(None),
        )
        .group_by(Task.id, Task.created_at)
        .order_by(Task.created_at, Task.id)
        .limit(_AT_ONCE)
    )
    placed = 0
    for task_id in tx.scalars(found).all():
        if not any(_has_room(each) for each in offers):
            break
        placed += _place_task(tx, task_id, offers, now=now)
    return placed


def _place_task(tx: Tx, task_id: str, offers: Sequence[_Offer], *, now: datetime) -> int:
    runner = profile_named(tx.scalars(select(Task.profile).where(Task.id == task_id)).one()).runner
    fitting = [each for each in offers if runner in each.runners and _has_room(each)]
    if not fitting:
        return 0
    task = tx.scalars(
        select(Task)
        .where(Task.id == task_id, Task.cancel_requested_at.is_(None))
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).first()
    if task is None:
        return 0
    placed = 0
    lost = False
    for instance in instances_of(tx, task.id):
        if instance.state != InstanceState.WAITING or instance.job_id is not None:
            continue
        start = start_of(tx, task, instance.number)
        if task.starts_from is not None and start is None:
            message = "The snapshot that this task shall start from was removed."
            error = ("input_missing", message)
            end_instance(tx, instance, InstanceState.FAILED, error=error, now=now)
            lost = True
            continue
        offer = _best(fitting, task, start)
        if offer is None:
            continue
        _give(tx, task, instance, offer, start, runner=runner, now=now)
        placed += 1
    if lost:
        settle(tx, task, now=now)
    return placed


def _offers(tx: Tx, account_id: str, *, now: datetime) -> list[_Offer]:
    """Hosts with room, locked. One that may only add to the repository offers none.

    It could not read the snapshot before, and so would store each one whole.
    """
    able = [
        host.id
        for host in tx.scalars(
            select(Host).where(
                Host.account_id == account_id,
                Host.revoked_at.is_(None),
                Host.silent_since.is_(None),
                Host.put_only.is_(False),
            )
        )
        if _slots(host) and hosts.status_of(host, now) == "online"
    ]
    if not able:
        return []
    counted = (
        select(TaskInstance.host_id, func.count())
        .where(TaskInstance.host_id.in_(able), TaskInstance.state.in_(_OPEN))
        .group_by(TaskInstance.host_id)
    )
    locked = (
        select(Host)
        .where(Host.id.in_(able))
        .order_by(Host.id)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    rows = tx.scalars(locked).all()
    running = {row[0]: int(row[1]) for row in tx.execute(counted)}
    repositories = {
        row.region_id: row
        for row in tx.scalars(select(Repository).where(Repository.account_id == account_id))
    }
    offers = [
        _Offer(host, repositories[host.region_id], _slots(host), running.get(host.id, 0))
        for host in rows
        if host.region_id in repositories
    ]
    return [each for each in offers if _has_room(each)]


def _slots(host: Host) -> int:
    """What an agent says is not to be relied on for its form."""
    slots = host.inventory.get("task_slots")
    return slots if isinstance(slots, int) and not isinstance(slots, bool) and slots > 0 else 0


def _has_room(offer: _Offer) -> bool:
    return offer.running < offer.slots


def _best(offers: Sequence[_Offer], task: Task, start: Snapshot | None) -> _Offer | None:
    fitting = [
        each
        for each in offers
        if _has_room(each)
        and (task.runs_on is None or task.runs_on == each.host.id)
        and (start is None or start.repository_id == each.repository.id)
    ]
    return min(fitting, key=lambda each: (each.running, each.host.name, each.host.id), default=None)


def start_of(tx: Tx, task: Task, number: int) -> Snapshot | None:
    """What an instance starts from: of a task's snapshot its own part, or else the first."""
    if task.starts_from is None:
        return None
    snapshot = tx.get(Snapshot, task.starts_from)
    if snapshot is None and tx.get(TaskSnapshot, task.starts_from) is not None:
        snapshot = tx.get(Snapshot, instance_snapshot_id(task.starts_from, number))
        if snapshot is None or snapshot.status != "COMPLETED":
            of_it = select(Snapshot).where(
                Snapshot.task_snapshot_id == task.starts_from, Snapshot.status == "COMPLETED"
            )
            snapshot = tx.scalars(of_it.order_by(Snapshot.created_at, Snapshot.id)).first()
    if snapshot is None or snapshot.account_id != task.account_id:
        return None
    there = snapshot.manifest_id is not None and snapshot.purged_at is None
    return snapshot if there else None


def _give(
    tx: Tx,
    task: Task,
    instance: TaskInstance,
    offer: _Offer,
    start: Snapshot | None,
    *,
    runner: str,
    now: datetime,
) -> None:
    host = offer.host
    source = None if instance.source_id is None else tx.get_one(Source, instance.source_id)
    if source is None:
        source = Source(
            account_id=task.account_id,
            host_id=host.id,
            kind="task",
            path=JOB_DIRECTORY,
            labels=dict(task.labels),
            created_at=now,
        )
        tx.add(source)
        tx.flush()
    else:
        source.host_id = host.id  # another host had it and did not take it up
    instance.source_id = source.id
    instance.host_id = host.id
    instance.runner = runner
    job = jobs.enqueue(
        tx,
        account_id=task.account_id,
        region_id=offer.repository.region_id,
        repository_id=offer.repository.id,
        host_id=host.id,
        kind="task",
        subject_kind="task",
        subject_id=task.id,
        lock_key=f"task:{instance.id}",
        spec=_spec(tx, task, instance, start),
        now=now,
        max_attempts=MAX_ATTEMPTS,
        give_up_at=now + NOT_TAKEN_AFTER,
        priority=_PRIORITY,
    )
    instance.job_id = job.id
    offer.running += 1
    tx.flush()


def _spec(tx: Tx, task: Task, instance: TaskInstance, start: Snapshot | None) -> dict[str, Any]:
    results = instance_snapshot_id(task.id, instance.number) if task.result_bucket else None
    return {
        "task_id": task.id,
        "instance_id": instance.id,
        "number": instance.number,
        "instances": task.instance_count,
        "name": task.name,
        "profile": task.profile,
        "constants": in_full(profile_named(task.profile), task.constants),
        "inputs": list(task.inputs),
        "source_id": instance.source_id,
        "starts_from": start
        and {
            "snapshot_id": start.id,
            "manifest_id": start.manifest_id,
            "captured_path": tx.get_one(Source, start.source_id).path,
        },
        "snapshot": {
            "whitelist": task.snapshot_whitelist,
            "blacklist": task.snapshot_blacklist,
        },
        "results": {
            "snapshot_id": results,
            "whitelist": task.results_whitelist,
            "blacklist": task.results_blacklist,
            "on_cancel": task.results_on_cancel,
        },
        "time_limit_seconds": task.time_limit_seconds,
        "grace_seconds": GRACE_SECONDS,
    }
