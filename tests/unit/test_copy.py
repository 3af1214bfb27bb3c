"""Copy: another key, another place, the same trees; again is free; damage is not carried."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_repository import (
    NOW,
    contents,
    expected,
    fill,
    flip,
    keys_of,
    make,
    pack_ids,
    pack_list,
    reopen,
    save,
)

from holdfast.errors import Interrupted, UsageError
from holdfast.flows.copy import CopyRequest, CopyResult, copy
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.faults import FaultyStore, fail_before, on
from holdfast.store.local import LocalStore

HERE = CopyRequest(workers=0)


class Source:
    def __init__(self, directory: Path, version: int = 2) -> None:
        self.repository = make(version=version)
        self.directory = fill(
            directory, {"a.bin": 90_000, "b/c.bin": 60_000, "t.txt": b"text " * 9000}
        )
        self.first = save(self.repository, directory, tags=("nightly",))
        self.first_files = expected(directory)
        fill(directory, {"a.bin": 90_000}, seed=1)
        self.second = save(self.repository, directory)
        self.second_files = expected(directory)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def is_whole(repository: Repository) -> bool:
    result = verify(repository, VerifyRequest(read_data=True, workers=0))
    assert result.clean, (result.findings, result.damaged)
    return True


def by_source(result: CopyResult) -> dict[str, Snapshot]:
    return dict(result.copied)


def test_snapshots_arrive_whole_under_another_key(source: Source) -> None:
    destination = make()
    result = copy(source.repository, destination, HERE)
    assert result.findings == ()
    assert is_whole(destination)
    copies = by_source(result)
    assert contents(destination, copies[source.first.id]) == source.first_files
    assert contents(destination, copies[source.second.id]) == source.second_files
    one = copies[source.first.id]
    assert one.tree == source.first.tree
    assert one.original == source.first.id
    assert (one.time, one.paths, one.tags) == (
        source.first.time, source.first.paths, ("nightly",)
    )  # fmt: skip
    assert copies[source.second.id].parent is None
    # The same blobs under another key are other bytes.
    assert pack_ids(destination).isdisjoint(pack_ids(source.repository))
    assert result.added.stored_bytes > 150_000


def test_what_was_copied_is_skipped(source: Source) -> None:
    destination = make()
    result = copy(source.repository, destination, HERE)
    packs = pack_ids(destination)
    again = copy(source.repository, destination, HERE)
    assert again.copied == ()
    assert set(again.skipped) == {source.first.id, source.second.id}
    assert (again.bytes_read, again.added.stored_bytes) == (0, 0)
    assert pack_ids(destination) == packs
    assert dict(again.there) == by_source(result), "and named as it is there"
    # Nor does it come back to where it was from, with an origin of its own.
    back = copy(destination, source.repository, HERE)
    assert back.copied == ()
    assert len(back.skipped) == 2


def test_a_persons_copy_is_of_no_job(source: Source) -> None:
    """What a job noted in its own copy does not travel on, and does not keep a person's away."""
    middle, end = make(), make()
    of_a_job = CopyRequest((source.first.id,), workers=0, job="job-1")
    ((_, noted),) = copy(source.repository, middle, of_a_job).copied
    assert noted.copy_note["job"] == "job-1"
    assert noted.copy_note["stored_bytes"] > 150_000
    ((_, plain),) = copy(middle, end, HERE).copied
    assert plain.copy_note == {}
    assert copy(source.repository, middle, CopyRequest((source.first.id,), workers=0)).skipped


def test_only_what_is_new_travels(source: Source) -> None:
    destination = make()
    copy(source.repository, destination, CopyRequest((source.first.id,), workers=0))
    assert len(destination.ids(FileKind.SNAPSHOT)) == 1
    result = copy(source.repository, destination, HERE)
    assert result.skipped == (source.first.id,)
    assert 90_000 < result.added.raw_bytes < 100_000, "a.bin, some trees and a manifest"
    assert contents(destination, by_source(result)[source.second.id]) == source.second_files


def test_blobs_are_taken_over_as_they_are_compressed(source: Source) -> None:
    destination = make()
    copy(source.repository, destination, HERE)

    def shapes(repository: Repository) -> set[tuple[object, ...]]:
        packs = pack_list(repository)
        return {
            (blob.type, blob.id, blob.length, blob.raw_length, blob.compressed)
            for number in range(len(packs))
            for blob in packs.blobs(number)
        }

    assert shapes(destination) == shapes(source.repository)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
def test_versions_are_translated(tmp_path: Path, old: int, new: int) -> None:
    source = Source(tmp_path, old)
    destination = make(version=new)
    result = copy(source.repository, destination, HERE)
    packs = pack_list(destination)
    blobs = [blob for number in range(len(packs)) for blob in packs.blobs(number)]
    assert any(blob.compressed for blob in blobs) == (new == 2)
    assert is_whole(destination)
    assert contents(destination, by_source(result)[source.first.id]) == source.first_files


def test_an_interrupted_copy_goes_on_where_it_was(source: Source) -> None:
    destination = make()
    struck = reopen(
        destination,
        FaultyStore(
            destination.store,
            lambda call: fail_before(Interrupted("killed")) if "snapshots" in call.key
            and call.method == "create" else None,
        ),
    )  # fmt: skip
    with pytest.raises(Interrupted):
        copy(source.repository, struck, HERE)
    assert destination.ids(FileKind.SNAPSHOT) == []
    packs = pack_ids(destination)
    result = copy(source.repository, destination, HERE)
    assert result.bytes_read == 0
    assert pack_ids(destination) == packs
    assert len(result.copied) == 2
    assert is_whole(destination)


