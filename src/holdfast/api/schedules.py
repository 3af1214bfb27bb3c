"""Schedules: when a source is backed up, and for how long that is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import Boolean, FilterId, Flag, Id, PathId, Whole
from holdfast.api.operation import PREFIX, router
from holdfast.api.snapshots import Snapshot, show_snapshot
from holdfast.control import copy_lag, scope, snapshots
from holdfast.control import schedules as service
from holdfast.control.copy_lag import CopyLag
from holdfast.control.database import Tx
from holdfast.control.schedule_row import checked_retention, frequency, policy
from holdfast.control.tables import Schedule as Row
from holdfast.control.tables import Snapshot as SnapshotRow
from holdfast.edge.answers import change, document, listing, plain, remove
from holdfast.edge.call import Asked, Call
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit
from holdfast.model.retention import RetentionPolicy
from holdfast.model.schedule import Schedule as Timing
from holdfast.model.window import Window as Opening

routes = router("schedules")

OBSERVED: Final = (
    "due_at",
    "settled_until",
    "updated_at",
    "drill_due_at",
    "copy_lag_seconds",
    "copies_pending",
    "last_copied_at",
)

Keep = Annotated[int, Field(strict=True, ge=-1, le=100_000)]
Span = Annotated[str, Field(max_length=40, pattern=r"^[0-9]*[0-9hdwmy]*$")]
Preset = Literal["6h", "12h", "daily", "weekly"]
Hours = Annotated[int, Field(strict=True, ge=1, le=168)]
DrillDays = Annotated[int, Field(strict=True, ge=1, le=365)]
Cron = Annotated[str, Field(min_length=9, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Zone = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")]
Window = Annotated[
    str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$")
]
Name = Annotated[str, Field(max_length=50, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Retention(Body):
    """What is kept: for so many days, or the newest of so many periods, or both.

    Counts: -1 keeps all, 0 is off. Spans such as `30d` or `1y6m` reach back from the newest.
    """

    max_age_days: Annotated[int, Field(strict=True, ge=0, le=365)] = 0
    keep_last: Keep = 0
    keep_hourly: Keep = 0
    keep_daily: Keep = 0
    keep_weekly: Keep = 0
    keep_monthly: Keep = 0
    keep_yearly: Keep = 0
    keep_within: Span = ""
    keep_within_hourly: Span = ""
    keep_within_daily: Span = ""
    keep_within_weekly: Span = ""
    keep_within_monthly: Span = ""
    keep_within_yearly: Span = ""


class Schedule(Document):
    """A backup configuration. `due_at` is the next slot, null while paused.

    Every `drill_days` its newest snapshot is drilled, next at `drill_due_at`; null: never.
    What it completes is copied to `copy_region_id`: so many copies wait, and the oldest of
    their originals has for so long. All four are null where nothing is copied.
    """

    id: str
    source_id: str
    name: str
    preset: str | None
    interval_hours: int | None
    cron: str | None
    timezone: str
    window: str | None
    retention: dict[str, Any]
    archive_format: str
    paused: bool
    created_at: datetime
    updated_at: datetime
    removed_at: datetime | None
    settled_until: datetime
    due_at: datetime | None
    drill_days: int | None
    drill_due_at: datetime | None
    copy_region_id: str | None
    copy_lag_seconds: int | None
    copies_pending: int | None
    last_copied_at: datetime | None


_COMPUTED: Final = {"preset", "copy_lag_seconds", "copies_pending", "last_copied_at"}
_COLUMNS: Final = Schedule.model_fields.keys() - _COMPUTED


class Schedules(Listing[Schedule]):
    """A page of schedules."""


class ScheduleTiming(Body):
    """When and for how long: exactly one of `interval_hours`, `preset` and `cron`."""

    interval_hours: Hours | None = None
    preset: Preset | None = None
    cron: Cron | None = None
    timezone: Zone = "UTC"
    window: Window | None = None
    retention: Retention

    def as_values(self) -> tuple[Timing, RetentionPolicy]:
        """The same as values of the model; `UsageError` where it cannot be meant."""
        when = frequency(
            "",
            interval_hours=self.interval_hours,
            preset=self.preset,
            cron=self.cron,
            timezone=self.timezone,
            window=self.window,
        )
        timing = Timing(
            interval_seconds=(when.interval_hours or 0) * 3600,
            cron=when.cron or "",
            timezone=when.timezone,
            window=Opening.parse(when.window) if when.window else None,
        )
        return timing, policy(checked_retention(self.retention.model_dump(exclude_unset=True)))


class NewSchedule(ScheduleTiming):
    """A schedule for a source."""

    source_id: Id
    name: Name = ""
    archive_format: Literal["repository", "zip"] = "repository"
    copy_region_id: Id | None = None
    drill_days: DrillDays | None = None
    paused: Boolean = False


class ScheduleEdit(Changes):
    """What can be changed of a schedule."""

    source_id: Id = ""
    name: Name = ""
    interval_hours: Hours | None = None
    preset: Preset | None = None
    cron: Cron | None = None
    timezone: Zone = "UTC"
    window: Window | None = None
    retention: Retention = Field(default_factory=Retention)
    archive_format: Literal["repository", "zip"] = "repository"
    copy_region_id: Id | None = None
    drill_days: DrillDays | None = None


class Decision(Document):
    """What a retention would do with one snapshot, and why."""

    snapshot_id: str
    at: datetime
    keep: bool
    reasons: list[str]


class Preview(Document):
    """What a retention would do with every snapshot of a schedule, newest first."""

    keeps: int
    removes: int
    decisions: list[Decision]


class Slots(Document):
    """The next times at which a schedule is due."""

    due: list[datetime]


@routes.get("/schedules", response_model=Schedules)
def list_schedules(
    call: Asked,
    *,
    source_id: FilterId = None,
    host_id: FilterId = None,
    removed: Annotated[Flag, Query(description="Also those that were removed.")] = False,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List schedules, newest first."""
    with call.reading() as tx:
        found = service.schedules(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            source_id=source_id,
            host_id=host_id,
            removed=removed,
        )
        lags = copy_lag.lag(tx, found.items, now=call.now)
    return listing(call.request, found, lambda row: _show(row, lags.get(row.id)))


