"""Tasks: submitting computations, looking at them, and ending them.

Where their instances run is decided in `task_place`, what hosts say of them is taken in
`task_report`; snapshots and output are in files of their own. Nothing here runs anything.

Rights: to submit, change, abort and renew inputs takes the right to create, to remove that
to delete, to look that to read; to start from a snapshot takes that to restore, too, because
the command reads what is stored. A token that is limited to resources extends to tasks by
their ids and by the hosts that were wished for; it cannot submit. Invariant: a task that was
removed is not found, and has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from holdfast.control import audit, credit, events, job_end, regions, scope
from holdfast.control.database import Tx
from holdfast.control.new_task import NewTask, check_name, checked, checked_tags
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys
from holdfast.control.storable import storable_document
from holdfast.control.tables import (
    Account,
    Bucket,
    Host,
    Job,
    Snapshot,
    Task,
    TaskInstance,
    TaskSnapshot,
)
from holdfast.control.task_profiles import checked_constants, profile_named
from holdfast.control.task_state import drop, end_instance, instances_of, lock, settle
from holdfast.errors import (
    Forbidden,
    NameTaken,
    NoSuchBucket,
    NotFound,
    NotReady,
    UsageError,
)
from holdfast.model.caption import check_labels, check_text
from holdfast.model.task import InstanceState, TaskState

__all__ = [
    "NewTask",
    "abort",
    "check_bucket",
    "edit",
    "find",
    "get",
    "instances",
    "look",
    "remove",
    "renew_inputs",
    "submit",
    "tasks",
]

KIND: Final = "task"
_MAX_EXTRA_BYTES: Final = 256 * 1024


def submit(tx: Tx, who: Principal, new: NewTask, *, now: datetime, keys: MasterKeys) -> Task:
    """Make a task and place what can be placed at once.

    The result bucket is made where it is not there; inputs must be. `CreditExhausted`
    where nothing new may be begun.
    """
    who.require(Right.CREATE)
    if who.resources or not who.covers(KIND):
        raise Forbidden(
            "This token is limited to parts of the account, and a task is a new one; use a token "
            "that is not limited, or one of the kind 'task'."
        )
    wish = checked(new)
    account = tx.get_one(Account, who.account_id)
    credit.check_may_create(tx, account)
    if wish.starts_from is not None:
        who.require(Right.RESTORE)
        _check_start(tx, who, wish.starts_from)
    if wish.runs_on is not None:
        host = scope.find(tx, who, Host, wish.runs_on)
        if host.revoked_at is not None:
            raise NotReady(f"The host {host.name} was revoked; choose another one, or none.")
    for each in wish.inputs:
        check_bucket(tx, account.id, each["bucket"])
    if wish.periodic_options.get("bucket"):
        check_bucket(tx, account.id, wish.periodic_options["bucket"])
    _make_repositories(tx, account, keys=keys, now=now)
    if wish.result_bucket is not None:
        from holdfast.control import buckets

        buckets.ensure(tx, account.id, wish.result_bucket, keys=keys, now=now)
    task = _row(wish, account.id, now=now)
    _add(tx, task)
    tx.add_all(
        TaskInstance(account_id=account.id, task_id=task.id, number=number)
        for number in range(task.instance_count)
    )
    tx.flush()
    audit.record(tx, who, "task.submit", "task", task.id, now=now, after=_record(task))
    events.emit(
        tx,
        account.id,
        "task.submitted",
        "task",
        task.id,
        f"Task {task.name} was submitted.",
        now=now,
        data={"state": task.state, "profile": task.profile},
        correlation_id=who.request_id,
    )
    from holdfast.control import task_place  # which makes jobs, and so needs this package whole

    task_place.place_waiting(tx, account_id=account.id, now=now)
    return task


def get(tx: Tx, who: Principal, task_id: str) -> Task:
    """One task that was not removed."""
    who.require(Right.READ)
    return look(tx, who, task_id)


def find(tx: Tx, who: Principal, id_or_short_name: str) -> Task:
    """The task with this id, or else the one with this short name."""
    who.require(Right.READ)
    name = check_text(id_or_short_name, "short name", longest=200)
    named = select(Task.id).where(
        Task.account_id == who.account_id, Task.short_name == name, Task.removed_at.is_(None)
    )
    return look(tx, who, tx.scalar(named) or id_or_short_name)


def tasks(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    state: str | None = None,
    tag: str | None = None,
    label: str | None = None,
    search: str | None = None,
) -> Page[Task]:
    """The tasks, newest first; `label` is ``key`` or ``key=value``, `search` is in names."""
    who.require(Right.READ)
    on_sqlite = tx.get_bind().dialect.name == "sqlite"
    statement = select(Task).where(Task.account_id == who.account_id)
    if state is not None:
        statement = statement.where(Task.state == check_text(state, "state", longest=24))
    sieve: list[ColumnElement[bool]] = [Task.removed_at.is_(None), *scope.narrowing_tasks(who)]
    if tag is not None:
        sieve.append(_has_tag(check_text(tag, "tag", longest=200), on_sqlite=on_sqlite))
    if label is not None:
        key, equals, value = check_text(label, "label", longest=400).partition("=")
        sieve.append(_has_label(key, value if equals else None, on_sqlite=on_sqlite))
    if search:
        words = check_text(search, "search", longest=200)
        sieve.append(
            Task.name.icontains(words, autoescape=True)
            | Task.short_name.icontains(words, autoescape=True)
        )
    order = (Task.created_at.desc(), Task.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def instances(tx: Tx, who: Principal, task_id: str) -> list[TaskInstance]:
    """A task's instances, by their numbers."""
    return instances_of(tx, get(tx, who, task_id).id)


