"""A measurement: each snapshot's share of what is stored, and what deleting it would free."""

from __future__ import annotations

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.flows.measure import measure


def run(context: JobContext) -> JobEnd:
    with context.opened_repository() as repository:
        found = measure(
            repository,
            context.stage("measuring"),
            wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
        )
    context.say("info", f"{len(found.shares)} snapshots share {found.stored_bytes} stored bytes.")
    return JobEnd(
        {
            "stored_bytes": found.stored_bytes,
            "pack_bytes": found.pack_bytes,
            "shares": {
                share.snapshot_id: {
                    "share_bytes": share.share_bytes,
                    "freed_bytes": share.freed_bytes,
                }
                for share in found.shares
            },
        },
        limited(found.findings),
    )
