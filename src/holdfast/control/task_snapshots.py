"""Snapshots of tasks: asking for one now, having them taken periodically, and their names.

The instances' hosts take them, told by the orders of `task_report`; nothing here waits for
that. Rights: to ask takes the right to create, to delete that to delete, to look that to
read; a preview shows names of files, and takes that to restore. Invariants: a snapshot has
a part for each instance that was executing when it was asked for; a filter that is kept
parses. A snapshot outlives its task.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import delete, func, select

from holdfast.control import audit, credit, quotas, recycle, scope, tasks
from holdfast.control.database import Tx
from holdfast.control.new_task import check_filters, check_interval, checked_place
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.run_row import UNFINISHED
from holdfast.control.tables import (
    Account,
    Job,
    Snapshot,
    Task,
    TaskInstance,
    TaskPreview,
    TaskSnapshot,
)
from holdfast.control.task_parts import add
from holdfast.control.task_state import lock
from holdfast.control.unindexed import unindexed
from holdfast.errors import NotFound, NotReady, TooManyRequests, UsageError
from holdfast.model.caption import check_text
from holdfast.model.task import InstanceState, snapshot_directory

MAX_ENTRIES: Final = 10_000
MAX_LABEL: Final = 100
_MAX_WAITING: Final = 20
_PREVIEWS_KEPT: Final = timedelta(days=1)
_NEAR: Final = timedelta(minutes=5)


def request(
    tx: Tx,
    who: Principal,
    task_id: str,
    *,
    whitelist: str | None = None,
    blacklist: str | None = None,
    bucket: str | None = None,
    bucket_prefix: str | None = None,
    label: str = "",
    notes: str = "",
    now: datetime,
) -> TaskSnapshot:
    """Take a snapshot of every instance that executes now.

    What is None is as the task has it; an empty filter is none. It is seen in the bucket as
    ``<prefix>yyyyMMddHHmmss/``; without any bucket it is a snapshot only.
    """
    who.require(Right.CREATE)
    tasks.look(tx, who, task_id)
    check_filters(whitelist, blacklist)
    options = checked_place({"bucket": bucket, "bucket_prefix": bucket_prefix})
    if bucket is not None:
        tasks.check_bucket(tx, who.account_id, bucket)
    _check_caption(label, notes)
    task = lock(tx, task_id)
    executing = [each for each in _instances(tx, task) if each.job_id is not None]
    if not executing:
        raise NotReady(
            f"No instance of the task executes (it is {task.state}), so there is nothing to take "
            "a snapshot of; ask while it runs."
        )
    if len(_waiting(tx, task)) >= _MAX_WAITING:
        raise NotReady(
            f"{_MAX_WAITING} snapshots of this task have been asked for and are not done; wait "
            "for them."
        )
    account = tx.get_one(Account, task.account_id)
    credit.check_may_create(tx, account)
    quotas.check(tx, account, snapshots=len(executing))
    place = options["bucket"] or task.result_bucket
    row = TaskSnapshot(
        id=str(uuid4()),
        account_id=task.account_id,
        task_id=task.id,
        trigger="manual",
        triggered_at=now,
        updated_at=now,
        whitelist=_filter(whitelist, task.snapshot_whitelist),
        blacklist=_filter(blacklist, task.snapshot_blacklist),
        bucket=place,
        bucket_prefix=bucket_prefix,
        label=label,
        notes=notes,
    )
    if place is not None:
        row.directory = free_directory(tx, row.account_id, place, bucket_prefix or "", now)
    tx.add(row)
    tx.flush()
    for instance in executing:
        add(tx, row, instance, tx.get_one(Job, instance.job_id), now=now)
    after = _record(row) | {"task_id": task.id, "instances": len(executing)}
    audit.record(tx, who, "task_snapshot.request", "task_snapshot", row.id, now=now, after=after)
    return row


def set_periodic(
    tx: Tx,
    who: Principal,
    task_id: str,
    *,
    seconds: int | None,
    whitelist: str | None = None,
    blacklist: str | None = None,
    bucket: str | None = None,
    bucket_prefix: str | None = None,
    now: datetime,
) -> Task:
    """Have a snapshot taken every so many seconds from now on; None ends that."""
    who.require(Right.CREATE)
    task = tasks.look(tx, who, task_id)
    options: dict[str, Any] = {}
    if seconds is not None:
        check_interval(seconds)
        options = checked_place(
            {
                "whitelist": whitelist,
                "blacklist": blacklist,
                "bucket": bucket,
                "bucket_prefix": bucket_prefix,
            }
        )
        if bucket is not None:
            tasks.check_bucket(tx, who.account_id, bucket)
    if task.ended_at is not None:
        raise NotReady(f"The task has ended ({task.state}); nothing more can be captured of it.")
    if seconds is not None:
        credit.check_may_create(tx, tx.get_one(Account, who.account_id))
    task = lock(tx, task_id)
    before = {"seconds": task.periodic_seconds, **task.periodic_options}
    task.periodic_seconds = seconds
    task.periodic_options = options
    task.periodic_since = now if seconds is not None and task.started_at is not None else None
    after = {"seconds": seconds, **options}
    audit.record(tx, who, "task.periodic", "task", task.id, now=now, before=before, after=after)
    return task


def get(tx: Tx, who: Principal, task_snapshot_id: str) -> TaskSnapshot:
    """One snapshot of a task, also of one that was deleted."""
    who.require(Right.READ)
    return _find(tx, who, task_snapshot_id)


def snapshots(
    tx: Tx,
    who: Principal,
    task_id: str,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    status: str | None = None,
) -> Page[TaskSnapshot]:
    """A task's snapshots, newest first."""
    task = tasks.get(tx, who, task_id)
    statement = select(TaskSnapshot).where(TaskSnapshot.task_id == task.id)
    sieve = []
    if status is not None:
        sieve.append(TaskSnapshot.status == check_text(status, "status", longest=16))
    order = (TaskSnapshot.triggered_at.desc(), TaskSnapshot.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def parts(tx: Tx, who: Principal, task_snapshot_id: str) -> list[Snapshot]:
    """The instances' snapshots of which it consists."""
    row = get(tx, who, task_snapshot_id)
    return parts_of(tx, [row.id]).get(row.id, [])


def parts_of(tx: Tx, task_snapshot_ids: Iterable[str]) -> dict[str, list[Snapshot]]:
    """The parts of several, by their ids and in the order of their instances.

    The caller has seen to who may know.
    """
    found: dict[str, list[Snapshot]] = {}
    for part, _number in _numbered(tx, task_snapshot_ids):
        assert part.task_snapshot_id is not None
        found.setdefault(part.task_snapshot_id, []).append(part)
    return found


def numbers_of(tx: Tx, task_snapshot_ids: Iterable[str]) -> dict[str, int]:
    """Of which instance each part of several is, by the ids of the parts."""
    return {part.id: number for part, number in _numbered(tx, task_snapshot_ids)}


def _numbered(tx: Tx, task_snapshot_ids: Iterable[str]) -> list[tuple[Snapshot, int]]:
    """Parts with the numbers of their instances, in their order."""
    statement = (
        select(Snapshot, TaskInstance.number)
        .join(TaskSnapshot, TaskSnapshot.id == Snapshot.task_snapshot_id)
        .join(
            TaskInstance,
            (TaskInstance.task_id == TaskSnapshot.task_id)
            & (TaskInstance.source_id == Snapshot.source_id),
        )
        .where(Snapshot.task_snapshot_id.in_(list(task_snapshot_ids)))
        .order_by(TaskInstance.number, Snapshot.id)
    )
    return [(part, number) for part, number in tx.execute(statement)]


def edit(
    tx: Tx,
    who: Principal,
    task_snapshot_id: str,
    *,
    label: str | None = None,
    notes: str | None = None,
    now: datetime,
) -> TaskSnapshot:
    """Change what people write about it."""
    who.require(Right.CREATE)
    row = _find(tx, who, task_snapshot_id)
    _check_caption(label or "", notes or "")
    lock(tx, row.task_id)
    before = _record(row)
    row.label = row.label if label is None else label
    row.notes = row.notes if notes is None else notes
    after = _record(row)
    audit.record(
        tx, who, "task_snapshot.edit", "task_snapshot", row.id, now=now, before=before, after=after
    )
    return row


def remove(tx: Tx, who: Principal, task_snapshot_id: str, *, now: datetime) -> TaskSnapshot:
    """Delete its parts; each can be recovered for the account's recycle days."""
    who.require(Right.DELETE)
    row = _find(tx, who, task_snapshot_id)
    found = parts_of(tx, [row.id]).get(row.id, [])
    if any(each.status in UNFINISHED for each in found):
        raise NotReady(
            f"The snapshot is {row.status}; wait for its end, or abort the task, then delete it."
        )
    for each in found:
        recycle.remove(tx, who, each.id, now=now)
    audit.record(tx, who, "task_snapshot.delete", "task_snapshot", row.id, now=now)
    return row


def preview_ask(
    tx: Tx,
    who: Principal,
    task_id: str,
    *,
    whitelist: str | None = None,
    blacklist: str | None = None,
    number: int | None = None,
    entries_wanted: int = 1000,
    now: datetime,
) -> TaskPreview:
    """Ask what filters would take of an instance that executes, the first unless one is named."""
    who.require(Right.RESTORE)
    task = tasks.look(tx, who, task_id)
    check_filters(whitelist, blacklist)
    if not 0 <= entries_wanted <= MAX_ENTRIES:
        raise UsageError(f"A preview lists 0 to {MAX_ENTRIES} entries, not {entries_wanted}.")
    executing = [each for each in _instances(tx, task) if number in (None, each.number)]
    if not executing:
        raise NotReady(
            f"No such instance of the task executes (it is {task.state}), so there is nothing to "
            "look at; ask while it runs."
        )
    asked = select(func.count()).where(
        TaskPreview.instance_id == executing[0].id, TaskPreview.answered_at.is_(None)
    )
    if tx.scalars(asked).one() >= _MAX_WAITING:
        raise TooManyRequests("Earlier previews of this task are not answered yet.", 5)
    row = TaskPreview(
        account_id=task.account_id,
        task_id=task.id,
        instance_id=executing[0].id,
        whitelist=whitelist or None,
        blacklist=blacklist or None,
        asked_at=now,
        entries_wanted=entries_wanted,
    )
    tx.add(row)
    tx.flush()
    return row


def preview_get(tx: Tx, who: Principal, preview_id: str) -> TaskPreview:
    """A preview, with its answer once the host has given it."""
    who.require(Right.RESTORE)
    row = tx.get(TaskPreview, preview_id) if len(preview_id) == 36 else None
    if row is None or row.account_id != who.account_id:
        raise NotFound("There is no such preview; they are kept for a day. Ask again.")
    tasks.look(tx, who, row.task_id)
    return row


def forget_previews(tx: Tx, *, now: datetime) -> int:
    """Drop previews that nobody will look at any more; returns how many."""
    old = delete(TaskPreview).where(TaskPreview.asked_at < now - _PREVIEWS_KEPT)
    return len(tx.execute(old.returning(TaskPreview.id)).all())


def free_directory(tx: Tx, account_id: str, bucket: str, prefix: str, at: datetime) -> str:
    """A directory named by this second or by the next one that no other snapshot has there."""
    taken = set(
        tx.scalars(
            select(TaskSnapshot.directory).where(
                TaskSnapshot.account_id == account_id,
                TaskSnapshot.triggered_at > at - _NEAR,
                unindexed(TaskSnapshot.bucket) == bucket,
            )
        )
    )
    while (wanted := snapshot_directory(at, prefix)) in taken:
        at += timedelta(seconds=1)
    return wanted


def _find(tx: Tx, who: Principal, task_snapshot_id: str) -> TaskSnapshot:
    row = None
    if len(task_snapshot_id) == 36 and task_snapshot_id.isascii():
        row = tx.get(TaskSnapshot, task_snapshot_id)
    if row is None or row.account_id != who.account_id:
        raise NotFound("There is no such snapshot of a task in this account; check the id.")
    scope.find(tx, who, Task, row.task_id)
    return row


def _instances(tx: Tx, task: Task) -> list[TaskInstance]:
    """Those that execute."""
    found = select(TaskInstance).where(
        TaskInstance.task_id == task.id, unindexed(TaskInstance.state) == InstanceState.EXECUTING
    )
    found = found.order_by(TaskInstance.number).execution_options(populate_existing=True)
    return list(tx.scalars(found))


def _waiting(tx: Tx, task: Task) -> list[str]:
    """Snapshots of the task that somebody asked for and that are not done."""
    parts_waiting = (
        select(Snapshot.task_snapshot_id)
        .join(TaskSnapshot, TaskSnapshot.id == Snapshot.task_snapshot_id)
        .where(
            Snapshot.account_id == task.account_id,
            Snapshot.status.in_(UNFINISHED),
            TaskSnapshot.task_id == task.id,
            TaskSnapshot.trigger == "manual",
        )
        .distinct()
    )
    return [each for each in tx.scalars(parts_waiting) if each]


def _filter(wanted: str | None, usual: str | None) -> str | None:
    return usual if wanted is None else wanted or None


def _check_caption(label: str, notes: str) -> None:
    check_text(label, "label", longest=MAX_LABEL)
    check_text(notes, "notes")


def _record(row: TaskSnapshot) -> dict[str, Any]:
    return {"label": row.label, "notes": row.notes, "bucket": row.bucket}
