"""The blob index: which pack holds which blob, over all index files of a repository.

Opened from the store through a local cache of tables (`indextable.py`), so that an index
file is parsed once on each machine. Nothing here decides what is needed; it only knows
what is listed. The cache may be deleted at any time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from holdfast.errors import Damaged, HoldfastError, ObjectNotFound
from holdfast.model.finding import Finding
from holdfast.repo import indextable
from holdfast.repo.indexfile import IndexedPack, decode_index
from holdfast.repo.indextable import IndexTable, Location, TableBuilder, TableDamaged
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.threads import JoinedThreads

_ROWS_PER_BUILD = 500_000
_DOWNLOADS = 4
_ABANDONED_SECONDS = 86_400


class BlobIndex:
    """A view of all listed packs at the moment of opening, plus what is added since."""

    def __init__(self, tables: list[IndexTable], findings: tuple[Finding, ...] = ()) -> None:
        self.tables = tables
        self.findings = findings
        self._added: dict[tuple[bytes, BlobType], Location] = {}

    @property
    def sources(self) -> frozenset[bytes]:
        """The ids of the index files that this view was made from."""
        return frozenset[bytes]().union(*(table.sources for table in self.tables))

    def knows(self, kind: BlobType, blob_id: bytes) -> bool:
        """Whether an unmarked pack lists the blob, so that it need not be stored again."""
        tree = kind is BlobType.TREE
        for table in self.tables:
            if table.knows(blob_id, tree):
                return True
        return (blob_id, kind) in self._added

    def find(self, kind: BlobType, blob_id: bytes) -> Location | None:
        """Return the best place to read a blob from: an unmarked pack where there is one."""
        best = self._added.get((blob_id, kind))
        if best is not None:
            return best
        for table in self.tables:
            for location in table.locations(blob_id):
                if location.type is kind:
                    if not location.marked:
                        return location
                    best = location
        return best

    def find_all(self, kind: BlobType, blob_id: bytes) -> list[Location]:
        """Return every listed place of a blob."""
        places = [
            location
            for table in self.tables
            for location in table.locations(blob_id)
            if location.type is kind
        ]
        added = self._added.get((blob_id, kind))
        return [*places, added] if added is not None else places

    def add(self, packs: Iterable[IndexedPack]) -> None:
        """Take in packs that this process has just written."""
        for pack in packs:
            for blob in pack.blobs:
                self._added[blob.id, blob.type] = Location(
                    pack.id,
                    blob.offset,
                    blob.length,
                    blob.raw_length,
                    blob.compressed,
                    blob.type,
                    marked=False,
                )

    def packs(self) -> Iterator[tuple[bytes, int | None]]:
        """Yield (pack id, mark) of every listing; a pack listed twice comes twice."""
        for table in self.tables:
            yield from table.packs()
        seen = {location.pack for location in self._added.values()}
        for pack in seen:
            yield pack, None

    def blobs(self) -> Iterator[tuple[bytes, int | None, PackedBlob]]:
        """Yield (pack id, mark, blob) of every listing in the tables, in no promised order."""
        for table in self.tables:
            packs = list(table.packs())
            for number, blob in table.blobs():
                pack, marked = packs[number]
                yield pack, marked, blob

    def __len__(self) -> int:
        return sum(table.rows for table in self.tables) + len(self._added)


class IndexCache:
    """Tables kept on local disk, one set for each repository.

    Tables are merged as they accumulate, each at least twice the size of the next, so that
    a look-up searches few of them and an added index file costs little. A directory that
    cannot be used, or whose disk is full, costs speed and nothing else.
    """

    def __init__(self, directory: str | None) -> None:
        """`directory` is kept between runs; with None, tables have no name and end with us."""
        self._directory = directory
        if directory is not None:
            try:
                os.makedirs(directory, mode=0o700, exist_ok=True)
            except OSError:
                self._directory = None

    def open(
        self, listed: Iterable[bytes], load: Callable[[bytes], bytes], *, tolerant: bool = False
    ) -> BlobIndex:
        """Return the index over the `listed` index files.

        `load` returns the JSON text of an index file. Where one is damaged, `tolerant`
        leaves it out and adds a finding; otherwise the error is raised.
        """
        wanted = set(listed)
        tables = self._usable_tables(wanted)
        missing = wanted.difference(*(table.sources for table in tables))
        findings: list[Finding] = []
        builder = TableBuilder()
        for source, packs in self._decoded(sorted(missing), load, tolerant, findings):
            builder.add(source, packs)
            if builder.rows >= _ROWS_PER_BUILD:
                tables.append(self._build(builder))
                builder = TableBuilder()
        if builder.sources:
            tables.append(self._build(builder))
        return BlobIndex(self._merged(tables), tuple(findings))

    def add(self, index: BlobIndex, source: bytes, packs: list[IndexedPack]) -> None:
        """Keep an index file that this process wrote, so that the next run need not read it."""
        builder = TableBuilder()
        builder.add(source, packs)
        index.tables[:] = self._merged([*index.tables, self._build(builder)])

    def _decoded(
        self,
        missing: list[bytes],
        load: Callable[[bytes], bytes],
        tolerant: bool,
        findings: list[Finding],
    ) -> Iterator[tuple[bytes, list[IndexedPack]]]:
        def fetch(source: bytes) -> bytes | HoldfastError:
            try:
                return load(source)
            except HoldfastError as error:
                return error

        with JoinedThreads(_DOWNLOADS) as threads:
            # A few texts are under way while one is decoded; no more, as one is many megabytes.
            texts = deque(threads.submit(fetch, source) for source in missing[:_DOWNLOADS])
            for number, source in enumerate(missing):
                text = texts.popleft().result()
                if number + _DOWNLOADS < len(missing):
                    texts.append(threads.submit(fetch, missing[number + _DOWNLOADS]))
                name = f"index {source.hex()[:8]}"
                try:
                    if isinstance(text, HoldfastError):
                        raise text
                    yield source, decode_index(text, name)
                except ObjectNotFound:
                    # Replaced between listing and reading; its successor is listed next time.
                    findings.append(Finding("index_vanished", f"{name} vanished", name))
                except Damaged as error:
                    if not tolerant:
                        raise Damaged(
                            f"{error.message}. Run `holdfast repair index` to rebuild it from "
                            "the packs"
                        ) from error
                    findings.append(Finding("index_damaged", error.message, name))

    def _usable_tables(self, wanted: set[bytes]) -> list[IndexTable]:
        tables: list[IndexTable] = []
        if self._directory is None:
            return tables
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            self._directory = None
            return tables
        for name in names:
            path = os.path.join(self._directory, name)
            if not name.endswith(".table"):
                if name.endswith(".tmp"):
                    _remove_abandoned(path)
                continue
            try:
                table = IndexTable(path)
            except (TableDamaged, OSError, ValueError):
                _remove(path)
                continue
            if table.sources <= wanted:
                tables.append(table)
            else:
                _remove(path)
        chosen: list[IndexTable] = []
        covered: set[bytes] = set()
        for table in sorted(tables, key=lambda table: -len(table.sources)):
            if covered.isdisjoint(table.sources):
                chosen.append(table)
                covered |= table.sources
            else:
                _remove(table.path)
        return chosen

    def _build(self, builder: TableBuilder) -> IndexTable:
        return self._written(builder.finish)

    def _merged(self, tables: list[IndexTable]) -> list[IndexTable]:
        ordered = sorted(tables, key=lambda table: -table.rows)
        keep = len(ordered)
        # Everything behind the first table that is not twice its successor becomes one.
        rows = 0
        for number in range(len(ordered) - 1, 0, -1):
            rows += ordered[number].rows
            if ordered[number - 1].rows < 2 * rows:
                keep = number - 1
        if keep >= len(ordered) - 1:
            return ordered
        old = ordered[keep:]
        merged = self._written(lambda path: indextable.merge(path, old))
        for table in old:
            _remove(table.path)
        return [*ordered[:keep], merged]

    def _written(self, write: Callable[[str], IndexTable]) -> IndexTable:
        """Let `write` make a table; without a directory it loses its name once it is open."""
        name = f"{os.urandom(8).hex()}.table"
        if self._directory is not None:
            try:
                return write(os.path.join(self._directory, name))
            except OSError:
                self._directory = None
        with tempfile.TemporaryDirectory(prefix="holdfast-index-") as directory:
            return write(os.path.join(directory, name))


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _remove_abandoned(path: str) -> None:
    """Remove what a killed process was writing; nobody writes one table for a day."""
    with suppress(OSError):
        if time.time() - os.stat(path).st_mtime > _ABANDONED_SECONDS:
            os.unlink(path)
