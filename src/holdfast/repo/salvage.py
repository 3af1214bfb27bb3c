"""Salvage: the good blobs of damaged packs into new ones, the bad ones from a replica.

Afterwards a damaged pack is listed without blobs, as waiting for its deletion: nobody counts
on what it held, a backup stores anew what is still at its source, and the file itself
stays for a prune's grace period. Every blob is checked before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import Conflict, Damaged, ObjectNotFound
from holdfast.repo.check_packs import blob_opens, read_header
from holdfast.repo.index import BlobIndex, IndexCache
from holdfast.repo.index_rewrite import IndexRewrite
from holdfast.repo.indexfile import IndexedPack
from holdfast.repo.known import KnownBlobs
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.packlist import PackList
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.repo.stored_index import StoredIndex
from holdfast.repo.tree import decode_documents
from holdfast.repo.writer import BlobWriter, WriteSetup

BlobName = tuple[BlobType, bytes]


@dataclass(frozen=True, slots=True)
class PackSalvage:
    """One damaged pack: what is kept of it, what a replica gives back, and what is lost.

    `copied` are blobs that do not open here but lie in another pack as well.
    """

    pack: bytes
    gone: bool
    kept: tuple[PackedBlob, ...]
    copied: int
    mended: tuple[BlobName, ...]
    lost: tuple[BlobName, ...]

    @property
    def kept_bytes(self) -> int:
        return sum(blob.length for blob in self.kept)


@dataclass(frozen=True, slots=True)
class SalvagePlan:
    """What will become of damaged packs. `mended` are needed blobs that no pack here holds."""

    repository_id: str
    indexes: frozenset[bytes]
    packs: tuple[PackSalvage, ...]
    mended: tuple[BlobName, ...] = ()
    unmended: tuple[BlobName, ...] = ()

    @property
    def does_nothing(self) -> bool:
        return not self.packs and not self.mended

    @property
    def lost(self) -> tuple[BlobName, ...]:
        """Every blob that no copy is left of, here or in the replica."""
        return tuple(name for pack in self.packs for name in pack.lost) + self.unmended


class Replica:
    """Another repository that may hold what this one has lost."""

    def __init__(self, repository: Repository) -> None:
        self._reader = BlobReader(repository, repository.open_index(tolerant=True))

    def load(self, name: BlobName) -> bytes | None:
        """Return a blob, proven by its id, or None where the replica has no good copy."""
        try:
            return self._reader.load(*name)
        except (Damaged, ObjectNotFound):
            return None


def plan_salvage(
    repository: Repository, damaged: Iterable[bytes], replica: Replica | None = None
) -> SalvagePlan:
    """Read the `damaged` packs, and say what can be kept of each."""
    index = repository.open_index(IndexCache(None))
    packs = PackList(index)
    reader = BlobReader(repository, index)
    chosen = sorted(set(damaged))
    return SalvagePlan(
        repository.config.id,
        index.sources,
        tuple(_plan_pack(repository, packs, reader, pack, chosen, replica) for pack in chosen),
    )


def _plan_pack(  # noqa: PLR0917 - private, and called once
    repository: Repository,
    packs: PackList,
    reader: BlobReader,
    pack: bytes,
    damaged: list[bytes],
    replica: Replica | None,
) -> PackSalvage:
    number = packs.number_of.get(pack)
    places: dict[BlobName, list[PackedBlob]] = {}
    for blob in () if number is None else packs.blobs(number):
        places.setdefault((blob.type, blob.id), []).append(blob)
    try:
        content = repository.store.read(pack_key(pack))
        gone = False
    except ObjectNotFound:
        content, gone = b"", True
    with suppress(Damaged):  # the index alone says then what the pack held
        for blob in read_header(content, repository.sealer, "a damaged pack"):
            places.setdefault((blob.type, blob.id), []).append(blob)
    kept, copied = [], 0
    mended: list[BlobName] = []
    lost: list[BlobName] = []
    for name, tries in sorted(places.items()):
        good = next((blob for blob in tries if blob_opens(content, pack, blob, reader)), None)
        if good is not None:
            kept.append(good)
        elif _lies_elsewhere(packs, name, damaged, reader):
            copied += 1
        elif replica is not None and replica.load(name) is not None:
            mended.append(name)
        else:
            lost.append(name)
    return PackSalvage(pack, gone, tuple(kept), copied, tuple(mended), tuple(lost))


def _lies_elsewhere(
    packs: PackList, name: BlobName, damaged: list[bytes], reader: BlobReader
) -> bool:
    others = {packs.packs[number].id for number, _, _ in packs.copies(*name)} - set(damaged)
    if not others:
        return False
    try:
        reader.load(*name)  # tries every copy
    except Damaged:
        return False
    return True


def plan_mend(repository: Repository, replica: Replica) -> SalvagePlan:
    """Find what snapshots need and no index lists, and what the replica has of it.

    A tree that comes from the replica is looked through as well.
    """
    snapshots, _ = repository.snapshots()
    index = repository.open_index(IndexCache(None))
    needed = NeededBlobs(PackList(index))
    missing: list[BlobName] = []
    seen: set[BlobName] = set()

    def miss(kind: BlobType, blob_id: bytes, _error: Damaged | None = None) -> None:
        if (kind, blob_id) not in seen:
            seen.add((kind, blob_id))
            missing.append((kind, blob_id))

    needed.add_trees(repository, (bytes.fromhex(s.tree) for s in snapshots), miss)
    mended: list[BlobName] = []
    unmended: list[BlobName] = []
    while missing:
        name = missing.pop()
        content = replica.load(name)
        if content is None:
            unmended.append(name)
            continue
        mended.append(name)
        if name[0] is BlobType.TREE:
            for kind, blob_id in _mentioned(content):
                if kind is BlobType.TREE:
                    needed.add_trees(repository, [blob_id], miss)
                elif index.find(kind, blob_id) is None:
                    miss(kind, blob_id)
    return SalvagePlan(
        repository.config.id, index.sources, (), tuple(sorted(mended)), tuple(sorted(unmended))
    )


def _mentioned(tree: bytes) -> Iterator[BlobName]:
    for node in decode_documents(tree, "a tree of the replica"):
        if node.get("subtree"):
            yield BlobType.TREE, bytes.fromhex(node["subtree"])
        for text in node.get("content") or ():
            yield BlobType.DATA, bytes.fromhex(text)


def salvage(
    repository: Repository,
    plan: SalvagePlan,
    replica: Replica | None,
    now: datetime,
    on_blob: Callable[[], None] = lambda: None,
) -> None:
    """Execute a plan; the caller holds an exclusive lock."""
    listed = {bytes.fromhex(name) for name in repository.ids(FileKind.INDEX)}
    if plan.repository_id != repository.config.id or listed != plan.indexes:
        raise Conflict("index files have changed since the repair was planned; plan again")
    if plan.does_nothing:
        return
    known = KnownBlobs()
    writer = BlobWriter(
        WriteSetup(
            repository.store, repository.key, BlobIndex([]), known, repository.config.version
        )
    )
    stored = StoredIndex(repository)
    reader = BlobReader(repository, BlobIndex([]))
    try:
        for pack in plan.packs:
            for blob in pack.kept:
                sealed = repository.store.read(pack_key(pack.pack), blob.offset, blob.length)
                moved = blob._replace(offset=0)
                if not blob_opens(sealed, pack.pack, moved, reader):
                    raise Damaged(
                        f"a blob of pack {pack.pack.hex()[:8]} opened when the repair was "
                        "planned, and does not now; nothing was replaced. Plan again"
                    )
                if known.take(blob.type, blob.id):
                    writer.add_sealed(blob, sealed)
                stored.add(writer.take_stored())
                on_blob()
        for name in (*plan.mended, *(name for pack in plan.packs for name in pack.mended)):
            content = None if replica is None else replica.load(name)
            if content is None:
                raise Damaged(
                    f"{name[0].word} blob {name[1].hex()[:16]} was in the replica when the repair "
                    "was planned, and is not there now; nothing was replaced. Plan again"
                )
            writer.add(name[0], content)
            stored.add(writer.take_stored())
            on_blob()
        stored.add(writer.flush())
    finally:
        writer.close()
        known.close()
    # What was saved is listed before the damaged packs lose their listing.
    stored.write()
    mark_ns = int(now.timestamp() * 1_000_000_000)
    rewrite = IndexRewrite(repository)
    emptied = [IndexedPack(pack.pack, [], mark_ns) for pack in plan.packs if not pack.gone]
    rewrite.write(plan.indexes, {pack.pack for pack in plan.packs}, emptied)
    rewrite.remove_superseded()
