"""Restores: putting a snapshot, or a part of one, back onto any host of the account.

The agent checks what only it can see: that the directory is new or empty, that there is
room, where links lead. Invariants: one restore at a time goes into a directory; what is
being restored is not purged.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import ColumnElement, exists, select

from holdfast.control import audit, jobs, scope
from holdfast.control.database import Tx
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.recycle import is_recoverable
from holdfast.control.run_row import UNFINISHED
from holdfast.control.tables import Host, Repository, Restore, Snapshot, Source
from holdfast.control.unindexed import by_lead
from holdfast.errors import InUse, NotReady, UsageError
from holdfast.model.guarded_path import (
    canonical_path,
    canonical_selection,
    check_path,
    default_restore_target,
    directory_of,
    roots_of,
)

MAX_PATHS: Final = 1000

_PRIORITY = 20
"""Somebody waits for data that they need back: before every backup."""

_PERSON_WAITS = timedelta(days=1)


def request(
    tx: Tx,
    who: Principal,
    *,
    snapshot_id: str,
    host_id: str | None = None,
    target: str | None = None,
    paths: Sequence[str] = (),
    now: datetime,
) -> Restore:
    """Restore onto a host (the snapshot's own one), into `target` (``<root>/restored``).

    `paths` are relative to the captured path, all without any. A removed snapshot can be
    restored for as long as it can be recovered.
    """
    who.require(Right.RESTORE)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id, lock=True)
    if snapshot.status != "COMPLETED" and not is_recoverable(snapshot, now=now):
        raise NotReady(
            f"The snapshot is {snapshot.status} and has no data; choose a completed one."
        )
    if snapshot.manifest_id is None:
        raise NotReady("The snapshot was made without a manifest; download its archive instead.")
    # The host's lock keeps two requests from choosing the same directory.
    host = scope.find(tx, who, Host, host_id or snapshot.host_id, lock=True)
    _check_host(host)
    roots = roots_of(host.roots)
    wanted = canonical_path(target) if target else default_restore_target(roots)
    check_path(wanted, roots)
    selected = checked_selection(paths)
    _check_free(tx, host, wanted)
    source = tx.get_one(Source, snapshot.source_id)
    repository = tx.get_one(Repository, snapshot.repository_id)
    row = Restore(
        id=str(uuid4()),
        account_id=who.account_id,
        snapshot_id=snapshot.id,
        host_id=host.id,
        target=wanted,
        paths=selected,
        created_at=now,
    )
    job = jobs.enqueue(
        tx,
        account_id=who.account_id,
        region_id=repository.region_id,
        repository_id=repository.id,
        host_id=host.id,
        kind="restore",
        subject_kind="restore",
        subject_id=row.id,
        lock_key=f"restore:{host.id}:{wanted}",
        spec={
            "restore_id": row.id,
            "snapshot_id": snapshot.id,
            "manifest_id": snapshot.manifest_id,
            "captured_path": source.path,
            "target": wanted,
            "directory": directory_of(wanted, roots),
            "paths": selected,
        },
        now=now,
        give_up_at=now + _PERSON_WAITS,
        priority=_PRIORITY,
        correlation_id=who.request_id,
    )
    row.job_id = job.id
    tx.add(row)
    tx.flush()
    audit.record(
        tx,
        who,
        "restore.request",
        "restore",
        row.id,
        now=now,
        after={
            "snapshot_id": snapshot.id,
            "host_id": host.id,
            "target": wanted,
            "paths": selected,
        },
    )
    return row


def get(tx: Tx, who: Principal, restore_id: str) -> Restore:
    """One restore."""
    who.require(Right.READ)
    return scope.find(tx, who, Restore, restore_id)


def restores(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    snapshot_id: str | None = None,
    host_id: str | None = None,
    status: str | None = None,
) -> Page[Restore]:
    """The restores, newest first."""
    who.require(Right.READ)
    leads = {Restore.snapshot_id: snapshot_id, Restore.host_id: host_id}
    statement, sieve = by_lead(select(Restore), Restore.account_id, who.account_id, leads)
    sieve += _visible(who)
    if status is not None:
        sieve.append(Restore.status == status)
    order = (Restore.created_at.desc(), Restore.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def cancel(tx: Tx, who: Principal, restore_id: str, *, now: datetime) -> Restore:
    """Wish that a restore ends; what was written stays where it is."""
    who.require(Right.RESTORE)
    row = scope.find(tx, who, Restore, restore_id)
    if row.status == "CANCELLED":
        return row
    if row.status not in UNFINISHED or row.job_id is None:
        raise NotReady(f"The restore is {row.status}, so there is nothing left to cancel.")
    jobs.request_cancel(tx, who, row.job_id, now=now)
    return tx.get_one(Restore, restore_id, populate_existing=True)


def checked_selection(paths: Sequence[str]) -> list[str]:
    """Paths relative to the captured one, each once, as they are kept; `UsageError` for others."""
    if len(paths) > MAX_PATHS:
        raise UsageError(
            f"{len(paths)} paths are selected, and {MAX_PATHS} are possible; select directories."
        )
    return sorted({canonical_selection(each) for each in paths})


def _visible(who: Principal) -> list[ColumnElement[bool]]:
    """The conditions for which of its account's restores `who` can see."""
    found = scope.narrowing(
        who,
        kind=Snapshot.kind,
        host=Restore.host_id,
        ids=(Restore.id, Snapshot.id, Snapshot.source_id),
    )
    return [exists().where(Snapshot.id == Restore.snapshot_id, *found)] if found else []


def _check_host(host: Host) -> None:
    if host.revoked_at is not None:
        raise NotReady(
            f"The host {host.name} was revoked, so nothing can be restored onto it; choose "
            "another host of the account, or enrol that machine again."
        )
    if host.put_only:
        raise NotReady(
            f"The host {host.name} may only add to the repository and cannot read from it; "
            "restore onto another host, or download the files."
        )


def _check_free(tx: Tx, host: Host, target: str) -> None:
    busy = tx.scalar(
        select(Restore.id).where(
            Restore.host_id == host.id,
            Restore.target == target,
            Restore.status.in_(UNFINISHED),
        )
    )
    if busy is not None:
        raise InUse(
            f"The restore {busy} goes into {target} already; wait for its end, cancel it, or "
            "choose another directory."
        )
