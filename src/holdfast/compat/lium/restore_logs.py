"""Restores into pods, and their history."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from holdfast.compat import route
from holdfast.compat.lium import work
from holdfast.compat.lium.pages import Number, Size, numbered
from holdfast.control import hosts, jobs, restores
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Restore
from holdfast.edge.call import Asked

router = route.router()

_STAGES: Final = {"": "PREPARING", "prepare": "PREPARING", "restore": "RESTORING"}


class _Wanted(BaseModel):
    """Which backup, and the new or empty directory for it."""

    model_config = ConfigDict(strict=True)

    backup_id: Annotated[str, Field(min_length=1, max_length=100)]
    restore_path: str | None = Field(default=None, max_length=4096)


@router.post("/pods/{pod_id}/restore")
def restore(call: Asked, pod_id: str, wanted: _Wanted) -> dict[str, Any]:
    """Restore a backup, whichever pod it is of, into this pod."""
    with call.writing() as tx:
        host = hosts.get(tx, call.who, pod_id)
        row = restores.request(
            tx,
            call.who,
            snapshot_id=wanted.backup_id,
            host_id=host.id,
            target=wanted.restore_path,
            now=call.now,
        )
        document = _document(tx, call.who, row, call.now)
    call.deployment.wakeups.notify(host.id)
    return {"restore_log_id": row.id, **document}


@router.get("/pods/{pod_id}/restore-logs")
def logs(call: Asked, pod_id: str, page: Number = 1, limit: Size = 20) -> dict[str, Any]:
    """The restores into one pod, newest first."""
    with call.reading() as tx:
        host = hosts.get(tx, call.who, pod_id)
        return numbered(
            page,
            lambda cursor: restores.restores(
                tx, call.who, host_id=host.id, cursor=cursor, limit=limit
            ),
            lambda row: _document(tx, call.who, row, call.now),
        )


@router.get("/restore-logs/{log_id}")
def log(call: Asked, log_id: str) -> dict[str, Any]:
    """One restore."""
    with call.reading() as tx:
        return _document(tx, call.who, restores.get(tx, call.who, log_id), call.now)


@router.post("/restore-logs/{log_id}/cancel")
def cancel(call: Asked, log_id: str) -> dict[str, Any]:
    """Wish that a restore ends; what it wrote stays."""
    with call.writing() as tx:
        row = restores.cancel(tx, call.who, log_id, now=call.now)
        return _document(tx, call.who, row, call.now)


def _document(tx: Tx, who: Principal, row: Restore, now: datetime) -> dict[str, Any]:
    job = jobs.get(tx, who, row.job_id) if row.status == "RUNNING" and row.job_id else None
    return {
        "id": row.id,
        "backup_id": row.snapshot_id,
        "pod_id": row.host_id,
        "status": row.status,
        "stage": _stage(row, job.stage if job is not None else ""),
        "restore_path": row.target,
        "created_at": work.written(row.created_at),
        "started_at": work.written(row.started_at),
        "completed_at": work.written(row.finished_at),
        "error_message": row.error_message,
        "backup_engine": "holdfast",
        "restore_mode": "selected" if row.paths else "full",
        "logs": [],
        **work.of(
            status=row.status,
            started_at=row.started_at,
            finished_at=row.finished_at,
            files=row.files,
            size_bytes=row.restored_bytes,
            job=job,
            now=now,
        ),
    }


def _stage(row: Restore, stage: str) -> str | None:
    if row.status == "PENDING":
        return "WAITING_FOR_POD"
    if row.status == "RUNNING":
        return _STAGES.get(stage, "FINALIZING")
    return None
