"""Damage to golden repositories: it is always said, and whatever is left is given back.

Each case damages a sound repository in one way. A restore of it gives every path that the
damage does not concern exactly as it was, and names every other; verify says what is
wrong; the repairs leave a clean repository that lacks only what is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import damage
import pytest
from damage import Damage, Sound
from golden_archive import NAMES, PASSWORD, Golden, Listing, listing

from holdfast.errors import Damaged, HoldfastError, NotARepository
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.repair import (
    plan_index_repair,
    plan_pack_repair,
    plan_snapshot_repair,
    repair_index,
    repair_packs,
    repair_snapshots,
)
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, VerifyResult, verify
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

READ = VerifyRequest(read_data=True, workers=0)
COSTS_CONTENT = frozenset({"file_damaged", "directory_damaged", "node_damaged"})
_opened: dict[str, Repository] = {}


@dataclass
class Case:
    """A fresh copy of a golden repository, and what is known of it."""

    golden: Golden
    directory: Path
    sound: Sound
    scratch: Path

    @property
    def repository(self) -> Repository:
        """The repository as another process would see it now."""
        first = self.sound.repository
        return Repository(
            LocalStore(str(self.directory)), first.config, first.key, first.key_id, None
        )

    def restored(self, snapshot: str) -> tuple[Listing, set[str]]:
        """What a restore gives back, and the paths that its findings name."""
        target = self.scratch / f"{snapshot[:8]}-{os.urandom(4).hex()}"
        result = restore(
            self.repository,
            RestoreRequest(snapshot, os.fsencode(target), path=self.golden.inside, workers=0),
        )
        named = {each.subject for each in result.findings if each.code in COSTS_CONTENT}
        return without_names(listing(target)), named

    def expect(self, snapshot: str, lost: set[damage.Blob], as_now: str = "") -> None:
        """A restore of the snapshot lacks what is lost, and nothing else.

        `as_now` is the snapshot that a repair has put in its place, which lacks it silently.
        """
        expected = without_names(self.golden.snapshots[snapshot])
        gone = {quote_from_bytes(path) for path in self.sound.lost_paths(snapshot, lost)}
        try:
            found, named = self.restored(as_now or snapshot)
        except Damaged as error:
            # Nothing can be found by a damaged index file, and the message says what to do.
            if "holdfast repair index" not in error.message:
                assert self.sound.roots[snapshot] & lost, "a restore gave up although it need not"
            assert lost
            return
        if as_now:  # a repair leaves out a directory of which it knows nothing
            emptied = self.sound.emptied(snapshot, lost)
            gone |= {quote_from_bytes(path) for path in emptied}
        whole = {path: entry for path, entry in expected.items() if path not in gone}
        assert {path: found.get(path) for path in whole} == whole
        assert found.keys() <= expected.keys()
        wrong = {path for path in gone if found.get(path) != expected[path]}
        # What cannot be read is zero in a restore, which for that file is what it was.
        assert gone - wrong <= {"zeros.bin"}, "something is called lost here that is not"
        if not as_now:
            for path in gone:  # a file with several names is named once
                names = self.golden.snapshots[snapshot][path]["names"] or [path]
                assert any(is_named(name, named) for name in names), (path, named)
        assert bool(named) is bool(gone and not as_now)


def without_names(entries: Listing) -> Listing:
    """Leave out which names a file has: one of them may be lost with its directory."""
    return {
        path: {name: value for name, value in entry.items() if name not in ("names", "mode")}
        for path, entry in entries.items()
    }


def is_named(path: str, named: set[str]) -> bool:
    """Whether a finding is about the path or a directory above it."""
    printed = unquote_to_bytes(path).decode("utf-8", "backslashreplace")
    return any(
        printed == name or printed.startswith(name.rstrip("/") + "/") or name in ("", "/", ".")
        for name in named
    )


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    golden = Golden.load(request.param)
    directory = golden.unpack(tmp_path)
    store = LocalStore(str(directory))
    if golden.name not in _opened:  # deriving a key of restic takes a tenth of a second
        _opened[golden.name] = Repository.open(store, PASSWORD)
    first = _opened[golden.name]
    repository = Repository(store, first.config, first.key, first.key_id, None)
    scratch = tmp_path / "restored"
    scratch.mkdir()
    return Case(golden, directory, Sound.look(repository, directory, golden.inside), scratch)


def codes(result: VerifyResult) -> set[str]:
    return {finding.code for finding in result.findings}


def repair_all(case: Case) -> dict[str, str]:
    """Run every repair; return which snapshot stands for which now."""
    repository = case.repository
    repair_index(repository, plan_index_repair(repository, read_all=True))
    bad = verify(repository, READ).damaged_packs
    if bad:
        repair_packs(repository, plan_pack_repair(repository, bad))
    repaired = repair_snapshots(repository, plan_snapshot_repair(repository, forget=True))
    now = {old: new.id for old, new in repaired.snapshots}
    return {
        old: now.get(old, old) for old in case.golden.snapshots if old not in repaired.removed
    } | now


LOSSES: dict[str, tuple[Damage, set[str]]] = {
    "missing data pack": (damage.missing_data_pack, {"pack_missing"}),
    "missing first data pack": (damage.missing_first_data_pack, {"pack_missing"}),
    "missing tree pack": (damage.missing_tree_pack, {"pack_missing", "tree_damaged"}),
    "each data blob": (damage.flip_in_each_data_blob, {"pack_damaged", "blob_damaged"}),
    "one data blob": (damage.flip_in_one_data_blob, {"pack_damaged", "blob_damaged"}),
    "one tree blob": (
        damage.flip_in_one_tree_blob,
        {"pack_damaged", "blob_damaged", "tree_damaged"},
    ),
    "truncated pack": (
        damage.truncated_pack,
        {"pack_size_wrong", "pack_damaged", "blob_damaged", "pack_header_damaged"},
    ),
    "empty pack": (
        damage.empty_pack,
        {"pack_size_wrong", "pack_damaged", "blob_damaged", "pack_header_damaged"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_damage_costs_what_it_hit_and_nothing_else(case: Case, name: str) -> None:
    act, expected = LOSSES[name]
    lost = act(case.sound)
    assert lost
    result = verify(case.repository, READ)
    assert not result.clean
    assert codes(result) <= expected
    assert codes(result) & {"pack_missing", "pack_damaged", "pack_size_wrong"}
    concerned = {each for each in case.golden.snapshots if case.sound.lost_paths(each, lost)}
    assert concerned
    assert concerned <= {each.id for each in result.damaged}
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, lost)

    now = repair_all(case)
    assert verify(case.repository, READ).clean
    for snapshot in case.golden.snapshots:
        if snapshot in now:
            case.expect(snapshot, lost, as_now=now[snapshot])
        else:
            assert case.sound.roots[snapshot] & lost, "a snapshot went that could be mended"


MENDABLE: dict[str, tuple[Damage, set[str]]] = {
    "missing index": (damage.missing_index, {"data_blobs_unlisted", "tree_blobs_unlisted"}),
    "missing indexes": (damage.missing_indexes, {"data_blobs_unlisted", "tree_blobs_unlisted"}),
    "flip in index": (
        damage.flip_in_index,
        {"index_damaged", "data_blobs_unlisted", "tree_blobs_unlisted"},
    ),
    "truncated index": (
        damage.truncated_index,
        {"index_damaged", "data_blobs_unlisted", "tree_blobs_unlisted"},
    ),
    "flip in header": (damage.flip_in_pack_header, {"pack_damaged", "pack_header_damaged"}),
    "flip in header length": (
        damage.flip_in_pack_header_length,
        {"pack_damaged", "pack_header_damaged"},
    ),
    "longer pack": (
        damage.longer_pack,
        {"pack_size_wrong", "pack_damaged", "pack_header_damaged"},
    ),
    "swapped packs": (
        damage.swapped_packs,
        {"pack_size_wrong", "pack_damaged", "blob_damaged", "tree_damaged", "pack_header_differs"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDABLE)
def test_what_is_only_mislaid_comes_back_whole(case: Case, name: str) -> None:
    act, expected = MENDABLE[name]
    mislaid = act(case.sound)
    result = verify(case.repository, READ)
    assert not result.clean
    assert codes(result) <= expected
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, mislaid)

    now = repair_all(case)
    assert now == {snapshot: snapshot for snapshot in case.golden.snapshots}
    assert verify(case.repository, READ).clean
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, set())


@pytest.mark.parametrize("act", [damage.flip_in_snapshot, damage.truncated_snapshot])
def test_a_damaged_record_costs_its_snapshot_only(case: Case, act: Damage) -> None:
    act(case.sound)
    older, newer = case.golden.snapshots
    result = verify(case.repository, READ)
    assert codes(result) == {"snapshot_damaged"}
    assert [each.id for each in result.damaged] == [newer]
    with pytest.raises(Damaged, match=f"snapshot {newer[:8]} is damaged"):
        case.restored(newer)
    case.expect(older, set())
    found, findings = case.repository.snapshots()
    assert [each.id for each in found] == [older]
    assert [each.code for each in findings] == ["snapshot_damaged"]

    assert repair_all(case) == {older: older}
    assert verify(case.repository, READ).clean
    case.expect(older, set())


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (damage.flip_in_config, Damaged, "config is damaged"),
        (damage.truncated_config, Damaged, "config is truncated"),
        (damage.missing_config, NotARepository, "there is no repository"),
        (damage.flip_in_key, Damaged, "key file [0-9a-f]{8} is damaged"),
        (damage.truncated_key, Damaged, "key file [0-9a-f]{8} is damaged"),
        (damage.missing_key, Damaged, "has no key file"),
        (damage.key_of_another_repository, Damaged, "config is damaged"),
    ],
)
def test_without_config_or_key_it_does_not_open_and_says_why(
    case: Case, act: Damage, error: type[HoldfastError], words: str
) -> None:
    act(case.sound)
    with pytest.raises(error, match=words):
        Repository.open(LocalStore(str(case.directory)), PASSWORD)


HARMLESS: dict[str, tuple[Damage, set[str]]] = {
    "duplicate blobs": (damage.duplicate_blobs, set()),
    "interrupted prune": (damage.interrupted_prune, {"packs_listed_twice"}),
    "wrongly marked packs": (damage.wrongly_marked_packs, {"packs_marked"}),
    "unlisted pack": (damage.unlisted_pack, {"packs_unreferenced"}),
    "garbage names": (damage.garbage_names, set()),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_leftovers_are_no_damage(case: Case, name: str) -> None:
    act, notes = HARMLESS[name]
    assert act(case.sound) == set()
    result = verify(case.repository, READ)
    assert result.clean
    assert {note.code for note in result.notes} == notes
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, set())

    repository = case.repository
    prune(repository, plan_prune(repository, PruneRequest(workers=0)))
    assert verify(case.repository, READ).clean
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, set())


def test_a_second_copy_takes_the_place_of_a_lost_one(case: Case) -> None:
    damage.duplicate_blobs_and_a_missing_pack(case.sound)
    result = verify(case.repository, READ)
    assert codes(result) == {"pack_missing"}
    assert not result.damaged
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, set())
    repair_all(case)
    assert verify(case.repository, READ).clean


def test_a_stale_lock_keeps_nobody_out(case: Case) -> None:
    damage.stale_lock(case.sound)
    for snapshot in case.golden.snapshots:
        case.expect(snapshot, set())
    assert verify(case.repository, READ).clean
    assert not list(case.repository.lock_files().records())


def _bits(size: int) -> Iterator[int]:
    """Every byte of a small file, some of a larger one."""
    return iter(range(size)) if size < 200 else iter(range(0, size, size // 60))


@pytest.mark.parametrize("case", ["holdfast-0.1"], indirect=True)
def test_no_byte_of_a_small_file_can_change_unseen(case: Case) -> None:
    repository = case.repository
    for kind in ("snapshots", "index"):
        for path in case.sound.files(kind):
            good = path.read_bytes()
            for at in _bits(len(good)):
                damage.flip(path, at)
                assert not verify(repository, VerifyRequest(workers=0)).clean, (path, at)
                path.write_bytes(good)
    assert verify(repository, VerifyRequest(workers=0)).clean
