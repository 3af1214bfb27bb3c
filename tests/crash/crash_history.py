"""A random history of two repositories: acts that store, forget, prune, copy and repair.

The same seed gives the same acts, as long as all of them succeed. What an act promises goes
to the journal as it begins and after it has returned. A history that is begun again on what
an interrupted one left goes on there, as a person would.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from crash_journal import (
    ATTEMPT,
    BackupBegun,
    Content,
    Ended,
    ForgetBegun,
    Forgotten,
    Journal,
    Promises,
    Stored,
    attempt_of,
)
from evolving_tree import EvolvingTree
from sample_repository import CHEAP, DAY, NOW, PASSWORD
from tree_compare import describe_tree

from holdfast.errors import HoldfastError, NotARepository, StoreUnavailable
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.backup_disk import DiskBackupRequest, backup_disk
from holdfast.flows.copy import CopyRequest, copy
from holdfast.flows.forget import ForgetRequest, forget, plan_forget
from holdfast.flows.keys import key_change
from holdfast.flows.merge_index import merge_index_files
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.repair import plan_index_repair, repair_index
from holdfast.flows.unlock import unlock
from holdfast.model.retention import RetentionPolicy
from holdfast.model.snapshot import Snapshot
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import Repository
from holdfast.store.faults import Call, Fault, FaultyStore, fail_before
from holdfast.store.protocol import ObjectStore

MAIN, SECOND = 0, 1


@dataclass(frozen=True)
class Ground:
    """Where a case lies: its sources, its journal, its cache, and a restore's target."""

    directory: Path

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def journal(self) -> Journal:
        return Journal(self.directory / "journal")

    def repository(self, where: int) -> Path:
        return self.directory / f"repository-{where}"

    def copy_to(self, directory: Path) -> Ground:
        """A copy with the same sources, inodes apart, to go on from twice."""
        shutil.copytree(self.directory, directory, symlinks=True)
        return Ground(directory)


