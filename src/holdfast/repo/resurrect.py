"""Taking marks back: packs that a prune marked and a snapshot turned out to need.

An index file that lists a pack as alive wins over every mark on it, so taking a mark back
is adding an index file. Nothing is rewritten or deleted here.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.walk import walk_trees


def resurrect_marked(repository: Repository, snapshots: Iterable[Snapshot]) -> int:
    """List as alive every marked pack that `snapshots` need; return how many there were."""
    index = repository.open_index()
    if all(marked is None for _, marked in index.packs()):
        return 0  # index files were only merged, and no tree has to be read to know it
    needed = _marked_packs_needed(BlobReader(repository, index), index, snapshots)
    return _list_as_alive(repository, index, needed)


def resurrect_packs(repository: Repository, packs: Iterable[bytes]) -> int:
    """List as alive every one of `packs` that is marked; return how many there were."""
    index = repository.open_index()
    states: dict[bytes, bool] = {}
    for pack, marked in index.packs():
        states[pack] = states.get(pack, True) and marked is not None
    return _list_as_alive(repository, index, {pack for pack in packs if states.get(pack)})


def _list_as_alive(repository: Repository, index: BlobIndex, needed: set[bytes]) -> int:
    if not needed:
        return 0
    blobs: dict[bytes, list[PackedBlob]] = {pack: [] for pack in needed}
    for pack, _, blob in index.blobs():
        if pack in blobs and blob not in blobs[pack]:
            blobs[pack].append(blob)
    packs = [
        IndexedPack(pack, sorted(found, key=lambda blob: blob.offset))
        for pack, found in blobs.items()
    ]
    repository.save(FileKind.INDEX, encode_index(packs))
    return len(packs)


def _marked_packs_needed(
    reader: BlobReader, index: BlobIndex, snapshots: Iterable[Snapshot]
) -> set[bytes]:
    needed: set[bytes] = set()

    def need(kind: BlobType, blob_id: bytes) -> None:
        location = index.find(kind, blob_id)
        if location is not None and location.marked:
            needed.add(location.pack)

    roots = [bytes.fromhex(snapshot.tree) for snapshot in snapshots]
    for tree_id, nodes in walk_trees(reader, roots, set()):
        need(BlobType.TREE, tree_id)
        for node in nodes:
            for blob_id in node.get("content") or ():
                need(BlobType.DATA, bytes.fromhex(blob_id))
    return needed
