"""What the host of a task's instance says of it, and what it is told in turn.

Messages may come twice and are read with suspicion: one that cannot be meant is left and
noted as a finding, and the others count. Orders are the whole of what is wanted, each time.
Invariants: a message changes only the instance whose job its host holds; what has ended is
not changed by a later message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select

from holdfast.control import credit, quotas, task_output, task_parts
from holdfast.control.completion.report import Report, checked_number
from holdfast.control.database import Tx
from holdfast.control.new_task import MAX_PERIOD_SECONDS
from holdfast.control.run_row import UNFINISHED
from holdfast.control.storable import storable_document, storable_text
from holdfast.control.tables import Account, Job, Snapshot, Task, TaskInstance, TaskPreview
from holdfast.control.tables import TaskSnapshot as Whole
from holdfast.control.task_snapshots import free_directory
from holdfast.control.task_state import lock, note, settle
from holdfast.control.unindexed import unindexed
from holdfast.errors import CreditExhausted, QuotaExceeded, UsageError
from holdfast.model.finding import Finding
from holdfast.model.task import (
    InstanceState,
    instance_snapshot_id,
    periodic_snapshot_id,
    snapshot_directory,
)

MAX_MESSAGES: Final = 100
MAX_PIECE_BYTES: Final = 256 * 1024
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_ORDER: Final = (
    InstanceState.WAITING,
    InstanceState.PREPARING,
    InstanceState.EXECUTING,
    InstanceState.UPLOADING,
)
_SNAPSHOT_WORDS: Final = frozenset({"triggered", "inProgress", "success", "failure", "skipped"})


def take(tx: Tx, job: Job, messages: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Apply what a host says of the instance whose job it holds."""
    if not messages:
        return
    if len(messages) > MAX_MESSAGES:
        raise UsageError(f"{len(messages)} messages at once; send at most {MAX_MESSAGES}.")
    task = lock(tx, job.subject_id)
    instance = instance_of(tx, job)
    if instance is None or InstanceState(instance.state).has_ended:
        return
    before = instance.state
    for each in messages:
        try:
            _take(tx, job, task, instance, each, now=now)
        except UsageError as error:
            # The agent would send it again and again, and everything behind it would wait.
            message = f"Something that the host {instance.host_id} said was left: {error.message}"
            note(task, Finding("message_refused", message, _kind(each)[:40]))
    if instance.state != before:
        settle(tx, task, now=now)
    tx.flush()


def orders(tx: Tx, job: Job) -> dict[str, Any]:
    """The whole of what is wanted of the job's instance at this moment."""
    task = tx.get_one(Task, job.subject_id)
    instance = instance_of(tx, job)
    ending = task.cancel_requested_at or task.delete_requested_at or job.cancel_requested_at
    if instance is None:
        return {
            "abort": True,
            "snapshots": [],
            "periodic": None,
            "previews": [],
            "inputs": None,
            "output": {},
        }
    previews = select(TaskPreview).where(
        TaskPreview.instance_id == instance.id, TaskPreview.answered_at.is_(None)
    )
    return {
        "abort": ending is not None,
        "snapshots": _wanted_snapshots(tx, instance),
        "periodic": _periodic(tx, task),
        "previews": [
            {
                "preview_id": each.id,
                "whitelist": each.whitelist,
                "blacklist": each.blacklist,
                "entries_wanted": each.entries_wanted,
            }
            for each in tx.scalars(previews.order_by(TaskPreview.asked_at, TaskPreview.id))
        ],
        "inputs": _inputs(task),
        "output": task_output.known_ends(instance),
    }


def instance_of(tx: Tx, job: Job) -> TaskInstance | None:
    """The instance that this job runs; None where it was given to another one since."""
    found = select(TaskInstance).where(TaskInstance.job_id == job.id)
    return tx.scalars(found.execution_options(populate_existing=True)).first()


def _wanted_snapshots(tx: Tx, instance: TaskInstance) -> list[dict[str, Any]]:
    found = (
        select(Snapshot.id, Whole)
        .join(Whole, Whole.id == Snapshot.task_snapshot_id)
        .where(
            Snapshot.account_id == instance.account_id,
            Snapshot.status.in_(UNFINISHED),
            unindexed(Snapshot.source_id) == instance.source_id,
            unindexed(Whole.trigger) == "manual",
        )
        .order_by(Whole.triggered_at, Whole.id)
    )
    return [
        {
            "task_snapshot_id": whole.id,
            "snapshot_id": part_id,
            "whitelist": whole.whitelist,
            "blacklist": whole.blacklist,
            "triggered_at": whole.triggered_at.isoformat(),
        }
        for part_id, whole in tx.execute(found)
    ]


def _inputs(task: Task) -> dict[str, str] | None:
    if task.inputs_renewed_at is None:
        return None
    return {
        "renewed_at": task.inputs_renewed_at.isoformat(),
        "since": task.created_at.isoformat(),
    }


