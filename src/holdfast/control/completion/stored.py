"""What is stored, by source, as the meters have it.

Invariant: after a change of any snapshot's share, the meter of its source is the sum of the
shares of all its snapshots whose data is still in the repository, whatever their status.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select

from holdfast.control import metering
from holdfast.control.database import Tx
from holdfast.control.tables import Repository, Snapshot, Source


def meter_sources(
    tx: Tx, repository: Repository, source_ids: Iterable[str], *, now: datetime
) -> None:
    """Set the meters of these sources anew; the snapshots' shares are flushed already."""
    wanted = sorted(set(source_ids))
    if not wanted:
        return
    # The sources are locked in one order, so that of two sums the later one is complete.
    tx.execute(
        select(Source.id)
        .where(Source.id.in_(wanted))
        .order_by(Source.id)
        .with_for_update(key_share=True)
    ).all()
    sums: dict[str, int] = {
        source_id: int(total or 0)
        for source_id, total in tx.execute(
            select(Snapshot.source_id, func.coalesce(func.sum(Snapshot.share_bytes), 0))
            .where(
                Snapshot.source_id.in_(wanted),
                Snapshot.repository_id == repository.id,
                Snapshot.manifest_id.is_not(None),
                Snapshot.purged_at.is_(None),
            )
            .group_by(Snapshot.source_id)
        )
    }
    metering.set_quantities(
        tx,
        account_id=repository.account_id,
        region_id=repository.region_id,
        what="stored",
        resource_kind="source",
        quantities={source_id: sums.get(source_id, 0) for source_id in wanted},
        now=now,
    )
