"""A verification: the structure of the repository, and a share of its contents."""

from __future__ import annotations

from typing import Final

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import UsageError
from holdfast.flows.verify import VerifyRequest, VerifyResult, verify
from holdfast.model.finding import Finding

MOST_PATHS: Final = 1000
"""How many lost paths of one snapshot are named."""


def run(context: JobContext) -> JobEnd:
    request = VerifyRequest(
        share=_share(context),
        workers=context.workers,
        wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
    )
    with context.opened_repository() as repository:
        result = verify(repository, request, context.stage("verifying"))
    context.say(
        "info" if result.clean else "error",
        f"Looked at {result.snapshots} snapshots and {result.trees} directories, read "
        f"{result.packs_read} of {result.packs} packs; {len(result.damaged)} snapshots are "
        "damaged.",
    )
    findings, damaged = list(result.findings), _damaged(result)
    for snapshot in result.damaged:
        if len(snapshot.lost) > MOST_PATHS:
            more = len(snapshot.lost) - MOST_PATHS
            findings.append(
                Finding("paths_omitted", f"{more} more damaged paths are not listed", snapshot.id)
            )
    return JobEnd(
        {
            "packs_read": result.packs_read,
            "packs_total": result.packs,
            "bytes_read": result.bytes_read,
            "damaged": damaged,
            "clean": result.clean,
            "damaged_packs": list(result.damaged_packs[:MOST_PATHS]),
        },
        limited(findings),
    )


def _share(context: JobContext) -> tuple[int, int] | None:
    share = context.spec.get("share")
    if share is None:
        return None
    try:
        return int(share["number"]), int(share["of"])
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            "A share is a number and of how many; is the server of another version?"
        ) from None


def _damaged(result: VerifyResult) -> dict[str, list[str]]:
    return {
        snapshot.id: [
            lost.path.encode("utf-8", "backslashreplace").decode()
            for lost in snapshot.lost[:MOST_PATHS]
        ]
        for snapshot in result.damaged
    }
