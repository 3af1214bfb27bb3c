"""Repair: what can be saved is saved, what is lost is named, and the rest is whole again."""

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
    marked,
    pack_ids,
    pack_list,
    packs_holding,
    replace,
    save,
)

from holdfast.errors import Conflict, Damaged, RepositoryLocked
from holdfast.flows.copy import CopyRequest, copy
from holdfast.flows.repair import (
    plan_index_repair,
    plan_pack_repair,
    plan_replica_repair,
    plan_snapshot_repair,
    repair_index,
    repair_packs,
    repair_snapshots,
)
from holdfast.flows.verify import VerifyRequest, VerifyResult, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo.indexfile import encode_index
from holdfast.repo.pack import BlobType
from holdfast.repo.reindex import Relisting
from holdfast.repo.repository import FileKind, Repository, pack_key


class Sample:
    def __init__(self, directory: Path, version: int = 2) -> None:
        self.repository = make(version=version)
        self.store = self.repository.store
        self.directory = fill(
            directory, {"a.bin": 90_000, "b/c.bin": 60_000, "b/d.txt": b"hello", "e/f/g.bin": 700}
        )
        self.first = save(self.repository, directory)
        self.first_files = expected(directory)
        fill(directory, {"a.bin": 90_000}, seed=1)
        self.second = save(self.repository, directory)
        self.second_files = expected(directory)

    def place_of(self, size: int) -> tuple[bytes, int]:
        """The pack and offset of the data blob of so many bytes."""
        packs = pack_list(self.repository)
        for number, pack in enumerate(packs.packs):
            for blob in packs.blobs(number):
                if blob.type is BlobType.DATA and blob.raw_length == size:
                    return pack.id, blob.offset
        raise AssertionError

    def break_blob(self, size: int) -> bytes:
        pack, offset = self.place_of(size)
        flip(self.store, pack_key(pack), offset + 20)
        return pack


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


def look(repository: Repository) -> VerifyResult:
    return verify(repository, VerifyRequest(read_data=True, workers=0))


def mend_index(repository: Repository, *, read_all: bool = False) -> None:
    repair_index(repository, plan_index_repair(repository, read_all=read_all))


# Index


def test_a_whole_index_is_left_alone(sample: Sample) -> None:
    before = set(keys_of(sample.store, FileKind.INDEX))
    for read_all in (False, True):
        plan = plan_index_repair(sample.repository, read_all=read_all)
        assert plan.does_nothing
        assert repair_index(sample.repository, plan).packs == 0
    assert set(keys_of(sample.store, FileKind.INDEX)) == before


@pytest.mark.parametrize("all_of_them", [False, True])
def test_missing_index_files_are_rebuilt(sample: Sample, all_of_them: bool) -> None:
    keys = list(keys_of(sample.store, FileKind.INDEX))
    for key in keys if all_of_them else keys[:1]:
        sample.store.delete(key)
    plan = plan_index_repair(sample.repository)
    assert {repair.relisting for repair in plan.repairs} == {Relisting.ADD}
    assert len(plan.repairs) == (4 if all_of_them else 2)
    repair_index(sample.repository, plan)
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.first) == sample.first_files
    assert plan_index_repair(sample.repository, read_all=True).does_nothing


def test_a_damaged_index_file_is_replaced(sample: Sample) -> None:
    key = next(keys_of(sample.store, FileKind.INDEX))
    flip(sample.store, key, 50)
    plan = plan_index_repair(sample.repository)
    assert [finding.code for finding in plan.findings] == ["index_damaged"]
    assert key in set(keys_of(sample.store, FileKind.INDEX)), "a plan changes nothing"
    repair_index(sample.repository, plan)
    assert key not in set(keys_of(sample.store, FileKind.INDEX))
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.second) == sample.second_files


def test_a_listed_pack_that_is_gone_is_dropped(sample: Sample) -> None:
    pack = sample.place_of(60_000)[0]
    sample.store.delete(pack_key(pack))
    plan = plan_index_repair(sample.repository)
    assert [(repair.pack, repair.relisting) for repair in plan.repairs] == [(pack, Relisting.DROP)]
    assert plan.lost_blobs == plan.repairs[0].blobs > 3
    repair_index(sample.repository, plan)
    assert pack not in pack_list(sample.repository).number_of
    assert {finding.code for finding in look(sample.repository).findings} == {"data_blobs_unlisted"}
    # What is still at its source is stored anew, which was the point of dropping it.
    snapshot = save(sample.repository, sample.directory, parent=None)
    assert contents(sample.repository, snapshot) == sample.second_files


