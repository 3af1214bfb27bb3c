"""Merging index files: nothing is lost by it, beside anybody, and killed anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
from sample_repository import (
    DAY,
    NOW,
    contents,
    expected,
    fill,
    flip,
    keys_of,
    make,
    marked,
    pack_list,
    reopen,
    save,
)

from holdfast.errors import Damaged, Interrupted, RepositoryLocked
from holdfast.flows.merge_index import MANY_FILES, merge_index_files
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo import index_merge, resurrect
from holdfast.repo.index import IndexCache
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.prune_plan import PackAction, PruneLimits
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import encode_tree
from holdfast.repo.writer import BlobWriter
from holdfast.store.faults import Call, Fault, FaultyStore, act_after, act_before, fail_before
from holdfast.store.memory import MemoryStore

TIGHT = PruneLimits(max_unused_percent=0, merge_small=False)
Listing = tuple[bytes, int | None, PackedBlob]


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.repo.lock.SETTLE_SECONDS", 0.0)


class Shelf:
    """Small index files: of snapshots, one of them forgotten, with marks, and one revived."""

    def __init__(self, directory: Path) -> None:
        self.repository = make()
        self.directory = directory
        old = save(self.repository, fill(directory, {"a.bin": 9_000, "b/c.bin": 6_000}))
        fill(directory, {"a.bin": 9_000, "d.bin": 3_000}, seed=1)
        self.snapshot = save(self.repository, directory)
        self.repository.remove(FileKind.SNAPSHOT, old.id)
        prune_at(self.repository, 0)
        for seed in range(4):
            fill(directory, {"e.bin": 2_000}, seed=seed)
            self.snapshot = save(self.repository, directory)
        gone = IndexedPack(b"g" * 32, [], 1_000_000_000)
        packs = pack_list(self.repository)
        number = next(n for n, p in enumerate(packs.packs) if p.marked_ns is not None)
        for more in ([gone], [packs.listing(number, None)]):
            self.repository.save(FileKind.INDEX, encode_index(more))

    def copied(self) -> Repository:
        store = MemoryStore()
        for info in self.repository.store.list(""):
            store.create(info.key, self.repository.store.read(info.key))
        return reopen(self.repository, store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def shelf(made: Shelf) -> Shelf:
    shelf = copy(made)
    shelf.repository = made.copied()
    return shelf


def prune_at(repository: Repository, days: float) -> None:
    request = PruneRequest(TIGHT, workers=0, now=NOW + days * DAY)
    prune(repository, plan_prune(repository, request), now=NOW + days * DAY)


def files(repository: Repository) -> list[str]:
    return repository.ids(FileKind.INDEX)


def listings(repository: Repository) -> set[Listing]:
    return set(repository.open_index(IndexCache(None)).blobs())


def packs(repository: Repository) -> Counter[tuple[bytes, int | None]]:
    return Counter(repository.open_index(IndexCache(None)).packs())


def is_whole(repository: Repository, snapshot: Snapshot, directory: Path) -> bool:
    result = verify(repository, VerifyRequest(read_data=True, workers=0))
    assert result.clean, (result.findings, result.damaged)
    return contents(repository, snapshot) == expected(directory)


# The result


def test_every_listing_is_as_before(shelf: Shelf, tmp_path: Path) -> None:
    repository = shelf.repository
    cached = Repository.open(
        repository.store, "correct horse", cache_directory=str(tmp_path / "cache")
    )
    cached.open_index()
    before, packs_before, count = listings(repository), packs(repository), len(files(repository))
    marks = marked(repository)
    assert count >= 8
    assert marks
    merge = merge_index_files(repository, many=2)
    assert (merge.replaced, merge.written) == (count, 1)
    assert len(files(repository)) == 1
    assert listings(repository) == before == set(cached.open_index().blobs())
    assert packs(repository) == packs_before == Counter(cached.open_index().packs())
    assert marked(repository) == marks
    assert list(keys_of(repository.store, FileKind.LOCK)) == []
    assert merge_index_files(repository, many=1).replaced == 0, "there is nothing to merge with"


def test_few_files_are_left_alone(shelf: Shelf) -> None:
    before = files(shelf.repository)
    assert len(before) < MANY_FILES
    assert merge_index_files(shelf.repository).replaced == 0
    assert files(shelf.repository) == before


def test_large_files_stay_and_a_full_file_is_large(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = shelf.repository
    blobs = [PackedBlob(bytes([n]) * 32, BlobType.DATA, 0, 40, 8, False) for n in range(100)]
    many = [IndexedPack(bytes([n]) * 32, [blob]) for n, blob in enumerate(blobs)]
    large = repository.save(FileKind.INDEX, encode_index(many))
    sizes = {
        info.key.removeprefix("index/"): info.size_bytes for info in repository.store.list("index/")
    }
    monkeypatch.setattr(index_merge, "SMALL_BYTES", sizes[large])
    before = listings(repository)
    assert merge_index_files(repository, many=2).written == 1
    assert large in files(repository)
    assert len(files(repository)) == 2
    assert listings(repository) == before


def test_several_files_are_written_where_one_would_be_too_large(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_merge, "_IDS_IN_FILE", 30)
    before, count = listings(shelf.repository), len(files(shelf.repository))
    merge = merge_index_files(shelf.repository, many=2)
    assert 1 < merge.written < count
    assert listings(shelf.repository) == before
    assert is_whole(shelf.repository, shelf.snapshot, shelf.directory)


def test_a_prune_merges_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.flows.prune.merge_small_index_files.__kwdefaults__", {"many": 2})
    prune_at(shelf.repository, 0)
    assert len(files(shelf.repository)) == 1
    assert is_whole(shelf.repository, shelf.snapshot, shelf.directory)


def test_a_damaged_file_stops_it_and_nothing_is_lost(shelf: Shelf) -> None:
    flip(shelf.repository.store, next(keys_of(shelf.repository.store, FileKind.INDEX)), 30)
    before = files(shelf.repository)
    with pytest.raises(Damaged):
        merge_index_files(shelf.repository, many=2)
    assert files(shelf.repository) == before


# Beside others


@pytest.mark.parametrize("purpose", ["", "prune", "prune-instant", "repair"])
def test_restic_and_what_rewrites_the_index_exclude_it(shelf: Shelf, purpose: str) -> None:
    before = files(shelf.repository)
    with (
        shelf.repository.lock(purpose, exclusive=bool(purpose)),
        pytest.raises(RepositoryLocked),
    ):
        merge_index_files(shelf.repository, many=2)
    assert files(shelf.repository) == before


def test_restic_sees_that_it_is_at_work(shelf: Shelf) -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.extend(record.exclusive for record in shelf.repository.lock_files().records())

    store = FaultyStore(
        shelf.repository.store,
        lambda call: act_before(look) if call.method == "delete" and "index" in call.key else None,
    )
    merge_index_files(reopen(shelf.repository, store), many=2)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("step", ["create", "delete"])
@pytest.mark.parametrize("after", [False, True])
def test_a_writer_at_work_loses_nothing(shelf: Shelf, step: str, after: bool) -> None:
    """It counts on what is merged, writes an index file meanwhile, and commits."""
    repository = shelf.repository
    stored: list[Snapshot] = []
    with WriteSession(reopen(repository), "backup") as session:
        writer = BlobWriter(session.setup)
        tree = writer.add(BlobType.TREE, encode_tree([]))
        session.take(writer.flush())
        writer.close()

        def commit() -> None:
            document = {**shelf.snapshot.document, "tags": ["beside"], "tree": tree.hex()}
            stored.append(session.commit(document))

        store = FaultyStore(repository.store, once(commit, step, after=after))
        merge_index_files(reopen(repository, store), many=2)
    assert len(stored) == 1
    assert len(files(repository)) == 2, "what came meanwhile is merged next time"
    assert contents(repository, stored[0]) == {}
    assert is_whole(repository, shelf.snapshot, shelf.directory)


def test_a_writer_need_not_read_its_trees_where_nothing_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make()
    for seed in range(2):
        snapshot = save(repository, fill(tmp_path, {"x": 1000}, seed=seed))
    monkeypatch.setattr(resurrect, "walk_trees", None)
    with WriteSession(repository, "backup") as session:
        assert merge_index_files(reopen(repository), many=2).replaced == 2
        session.commit({**snapshot.document, "tags": ["again"]})
    assert len(files(repository)) == 1


def test_a_reader_that_has_listed_the_old_files_reads_the_new_one(shelf: Shelf) -> None:
    repository = shelf.repository
    before = listings(repository)
    store = FaultyStore(
        repository.store, once(lambda: merge_index_files(repository, many=2), "list", after=True)
    )
    assert set(reopen(repository, store).open_index(IndexCache(None)).blobs()) == before
    assert len(files(repository)) == 1


def once(act: Callable[[], object], method: str, *, after: bool) -> Callable[[Call], Fault | None]:
    done: list[bool] = []

    def plan(call: Call) -> Fault | None:
        if done or call.method != method or "index" not in call.key:
            return None
        done.append(True)
        return (act_after if after else act_before)(lambda: (act(), None)[1])

    return plan


# Killed anywhere


def test_killed_anywhere_it_leaves_a_whole_repository(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_merge, "_REQUESTS", 1)
    before = listings(shelf.repository)
    kills = 0
    for strike in range(100):
        repository = shelf.copied()
        count = iter(range(10_000))

        def plan(call: Call, strike: int = strike, count: object = count) -> Fault | None:
            if call.method in ("create", "delete") and next(count) >= strike:  # type: ignore[call-overload]
                return fail_before(Interrupted("killed"))
            return None

        monkeypatch.setattr(index_merge, "_IDS_IN_FILE", 30)
        try:
            merge_index_files(reopen(repository, FaultyStore(repository.store, plan)), many=2)
        except Interrupted:
            kills += 1
        for key in list(keys_of(repository.store, FileKind.LOCK)):  # of a dead process
            repository.store.delete(key)
        assert listings(repository) == before
        assert is_whole(repository, shelf.snapshot, shelf.directory)
        if kills <= strike:
            break
        monkeypatch.setattr(index_merge, "_IDS_IN_FILE", 50_000)
        merge_index_files(repository, many=2)
        assert set(packs(repository).values()) == {1}, "what was listed twice is listed once"
        assert listings(repository) == before
    assert kills >= 8, "the lock, two new files, and old ones"


def test_a_prune_lists_once_what_a_killed_merge_has_listed_twice(shelf: Shelf) -> None:
    repository = shelf.repository
    prune_at(repository, 2)
    first = files(repository)[0]
    whole = pack_list(repository)
    repository.save(
        FileKind.INDEX, encode_index([whole.listing(n, None) for n in range(len(whole))])
    )
    assert first in files(repository)
    request = PruneRequest(TIGHT, workers=0, now=NOW + 3 * DAY)
    assert plan_prune(repository, request).count(PackAction.RELIST) > 0
    prune_at(repository, 3)
    assert set(packs(repository).values()) == {1}
    assert is_whole(repository, shelf.snapshot, shelf.directory)