@routes.post("/schedules", response_model=Schedule, status_code=201)
def create_schedule(call: Asked, body: NewSchedule, key: KeyHeader = None) -> Response:
    """Back a source up on a schedule."""
    return once(
        call,
        key,
        body,
        lambda tx: service.create(
            tx,
            call.who,
            source_id=body.source_id,
            name=body.name,
            interval_hours=body.interval_hours,
            preset=body.preset,
            cron=body.cron,
            timezone=body.timezone,
            window=body.window,
            retention=body.retention.model_dump(exclude_unset=True),
            archive_format=body.archive_format,
            copy_region_id=body.copy_region_id,
            drill_days=body.drill_days,
            paused=body.paused,
            now=call.now,
        ),
        _shown(call),
        status=201,
        location=lambda row: f"{PREFIX}/schedules/{row.id}",
        observed=OBSERVED,
    )


@routes.get("/schedules/{schedule_id}", response_model=Schedule)
def get_schedule(call: Asked, schedule_id: PathId) -> Response:
    """Show a schedule."""
    with call.reading() as tx:
        row = service.get(tx, call.who, schedule_id)
        return document(call.request, _shown(call)(row), observed=OBSERVED)


@routes.patch("/schedules/{schedule_id}", response_model=Schedule)
def edit_schedule(
    call: Asked, schedule_id: PathId, body: ScheduleEdit, if_match: IfMatch = None
) -> Response:
    """Change a schedule.

    A retention that removes more than before takes effect a day later; preview it first.
    """
    changes = dict(body.given())
    if "retention" in changes:
        changes["retention"] = body.retention.model_dump(exclude_unset=True)
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, schedule_id),
        act=lambda tx: service.edit(tx, call.who, schedule_id, now=call.now, **changes),
        show=_shown(call),
        observed=OBSERVED,
    )