def test_a_wrong_listing_is_corrected_by_the_header(sample: Sample) -> None:
    from holdfast.repo.index_rewrite import IndexRewrite
    from holdfast.repo.indexfile import IndexedPack

    packs = pack_list(sample.repository)
    pack, _ = sample.place_of(60_000)
    one, *rest = packs.blobs(packs.number_of[pack])
    rewrite = IndexRewrite(sample.repository)
    wrong = IndexedPack(pack, [one._replace(offset=one.offset + 1), *rest])
    rewrite.write(packs.index.sources, {pack}, [wrong])
    rewrite.remove_superseded()
    assert not look(sample.repository).clean
    assert plan_index_repair(sample.repository).does_nothing, "its size fits"
    plan = plan_index_repair(sample.repository, read_all=True)
    assert [repair.relisting for repair in plan.repairs] == [Relisting.CORRECT]
    repair_index(sample.repository, plan)
    assert look(sample.repository).clean


def test_marks_survive_a_rebuilt_index(sample: Sample) -> None:
    packs = pack_list(sample.repository)
    sample.repository.remove(FileKind.SNAPSHOT, sample.second.id)
    number = packs.number_of[sample.place_of(90_000)[0]]
    sample.repository.save(FileKind.INDEX, encode_index([packs.listing(number, 10**18)]))
    assert plan_index_repair(sample.repository, read_all=True).does_nothing


def test_a_pack_without_a_readable_header_is_named_and_left(sample: Sample) -> None:
    pack = sample.place_of(60_000)[0]
    for key in keys_of(sample.store, FileKind.INDEX):
        sample.store.delete(key)
    flip(sample.store, pack_key(pack), -1)
    plan = plan_index_repair(sample.repository)
    assert [(f.code, f.subject) for f in plan.findings] == [("pack_header_damaged", pack.hex())]
    assert pack not in {repair.pack for repair in plan.repairs}


def test_a_plan_of_another_state_is_refused(sample: Sample) -> None:
    sample.store.delete(next(keys_of(sample.store, FileKind.INDEX)))
    plan = plan_index_repair(sample.repository)
    repair_index(sample.repository, plan)
    with pytest.raises(Conflict, match="plan again"):
        repair_index(sample.repository, plan)


def test_a_repair_is_alone(sample: Sample) -> None:
    with sample.repository.lock("backup"), pytest.raises(RepositoryLocked):
        plan_index_repair(sample.repository)


# Packs


@pytest.mark.parametrize("version", [1, 2])
def test_good_blobs_of_a_damaged_pack_are_saved(tmp_path: Path, version: int) -> None:
    sample = Sample(tmp_path, version)
    pack = sample.break_blob(60_000)
    damage = look(sample.repository)
    assert damage.damaged_packs == (pack.hex(),)
    plan = plan_pack_repair(sample.repository, damage.damaged_packs)
    assert len(plan.lost) == 1
    assert len(plan.packs[0].kept) >= 3
    assert pack not in marked(sample.repository)
    result = repair_packs(sample.repository, plan, now=NOW)
    assert [finding.code for finding in result.findings] == ["blob_lost"]
    # The pack stays for a while, and nobody counts on it.
    assert pack in pack_ids(sample.repository)
    assert marked(sample.repository) == {pack}
    assert sample.repository.open_index().find(*plan.lost[0]) is None

    after = look(sample.repository)
    assert {finding.code for finding in after.findings} == {"data_blobs_unlisted"}
    lost = {path.path.rsplit("/", 1)[1] for each in after.damaged for path in each.lost}
    assert lost == {"c.bin"}
    # A backup stores anew what is lost, and mends the old snapshots with it.
    save(sample.repository, sample.directory, parent=None)
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.first) == sample.first_files


def test_a_truncated_pack_gives_back_what_lies_before_the_cut(sample: Sample) -> None:
    pack, offset = sample.place_of(60_000)
    replace(sample.store, pack_key(pack), sample.store.read(pack_key(pack))[: offset + 100])
    packs = pack_list(sample.repository)
    before = [b for b in packs.blobs(packs.number_of[pack]) if b.offset < offset]
    plan = plan_pack_repair(sample.repository, look(sample.repository).damaged_packs)
    assert len(plan.packs[0].kept) == len(before)
    repair_packs(sample.repository, plan, now=NOW)
    assert "pack_size_wrong" not in {f.code for f in look(sample.repository).findings}


