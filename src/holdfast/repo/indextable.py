"""An index table: a sorted, memory-mapped file in which a blob is found in a microsecond.

Rows of 49 bytes (id, pack number, offset, length, raw length, flags), sorted by id, behind
a fan-out over the first bits of the id. Ten million blobs are 0.5 GB of shared, reclaimable
page cache and no heap. Tables are immutable; a `TableBuilder` and `merge` write new ones,
and a merge streams, so that its memory does not grow with the table.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import orjson

from holdfast.repo.indexfile import IndexedPack
from holdfast.repo.pack import BlobType, PackedBlob

if TYPE_CHECKING:
    from numpy import uint32
    from numpy.typing import NDArray

_MAGIC = b"HFINDEX1"
_HEAD = struct.Struct("<8sIQQQQI")  # magic, fan-out bits, rows, packs, json bytes, file bytes, crc
_ROW = struct.Struct("<32sIIIIB")
ROW_BYTES = _ROW.size
_PACK = struct.Struct("<32sq")
_FAN = struct.Struct("<II")
_TREE, _COMPRESSED, _MARKED = 1, 2, 4
_ALIVE = -1
_CHECK_UP_TO_BYTES = 64 << 20
_MERGE_ROWS_AT_ONCE = 200_000


class TableDamaged(Exception):
    """A cached table cannot be used; it is dropped and built again."""


class Location(NamedTuple):
    """Where a blob lies: `pack` is the pack's 32-byte id, lengths and offset are bytes."""

    pack: bytes
    offset: int
    length: int
    raw_length: int
    compressed: bool
    type: BlobType
    marked: bool


