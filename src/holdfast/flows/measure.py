"""Measure: what share of the stored bytes each snapshot has, and what deleting it would free.

A blob that n snapshots need counts a n-th for each of them. Shares are whole bytes, and
their sum is exactly what all snapshots together need, each blob counted once, sealed, as it
lies in its pack. Every tree is read once, however many snapshots hold it. Reads only.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.lock import PRUNE
from holdfast.repo.pack import BlobType
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import Repository
from holdfast.repo.treestream import StreamedTree, stream_trees

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray

_NOBODY = 0


@dataclass(frozen=True, slots=True)
class Share:
    """One snapshot's part of what is stored; `freed_bytes` is what nobody else needs."""

    snapshot_id: str
    share_bytes: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """All shares. `stored_bytes` is their sum, `pack_bytes` what all packs take.

    A snapshot with damage has a share of what could be read, and a finding.
    """

    stored_bytes: int
    pack_bytes: int
    shares: tuple[Share, ...]
    findings: tuple[Finding, ...]


def measure(
    repository: Repository,
    report: Report = ignore_progress,
    *,
    wait_for_lock_seconds: float = 0.0,
) -> Measurement:
    """Measure all snapshots of a repository."""
    with repository.lock("read", tolerates={PRUNE}, wait_seconds=wait_for_lock_seconds) as lock:
        lock.keep()
        snapshots, findings = repository.snapshots()
        users = _Users(repository, PackList(repository.open_index()), report)
        users.read_trees(snapshots)
        users.hand_down()
        shares, freed = users.divide(len(snapshots))
        pack_bytes = sum(info.size_bytes for _, info in repository.pack_files())
    return Measurement(
        sum(shares),
        pack_bytes,
        tuple(
            Share(snapshot.id, shares[number], freed[number])
            for number, snapshot in enumerate(snapshots)
        ),
        (*findings, *users.findings),
    )


class _Groups:
    """Sets of snapshots, each as a number; the same set always has the same number."""

    def __init__(self) -> None:
        self.members: list[int] = [0]  # bits; the first is the empty set
        self._numbers = {0: _NOBODY}
        self._unions: dict[tuple[int, int], int] = {}

    def of(self, members: int) -> int:
        number = self._numbers.get(members)
        if number is None:
            number = self._numbers[members] = len(self.members)
            self.members.append(members)
        return number

    def union(self, one: int, other: int) -> int:
        if one in (other, _NOBODY):
            return other
        if other == _NOBODY:
            return one
        pair = (one, other) if one < other else (other, one)
        number = self._unions.get(pair)
        if number is None:
            number = self._unions[pair] = self.of(self.members[one] | self.members[other])
        return number


@dataclass(slots=True)
class _Tree:
    """A tree: the trees below it, and the rows of the blobs of its files."""

    below: list[bytes]
    rows: array[int]
    above: int = 0
    users: int = _NOBODY


class _Users:
    """Finds for each blob the set of snapshots that use it."""

    def __init__(self, repository: Repository, packs: PackList, report: Report) -> None:
        import numpy

        self._repository, self._packs, self._report = repository, packs, report
        self._trees: dict[bytes, _Tree] = {}
        self._groups = _Groups()
        # One number for each row of all tables together.
        self._starts = [0]
        for table in packs.index.tables:
            self._starts.append(self._starts[-1] + table.rows)
        self._users: NDArray[int32] = numpy.zeros(self._starts[-1], dtype=numpy.int32)
        self.findings: list[Finding] = []

    def read_trees(self, snapshots: Sequence[Snapshot]) -> None:
        """Take in every tree once, and note which snapshots begin where."""
        roots = [bytes.fromhex(snapshot.tree) for snapshot in snapshots]
        trees = stream_trees(self._repository, self._packs.index, roots, self._enter)
        for count, tree in enumerate(trees, 1):
            self._take(tree)
            self._report(Progress("trees", files_done=count))
        for number, root in enumerate(roots):
            top = self._trees.get(root)
            if top is not None:
                top.users = self._groups.union(top.users, self._groups.of(1 << number))

    def hand_down(self) -> None:
        """Let every tree's users be users of all that is below it."""
        trees = self._trees
        for tree in trees.values():
            for below in tree.below:
                trees[below].above += 1
        # A tree passes its users on when all that are above it have passed theirs.
        ready = [name for name, tree in trees.items() if not tree.above]
        done = 0
        while ready:
            name = ready.pop()
            tree = trees[name]
            done += 1
            row = self._row(BlobType.TREE, name)
            if row is not None:
                self._use(row, tree.users)
            for row in tree.rows:
                self._use(row, tree.users)
            for below in tree.below:
                child = trees[below]
                child.users = self._groups.union(child.users, tree.users)
                child.above -= 1
                if not child.above:
                    ready.append(below)
        assert done == len(trees), "a tree named by its content cannot hold itself"

    def divide(self, snapshots: int) -> tuple[list[int], list[int]]:
        """Return each snapshot's share, and what is its alone."""
        import numpy

        sizes = numpy.zeros(len(self._groups.members), dtype=numpy.int64)
        for start, table in zip(self._starts, self._packs.index.tables, strict=False):
            users = self._users[start : start + table.rows]
            numpy.add.at(sizes, users, table.lengths().astype(numpy.int64))
        shares, freed = [0] * snapshots, [0] * snapshots
        for bits, size in zip(self._groups.members, sizes.tolist(), strict=True):
            members = _members(bits)
            if not members or not size:
                continue
            each, left = divmod(size, len(members))
            for place, number in enumerate(members):
                # What cannot be divided goes, a byte each, to the oldest.
                shares[number] += each + (place < left)
            if len(members) == 1:
                freed[members[0]] += size
        return shares, freed

    def _enter(self, tree_id: bytes) -> bool:
        if tree_id in self._trees:
            return False
        self._trees[tree_id] = _Tree([], array("q"))
        return True

    def _take(self, tree: StreamedTree) -> None:
        if tree.damage is not None:
            self.findings.append(Finding("tree_damaged", tree.damage.message, tree.id.hex()))
            return
        below: list[bytes] = []
        rows: set[int] = set()
        for node in tree.nodes:
            subtree = node.get("subtree")
            if subtree:
                below.append(bytes.fromhex(subtree))
            for text in node.get("content") or ():
                row = self._row(BlobType.DATA, bytes.fromhex(text))
                if row is not None:
                    rows.add(row)
        known = self._trees[tree.id]
        known.below = list(dict.fromkeys(below))
        known.rows = array("q", rows)

    def _row(self, kind: BlobType, blob_id: bytes) -> int | None:
        """The row that stands for a blob, always the same one; None where no pack lists it."""
        copies = self._packs.copies(kind, blob_id)
        if not copies:
            return None
        _, table, row = copies[0]
        return self._starts[table] + row

    def _use(self, row: int, users: int) -> None:
        old = int(self._users[row])
        if old != users:
            self._users[row] = self._groups.union(old, users)


def _members(bits: int) -> list[int]:
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found
