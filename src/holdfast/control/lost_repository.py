"""A repository whose store has lost it, as a person declares.

No job makes a repository anew that was there: the store may only be out of sight, and what
is written meanwhile would lie beneath it. So somebody who may has to say that it is gone.
Invariant: this removes no row and no byte. If the store comes back after all, the next
comparison finds the snapshots again.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from holdfast.control import audit
from holdfast.control.completion import stored
from holdfast.control.completion.reconcile import mark_missing
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Repository, Snapshot
from holdfast.errors import NotFound


def declare_lost(tx: Tx, who: Principal, repository_id: str, *, now: datetime) -> Repository:
    """Have the next backup make the repository anew; what was in it is marked as missing.

    It costs nothing any more. For one that was never made in its store nothing changes.
    """
    who.require_everywhere(Right.DELETE)
    who.require_everywhere(Right.ADMINISTER)
    row = tx.get(
        Repository,
        repository_id,
        with_for_update={"key_share": True},
        populate_existing=True,
    )
    if row is None or row.account_id != who.account_id:
        raise NotFound(f"There is no repository {repository_id}.")
    if row.created_in_store_at is None:
        return row
    before = audit.state_of(row, "created_in_store_at", "stored_bytes")
    row.created_in_store_at = row.measured_at = row.pruned_at = None
    row.stored_bytes = 0
    row.verify_share = {}
    snapshots = tx.scalars(
        select(Snapshot)
        .where(
            Snapshot.repository_id == row.id,
            Snapshot.manifest_id.is_not(None),
            Snapshot.purged_at.is_(None),
        )
        .order_by(Snapshot.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for snapshot in snapshots:
        mark_missing(snapshot, now=now)
        snapshot.share_bytes = snapshot.freed_bytes = 0
    tx.flush()
    stored.meter_sources(tx, row, [each.source_id for each in snapshots], now=now)
    audit.record(
        tx,
        who,
        "repository.lost",
        "repository",
        row.id,
        now=now,
        before=before,
        after={"snapshots": len(snapshots)},
    )
    return row
