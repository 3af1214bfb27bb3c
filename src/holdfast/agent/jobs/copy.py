"""A copy: pull a snapshot from the repository of another region into this region's.

It reads there and writes here. What it moves is checked against the ids of its blobs, and the
copy is durable when it is reported. A snapshot that is damaged where it lies is not copied:
the job fails, and its findings say what of it cannot be read. An attempt that is not the
first takes over what the attempt before it has stored and could not report.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import Damaged, NotFound, UsageError
from holdfast.flows.copy import CopyRequest, CopyResult, copy
from holdfast.model.snapshot import Snapshot
from holdfast.repo.repository import FileKind, Repository

_ID: Final = re.compile(r"[0-9a-f]{64}")


def run(context: JobContext) -> JobEnd:
    if context.put_only:
        raise UsageError(
            "A host that may only add cannot read what it is to copy; copies are made by keepers "
            "of the region that they go to."
        )
    manifest_id = _checked(context)
    # The source first: where it cannot be reached, no repository is made here.
    with context.opened_source() as source:
        _require(source, manifest_id)
        with context.opened_repository(make=True) as destination:
            request = CopyRequest(
                (manifest_id,),
                workers=context.workers,
                wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
                job=context.job_id,
                first=context.attempt == 1,
            )
            context.say("info", f"Copying snapshot {manifest_id[:8]} from the other region.")
            result = copy(source, destination, request, context.stage("copying"))
    return _end(context, manifest_id, result)


def _checked(context: JobContext) -> str:
    """The snapshot to read, where the job is one that can be meant."""
    manifest_id = context.text("manifest_id")
    if not _ID.fullmatch(manifest_id):
        raise UsageError("The job names no snapshot by id; is the server of another version?")
    said = context.text("source_repository_id")
    if context.source is not None and context.source.get("id") != said:
        raise UsageError(
            "The job's two repositories are not those that it was given; is the server of "
            "another version?"
        )
    return manifest_id


def _require(source: Repository, manifest_id: str) -> None:
    if manifest_id not in source.ids(FileKind.SNAPSHOT):
        raise NotFound(
            f"Snapshot {manifest_id[:8]} is not in the repository that it was to be copied from; "
            "nothing was copied."
        )


def _end(context: JobContext, manifest_id: str, result: CopyResult) -> JobEnd:
    if result.there:
        ((_, found),) = result.there
        context.say(
            "info",
            f"An earlier attempt has stored the copy {found.short_id} already; it is taken over.",
        )
        return JobEnd(_report(found, was_there=True), limited(result.findings))
    if not result.copied:
        error = Damaged(
            f"Snapshot {manifest_id[:8]} is damaged in the repository that it was to be copied "
            "from, so there is no copy of it; the findings say what cannot be read."
        )
        return JobEnd({}, limited(result.findings), error)
    ((_, made),) = result.copied
    context.say(
        "info",
        f"Stored the copy {made.short_id}: {result.bytes_read} bytes read, "
        f"{result.added.stored_bytes} bytes added.",
    )
    return JobEnd(_report(made, was_there=False), limited(result.findings))


def _report(made: Snapshot, *, was_there: bool) -> dict[str, object]:
    """What the copy is and what it took, by the attempt that stored it."""
    note = made.copy_note
    return {
        "manifest_id": made.id,
        "stored_bytes": int(note["stored_bytes"]),
        "bytes_read": int(note["bytes_read"]),
        "was_there": was_there,
    }