class IndexTable:
    """One open table. Safe to share with forked children and between threads."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        if size < _HEAD.size:
            raise TableDamaged(path)
        self._map = mmap.mmap(self._fd, size, prot=mmap.PROT_READ)
        magic, bits, rows, packs, json_bytes, file_bytes, crc = _HEAD.unpack_from(self._map, 0)
        if magic != _MAGIC or file_bytes != size:
            raise TableDamaged(path)
        if size <= _CHECK_UP_TO_BYTES and zlib.crc32(memoryview(self._map)[_HEAD.size :]) != crc:
            raise TableDamaged(path)
        self.path = path
        self.rows: int = rows
        self.pack_count: int = packs
        self._shift = 32 - bits
        at = _HEAD.size
        self.sources = frozenset(
            bytes.fromhex(source) for source in orjson.loads(self._map[at : at + json_bytes])
        )
        self._packs_at = at + json_bytes
        self._fan_at = self._packs_at + packs * _PACK.size
        self._rows_at = self._fan_at + 4 * ((1 << bits) + 1)

    def __reduce__(self) -> tuple[type[IndexTable], tuple[str]]:
        # By descriptor, because another run may have replaced the file meanwhile.
        return IndexTable, (f"/proc/{os.getpid()}/fd/{self._fd}",)

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            os.close(fd)

    def positions(self, blob_id: bytes) -> Iterator[int]:
        """Yield the row numbers of a blob; several where packs or types repeat it."""
        bucket = int.from_bytes(blob_id[:4], "big") >> self._shift
        low, high = _FAN.unpack_from(self._map, self._fan_at + 4 * bucket)
        at = self._rows_at
        begin, end = at + low * ROW_BYTES, at + high * ROW_BYTES
        found = self._map.find(blob_id, begin, end)
        while found >= 0:
            number, rest = divmod(found - at, ROW_BYTES)
            if not rest:
                yield number
            found = self._map.find(blob_id, found + 1, end)

    def row(self, position: int) -> tuple[bytes, int, int, int, int, int]:
        """Return id, pack number, offset, length, raw length and flags of a row."""
        row: tuple[bytes, int, int, int, int, int] = _ROW.unpack_from(
            self._map, self._rows_at + position * ROW_BYTES
        )
        return row

    def knows(self, blob_id: bytes, tree: bool) -> bool:
        """Whether an unmarked pack holds the blob with that type."""
        bucket = int.from_bytes(blob_id[:4], "big") >> self._shift
        low, high = _FAN.unpack_from(self._map, self._fan_at + 4 * bucket)
        if low == high:
            return False
        at = self._rows_at
        # The most frequent answer is no, so the search is one call into C.
        if self._map.find(blob_id, at + low * ROW_BYTES, at + high * ROW_BYTES) < 0:
            return False
        return any(
            self._map[at + (n + 1) * ROW_BYTES - 1] & (_TREE | _MARKED) == int(tree)
            for n in self.positions(blob_id)
        )

    def locations(self, blob_id: bytes) -> Iterator[Location]:
        """Yield every place where the blob lies."""
        for position in self.positions(blob_id):
            _, pack, offset, length, raw_length, flags = self.row(position)
            yield Location(
                self.pack(pack)[0],
                offset,
                length,
                raw_length,
                bool(flags & _COMPRESSED),
                BlobType(flags & _TREE),
                bool(flags & _MARKED),
            )

    def pack(self, number: int) -> tuple[bytes, int | None]:
        """Return a pack's id and when it was marked, in ns since the epoch, or None."""
        pack_id, marked = _PACK.unpack_from(self._map, self._packs_at + number * _PACK.size)
        return pack_id, None if marked == _ALIVE else marked

    def packs(self) -> Iterator[tuple[bytes, int | None]]:
        """Yield every listed pack with its mark, also packs that list no blob."""
        return (self.pack(number) for number in range(self.pack_count))

    def blobs(self) -> Iterator[tuple[int, PackedBlob]]:
        """Yield (pack number, blob) of every row in the order of ids."""
        begin, end = self._rows_at, self._rows_at + self.rows * ROW_BYTES
        step = ROW_BYTES * 8192
        for at in range(begin, end, step):
            for row in _ROW.iter_unpack(self._map[at : min(at + step, end)]):
                blob_id, pack, offset, length, raw_length, flags = row
                yield (
                    pack,
                    PackedBlob(
                        blob_id,
                        BlobType(flags & _TREE),
                        offset,
                        length,
                        raw_length,
                        bool(flags & _COMPRESSED),
                    ),
                )

    def pack_numbers(self) -> NDArray[uint32]:
        """Return every row's pack number, in the order of rows: a copy, four bytes a row."""
        return self._column(32)

    def lengths(self) -> NDArray[uint32]:
        """Return every row's sealed length in bytes, in the order of rows: a copy."""
        return self._column(40)

    def raw_lengths(self) -> NDArray[uint32]:
        """Return every row's unpacked length in bytes, in the order of rows: a copy."""
        return self._column(44)

    def _column(self, offset: int) -> NDArray[uint32]:
        import numpy

        if not self.rows:
            # Only packs without blobs: what a prune has marked that no index listed. The
            # offset would lie behind the end.
            return numpy.empty(0, "<u4")
        strided: NDArray[uint32] = numpy.ndarray(
            (self.rows,), "<u4", self._map, self._rows_at + offset, (ROW_BYTES,)
        )
        return strided.copy()

    def _rows_between(self, first_prefix: int, last_prefix: int) -> bytes:
        """Return the rows whose first 32 id bits lie in [first, last), whole fan-out buckets."""
        low = struct.unpack_from("<I", self._map, self._fan_at + 4 * (first_prefix >> self._shift))
        high = struct.unpack_from("<I", self._map, self._fan_at + 4 * (last_prefix >> self._shift))
        at = self._rows_at
        return self._map[at + low[0] * ROW_BYTES : at + high[0] * ROW_BYTES]

    def _forget_pages(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def fan_out_bits(self) -> int:
        return int(32 - self._shift)


def _bits_for(rows: int) -> int:
    # About eight to sixteen rows a bucket: one short memory search.
    return min(max(rows.bit_length() - 4, 0), 24)


class _Writer:
    """Writes one table: packs first, then rows in order, then the head and the fan-out."""

    def __init__(self, path: str, sources: Iterable[bytes], packs: bytes, rows: int) -> None:
        self._final, self._path = path, f"{path}.{os.getpid()}.tmp"
        self._bits = _bits_for(rows)
        json = orjson.dumps(sorted(source.hex() for source in sources))
        self._head = (json, packs)
        self._counts = array("I", bytes(4 << self._bits))
        self._rows = 0
        self._file = open(self._path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by `finish`
        fan_bytes = 4 * ((1 << self._bits) + 1)
        self._file.write(bytes(_HEAD.size) + json + packs + bytes(fan_bytes))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # such as a full disk, which what is written here fills
            with suppress(OSError):
                os.unlink(self._path)
            with suppress(OSError):
                self._file.close()

    def write(self, rows: list[bytes]) -> None:
        shift, counts = 32 - self._bits, self._counts
        for row in rows:
            counts[int.from_bytes(row[:4], "big") >> shift] += 1
        self._file.writelines(rows)
        self._rows += len(rows)

    def finish(self) -> str:
        json, packs = self._head
        fan = array("I", accumulate(self._counts, initial=0))
        file = self._file
        size = file.tell()
        file.seek(_HEAD.size + len(json) + len(packs))
        if sys.byteorder == "big":
            fan.byteswap()
        file.write(fan)
        file.flush()
        crc = 0
        if size <= _CHECK_UP_TO_BYTES:
            with open(self._path, "rb") as again:
                again.seek(_HEAD.size)
                crc = zlib.crc32(again.read())
        file.seek(0)
        count = len(packs) // _PACK.size
        file.write(_HEAD.pack(_MAGIC, self._bits, self._rows, count, len(json), size, crc))
        file.close()
        os.replace(self._path, self._final)
        return self._final


class TableBuilder:
    """Gathers index files and writes them as one table.

    Keeps rows instead of what it was given, which takes a sixth of the memory.
    """

    def __init__(self) -> None:
        self.sources: list[bytes] = []
        self._rows: list[bytes] = []
        self._packs = bytearray()

    @property
    def rows(self) -> int:
        return len(self._rows)

    def add(self, source: bytes, packs: Iterable[IndexedPack]) -> None:
        """Take in what the index file with the id `source` lists."""
        self.sources.append(source)
        append, pack_row = self._rows.append, _ROW.pack
        for number, pack in enumerate(packs, len(self._packs) // _PACK.size):
            self._packs += _PACK.pack(pack.id, _ALIVE if pack.marked_ns is None else pack.marked_ns)
            base = 0 if pack.marked_ns is None else _MARKED
            for blob_id, kind, offset, length, raw_length, compressed in pack.blobs:
                flags = base | kind | (_COMPRESSED if compressed else 0)
                append(pack_row(blob_id, number, offset, length, raw_length, flags))

    def finish(self, path: str) -> IndexTable:
        """Write the table to `path` and open it; nothing is added afterwards."""
        self._rows.sort()
        with _Writer(path, self.sources, bytes(self._packs), len(self._rows)) as writer:
            writer.write(self._rows)
            return IndexTable(writer.finish())


def merge(path: str, tables: list[IndexTable]) -> IndexTable:
    """Write one table with everything in `tables` to `path`, and open it."""
    total = sum(table.rows for table in tables)
    packs, firsts = bytearray(), []
    for table in tables:
        firsts.append(len(packs) // _PACK.size)
        packs += table._map[table._packs_at : table._fan_at]
    sources = frozenset[bytes]().union(*(table.sources for table in tables))
    with _Writer(path, sources, bytes(packs), total) as writer:
        # Ranges of ids that are whole buckets in every table.
        coarsest = min(table.fan_out_bits for table in tables)
        ranges = min(1 << coarsest, max(1, total // _MERGE_ROWS_AT_ONCE))
        ranges = 1 << (ranges.bit_length() - 1)
        width = (1 << 32) // ranges
        for number in range(ranges):
            rows: list[bytes] = []
            for table, first in zip(tables, firsts, strict=True):
                raw = table._rows_between(number * width, (number + 1) * width)
                if first:
                    rows.extend(
                        _ROW.pack(i, pack + first, o, n, r, f)
                        for i, pack, o, n, r, f in _ROW.iter_unpack(raw)
                    )
                else:
                    rows.extend(raw[i : i + ROW_BYTES] for i in range(0, len(raw), ROW_BYTES))
                if total > _MERGE_ROWS_AT_ONCE:
                    table._forget_pages()
            rows.sort()
            writer.write(rows)
        return IndexTable(writer.finish())
