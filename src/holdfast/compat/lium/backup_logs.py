"""Backup logs: the history of runs, newest first; and running one now."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from holdfast.compat import route
from holdfast.compat.lium import work
from holdfast.compat.lium.backup_configs import of_host
from holdfast.compat.lium.pages import Number, Size, numbered
from holdfast.control import hosts, jobs, scope, snapshots
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Snapshot
from holdfast.edge.call import Asked
from holdfast.errors import NotFound

router = route.router()


class _Now(BaseModel):
    """What a person calls the backup."""

    model_config = ConfigDict(strict=True)

    name: str | None = Field(default=None, max_length=200)
    description: str | None = Field(default=None, max_length=2000)


@router.post("/pods/{pod_id}/backup")
def back_up_now(call: Asked, pod_id: str, wanted: _Now) -> dict[str, Any]:
    """Run the pod's configuration now."""
    with call.writing() as tx:
        host = hosts.get(tx, call.who, pod_id)
        schedule = of_host(tx, call.who, host)
        if schedule is None:
            raise NotFound(f"The pod {host.name} has no backup configuration; set one first.")
        row = snapshots.request(
            tx,
            call.who,
            source_id=schedule.source_id,
            schedule_id=schedule.id,
            name=wanted.name or "",
            description=wanted.description or "",
            now=call.now,
            keys=call.keys,
        )
    call.deployment.wakeups.notify(host.id)
    return {"backup_log_id": row.id, "status": row.status}


@router.get("/backup-logs/pod/{pod_id}")
def logs_of_pod(call: Asked, pod_id: str, page: Number = 1, limit: Size = 20) -> dict[str, Any]:
    """The runs of one pod."""
    with call.reading() as tx:
        host = hosts.get(tx, call.who, pod_id)
        return numbered(
            page,
            lambda cursor: snapshots.snapshots(
                tx, call.who, host_id=host.id, cursor=cursor, limit=limit
            ),
            lambda row: _document(tx, call.who, row, call.now),
        )


@router.get("/backup-logs/")
@router.get("/backup-logs")
def logs(call: Asked, page: Number = 1, limit: Size = 20) -> dict[str, Any]:
    """The runs of all pods."""
    with call.reading() as tx:
        return numbered(
            page,
            lambda cursor: snapshots.snapshots(tx, call.who, cursor=cursor, limit=limit),
            lambda row: _document(tx, call.who, row, call.now),
        )


@router.get("/backup-logs/{log_id}")
def log(call: Asked, log_id: str) -> dict[str, Any]:
    """One run."""
    with call.reading() as tx:
        _run(tx, call.who, log_id)
        return _document(tx, call.who, snapshots.get(tx, call.who, log_id), call.now)


@router.post("/backup-logs/{log_id}/cancel")
def cancel(call: Asked, log_id: str) -> dict[str, Any]:
    """Wish that a run ends; its history stays."""
    with call.writing() as tx:
        _run(tx, call.who, log_id)
        row = snapshots.cancel(tx, call.who, log_id, now=call.now)
        return _document(tx, call.who, row, call.now)


@router.delete("/backup-logs/{log_id}")
def delete(call: Asked, log_id: str) -> dict[str, Any]:
    """Remove what is stored; the row stays, and so does the data for the recycle period."""
    with call.writing() as tx:
        _run(tx, call.who, log_id)
        row = snapshots.delete(tx, call.who, log_id, now=call.now)
        return _document(tx, call.who, row, call.now)


def _run(tx: Tx, who: Principal, log_id: str) -> Snapshot:
    """A run of a backup; copies in other regions are none, and Lium has nothing like them."""
    row = scope.find(tx, who, Snapshot, log_id)
    if row.copy_of_id is not None:
        raise NotFound("There is no such backup log; list the logs to see which there are.")
    return row


def _document(tx: Tx, who: Principal, row: Snapshot, now: datetime) -> dict[str, Any]:
    job = jobs.get(tx, who, row.job_id) if row.status == "RUNNING" and row.job_id else None
    gone = row.status in ("EXPIRED", "DELETED")
    return {
        "id": row.id,
        "backup_config_id": row.schedule_id or "",
        "pod_id": row.host_id,
        "name": row.name,
        "description": row.description,
        "status": row.status,
        "stage": job.stage.upper() if job is not None and job.stage else None,
        "created_at": work.written(row.created_at),
        "started_at": work.written(row.started_at),
        "completed_at": work.written(row.finished_at),
        "error_message": row.error_message,
        "status_message": _message(row),
        "backup_volume_id": None,
        "deletion_state": ("DELETED" if row.purged_at else "PENDING") if gone else None,
        "physical_cleanup_at": work.written(row.purged_at or row.purge_at) if gone else None,
        **work.of(
            status=row.status,
            started_at=row.started_at,
            finished_at=row.finished_at,
            files=row.files,
            size_bytes=row.logical_bytes,
            job=job,
            now=now,
        ),
    }


def _message(row: Snapshot) -> str | None:
    """Why it was removed or left out, or the first thing that was found."""
    if row.removed_because:
        return row.removed_because
    if row.findings:
        more = len(row.findings) - 1
        return str(row.findings[0].get("message", "")) + (f" (and {more} more)" if more else "")
    return None
