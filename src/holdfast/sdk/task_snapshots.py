"""Snapshots of tasks: of all instances at once, beside their parts among the snapshots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from holdfast.model.finding import Finding
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/task-snapshots"
_UNDER_WAY: Final = frozenset({"triggered", "inProgress"})
_REMOVED: Final = frozenset({"DELETED", "EXPIRED"})


@dataclass(frozen=True, slots=True)
class Part:
    """The snapshot of one instance, which is one of the account's snapshots."""

    id: str
    instance: int = 0
    status: str = ""
    host_id: str = ""
    source_id: str = ""
    captured_at: datetime | None = None
    consistency: str | None = None
    files: int | None = None
    logical_bytes: int | None = None
    stored_bytes: int | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A snapshot of a task. `status`: triggered, inProgress, success, failure or skipped.

    It is seen in `bucket` below `directory`. `parts` are its instances' snapshots, which
    `client.data` downloads and compares by their ids.
    """

    id: str
    task_id: str
    status: str
    trigger: str = ""
    slot_at: datetime | None = None
    triggered_at: datetime | None = None
    updated_at: datetime | None = None
    whitelist: str | None = None
    blacklist: str | None = None
    bucket: str | None = None
    bucket_prefix: str | None = None
    directory: str = ""
    label: str = ""
    notes: str = ""
    bytes_total: int = 0
    bytes_done: int = 0
    parts: tuple[Part, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def is_under_way(self) -> bool:
        return self.status in _UNDER_WAY

    @property
    def is_deleted(self) -> bool:
        """Whether nothing of it is left; what was deleted lately can still be recovered."""
        return bool(self.parts) and all(each.status in _REMOVED for each in self.parts)


class TaskSnapshotsResource:
    """The snapshots of the account's tasks."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(self, task_id: str, *, status: str = "") -> Iterator[TaskSnapshot]:
        """Those of a task, newest first; with `status` those alone."""
        path = f"/api/v1/tasks/{task_id}/snapshots"
        return pages(self._transport, path, TaskSnapshot, {"status": status})

    def get(self, snapshot_id: str) -> TaskSnapshot:
        return from_json(TaskSnapshot, self._transport.get(f"{_PATH}/{snapshot_id}"))

    def create(self, task_id: str, **members: object) -> TaskSnapshot:
        """Take one now; `whitelist`, `blacklist`, `bucket`, `bucket_prefix`, `label`, `notes`."""
        document = self._transport.post(f"/api/v1/tasks/{task_id}/snapshots", members)
        return from_json(TaskSnapshot, document)

    def edit(self, snapshot_id: str, **changes: object) -> TaskSnapshot:
        """Change `label` or `notes`."""
        document = self._transport.patch(f"{_PATH}/{snapshot_id}", changes)
        return from_json(TaskSnapshot, document)

    def delete(self, snapshot_id: str) -> None:
        """Remove it; its parts can be recovered for some days."""
        self._transport.delete(f"{_PATH}/{snapshot_id}")

    def wait(
        self,
        snapshot_id: str,
        *,
        report: Callable[[TaskSnapshot], None] = lambda _snapshot: None,
        poll_seconds: float = 0.5,
    ) -> TaskSnapshot:
        """Wait until it has succeeded or failed."""
        while True:
            found = self.get(snapshot_id)
            report(found)
            if not found.is_under_way:
                return found
            self._pause(poll_seconds)
