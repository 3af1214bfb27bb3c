"""Holdfast and plain restic, the oldest and the newest, taking turns in one repository.

Each reads, extends and prunes what the other wrote. The programs are named by
HOLDFAST_RESTIC_OLD and HOLDFAST_RESTIC_NEW.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from restic_program import Restic, restic_named
from sample_repository import NOW, PASSWORD, fill, make
from tree_compare import assert_same_tree

from holdfast.errors import RepositoryLocked
from holdfast.flows.backup import BackupRequest, BackupResult, backup
from holdfast.flows.browse import BrowseRequest, browse
from holdfast.flows.locate import Trees, locate
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import IndexCache
from holdfast.repo.pack import BlobType
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.tree import decode_documents
from holdfast.store.local import LocalStore

AT_ONCE = PruneLimits(max_unused_percent=0, instant=True)


@pytest.fixture(params=["OLD", "NEW"])
def program(request: pytest.FixtureRequest) -> str:
    return restic_named(request.param)


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


class Shared:
    """One repository, both programs, and a directory with every kind of file."""

    def __init__(self, program: str, base: Path, version: int = 2, *, by_restic: bool) -> None:
        directory = base / "repository"
        self.base, self.restic = base, Restic(program, directory)
        store = LocalStore(str(directory))
        if by_restic:
            self.restic.run("init", "--repository-version", str(version))
            self.repository = Repository.open(store, PASSWORD)
        else:
            self.repository = make(store, version)
        assert self.repository.config.version == version
        self.source = make_odd_files(base / "source")
        if self.restic.keeps_raw_links:
            os.symlink(b"\xffaway\xfe", os.fsencode(self.source) + b"/raw link")

    @property
    def files(self) -> int:
        """How many regular files there are by now."""
        return sum(path.is_file() and not path.is_symlink() for path in self.source.rglob("*"))

    def save(self, report: Report = ignore_progress, **more: object) -> BackupResult:
        options: dict[str, object] = {"workers": 2, "settle_ns": 0, **more}
        request = BackupRequest((os.fsencode(self.source),), **options)  # type: ignore[arg-type]
        result = backup(self.repository, request, report)
        assert not result.findings
        return result

    def change(self, seed: int) -> None:
        fill(self.source, {"changing.bin": 400_000, f"new/{seed}": 5000}, seed)

    def assert_restic_restores(self, snapshot: str) -> None:
        target = self.base / f"by-restic-{snapshot[:8]}"
        self.restic.run("restore", snapshot, "--target", str(target))
        assert_same_tree(self.source, target / self.source.relative_to("/"), root_entry=True)
        shutil.rmtree(target)

    def assert_holdfast_restores(self, snapshot: str) -> None:
        target = self.base / f"by-holdfast-{snapshot[:8]}"
        request = RestoreRequest(
            snapshot,
            os.fsencode(target),
            path=os.fsencode(self.source),
            root_metadata=True,
            verify=True,
        )
        assert not restore(self.repository, request).findings
        assert_same_tree(self.source, target, root_entry=True)
        shutil.rmtree(target)

    def assert_clean(self) -> None:
        result = verify(self.repository, VerifyRequest(read_data=True))
        assert result.clean, (result.findings, result.damaged)

    def tree(self, snapshot_id: str) -> str:
        """The id of the tree of `source`."""
        reader = BlobReader(self.repository, self.repository.open_index(IndexCache(None)))
        snapshot: Snapshot = self.repository.find_snapshot(snapshot_id)
        place = locate(Trees(reader), snapshot, os.fsencode(self.source))
        assert place.tree is not None
        return place.tree.hex()

    def nodes(self, snapshot_id: str) -> list[dict[str, Any]]:
        """The nodes right below `source`, as they are stored."""
        reader = BlobReader(self.repository, self.repository.open_index(IndexCache(None)))
        tree = reader.load(BlobType.TREE, bytes.fromhex(self.tree(snapshot_id)))
        return decode_documents(tree, "a tree")

    def prune(self) -> None:
        plan = plan_prune(self.repository, PruneRequest(AT_ONCE, now=NOW))
        prune(self.repository, plan, now=NOW)


def make_odd_files(top: Path) -> Path:
    """Files of every kind, with names, times and owners of every kind."""
    fill(
        top,
        {
            "changing.bin": 400_000,
            "empty": b"",
            "text": b"line of text\n" * 20_000,
            "large.bin": 12 << 20,
            "d/e/f/deep": b"deep",
            'a "quoted" \\ name <&>': b"q",
            "naïve ☃ \U0001f600": b"u",
            "new\nline\ttab\x01\x7f": b"c",
            "owned": b"o",
            "old": b"before 1970",
            "future": b"after 2100",
        },
    )
    raw = os.fsencode(top) + b"/"
    with open(raw + b"not utf-8 \xff\xfe\xc3", "wb") as file:
        file.write(b"raw")
    with open(raw + b"sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(random.Random(5).randbytes(1000))
    (top / "no entries").mkdir()
    os.chmod(top / "no entries", 0o1771)
    os.chmod(top / "text", 0o4711)
    os.link(top / "owned", top / "d/hard link")
    os.symlink("text", raw + b"link")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 9))
    os.chown(top / "owned", 12345, 54321)
    os.setxattr(top / "text", "user.name", b"\x00value\xff")
    os.setxattr(top / "d", "user.empty", b"")
    os.setxattr(top, "user.top", b"t")
    os.utime(top / "old", ns=(-5_000_000_001, -5_000_000_001))
    os.utime(top / "future", ns=(4_200_000_000_123_456_789, 4_200_000_000_123_456_789))
    os.utime(top / "d", ns=(1, 1_234_567_890_000_000_100))
    return top


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices: needs root")


def test_restic_reads_what_holdfast_wrote(program: str, version: int, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, version, by_restic=False)
    first = shared.save()
    shared.assert_restic_restores(first.snapshot.id if first.snapshot else "")
    for seed in (1, 2):
        shared.change(seed)
        last = shared.save(tags=(f"seed-{seed}",)).snapshot
    assert last is not None
    shared.restic.check()
    shared.assert_restic_restores(last.id)
    listed = {each["id"]: each for each in shared.restic.snapshots()}
    assert len(listed) == 3
    assert listed[last.id]["tags"] == ["seed-2"]
    assert listed[last.id]["paths"] == [str(shared.source)]
    assert listed[last.id]["hostname"] == last.hostname
    for name in shared.repository.ids(FileKind.SNAPSHOT):
        if name != last.id:
            shared.repository.remove(FileKind.SNAPSHOT, name)
    shared.prune()
    shared.restic.check()
    shared.assert_restic_restores(last.id)


def test_holdfast_works_in_what_restic_wrote(program: str, version: int, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, version, by_restic=True)
    shared.restic.backup(str(shared.source))
    shared.change(1)
    second = shared.restic.backup("--tag", "x", str(shared.source))
    snapshots, findings = shared.repository.snapshots()
    assert not findings
    listed = shared.restic.snapshots()
    assert {each.id for each in snapshots} == {each["id"] for each in listed}
    last = snapshots[-1]
    assert last.short_id == second["snapshot_id"][:8]
    assert last.tags == ("x",)
    found: list[Finding] = []
    below = os.fsencode(shared.source).strip(b"/")
    request = BrowseRequest(last.id, below, recursive=True)
    entries = {each.path for each in browse(shared.repository, request, found.append)}
    assert not found
    assert {path[len(below) + 1 :] for path in entries} == {
        os.path.relpath(os.path.join(here, name), os.fsencode(shared.source))
        for here, directories, names in os.walk(os.fsencode(shared.source))
        for name in directories + names
    }
    shared.assert_clean()
    shared.assert_holdfast_restores(last.id)

    shared.change(2)
    ours = shared.save().snapshot
    assert ours is not None
    assert ours.parent == last.id
    for name in shared.repository.ids(FileKind.SNAPSHOT):
        if name not in (ours.id,):
            shared.repository.remove(FileKind.SNAPSHOT, name)
    shared.prune()
    shared.assert_clean()
    shared.restic.check()
    shared.assert_restic_restores(ours.id)


def test_each_goes_on_from_the_others_snapshot(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    first = shared.save()
    assert first.counts.files == shared.files
    summary = shared.restic.backup(str(shared.source))
    assert (summary["files_new"], summary["files_changed"]) == (0, 0)
    assert summary["files_unmodified"] == shared.files
    assert summary["data_blobs"] == 0
    second = shared.save()
    assert str(second.parent).startswith(summary["snapshot_id"])
    assert second.counts.files_unmodified == shared.files
    assert second.counts.bytes_read == 0
    assert second.snapshot is not None
    # The result is whole although nearly all of it was taken from restic's nodes.
    shared.assert_restic_restores(second.snapshot.id)
    shared.assert_holdfast_restores(second.snapshot.id)
    (shared.source / "text").write_bytes(b"changed")
    summary = shared.restic.backup(str(shared.source))
    assert (summary["files_changed"], summary["files_unmodified"]) == (1, shared.files - 1)


CUT_FROM_BYTES = 512 << 10
"""Larger files are cut differently by the two programs."""


def test_both_write_the_same_nodes(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    ours = shared.save().snapshot
    theirs = shared.restic.backup("--force", str(shared.source))["snapshot_id"]
    assert ours is not None
    pairs = list(zip(shared.nodes(ours.id), shared.nodes(theirs), strict=True))
    assert len(pairs) > 15
    for mine, other in pairs:
        # restic gives every node the number of its device, which may be another after a
        # restart; Holdfast only those that share an inode, as restic means to do one day.
        if mine.get("links", 0) < 2 or mine["type"] != "file":
            assert "device_id" not in mine
            del other["device_id"]
        if mine.get("size", 0) > CUT_FROM_BYTES:
            del mine["content"], other["content"]
        if mine["name"] == "d":
            del mine["subtree"], other["subtree"]
        assert mine == other


def test_both_make_the_same_tree_of_small_files(tmp_path: Path) -> None:
    """To the byte, so that the two deduplicate each other's directories."""
    shared = Shared(restic_named("NEW"), tmp_path, by_restic=False)
    shared.restic.environment |= {"RESTIC_FEATURES": "device-id-for-hardlinks=true"}
    (shared.source / "fifo").unlink()  # restic counts no links of it, and leaves its device
    for path in list(shared.source.rglob("*")):
        if path.is_file() and path.stat().st_size > CUT_FROM_BYTES:
            path.unlink()
    ours = shared.save().snapshot
    summary = shared.restic.backup("--force", str(shared.source))
    assert ours is not None
    assert shared.tree(ours.id) == shared.tree(summary["snapshot_id"])
    assert summary["data_blobs"] == 0


