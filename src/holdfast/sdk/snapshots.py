"""Snapshots: every run of a backup, and the restore point that it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from holdfast.model.finding import Finding
from holdfast.model.progress import Report, ignore_progress
from holdfast.sdk.jobs import Line, log_lines, wait_for_run
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/snapshots"
_UNDER_WAY: Final = frozenset({"PENDING", "RUNNING"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One run and the restore point that it made, if it did.

    `status`: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, SKIPPED, EXPIRED or DELETED.
    Bytes: `logical` is the size of what was captured, `read` what of it had to be read,
    `stored` what it added to the repository, `share` its part of what is stored now,
    `freed` what deleting it alone would free. `drill` is the result of the last drill, and
    `drilled_at` the beginning of the last one of all of it that passed; `proven_at` is the
    later of that and `verified_at`. A copy in another region has `copy_of_id`; `region_id` is
    where the snapshot lies.
    """

    id: str
    status: str
    source_id: str = ""
    host_id: str = ""
    kind: str = "path"
    schedule_id: str | None = None
    job_id: str | None = None
    task_snapshot_id: str | None = None
    copy_of_id: str | None = None
    region_id: str = ""
    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    trigger: str = ""
    slot_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    captured_at: datetime | None = None
    archive_format: str = "repository"
    manifest_id: str | None = None
    parent_id: str | None = None
    consistency: str | None = None
    files: int | None = None
    logical_bytes: int | None = None
    read_bytes: int | None = None
    stored_bytes: int | None = None
    share_bytes: int | None = None
    freed_bytes: int | None = None
    findings: tuple[Finding, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    verified_at: datetime | None = None
    verification: Mapping[str, Any] | None = None
    drilled_at: datetime | None = None
    drill: Mapping[str, Any] | None = None
    proven_at: datetime | None = None
    kept_because: tuple[str, ...] = ()
    removed_at: datetime | None = None
    removed_because: str | None = None
    purge_at: datetime | None = None
    purged_at: datetime | None = None

    @property
    def is_under_way(self) -> bool:
        return self.status in _UNDER_WAY


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason for which a snapshot must stay."""

    id: str
    snapshot_id: str
    reason: str
    created_at: datetime | None = None
    created_by: str = ""
    released_at: datetime | None = None
    released_by: str | None = None


class SnapshotsResource:
    """The account's snapshots."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(
        self,
        *,
        source_id: str = "",
        host_id: str = "",
        schedule_id: str = "",
        copy_of: str = "",
        copies: bool = False,
        status: str = "",
        kind: str = "",
        search: str = "",
        label: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        order: str = "newest",
    ) -> Iterator[Snapshot]:
        """All runs, whatever became of them; `search` looks in names, descriptions, labels.

        With `copies` also those in other regions, with `copy_of` those of one snapshot.
        """
        query = {
            "source_id": source_id,
            "host_id": host_id,
            "schedule_id": schedule_id,
            "copy_of": copy_of,
            "copies": copies or None,
            "status": status,
            "kind": kind,
            "search": search,
            "label": label,
            "since": since,
            "until": until,
            "order": order,
        }
        return pages(self._transport, _PATH, Snapshot, query)

    def get(self, snapshot_id: str) -> Snapshot:
        return from_json(Snapshot, self._transport.get(f"{_PATH}/{snapshot_id}"))

    def create(
        self,
        source_id: str,
        *,
        name: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Capture now; the snapshot is PENDING until the host's agent takes it up."""
        body = {"source_id": source_id, "name": name, "description": description}
        document = self._transport.post(_PATH, {**body, "labels": dict(labels or {})})
        return from_json(Snapshot, document)

    def edit(self, snapshot_id: str, **changes: object) -> Snapshot:
        """Change `name`, `description` or `labels`."""
        return from_json(Snapshot, self._transport.patch(f"{_PATH}/{snapshot_id}", changes))

    def copy(self, snapshot_id: str, region_id: str) -> Snapshot:
        """Copy it to another region; the copy is PENDING until a keeper there takes it up."""
        body = {"region_id": region_id}
        return from_json(Snapshot, self._transport.post(f"{_PATH}/{snapshot_id}/copies", body))

    def cancel(self, snapshot_id: str) -> Snapshot:
        return self._act(snapshot_id, "cancel")

    def delete(self, snapshot_id: str) -> Snapshot:
        """Remove it; until `purge_at` it can be recovered."""
        document = self._transport.delete(f"{_PATH}/{snapshot_id}")
        return from_json(Snapshot, document) if document else self.get(snapshot_id)

    def recover(self, snapshot_id: str) -> Snapshot:
        """Take a removal back, while the data is still there."""
        return self._act(snapshot_id, "recover")

    def holds(self, snapshot_id: str) -> Iterator[Hold]:
        """Its holds, also those that were released."""
        return pages(self._transport, f"{_PATH}/{snapshot_id}/holds", Hold)

    def hold(self, snapshot_id: str, reason: str) -> Hold:
        """Let nothing remove it until the hold is released."""
        body = {"reason": reason}
        return from_json(Hold, self._transport.post(f"{_PATH}/{snapshot_id}/holds", body))

    def release(self, snapshot_id: str, hold_id: str) -> None:
        self._transport.delete(f"{_PATH}/{snapshot_id}/holds/{hold_id}")

    def log(self, snapshot_id: str, *, after_id: int | None = None) -> Iterator[Line]:
        """What its run said so far, oldest line first."""
        return log_lines(self._transport, f"{_PATH}/{snapshot_id}/log", after_id)

    def wait(
        self,
        snapshot: Snapshot | str,
        *,
        report: Report = ignore_progress,
        poll_seconds: float = 1.0,
    ) -> Snapshot:
        """Wait until a run has ended, in whatever way; `report` gets its progress."""
        snapshot_id = snapshot if isinstance(snapshot, str) else snapshot.id
        return wait_for_run(
            self._transport,
            lambda: self.get(snapshot_id),
            report,
            lambda: self._pause(poll_seconds),
        )

    def _act(self, snapshot_id: str, act: str) -> Snapshot:
        return from_json(Snapshot, self._transport.post(f"{_PATH}/{snapshot_id}/{act}"))
