"""The packs of an index: each listed pack once, with its blobs in the order of offsets.

Index files may list a pack twice, where a prune was interrupted or took a mark back. Alive
wins over marked, a fuller listing over an emptier one, and the latest mark counts. Blobs
are found through arrays of row numbers, eight bytes a blob, not through objects. Nothing
is read from a store here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.repo.index import BlobIndex
from holdfast.repo.indexfile import IndexedPack
from holdfast.repo.pack import BlobType, PackedBlob

if TYPE_CHECKING:
    from numpy import int64
    from numpy.typing import NDArray

_SHADOWED = -1
_TREE, _COMPRESSED = 1, 2


@dataclass(slots=True)
class ListedPack:
    """One pack as the index has it.

    `marked_ns` is its latest mark, or None while it is alive; `listings` is in how many
    places it is listed; `differs` is whether two of those name different numbers of blobs.
    """

    id: bytes
    marked_ns: int | None
    blob_count: int
    table: int
    number_in_table: int
    listings: int = 1
    differs: bool = False


class PackList:
    """A view of an index by pack. The index must be freshly opened: additions are not seen."""

    def __init__(self, index: BlobIndex) -> None:
        import numpy

        self.index = index
        self.packs: list[ListedPack] = []
        self.number_of: dict[bytes, int] = {}
        self._in_tables: list[NDArray[int64]] = []
        for t, table in enumerate(index.tables):
            numbers = table.pack_numbers()
            counts = numpy.bincount(numbers, minlength=table.pack_count)
            of_table = numpy.full(table.pack_count, _SHADOWED, dtype=numpy.int64)
            for n, (pack_id, marked_ns) in enumerate(table.packs()):
                of_table[n] = self._include(
                    ListedPack(pack_id, marked_ns, int(counts[n]), t, n), of_table
                )
            self._in_tables.append(of_table)
        self.row_packs: list[NDArray[int64]] = [
            of_table[table.pack_numbers()]
            for of_table, table in zip(self._in_tables, index.tables, strict=True)
        ]
        """For each table the pack of every row, as a number in `packs`; -1 where another
        listing of the same pack stands for it."""
        self._order: dict[int, tuple[NDArray[int64], NDArray[int64]]] = {}

    def _include(self, new: ListedPack, of_table: NDArray[int64]) -> int:
        number = self.number_of.get(new.id)
        if number is None:
            number = self.number_of[new.id] = len(self.packs)
            self.packs.append(new)
            return number
        old = self.packs[number]
        rank_new = (new.blob_count > 0, new.marked_ns is None, new.blob_count)
        rank_old = (old.blob_count > 0, old.marked_ns is None, old.blob_count)
        alive = new.marked_ns is None or old.marked_ns is None
        marked_ns = None if alive else max(new.marked_ns or 0, old.marked_ns or 0)
        # A pack that no index listed is marked without its blobs; that is no contradiction.
        differs = old.differs or (
            new.blob_count != old.blob_count and 0 not in (new.blob_count, old.blob_count)
        )
        listings = old.listings + 1
        if rank_new > rank_old:
            shadowed = of_table if old.table == new.table else self._in_tables[old.table]
            shadowed[old.number_in_table] = _SHADOWED
            self.packs[number] = old = new
            result = number
        else:
            result = _SHADOWED
        old.marked_ns, old.listings, old.differs = marked_ns, listings, differs
        return result

    def __len__(self) -> int:
        return len(self.packs)

    def blobs(self, number: int) -> list[PackedBlob]:
        """Return the blobs of a pack by offset."""
        blobs = [self.blob(t, row) for t, row in self.rows(number)]
        blobs.sort(key=lambda blob: blob.offset)
        return blobs

    def rows(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield (table, row) of every blob of a pack, in no promised order."""
        pack = self.packs[number]
        order, starts = self._rows_by_pack(pack.table)
        first, last = starts[pack.number_in_table], starts[pack.number_in_table + 1]
        return ((pack.table, int(row)) for row in order[first:last])

    def blob(self, table: int, row: int) -> PackedBlob:
        """Return the blob of a row."""
        blob_id, _, offset, length, raw_length, flags = self.index.tables[table].row(row)
        return PackedBlob(
            blob_id, BlobType(flags & _TREE), offset, length, raw_length, bool(flags & _COMPRESSED)
        )

    def listing(self, number: int, marked_ns: int | None) -> IndexedPack:
        """Return the pack as an index file would list it, with that mark."""
        return IndexedPack(self.packs[number].id, self.blobs(number), marked_ns)

    def copies(self, kind: BlobType, blob_id: bytes) -> list[tuple[int, int, int]]:
        """Return (pack number, table, row) of every place of a blob, each pack once."""
        found = []
        for t, table in enumerate(self.index.tables):
            for row in table.positions(blob_id):
                number = int(self.row_packs[t][row])
                if number != _SHADOWED and table.row(row)[5] & _TREE == kind:
                    found.append((number, t, row))
        return found

    def _rows_by_pack(self, table: int) -> tuple[NDArray[int64], NDArray[int64]]:
        import numpy

        if table not in self._order:
            numbers = self.index.tables[table].pack_numbers()
            counts = numpy.bincount(numbers, minlength=self.index.tables[table].pack_count)
            starts = numpy.concatenate(([0], numpy.cumsum(counts))).astype(numpy.int64)
            self._order[table] = (numpy.argsort(numbers, kind="stable"), starts)
        return self._order[table]
