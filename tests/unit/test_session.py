"""A write session: packs before index before snapshot, and nothing promised that is not there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sample_repository import contents, make, marked, reopen

from holdfast.errors import RepositoryLocked, SourceError, StoreFull, StoreUnavailable
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo import lock as locks
from holdfast.repo import session as sessions
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import encode_tree
from holdfast.repo.writer import BlobWriter
from holdfast.store.faults import Call, Fault, FaultyStore, Plan, fail_before

CONTENT = b"the content of a file"


@contextmanager
def writing(repository: Repository, **options: int) -> Iterator[tuple[WriteSession, BlobWriter]]:
    with WriteSession(repository, "backup", **options) as session:  # type: ignore[arg-type]
        writer = BlobWriter(session.setup)
        try:
            yield session, writer
        finally:
            writer.close()


def add_tree(writer: BlobWriter, content: bytes = CONTENT) -> bytes:
    blob = writer.add(BlobType.DATA, content)
    node = Node(b"file", NodeType.FILE, size=len(content), content=(blob,))
    return writer.add(BlobType.TREE, encode_tree([node]))


def document(tree: bytes) -> dict[str, object]:
    return {"time": "2030-01-01T00:00:00Z", "tree": tree.hex(), "paths": ["/x"]}


def write(repository: Repository, content: bytes = CONTENT) -> Snapshot:
    with writing(repository) as (session, writer):
        tree = add_tree(writer, content)
        session.take(writer.flush())
        return session.commit(document(tree))


def failing(repository: Repository, plan: Plan) -> Repository:
    return reopen(repository, FaultyStore(repository.store, plan))


def at_create_of(directory: str, error: Exception) -> Plan:
    def plan(call: Call) -> Fault | None:
        strikes = call.method == "create" and call.key.startswith(f"{directory}/")
        return fail_before(error) if strikes else None

    return plan


def is_readable(repository: Repository, snapshot: Snapshot) -> bool:
    return set(contents(repository, snapshot).values()) == {CONTENT}


def test_packs_are_stored_before_the_index_and_the_index_before_the_snapshot() -> None:
    repository = make()
    store = FaultyStore(repository.store)
    snapshot = write(reopen(repository, store))
    changes = [
        (call.method, call.key.partition("/")[0])
        for call in store.calls
        if call.method in ("create", "delete")
    ]
    assert changes == [
        ("create", "locks"),
        ("create", "data"),
        ("create", "data"),
        ("create", "index"),
        ("create", "snapshots"),
        ("delete", "locks"),
    ]
    assert is_readable(repository, snapshot)


def test_a_second_run_stores_nothing_twice() -> None:
    repository = make()
    first = write(repository)
    packs, indexes = list(repository.pack_files()), repository.ids(FileKind.INDEX)
    second = write(repository)
    assert second.tree == first.tree
    assert list(repository.pack_files()) == packs
    assert repository.ids(FileKind.INDEX) == indexes


def test_leaving_without_commit_makes_no_restore_point() -> None:
    repository = make()
    with writing(repository) as (session, writer):
        add_tree(writer)
        session.take(writer.flush())
    assert repository.ids(FileKind.SNAPSHOT) == []
    assert repository.ids(FileKind.LOCK) == []


@pytest.mark.parametrize("error", [SourceError("gone"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_leaves_no_snapshot_but_an_index_of_what_was_stored(error: BaseException) -> None:
    repository = make()

    def interrupted() -> None:
        with writing(repository) as (session, writer):
            add_tree(writer)
            session.take(writer.flush())
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert repository.ids(FileKind.SNAPSHOT) == repository.ids(FileKind.LOCK) == []
    assert len(repository.ids(FileKind.INDEX)) == 1
    store = FaultyStore(repository.store)
    snapshot = write(reopen(repository, store))
    assert not [c for c in store.calls if c.method == "create" and c.key.startswith("data/")]
    assert is_readable(repository, snapshot)


@pytest.mark.parametrize("directory", ["data", "index", "snapshots"])
@pytest.mark.parametrize("error", [StoreFull("no room"), StoreUnavailable("away")])
def test_a_store_that_fails_leaves_no_snapshot_and_no_lock(
    directory: str, error: Exception
) -> None:
    repository = make()
    with pytest.raises(type(error)):
        write(failing(repository, at_create_of(directory, error)))
    assert repository.ids(FileKind.SNAPSHOT) == repository.ids(FileKind.LOCK) == []
    assert len(repository.ids(FileKind.INDEX)) == (directory == "snapshots")
    assert is_readable(repository, write(repository))


def test_after_an_error_of_the_store_it_is_not_asked_for_an_index() -> None:
    repository = make()

    def full() -> None:
        with writing(repository) as (session, writer):
            add_tree(writer)
            session.take(writer.flush())
            raise StoreFull("no room")

    with pytest.raises(StoreFull):
        full()
    assert repository.ids(FileKind.INDEX) == repository.ids(FileKind.LOCK) == []


def test_a_session_that_cannot_read_the_index_gives_its_lock_back() -> None:
    repository = make()
    write(repository)

    def plan(call: Call) -> Fault | None:
        strikes = call.method == "read" and call.key.startswith("index/")
        return fail_before(StoreUnavailable("away")) if strikes else None

    with pytest.raises(StoreUnavailable):
        write(failing(repository, plan))
    assert repository.ids(FileKind.LOCK) == []


def test_index_files_are_written_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_BLOBS_IN_INDEX_FILE", 10)
    repository = make()
    with writing(repository, pack_bytes=5000) as (session, writer):
        for seed in range(30):
            writer.add(BlobType.DATA, random.Random(seed).randbytes(1500))
            session.take(writer.flush())
        on_the_way = repository.ids(FileKind.INDEX)
        assert len(on_the_way) == 3
        # Known to this run, too: nothing of it is stored again.
        writer.add(BlobType.DATA, random.Random(0).randbytes(1500))
        assert writer.flush() == []
        tree = add_tree(writer)
        session.take(writer.flush())
        snapshot = session.commit(document(tree))
    listed = [
        blob.id
        for name in repository.ids(FileKind.INDEX)
        for pack in decode_index(repository.load(FileKind.INDEX, name), name)
        for blob in pack.blobs
    ]
    assert len(listed) == len(set(listed)) == 32
    assert is_readable(repository, snapshot)


def test_an_index_file_is_written_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_SECONDS_BETWEEN_INDEX_FILES", -1.0)
    repository = make()
    with writing(repository) as (session, writer):
        add_tree(writer)
        session.take(writer.flush())
        assert len(repository.ids(FileKind.INDEX)) == 1
        session.write_index()
        assert len(repository.ids(FileKind.INDEX)) == 1


def mark_everything(repository: Repository) -> None:
    """What the first phase of a prune does, seen from outside."""
    packs: list[IndexedPack] = []
    old = repository.ids(FileKind.INDEX)
    for name in old:
        packs += decode_index(repository.load(FileKind.INDEX, name), name)
    marks = [IndexedPack(pack.id, pack.blobs, 10**18) for pack in packs]
    repository.save(FileKind.INDEX, encode_index(marks))
    for name in old:
        repository.remove(FileKind.INDEX, name)


def test_packs_that_were_marked_meanwhile_are_listed_as_alive_again() -> None:
    repository = make()
    write(repository)
    with writing(repository) as (session, writer):
        tree = add_tree(writer)
        assert writer.flush() == []
        mark_everything(repository)
        assert len(marked(repository)) == 2
        snapshot = session.commit(document(tree))
    assert marked(repository) == set()
    assert is_readable(repository, snapshot)


def test_packs_that_this_run_stored_and_a_prune_marked_are_alive_again() -> None:
    repository = make()
    with writing(repository) as (session, writer):
        tree = add_tree(writer)
        session.take(writer.flush())
        session.write_index()
        mark_everything(repository)
        session.commit(document(tree))
    assert marked(repository) == set()


def test_marks_on_what_the_snapshot_does_not_need_stay() -> None:
    repository = make()
    write(repository, b"of another snapshot")
    with writing(repository) as (session, writer):
        tree = add_tree(writer)
        session.take(writer.flush())
        mark_everything(repository)
        session.commit(document(tree))
    assert len(marked(repository)) == 2


def test_what_was_marked_before_is_stored_again() -> None:
    repository = make()
    write(repository)
    mark_everything(repository)
    snapshot = write(repository)
    assert len(list(repository.pack_files())) == 4
    assert is_readable(repository, snapshot)


@pytest.mark.parametrize("with_blobs", [True, False])
def test_a_lapsed_lock_refuses_before_anything_is_promised(
    monkeypatch: pytest.MonkeyPatch, with_blobs: bool
) -> None:
    repository = make()
    write(repository)
    indexes, snapshots = repository.ids(FileKind.INDEX), repository.ids(FileKind.SNAPSHOT)

    def stopped_for_an_hour() -> None:
        with writing(repository) as (session, writer):
            tree = add_tree(writer, b"new" if with_blobs else CONTENT)
            session.take(writer.flush())
            now = locks.seconds_since_boot()
            monkeypatch.setattr(locks, "seconds_since_boot", lambda: now + 3600)
            session.commit(document(tree))

    with pytest.raises(RepositoryLocked, match="its lock expired"):
        stopped_for_an_hour()
    assert repository.ids(FileKind.INDEX) == indexes
    assert repository.ids(FileKind.SNAPSHOT) == snapshots
    assert repository.ids(FileKind.LOCK) == []


def test_a_session_waits_for_nobody_who_excludes_it() -> None:
    repository = make()
    with repository.lock("repair", exclusive=True), pytest.raises(RepositoryLocked):
        WriteSession(repository, "backup").__enter__()
    with repository.lock("prune", exclusive=True, tolerates={"backup"}):
        assert is_readable(repository, write(repository))
