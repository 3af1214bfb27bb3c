"""A prune in two phases: mark what nobody needs, delete what was marked long ago."""

from __future__ import annotations

from typing import Final

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import Conflict, RepositoryLocked
from holdfast.flows.prune import PruneLimits, PruneRequest, PruneResult, plan_prune, prune
from holdfast.repo.repository import Repository

_PLANS: Final = 3
"""Small index files may be merged between a plan and its execution, hourly at most."""


def run(context: JobContext) -> JobEnd:
    wanted = context.spec.get("max_unused_percent")
    limits = PruneLimits() if wanted is None else PruneLimits(max_unused_percent=float(wanted))
    request = PruneRequest(
        limits, workers=context.workers, wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS
    )
    with context.opened_repository() as repository:
        result = _prune(context, repository, request)
        pack_bytes = sum(info.size_bytes for _, info in repository.pack_files())
    outcome = result.outcome
    context.say(
        "info",
        f"Marked {outcome.marked} packs, deleted {outcome.deleted} ({outcome.deleted_bytes} "
        f"bytes), rewrote {outcome.repacked}; merged {result.merge.replaced} small index files.",
    )
    return JobEnd(
        {
            "freed_bytes": outcome.deleted_bytes,
            # What snapshots need, as a measurement counts it; marked packs go later.
            "stored_bytes": result.plan.needed_bytes,
            "pack_bytes": pack_bytes,
            "marked_bytes": outcome.marked_bytes,
            "written_bytes": outcome.written_bytes,
        },
        limited(result.findings),
    )


def _prune(context: JobContext, repository: Repository, request: PruneRequest) -> PruneResult:
    attempt = 1
    while True:
        plan = plan_prune(repository, request, context.stage("planning"))
        try:
            return prune(
                repository,
                plan,
                context.stage("pruning"),
                wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
            )
        except Conflict as error:
            if attempt == _PLANS or isinstance(error, RepositoryLocked):
                raise
            attempt += 1
            context.say("info", f"Planning again: {error.message}")