@routes.delete("/schedules/{schedule_id}", status_code=204)
def remove_schedule(call: Asked, schedule_id: PathId, if_match: IfMatch = None) -> Response:
    """Remove a schedule; its snapshots stay until retention or a person removes them."""
    return remove(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, schedule_id),
        act=lambda tx: service.remove(tx, call.who, schedule_id, now=call.now),
        show=_shown(call),
        observed=OBSERVED,
    )


@routes.post("/schedules/{schedule_id}/pause", response_model=Schedule)
def pause_schedule(call: Asked, schedule_id: PathId, key: KeyHeader = None) -> Response:
    """Pause a schedule; slots that pass meanwhile are not caught up."""
    return once(
        call,
        key,
        None,
        lambda tx: service.pause(tx, call.who, schedule_id, now=call.now),
        _shown(call),
        observed=OBSERVED,
    )


@routes.post("/schedules/{schedule_id}/resume", response_model=Schedule)
def resume_schedule(call: Asked, schedule_id: PathId, key: KeyHeader = None) -> Response:
    """Resume a paused schedule at its next slot."""
    return once(
        call,
        key,
        None,
        lambda tx: service.resume(tx, call.who, schedule_id, now=call.now),
        _shown(call),
        observed=OBSERVED,
    )


@routes.post("/schedules/{schedule_id}/preview", response_model=Preview)
def preview_retention(call: Asked, schedule_id: PathId, body: Retention) -> Response:
    """Preview a retention: what it would keep and remove, and why. Nothing is changed."""
    with call.reading() as tx:
        wanted = body.model_dump(exclude_unset=True)
        found = service.preview(tx, call.who, schedule_id, wanted, now=call.now)
    decisions = [
        Decision(
            snapshot_id=each.point.id,
            at=each.point.time,
            keep=each.keep,
            reasons=list(each.reasons),
        )
        for each in found
    ]
    keeps = sum(each.keep for each in decisions)
    return plain(Preview(keeps=keeps, removes=len(decisions) - keeps, decisions=decisions))


@routes.get("/schedules/{schedule_id}/next-runs", response_model=Slots)
def list_next_runs(
    call: Asked, schedule_id: PathId, count: Annotated[Whole, Query(ge=1, le=100)] = 10
) -> Response:
    """List the next times at which a schedule is due, whether or not it is paused."""
    with call.reading() as tx:
        row = service.get(tx, call.who, schedule_id)
    timing = service.schedule_of(row)
    slots: list[datetime] = []
    slot = timing.next_due(call.now)
    while slot is not None and len(slots) < count:
        slots.append(slot)
        slot = timing.next_due(slot)
    return plain(Slots(due=slots))


@routes.post("/schedules/{schedule_id}/run", response_model=Snapshot, status_code=202)
def run_schedule(call: Asked, schedule_id: PathId, key: KeyHeader = None) -> Response:
    """Run a schedule now, beside its regular slots."""

    def act(tx: Tx) -> SnapshotRow:
        row = scope.find(tx, call.who, Row, schedule_id)
        return snapshots.request(
            tx,
            call.who,
            source_id=row.source_id,
            schedule_id=row.id,
            now=call.now,
            keys=call.keys,
        )

    return once(
        call,
        key,
        None,
        act,
        show_snapshot,
        status=202,
        location=lambda row: f"{PREFIX}/snapshots/{row.id}",
    )


def _shown(call: Call) -> Callable[[Row], Schedule]:
    """How a schedule's row becomes a document, while its transaction lasts."""
    return lambda row: _show(row, copy_lag.lag_of(row, now=call.now))


def _show(row: Row, lag: CopyLag | None) -> Schedule:
    members = {name: getattr(row, name) for name in _COLUMNS}
    return Schedule.model_validate(
        {
            **members,
            "preset": service.preset_of(row),
            "copy_lag_seconds": lag and lag.lag_seconds,
            "copies_pending": lag and lag.pending,
            "last_copied_at": lag and lag.last_copied_at,
        }
    )
