"""Schedules: when a source is captured, and for how long that is kept.

A source may have several. Slots are settled by `due`, snapshots leave by `retention`; here
is what people do. Invariant: a change concerns slots after it; those before it have been
settled by the rules that were valid then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import select

from holdfast.control import audit, events, jobs, retention, scope, sources
from holdfast.control.backup_run import ARCHIVE_FORMATS, REPOSITORY
from holdfast.control.database import Tx
from holdfast.control.due import settle_before_change, settle_before_end
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.schedule_row import (
    RETENTION_REST,
    checked_retention,
    frequency,
    policy,
    policy_of,
    preset_of,
    record,
    retire,
    schedule_of,
    set_copies,
    set_drills,
)
from holdfast.control.tables import Host, Schedule, Snapshot, Source
from holdfast.errors import NotReady, UsageError
from holdfast.model.name import check_name
from holdfast.model.retention import RetentionDecision

__all__ = [
    "create",
    "edit",
    "get",
    "pause",
    "policy_of",
    "preset_of",
    "preview",
    "remove",
    "resume",
    "schedule_of",
    "schedules",
]

_TIMING = frozenset({"interval_hours", "preset", "cron", "timezone", "window"})
_CHANGEABLE = _TIMING | {
    "name",
    "retention",
    "archive_format",
    "copy_region_id",
    "drill_days",
    "paused",
    "source_id",
}


def create(
    tx: Tx,
    who: Principal,
    *,
    source_id: str,
    name: str = "",
    interval_hours: int | None = None,
    preset: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    window: str | None = None,
    retention: Mapping[str, Any],
    archive_format: str = REPOSITORY,
    copy_region_id: str | None = None,
    drill_days: int | None = None,
    paused: bool = False,
    now: datetime,
) -> Schedule:
    """Back up a source at an interval (hours), by a preset, or by a cron expression.

    The first run is at the next slot; ask for one at once with `snapshots.request`.
    """
    who.require(Right.CREATE)
    source = sources.current(tx, who, source_id, lock=True)
    host = tx.get_one(Host, source.host_id)
    if host.revoked_at is not None:
        raise NotReady(f"The host {host.name} was revoked; enrol it again before you schedule.")
    row_id = str(uuid4())
    when = frequency(
        row_id,
        interval_hours=interval_hours,
        preset=preset,
        cron=cron,
        timezone=timezone,
        window=window,
    )
    row = Schedule(
        id=row_id,
        account_id=who.account_id,
        source_id=source.id,
        name=check_name(name) if name else "",
        **asdict(when),
        retention=checked_retention(retention),
        archive_format=_checked_format(archive_format),
        paused=paused,
        created_at=now,
        updated_at=now,
        settled_until=now,
    )
    row.due_at = None if paused else schedule_of(row).next_due(now)
    set_copies(tx, row, copy_region_id, own_region_id=host.region_id, now=now)
    _check_copies(row)
    set_drills(row, drill_days, now=now)
    _check_drills(row)
    tx.add(row)
    tx.flush()
    audit.record(tx, who, "schedule.create", "schedule", row.id, now=now, after=record(row))
    _tell(tx, row, source, "created", now=now)
    return row


def get(tx: Tx, who: Principal, schedule_id: str) -> Schedule:
    """One schedule, also a removed one."""
    who.require(Right.READ)
    return scope.find(tx, who, Schedule, schedule_id)


def schedules(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    source_id: str | None = None,
    host_id: str | None = None,
    removed: bool = False,
) -> Page[Schedule]:
    """The schedules, newest first; `removed` shows those too."""
    who.require(Right.READ)
    statement = (
        select(Schedule)
        .join(Source, Source.id == Schedule.source_id)
        .where(Schedule.account_id == who.account_id)
    )
    sieve = scope.narrowing(
        who, kind=Source.kind, host=Source.host_id, ids=(Source.id, Schedule.id)
    )
    if source_id is not None:
        statement = statement.where(Schedule.source_id == source_id)
    if host_id is not None:
        statement = statement.where(Source.host_id == host_id)
    if not removed:
        sieve.append(Schedule.removed_at.is_(None))
    order = (Schedule.created_at.desc(), Schedule.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def edit(tx: Tx, who: Principal, schedule_id: str, *, now: datetime, **changes: Any) -> Schedule:
    """Change what is named, by the arguments of `create`; nothing is changed if one is wrong.

    One of interval_hours, preset and cron replaces the frequency; a time zone or window
    alone keeps it. Another source is another path of the same host; the snapshots made so
    far stay the schedule's. A stricter retention takes effect after the next run, or in a day.
    """
    who.require(Right.CREATE)
    if unknown := sorted(set(changes) - _CHANGEABLE):
        raise UsageError(
            f"A schedule's {unknown[0]} cannot be changed; "
            f"what can is {', '.join(sorted(_CHANGEABLE))}."
        )
    row = _current(tx, who, schedule_id)
    before = record(row)
    was_paused = row.paused
    settle_before_change(tx, row, now=now)
    if _TIMING & set(changes):
        for column, value in _changed_timing(row, changes).items():
            setattr(row, column, value)
    if "source_id" in changes and changes["source_id"] != row.source_id:
        row.source_id = _other_path(tx, who, row, changes["source_id"]).id
    if "name" in changes:
        row.name = check_name(changes["name"]) if changes["name"] else ""
    if "archive_format" in changes:
        row.archive_format = _checked_format(changes["archive_format"])
    if "retention" in changes:
        row.retention = checked_retention(changes["retention"])
        row.retention_due_at = now + RETENTION_REST
    if "copy_region_id" in changes:
        source = tx.get_one(Source, row.source_id)
        own = tx.get_one(Host, source.host_id).region_id
        set_copies(tx, row, changes["copy_region_id"], own_region_id=own, now=now)
    _check_copies(row)
    if "drill_days" in changes:
        set_drills(row, changes["drill_days"], now=now)
    _check_drills(row)
    if "paused" in changes:
        row.paused = bool(changes["paused"])
    row.settled_until = row.updated_at = now
    row.due_at = None if row.paused else schedule_of(row).next_due(now)
    audit.record(
        tx, who, "schedule.edit", "schedule", row.id, now=now, before=before, after=record(row)
    )
    words = {(False, True): "paused", (True, False): "resumed"}
    word = words.get((was_paused, row.paused), "changed")
    _tell(tx, row, tx.get_one(Source, row.source_id), word, now=now)
    return row


def pause(tx: Tx, who: Principal, schedule_id: str, *, now: datetime) -> Schedule:
    """Have no slots until it is resumed; a run in progress goes on."""
    who.require(Right.CREATE)
    row = _current(tx, who, schedule_id)
    return row if row.paused else edit(tx, who, schedule_id, now=now, paused=True)


def resume(tx: Tx, who: Principal, schedule_id: str, *, now: datetime) -> Schedule:
    """Have slots again from now on; nothing is made up for."""
    who.require(Right.CREATE)
    row = _current(tx, who, schedule_id)
    return row if not row.paused else edit(tx, who, schedule_id, now=now, paused=False)


def remove(tx: Tx, who: Principal, schedule_id: str, *, now: datetime) -> Schedule:
    """End it: a run that waits is cancelled, one that goes on may finish, snapshots stay.

    They age by the schedule's greatest age, and the last one may go that way too.
    """
    who.require(Right.CREATE)
    row = scope.find(tx, who, Schedule, schedule_id)
    if row.removed_at is not None:
        return row
    # Jobs before schedules, as the end of a run locks them.
    waiting = tx.scalars(
        select(Snapshot.job_id)
        .where(
            Snapshot.schedule_id == row.id,
            Snapshot.status == "PENDING",
            Snapshot.job_id.is_not(None),
        )
        .order_by(Snapshot.job_id)
    ).all()
    for job_id in waiting:
        assert job_id is not None
        jobs.request_cancel(tx, who, job_id, now=now)
    row = scope.find(tx, who, Schedule, schedule_id, lock=True)
    if row.removed_at is None:
        settle_before_end(tx, row, now=now)
        retire(tx, who, row, now=now)
    return row


def preview(
    tx: Tx, who: Principal, schedule_id: str, retention_wanted: Mapping[str, Any], *, now: datetime
) -> list[RetentionDecision]:
    """What the schedule's snapshots would become under a retention, newest first, with reasons.

    It is what retention itself would do at this moment: nothing is changed.
    """
    who.require(Right.READ)
    row = scope.find(tx, who, Schedule, schedule_id)
    wanted = policy(checked_retention(retention_wanted))
    return retention.decisions(tx, row, wanted, now=now).decided


def _current(tx: Tx, who: Principal, schedule_id: str) -> Schedule:
    row = scope.find(tx, who, Schedule, schedule_id, lock=True)
    if row.removed_at is not None:
        raise NotReady("This schedule was removed; create another one for its source.")
    return row


def _other_path(tx: Tx, who: Principal, row: Schedule, source_id: str) -> Source:
    source = sources.current(tx, who, source_id)
    if source.host_id != tx.get_one(Source, row.source_id).host_id:
        raise UsageError(
            "That source is on another host. A schedule stays with its host; create one for the "
            "other host and remove this one."
        )
    return source


def _changed_timing(row: Schedule, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say when, after a change of some of them."""
    often = {key: changes.get(key) for key in ("interval_hours", "preset", "cron")}
    if not any(value is not None for value in often.values()):
        preset = preset_of(row) if row.cron else None
        often = {
            "interval_hours": row.interval_hours,
            "preset": preset,
            "cron": None if preset else row.cron,
        }
    when = frequency(
        row.id,
        **often,
        timezone=changes.get("timezone") or row.timezone,
        window=changes.get("window", row.window),
    )
    return asdict(when)


def _checked_format(archive_format: str) -> str:
    if archive_format not in ARCHIVE_FORMATS:
        raise UsageError(
            f"There is no archive format {archive_format!r}; choose {', '.join(ARCHIVE_FORMATS)}."
        )
    return archive_format


def _check_copies(row: Schedule) -> None:
    if row.copy_region_id is not None and row.archive_format != REPOSITORY:
        raise UsageError(
            f"What is archived as {row.archive_format} is not copied to another region; take the "
            "repository's own format, or have no copies."
        )


def _check_drills(row: Schedule) -> None:
    if row.drill_days is not None and row.archive_format != REPOSITORY:
        raise UsageError(
            f"What is archived as {row.archive_format} is not restored file by file, so it cannot "
            "be drilled; take the repository's own format, or have no drills."
        )


def _tell(tx: Tx, row: Schedule, source: Source, word: str, *, now: datetime) -> None:
    events.emit(
        tx,
        row.account_id,
        f"schedule.{word}",
        "schedule",
        row.id,
        f"The schedule {row.name or row.id} of {source.path} was {word}.",
        now=now,
    )
