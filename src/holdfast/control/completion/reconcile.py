"""The catalog was compared with the repository: what lacks data is marked, never dropped.

A snapshot whose manifest is missing keeps its status. If the store was only hiding it for a
while, a row that was struck out would make the next reconciliation remove it as an orphan.
An orphan is removed only if this database knows the job that made it, and that it ended; one
of a job that goes on, such as a task's, may get a row yet. A copy from another region is as
old as what it was copied from, so nothing but its own job decides about it. A database that
came back from an old copy knows nothing of what was stored since, and must not delete it.
Invariant: this changes no status and no manifest id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import select

from holdfast.control import events
from holdfast.control.completion.report import Report
from holdfast.control.completion.verify import with_finding, without_finding
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository, Snapshot
from holdfast.model.finding import Finding

MISSING: Final = "manifest_missing"
_IDS_AT_ONCE: Final = 500


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    repository.reconciled_at = now
    asked = set(job.spec.get("known", ()))
    missing = asked & set(report.manifest_ids("missing"))
    orphans = report.by_manifest("orphans")
    ended, open_ = _by_state_of_job(tx, repository, orphans)
    # A task's job makes snapshots for as long as it runs; one may have got its row since the
    # repository was looked at. Asked after the jobs, so that what they left is seen here.
    kept = _in_catalog(tx, repository, ended)
    removed = sorted(ended - kept)
    strangers = sorted(set(orphans) - ended - open_)
    lost: list[str] = []
    for snapshot in tx.scalars(
        select(Snapshot)
        .where(
            Snapshot.repository_id == repository.id,
            Snapshot.manifest_id.is_not(None),
            Snapshot.purged_at.is_(None),
        )
        .order_by(Snapshot.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ):
        was_missing = any(each.get("code") == MISSING for each in snapshot.findings)
        if snapshot.manifest_id in missing:
            lost.append(snapshot.id)
            mark_missing(snapshot, now=now)
        elif was_missing and snapshot.manifest_id in asked:
            snapshot.findings = without_finding(snapshot.findings, MISSING)
            snapshot.verification = None
    if lost:
        message = f"{len(lost):,} snapshots are not in the repository any more."
        _tell(tx, job, "verification.damaged", message, {"damaged_snapshots": lost}, now=now)
    if removed:
        _remove(tx, job, removed, now=now)
    if lost or removed or strangers:
        message = (
            f"The repository was compared with the catalog: {len(lost):,} snapshots are missing, "
            f"{len(removed):,} of runs that did not count are being removed."
        )
        if strangers:
            message += (
                f" {len(strangers):,} are of runs that this database has never heard of, and stay;"
                " was it restored from an older copy? Plain restic lists and restores them."
            )
        data = {"missing": lost, "removed": removed, "unknown": strangers}
        _tell(tx, job, "repository.reconciled", message, data, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    """Nothing was compared; the next one is planned as ever."""
    del tx, job, now


def _by_state_of_job(
    tx: Tx, repository: Repository, orphans: Mapping[str, object]
) -> tuple[set[str], set[str]]:
    """Those orphans whose job is one of ours and has ended, and those whose job goes on."""
    wanted = sorted({each for each in orphans.values() if isinstance(each, str)})
    going_on: dict[object, bool] = {}
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        found = select(Job.id, Job.state.in_(("queued", "leased"))).where(
            Job.id.in_(wanted[start : start + _IDS_AT_ONCE]),
            Job.repository_id == repository.id,
        )
        going_on.update({job_id: bool(open_) for job_id, open_ in tx.execute(found)})
    known = {each: going_on[job_id] for each, job_id in orphans.items() if job_id in going_on}
    return {each for each, open_ in known.items() if not open_}, {
        each for each, open_ in known.items() if open_
    }


def _in_catalog(tx: Tx, repository: Repository, manifest_ids: Iterable[str]) -> set[str]:
    """Those that a snapshot has by now."""
    wanted = sorted(manifest_ids)
    found: set[str] = set()
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        known = select(Snapshot.manifest_id).where(
            Snapshot.repository_id == repository.id,
            Snapshot.manifest_id.in_(wanted[start : start + _IDS_AT_ONCE]),
            Snapshot.purged_at.is_(None),
        )
        found.update(each for each in tx.scalars(known) if each)
    return found


def _remove(tx: Tx, job: Job, manifest_ids: list[str], *, now: datetime) -> None:
    from holdfast.control import jobs  # which imports this package for the ends of jobs

    jobs.enqueue(
        tx,
        account_id=job.account_id,
        region_id=job.region_id,
        repository_id=job.repository_id,
        host_id=None,
        kind="remove",
        subject_kind="repository",
        subject_id=job.subject_id,
        lock_key=job.lock_key,
        spec={"snapshots": [{"snapshot_id": each, "manifest_id": each} for each in manifest_ids]},
        now=now,
        idempotency_key=f"orphans:{job.id}",
        correlation_id=job.correlation_id,
    )


def mark_missing(snapshot: Snapshot, *, now: datetime) -> None:
    """Note that nothing of a snapshot is there; a later comparison may find it again."""
    message = "The repository does not have this snapshot; nothing of it can be restored."
    snapshot.findings = with_finding(snapshot.findings, Finding(MISSING, message, snapshot.id))
    snapshot.verification = {"at": now.isoformat(), "clean": False, "by": "reconcile"}


def _tell(
    tx: Tx, job: Job, kind: str, message: str, data: dict[str, list[str]], *, now: datetime
) -> None:
    events.emit(
        tx,
        job.account_id,
        kind,
        "repository",
        job.repository_id or "",
        message,
        now=now,
        data={**data, "job_id": job.id},
        correlation_id=job.correlation_id,
    )
