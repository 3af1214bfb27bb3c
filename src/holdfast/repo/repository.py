"""A repository: its configuration, its key, and its files by kind.

This is where a store becomes a repository. It never decides what to keep or to delete, and
never removes a file that it was not told to remove.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum

import orjson

from holdfast.errors import (
    Damaged,
    NotARepository,
    NotFound,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
    UsageError,
    WrongPassword,
)
from holdfast.model.finding import Finding
from holdfast.model.snapshot import Snapshot
from holdfast.repo import envelope, rfc3339
from holdfast.repo.config import RepositoryConfig
from holdfast.repo.crypto import MasterKey, Sealer
from holdfast.repo.index import BlobIndex, IndexCache
from holdfast.repo.keyfile import Scrypt, make_key_file, parse_key_file
from holdfast.repo.lock import Lock, LockFiles
from holdfast.repo.threads import JoinedThreads
from holdfast.repo.treecache import TreePackCache
from holdfast.store.protocol import ObjectInfo, ObjectStore

_ID = re.compile(r"[0-9a-f]{64}")
_PARALLEL_READS = 8
_INDEX_LISTINGS = 5


class FileKind(StrEnum):
    """The kinds of small files; the value is the directory that they lie in."""

    KEY = "keys"
    SNAPSHOT = "snapshots"
    INDEX = "index"
    LOCK = "locks"

    @property
    def noun(self) -> str:
        return {"keys": "key", "snapshots": "snapshot", "index": "index", "locks": "lock"}[self]


def pack_key(pack_id: bytes) -> str:
    """Return the store's key of a pack."""
    name = pack_id.hex()
    return f"data/{name[:2]}/{name}"