class History:
    """Acts on two stores. `before` is told of every act, by number and name, as it begins.

    `now` is when prunes take place; None is the present, which others' locks go by.
    """

    def __init__(
        self,
        ground: Ground,
        stores: tuple[ObjectStore, ObjectStore],
        seed: str,
        *,
        workers: int = 0,
        cached: bool = False,
        may_fail: bool = False,
        now: datetime | None = NOW,
        before: Callable[[int, str], None] = lambda _number, _name: None,
    ) -> None:
        self._ground, self._stores, self._journal = ground, stores, ground.journal
        self._chance = random.Random(seed)
        self._seed, self._workers, self._may_fail, self._before = seed, workers, may_fail, before
        self._cache = str(ground.directory / "cache") if cached else None
        self._begun = 0
        self._now = now
        self._tree = EvolvingTree(ground.tree, self._chance, self._chance.randrange(10**6))

    def live(self, acts: int) -> None:
        """Go through so many random acts; the first is always a backup."""
        names = [
            *("backup",) * 6,
            *("disk", "forget", "forget", "mark", "mark", "sweep", "sweep", "instant"),
            *("copy", "copy", "interrupted", "reindex", "reindex", "rekey", "elsewhere"),
        ]
        self.act("backup")
        for _ in range(acts - 1):
            self.act(self._chance.choice(names))

    def act(self, name: str) -> None:
        """Do one act, each with arguments of its own choice."""
        self._before(self._begun, name)
        self._begun += 1
        error = ""
        try:
            getattr(self, f"_{name}")()
        except HoldfastError as raised:
            if not self._may_fail:
                raise
            error = f"{type(raised).__name__}: {raised.message}"
            self.unlock()
        self._journal.write(Ended(name, error))

    def unlock(self) -> None:
        """Remove the locks that an act could not, as a person would who knows that it ended."""
        self._before(self._begun, "unlock")
        for store in self._stores:
            with suppress(NotARepository):
                unlock(Repository.open(store, PASSWORD), every_lock=True)

    def _repository(self, where: int = MAIN) -> Repository:
        """Open a repository, or make it where an interrupted history did not come to that."""
        store = self._stores[where]
        try:
            return Repository.open(store, PASSWORD, cache_directory=self._cache)
        except NotARepository:
            return Repository.create(store, PASSWORD, scrypt=CHEAP, cache_directory=self._cache)

    def _attempt(self, content: Content) -> str:
        attempt = f"{ATTEMPT}{self._seed}.{self._begun}"
        self._journal.write(BackupBegun(attempt, content))
        return attempt

    def _stored(self, where: int, snapshot: Snapshot | None) -> None:
        assert snapshot is not None
        self._journal.write(Stored(where, attempt_of(snapshot.tags), snapshot.id))

    # Acts

    def _backup(self, where: int = MAIN) -> None:
        self._tree.evolve(self._chance.randrange(8))
        repository = self._repository(where)
        request = BackupRequest(
            (os.fsencode(self._ground.tree),),
            tags=(self._attempt(describe_tree(self._ground.tree, root_entry=True)),),
            parent=self._chance.choice(["", "", None]),
            workers=self._workers,
            settle_ns=0,
        )
        self._stored(where, backup(repository, request).snapshot)

    def _interrupted(self) -> None:
        """A backup whose packs are stored and whose index is not."""

        def plan(call: Call) -> Fault | None:
            index = call.method == "create" and call.key.startswith("index/")
            return fail_before(StoreUnavailable("interrupted on purpose")) if index else None

        self._tree.evolve(4)
        faulty = FaultyStore(self._stores[MAIN], plan)
        request = BackupRequest((os.fsencode(self._ground.tree),), workers=0, settle_ns=0)
        with suppress(StoreUnavailable):
            backup(Repository.open(faulty, PASSWORD), request)

    def _elsewhere(self) -> None:
        self._backup(SECOND)

    def _disk(self) -> None:
        image, chance = self._ground.disk, self._chance
        with image.open("r+b" if image.exists() else "w+b") as file:
            file.truncate(1_300_000)
            file.seek(chance.randrange(1_300_000 - 5000))
            file.write(chance.randbytes(5000))
        request = DiskBackupRequest(
            {"vda": str(image)},
            chunk_size_bytes=256 << 10,
            tags=(self._attempt(hashlib.sha256(image.read_bytes()).hexdigest()),),
            workers=self._workers,
        )
        self._stored(MAIN, backup_disk(self._repository(), request).snapshot)

    def _forget(self) -> None:
        where = self._chance.choice([MAIN, MAIN, MAIN, SECOND])
        repository = self._repository(where)
        listed = [snapshot.id for snapshot in repository.snapshots()[0]]
        if self._chance.randrange(2):
            request = ForgetRequest(policy=RetentionPolicy(keep_last=self._chance.randrange(1, 4)))
        else:
            chosen = self._chance.sample(listed, self._chance.randrange(len(listed) + 1))
            if not chosen:
                return
            request = ForgetRequest(ids=tuple(chosen))
        plan = plan_forget(repository, request)
        self._journal.write(ForgetBegun(where, plan.removed))
        self._journal.write(Forgotten(where, forget(repository, plan).removed))

    def _forget_own(self) -> None:
        """Forget some of what this history has stored, as others may be at work here."""
        own = sorted(Promises(self._journal).kept(MAIN))
        chosen = tuple(self._chance.sample(own, self._chance.randrange(len(own) + 1)))
        if chosen:
            repository = self._repository()
            plan = plan_forget(repository, ForgetRequest(ids=chosen))
            self._journal.write(ForgetBegun(MAIN, plan.removed))
            self._journal.write(Forgotten(MAIN, forget(repository, plan).removed))

    def _mark(self, limits: PruneLimits | None = None, where: int | None = None) -> None:
        if limits is None:
            limits = PruneLimits(
                max_unused_percent=self._chance.choice([0.0, 0.0, 10.0, 100.0]),
                merge_small=self._chance.random() < 0.8,
            )
        if where is None:
            where = self._chance.choice([MAIN, MAIN, MAIN, SECOND])
        repository = self._repository(where)
        request = PruneRequest(limits, workers=self._workers, now=self._now)
        prune(repository, plan_prune(repository, request), now=self._now)

    def _mark_main(self) -> None:
        self._mark(where=MAIN)

    def _sweep(self) -> None:
        assert self._now is not None
        self._now += DAY
        self._mark()

    def _instant(self) -> None:
        self._mark(PruneLimits(max_unused_percent=0, instant=True))

    def _merge(self) -> None:
        merge_index_files(self._repository(), many=2)

    def _copy(self) -> None:
        result = copy(
            self._repository(MAIN), self._repository(SECOND), CopyRequest(workers=self._workers)
        )
        for _, snapshot in result.copied:
            self._stored(SECOND, snapshot)

    def _reindex(self) -> None:
        repository = self._repository()
        plan = plan_index_repair(repository, read_all=self._chance.random() < 0.5)
        repair_index(repository, plan)

    def _rekey(self) -> None:
        key_change(self._repository(), PASSWORD, scrypt=CHEAP)
