"""A measurement: each snapshot's share of what is stored, and what deleting it would free.

Before it, index files are merged where many small ones have come together: it is the job
that a repository gets hourly while it changes.
"""

from __future__ import annotations

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import RepositoryLocked
from holdfast.flows.measure import measure
from holdfast.flows.merge_index import merge_index_files
from holdfast.repo.repository import Repository


def run(context: JobContext) -> JobEnd:
    with context.opened_repository() as repository:
        _merge(context, repository)
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


def _merge(context: JobContext, repository: Repository) -> None:
    try:
        merge = merge_index_files(repository)
    except RepositoryLocked as error:
        context.say("info", f"Index files were not merged this time: {error.message}")
        return
    if merge.replaced:
        context.say("info", f"Merged {merge.replaced} small index files into {merge.written}.")
