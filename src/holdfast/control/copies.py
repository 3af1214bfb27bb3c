"""Copies: a snapshot once more, in the account's repository of another region.

A copy is a row of its own beside its original, made by a keeper of the region it goes to,
who reads the one repository and writes the other. So whatever is done with a snapshot is
done with a copy as well. Which copies a schedule wants is in `copy_policy`, what becomes of
copies when their original goes in `copy_fate`.

Invariants: a snapshot has at most one copy in a region that has data there or may get some;
`copy_of_id` is never a copy's id, whatever a copy was read from; a copy has no schedule and,
at first, no name.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import uuid4

from sqlalchemy import select

from holdfast.control import audit, credit, jobs, quotas, regions, scope
from holdfast.control.backup_run import REPOSITORY
from holdfast.control.copy_fate import family_of, kin
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.run_row import REMOVED, UNFINISHED
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Region, Repository, Snapshot
from holdfast.errors import Forbidden, InUse, NotReady, UsageError

COPY: Final = "copy"
"""The kind of a copy's job, and its trigger."""

_PERSONS_PRIORITY = 10
_PERSON_WAITS: Final = timedelta(days=1)


class Terms(NamedTuple):
    """How urgent a copy is, until when it has to have been begun, and on whose request."""

    give_up_at: datetime
    priority: int = 0
    correlation_id: str = ""


def request(
    tx: Tx, who: Principal, snapshot_id: str, *, region_id: str, now: datetime, keys: MasterKeys
) -> Snapshot:
    """Copy a completed snapshot to another region; of a copy, what it is a copy of.

    The copy is PENDING until a keeper of that region takes it up.
    """
    who.require(Right.CREATE)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    original_id = row.copy_of_id or row.id
    _check_extent(who, row, original_id)
    check_region(tx, tx.get_one(Repository, row.repository_id).region_id, region_id)
    # Repositories are locked before snapshots, and this may make one.
    target = regions.repository_for(tx, row.account_id, region_id, keys=keys, now=now)
    family_of(tx, [original_id])
    # Looked at again under the lock: a statement that waited for it does not see the copy
    # that the one before it has made.
    known = tx.scalars(kin([original_id])).all()
    source = next(each for each in known if each.id == row.id)
    original = next(each for each in known if each.id == original_id)
    _check_source(source, original)
    for other in known:
        if other.repository_id == target.id:
            _check_in_the_way(other)
    account = tx.get_one(Account, row.account_id)
    credit.check_may_create(tx, account)
    # A copy is no snapshot more, but its bytes count.
    quotas.check(tx, account, snapshots=0)
    terms = Terms(now + _PERSON_WAITS, _PERSONS_PRIORITY, who.request_id)
    copy = start(tx, original, source, target, terms, now=now)
    audit.record(
        tx,
        who,
        "snapshot.copy",
        "snapshot",
        copy.id,
        now=now,
        after={"copy_of_id": original.id, "copied_from": source.id, "region_id": region_id},
    )
    return copy


def copies_of(tx: Tx, who: Principal, snapshot_id: str) -> list[Snapshot]:
    """Every copy that there is or was of a snapshot, newest first."""
    who.require(Right.READ)
    row = scope.find(tx, who, Snapshot, snapshot_id)
    found = select(Snapshot).where(Snapshot.copy_of_id == row.id)
    return list(tx.scalars(found.order_by(Snapshot.created_at.desc(), Snapshot.id.desc())))


def start(
    tx: Tx,
    original: Snapshot,
    source: Snapshot,
    target: Repository,
    terms: Terms,
    *,
    now: datetime,
) -> Snapshot:
    """Make the copy's row, PENDING, and its job; the original is locked by the caller.

    `source` is what it is read from: the original or another copy of it.
    """
    home = tx.get_one(Repository, source.repository_id)
    copy = Snapshot(
        id=str(uuid4()),
        account_id=original.account_id,
        source_id=original.source_id,
        host_id=original.host_id,
        repository_id=target.id,
        copy_of_id=original.id,
        kind=original.kind,
        labels=dict(original.labels),
        status="PENDING",
        trigger=COPY,
        created_at=now,
        captured_at=original.captured_at,
        archive_format=original.archive_format,
        consistency=original.consistency,
        files=original.files,
        logical_bytes=original.logical_bytes,
    )
    job = jobs.enqueue(
        tx,
        account_id=original.account_id,
        region_id=target.region_id,
        repository_id=target.id,
        host_id=None,
        kind=COPY,
        subject_kind="snapshot",
        subject_id=copy.id,
        # One after the other: most of what the second one needs, the first one brings.
        lock_key=f"copy:{target.id}",
        spec={
            "snapshot_id": copy.id,
            "copy_of_id": original.id,
            "manifest_id": source.manifest_id,
            "source_repository_id": home.id,
            "source_region_id": home.region_id,
        },
        now=now,
        give_up_at=terms.give_up_at,
        priority=terms.priority,
        correlation_id=terms.correlation_id,
    )
    copy.job_id = job.id
    tx.add(copy)
    tx.flush()
    return copy


def check_region(tx: Tx, own_region_id: str, region_id: str) -> None:
    """Raise `UsageError` unless what lies in the one region can be copied to the other."""
    if tx.get(Region, region_id) is None:
        raise UsageError(
            f"There is no region {region_id}; list the regions to see which there are."
        )
    if region_id == own_region_id:
        raise UsageError(
            "That is the region in which it lies already; name another one to copy to."
        )


def _check_extent(who: Principal, row: Snapshot, original_id: str) -> None:
    """Who sees a snapshot by its schedule alone would not see the copy, which has none."""
    if not scope.covers(who, row.kind, original_id, row.source_id, row.host_id):
        raise Forbidden(
            "This token extends to one schedule, and a copy belongs to none; use a token for the "
            "source or the host."
        )


def _check_source(source: Snapshot, original: Snapshot) -> None:
    if source.status != "COMPLETED" or source.manifest_id is None:
        raise NotReady(
            f"The snapshot is {source.status} and cannot be copied; choose a completed one, or "
            "recover it first."
        )
    if source.archive_format != REPOSITORY:
        raise NotReady(
            f"What is archived as {source.archive_format} is not copied; choose a snapshot in the "
            "repository's own format."
        )
    if original.status != "COMPLETED":
        raise NotReady(
            f"The original of this copy, {original.id}, is {original.status}, and what is removed "
            "gets no more copies; recover it first, or restore from this copy."
        )


def _check_in_the_way(other: Snapshot) -> None:
    if other.status in UNFINISHED:
        raise InUse(
            f"The copy {other.id} to that region is {other.status}; wait for its end, or cancel it."
        )
    if other.status == "COMPLETED":
        raise InUse(f"The snapshot is in that region already, as {other.id}; use that one.")
    if other.status in REMOVED and other.manifest_id is not None and other.purged_at is None:
        raise InUse(
            f"In that region it is {other.status} and its data is still there, as {other.id}; "
            "recover that one, or wait until its data is gone."
        )
