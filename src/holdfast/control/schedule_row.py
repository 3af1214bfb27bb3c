"""What a schedule's row means: its timing and its retention, as values of the model.

Here are also the checks for what people write into one. Invariant: a row that was made
through here can be read back, as long as the machine knows its time zone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from holdfast.control import audit, events
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Region, Schedule
from holdfast.errors import UsageError
from holdfast.model.retention import UNLIMITED, RetentionPolicy
from holdfast.model.schedule import PRESETS
from holdfast.model.schedule import Schedule as Timing
from holdfast.model.span import CalendarSpan
from holdfast.model.window import Window

RETENTION_REST: Final = timedelta(days=1)
"""How long a change that makes more snapshots go waits, so that a mistake can be undone."""

MAX_COUNT: Final = 100_000
MAX_DRILL_DAYS: Final = 365

_PRESET_ROWS: Final[dict[str, tuple[int | None, str | None]]] = {
    "6h": (6, None),
    "12h": (12, None),
    "daily": (None, "0 0 * * *"),
    "weekly": (None, "0 0 * * 0"),
}
_PRESET_SPREAD_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Frequency:
    """The columns of a row that say when: checked, and with the schedule's own offset."""

    interval_hours: int | None
    cron: str | None
    timezone: str
    window: str | None
    offset_seconds: int


def frequency(
    identifier: str,
    *,
    interval_hours: int | None,
    preset: str | None,
    cron: str | None,
    timezone: str,
    window: str | None,
) -> Frequency:
    """Check what was asked for; exactly one of the first three says how often."""
    if sum(each is not None for each in (interval_hours, preset, cron)) != 1:
        raise UsageError(
            "A schedule runs at an interval, by a preset or by a cron expression; give exactly "
            "one of interval_hours, preset and cron."
        )
    if preset is not None:
        if preset not in _PRESET_ROWS:
            raise UsageError(f"There is no preset {preset!r}; choose {', '.join(PRESETS)}.")
        interval_hours, cron = _PRESET_ROWS[preset]
    opening = Window.parse(window) if window else None
    if interval_hours is not None:
        timing = Timing.every(
            hours=interval_hours, identifier=identifier, timezone=timezone, window=opening
        )
    else:
        assert cron is not None
        cron = " ".join(cron.split())
        # Daily and weekly are spread over an hour: nobody who chooses them means midnight.
        spread = {"spread_seconds": _PRESET_SPREAD_SECONDS} if preset else {}
        timing = Timing.cron_expression(
            cron, identifier=identifier, timezone=timezone, window=opening, **spread
        )
        if len(cron) > 200:
            raise UsageError("The cron expression is longer than 200 characters; shorten it.")
    return Frequency(
        interval_hours, cron, timezone, str(opening) if opening else None, timing.offset_seconds
    )


def schedule_of(row: Schedule) -> Timing:
    """When the row's schedule is due."""
    return Timing(
        interval_seconds=(row.interval_hours or 0) * 3600,
        cron=row.cron or "",
        timezone=row.timezone,
        offset_seconds=row.offset_seconds,
        window=Window.parse(row.window) if row.window else None,
    )


def preset_of(row: Schedule) -> str | None:
    """The preset that the row is like, for a form to show; None where there is none."""
    wanted = (row.interval_hours, row.cron)
    return next((name for name, each in _PRESET_ROWS.items() if each == wanted), None)


