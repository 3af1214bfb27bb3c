"""A removal: forget snapshots by their full ids, and delete their ZIP archives.

What is gone already counts as removed.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.agent.jobs.archive import remove_archives
from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd
from holdfast.errors import UsageError
from holdfast.flows.forget import remove_records
from holdfast.repo.repository import FileKind

_ID: Final = re.compile(r"[0-9a-f]{64}")


def run(context: JobContext) -> JobEnd:
    asked = _asked(context)
    wanted = tuple(dict.fromkeys(asked.values()))
    with context.opened_repository() as repository:
        present = set(repository.ids(FileKind.SNAPSHOT))
        there = [each for each in wanted if each in present]
        report = context.stage("removing")
        remove_records(repository, there, report, wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS)
    remove_archives(context, list(asked))
    context.say(
        "info", f"Removed {len(there)} snapshots; {len(wanted) - len(there)} were gone already."
    )
    return JobEnd({"removed": list(wanted)})


def _asked(context: JobContext) -> dict[str, str]:
    """The id of each record to remove, by that of its snapshot in the catalog."""
    try:
        asked = {str(e["snapshot_id"]): str(e["manifest_id"]) for e in context.spec["snapshots"]}
    except (KeyError, TypeError):
        asked = {"": ""}
    if not all(_ID.fullmatch(each) for each in asked.values()):
        raise UsageError("The job names no snapshots by id; is the server of another version?")
    return asked
