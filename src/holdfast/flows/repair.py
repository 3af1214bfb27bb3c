"""Repair: rebuild the index, save what damaged packs still hold, drop what is lost for good.

Each of the three is a plan, which says what will be done and what is lost, and an act that
takes the plan and works alone in the repository. In that order they make a damaged
repository whole again, at the price that the plans name; a replica lowers the price.
Nothing is repaired that was not asked for, and no snapshot is removed unless told so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.errors import Conflict
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.damage import DamagedSnapshot, trace_damage
from holdfast.repo.known import KnownBlobs
from holdfast.repo.lock import Lock
from holdfast.repo.pack import BlobType
from holdfast.repo.reindex import IndexRepairPlan, plan_reindex, reindex
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.salvage import Replica, SalvagePlan, plan_mend, plan_salvage, salvage
from holdfast.repo.stored_index import StoredIndex
from holdfast.repo.tree_rewrite import TreeRewriter
from holdfast.repo.verify import Structure
from holdfast.repo.writer import BlobWriter, WriteSetup

REPAIR = "repair"
"""Purpose of the lock of a repair, which tolerates nobody."""
REPAIRED_TAG = "repaired"


@dataclass(frozen=True, slots=True)
class SnapshotRepairPlan:
    """Which snapshots are rewritten, what each loses, and whether the damaged ones go.

    `unreadable` are snapshots whose record cannot be read: nothing is left to rewrite.
    `wrong_sizes` are files whose size is corrected.
    """

    repository_id: str
    damaged: tuple[DamagedSnapshot, ...]
    hopeless: tuple[str, ...]
    unreadable: tuple[str, ...]
    wrong_sizes: tuple[str, ...]
    lost: frozenset[tuple[BlobType, bytes]]
    forget: bool

    @property
    def does_nothing(self) -> bool:
        return not (self.damaged or self.wrong_sizes or (self.forget and self.unreadable))


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What was done: packs whose listing changed or that were salvaged, and new snapshots.

    `snapshots` are (damaged id, new snapshot); `removed` the ids of records that went.
    """

    packs: int = 0
    snapshots: tuple[tuple[str, Snapshot], ...] = ()
    removed: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0


def plan_index_repair(
    repository: Repository, *, read_all: bool = False, wait_seconds: float = 0.0
) -> IndexRepairPlan:
    """Find what is wrong with the index; `read_all` checks it against every pack's header."""
    with _alone(repository, wait_seconds):
        return plan_reindex(repository, read_all=read_all)


def repair_index(
    repository: Repository, plan: IndexRepairPlan, *, wait_seconds: float = 0.0
) -> RepairResult:
    """Rebuild the index as planned."""
    started = time.monotonic()
    with _alone(repository, wait_seconds):
        packs = reindex(repository, plan)
    return RepairResult(packs, findings=plan.findings, seconds=time.monotonic() - started)


def plan_pack_repair(
    repository: Repository,
    packs: tuple[str, ...],
    replica: Repository | None = None,
    *,
    wait_seconds: float = 0.0,
) -> SalvagePlan:
    """Say what can be saved of `packs`, given by id as `verify` names them."""
    with _alone(repository, wait_seconds):
        source = None if replica is None else Replica(replica)
        return plan_salvage(repository, map(bytes.fromhex, packs), source)


def plan_replica_repair(
    repository: Repository, replica: Repository, *, wait_seconds: float = 0.0
) -> SalvagePlan:
    """Find what snapshots need and no index lists, and what of it the replica has."""
    with _alone(repository, wait_seconds):
        return plan_mend(repository, Replica(replica))


def repair_packs(
    repository: Repository,
    plan: SalvagePlan,
    replica: Repository | None = None,
    report: Report = ignore_progress,
    *,
    now: datetime | None = None,
    wait_seconds: float = 0.0,
) -> RepairResult:
    """Save what can be saved, as planned; give the replica that the plan was made with."""
    started = time.monotonic()
    with _alone(repository, wait_seconds):
        source = None if replica is None else Replica(replica)
        salvage(repository, plan, source, now or datetime.now(UTC), _count(report))
    findings = tuple(
        Finding("blob_lost", f"{kind.word} blob {blob_id.hex()[:16]} is lost", blob_id.hex())
        for kind, blob_id in plan.lost
    )
    return RepairResult(len(plan.packs), findings=findings, seconds=time.monotonic() - started)


