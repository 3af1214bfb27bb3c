"""Reconcile: compare a repository's snapshots with a catalog that says which it knows.

A snapshot that a job made and that the catalog does not know is an orphan once it is older
than any attempt could be: most likely the report of that attempt never counted. Snapshots
without a job's tag were made by people and are none of the catalog's business. It changes
nothing: a catalog that came back from an old copy knows little, so whoever owns it decides
what becomes of orphans.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import UsageError
from holdfast.model.finding import Finding
from holdfast.model.snapshot import Snapshot
from holdfast.repo import rfc3339
from holdfast.repo.repository import Repository

JOB_TAG = "holdfast-job="
"""How the tag begins that says which job made a snapshot."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`orphans` are unknown, `young` are unknown but too young, `missing` are gone."""

    orphans: tuple[Snapshot, ...]
    young: tuple[str, ...]
    missing: tuple[str, ...]
    findings: tuple[Finding, ...]


def compare(repository: Repository, known: Iterable[str], *, older_than: datetime) -> Comparison:
    """Compare; `known` are ids of snapshots, `older_than` is an aware time.

    A record that cannot be read is neither missing nor an orphan.
    """
    if older_than.tzinfo is None:
        raise UsageError("the time that orphans must be older than needs a time zone")
    wanted = set(known)
    snapshots, findings = repository.snapshots()
    present = {snapshot.id for snapshot in snapshots} | {finding.subject for finding in findings}
    unknown = [s for s in snapshots if s.id not in wanted and job_of(s) is not None]
    return Comparison(
        tuple(s for s in unknown if finished_at(s) < older_than),
        tuple(s.id for s in unknown if finished_at(s) >= older_than),
        tuple(sorted(wanted - present)),
        tuple(findings),
    )


def job_of(snapshot: Snapshot) -> str | None:
    """The id of the job that made it, or that copied it here; None for a person's.

    A copy has the tags of what it is a copy of, also the one of the job that made that.
    """
    copied_by = snapshot.copy_note.get("job")
    if isinstance(copied_by, str) and copied_by:
        return copied_by
    tags = (tag.removeprefix(JOB_TAG) for tag in snapshot.tags if tag.startswith(JOB_TAG))
    return next(tags, None)


def finished_at(snapshot: Snapshot) -> datetime:
    """When it was stored, which for a long run is hours after the time that it shows."""
    end = snapshot.summary.get("backup_end")
    try:
        return max(snapshot.time, rfc3339.to_datetime(str(end))) if end else snapshot.time
    except ValueError:
        return snapshot.time
