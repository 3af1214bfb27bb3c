"""After each act of maintenance plain restic, the oldest and the newest, finds no fault.

And the other way round: what restic made, or left behind, Holdfast maintains. The
programs are named by HOLDFAST_RESTIC_OLD and HOLDFAST_RESTIC_NEW.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from sample_repository import DAY, NOW, PASSWORD, fill, flip, make, pack_list, save

from holdfast.flows.copy import CopyRequest, copy
from holdfast.flows.keys import key_add, key_change
from holdfast.flows.merge_index import merge_index_files
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.repair import (
    plan_index_repair,
    plan_pack_repair,
    plan_snapshot_repair,
    repair_index,
    repair_packs,
    repair_snapshots,
)
from holdfast.flows.statistics import statistics
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.pack import BlobType
from holdfast.repo.prune_plan import PackAction, PruneLimits
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.local import LocalStore

TIGHT = PruneLimits(max_unused_percent=0)


class Restic:
    """One restic program and one repository in a directory."""

    def __init__(self, program: str, directory: Path, password: str = PASSWORD) -> None:
        self.program, self.directory = program, directory
        self.environment = os.environ | {
            "RESTIC_REPOSITORY": str(directory),
            "RESTIC_PASSWORD": password,
            "RESTIC_CACHE_DIR": str(directory.parent / "restic-cache"),
        }

    def run(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def check(self) -> None:
        text = self.run("check", "--read-data", "--no-cache")
        assert "no errors were found" in text
        assert "error" not in text.replace("no errors were found", "")

    def restores(self, snapshot: str, source: Path, target: Path) -> bool:
        self.run("restore", snapshot, "--target", str(target))
        return same_files(source, target / source.relative_to("/"))


def same_files(one: Path, two: Path) -> bool:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*"))
    assert names == sorted(str(path.relative_to(two)) for path in two.rglob("*"))
    files = [name for name in names if (one / name).is_file()]
    return filecmp.cmpfiles(one, two, files, shallow=False)[1:] == ([], [])


@pytest.fixture(params=["OLD", "NEW"])
def program(request: pytest.FixtureRequest) -> str:
    variable = f"HOLDFAST_RESTIC_{request.param}"
    program = os.environ.get(variable, "")
    if program:
        return program
    reason = f"{variable} does not name a restic program"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Place:
    """A repository in a directory, known to both programs, with files to back up."""

    def __init__(self, program: str, directory: Path, version: int = 2) -> None:
        self.restic = Restic(program, directory / "repository")
        self.repository = make(LocalStore(str(directory / "repository")), version)
        self.files = fill(
            directory / "files", {"a.bin": 900_000, "b/c.bin": 600_000, "t.txt": b"text " * 90_000}
        )
        (self.files / "empty").mkdir()
        self.old = save(self.repository, self.files)
        fill(self.files, {"a.bin": 900_000}, seed=1)
        self.new = save(self.repository, self.files)

    def forget_old(self) -> None:
        self.repository.remove(FileKind.SNAPSHOT, self.old.id)

    def prune(self, days: float, limits: PruneLimits = TIGHT, workers: int = 0) -> None:
        request = PruneRequest(limits, workers=workers, now=NOW + days * DAY)
        prune(self.repository, plan_prune(self.repository, request), now=NOW + days * DAY)


@pytest.fixture(params=[1, 2])
def place(program: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(program, tmp_path, request.param)


def test_after_both_phases_of_a_prune(place: Place, tmp_path: Path) -> None:
    place.forget_old()
    place.prune(0, workers=2)
    place.restic.check()
    assert place.restic.restores(place.new.id, place.files, tmp_path / "marked")
    place.prune(1)
    place.restic.check()
    assert place.restic.restores(place.new.id, place.files, tmp_path / "swept")


def test_after_an_instant_prune(place: Place, tmp_path: Path) -> None:
    place.forget_old()
    place.prune(0, PruneLimits(max_unused_percent=0, instant=True))
    place.restic.check()
    assert place.restic.restores(place.new.id, place.files, tmp_path / "out")
    # Nothing is left for restic to do.
    text = place.restic.run("prune", "--max-unused", "0", "--dry-run")
    assert re.search(r"to repack: +0 blobs", text), text
    assert re.search(r"total prune: +0 blobs", text), text


def test_restic_prunes_beside_marks_and_holdfast_goes_on(place: Place, tmp_path: Path) -> None:
    place.forget_old()
    place.prune(0)
    place.restic.run("prune", "--max-unused", "0")
    assert verify(place.repository, VerifyRequest(read_data=True, workers=0)).clean
    place.prune(1)
    place.restic.check()
    assert place.restic.restores(place.new.id, place.files, tmp_path / "out")


def test_holdfast_prunes_what_restic_wrote(place: Place, tmp_path: Path) -> None:
    place.restic.run("backup", str(place.files))
    fill(place.files, {"b/c.bin": 600_000, "n.bin": 5000}, seed=4)
    place.restic.run("backup", str(place.files))
    snapshots = place.repository.snapshots()[0]
    last = snapshots[-1]
    for snapshot in snapshots[:-1]:
        place.repository.remove(FileKind.SNAPSHOT, snapshot.id)
    before = sum(info.size_bytes for _, info in place.repository.pack_files())
    place.prune(0)
    place.prune(1)
    assert sum(info.size_bytes for _, info in place.repository.pack_files()) < before
    place.restic.check()
    assert place.restic.restores(last.id, place.files, tmp_path / "out")


def test_after_a_merge_of_index_files(place: Place, tmp_path: Path) -> None:
    place.restic.run("backup", str(place.files))
    place.forget_old()
    place.prune(0)
    fill(place.files, {"n.bin": 5000})
    last = save(place.repository, place.files)
    assert merge_index_files(place.repository, many=2).written == 1
    assert len(place.repository.ids(FileKind.INDEX)) == 1
    place.restic.check()
    assert place.restic.restores(last.id, place.files, tmp_path / "merged")
    place.restic.run("backup", str(place.files))
    place.prune(1)
    place.restic.check()
    assert place.restic.restores(last.id, place.files, tmp_path / "swept")


def test_verify_agrees_with_restic_that_its_repository_is_whole(place: Place) -> None:
    place.restic.run("backup", str(place.files))
    result = verify(place.repository, VerifyRequest(read_data=True, workers=0))
    assert result.clean, result.findings
    assert result.snapshots == 3


def test_after_a_copy(place: Place, program: str, tmp_path: Path) -> None:
    destination = make(LocalStore(str(tmp_path / "copy")), place.repository.config.version)
    result = copy(place.repository, destination, CopyRequest(workers=2))
    restic = Restic(program, tmp_path / "copy")
    restic.check()
    new = dict(result.copied)[place.new.id]
    assert restic.restores(new.id, place.files, tmp_path / "out")
    listed = {each["id"]: each for each in json.loads(restic.run("snapshots", "--json"))}
    assert listed[new.id]["original"] == place.new.id


def test_restic_skips_what_holdfast_copied_and_the_other_way_round(
    place: Place, program: str, tmp_path: Path
) -> None:
    destination = make(LocalStore(str(tmp_path / "copy")), place.repository.config.version)
    copy(place.repository, destination, CopyRequest(workers=0))
    restic = Restic(program, tmp_path / "copy")
    arguments = ["copy", "--from-repo", str(place.restic.directory)]
    restic.environment |= {"RESTIC_FROM_PASSWORD": PASSWORD}
    restic.run(*arguments)
    assert len(destination.ids(FileKind.SNAPSHOT)) == 2

    other = make(LocalStore(str(tmp_path / "by-restic")), place.repository.config.version)
    by_restic = Restic(program, tmp_path / "by-restic")
    by_restic.environment |= {"RESTIC_FROM_PASSWORD": PASSWORD}
    by_restic.run(*arguments)
    assert len(other.ids(FileKind.SNAPSHOT)) == 2
    result = copy(place.repository, other, CopyRequest(workers=0))
    assert result.copied == ()
    assert len(result.skipped) == 2


@pytest.mark.parametrize("loss", ["missing index", "damaged index"])
def test_after_a_repaired_index(place: Place, loss: str, tmp_path: Path) -> None:
    key = next(info.key for info in place.repository.store.list("index/"))
    if loss == "missing index":
        place.repository.store.delete(key)
    else:
        damage(place, key, 60)
    place.restic.run("check", fails=True)
    repair_index(place.repository, plan_index_repair(place.repository))
    place.restic.check()
    assert place.restic.restores(place.new.id, place.files, tmp_path / "out")


def damage(place: Place, key: str, at: int) -> None:
    flip(place.repository.store, key, at)


def test_after_damaged_packs_and_snapshots_are_repaired(place: Place, tmp_path: Path) -> None:
    packs = pack_list(place.repository)
    for number, pack in enumerate(packs.packs):
        for blob in packs.blobs(number):
            if blob.type is BlobType.DATA and blob.raw_length == 600_000:
                damage(place, pack_key(pack.id), blob.offset + 99)
                break
    result = verify(place.repository, VerifyRequest(read_data=True, workers=0))
    if not result.damaged_packs:  # c.bin was cut
        flip_largest(place)
        result = verify(place.repository, VerifyRequest(read_data=True, workers=0))
    assert result.damaged_packs
    place.restic.run("check", "--read-data", fails=True)
    repair_packs(
        place.repository, plan_pack_repair(place.repository, result.damaged_packs), now=NOW
    )
    plan = plan_snapshot_repair(place.repository, forget=True)
    lost = {path.path for each in plan.damaged for path in each.lost}
    assert lost
    repaired = repair_snapshots(place.repository, plan).snapshots
    place.restic.check()
    place.prune(1)
    place.prune(2)
    place.restic.check()
    newest = repaired[-1][1]
    place.restic.run("restore", newest.id, "--target", str(tmp_path / "out"))
    left = {f"/{p.relative_to(tmp_path / 'out')}" for p in (tmp_path / "out").rglob("*")}
    there = {str(path) for path in place.files.rglob("*")}
    assert there - left == lost & there


def flip_largest(place: Place) -> None:
    packs = pack_list(place.repository)
    found = [
        (blob.length, pack.id, blob.offset)
        for number, pack in enumerate(packs.packs)
        for blob in packs.blobs(number)
    ]
    _, pack, offset = max(found)
    damage(place, pack_key(pack), offset + 99)


def test_restic_opens_with_every_password(place: Place, program: str) -> None:
    light = Scrypt(n=1 << 10)
    key_add(place.repository, "second", scrypt=light)
    key_change(place.repository, "changed", scrypt=light)
    for password in ("second", "changed"):
        text = Restic(program, place.restic.directory, password).run("snapshots")
        assert place.new.short_id in text
    place.restic.run("snapshots", fails=True)
    Restic(program, place.restic.directory, "changed").check()


def test_statistics_agree_with_restic(place: Place) -> None:
    mine = statistics(place.repository, stored_each=True)
    raw = json.loads(place.restic.run("stats", "--mode", "raw-data", "--json"))
    assert raw["total_blob_count"] == mine.blobs
    # restic adds headers of packs in some versions; the blobs themselves are the same.
    assert 0 <= raw["total_size"] - mine.needed_bytes < 60 * mine.blobs
    for each in mine.snapshots:
        logical = json.loads(place.restic.run("stats", "--json", each.id))
        assert logical["total_size"] == each.logical_bytes


def test_restic_and_holdfast_find_the_same_snapshots_after_forgetting(place: Place) -> None:
    place.forget_old()
    ids = {each["id"] for each in json.loads(place.restic.run("snapshots", "--json"))}
    assert ids == {place.new.id}


def test_a_writer_that_commits_beside_a_prune_satisfies_restic(
    place: Place, tmp_path: Path
) -> None:
    """The tables of both programs agree at once, not only after the next prune."""
    place.forget_old()
    request = PruneRequest(TIGHT, workers=0, now=NOW)
    plan = plan_prune(place.repository, request)
    assert plan.count(PackAction.REPACK, PackAction.MARK)
    fill(place.files, {"a.bin": 900_000})  # as it was in the snapshot that was forgotten
    snapshot: Snapshot = save(Repository.open(place.repository.store, PASSWORD), place.files)
    prune(place.repository, plan, now=NOW)
    place.restic.check()
    assert place.restic.restores(snapshot.id, place.files, tmp_path / "out")