def test_a_cached_index_is_not_believed_after_restic_pruned(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    cache = str(tmp_path / "cache")
    shared.repository = Repository.open(shared.repository.store, PASSWORD, cache_directory=cache)
    first = shared.save().snapshot
    shutil.copy(shared.source / "changing.bin", tmp_path / "kept")
    shared.change(1)
    second = shared.save().snapshot
    assert first is not None
    assert second is not None
    shared.restic.backup(str(shared.source))
    assert [name for _, _, names in os.walk(cache) for name in names]
    shared.restic.run("forget", first.id, "--prune", "--max-unused", "0")
    shared.assert_holdfast_restores(second.id)
    # What the first snapshot alone held is gone, and must be stored again.
    shutil.copy(tmp_path / "kept", shared.source / "changing.bin")
    third = shared.save()
    assert third.added.raw_bytes > 400_000
    assert third.snapshot is not None
    shared.assert_clean()
    shared.restic.check()
    shared.assert_restic_restores(third.snapshot.id)


def test_both_back_up_at_once(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    fill(shared.source / "many", {f"{number}": 3000 + number for number in range(500)})
    process = shared.restic.start("backup", str(shared.source))
    try:
        wait_for_lock(shared)
        ours = shared.save().snapshot
    finally:
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    shared.restic.check()
    shared.assert_clean()
    assert ours is not None
    shared.assert_restic_restores(ours.id)
    (theirs,) = (each.id for each in shared.repository.snapshots()[0] if each.id != ours.id)
    shared.assert_holdfast_restores(theirs)


def wait_for_lock(shared: Shared) -> None:
    deadline = time.monotonic() + 30
    while not shared.repository.ids(FileKind.LOCK):
        assert time.monotonic() < deadline, "restic took no lock"
        time.sleep(0.005)


def test_restic_does_not_prune_under_a_running_backup(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    refusals: list[str] = []

    def meanwhile(_progress: Progress) -> None:
        if not refusals:
            refusals.append(shared.restic.run("prune", fails=True))

    shared.save(meanwhile)
    assert len(refusals) == 1
    assert "locked" in refusals[0]
    shared.restic.run("prune")


def test_no_backup_runs_under_an_exclusive_lock_of_restic(program: str, tmp_path: Path) -> None:
    shared = Shared(program, tmp_path, by_restic=False)
    shared.save()
    process = shared.restic.start("prune", "--max-unused", "0")
    try:
        # restic waits a moment after it has taken its lock, so it is held for long enough.
        wait_for_lock(shared)
        process.send_signal(signal.SIGSTOP)
        assert shared.repository.ids(FileKind.LOCK), "restic was faster than this test"
        with pytest.raises(RepositoryLocked) as refusal:
            shared.save()
        assert "restic" in refusal.value.message
    finally:
        process.send_signal(signal.SIGCONT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert shared.save().snapshot is not None
    shared.restic.check()