def _periodic(tx: Tx, task: Task) -> dict[str, Any] | None:
    if task.periodic_seconds is None or task.periodic_since is None:
        return None
    if not _may_store(tx, task):
        return None
    options = task.periodic_options
    return {
        "seconds": task.periodic_seconds,
        "since": task.periodic_since.isoformat(),
        "whitelist": _filter(options.get("whitelist"), task.snapshot_whitelist),
        "blacklist": _filter(options.get("blacklist"), task.snapshot_blacklist),
    }


def _may_store(tx: Tx, task: Task) -> bool:
    """Whether the account may have one snapshot more; where not, the task says so once."""
    account = tx.get_one(Account, task.account_id)
    try:
        credit.check_may_create(tx, account)
        quotas.check(tx, account)
    except CreditExhausted as error:
        message = f"Periodic snapshots are not taken. {error.message}"
        note(task, Finding("paused_for_credit", message))
        return False
    except QuotaExceeded as error:
        message = f"Periodic snapshots are not taken. {error.message}"
        note(task, Finding("quota_reached", message))
        return False
    return True


def _take(
    tx: Tx,
    job: Job,
    task: Task,
    instance: TaskInstance,
    said: Mapping[str, Any],
    *,
    now: datetime,
) -> None:
    match _kind(said):
        case "state":
            _take_state(instance, said, now=now)
        case "output":
            _take_output(tx, task, instance, said)
        case "snapshot":
            _take_snapshot(tx, job, task, instance, said, now=now)
        case "preview":
            _take_preview(tx, instance, said, now=now)
        case "finding":
            finding = _document(said, "finding")
            code = _text(finding, "code")
            note(task, _finding(code, finding))
        case kind:
            raise UsageError(f"there is no message {kind[:40]!r}")


def _finding(code: str, said: Mapping[str, Any]) -> Finding:
    return Finding(code, str(said.get("message", "")), str(said.get("subject", "")))


def _take_state(instance: TaskInstance, said: Mapping[str, Any], *, now: datetime) -> None:
    try:
        state = InstanceState(_text(said, "state"))
        wanted, has = _ORDER.index(state), _ORDER.index(InstanceState(instance.state))
    except ValueError:
        raise UsageError("a host says preparing, executing or uploading of an instance") from None
    instance.runner = storable_text(str(said.get("runner") or instance.runner), limit=16)
    instance.reference = storable_text(str(said.get("reference") or instance.reference), limit=120)
    if wanted > has:
        instance.state = state
        if state == InstanceState.EXECUTING and instance.started_at is None:
            instance.started_at = min(_time(said, "at") or now, now)