def test_a_damaged_header_costs_nothing(sample: Sample) -> None:
    pack, _ = sample.place_of(60_000)
    flip(sample.store, pack_key(pack), -10)
    plan = plan_pack_repair(sample.repository, look(sample.repository).damaged_packs)
    assert plan.lost == ()
    assert repair_packs(sample.repository, plan, now=NOW).findings == ()
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.first) == sample.first_files


@pytest.fixture
def replica(sample: Sample) -> Repository:
    other = make()
    copy(sample.repository, other, CopyRequest(workers=0))
    return other


def test_a_replica_gives_back_what_a_pack_has_lost(sample: Sample, replica: Repository) -> None:
    sample.break_blob(60_000)
    packs = look(sample.repository).damaged_packs
    plan = plan_pack_repair(sample.repository, packs, replica)
    assert plan.lost == ()
    assert len(plan.packs[0].mended) == 1
    repair_packs(sample.repository, plan, replica, now=NOW)
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.first) == sample.first_files


@pytest.mark.parametrize("kind", list(BlobType))
def test_a_replica_gives_back_packs_that_are_gone(
    sample: Sample, replica: Repository, kind: BlobType
) -> None:
    for pack in packs_holding(sample.repository, kind):
        sample.store.delete(pack_key(pack))
    packs = look(sample.repository).damaged_packs
    plan = plan_pack_repair(sample.repository, packs, replica)
    assert plan.lost == ()
    assert all(pack.gone for pack in plan.packs)
    repair_packs(sample.repository, plan, replica, now=NOW)
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.second) == sample.second_files


def test_a_replica_gives_back_what_no_index_lists(sample: Sample, replica: Repository) -> None:
    for pack in pack_ids(sample.repository):
        sample.store.delete(pack_key(pack))
    mend_index(sample.repository)
    assert len(look(sample.repository).damaged) == 2
    plan = plan_replica_repair(sample.repository, replica)
    assert plan.unmended == ()
    assert {name[0] for name in plan.mended} == set(BlobType)
    repair_packs(sample.repository, plan, replica, now=NOW)
    assert look(sample.repository).clean
    assert contents(sample.repository, sample.first) == sample.first_files


def test_a_replica_that_lacks_it_too_is_said_so(sample: Sample) -> None:
    sample.store.delete(pack_key(sample.place_of(60_000)[0]))
    mend_index(sample.repository)
    plan = plan_replica_repair(sample.repository, make())
    assert plan.mended == ()
    assert set(plan.unmended) == set(plan.lost) != set()
    assert plan.does_nothing


def test_a_replica_that_changed_since_the_plan_stops_the_repair(
    sample: Sample, replica: Repository
) -> None:
    sample.break_blob(60_000)
    plan = plan_pack_repair(sample.repository, look(sample.repository).damaged_packs, replica)
    with pytest.raises(Damaged, match="Plan again"):
        repair_packs(sample.repository, plan, make(), now=NOW)
    assert marked(sample.repository) == set()


# Snapshots


def lose(sample: Sample, size: int) -> None:
    sample.break_blob(size)
    damaged = look(sample.repository).damaged_packs
    repair_packs(sample.repository, plan_pack_repair(sample.repository, damaged), now=NOW)


def test_snapshots_are_written_anew_without_what_is_lost(sample: Sample) -> None:
    lose(sample, 60_000)
    plan = plan_snapshot_repair(sample.repository)
    assert {each.id for each in plan.damaged} == {sample.first.id, sample.second.id}
    result = repair_snapshots(sample.repository, plan)
    assert [finding.code for finding in result.findings] == ["path_lost", "path_lost"]
    assert all("c.bin" in finding.message for finding in result.findings)
    assert result.removed == ()
    new = dict(result.snapshots)
    repaired = new[sample.first.id]
    assert repaired.original == sample.first.id
    assert repaired.tags == ("repaired",)
    assert repaired.time == sample.first.time
    files = dict(sample.first_files)
    del files["c.bin"]
    assert contents(sample.repository, repaired) == files
    # The damaged ones are still there until somebody says that they may go.
    assert len(look(sample.repository).damaged) == 2


def test_damaged_snapshots_go_where_that_is_asked_for(sample: Sample) -> None:
    lose(sample, 60_000)
    result = repair_snapshots(
        sample.repository, plan_snapshot_repair(sample.repository, forget=True)
    )
    assert set(result.removed) == {sample.first.id, sample.second.id}
    assert look(sample.repository).clean
    assert plan_snapshot_repair(sample.repository, forget=True).does_nothing
    ids = set(sample.repository.ids(FileKind.SNAPSHOT))
    assert ids == {snapshot.id for _, snapshot in result.snapshots}


