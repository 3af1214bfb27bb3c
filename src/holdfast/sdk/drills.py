"""Drills: restoring a snapshot to scratch, as a test of whether it comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from holdfast.model.finding import Finding
from holdfast.model.progress import Report, ignore_progress
from holdfast.sdk.jobs import Line, log_lines, wait_for_run
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/drills"
_UNDER_WAY: Final = frozenset({"PENDING", "RUNNING"})


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `status`: PENDING, RUNNING, COMPLETED, FAILED or CANCELLED.

    `passed` is set at COMPLETED: whether everything came back as it was captured. FAILED says
    that it could not be done. `host_id` is None where a keeper does it. `paths` are the
    chosen ones, relative to the captured path; empty for all.
    """

    id: str
    status: str
    snapshot_id: str = ""
    schedule_id: str | None = None
    host_id: str | None = None
    job_id: str | None = None
    trigger: str = ""
    paths: tuple[str, ...] = ()
    passed: bool | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    files: int | None = None
    restored_bytes: int | None = None
    compared_bytes: int | None = None
    restore_milliseconds: int | None = None
    findings: tuple[Finding, ...] = ()
    error_code: str | None = None
    error_message: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self.status in _UNDER_WAY


class DrillsResource:
    """The account's drills."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(
        self, *, snapshot_id: str = "", schedule_id: str = "", status: str = ""
    ) -> Iterator[Drill]:
        """All drills, newest first."""
        query = {"snapshot_id": snapshot_id, "schedule_id": schedule_id, "status": status}
        return pages(self._transport, _PATH, Drill, query)

    def get(self, drill_id: str) -> Drill:
        return from_json(Drill, self._transport.get(f"{_PATH}/{drill_id}"))

    def create(
        self, snapshot_id: str, *, host_id: str | None = None, paths: Iterable[str] = ()
    ) -> Drill:
        """Restore a snapshot to scratch on a host, or without one on a keeper, and compare it.

        `paths`, by default all, are relative to the captured path; only all of it proves the
        snapshot.
        """
        body: dict[str, object] = {"snapshot_id": snapshot_id, "paths": list(paths)}
        if host_id is not None:
            body["host_id"] = host_id
        return from_json(Drill, self._transport.post(_PATH, body))

    def cancel(self, drill_id: str) -> Drill:
        return from_json(Drill, self._transport.post(f"{_PATH}/{drill_id}/cancel"))

    def log(self, drill_id: str, *, after_id: int | None = None) -> Iterator[Line]:
        """What it said so far, oldest line first."""
        return log_lines(self._transport, f"{_PATH}/{drill_id}/log", after_id)

    def wait(
        self,
        drill: Drill | str,
        *,
        report: Report = ignore_progress,
        poll_seconds: float = 1.0,
    ) -> Drill:
        """Wait until it has ended, in whatever way; `report` gets its progress."""
        drill_id = drill if isinstance(drill, str) else drill.id
        return wait_for_run(
            self._transport,
            lambda: self.get(drill_id),
            report,
            lambda: self._pause(poll_seconds),
        )
