"""Restores: putting a snapshot, or a part of one, back onto a host."""

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

_PATH = "/api/v1/restores"
_UNDER_WAY: Final = frozenset({"PENDING", "RUNNING"})


@dataclass(frozen=True, slots=True)
class Restore:
    """One restore. `status`: PENDING, RUNNING, COMPLETED, FAILED or CANCELLED.

    `paths` are the chosen ones, relative to the captured path; empty for all.
    """

    id: str
    status: str
    snapshot_id: str = ""
    host_id: str = ""
    target: str = ""
    paths: tuple[str, ...] = ()
    job_id: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    files: int | None = None
    restored_bytes: int | None = None
    findings: tuple[Finding, ...] = ()
    error_code: str | None = None
    error_message: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self.status in _UNDER_WAY


class RestoresResource:
    """The account's restores."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(
        self, *, snapshot_id: str = "", host_id: str = "", status: str = ""
    ) -> Iterator[Restore]:
        """All restores, newest first."""
        query = {"snapshot_id": snapshot_id, "host_id": host_id, "status": status}
        return pages(self._transport, _PATH, Restore, query)

    def get(self, restore_id: str) -> Restore:
        return from_json(Restore, self._transport.get(f"{_PATH}/{restore_id}"))

    def create(
        self,
        snapshot_id: str,
        host_id: str,
        *,
        target: str | None = None,
        paths: Iterable[str] = (),
    ) -> Restore:
        """Put a snapshot onto a host, into a new or empty directory of one of its roots.

        `target` is by default ``<root>/restored``; `paths`, by default all, are relative to
        the captured path.
        """
        body: dict[str, object] = {"snapshot_id": snapshot_id, "host_id": host_id}
        body["paths"] = list(paths)
        if target is not None:
            body["target"] = target
        return from_json(Restore, self._transport.post(_PATH, body))

    def cancel(self, restore_id: str) -> Restore:
        return from_json(Restore, self._transport.post(f"{_PATH}/{restore_id}/cancel"))

    def log(self, restore_id: str, *, after_id: int | None = None) -> Iterator[Line]:
        """What it said so far, oldest line first."""
        return log_lines(self._transport, f"{_PATH}/{restore_id}/log", after_id)

    def wait(
        self,
        restore: Restore | str,
        *,
        report: Report = ignore_progress,
        poll_seconds: float = 1.0,
    ) -> Restore:
        """Wait until it has ended, in whatever way; `report` gets its progress."""
        restore_id = restore if isinstance(restore, str) else restore.id
        return wait_for_run(
            self._transport,
            lambda: self.get(restore_id),
            report,
            lambda: self._pause(poll_seconds),
        )