def checked_retention(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept in a row for a retention that a person wrote.

    Its members are the fields of `RetentionPolicy` but for tags: counts (`keep_last` ...),
    spans such as ``30d`` (`keep_within` ...), and `max_age_days`, 1 to 365. At least one
    rule must be set; to keep everything say so with ``keep_last`` -1.
    """
    known = {each.name for each in fields(RetentionPolicy)} - {"keep_tags"}
    checked: dict[str, Any] = {}
    for name, value in document.items():
        if name not in known:
            raise UsageError(f"Retention has no rule {name!r}; it has {', '.join(sorted(known))}.")
        if value in (None, 0, ""):
            continue
        if name.startswith("keep_within"):
            if not isinstance(value, str):
                raise UsageError(f"{name} is not text; give a span such as 30d or 1y6m.")
            checked[name] = str(CalendarSpan.parse(value))
        elif not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{name} is not a whole number; give one.")
        elif name == "max_age_days":
            RetentionPolicy.for_days(value)
            checked[name] = value
        elif not UNLIMITED <= value <= MAX_COUNT:
            raise UsageError(f"{name} is {value}; give 1 to {MAX_COUNT}, or -1 for all.")
        else:
            checked[name] = value
    if not checked:
        raise UsageError(
            "The retention has no rule, so it does not say what is kept; give max_age_days "
            "(1 to 365), keep rules such as keep_last, or keep_last -1 to keep everything."
        )
    policy(checked)
    return checked


def policy(document: Mapping[str, Any]) -> RetentionPolicy:
    """The policy that a checked document says."""
    rules: dict[str, Any] = {
        name: CalendarSpan.parse(value) if name.startswith("keep_within") else value
        for name, value in document.items()
    }
    return RetentionPolicy(**rules)


def policy_of(row: Schedule) -> RetentionPolicy:
    """What the row's schedule keeps."""
    return policy(row.retention)


def set_drills(row: Schedule, days: int | None, *, now: datetime) -> None:
    """Have its newest snapshot drilled every so many days, the first time after as many.

    None ends that. The same number again leaves the next drill where it is.
    """
    if days is None:
        row.drill_days = row.drill_due_at = None
        return
    if isinstance(days, bool) or not 1 <= days <= MAX_DRILL_DAYS:
        raise UsageError(
            f"Drills every {days} days are not possible; give 1 to {MAX_DRILL_DAYS} days."
        )
    if row.drill_days != days or row.drill_due_at is None:
        row.drill_days, row.drill_due_at = days, now + timedelta(days=days)


def set_copies(
    tx: Tx, row: Schedule, region_id: str | None, *, own_region_id: str, now: datetime
) -> None:
    """Have what completes from now on copied to a region; None ends that.

    The same region again leaves it as it is.
    """
    if region_id is None:
        row.copy_region_id = row.copy_since = None
        return
    if tx.get(Region, region_id) is None:
        raise UsageError(
            f"There is no region {region_id} to copy to; list the regions to see which there are."
        )
    if region_id == own_region_id:
        raise UsageError(
            "The schedule's snapshots lie in that region already; name another one to copy to."
        )
    if row.copy_region_id != region_id:
        row.copy_region_id, row.copy_since = region_id, now


def retire(tx: Tx, who: Principal, row: Schedule, *, now: datetime) -> None:
    """End a schedule for good; its snapshots age on, and the last may go as well."""
    row.removed_at = row.updated_at = now
    row.due_at = row.drill_due_at = None
    if row.retention_due_at is None or row.retention_due_at > now + RETENTION_REST:
        row.retention_due_at = now + RETENTION_REST
    audit.record(tx, who, "schedule.remove", "schedule", row.id, now=now, before=record(row))
    events.emit(
        tx,
        row.account_id,
        "schedule.removed",
        "schedule",
        row.id,
        f"The schedule {row.name or row.id} was removed; its snapshots stay until retention or "
        "a person removes them.",
        now=now,
    )


def record(row: Schedule) -> dict[str, Any]:
    """What the audit log keeps of a schedule."""
    return {
        "source_id": row.source_id,
        "name": row.name,
        "interval_hours": row.interval_hours,
        "cron": row.cron,
        "timezone": row.timezone,
        "window": row.window,
        "retention": row.retention,
        "archive_format": row.archive_format,
        "drill_days": row.drill_days,
        "copy_region_id": row.copy_region_id,
        "paused": row.paused,
    }