def edit(
    tx: Tx,
    who: Principal,
    task_id: str,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    labels: Mapping[str, object] | None = None,
    extra: Mapping[str, Any] | None = None,
    now: datetime,
) -> Task:
    """Change what is given; what a task computes cannot be changed any more."""
    who.require(Right.CREATE)
    look(tx, who, task_id)
    task = lock(tx, task_id)
    before = _caption(task)
    if name is not None:
        task.name = check_name(name, "task")
    if tags is not None:
        task.tags = checked_tags(tags)
    if labels is not None:
        task.labels = check_labels(labels)
    if extra is not None:
        task.extra = storable_document(extra, limit_bytes=_MAX_EXTRA_BYTES)
    after = _caption(task)
    audit.record(tx, who, "task.edit", "task", task.id, now=now, before=before, after=after)
    return task


def renew_inputs(tx: Tx, who: Principal, task_id: str, *, now: datetime) -> Task:
    """Wish that what came into a task's inputs since is copied into its directories, too.

    Nothing is deleted there. Its hosts do it as soon as they hear of it; every wish counts
    anew. `NotReady` where the computation ends or has ended.
    """
    who.require(Right.CREATE)
    look(tx, who, task_id)
    task = lock(tx, task_id)
    if task.ended_at is not None or task.state == TaskState.UPLOADING_RESULTS:
        raise NotReady(
            f"The computation has ended ({task.state}); submit a new task, which begins with what "
            "is in the buckets then."
        )
    if task.cancel_requested_at is not None or task.delete_requested_at is not None:
        raise NotReady("The task is being ended, so nothing is copied for it any more.")
    if not task.inputs:
        raise UsageError("The task has no input buckets; name them when you submit a task.")
    before = task.inputs_renewed_at
    # Hosts act on a later time than the one they know, also where a clock was set back.
    later = now if before is None else max(now, before + timedelta(microseconds=1))
    task.inputs_renewed_at = later
    after = {"inputs_renewed_at": later.isoformat()}
    audit.record(tx, who, "task.renew_inputs", "task", task.id, now=now, after=after)
    return task


def abort(tx: Tx, who: Principal, task_id: str, *, now: datetime) -> Task:
    """Wish that a task ends: at once where no host has begun, else as soon as hosts hear.

    Aborting what was aborted changes nothing; what has ended otherwise is `NotReady`.
    """
    who.require(Right.CREATE)
    task = look(tx, who, task_id)
    if task.cancel_requested_at is not None:
        return task
    if task.ended_at is not None:
        raise NotReady(f"The task has ended ({task.state}); there is nothing left to abort.")
    task = _stop(tx, who, task.id, now=now)
    audit.record(tx, who, "task.abort", "task", task.id, now=now, after={"state": task.state})
    return task


def remove(tx: Tx, who: Principal, task_id: str, *, now: datetime) -> Task:
    """Delete a task, which is aborted first where it runs; its snapshots stay.

    Until it has ended it is there as PendingDelete.
    """
    who.require(Right.DELETE)
    task = look(tx, who, task_id)
    if task.ended_at is None:
        task = _stop(tx, who, task.id, now=now, deleting=True)
        if task.removed_at is None:
            audit.record(tx, who, "task.delete", "task", task.id, now=now)
        return task
    task = lock(tx, task.id)
    drop(tx, task, who, now=now)
    return task


def check_bucket(tx: Tx, account_id: str, name: str) -> None:
    """Raise `NoSuchBucket` where the account has none of this name."""
    check_text(name, "name of the bucket", longest=255)
    found = select(Bucket.id).where(Bucket.account_id == account_id, Bucket.name == name)
    if tx.scalar(found) is None:
        raise NoSuchBucket(f"There is no bucket {name!r} in this account; create it first.")


