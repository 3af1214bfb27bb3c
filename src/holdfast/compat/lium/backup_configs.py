"""A pod's backup configuration: the oldest schedule of the host that is not removed.

Lium knows one configuration for a pod, and hours and days only. A host may have several
schedules, by cron too; a change through this API makes the oldest one what was asked for.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from holdfast.compat import route
from holdfast.compat.lium.pods import volume_of
from holdfast.compat.lium.work import written
from holdfast.control import hosts, schedules, sources
from holdfast.control.database import Tx
from holdfast.control.paging import MAX_LIMIT
from holdfast.control.principal import Principal
from holdfast.control.tables import Host, Schedule, Source
from holdfast.edge.call import Asked, Call
from holdfast.errors import NotFound

router = route.router()

_Id = Annotated[str, Field(min_length=1, max_length=100)]


class _Wanted(BaseModel):
    """When, for how long, and what; an empty path is the pod's whole volume."""

    model_config = ConfigDict(strict=True)

    backup_frequency_hours: int = Field(ge=1, le=168)
    retention_days: int = Field(ge=1, le=365)
    backup_path: str = Field(default="", max_length=4096)


class _WantedForPod(_Wanted):
    pod_id: _Id


@router.get("/backup-configs")
def configs(call: Asked) -> list[dict[str, Any]]:
    """The configurations of all pods."""
    with call.reading() as tx:
        found: dict[str, dict[str, Any]] = {}
        cursor = None
        while True:
            page = schedules.schedules(tx, call.who, cursor=cursor, limit=MAX_LIMIT)
            for row in page.items:  # newest first, so the oldest of a host is left
                source = sources.get(tx, call.who, row.source_id)
                found[source.host_id] = _document(row, source, call.now)
            cursor = page.next_cursor
            if cursor is None:
                return list(found.values())


@router.get("/backup-configs/pod/{pod_id}")
def config_of_pod(call: Asked, pod_id: str) -> dict[str, Any]:
    """The pod's configuration; 404 is how the client learns that it has none."""
    with call.reading() as tx:
        host = hosts.get(tx, call.who, pod_id)
        row = of_host(tx, call.who, host)
        if row is None:
            raise NotFound(f"The pod {host.name} has no backup configuration; set one first.")
        return _document(row, sources.get(tx, call.who, row.source_id), call.now)


@router.post("/backup-configs")
def create(call: Asked, wanted: _WantedForPod) -> dict[str, Any]:
    """Make the pod's configuration, or make the one it has what is wanted."""
    with call.writing() as tx:
        host = hosts.get(tx, call.who, wanted.pod_id)
        row = of_host(tx, call.who, host)
        if row is not None:
            return _changed(tx, call, row, host, wanted)
        source = sources.ensure(
            tx, call.who, host_id=host.id, path=_path(wanted, host), now=call.now
        )
        row = schedules.create(
            tx,
            call.who,
            source_id=source.id,
            interval_hours=wanted.backup_frequency_hours,
            retention={"max_age_days": wanted.retention_days},
            now=call.now,
        )
        return _document(row, source, call.now)


@router.put("/backup-configs/{config_id}")
def change(call: Asked, config_id: str, wanted: _Wanted) -> dict[str, Any]:
    """Change a configuration; one that is refused stays what it was."""
    with call.writing() as tx:
        row = schedules.get(tx, call.who, config_id)
        source = sources.get(tx, call.who, row.source_id)
        host = hosts.get(tx, call.who, source.host_id)
        return _changed(tx, call, row, host, wanted)


@router.delete("/backup-configs/{config_id}")
def remove(call: Asked, config_id: str) -> dict[str, Any]:
    """Remove a configuration; the backups it made stay until their retention ends."""
    with call.writing() as tx:
        row = schedules.get(tx, call.who, config_id)
        if row.removed_at is not None:
            raise NotFound("There is no such backup configuration; it was removed before.")
        schedules.remove(tx, call.who, config_id, now=call.now)
    return {"id": config_id, "deleted": True}


def of_host(tx: Tx, who: Principal, host: Host) -> Schedule | None:
    """The schedule that stands for the pod's configuration."""
    oldest, cursor = None, None
    while True:
        page = schedules.schedules(tx, who, host_id=host.id, cursor=cursor, limit=MAX_LIMIT)
        if page.items:
            oldest = page.items[-1]
        cursor = page.next_cursor
        if cursor is None:
            return oldest


def _changed(tx: Tx, call: Call, row: Schedule, host: Host, wanted: _Wanted) -> dict[str, Any]:
    source = sources.ensure(tx, call.who, host_id=host.id, path=_path(wanted, host), now=call.now)
    row = schedules.edit(
        tx,
        call.who,
        row.id,
        source_id=source.id,
        interval_hours=wanted.backup_frequency_hours,
        retention={"max_age_days": wanted.retention_days},
        now=call.now,
    )
    return _document(row, source, call.now)


def _path(wanted: _Wanted, host: Host) -> str:
    return wanted.backup_path or volume_of(host)


def _document(row: Schedule, source: Source, now: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "pod_executor_id": source.host_id,
        "backup_frequency_hours": _hours(row, now),
        "retention_days": int(row.retention.get("max_age_days") or 0),
        "backup_path": source.path,
        "is_active": not row.paused and row.removed_at is None,
        "created_at": written(row.created_at),
        "updated_at": written(row.updated_at),
        "next_backup_at": written(row.due_at),
    }


def _hours(row: Schedule, now: datetime) -> int:
    """The interval; of a cron expression the shortest of the next few, in whole hours."""
    if row.interval_hours is not None:
        return row.interval_hours
    when = schedules.schedule_of(row)
    due = [when.next_due(now)]
    while len(due) < 8 and due[-1] is not None:
        due.append(when.next_due(due[-1]))
    times = [each for each in due if each is not None]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    return max(1, round(min(gaps) / 3600)) if gaps else 0