def test_a_tree_that_is_there_without_what_is_below_it_is_completed(source: Source) -> None:
    destination = make()
    copy(source.repository, destination, HERE)
    # As if only the trees had been indexed when the first run was killed.
    packs = pack_list(destination)
    from holdfast.repo.index_rewrite import IndexRewrite

    data = {
        pack.id
        for number, pack in enumerate(packs.packs)
        if packs.blobs(number)[0].type is BlobType.DATA
    }
    rewrite = IndexRewrite(destination)
    rewrite.write(packs.index.sources, data, [])
    rewrite.remove_superseded()
    for pack in data:
        destination.store.delete(pack_key(pack))
    for name in destination.ids(FileKind.SNAPSHOT):
        destination.remove(FileKind.SNAPSHOT, name)
    result = copy(source.repository, destination, HERE)
    assert is_whole(destination)
    assert contents(destination, by_source(result)[source.second.id]) == source.second_files


def break_file(source: Source, size: int) -> None:
    packs = pack_list(source.repository)
    for number, pack in enumerate(packs.packs):
        for blob in packs.blobs(number):
            if blob.type is BlobType.DATA and blob.raw_length == size:
                flip(source.repository.store, pack_key(pack.id), blob.offset + 20)
                return


def test_a_damaged_snapshot_is_named_and_the_others_are_copied(source: Source) -> None:
    fill(source.directory, {"z.bin": 12_345}, seed=3)
    third = save(source.repository, source.directory)
    break_file(source, 12_345)
    destination = make()
    result = copy(source.repository, destination, HERE)
    assert set(by_source(result)) == {source.first.id, source.second.id}
    codes = [(finding.code, finding.subject) for finding in result.findings]
    assert codes[0][0] == "pack_damaged"
    assert codes[1] == ("snapshot_not_copied", third.id)
    assert is_whole(destination)


def test_a_missing_pack_at_the_source_stops_only_what_needs_it(source: Source) -> None:
    fill(source.directory, {"z.bin": 12_345}, seed=3)
    before = pack_ids(source.repository)
    third = save(source.repository, source.directory)
    for pack in pack_ids(source.repository) - before:
        source.repository.store.delete(pack_key(pack))
    destination = make()
    result = copy(source.repository, destination, HERE)
    assert set(by_source(result)) == {source.first.id, source.second.id}
    assert third.id in {finding.subject for finding in result.findings}
    assert is_whole(destination)


def test_another_copy_at_the_source_stands_in_for_a_damaged_one(source: Source) -> None:
    store = source.repository.store
    hidden = {key: store.read(key) for key in keys_of(store, FileKind.INDEX)}
    for key in hidden:
        store.delete(key)
    save(source.repository, source.directory, parent=None)
    for key, content in hidden.items():
        store.create(key, content)
    break_file(source, 60_000)
    destination = make()
    result = copy(source.repository, destination, HERE)
    assert len(result.copied) == 3
    assert is_whole(destination)


def test_an_unreadable_record_is_a_finding(source: Source) -> None:
    flip(source.repository.store, f"snapshots/{source.first.id}", 20)
    result = copy(source.repository, make(), HERE)
    assert [finding.code for finding in result.findings] == ["snapshot_damaged"]
    assert set(by_source(result)) == {source.second.id}


def test_a_repository_is_not_copied_into_itself(source: Source) -> None:
    with pytest.raises(UsageError):
        copy(source.repository, reopen(source.repository), HERE)


def test_nothing_is_left_locked(source: Source) -> None:
    destination = make()
    copy(source.repository, destination, HERE)
    for repository in (source.repository, destination):
        assert repository.ids(FileKind.LOCK) == []
    broken = reopen(
        destination, FaultyStore(destination.store, on("create", fail_before(Interrupted("x"))))
    )
    with pytest.raises(Interrupted):
        copy(source.repository, broken, HERE)
    assert source.repository.ids(FileKind.LOCK) == []


def test_a_copy_of_a_pruned_repository_holds_only_what_is_needed(source: Source) -> None:
    source.repository.remove(FileKind.SNAPSHOT, source.first.id)
    prune(
        source.repository,
        plan_prune(
            source.repository, PruneRequest(PruneLimits(max_unused_percent=0), workers=0, now=NOW)
        ),
        now=NOW,
    )
    destination = make()
    result = copy(source.repository, destination, HERE)
    plan = plan_prune(destination, PruneRequest(PruneLimits(max_unused_percent=0)))
    assert plan.does_nothing
    assert contents(destination, by_source(result)[source.second.id]) == source.second_files


def test_workers_copy_like_one_process(tmp_path: Path) -> None:
    source = make(LocalStore(str(tmp_path / "source")))
    destination = make(LocalStore(str(tmp_path / "destination")))
    snapshot = save(source, fill(tmp_path / "files", {"x": 400_000, "y/z": 200_000}), workers=2)
    result = copy(source, destination, CopyRequest(workers=2))
    assert is_whole(destination)
    assert contents(destination, by_source(result)[snapshot.id]) == expected(tmp_path / "files")
