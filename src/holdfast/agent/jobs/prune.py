"""A prune in two phases: mark what nobody needs, delete what was marked long ago."""

from __future__ import annotations

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.flows.prune import PruneLimits, PruneRequest, plan_prune, prune


def run(context: JobContext) -> JobEnd:
    wanted = context.spec.get("max_unused_percent")
    limits = PruneLimits() if wanted is None else PruneLimits(max_unused_percent=float(wanted))
    request = PruneRequest(
        limits, workers=context.workers, wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS
    )
    with context.opened_repository() as repository:
        plan = plan_prune(repository, request, context.stage("planning"))
        result = prune(
            repository,
            plan,
            context.stage("pruning"),
            wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
        )
        pack_bytes = sum(info.size_bytes for _, info in repository.pack_files())
    outcome = result.outcome
    context.say(
        "info",
        f"Marked {outcome.marked} packs, deleted {outcome.deleted} ({outcome.deleted_bytes} "
        f"bytes), rewrote {outcome.repacked}.",
    )
    return JobEnd(
        {
            "freed_bytes": outcome.deleted_bytes,
            # What snapshots need, as a measurement counts it; marked packs go later.
            "stored_bytes": plan.needed_bytes,
            "pack_bytes": pack_bytes,
            "marked_bytes": outcome.marked_bytes,
            "written_bytes": outcome.written_bytes,
        },
        limited(result.findings),
    )