def test_only_snapshots_that_are_damaged_are_written_anew(sample: Sample) -> None:
    fill(sample.directory, {"a.bin": 90_001}, seed=5)
    third = save(sample.repository, sample.directory)
    lose(sample, 90_001)
    result = repair_snapshots(
        sample.repository, plan_snapshot_repair(sample.repository, forget=True)
    )
    assert [old for old, _ in result.snapshots] == [third.id]
    assert contents(sample.repository, sample.first) == sample.first_files


def test_a_directory_that_cannot_be_read_goes_as_a_whole(sample: Sample) -> None:
    from holdfast.repo.reader import BlobReader

    packs = pack_list(sample.repository)
    reader = BlobReader(sample.repository, packs.index)
    (place,) = [
        (pack, blob.offset)
        for pack in packs_holding(sample.repository, BlobType.TREE)
        for blob in packs.blobs(packs.number_of[pack])
        if b"c.bin" in reader.load(BlobType.TREE, blob.id)
    ]
    flip(sample.store, pack_key(place[0]), place[1] + 20)
    damaged = look(sample.repository).damaged_packs
    repair_packs(sample.repository, plan_pack_repair(sample.repository, damaged), now=NOW)
    result = repair_snapshots(
        sample.repository, plan_snapshot_repair(sample.repository, forget=True)
    )
    assert {finding.message.rsplit("/", 1)[1] for finding in result.findings} == {
        "b: the directory cannot be read"
    }
    new = dict(result.snapshots)[sample.first.id]
    left = contents(sample.repository, new)
    assert set(left) == {"a.bin", "g.bin"}
    assert look(sample.repository).clean


def test_a_snapshot_of_which_nothing_is_left_only_goes_when_asked(sample: Sample) -> None:
    for pack in packs_holding(sample.repository, BlobType.TREE):
        sample.store.delete(pack_key(pack))
    mend_index(sample.repository)
    plan = plan_snapshot_repair(sample.repository)
    assert set(plan.hopeless) == {sample.first.id, sample.second.id}
    assert repair_snapshots(sample.repository, plan).snapshots == ()
    assert len(sample.repository.ids(FileKind.SNAPSHOT)) == 2
    repair_snapshots(sample.repository, plan_snapshot_repair(sample.repository, forget=True))
    assert sample.repository.ids(FileKind.SNAPSHOT) == []


def test_an_unreadable_record_only_goes_when_asked(sample: Sample) -> None:
    flip(sample.store, f"snapshots/{sample.first.id}", 30)
    plan = plan_snapshot_repair(sample.repository)
    assert plan.unreadable == (sample.first.id,)
    assert plan.does_nothing
    result = repair_snapshots(
        sample.repository, plan_snapshot_repair(sample.repository, forget=True)
    )
    assert result.removed == (sample.first.id,)
    assert [finding.code for finding in result.findings] == ["snapshot_lost"]
    assert look(sample.repository).clean


def test_a_wrong_size_is_corrected(sample: Sample) -> None:
    wrong = write_wrong_size(sample)
    plan = plan_snapshot_repair(sample.repository, forget=True)
    assert plan.damaged == ()
    assert len(plan.wrong_sizes) == 1
    result = repair_snapshots(sample.repository, plan)
    assert [old for old, _ in result.snapshots] == [wrong.id]
    assert look(sample.repository).clean


def write_wrong_size(sample: Sample) -> Snapshot:
    from holdfast.repo.reader import BlobReader
    from holdfast.repo.session import WriteSession
    from holdfast.repo.tree import decode_tree, encode_tree
    from holdfast.repo.writer import BlobWriter

    repository = sample.repository
    packs = pack_list(repository)
    reader = BlobReader(repository, packs.index)
    trees = (
        reader.load(BlobType.TREE, blob.id)
        for number in range(len(packs))
        for blob in packs.blobs(number)
        if blob.type is BlobType.TREE
    )
    nodes = next(decode_tree(tree, "tree") for tree in trees if b"c.bin" in tree)
    with WriteSession(repository, "backup") as session:
        writer = BlobWriter(session.setup)
        tree = writer.add(BlobType.TREE, encode_tree([nodes[0]._replace(size=7), *nodes[1:]]))
        session.take(writer.flush())
        writer.close()
        return session.commit(sample.first.document | {"tree": tree.hex()})