def _take_output(tx: Tx, task: Task, instance: TaskInstance, said: Mapping[str, Any]) -> None:
    try:
        data = base64.b64decode(_text(said, "data", longest=2 * MAX_PIECE_BYTES), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the data of a piece of output is not base64") from None
    if len(data) > MAX_PIECE_BYTES:
        raise UsageError(f"a piece of output has {len(data)} bytes; {MAX_PIECE_BYTES} are taken")
    offset = checked_number(said.get("offset"), "offset")
    task_output.append(tx, task, instance, _text(said, "stream"), offset=offset, data=data)


def _take_preview(
    tx: Tx, instance: TaskInstance, said: Mapping[str, Any], *, now: datetime
) -> None:
    row = tx.get(TaskPreview, _id(said, "preview_id"), populate_existing=True)
    if row is None or row.instance_id != instance.id or row.answered_at is not None:
        return  # it was forgotten meanwhile, or this is a repetition
    row.answer = storable_document(_document(said, "answer"), limit_bytes=_MAX_ANSWER_BYTES)
    row.answered_at = now


def _take_snapshot(
    tx: Tx,
    job: Job,
    task: Task,
    instance: TaskInstance,
    said: Mapping[str, Any],
    *,
    now: datetime,
) -> None:
    status = _text(said, "status")
    if status not in _SNAPSHOT_WORDS:
        raise UsageError(f"a snapshot is never {status[:40]!r}")
    whole_id = _id(said, "task_snapshot_id")
    if said.get("snapshot_id") != instance_snapshot_id(whole_id, instance.number):
        raise UsageError("the id of the snapshot is not the one of this instance's part")
    whole = _whole(tx, task, whole_id, said, now=now)
    part = tx.get(Snapshot, instance_snapshot_id(whole_id, instance.number))
    if part is None:
        if whole.trigger == "manual":
            raise UsageError("this instance was not asked for a part of that snapshot")
        if status != "skipped" and whole.slot_at is not None:
            task_parts.fail_unfinished(
                tx,
                task,
                instance,
                "interrupted",
                "The host began the next one without having said how this one ended.",
                before_slot=whole.slot_at,
                job=job,
                now=now,
            )
        part = task_parts.add(tx, whole, instance, job, now=now)
    if part.status not in UNFINISHED:
        return
    total = _count(said, "bytes_total")
    done = _count(said, "bytes_done")
    whole.transfer = {**whole.transfer, str(instance.number): [total, done]}
    _apply(tx, job, task, whole, part, said, now=now)
    task_parts.summarise(tx, whole, now=now)


def _apply(  # noqa: PLR0917
    tx: Tx,
    job: Job,
    task: Task,
    whole: Whole,
    part: Snapshot,
    said: Mapping[str, Any],
    *,
    now: datetime,
) -> None:
    findings = _findings(said)
    match said["status"]:
        case "inProgress":
            task_parts.begin(tx, part, task, job=job, now=now)
        case "success":
            report = Report(_document(said, "result"), findings)
            try:
                with tx.begin_nested():
                    task_parts.complete(
                        tx,
                        part,
                        whole,
                        task,
                        report,
                        capture_seconds=_seconds(report.result, "capture_seconds"),
                        job=job,
                        now=now,
                    )
            except UsageError as error:
                tx.refresh(part)
                message = f"What the host reported of it cannot be used: {error.message}"
                task_parts.fail(tx, part, task, "report_refused", message, job=job, now=now)
            else:
                task_parts.add_findings(whole, findings)
        case "failure":
            told = said.get("error")
            told = told if isinstance(told, Mapping) else {}
            code = storable_text(str(told.get("code") or "error"), limit=64)
            message = storable_text(str(told.get("message") or "It has failed."), limit=4000)
            part.findings = list(findings)
            task_parts.add_findings(whole, findings)
            task_parts.fail(tx, part, task, code, message, job=job, now=now)
        case "skipped":
            task_parts.skip(tx, part, whole, task, job=job, now=now)


def _whole(tx: Tx, task: Task, whole_id: str, said: Mapping[str, Any], *, now: datetime) -> Whole:
    """The task's snapshot that is meant; of a slot the row is made when it is first heard of."""
    whole = tx.get(Whole, whole_id, populate_existing=True)
    if whole is not None:
        if whole.task_id != task.id:
            raise UsageError("that snapshot is another task's")
        return whole
    slot = _time(said, "slot_at")
    if said.get("trigger") != "periodic" or slot is None:
        raise UsageError("that snapshot is not known here")
    if periodic_snapshot_id(task.id, slot) != whole_id:
        raise UsageError("the id of the snapshot is not the one of its slot")
    options = task.periodic_options
    whole = Whole(
        id=whole_id,
        account_id=task.account_id,
        task_id=task.id,
        trigger="periodic",
        slot_at=slot,
        triggered_at=min(_time(said, "triggered_at") or now, now),
        updated_at=now,
        whitelist=_filter(options.get("whitelist"), task.snapshot_whitelist),
        blacklist=_filter(options.get("blacklist"), task.snapshot_blacklist),
        bucket=options.get("bucket") or task.result_bucket,
        bucket_prefix=options.get("bucket_prefix"),
        transfer={},
        findings=[],
    )
    if whole.bucket is not None:
        at = _time(said, "directory_at") or slot
        prefix = whole.bucket_prefix or ""
        near = abs((now - at).total_seconds()) < MAX_PERIOD_SECONDS
        whole.directory = (
            free_directory(tx, task.account_id, whole.bucket, prefix, at)
            if near
            else snapshot_directory(slot, prefix)
        )
    tx.add(whole)
    tx.flush()
    return whole


def _filter(wanted: str | None, usual: str | None) -> str | None:
    return usual if wanted is None else wanted or None


def _kind(said: Mapping[str, Any]) -> str:
    return str(said.get("type"))


def _text(said: Mapping[str, Any], name: str, *, longest: int = 1000) -> str:
    value = said.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise UsageError(f"the {name} of a message is no text, or too long")
    return value


def _id(said: Mapping[str, Any], name: str) -> str:
    try:
        return str(UUID(_text(said, name)))
    except ValueError:
        raise UsageError(f"the {name} of a message is no id") from None


def _document(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name)
    if not isinstance(value, dict):
        raise UsageError(f"the {name} of a message is no document")
    return value


def _time(said: Mapping[str, Any], name: str) -> datetime | None:
    value = said.get(name)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(str(value))
        if at.tzinfo is None:
            raise ValueError("no time zone")
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"the {name} of a message is no time with its zone") from None


def _count(said: Mapping[str, Any], name: str) -> int:
    return checked_number(said.get(name) or 0, name)


def _seconds(said: Mapping[str, Any], name: str) -> float:
    value = said.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise UsageError(f"the {name} of a result is no number of seconds")
    return float(value)


def _findings(said: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    listed = said.get("findings")
    if not isinstance(listed, list):
        return ()
    return tuple(
        {
            "code": storable_text(str(each.get("code", "")), limit=64),
            "message": storable_text(str(each.get("message", "")), limit=4000),
            "subject": storable_text(str(each.get("subject", "")), limit=4000),
        }
        for each in listed[:1000]
        if isinstance(each, Mapping)
    )
