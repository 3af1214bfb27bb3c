"""Needed blobs: which rows of an index some snapshots reach, one byte for each row.

Where a blob lies in several packs, one copy is chosen and the others count as spare. It is
never guessed that something is not needed: what cannot be read is reported to the caller,
who must not delete anything then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from holdfast.errors import Damaged
from holdfast.repo.pack import BlobType
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import Repository
from holdfast.repo.treestream import stream_trees

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.typing import NDArray

_NEEDED, _COPIED, _SPARE = 1, 2, 3
OnDamage = Callable[[BlobType, bytes, Damaged], None]


def raise_damage(_kind: BlobType, _blob_id: bytes, error: Damaged) -> None:
    """An `OnDamage` that gives up."""
    raise error


class NeededBlobs:
    """Collects needs with `add_trees`; after `choose` every blob counts in one pack."""

    def __init__(self, packs: PackList) -> None:
        self._packs = packs
        self._tables = packs.index.tables
        self._rows = [bytearray(table.rows) for table in self._tables]

    def add_trees(
        self,
        repository: Repository,
        roots: Iterable[bytes],
        on_damage: OnDamage = raise_damage,
        on_tree: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Mark everything that the trees `roots` reach.

        A tree that cannot be read, and a blob that no index lists, go to `on_damage`.
        `on_tree` is told how many trees were read.
        """
        unlisted: set[bytes] = set()

        def enter(tree_id: bytes) -> bool:
            new = self.need(BlobType.TREE, tree_id)
            if new is None:
                if tree_id not in unlisted:
                    unlisted.add(tree_id)
                    on_damage(BlobType.TREE, tree_id, _unlisted(BlobType.TREE, tree_id))
                return False
            return new

        trees = stream_trees(repository, self._packs.index, roots, enter)
        for count, tree in enumerate(trees, 1):
            if tree.damage is not None:
                on_damage(BlobType.TREE, tree.id, tree.damage)
            for node in tree.nodes:
                for text in node.get("content") or ():
                    blob_id = bytes.fromhex(text)
                    if self.need(BlobType.DATA, blob_id) is None and blob_id not in unlisted:
                        unlisted.add(blob_id)
                        on_damage(BlobType.DATA, blob_id, _unlisted(BlobType.DATA, blob_id))
            on_tree(count)

    def need(self, kind: BlobType, blob_id: bytes) -> bool | None:
        """Mark one blob; return whether that is new, or None where no pack lists it."""
        places = []
        for t, table in enumerate(self._tables):
            for row in table.positions(blob_id):
                if self._packs.row_packs[t][row] >= 0 and table.row(row)[5] & 1 == kind:
                    if self._rows[t][row]:
                        return False
                    places.append((t, row))
        if not places:
            return None
        state = _NEEDED if len(places) == 1 else _COPIED
        for t, row in places:
            self._rows[t][row] = state
        return True

    def choose(self) -> None:
        """Settle on one copy of each blob that lies in several packs.

        A copy in a pack that is alive is taken before one that is marked, one in a pack that
        stays anyhow before one in a pack that could go without it.
        """
        import numpy

        own = self.bytes_by_pack()
        listed = self._packs.packs
        for t, rows in enumerate(self._rows):
            copied = numpy.flatnonzero(numpy.frombuffer(rows, dtype=numpy.uint8) == _COPIED)
            for row in copied.tolist():
                if rows[row] != _COPIED:
                    continue  # settled with an earlier row of the same blob
                blob_id, _, _, length, _, flags = self._tables[t].row(row)
                copies = self._packs.copies(BlobType(flags & 1), blob_id)
                best = max(
                    copies,
                    key=lambda copy: (
                        listed[copy[0]].marked_ns is None,
                        own[copy[0]],
                        listed[copy[0]].id,
                    ),
                )
                for copy in copies:
                    self._rows[copy[1]][copy[2]] = _NEEDED if copy == best else _SPARE
                own[best[0]] += length

    def bytes_by_pack(self) -> NDArray[int64]:
        """Return for every pack the sealed bytes that are needed of it and lie nowhere else."""
        return self.bytes_without(None)

    def bytes_without(self, others: NeededBlobs | None) -> NDArray[int64]:
        """The same, without the blobs that `others`, over the same packs, need as well."""
        import numpy

        total = numpy.zeros(len(self._packs), dtype=numpy.int64)
        for t, table in enumerate(self._tables):
            packs = self._packs.row_packs[t]
            chosen = (self.states(t) == _NEEDED) & (packs >= 0)
            if others is not None:
                chosen &= others.states(t) == 0
            counted = numpy.bincount(
                packs[chosen], weights=table.lengths()[chosen], minlength=len(total)
            )
            total += counted.astype(numpy.int64)
        return total

    def count_and_raw_bytes(self) -> tuple[int, int]:
        """Return how many blobs are needed and their unpacked bytes; known after `choose`."""
        count = raw = 0
        for t, table in enumerate(self._tables):
            chosen = self.states(t) == _NEEDED
            count += int(chosen.sum())
            raw += int(table.raw_lengths()[chosen].sum(dtype="int64"))
        return count, raw

    def states(self, table: int) -> NDArray[uint8]:
        """Return a view of the state of each row of a table; 0 is not needed."""
        import numpy

        return numpy.frombuffer(self._rows[table], dtype=numpy.uint8)

    def is_needed(self, table: int, row: int) -> bool:
        """Whether that row is needed, or needed and chosen after `choose`."""
        return self._rows[table][row] in (_NEEDED, _COPIED)

    def reached_packs(self) -> set[bytes]:
        """Return every pack that holds a needed blob, also where another copy was chosen."""
        import numpy

        numbers: set[int] = set()
        for t, _ in enumerate(self._tables):
            reached = self._packs.row_packs[t][self.states(t) != 0]
            numbers.update(numpy.unique(reached[reached >= 0]).tolist())
        return {self._packs.packs[number].id for number in numbers}

    @property
    def spare_copies(self) -> int:
        """How many rows are second copies of needed blobs; known after `choose`."""
        return sum(rows.count(_SPARE) for rows in self._rows)


def _unlisted(kind: BlobType, blob_id: bytes) -> Damaged:
    return Damaged(
        f"{kind.word} blob {blob_id.hex()[:16]} is in no index; run `holdfast verify`, then "
        "`holdfast repair index`"
    )
