"""Statistics agree with what is stored, and with what a prune then really gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_repository import NOW, fill, flip, make, pack_list, save

from holdfast.errors import Damaged
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.statistics import freed_by_deleting, statistics
from holdfast.model.snapshot import Snapshot
from holdfast.repo.crypto import OVERHEAD_BYTES
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import FileKind, Repository


class Sample:
    """`one` and `two` share s.bin; each has a file of its own; `three` is `two` again."""

    def __init__(self, directory: Path) -> None:
        self.repository = make()
        fill(directory, {"s.bin": 50_000, "own/x.bin": 7_000})
        self.one = save(self.repository, directory)
        fill(directory, {"own/x.bin": 9_000, "own/t.txt": b"words " * 5000}, seed=1)
        self.two = save(self.repository, directory)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


def test_logical_sizes_are_those_of_the_files(sample: Sample) -> None:
    result = statistics(sample.repository)
    manifest = [snapshot.logical_bytes for snapshot in result.snapshots]
    assert [snapshot.files for snapshot in result.snapshots] == [3, 4], "the manifest is one"
    assert 0 < manifest[0] - 57_000 < 2000
    assert 0 < manifest[1] - 89_000 < 2000
    assert result.logical_bytes == sum(manifest)


def test_stored_sizes_are_those_of_the_blobs(sample: Sample) -> None:
    packs = pack_list(sample.repository)
    blobs = [blob for number in range(len(packs)) for blob in packs.blobs(number)]
    result = statistics(sample.repository, stored_each=True)
    assert result.blobs == len(blobs)
    assert result.needed_bytes == sum(blob.length for blob in blobs)
    assert result.raw_bytes == sum(blob.raw_length for blob in blobs)
    assert (result.packs, result.pack_bytes) == (
        len(packs), sum(info.size_bytes for _, info in sample.repository.pack_files())
    )  # fmt: skip
    one, two = result.snapshots
    assert one.stored_bytes is not None
    assert two.stored_bytes is not None
    shared = one.stored_bytes - one.unique_bytes
    assert shared == two.stored_bytes - two.unique_bytes
    assert shared == 50_000 + OVERHEAD_BYTES
    assert one.unique_bytes + two.unique_bytes + shared == result.needed_bytes
    assert result.deduplication == pytest.approx(result.logical_bytes / result.raw_bytes)
    assert result.compression > 1.2, "t.txt compresses well"


def test_what_each_takes_is_left_out_unless_asked_for(sample: Sample) -> None:
    assert {each.stored_bytes for each in statistics(sample.repository).snapshots} == {None}


def test_a_snapshot_that_is_there_twice_has_nothing_of_its_own(sample: Sample) -> None:
    sample.repository.save_snapshot(sample.two.document | {"hostname": "another"})
    unique = {each.id: each.unique_bytes for each in statistics(sample.repository).snapshots}
    assert unique[sample.two.id] == 0
    assert unique[sample.one.id] > 7_000
    assert sorted(unique.values())[:2] == [0, 0]


def test_what_deleting_frees_is_what_a_prune_gives_back(sample: Sample) -> None:
    freed = freed_by_deleting(sample.repository, [sample.one.id])
    by_id = {each.id: each.unique_bytes for each in statistics(sample.repository).snapshots}
    assert freed.total_bytes == by_id[sample.one.id]
    assert freed.at_once_bytes > 0, "the trees of the first are shared with nobody"
    assert freed.after_repack_bytes > 7_000, "its data lies beside s.bin"
    before = stored(sample.repository)
    sample.repository.remove(FileKind.SNAPSHOT, sample.one.id)
    prune_now(sample.repository)
    assert stored(sample.repository) == before - freed.total_bytes


def test_deleting_several_frees_what_they_share(sample: Sample) -> None:
    everything = freed_by_deleting(sample.repository, [sample.one.id, sample.two.id])
    assert everything.after_repack_bytes == 0
    assert everything.at_once_bytes == stored(sample.repository)
    each = sum(freed_by_deleting(sample.repository, [s.id]).total_bytes for s in both(sample))
    assert everything.total_bytes == each + 50_000 + OVERHEAD_BYTES
    assert freed_by_deleting(sample.repository, []).total_bytes == 0


def both(sample: Sample) -> tuple[Snapshot, Snapshot]:
    return sample.one, sample.two


def stored(repository: Repository) -> int:
    packs = pack_list(repository)
    return sum(blob.length for number in range(len(packs)) for blob in packs.blobs(number))


def prune_now(repository: Repository) -> None:
    limits = PruneLimits(max_unused_percent=0, instant=True)
    prune(repository, plan_prune(repository, PruneRequest(limits, workers=0)), now=NOW)


def test_an_empty_repository_has_no_statistics_to_speak_of() -> None:
    result = statistics(make())
    assert (result.blobs, result.needed_bytes, result.pack_bytes, result.snapshots) == (0, 0, 0, ())
    assert result.deduplication == result.compression == 1.0


def test_a_damaged_snapshot_is_not_counted_as_nothing(sample: Sample) -> None:
    flip(sample.repository.store, f"snapshots/{sample.one.id}", 20)
    with pytest.raises(Damaged):
        statistics(sample.repository)
