"""Statistics: what snapshots hold, what of it is stored, and what only one of them needs.

Every tree is visited at most twice, however many snapshots share it: once for the snapshot
that first needs it, and once more when it turns out to be shared. Reads and counts only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.model.snapshot import Snapshot
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import BlobType
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import Repository
from holdfast.repo.treestream import stream_trees, subtrees

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray

_NOBODY, _SHARED = -1, -2


@dataclass(frozen=True, slots=True)
class SnapshotStatistics:
    """One snapshot: logical sizes, and what it takes in the repository.

    `stored_bytes` are the sealed bytes of all blobs that it needs, or None where that was not
    asked for; `unique_bytes` are those that no other snapshot needs.
    """

    id: str
    files: int
    logical_bytes: int
    stored_bytes: int | None
    unique_bytes: int


@dataclass(frozen=True, slots=True)
class RepositoryStatistics:
    """The whole: `needed_bytes` are sealed bytes that snapshots need, each blob once.

    `raw_bytes` is what those blobs are unpacked; `pack_bytes` what all pack files take.
    """

    snapshots: tuple[SnapshotStatistics, ...]
    blobs: int
    needed_bytes: int
    raw_bytes: int
    packs: int
    pack_bytes: int

    @property
    def logical_bytes(self) -> int:
        return sum(snapshot.logical_bytes for snapshot in self.snapshots)

    @property
    def deduplication(self) -> float:
        """How many times larger the snapshots together are than the blobs that they share."""
        return self.logical_bytes / self.raw_bytes if self.raw_bytes else 1.0

    @property
    def compression(self) -> float:
        """How many times larger the blobs are than they are stored."""
        return self.raw_bytes / self.needed_bytes if self.needed_bytes else 1.0


@dataclass(frozen=True, slots=True)
class Freed:
    """What deleting some snapshots would give back, in sealed bytes.

    `at_once_bytes` are whole packs that nobody else needs; `after_repack_bytes` lie in packs
    that others need as well, and come back only where a prune rewrites those.
    """

    at_once_bytes: int
    after_repack_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.at_once_bytes + self.after_repack_bytes


class Owners:
    """For every blob: nobody, the one snapshot that needs it, or several."""

    def __init__(self, repository: Repository, packs: PackList) -> None:
        import numpy

        self._repository, self._packs = repository, packs
        self._owner: list[NDArray[int32]] = [
            numpy.full(table.rows, _NOBODY, dtype=numpy.int32) for table in packs.index.tables
        ]
        self._tree_sums: dict[bytes, tuple[int, int]] = {}

    def include(self, number: int, root: bytes) -> None:
        """Note what snapshot `number`, with that root, needs; raise `Damaged`."""

        def enter(tree_id: bytes) -> bool:
            return self._claim(BlobType.TREE, tree_id, number)

        for tree in stream_trees(self._repository, self._packs.index, [root], enter):
            if tree.damage is not None:
                raise tree.damage
            for node in tree.nodes:
                for text in node.get("content") or ():
                    self._claim(BlobType.DATA, bytes.fromhex(text), number)

    def _claim(self, kind: BlobType, blob_id: bytes, number: int) -> bool:
        """Return whether what lies below a tree must be looked at because of this claim."""
        copies = self._packs.copies(kind, blob_id)
        if not copies:
            return False
        _, t, row = copies[0]  # always the same one
        owner = self._owner[t]
        old = int(owner[row])
        if old in (number, _SHARED):
            return False
        owner[row] = number if old == _NOBODY else _SHARED
        return True

    def sums(self, root: bytes) -> tuple[int, int]:
        """Return (files, logical bytes) of a tree and all below; each tree is read once."""
        known = self._tree_sums
        waiting: dict[bytes, tuple[int, int, list[bytes]]] = {}
        entered: set[bytes] = set()

        def enter(tree_id: bytes) -> bool:
            new = tree_id not in known and tree_id not in entered
            entered.add(tree_id)
            return new

        for tree in stream_trees(self._repository, self._packs.index, [root], enter):
            if tree.damage is not None:
                raise tree.damage
            nodes = [node for node in tree.nodes if node.get("type") == "file"]
            size = sum(node.get("size", 0) for node in nodes)
            waiting[tree.id] = (len(nodes), size, list(subtrees(tree)))
        stack = [root]
        while stack:
            tree_id = stack[-1]
            if tree_id in known:
                stack.pop()
                continue
            files, size, below = waiting[tree_id]
            unknown = [subtree for subtree in below if subtree not in known]
            if unknown:
                stack.extend(unknown)
                continue
            known[tree_id] = (
                files + sum(known[subtree][0] for subtree in below),
                size + sum(known[subtree][1] for subtree in below),
            )
        return known[root]

    def unique_bytes(self, snapshots: int) -> list[int]:
        """Return for each snapshot the sealed bytes that it alone needs."""
        import numpy

        total = numpy.zeros(snapshots, dtype=numpy.int64)
        for owner, table in zip(self._owner, self._packs.index.tables, strict=True):
            own = owner >= 0
            counted = numpy.bincount(owner[own], weights=table.lengths()[own], minlength=snapshots)
            total += counted.astype(numpy.int64)
        return [int(each) for each in total]


def collect(
    repository: Repository,
    packs: PackList,
    snapshots: list[Snapshot],
    on_snapshot: Callable[[int], None] = lambda _done: None,
    *,
    stored_each: bool = False,
) -> RepositoryStatistics:
    """Count over all `snapshots`; raise `Damaged` where a tree cannot be read.

    `stored_each` counts what each snapshot takes, which reads every tree of every snapshot
    again however much they share.
    """
    owners = Owners(repository, packs)
    everything = NeededBlobs(packs)
    logical: list[tuple[int, int]] = []
    stored: list[int | None] = []
    for number, snapshot in enumerate(snapshots):
        root = bytes.fromhex(snapshot.tree)
        owners.include(number, root)
        logical.append(owners.sums(root))
        stored.append(_stored(repository, packs, root) if stored_each else None)
        on_snapshot(number + 1)
    everything.add_trees(repository, (bytes.fromhex(snapshot.tree) for snapshot in snapshots))
    everything.choose()
    unique = owners.unique_bytes(len(snapshots))
    blobs, raw = everything.count_and_raw_bytes()
    sizes = [info.size_bytes for _, info in repository.pack_files()]
    return RepositoryStatistics(
        tuple(
            SnapshotStatistics(snapshot.id, *logical[n], stored[n], unique[n])
            for n, snapshot in enumerate(snapshots)
        ),
        blobs,
        int(everything.bytes_by_pack().sum()),
        raw,
        len(sizes),
        sum(sizes),
    )


def _stored(repository: Repository, packs: PackList, root: bytes) -> int:
    mine = NeededBlobs(packs)
    mine.add_trees(repository, [root])
    mine.choose()
    return int(mine.bytes_by_pack().sum())


def freed_by(
    repository: Repository, packs: PackList, gone: Iterable[Snapshot], left: Iterable[Snapshot]
) -> Freed:
    """Return what deleting the snapshots `gone` would give back while `left` stay."""
    stay = NeededBlobs(packs)
    stay.add_trees(repository, (bytes.fromhex(snapshot.tree) for snapshot in left))
    go = NeededBlobs(packs)
    go.add_trees(repository, (bytes.fromhex(snapshot.tree) for snapshot in gone))
    go.choose()
    shared_packs = stay.reached_packs()
    at_once = after = 0
    for number, amount in enumerate(go.bytes_without(stay).tolist()):
        if packs.packs[number].id in shared_packs:
            after += amount
        else:
            at_once += amount
    return Freed(at_once, after)
