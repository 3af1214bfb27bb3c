"""The adoption of a snapshot that an earlier attempt of a job has stored and not reported.

It is read back like a new one before it counts. Nothing is stored here.
"""

from __future__ import annotations

import io
import os
from datetime import UTC

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import HoldfastError
from holdfast.flows.dump import DumpRequest, dump
from holdfast.flows.read_back import packs_of, read_back
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.model.manifest import MANIFEST_PATH, from_json
from holdfast.model.snapshot import Snapshot
from holdfast.repo.repository import Repository


def stored_by(repository: Repository, tag: str) -> dict[str, Snapshot]:
    """The snapshots that carry a tag, by each of their tags; the newest where several do."""
    snapshots, _ = repository.snapshots()
    return {each: found for found in snapshots if tag in found.tags for each in found.tags}


def adopted(context: JobContext, repository: Repository, snapshot: Snapshot) -> JobEnd:
    """The report of a snapshot that is there already."""
    context.say(
        "info",
        f"An earlier attempt has stored snapshot {snapshot.short_id} already; it is taken over.",
    )
    report = context.stage("verifying")
    done = read_back(
        repository,
        snapshot.id,
        packs_of(repository, snapshot),
        (),
        report,
        workers=context.workers,
        wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
    )
    context.say("info", f"Read back {done.packs} packs, {done.bytes_read} bytes; all are right.")
    summary = snapshot.summary
    consistency, findings = _of_manifest(repository, snapshot)
    return JobEnd(
        {
            "manifest_id": snapshot.id,
            "consistency": consistency.value,
            "captured_at": snapshot.time.astimezone(UTC).isoformat(),
            "files": int(summary.get("total_files_processed", 0)),
            "logical_bytes": int(summary.get("total_bytes_processed", 0)),
            # A summary does not say what was read; what was new is the least that was.
            "read_bytes": int(summary.get("data_added", 0)),
            "stored_bytes": int(summary.get("data_added_packed", 0)),
            "verified": True,
            "verified_by": "read",
            "adopted": True,
        },
        limited(findings),
    )


def _of_manifest(
    repository: Repository, snapshot: Snapshot
) -> tuple[Consistency, tuple[Finding, ...]]:
    """The grade and the findings that the snapshot holds about itself."""
    document = io.BytesIO()
    try:
        dump(repository, DumpRequest(snapshot.id, os.fsencode(MANIFEST_PATH)), document)
        found = from_json(document.getvalue())
    except HoldfastError as error:
        finding = Finding("manifest_unreadable", error.message, snapshot.id)
        return Consistency.TORN, (finding,)
    return found.consistency, found.findings