class Repository:
    """An open repository. Thread-safe; usable in a forked child where the store is."""

    def __init__(
        self,
        store: ObjectStore,
        config: RepositoryConfig,
        key: MasterKey,
        key_id: str,
        cache_directory: str | None = None,
    ) -> None:
        self.store, self.config, self.key, self.key_id = store, config, key, key_id
        self.cache_directory = (
            None if cache_directory is None else os.path.join(cache_directory, config.id)
        )
        self._local = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        # The cache directory already ends with the id.
        cache = None if self.cache_directory is None else os.path.dirname(self.cache_directory)
        return Repository, (self.store, self.config, self.key, self.key_id, cache)

    @classmethod
    def create(
        cls,
        store: ObjectStore,
        password: str,
        *,
        version: int = 2,
        scrypt: Scrypt | None = None,
        cache_directory: str | None = None,
    ) -> Repository:
        """Make a new repository in `store`; raise `RepositoryExists` where one is.

        The key is stored before the config: a store without a config is not yet a
        repository, so an interrupted creation can simply be run again. The key that it left
        opens nothing, and goes.
        """
        if not password:
            raise UsageError("an empty password protects nothing; choose one that is not empty")
        with suppress(ObjectNotFound):
            store.size("config")
            raise RepositoryExists(
                f"there is a repository at {store.location} already; choose another place"
            )
        config = RepositoryConfig.new(version)
        key = MasterKey.random()
        key_file = make_key_file(key, password, scrypt or Scrypt())
        key_id = hashlib.sha256(key_file).hexdigest()
        key_name = f"keys/{key_id}"
        store.create(key_name, key_file)
        # Without a config there is no other key that anybody needs. They go only when the
        # config is there: until then one may be of somebody whose config will be the first.
        useless = [info.key for info in store.list("keys/") if info.key != key_name]
        try:
            store.create("config", Sealer(key).seal(config.to_json()))
        except ObjectExists:
            store.delete(key_name)
            raise RepositoryExists(
                f"somebody else made a repository at {store.location} just now"
            ) from None
        for name in useless:
            store.delete(name)
        return cls(store, config, key, key_id, cache_directory)

    @classmethod
    def open(
        cls, store: ObjectStore, password: str, *, cache_directory: str | None = None
    ) -> Repository:
        """Open the repository in `store`.

        Raises `NotARepository`, `WrongPassword`, `NewerVersion`, or `Damaged` where the
        config or every key is.
        """
        try:
            sealed_config = store.read("config")
        except ObjectNotFound:
            raise NotARepository(
                f"there is no repository at {store.location}; check the location, or make one "
                "with `holdfast init`"
            ) from None
        damaged: Damaged | None = None
        for key, key_id in _keys(store, password):
            try:
                plain = Sealer(key).open(sealed_config, "the repository's config")
            except Damaged as error:
                # A creation that was interrupted twice may have left a key of no use.
                damaged = damaged or error
                continue
            return cls(store, RepositoryConfig.from_json(plain), key, key_id, cache_directory)
        assert damaged is not None
        raise damaged

    @property
    def sealer(self) -> Sealer:
        """This thread's sealer."""
        sealer: Sealer | None = getattr(self._local, "sealer", None)
        if sealer is None:
            sealer = self._local.sealer = Sealer(self.key)
        return sealer

    # Files by kind

    def ids(self, kind: FileKind) -> list[str]:
        """Return the ids of all files of a kind; names that are no ids are passed over."""
        return sorted(self.sizes(kind))

    def sizes(self, kind: FileKind) -> dict[str, int]:
        """Return the stored bytes of all files of a kind by their ids, as one listing tells."""
        prefix = f"{kind.value}/"
        named = ((info.key[len(prefix) :], info.size_bytes) for info in self.store.list(prefix))
        return {name: size_bytes for name, size_bytes in named if _ID.fullmatch(name)}

    def load(self, kind: FileKind, file_id: str) -> bytes:
        """Return the JSON text of a file; raise `Damaged` where it is not what its name says."""
        stored = self.store.read(f"{kind.value}/{file_id}")
        what = f"{kind.noun} {file_id[:8]}"
        if hashlib.sha256(stored).hexdigest() != file_id:
            raise Damaged(f"{what} is damaged: its content does not match its name")
        return envelope.unwrap(self.sealer, stored, what)

    def save(self, kind: FileKind, json: bytes) -> str:
        """Store a JSON document durably and return its id."""
        stored = envelope.wrap(self.sealer, json, compress=self.config.version >= 2)
        file_id = hashlib.sha256(stored).hexdigest()
        with suppress(ObjectExists):  # the same bytes, as the name is their hash
            self.store.create(f"{kind.value}/{file_id}", stored)
        return file_id

    def remove(self, kind: FileKind, file_id: str) -> None:
        self.store.delete(f"{kind.value}/{file_id}")

    def pack_files(self) -> Iterator[tuple[bytes, ObjectInfo]]:
        """Yield (pack id, object) of every pack file; other names are passed over."""
        for info in self.store.list("data/"):
            name = info.key.rsplit("/", 1)[-1]
            if _ID.fullmatch(name):
                yield bytes.fromhex(name), info

    # Index

    def open_index_cache(self) -> IndexCache:
        directory = self.cache_directory
        return IndexCache(None if directory is None else os.path.join(directory, "index"))

    def open_tree_cache(self) -> TreePackCache | None:
        """Return the cache of tree packs, or None where the store is as near as the cache."""
        directory = self.cache_directory
        if directory is None or self.store.fork_safe:
            return None
        return TreePackCache(self.store, os.path.join(directory, "trees"))

    def open_index(self, cache: IndexCache | None = None, *, tolerant: bool = False) -> BlobIndex:
        """Return the blob index as it is listed now.

        Where a prune replaces an index file between listing and reading, it lists again,
        because what replaced it was not in the first list.
        """
        cache = cache or self.open_index_cache()
        for _ in range(_INDEX_LISTINGS):
            listed = [bytes.fromhex(name) for name in self.ids(FileKind.INDEX)]
            index = cache.open(
                listed, lambda source: self.load(FileKind.INDEX, source.hex()), tolerant=tolerant
            )
            if all(finding.code != "index_vanished" for finding in index.findings):
                break
        return index

    # Snapshots

    def snapshots(self) -> tuple[list[Snapshot], list[Finding]]:
        """Return all snapshots, oldest first, and a finding for each that cannot be read."""
        found: list[Snapshot] = []
        findings: list[Finding] = []
        with JoinedThreads(_PARALLEL_READS) as threads:
            for name, result in threads.map(self._try_snapshot, self.ids(FileKind.SNAPSHOT)):
                if isinstance(result, Snapshot):
                    found.append(result)
                elif result is not None:
                    findings.append(Finding("snapshot_damaged", result.message, name))
        found.sort(key=lambda snapshot: (snapshot.time, snapshot.id))
        return found, findings

    def _try_snapshot(self, name: str) -> tuple[str, Snapshot | Damaged | None]:
        try:
            return name, self.snapshot(name)
        except Damaged as error:
            return name, error
        except ObjectNotFound:
            return name, None

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """Load one snapshot by its full id."""
        return decode_snapshot(snapshot_id, self.load(FileKind.SNAPSHOT, snapshot_id))

    def find_snapshot(
        self, name: str, matching: Callable[[Snapshot], bool] | None = None
    ) -> Snapshot:
        """Return the snapshot that a person means: an id, the beginning of one, or ``latest``.

        `matching` limits which snapshots ``latest`` may be.
        """
        if name == "latest":
            snapshots, _ = self.snapshots()
            chosen = [s for s in snapshots if matching is None or matching(s)]
            if not chosen:
                raise NotFound("there is no snapshot that matches; see `holdfast snapshots`")
            return chosen[-1]
        ids = [i for i in self.ids(FileKind.SNAPSHOT) if i.startswith(name.lower())] if name else []
        if not ids:
            raise NotFound(f"there is no snapshot {name!r}; see `holdfast snapshots`")
        if len(ids) > 1:
            raise UsageError(
                f"{name!r} is the beginning of {len(ids)} snapshot ids; give more digits"
            )
        return self.snapshot(ids[0])

    def save_snapshot(self, document: dict[str, object]) -> Snapshot:
        """Make a restore point of a document; everything it refers to is stored already."""
        json = orjson.dumps(document)
        return decode_snapshot(self.save(FileKind.SNAPSHOT, json), json)

    # Keys and locks

    def key_files(self) -> Iterator[tuple[str, bytes]]:
        for key_id in self.ids(FileKind.KEY):
            with suppress(ObjectNotFound):
                yield key_id, self.store.read(f"keys/{key_id}")

    def lock_files(self) -> LockFiles:
        return LockFiles(
            names=lambda: self.ids(FileKind.LOCK),
            load=lambda name: self.load(FileKind.LOCK, name),
            save=lambda json: self.save(FileKind.LOCK, json),
            remove=lambda name: self.remove(FileKind.LOCK, name),
        )

    def lock(
        self,
        purpose: str,
        *,
        exclusive: bool = False,
        tolerates: Iterable[str] = (),
        wait_seconds: float = 0.0,
    ) -> Lock:
        """Return a lock to be entered with ``with``; see `holdfast.repo.lock`."""
        return Lock(
            self.lock_files(),
            purpose,
            exclusive=exclusive,
            tolerates=frozenset(tolerates),
            wait_seconds=wait_seconds,
        )


