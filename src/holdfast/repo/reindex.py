"""Rebuilding the index from the headers of packs, where index files are gone or wrong.

Packs are the truth: a pack that no index lists is listed as its own header says, one that
is listed and gone is taken out. Marks of a prune are kept. A pack is never changed or
deleted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from holdfast.errors import Conflict, Damaged, ObjectNotFound
from holdfast.model.finding import Finding
from holdfast.repo.check_packs import fetch_header
from holdfast.repo.index import IndexCache
from holdfast.repo.index_rewrite import IndexRewrite
from holdfast.repo.indexfile import IndexedPack
from holdfast.repo.pack import PackedBlob, pack_size_bytes
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.threads import JoinedThreads

_READS = 8
_SLICE = 1024


class Relisting(StrEnum):
    """What becomes of a pack's listing."""

    ADD = "add"
    """The pack is there and in no index file: listed by its header."""
    CORRECT = "correct"
    """The index and the header differ: listed by its header."""
    DROP = "drop"
    """Listed, but gone."""


@dataclass(frozen=True, slots=True)
class IndexRepair:
    """One pack whose listing changes."""

    pack: bytes
    relisting: Relisting
    blobs: int
    size_bytes: int
    marked_ns: int | None = None


@dataclass(frozen=True, slots=True)
class IndexRepairPlan:
    """What rebuilding the index will do. `lost_blobs` are listed only in packs that are gone."""

    repository_id: str
    indexes: frozenset[bytes]
    damaged_indexes: frozenset[bytes]
    repairs: tuple[IndexRepair, ...]
    lost_blobs: int
    findings: tuple[Finding, ...]

    @property
    def does_nothing(self) -> bool:
        return not self.repairs and not self.damaged_indexes


def plan_reindex(repository: Repository, *, read_all: bool = False) -> IndexRepairPlan:
    """Hold the index against the packs; `read_all` reads every pack's header for that."""
    listed = frozenset(bytes.fromhex(name) for name in repository.ids(FileKind.INDEX))
    index = repository.open_index(IndexCache(None), tolerant=True)
    packs = PackList(index)
    sizes = {pack: info.size_bytes for pack, info in repository.pack_files()}
    findings = [finding for finding in index.findings if finding.code == "index_damaged"]
    repairs: list[IndexRepair] = []
    suspects: list[tuple[bytes, int]] = [
        (pack, size) for pack, size in sizes.items() if pack not in packs.number_of
    ]
    gone: set[int] = set()
    for number, pack in enumerate(packs.packs):
        size = sizes.get(pack.id)
        if size is None:
            gone.add(number)
            repairs.append(IndexRepair(pack.id, Relisting.DROP, pack.blob_count, 0))
        elif read_all or pack.differs or _size_differs(packs, number, size):
            suspects.append((pack.id, size))
    for pack_id, size, header in headers(repository, suspects):
        if isinstance(header, Damaged):
            message = f"{header.message}; it is left as it is listed. See `holdfast repair packs`"
            findings.append(Finding("pack_header_damaged", message, pack_id.hex()))
            continue
        known = packs.number_of.get(pack_id)
        if known is None:
            repairs.append(IndexRepair(pack_id, Relisting.ADD, len(header), size))
        elif sorted(header) != sorted(packs.blobs(known)):
            mark = packs.packs[known].marked_ns
            repairs.append(IndexRepair(pack_id, Relisting.CORRECT, len(header), size, mark))
    return IndexRepairPlan(
        repository.config.id,
        listed,
        listed - index.sources,
        tuple(repairs),
        _lost(packs, gone),
        tuple(findings),
    )


def _size_differs(packs: PackList, number: int, size: int) -> bool:
    blobs = packs.blobs(number)
    return bool(blobs) and pack_size_bytes(blobs) != size


def _lost(packs: PackList, gone: set[int]) -> int:
    lost = {
        (blob.type, blob.id)
        for number in gone
        for blob in packs.blobs(number)
        if all(copy[0] in gone for copy in packs.copies(blob.type, blob.id))
    }
    return len(lost)


def headers(
    repository: Repository, packs: Iterable[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int, list[PackedBlob] | Damaged]]:
    """Yield (pack, size, blobs by its header, or why that cannot be read)."""

    def fetch(pack: tuple[bytes, int]) -> list[PackedBlob] | Damaged:
        try:
            return fetch_header(repository, *pack)
        except Damaged as error:
            return error
        except ObjectNotFound:
            return Damaged(f"pack {pack[0].hex()[:8]} vanished")

    ordered = sorted(packs)
    with JoinedThreads(_READS) as threads:
        for first in range(0, len(ordered), _SLICE):
            part = ordered[first : first + _SLICE]
            for (pack, size), header in zip(part, threads.map(fetch, part), strict=True):
                yield pack, size, header


def reindex(repository: Repository, plan: IndexRepairPlan) -> int:
    """Execute a plan; return how many packs changed. The caller holds an exclusive lock."""
    if plan.does_nothing:
        return 0
    now = {bytes.fromhex(name) for name in repository.ids(FileKind.INDEX)}
    if plan.repository_id != repository.config.id or now != plan.indexes:
        raise Conflict("index files have changed since the repair was planned; plan again")
    changed = {repair.pack for repair in plan.repairs}
    rewrite = IndexRewrite(repository)
    rewrite.write(plan.indexes, changed, _listings(repository, plan), damaged=plan.damaged_indexes)
    rewrite.remove_superseded()
    return len(changed)


def _listings(repository: Repository, plan: IndexRepairPlan) -> Iterator[IndexedPack]:
    marks = {r.pack: r.marked_ns for r in plan.repairs if r.relisting is not Relisting.DROP}
    packs = [(r.pack, r.size_bytes) for r in plan.repairs if r.pack in marks]
    for pack, _, header in headers(repository, packs):
        if isinstance(header, Damaged):
            raise header
        yield IndexedPack(pack, header, marks[pack])
