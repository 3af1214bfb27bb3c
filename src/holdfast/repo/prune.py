"""Pruning in two phases: mark what no snapshot needs, and sweep what was marked long ago.

The order of steps is that of ``docs/design/operations.md`` and is what makes a prune safe
beside writers: new packs, new index files, removal of the old ones, a second look at the
snapshots, and only then deletion. Killed anywhere, the repository is whole. A pack is
never deleted while an index file lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.errors import Conflict, Damaged, RepositoryLocked
from holdfast.model.finding import Finding
from holdfast.repo.index import BlobIndex
from holdfast.repo.index_rewrite import IndexRewrite
from holdfast.repo.indexfile import IndexedPack, decode_index
from holdfast.repo.known import KnownBlobs
from holdfast.repo.lock import Lock
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.packlist import PackList
from holdfast.repo.pool import Pool
from holdfast.repo.prune_plan import PackAction, PackDecision, PackRules, PruneLimits, PrunePlan
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.repo.resurrect import resurrect_marked
from holdfast.repo.stored_index import StoredIndex
from holdfast.repo.threads import JoinedThreads
from holdfast.repo.transfer import Flush, Moved, MovePack, Sealing, TransferSetup
from holdfast.repo.writer import WriteSetup

WRITERS = frozenset({"backup", "copy"})
"""Purposes of locks whose holders store blobs and count on those of others."""
_DELETIONS = 8


def make_plan(
    repository: Repository,
    limits: PruneLimits,
    *,
    now: datetime,
    workers: int = 2,
    on_tree: Callable[[int], None] = lambda _count: None,
) -> PrunePlan:
    """Find what is needed and decide about every pack; raise `Damaged` where that is unsure."""
    # The order matters: a writer that is no longer among the locks has its snapshot listed,
    # a snapshot that is listed has its blobs indexed, a pack that is indexed exists.
    oldest = oldest_writer(repository, now)
    snapshots, damaged = repository.snapshots()
    if damaged:
        raise Damaged(
            f"{damaged[0].message}. What it needs is unknown, so nothing was pruned; remove it "
            "with `holdfast repair snapshots --forget` if it cannot be brought back"
        )
    index = repository.open_index()
    packs = PackList(index)
    needed = NeededBlobs(packs)
    roots = (bytes.fromhex(snapshot.tree) for snapshot in snapshots)
    needed.add_trees(repository, roots, on_tree=on_tree)
    needed.choose()
    sizes = {pack: info.size_bytes for pack, info in repository.pack_files()}
    rules = PackRules(packs, needed, sizes, limits=limits, now=now, oldest_writer=oldest)
    rules.decide()
    return PrunePlan(
        repository_id=repository.config.id,
        limits=limits,
        made=now,
        snapshots=frozenset(snapshot.id for snapshot in snapshots),
        indexes=index.sources,
        decisions=tuple(rules.decisions),
        kept_packs=rules.kept_packs,
        kept_bytes=rules.kept_bytes,
        needed_bytes=rules.needed_bytes,
        unused_bytes=rules.unused_bytes,
        spare_blobs=needed.spare_copies,
        workers=workers,
    )


def oldest_writer(repository: Repository, now: datetime) -> datetime | None:
    """Return when the writer that has been at work longest began, or None."""
    begins = [
        record.since or datetime.min.replace(tzinfo=UTC)
        for record in repository.lock_files().records()
        if record.purpose in WRITERS and not record.is_stale(now)
    ]
    # A writer that does not say when it began may have begun before every mark.
    return max(min(begins), datetime(1980, 1, 1, tzinfo=UTC)) if begins else None


@dataclass(frozen=True, slots=True)
class PruneOutcome:
    """What a prune has done. `findings` are packs that could not be treated as planned."""

    marked: int
    marked_bytes: int
    deleted: int
    deleted_bytes: int
    repacked: int
    written_bytes: int
    revived: int
    findings: tuple[Finding, ...]


class PruneRun:
    """Executes a plan under a lock that the caller holds; use `execute` once."""

    def __init__(
        self,
        repository: Repository,
        plan: PrunePlan,
        lock: Lock,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_moved: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._repository, self._plan, self._lock, self._clock = repository, plan, lock, clock
        self._on_moved = on_moved
        self._findings: list[Finding] = []
        self._failed: set[bytes] = set()
        self._written_bytes = 0
        self._revived = 0

    def execute(self) -> PruneOutcome:
        """Do what the plan says; raise `Conflict` where the repository is not as it was."""
        self._check_unchanged()
        index = self._repository.open_index()
        packs = PackList(index)
        decisions = self._still_valid(self._plan.decisions, index.sources)
        self._repack([d for d in decisions if d.action is PackAction.REPACK], packs)
        decisions = [d for d in decisions if d.pack not in self._failed]
        decisions = self._spare_late_needs(decisions)
        self._rewrite_index(decisions, packs)
        self._look_again()
        deleted = self._delete(decisions)
        return self._outcome(decisions, deleted)

    def _check_unchanged(self) -> None:
        plan, repository = self._plan, self._repository
        if plan.repository_id != repository.config.id:
            raise Conflict("the plan is of another repository; plan again")
        listed = {bytes.fromhex(name) for name in repository.ids(FileKind.INDEX)}
        if not plan.indexes <= listed:
            raise Conflict("index files were replaced since the prune was planned; plan again")
        if plan.limits.instant:
            new = set(repository.ids(FileKind.SNAPSHOT)) - plan.snapshots
            if new or listed != plan.indexes:
                raise Conflict("something was stored since the prune was planned; plan again")

    def _still_valid(
        self, decisions: tuple[PackDecision, ...], sources: frozenset[bytes]
    ) -> list[PackDecision]:
        """Leave out packs that an index file younger than the plan lists."""
        listed: set[bytes] = set()
        for source in sources - self._plan.indexes:
            name = source.hex()
            text = self._repository.load(FileKind.INDEX, name)
            listed.update(pack.id for pack in decode_index(text, f"index {name[:8]}"))
        return [decision for decision in decisions if decision.pack not in listed]

    # Repack

    def _repack(self, decisions: list[PackDecision], packs: PackList) -> None:
        repository = self._repository
        if not decisions:
            self._lock.keep()
            return
        known = KnownBlobs()
        setup = TransferSetup(
            repository,
            WriteSetup(
                store=repository.store,
                key=repository.key,
                index=BlobIndex([]),
                known=known,
                version=repository.config.version,
            ),
            Sealing.KEPT,
        )
        workers = self._plan.workers if repository.store.shareable else 0
        stored = StoredIndex(repository)
        done, total = 0, sum(decision.needed_bytes for decision in decisions)
        try:
            with Pool(workers, setup, fork=repository.store.fork_safe) as pool:
                self._lock.keep()
                moved: Moved
                for moved in pool.unordered(_moves(decisions, packs)):
                    self._take(moved, stored, packs)
                    done += moved.bytes_read
                    self._on_moved(done, total)
                for moved in pool.broadcast(Flush()):
                    self._take(moved, stored, packs)
        finally:
            known.close()
        # New packs are listed before the packs that they replace are marked.
        stored.write()

    def _take(self, moved: Moved, stored: StoredIndex, packs: PackList) -> None:
        self._written_bytes += moved.totals.stored_bytes
        stored.add(moved.stored)
        if moved.failed:
            self._failed.add(moved.pack)
            for blob, _ in moved.failed:
                # Another pack may hold the last good copy, and was not needed while this
                # one counted as good.
                for number, _, _ in packs.copies(blob.type, blob.id):
                    self._failed.add(packs.packs[number].id)
            name = moved.pack.hex()
            self._findings.append(
                Finding(
                    "pack_damaged",
                    f"{len(moved.failed)} needed blobs of pack {name[:8]} do not open "
                    f"({moved.failed[0][1]}); it was left alone. Run `holdfast verify --read-data`",
                    name,
                )
            )

    # Index

    def _spare_late_needs(self, decisions: list[PackDecision]) -> list[PackDecision]:
        """Leave out of a sweep what a snapshot needs that the plan did not see."""
        snapshots, _ = self._repository.snapshots()
        late = [s for s in snapshots if s.id not in self._plan.snapshots]
        sweeps = {d.pack for d in decisions if d.action in (PackAction.SWEEP, PackAction.FORGET)}
        if not late or not sweeps:
            return decisions
        # Opened after the snapshots were listed, so that it has what they need.
        needed = NeededBlobs(PackList(self._repository.open_index()))
        needed.add_trees(self._repository, (bytes.fromhex(s.tree) for s in late))
        spared = sweeps & needed.reached_packs()
        return [decision for decision in decisions if decision.pack not in spared]

    def _rewrite_index(self, decisions: list[PackDecision], packs: PackList) -> None:
        changed = {d.pack for d in decisions if d.action is not PackAction.WAIT}
        if not changed:
            return
        self._refuse_if_lapsed()
        rewrite = IndexRewrite(self._repository)
        rewrite.write(self._plan.indexes, changed, self._listings(decisions, packs))
        self._refuse_if_lapsed()
        rewrite.remove_superseded()

    def _listings(self, decisions: list[PackDecision], packs: PackList) -> Iterator[IndexedPack]:
        # The time of writing, not of planning: nobody who opens the index much later is
        # offered these packs, and a sweep goes by that.
        mark_ns = int(self._clock().timestamp() * 1_000_000_000)
        alive = (PackAction.REVIVE, PackAction.RELIST)
        going = (PackAction.MARK, PackAction.REPACK)
        for decision in decisions:
            number = packs.number_of.get(decision.pack)
            if decision.action in alive and number is not None:
                self._revived += decision.action is PackAction.REVIVE
                yield packs.listing(number, None)
            elif decision.action in going and not self._plan.limits.instant:
                if number is None:
                    yield IndexedPack(decision.pack, [], mark_ns)
                else:
                    yield packs.listing(number, mark_ns)

    def _look_again(self) -> None:
        """Take back marks on what snapshots need that were made since the plan.

        Only now, when the index files without marks are gone: a writer that commits after
        this look finds them gone, and looks itself.
        """
        snapshots, _ = self._repository.snapshots()
        late = [s for s in snapshots if s.id not in self._plan.snapshots]
        if late:
            self._revived += resurrect_marked(self._repository, late)

    # Deletion

    def _delete(self, decisions: list[PackDecision]) -> list[PackDecision]:
        gone = {PackAction.SWEEP}
        if self._plan.limits.instant:
            gone |= {PackAction.MARK, PackAction.REPACK}
        doomed = [decision for decision in decisions if decision.action in gone]
        if not doomed:
            return []
        # Nothing can have been listed again, by the rules; if it is, they were broken by
        # somebody, and a pack too many is better than one too few.
        index = self._repository.open_index()
        alive = {pack for pack, _ in index.packs()}
        for pack in [decision.pack for decision in doomed if decision.pack in alive]:
            name = pack.hex()
            message = f"pack {name[:8]} was listed again; it stays"
            self._findings.append(Finding("pack_listed_again", message, name))
        deleted = [decision for decision in doomed if decision.pack not in alive]
        with JoinedThreads(_DELETIONS) as threads:
            for _ in threads.map(self._delete_pack, deleted):
                pass
        return deleted

    def _delete_pack(self, decision: PackDecision) -> None:
        self._refuse_if_lapsed()
        self._repository.store.delete(pack_key(decision.pack))

    def _refuse_if_lapsed(self) -> None:
        if self._lock.lapsed():
            raise RepositoryLocked(
                "this process was stopped for so long that its lock expired; nothing more was "
                "removed. Run the prune again"
            )

    def _outcome(self, decisions: list[PackDecision], deleted: list[PackDecision]) -> PruneOutcome:
        going = [d for d in decisions if d.action in (PackAction.MARK, PackAction.REPACK)]
        marked = [] if self._plan.limits.instant else going
        return PruneOutcome(
            marked=len(marked),
            marked_bytes=sum(decision.size_bytes for decision in marked),
            deleted=len(deleted),
            deleted_bytes=sum(decision.size_bytes for decision in deleted),
            repacked=sum(decision.action is PackAction.REPACK for decision in decisions),
            written_bytes=self._written_bytes,
            revived=self._revived,
            findings=tuple(self._findings),
        )


def _moves(decisions: list[PackDecision], packs: PackList) -> Iterator[MovePack]:
    for decision in decisions:
        blobs = packs.blobs(packs.number_of[decision.pack])
        needed = [blob for blob, wanted in zip(blobs, decision.needed, strict=True) if wanted]
        yield MovePack(decision.pack, needed)