def decode_snapshot(snapshot_id: str, json: bytes) -> Snapshot:
    """Parse a snapshot document; raise `Damaged` where it is not one."""
    try:
        document = orjson.loads(json)
        if not _ID.fullmatch(document["tree"]):
            raise ValueError("the tree is no id")
        return Snapshot(
            id=snapshot_id,
            time=rfc3339.to_datetime(document["time"]),
            tree=document["tree"],
            paths=tuple(document.get("paths") or ()),
            hostname=document.get("hostname") or "",
            username=document.get("username") or "",
            tags=tuple(document.get("tags") or ()),
            parent=document.get("parent"),
            original=document.get("original"),
            program_version=document.get("program_version") or "",
            document=document,
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        raise Damaged(f"snapshot {snapshot_id[:8]} is not a snapshot document") from None


def _keys(store: ObjectStore, password: str) -> Iterator[tuple[MasterKey, str]]:
    """Yield the keys that the password opens; raise where there is none."""
    found = False
    damaged: Damaged | None = None
    tried = 0
    for info in store.list("keys/"):
        key_id = info.key.removeprefix("keys/")
        if not _ID.fullmatch(key_id):
            continue
        try:
            text = store.read(info.key)
            if hashlib.sha256(text).hexdigest() != key_id:
                raise Damaged(f"key file {key_id[:8]} is damaged: its content is not its name's")
            key = parse_key_file(key_id, text).unwrap(password)
        except WrongPassword:
            tried += 1
        except Damaged as error:
            damaged = error
        except ObjectNotFound:
            pass
        else:
            found = True
            yield key, key_id
    if found:
        return
    if tried:
        raise WrongPassword(
            f"the password opens none of the {tried} key(s) of the repository at "
            f"{store.location}; check HOLDFAST_PASSWORD or the password file"
            + ("" if damaged is None else f". Besides, {damaged.message}")
        )
    if damaged is not None:
        raise damaged
    raise Damaged(
        f"the repository at {store.location} has no key file, so nothing can open it; bring back "
        "its `keys` directory from a copy"
    )
