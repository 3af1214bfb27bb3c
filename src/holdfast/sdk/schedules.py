"""Schedules: when a source is captured, and for how long that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.snapshots import Snapshot
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/schedules"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A backup configuration. `due_at` is the next slot, None while paused.

    Every `drill_days` its newest snapshot is drilled, next at `drill_due_at`; None: never.
    What it completes is copied to `copy_region_id`: so many copies wait, and the oldest of
    their originals has for so long.
    """

    id: str
    source_id: str
    name: str = ""
    preset: str | None = None
    interval_hours: int | None = None
    cron: str | None = None
    timezone: str = "UTC"
    window: str | None = None
    retention: Mapping[str, Any] = field(default_factory=dict)
    archive_format: str = "repository"
    paused: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None
    removed_at: datetime | None = None
    settled_until: datetime | None = None
    due_at: datetime | None = None
    drill_days: int | None = None
    drill_due_at: datetime | None = None
    copy_region_id: str | None = None
    copy_lag_seconds: int | None = None
    copies_pending: int | None = None
    last_copied_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What retention would do with one snapshot, and why."""

    snapshot_id: str
    at: datetime
    keep: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What retention would do with every snapshot of a schedule, newest first."""

    keeps: int
    removes: int
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """The next times at which a schedule is due."""

    due: tuple[datetime, ...] = ()


class SchedulesResource:
    """The account's schedules."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, source_id: str = "", host_id: str = "") -> Iterator[Schedule]:
        """All schedules, newest first."""
        query = {"source_id": source_id, "host_id": host_id}
        return pages(self._transport, _PATH, Schedule, query)

    def get(self, schedule_id: str) -> Schedule:
        return from_json(Schedule, self._transport.get(f"{_PATH}/{schedule_id}"))

    def create(
        self, source_id: str, *, retention: Mapping[str, Any], **members: object
    ) -> Schedule:
        """Capture a source again and again.

        `members`: exactly one of `interval_hours`, `preset` (6h, 12h, daily, weekly) and
        `cron` (with `timezone`), and what else a `Schedule` has. `retention`: `max_age_days`,
        `keep_last`, `keep_daily` and so on.
        """
        body = {"source_id": source_id, "retention": dict(retention), **members}
        return from_json(Schedule, self._transport.post(_PATH, body))

    def edit(self, schedule_id: str, **changes: object) -> Schedule:
        """Change some members; the others stay."""
        return from_json(Schedule, self._transport.patch(f"{_PATH}/{schedule_id}", changes))

    def pause(self, schedule_id: str) -> Schedule:
        return from_json(Schedule, self._transport.post(f"{_PATH}/{schedule_id}/pause"))

    def resume(self, schedule_id: str) -> Schedule:
        return from_json(Schedule, self._transport.post(f"{_PATH}/{schedule_id}/resume"))

    def remove(self, schedule_id: str) -> None:
        """End it; its snapshots stay until retention or a person removes them."""
        self._transport.delete(f"{_PATH}/{schedule_id}")

    def run(self, schedule_id: str) -> Snapshot:
        """Capture now, beside the regular slots; the snapshot is PENDING at first."""
        return from_json(Snapshot, self._transport.post(f"{_PATH}/{schedule_id}/run"))

    def preview(self, schedule_id: str, retention: Mapping[str, Any] | None = None) -> Preview:
        """What a retention, by default the schedule's own, would keep and remove."""
        if retention is None:
            retention = self.get(schedule_id).retention
        document = self._transport.post(f"{_PATH}/{schedule_id}/preview", dict(retention))
        return from_json(Preview, document)

    def next_runs(self, schedule_id: str, count: int = 10) -> tuple[datetime, ...]:
        """The next times at which it is due, whether or not it is paused."""
        document = self._transport.get(f"{_PATH}/{schedule_id}/next-runs", {"count": count})
        return from_json(Slots, document).due
