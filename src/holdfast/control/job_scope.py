"""Which jobs one who asks can see: those of the account, as far as a credential extends.

What a job is for decides: a token that is limited to a source sees the jobs of that source's
snapshots, and an agent those of its own host. A repository's jobs are the whole account's.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, exists, or_

from holdfast.control import scope
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Drill, Job, Restore, Snapshot, Task
from holdfast.errors import NotFound

_ID_LENGTH = 36


def find_job(tx: Tx, who: Principal, job_id: str, *, lock: bool = False) -> Job:
    """The job with that id, locked until the transaction ends if wished; else `NotFound`."""
    job = any_job(tx, job_id, lock=lock)
    if job is None or job.account_id != who.account_id:
        raise no_such_job()
    if _is_narrowed(who):
        if job.subject_kind == "snapshot":
            scope.find(tx, who, Snapshot, job.subject_id)
        elif job.subject_kind == "restore":
            scope.find(tx, who, Restore, job.subject_id)
        elif job.subject_kind == "drill":
            scope.find(tx, who, Drill, job.subject_id)
        elif job.subject_kind == "task":
            scope.find(tx, who, Task, job.subject_id)
        else:
            raise no_such_job()
    return job


def any_job(tx: Tx, job_id: str, *, lock: bool = False) -> Job | None:
    """Whosoever's job it is; the caller decides who may know of it."""
    # PostgreSQL refuses text with zero bytes, so what cannot be an id is not asked for.
    if len(job_id) > _ID_LENGTH or not job_id.isascii() or not job_id.isprintable():
        return None
    return tx.get(Job, job_id, with_for_update=True if lock else None, populate_existing=lock)


def no_such_job() -> NotFound:
    return NotFound("There is no job with this id; list the jobs to see which there are.")


def visible_jobs(who: Principal) -> list[ColumnElement[bool]]:
    """The conditions for which of its account's jobs `who` can see; none where it is all."""
    if not _is_narrowed(who):
        return []
    # By the id of what a job is for, one after the other: of an account there may be more
    # snapshots than of a page there are jobs.
    snapshots = exists().where(
        Snapshot.id == Job.subject_id,
        *scope.narrowing(
            who,
            kind=Snapshot.kind,
            host=Snapshot.host_id,
            ids=(Snapshot.id, Snapshot.source_id, Snapshot.schedule_id, Snapshot.copy_of_id),
        ),
    )
    ids = (Restore.id, Snapshot.id, Snapshot.source_id)
    restores = exists().where(
        Restore.id == Job.subject_id,
        Snapshot.id == Restore.snapshot_id,
        *scope.narrowing(who, kind=Snapshot.kind, host=Restore.host_id, ids=ids),
    )
    drills = exists().where(
        Drill.id == Job.subject_id,
        Snapshot.id == Drill.snapshot_id,
        *scope.narrowing_drills(who),
    )
    seen = [
        (Job.subject_kind == "snapshot") & snapshots,
        (Job.subject_kind == "restore") & restores,
        (Job.subject_kind == "drill") & drills,
    ]
    if scope.sees_tasks(who):
        tasks = exists().where(Task.id == Job.subject_id, *scope.narrowing_tasks(who))
        seen.append((Job.subject_kind == "task") & tasks)
    return [or_(*seen)]


def _is_narrowed(who: Principal) -> bool:
    return bool(who.kinds or who.resources or who.host_id)
