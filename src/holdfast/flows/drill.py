"""A drill: restore a snapshot for no other purpose than to see that it can be restored.

It is restored with the very code that restores for people, into a directory that nobody
keeps, written out to the disk, read back from there, and held against the snapshot by code
that has not written it. Damage does not end a drill: it is what a drill is there to find.
The directory is made and removed by the caller; what is outside is never touched.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.errors import TargetFull
from holdfast.flows.drill_compare import Expected, TreeComparison
from holdfast.flows.locate import (
    MANIFEST_DIRECTORY,
    Trees,
    has_manifest,
    locate,
    normal_path,
)
from holdfast.flows.plan_restore import written_bytes
from holdfast.flows.read_session import ReadSession
from holdfast.flows.restore import plan_restore, restore
from holdfast.flows.restore_request import PlannedRestore, RestoreRequest, RestoreResult
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import join
from holdfast.sources.path.restore_plan import Action, RestoreOptions
from holdfast.sources.path.tally import printable

DAMAGE: Final = frozenset({"file_damaged", "directory_damaged", "node_damaged"})
"""Findings of a restore that say that the repository has lost something."""

_RESTORED: Final = b"restored"


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """What to try, and where.

    `snapshot` is an id or the beginning of one. `scratch` is a directory that is there, empty
    and only for this drill. The content of the directory `path` is restored; `paths`,
    relative to it, limit that. `workers` is 0 to work inside this process.
    """

    snapshot: str
    scratch: bytes
    path: bytes = b""
    paths: tuple[bytes, ...] = ()
    workers: int = 2
    wait_for_lock_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What came of a drill.

    `passed`: everything came back as it was, but for what this host cannot do, which
    `findings` name like everything else. `files` and `directories` are those that were
    compared, bytes are logical ones; `seconds` is all the time, `restore_seconds` that of
    the restore with writing it out.
    """

    files: int
    directories: int
    restored_bytes: int
    compared_bytes: int
    restore_seconds: float
    seconds: float
    passed: bool
    findings: tuple[Finding, ...]


def drill(
    repository: Repository, request: DrillRequest, report: Report = ignore_progress
) -> DrillResult:
    """Restore, read back, compare. Raises as `restore` does, `TargetFull` before it writes."""
    started = time.monotonic()
    report(Progress("preparing"))
    wanted = _restore_request(request)
    plan = plan_restore(repository, wanted)
    if not plan.fits:
        raise TargetFull(
            f"{printable(request.scratch)} has {plan.free_bytes} bytes free and "
            f"{plan.plan.needed_bytes} are needed; nothing was written"
        )
    restored = restore(repository, wanted, _in_stage(report, "restoring"), plan)
    with ReadSession(repository, "restore", wait_seconds=request.wait_for_lock_seconds) as session:
        session.keep_lock()
        expected = _expected(session, request, restored, plan)
        comparison = TreeComparison(
            expected,
            wanted.target,
            os.path.dirname(wanted.target),
            threads=request.workers,
            report=report,
        )
        report(Progress("comparing", files_total=expected.entries, bytes_total=expected.bytes_))
        comparison.run()
    damaged = any(finding.code in DAMAGE for finding in restored.findings)
    return DrillResult(
        comparison.files,
        comparison.directories,
        restored.counts.bytes_written,
        comparison.compared_bytes,
        restored.seconds,
        time.monotonic() - started,
        comparison.passed and not damaged,
        (*comparison.findings, *restored.findings),
    )


def _restore_request(request: DrillRequest) -> RestoreRequest:
    scratch = os.path.realpath(request.scratch)
    return RestoreRequest(
        snapshot=request.snapshot,
        # Below the scratch: so that gets no owner or mode by which others could look in.
        target=join(scratch, _RESTORED),
        path=normal_path(request.path),
        paths=request.paths,
        options=RestoreOptions(within=scratch),
        root_metadata=True,
        sync=True,
        finish_begun=False,
        workers=request.workers,
        wait_for_lock_seconds=request.wait_for_lock_seconds,
    )


def _expected(
    session: ReadSession, request: DrillRequest, restored: RestoreResult, plan: PlannedRestore
) -> Expected:
    """The same part of the same snapshot as was restored, looked up anew."""
    snapshot = session.snapshot(restored.snapshot.id)
    trees = Trees(session.reader)
    place = locate(trees, snapshot, request.path)
    paths = tuple(normal_path(path) for path in request.paths)
    if place.tree is None:
        above, _, name = place.path.rpartition(b"/")
        place, paths = locate(trees, snapshot, above), (name,)
    assert place.tree is not None
    index = session.index
    return Expected(
        tree=place.tree,
        top=place.node,
        nodes=trees.nodes,
        find=lambda blob_id: index.find(BlobType.DATA, blob_id),
        takes=_chosen(paths, leaves_manifest=not place.path and has_manifest(snapshot)),
        damaged=frozenset(
            finding.subject for finding in restored.findings if finding.code in DAMAGE
        ),
        entries=plan.plan.counts[Action.CREATE],
        bytes_=written_bytes(plan),
    )


def _chosen(paths: tuple[bytes, ...], *, leaves_manifest: bool) -> Callable[[bytes, Node], bool]:
    """Which entries should be there: chosen ones, what is below them, and the way to them."""
    everything = not paths or b"" in paths
    chosen = frozenset(paths)
    leading = frozenset(above for path in paths for above in _above(path))

    def takes(path: bytes, _node: Node) -> bool:
        if leaves_manifest and path == MANIFEST_DIRECTORY:
            return False
        if everything or path in chosen or path in leading:
            return True
        return any(above in chosen for above in _above(path))

    return takes


def _above(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _in_stage(report: Report, stage: str) -> Report:
    return lambda progress: report(dataclasses.replace(progress, step=stage))
