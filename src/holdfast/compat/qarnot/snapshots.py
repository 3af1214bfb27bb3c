"""Snapshots of a task: one now, one every so many seconds, and how one is getting on.

A status must be one of the client's four words: it takes any other for "not yet" and waits
for ever. So a snapshot that was skipped is a failure here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from holdfast.compat import route
from holdfast.compat.qarnot.document import written
from holdfast.control import task_snapshots, tasks
from holdfast.control.tables import TaskSnapshot
from holdfast.edge.call import Asked
from holdfast.errors import NotFound
from holdfast.model.task import TaskSnapshotStatus

router = route.router()

_Pattern = Annotated[str | None, Field(max_length=10_000)]


class _Place(BaseModel):
    """What is captured, and where it is seen."""

    whitelist: _Pattern = None
    blacklist: _Pattern = None
    bucket: Annotated[str | None, Field(max_length=63)] = None
    bucketPrefix: Annotated[str | None, Field(max_length=900)] = None  # noqa: N815


class _Periodic(_Place):
    interval: int


@router.post("/tasks/{task_id}/snapshot")
def instant(call: Asked, task_id: str, wanted: _Place) -> dict[str, Any]:
    """Take a snapshot now."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        snapshot = task_snapshots.request(
            tx,
            call.who,
            task.id,
            whitelist=wanted.whitelist or None,
            blacklist=wanted.blacklist or None,
            bucket=wanted.bucket or None,
            bucket_prefix=wanted.bucketPrefix or None,
            now=call.now,
        )
        return {"id": snapshot.id}


@router.post("/tasks/{task_id}/snapshot/periodic")
def periodic(call: Asked, task_id: str, wanted: _Periodic) -> dict[str, Any]:
    """Take one every so many seconds from now on."""
    with call.writing() as tx:
        task = tasks.find(tx, call.who, task_id)
        task_snapshots.set_periodic(
            tx,
            call.who,
            task.id,
            seconds=wanted.interval,
            whitelist=wanted.whitelist or None,
            blacklist=wanted.blacklist or None,
            bucket=wanted.bucket or None,
            bucket_prefix=wanted.bucketPrefix or None,
            now=call.now,
        )
    return {}


@router.get("/tasks/{task_id}/snapshot/{snapshot_id}")
def status(call: Asked, task_id: str, snapshot_id: str) -> dict[str, Any]:
    """How far a snapshot is."""
    with call.reading() as tx:
        task = tasks.find(tx, call.who, task_id)
        snapshot = task_snapshots.get(tx, call.who, snapshot_id)
        if snapshot.task_id != task.id:
            raise NotFound(f"The task has no snapshot {snapshot_id}.")
        return _document(snapshot)


def _document(row: TaskSnapshot) -> dict[str, Any]:
    status = row.status
    if status == TaskSnapshotStatus.SKIPPED:
        status = TaskSnapshotStatus.FAILURE
    return {
        "id": row.id,
        "taskUuid": row.task_id,
        "triggerDate": written(row.triggered_at),
        "lastUpdateDate": written(row.updated_at),
        "snapshotConfig": {
            "whitelist": row.whitelist,
            "blacklist": row.blacklist,
            "bucket": row.bucket,
            "bucketPrefix": row.bucket_prefix,
        },
        "status": str(status),
        "sizeToUpload": row.bytes_total,
        "transferredSize": row.bytes_done,
    }
