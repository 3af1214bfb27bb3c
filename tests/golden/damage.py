"""Ways in which a repository gets damaged: each does one thing to the files of a good one.

A function takes what is known of the sound repository and changes its directory. It returns
the blobs of which no good copy that an index lists is left, which is all that may be lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from holdfast.repo.crypto import MasterKey
from holdfast.repo.index import BlobIndex
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.keyfile import Scrypt, make_key_file
from holdfast.repo.known import KnownBlobs
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.stored_index import StoredIndex
from holdfast.repo.tree import decode_tree
from holdfast.repo.writer import BlobWriter, WriteSetup

Blob = tuple[BlobType, bytes]


@dataclass
class Sound:
    """What is known of a repository before it is damaged.

    `packs` are in the order in which they were made; `content` are the blobs that each file
    of each snapshot needs, its own and those of the directories above it. `trees` are those of
    the directories themselves.
    """

    repository: Repository
    directory: Path
    packs: list[tuple[Path, BlobType, list[PackedBlob]]] = field(default_factory=list)
    content: dict[str, dict[bytes, set[Blob]]] = field(default_factory=dict)
    roots: dict[str, set[Blob]] = field(default_factory=dict)
    trees: dict[str, dict[bytes, Blob]] = field(default_factory=dict)

    @classmethod
    def look(cls, repository: Repository, directory: Path, inside: bytes) -> Sound:
        sound = cls(repository, directory)
        index = repository.open_index()
        packs: dict[bytes, list[PackedBlob]] = {}
        for pack, _, blob in index.blobs():
            packs.setdefault(pack, []).append(blob)
        snapshots, _ = repository.snapshots()
        for snapshot in snapshots:
            sound._walk(BlobReader(repository, index), snapshot.id, snapshot.tree, inside)
        first = {blob for needs in sound.content[snapshots[0].id].values() for blob in needs}
        for pack, blobs in packs.items():
            path = directory / "data" / pack.hex()[:2] / pack.hex()
            sound.packs.append((path, blobs[0].type, sorted(blobs, key=lambda blob: blob.offset)))
        sound.packs.sort(key=lambda each: not any((b.type, b.id) in first for b in each[2]))
        return sound

    def _walk(self, reader: BlobReader, snapshot: str, root: str, inside: bytes) -> None:
        found: dict[bytes, set[Blob]] = {}
        trees: dict[bytes, Blob] = {}
        self.content[snapshot], self.trees[snapshot] = found, trees

        def walk(tree: bytes, path: bytes, above: set[Blob]) -> None:
            needs = above | {(BlobType.TREE, tree)}
            if path == inside:
                self.roots[snapshot] = needs
            for node in decode_tree(reader.load(BlobType.TREE, tree), "tree"):
                below = path + b"/" + node.name if path else node.name
                if node.subtree is not None:
                    walk(node.subtree, below, needs)
                if below.startswith(inside + b"/"):
                    path_inside = below[len(inside) + 1 :]
                    found[path_inside] = needs | {(BlobType.DATA, blob) for blob in node.content}
                    if node.subtree is not None:
                        trees[path_inside] = (BlobType.TREE, node.subtree)

        walk(bytes.fromhex(root), b"", set())

    def lost_paths(self, snapshot: str, lost: set[Blob]) -> set[bytes]:
        """The paths of a snapshot that cannot be whole."""
        return {path for path, needs in self.content[snapshot].items() if needs & lost}

    def emptied(self, snapshot: str, lost: set[Blob]) -> set[bytes]:
        """The directories of a snapshot whose own content is lost."""
        return {path for path, tree in self.trees[snapshot].items() if tree in lost}

    def pack(self, kind: BlobType, newest: bool = False) -> tuple[Path, list[PackedBlob]]:
        """The oldest or newest pack of a kind."""
        of_kind = [(path, blobs) for path, found, blobs in self.packs if found is kind]
        return of_kind[-1 if newest else 0]

    def files(self, kind: str) -> list[Path]:
        return sorted((self.directory / kind).iterdir())


Damage = Callable[[Sound], set[Blob]]


def flip(path: Path, at: int) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0x04
    path.write_bytes(content)


def _all(blobs: list[PackedBlob]) -> set[Blob]:
    return {(blob.type, blob.id) for blob in blobs}


# Packs


def missing_data_pack(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.DATA, newest=True)
    path.unlink()
    return _all(blobs)


def missing_first_data_pack(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.DATA)
    path.unlink()
    return _all(blobs)


def missing_tree_pack(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.TREE, newest=True)
    path.unlink()
    return _all(blobs)


def flip_in_each_data_blob(sound: Sound) -> set[Blob]:
    """In turn another part of each blob: its nonce, its content, its authentication code."""
    path, blobs = sound.pack(BlobType.DATA)
    for number, blob in enumerate(blobs):
        flip(path, blob.offset + (0, 16 + (blob.length - 32) // 2, blob.length - 1)[number % 3])
    return _all(blobs)


def flip_in_one_data_blob(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.DATA)
    largest = max(blobs, key=lambda blob: blob.length)
    flip(path, largest.offset + largest.length // 2)
    return _all([largest])


def flip_in_one_tree_blob(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.TREE)
    needs = sound.content[min(sound.content, key=_by_time(sound))][b"dir/nested/deep.txt"]
    (deepest,) = [
        blob
        for blob in blobs
        if (blob.type, blob.id) in needs
        and sum((blob.type, blob.id) in others for others in _needs_of_first(sound)) == 1
    ]
    flip(path, deepest.offset + deepest.length // 2)
    return _all([deepest])


def _by_time(sound: Sound) -> Callable[[str], int]:
    order = [snapshot.id for snapshot in sound.repository.snapshots()[0]]
    return order.index


def _needs_of_first(sound: Sound) -> list[set[Blob]]:
    return list(sound.content[min(sound.content, key=_by_time(sound))].values())


def flip_in_pack_header(sound: Sound) -> set[Blob]:
    path, _ = sound.pack(BlobType.DATA)
    flip(path, path.stat().st_size - 4 - 40)
    return set()


def flip_in_pack_header_length(sound: Sound) -> set[Blob]:
    path, _ = sound.pack(BlobType.DATA)
    flip(path, path.stat().st_size - 2)
    return set()


def truncated_pack(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.DATA)
    middle = blobs[len(blobs) // 2]
    size = middle.offset + middle.length - 1
    os.truncate(path, size)
    return _all([blob for blob in blobs if blob.offset + blob.length > size])


def empty_pack(sound: Sound) -> set[Blob]:
    path, blobs = sound.pack(BlobType.DATA, newest=True)
    os.truncate(path, 0)
    return _all(blobs)


def longer_pack(sound: Sound) -> set[Blob]:
    path, _ = sound.pack(BlobType.DATA)
    path.write_bytes(path.read_bytes() + bytes(100))
    return set()


def swapped_packs(sound: Sound) -> set[Blob]:
    """Two good packs under each other's names: a repair finds what is in them."""
    (one, first), (other, second) = sound.pack(BlobType.DATA), sound.pack(BlobType.TREE)
    aside = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(aside)
    return _all(first) | _all(second)