def _stop(tx: Tx, who: Principal, task_id: str, *, deleting: bool = False, now: datetime) -> Task:
    """Note the wish, and end at once what no host has begun.

    A job that was begun and waits for its host's return is not cancelled: the computation
    may be going on there, and whoever attaches to it is told to end it.
    """
    found = select(TaskInstance.job_id).where(
        TaskInstance.task_id == task_id, TaskInstance.job_id.is_not(None)
    )
    job_ids = [each for each in tx.scalars(found.order_by(TaskInstance.job_id)) if each]
    waiting = tx.scalars(
        select(Job)
        .where(Job.id.in_(job_ids), Job.state == job_end.JobState.QUEUED, Job.attempt == 0)
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    task = lock(tx, task_id)
    task.cancel_requested_at = task.cancel_requested_at or now
    if deleting:
        task.delete_requested_at = task.delete_requested_at or now
    tx.flush()
    for job in waiting:
        job.cancel_requested_at = now
        job.cancelled_by = f"{who.kind}:{who.id}"[:120]
        job_end.cancel(tx, job, who, now=now)
    for instance in instances_of(tx, task.id):
        if instance.state == InstanceState.WAITING and instance.job_id is None:
            end_instance(tx, instance, InstanceState.CANCELLED, now=now)
    settle(tx, task, now=now)
    return task


def look(tx: Tx, who: Principal, task_id: str) -> Task:
    """A task that was not removed, for services that have asked for a right of their own."""
    task = scope.find(tx, who, Task, task_id)
    if task.removed_at is not None:
        raise NotFound(f"There is no task {task.id!r} in this account; it was deleted.")
    return task


def _row(wish: NewTask, account_id: str, *, now: datetime) -> Task:
    profile = profile_named(wish.profile)
    return Task(
        account_id=account_id,
        name=wish.name,
        short_name=wish.short_name,
        profile=profile.name,
        constants=checked_constants(profile, wish.constants),
        inputs=[dict(each) for each in wish.inputs],
        result_bucket=wish.result_bucket,
        tags=list(wish.tags),
        labels=dict(wish.labels),
        instance_count=wish.instance_count,
        runs_on=wish.runs_on,
        snapshot_whitelist=wish.snapshot_whitelist or None,
        snapshot_blacklist=wish.snapshot_blacklist or None,
        results_whitelist=wish.results_whitelist or None,
        results_blacklist=wish.results_blacklist or None,
        results_on_cancel=wish.results_on_cancel,
        starts_from=wish.starts_from,
        time_limit_seconds=wish.time_limit_seconds,
        extra=dict(wish.extra),
        state_since=now,
        created_at=now,
        periodic_seconds=wish.periodic_seconds,
        periodic_options=dict(wish.periodic_options),
    )


def _add(tx: Tx, task: Task) -> None:
    try:
        with tx.begin_nested():
            tx.add(task)
    except IntegrityError:
        raise NameTaken(
            f"There is a task with the short name {task.short_name!r} already; choose another "
            "one, or delete that task."
        ) from None


def _check_start(tx: Tx, who: Principal, snapshot_id: str) -> None:
    """Raise unless there is something to start from."""
    whole = tx.get(TaskSnapshot, snapshot_id) if len(snapshot_id) == 36 else None
    if whole is None or whole.account_id != who.account_id:
        snapshot = scope.find(tx, who, Snapshot, snapshot_id)
        if snapshot.status != "COMPLETED" or snapshot.manifest_id is None:
            raise NotReady(
                f"The snapshot is {snapshot.status}, so no task can start from it; choose a "
                "completed one."
            )
        return
    scope.find(tx, who, Task, whole.task_id)
    good = select(Snapshot.id).where(
        Snapshot.task_snapshot_id == whole.id, Snapshot.status == "COMPLETED"
    )
    if tx.scalar(good.limit(1)) is None:
        raise NotReady(
            f"The snapshot of the task is {whole.status} and holds nothing to start from; choose "
            "one that succeeded."
        )


def _make_repositories(tx: Tx, account: Account, *, keys: MasterKeys, now: datetime) -> None:
    """There is a repository wherever an instance may be placed; placing has no keys."""
    hosts = select(Host.region_id).where(Host.account_id == account.id).distinct()
    for region_id in sorted({account.region_id, *tx.scalars(hosts)}):
        regions.repository_for(tx, account.id, region_id, keys=keys, now=now)


def _has_tag(tag: str, *, on_sqlite: bool) -> ColumnElement[bool]:
    if not on_sqlite:
        return type_coerce(Task.tags, JSONB).contains([tag])
    each = func.json_each(Task.tags).table_valued("value", name="tag")
    return exists(select(each.c.value).where(each.c.value == tag))


def _has_label(key: str, value: str | None, *, on_sqlite: bool) -> ColumnElement[bool]:
    if not on_sqlite:
        kept = type_coerce(Task.labels, JSONB)
        return kept.has_key(key) if value is None else kept.contains({key: value})
    each = func.json_each(Task.labels).table_valued("key", "value", name="label")
    conditions = [each.c.key == key]
    if value is not None:
        conditions.append(each.c.value == value)
    return exists(select(each.c.key).where(*conditions))


def _caption(task: Task) -> dict[str, Any]:
    return {"name": task.name, "tags": task.tags, "labels": task.labels}


def _record(task: Task) -> dict[str, Any]:
    """What the audit log keeps of a new task; constants may hold secrets, so only their names."""
    return _caption(task) | {
        "profile": task.profile,
        "constants": [each["key"] for each in task.constants],
        "instance_count": task.instance_count,
        "result_bucket": task.result_bucket,
        "starts_from": task.starts_from,
    }
