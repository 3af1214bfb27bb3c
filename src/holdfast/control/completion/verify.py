"""A check of a repository: what it proves about the snapshots in it.

Structure is checked whole each time; contents by shares 1 to n, which together are every
byte. `Repository.verify_share` keeps how far the round is: ``number`` and ``of`` of the last
share that was done, ``since`` when its first one was begun, and ``clean``, whether all of
them were. Invariant: a snapshot counts as proven only when every share of a round that
began after it was captured was read and none of its files was damaged, and then as of the
beginning of that round, never later.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import or_, select, update

from holdfast.control import events
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.tables import Job, Repository, Snapshot
from holdfast.errors import UsageError
from holdfast.model.finding import Finding

DAMAGED: Final = "snapshot_damaged"
MAX_DAMAGED_PATHS: Final = 100


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    repository = tx.get_one(
        Repository,
        job.repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    damaged = _mark_damaged(tx, repository, report.by_manifest("damaged"), now=now)
    clean = report.flag("clean") and not report.by_manifest("damaged")
    repository.verified_at = now
    share = job.spec.get("share")
    if share is not None:
        _count_share(tx, repository, job, share, clean=clean)
    read, total = report.number("packs_read"), report.number("packs_total")
    data: dict[str, Any] = {
        "clean": clean,
        "packs_read": read,
        "packs_total": total,
        "bytes_read": report.number("bytes_read"),
        "share": share,
        "damaged_snapshots": damaged,
        "job_id": job.id,
    }
    if clean:
        kind = "verification.completed"
        message = f"The repository is sound; {read:,} of {total:,} packs were read."
    else:
        kind = "verification.damaged"
        message = (
            f"The repository is damaged; {len(damaged):,} snapshots are touched. Keep it as it "
            "is, take new backups, and repair it with a copy of the store."
        )
    events.emit(
        tx,
        job.account_id,
        kind,
        "repository",
        repository.id,
        message,
        now=now,
        data=data,
        correlation_id=job.correlation_id,
    )


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    """Nothing was proven, and nothing else is known; the next one is planned as ever."""
    del tx, job, now


def with_finding(findings: list[Any], finding: Finding) -> list[Any]:
    """`findings` with this one in the place of an older one of the same code."""
    return [*without_finding(findings, finding.code), finding.as_dict()]


def without_finding(findings: list[Any], code: str) -> list[Any]:
    return [each for each in findings if each.get("code") != code]


def _mark_damaged(
    tx: Tx, repository: Repository, damaged: dict[str, Any], *, now: datetime
) -> list[str]:
    """Note the damage with each snapshot that it touches; their ids."""
    snapshots = tx.scalars(
        select(Snapshot)
        .where(Snapshot.repository_id == repository.id, Snapshot.manifest_id.in_(damaged))
        .order_by(Snapshot.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for snapshot in snapshots:
        assert snapshot.manifest_id is not None
        paths = damaged[snapshot.manifest_id]
        if not isinstance(paths, list):
            raise UsageError("The result's damaged has a member that is no list of paths.")
        snapshot.verification = {
            "at": now.isoformat(),
            "clean": False,
            "by": "verify",
            "damaged_count": len(paths),
            "damaged": [str(path) for path in paths[:MAX_DAMAGED_PATHS]],
        }
        message = f"{len(paths):,} files of this snapshot cannot be read back whole."
        finding = Finding(DAMAGED, message, snapshot.id)
        snapshot.findings = with_finding(snapshot.findings, finding)
    return [snapshot.id for snapshot in snapshots]


def _count_share(
    tx: Tx, repository: Repository, job: Job, share: dict[str, int], *, clean: bool
) -> None:
    number, of = int(share["number"]), int(share["of"])
    begun = job.started_at or job.created_at
    before = repository.verify_share
    if number == 1:
        since, all_clean = begun, clean
    elif before.get("of") == of and before.get("number") == number - 1 and before.get("since"):
        since = datetime.fromisoformat(before["since"])
        all_clean = bool(before.get("clean")) and clean
    else:
        # A share was left out, so this round proves nothing; the next one may.
        repository.verify_share = {"number": number, "of": of, "since": None, "clean": clean}
        return
    repository.verify_share = {
        "number": number,
        "of": of,
        "since": since.isoformat(),
        "clean": all_clean,
    }
    if number == of:
        _prove(tx, repository, since, all_clean=all_clean)


def _prove(tx: Tx, repository: Repository, since: datetime, *, all_clean: bool) -> None:
    """A round is done: everything that was there when it began is proven, or was marked."""
    proven = (
        Snapshot.repository_id == repository.id,
        Snapshot.manifest_id.is_not(None),
        Snapshot.purged_at.is_(None),
        Snapshot.finished_at <= since,
        or_(Snapshot.verified_at.is_(None), Snapshot.verified_at < since),
    )
    marked_since: set[str] = set()
    for snapshot in tx.scalars(select(Snapshot).where(*proven, Snapshot.verification.is_not(None))):
        known = snapshot.verification or {}
        if known.get("clean") is not False:
            continue
        if all_clean and datetime.fromisoformat(known["at"]) < since:
            # The damage was repaired: a whole round after it found none.
            snapshot.findings = without_finding(snapshot.findings, DAMAGED)
        else:
            marked_since.add(snapshot.id)
    tx.flush()
    tx.execute(
        update(Snapshot)
        .where(*proven, Snapshot.id.not_in(marked_since))
        .values(
            verified_at=since,
            verification={"at": since.isoformat(), "clean": True, "by": "verify"},
        )
        .execution_options(synchronize_session=False)
    )
