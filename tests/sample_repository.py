"""A small repository in memory with a few snapshots, for the tests of its maintenance."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from holdfast.flows.backup import BackupRequest, backup
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import IndexCache
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.pack import BlobType
from holdfast.repo.packlist import PackList
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.treestream import stream_trees
from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import ObjectStore

PASSWORD = "correct horse"
CHEAP = Scrypt(n=16)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def make(store: ObjectStore | None = None, version: int = 2) -> Repository:
    return Repository.create(
        MemoryStore() if store is None else store, PASSWORD, version=version, scrypt=CHEAP
    )


def reopen(repository: Repository, store: ObjectStore | None = None) -> Repository:
    """The same repository as another process would see it, or through another store."""
    return Repository.open(store or repository.store, PASSWORD)


def fill(directory: Path, files: dict[str, int | bytes], seed: int = 0) -> Path:
    """Write files of so many random bytes, or of those bytes; directories are made."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = (
            random.Random(f"{seed}{name}").randbytes(content)
            if isinstance(content, int)
            else content
        )
        path.write_bytes(data)
    return directory


def save(repository: Repository, directory: Path, workers: int = 0, **more: object) -> Snapshot:
    """Back a directory up."""
    request = BackupRequest((os.fsencode(directory),), workers=workers, settle_ns=0, **more)  # type: ignore[arg-type]
    result = backup(repository, request)
    assert result.snapshot is not None
    assert not result.findings
    return result.snapshot


def contents(repository: Repository, snapshot: Snapshot) -> dict[str, bytes]:
    """Read everything back by the index as it is now: name of each file and its bytes."""
    index = repository.open_index(IndexCache(None))
    reader = BlobReader(repository, index)
    files: dict[str, bytes] = {}
    for tree in stream_trees(repository, index, [bytes.fromhex(snapshot.tree)], lambda _id: True):
        assert tree.damage is None, tree.damage
        for node in tree.nodes:
            if node["type"] == "file" and node["name"] != "manifest.json":
                parts = (bytes.fromhex(blob) for blob in node.get("content") or ())
                files[node["name"]] = b"".join(reader.load(BlobType.DATA, part) for part in parts)
    return files


def expected(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def pack_list(repository: Repository) -> PackList:
    return PackList(repository.open_index(IndexCache(None)))


def pack_ids(repository: Repository) -> set[bytes]:
    return {pack for pack, _ in repository.pack_files()}


def packs_holding(repository: Repository, kind: BlobType) -> list[bytes]:
    packs = pack_list(repository)
    return [
        pack.id
        for number, pack in enumerate(packs.packs)
        if any(blob.type is kind for blob in packs.blobs(number))
    ]


def marked(repository: Repository) -> set[bytes]:
    return {pack.id for pack in pack_list(repository).packs if pack.marked_ns is not None}


def keys_of(store: ObjectStore, kind: FileKind) -> Iterator[str]:
    return (info.key for info in list(store.list(f"{kind.value}/")))


def replace(store: ObjectStore, key: str, content: bytes) -> None:
    """What a failing disk does: other bytes under the same name."""
    store.delete(key)
    store.create(key, content)


def flip(store: ObjectStore, key: str, at: int) -> None:
    content = bytearray(store.read(key))
    content[at] ^= 0x10
    replace(store, key, bytes(content))
