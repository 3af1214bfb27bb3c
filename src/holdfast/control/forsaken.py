"""Computations that nobody wants any more, on the host that tells of them.

A computation outlives its agent and the loss of its host. When the host is heard again, the
instance may have failed meanwhile, so that no attempt will ever attach to it. Reads only.
Invariant: none is named whose job could still be handed out.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from holdfast.control.database import Tx
from holdfast.control.job_end import ENDED
from holdfast.control.principal import Principal
from holdfast.control.tables import Job


def forsaken(tx: Tx, who: Principal, computations: Sequence[str]) -> list[str]:
    """Those of these jobs of the asking host that have ended; what is unknown is left out."""
    if not computations:
        return []
    found = tx.scalars(
        select(Job.id).where(
            Job.id.in_(computations),
            Job.kind == "task",
            Job.host_id == who.host_id,
            Job.state.in_(ENDED),
        )
    )
    return sorted(found)