def plan_snapshot_repair(
    repository: Repository, *, forget: bool = False, wait_seconds: float = 0.0
) -> SnapshotRepairPlan:
    """Find the snapshots that are not whole; `forget` removes them once they are rewritten.

    Goes by the index: bring that and the packs in order first, or more is dropped than is
    lost.
    """
    with _alone(repository, wait_seconds):
        structure = Structure(repository)
        structure.check()
        wrong = {f.subject for f in structure.findings if f.code == "file_size_wrong"}
        damaged = trace_damage(repository, structure.index, structure.snapshots, structure.lost)
        hopeless = [each.id for each in damaged if any(lost.path == "/" for lost in each.lost)]
        return SnapshotRepairPlan(
            repository.config.id,
            tuple(damaged),
            tuple(hopeless),
            tuple(structure.unreadable_snapshots),
            tuple(sorted(wrong)),
            frozenset(structure.lost),
            forget,
        )


def repair_snapshots(
    repository: Repository,
    plan: SnapshotRepairPlan,
    report: Report = ignore_progress,
    *,
    wait_seconds: float = 0.0,
) -> RepairResult:
    """Write each damaged snapshot anew without what is lost, tagged and with its origin."""
    started = time.monotonic()
    if plan.repository_id != repository.config.id:
        raise Conflict("the plan is of another repository; plan again")
    with _alone(repository, wait_seconds):
        rewritten, hopeless = _rewrite(repository, plan, _count(report))
        removed: list[str] = []
        if plan.forget:
            removed = [*(old for old, _ in rewritten), *hopeless, *plan.unreadable]
            for name in removed:
                repository.remove(FileKind.SNAPSHOT, name)
    findings = [
        Finding("path_lost", f"{lost.path}: {lost.reason}", each.id)
        for each in plan.damaged
        for lost in each.lost
    ]
    findings += [
        Finding("snapshot_lost", f"the record of snapshot {name[:8]} cannot be read", name)
        for name in plan.unreadable
    ]
    return RepairResult(
        snapshots=tuple(rewritten),
        removed=tuple(removed),
        findings=tuple(findings),
        seconds=time.monotonic() - started,
    )


def _rewrite(
    repository: Repository, plan: SnapshotRepairPlan, tell: Callable[[], None]
) -> tuple[list[tuple[str, Snapshot]], list[str]]:
    index = repository.open_index()
    known = KnownBlobs()
    writer = BlobWriter(
        WriteSetup(repository.store, repository.key, index, known, repository.config.version)
    )
    stored = StoredIndex(repository)
    rewriter = TreeRewriter(
        repository, index, plan.lost, lambda tree: writer.add(BlobType.TREE, tree)
    )
    # Wrong sizes may be in any snapshot, losses only in those that the plan names.
    wanted = None if plan.wrong_sizes else {each.id for each in plan.damaged}
    documents: list[tuple[str, dict[str, object]]] = []
    hopeless: list[str] = []
    try:
        for snapshot in repository.snapshots()[0]:
            if wanted is not None and snapshot.id not in wanted:
                continue
            tree = rewriter.rewrite(bytes.fromhex(snapshot.tree))
            stored.add(writer.take_stored())
            tell()
            if tree is None:
                hopeless.append(snapshot.id)
            elif tree.hex() != snapshot.tree:
                documents.append((snapshot.id, _document(snapshot, tree)))
        stored.add(writer.flush())
    finally:
        writer.close()
        known.close()
    stored.write()
    return [(old, repository.save_snapshot(new)) for old, new in documents], hopeless


def _document(snapshot: Snapshot, tree: bytes) -> dict[str, object]:
    tags = [tag for tag in snapshot.tags if tag != REPAIRED_TAG]
    return snapshot.document | {
        "tree": tree.hex(),
        "tags": [*tags, REPAIRED_TAG],
        "original": snapshot.original or snapshot.id,
    }


def _alone(repository: Repository, wait_seconds: float) -> _Alone:
    return _Alone(repository.lock(REPAIR, exclusive=True, wait_seconds=wait_seconds))


class _Alone:
    """An exclusive lock that is refreshed from the start, as a repair forks nothing."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.__enter__()
        self._lock.keep()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _count(report: Report) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        report(Progress("repair", files_done=done))

    return tell