# Small files


def missing_index(sound: Sound) -> set[Blob]:
    """What only that index file lists cannot be found until the index is repaired."""
    gone = sound.files("index")[0]
    listed = _listed(sound, gone)
    gone.unlink()
    kept = set[Blob]().union(*(_listed(sound, path) for path in sound.files("index")))
    return listed - kept


def missing_indexes(sound: Sound) -> set[Blob]:
    for path in sound.files("index"):
        path.unlink()
    return _all([blob for _, _, blobs in sound.packs for blob in blobs])


def _listed(sound: Sound, path: Path) -> set[Blob]:
    packs = decode_index(sound.repository.load(FileKind.INDEX, path.name), "index")
    return _all([blob for pack in packs for blob in pack.blobs])


def flip_in_index(sound: Sound) -> set[Blob]:
    path = sound.files("index")[0]
    listed = _listed(sound, path)
    others = set[Blob]().union(*(_listed(sound, each) for each in sound.files("index")[1:]))
    flip(path, path.stat().st_size // 2)
    return listed - others


def truncated_index(sound: Sound) -> set[Blob]:
    lost = flip_in_index(sound)
    os.truncate(sound.files("index")[0], 30)
    return lost


def flip_in_snapshot(sound: Sound) -> set[Blob]:
    path = _newest_snapshot(sound)
    flip(path, path.stat().st_size // 2)
    return set()


def truncated_snapshot(sound: Sound) -> set[Blob]:
    os.truncate(_newest_snapshot(sound), 50)
    return set()


def _newest_snapshot(sound: Sound) -> Path:
    return sound.directory / "snapshots" / sound.repository.snapshots()[0][-1].id


def flip_in_config(sound: Sound) -> set[Blob]:
    flip(sound.directory / "config", 40)
    return set()


def truncated_config(sound: Sound) -> set[Blob]:
    os.truncate(sound.directory / "config", 20)
    return set()


def missing_config(sound: Sound) -> set[Blob]:
    (sound.directory / "config").unlink()
    return set()


def flip_in_key(sound: Sound) -> set[Blob]:
    (path,) = sound.files("keys")
    flip(path, path.stat().st_size - 30)
    return set()


def truncated_key(sound: Sound) -> set[Blob]:
    (path,) = sound.files("keys")
    os.truncate(path, path.stat().st_size // 2)
    return set()


def missing_key(sound: Sound) -> set[Blob]:
    sound.files("keys")[0].unlink()
    return set()


def key_of_another_repository(sound: Sound) -> set[Blob]:
    """A key file that the password opens, and that holds another master key."""
    missing_key(sound)
    content = make_key_file(MasterKey.random(), "golden password", Scrypt(n=16))
    sound.repository.store.create(f"keys/{_sha256(content)}", content)
    return set()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# What looks like damage and is none


def duplicate_blobs(sound: Sound) -> set[Blob]:
    """Every blob once more, as two writers at the same time leave them."""
    repository = sound.repository
    reader = BlobReader(repository, repository.open_index())
    known = KnownBlobs()
    writer = BlobWriter(
        WriteSetup(
            repository.store, repository.key, BlobIndex([]), known, repository.config.version
        )
    )
    for _, _, blobs in sound.packs:
        for blob in blobs:
            writer.add(blob.type, reader.load(blob.type, blob.id))
    stored = StoredIndex(repository)
    stored.add(writer.flush())
    stored.write()
    writer.close()
    known.close()
    return set()


def duplicate_blobs_and_a_missing_pack(sound: Sound) -> set[Blob]:
    """The second copy is as good as the first."""
    duplicate_blobs(sound)
    missing_first_data_pack(sound)
    return set()


def interrupted_prune(sound: Sound) -> set[Blob]:
    """Packs marked for deletion by an index file, while the old index files are still there."""
    packs = [
        IndexedPack(bytes.fromhex(path.name), blobs, marked_ns=1_700_000_000 * 10**9)
        for path, _, blobs in sound.packs
    ]
    sound.repository.save(FileKind.INDEX, encode_index(packs))
    return set()


def wrongly_marked_packs(sound: Sound) -> set[Blob]:
    """A mark on packs that snapshots need, which the next sweep has to take back."""
    old = sound.files("index")
    interrupted_prune(sound)
    for path in old:
        path.unlink()
    return set()


def unlisted_pack(sound: Sound) -> set[Blob]:
    """A pack that no index lists, as an interrupted backup leaves it."""
    repository = sound.repository
    known = KnownBlobs()
    setup = WriteSetup(
        repository.store, repository.key, BlobIndex([]), known, repository.config.version
    )
    writer = BlobWriter(setup)
    writer.add(BlobType.DATA, random.Random(3).randbytes(5_000))
    writer.flush()
    writer.close()
    known.close()
    return set()


def stale_lock(sound: Sound) -> set[Blob]:
    document = {
        "time": (datetime.now(UTC) - timedelta(hours=2)).isoformat(),
        "exclusive": True,
        "hostname": "a machine that is gone",
        "username": "nobody",
        "pid": 1,
        "uid": 0,
        "gid": 0,
    }
    sound.repository.save(FileKind.LOCK, json.dumps(document).encode())
    return set()


def garbage_names(sound: Sound) -> set[Blob]:
    """What people, sync programs and crashes leave between the files of a repository."""
    for name in (
        "README",
        "data/README",
        "data/00",
        "data/zz/file",
        "data/ab/ab12.partial",
        "index/.DS_Store",
        "index/" + "AB" * 32,
        "index/copy of an index",
        "snapshots/tmp-1234",
        "snapshots/" + "ab" * 31,
        "keys/desktop.ini",
        "locks/lock~",
    ):
        path = sound.directory / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(b"garbage")
    return set()
