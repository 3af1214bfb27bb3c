"""Backups: what a snapshot holds of every kind of entry, and what is left out of it."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backup_sample import BackedUp, codes, snapshot_of
from sample_repository import expected, keys_of, make
from tree_compare import assert_same_tree

from holdfast.errors import SourceVanished, UsageError
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.backup_tasks import BackupWorker, Flush, StoreBlob
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.node import NodeType
from holdfast.model.progress import Progress
from holdfast.repo.repository import FileKind
from holdfast.sources.path.selection import Selection
from holdfast.store.local import LocalStore

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and mounts: needs root")


@pytest.fixture
def sample(tmp_path: Path) -> BackedUp:
    return BackedUp(tmp_path)


# What is stored


@root_only
def test_every_kind_of_entry(sample: BackedUp) -> None:
    top = sample.source
    sample.fill({"file": b"abc", "empty": b"", "sub/inner": b"i"})
    (top / "link").symlink_to("nowhere")
    os.symlink(b"\xff\xfe", os.fsencode(top) + b"/raw link")
    os.mkfifo(top / "fifo")
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.link(top / "file", top / "other name")
    (top / "void").mkdir()
    os.chmod(top / "void", 0o1777)
    os.chmod(top / "file", 0o4755)
    os.setxattr(top / "file", "user.k", b"\0v")
    os.setxattr(top, "user.top", b"t")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "socket"))
        result = sample.clean()
    nodes = sample.nodes(result)
    assert {name: node.type for name, node in nodes.items()} == {
        b".": NodeType.DIRECTORY,
        b"file": NodeType.FILE,
        b"empty": NodeType.FILE,
        b"sub": NodeType.DIRECTORY,
        b"sub/inner": NodeType.FILE,
        b"link": NodeType.SYMLINK,
        b"raw link": NodeType.SYMLINK,
        b"fifo": NodeType.FIFO,
        b"char": NodeType.CHARACTER_DEVICE,
        b"block": NodeType.BLOCK_DEVICE,
        b"other name": NodeType.FILE,
        b"void": NodeType.DIRECTORY,
    }
    assert nodes[b"link"].linktarget == b"nowhere"
    assert nodes[b"raw link"].linktarget == b"\xff\xfe"
    assert nodes[b"char"].device == os.makedev(1, 3)
    assert nodes[b"void"].mode == 0o1777
    assert nodes[b"file"].mode == 0o4755
    assert nodes[b"file"].xattrs == ((b"user.k", b"\0v"),)
    assert nodes[b"."].xattrs == ((b"user.top", b"t"),)
    assert nodes[b"file"].inode == nodes[b"other name"].inode != 0
    assert nodes[b"file"].links == 2
    assert nodes[b"empty"].content == ()
    counts = result.counts
    assert (counts.files_new, counts.files_changed, counts.files_unmodified) == (4, 0, 0)
    assert counts.bytes_seen == 3 + 3 + 1
    # A run without changes stores nothing and reads nothing.
    again = sample.clean()
    assert again.counts.files_unmodified == 4
    assert again.counts.bytes_read == 0
    assert sample.tree(again) == sample.tree(result)


def test_names_of_all_bytes(sample: BackedUp) -> None:
    names = [bytes([code]) + b"x" for code in range(1, 256) if code != ord("/")]
    names += ["naïve ☃ \U0001f600".encode(), b'"quoted" \\back\\ <&>', b"\\x41", b"-rf", b" "]
    for name in names:
        with open(os.fsencode(sample.source) + b"/" + name, "wb") as file:
            file.write(name)
    nodes = sample.nodes(sample.clean())
    assert nodes.keys() - {b"."} == set(names)


def test_a_directory_of_more_entries_than_one_task_takes(sample: BackedUp) -> None:
    sample.fill({f"many/{number:04}": b"%d" % number for number in range(2500)})
    first = sample.clean()
    assert len(sample.names(first)) == 2501
    assert sample.clean().counts.files_unmodified == 2500
    (sample.source / "many/1999").unlink()
    sample.fill({"many/0003": b"changed", "many/new": b"n"})
    third = sample.clean()
    assert sample.contents(third) == expected(sample.source)
    counts = third.counts
    assert (counts.files_new, counts.files_changed, counts.files_unmodified) == (1, 1, 2498)


def test_deep_trees_and_paths_longer_than_the_kernel_takes(sample: BackedUp) -> None:
    """700 levels, a path of more than 4096 bytes; unchanged the second time."""
    fd = os.open(sample.source, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(700):
        name = f"{level:06}"
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(bottom, b"deep")
    first = sample.clean()
    assert sample.contents(first) == {"bottom": b"deep"}
    assert max(map(len, sample.nodes(first))) > 4096
    second = sample.clean()
    assert sample.tree(second) == sample.tree(first)
    os.write(bottom, b"er")
    third = sample.clean()
    assert sample.contents(third) == {"bottom": b"deeper"}
    assert third.counts.dirs_changed >= 700
    os.close(bottom)
    os.close(fd)
    # shutil and pathlib give up at such depth; pytest would, too, when it cleans up.
    subprocess.run(["rm", "-r", str(sample.source)], check=True)


# Which paths


def test_overlapping_paths_are_taken_once(sample: BackedUp) -> None:
    sample.fill({"a/b/c": b"1", "ab": b"2"})
    top = sample.source
    result = sample.clean(top / "a", top / "a/b", top / "a/b/c", top / "a/../a", top / "ab")
    assert snapshot_of(result).paths == (str(top / "a"), str(top / "ab"))
    assert sample.names(result) == {"a", "a/b", "a/b/c", "ab"}
    assert result.counts.files == 2


def test_single_files_beside_a_directory(sample: BackedUp) -> None:
    sample.fill({"one": b"1", "two": b"2", "left out": b"3", "d/x": b"4"})
    top = sample.source
    rules = Selection(exclude=("one", "x"))
    result = sample.clean(top / "one", top / "two", top / "d", selection=rules)
    assert sample.names(result) == {"one", "two", "d"}, "a file named by a person is taken"
    again = sample.clean(top / "one", top / "two", top / "d")
    assert again.parent == snapshot_of(result).id
    assert again.counts.files_unmodified == 2


@pytest.mark.parametrize("target", ["file", "directory", "missing"])
def test_a_link_named_as_a_path_is_stored_as_a_link(sample: BackedUp, target: str) -> None:
    sample.fill({"file": b"1", "directory/x": b"2"})
    (sample.base / "elsewhere").mkdir()
    link = sample.base / "elsewhere" / "link"
    link.symlink_to(sample.source / target)
    result = sample.clean(link)
    nodes = sample.nodes(result, sample.base / "elsewhere")
    assert nodes[b"link"].type is NodeType.SYMLINK
    assert nodes[b"link"].linktarget == os.fsencode(sample.source / target)
    assert result.counts.files == 0


def test_a_path_through_a_link_is_stored_under_the_name_that_was_given(sample: BackedUp) -> None:
    sample.fill({"d/x": b"2", "f": b"3"})
    (sample.base / "way").symlink_to(sample.source)
    result = sample.clean(sample.base / "way/d", sample.base / "way/f")
    assert sample.names(result, sample.base / "way") == {"d", "d/x", "f"}


def test_relative_paths(sample: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.fill({"d/x": b"2"})
    monkeypatch.chdir(sample.source)
    result = sample.clean(b"d", b".")
    assert snapshot_of(result).paths == (str(sample.source),)


def test_the_root_of_everything(sample: BackedUp) -> None:
    sample.fill({"d/x": b"2"})
    only = Selection(include=(f"{sample.source}/",))
    result = sample.run(b"/", selection=only)
    assert sample.names(result) == {"d", "d/x"}
    assert snapshot_of(result).paths == ("/",)
    # What lies in the root leaves the root empty.
    result = sample.run(b"/", selection=Selection(if_present=("proc",)))
    assert not sample.nodes(result, b"/")


def test_no_path_and_missing_paths(sample: BackedUp) -> None:
    with pytest.raises(UsageError):
        backup(sample.repository, BackupRequest(()))
    with pytest.raises(SourceVanished):
        sample.run(sample.source, sample.base / "missing")
    assert not sample.repository.ids(FileKind.SNAPSHOT)
    assert not list(keys_of(sample.repository.store, FileKind.LOCK))


def test_the_reserved_name_gives_way_with_a_finding(sample: BackedUp) -> None:
    assert "reserved_name" not in codes(sample.clean())
    above = Path("/.holdfast")
    if os.geteuid() != 0 or above.exists():
        pytest.skip("cannot make an entry in the root directory")
    above.mkdir()
    try:
        (above / "manifest.json").write_bytes(b"a trap")
        result = sample.run(above, sample.source)
    finally:
        (above / "manifest.json").unlink()
        above.rmdir()
    assert codes(result)["reserved_name"] == "/.holdfast"


# What is left out


def test_rules_can_be_sent_to_a_process_that_is_not_a_fork() -> None:
    rules = Selection(exclude=("*.tmp",), blacklist=("cache",))
    rules.check()  # compiles them
    sent = pickle.loads(pickle.dumps(rules))
    assert sent == rules
    sent.check()


def test_rules(sample: BackedUp) -> None:
    sample.fill(
        {
            "keep.txt": b"1",
            "skip.tmp": b"2",
            "d/skip.tmp": b"3",
            "d/keep.tmp.not": b"4",
            "big": 5000,
            "cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\nmore",
            "cache/x": b"5",
            "no cache/CACHEDIR.TAG": b"Signature: something else",
            "no cache/x": b"6",
            "marked/.nobackup": b"",
            "marked/x": b"7",
        }
    )
    rules = Selection(
        exclude=("*.tmp",), larger_than_bytes=4999, caches=True, if_present=(".nobackup",)
    )
    result = sample.clean(selection=rules)
    assert sample.names(result) == {
        "keep.txt",
        "d",
        "d/keep.tmp.not",
        "cache",
        "no cache",
        "no cache/CACHEDIR.TAG",
        "no cache/x",
        "marked",
    }
    assert snapshot_of(result).document["excludes"] == ["*.tmp"]
    only = sample.clean(selection=Selection(include=("*.tmp",)))
    assert {"skip.tmp", "d/skip.tmp"} <= sample.names(only)
    assert "keep.txt" not in sample.names(only)


def test_other_rules_than_the_parents_hold_at_once(sample: BackedUp) -> None:
    """Unchanged directories are looked through nevertheless."""
    sample.fill({"d/a": b"1", "d/b": b"2", "e/a": b"3"})
    sample.clean()
    less = sample.clean(selection=Selection(exclude=("d/a",)))
    assert sample.names(less) == {"d", "d/b", "e", "e/a"}
    assert less.counts.files_unmodified == 2
    more = sample.clean()
    assert sample.names(more) == {"d", "d/a", "d/b", "e", "e/a"}
    assert more.counts.files_new == 1


@root_only
def test_other_file_systems_are_left_out_when_asked(sample: BackedUp) -> None:
    sample.fill({"mounted/below": b"hidden", "own": b"1"})
    mounted = sample.source / "mounted"
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted)], check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (mounted / "inner").write_bytes(b"2")
        across = sample.clean()
        within = sample.clean(one_file_system=True)
        again = sample.clean(one_file_system=True)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert sample.names(across) == {"own", "mounted", "mounted/inner"}
    assert sample.names(within) == {"own", "mounted"}
    assert sample.tree(again) == sample.tree(within)
    assert sample.names(sample.clean()) == {"own", "mounted", "mounted/below"}


UNREADABLE = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from backup_sample import BackedUp
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sample = BackedUp(Path(sys.argv[1]))
sample.fill({"good": b"1", "secret": b"2", "closed/x": b"3", "listed/y": b"4"})
(sample.source / "secret").chmod(0)
(sample.source / "closed").chmod(0)
(sample.source / "listed").chmod(0o444)
result = sample.run()
for finding in result.findings:
    print(finding.code, finding.subject)
print(sorted(sample.names(result)), result.counts.files)
(sample.source / "closed").chmod(0o700)
(sample.source / "listed").chmod(0o700)
"""


@root_only
def test_what_may_not_be_read_is_a_finding() -> None:
    """By a process without privileges, as root may read everything."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, place, "", *sys.path],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {
        "file_unreadable secret",
        "directory_unreadable closed",
        "directory_unreadable listed",
        "['closed', 'good', 'listed'] 1",
    }


# Runs


def test_a_dry_run_counts_and_stores_nothing(sample: BackedUp) -> None:
    sample.fill({"a": 5000, "d/b": 6000})
    before = set(sample.repository.store.list(""))
    result = sample.clean(dry_run=True)
    assert set(sample.repository.store.list("")) == before
    assert result.snapshot is None
    assert (result.counts.files_new, result.counts.bytes_read) == (2, 11000)
    assert result.added.raw_bytes >= 11000
    assert sample.clean().added.raw_bytes >= 11000


def test_what_is_recorded(sample: BackedUp) -> None:
    sample.fill({"a": b"1"})
    seen: list[Progress] = []
    request = BackupRequest(
        (os.fsencode(sample.source),), tags=("x", "y"), hostname="there", workers=0
    )
    snapshot = snapshot_of(backup(sample.repository, request, seen.append))
    assert (snapshot.hostname, snapshot.tags, snapshot.parent) == ("there", ("x", "y"), None)
    assert snapshot.program_version.startswith("holdfast ")
    assert snapshot.summary["total_files_processed"] == 1
    assert seen[-1].files_done == 1
    assert sample.repository.snapshot(snapshot.id) == snapshot
    # The newest of the same host and paths is the parent, and no other.
    assert sample.clean().parent is None
    request = BackupRequest((os.fsencode(sample.source),), hostname="there", workers=0)
    assert backup(sample.repository, request).parent == snapshot.id


def test_any_number_of_workers_makes_the_same_tree(tmp_path: Path) -> None:
    sample = BackedUp(tmp_path, LocalStore(str(tmp_path / "repository")))
    sample.fill({f"{n % 7}/{n % 3}/{n}": n * 50 for n in range(300)})
    sample.fill({"large": 5 << 20, **{f"wide/{n}": b"%d" % n for n in range(1100)}})
    trees = {sample.tree(sample.clean(workers=number, parent=None)) for number in (0, 1, 2)}
    assert len(trees) == 1
    assert verify(sample.repository, VerifyRequest(read_data=True, workers=0)).clean


def test_two_backups_at_once(tmp_path: Path) -> None:
    sample = BackedUp(tmp_path, LocalStore(str(tmp_path / "repository")))
    sample.fill({f"{n}": 3000 + n for n in range(200)})
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(sample.run(parent=None))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.findings for result in results] == [(), ()]
    assert sample.tree(results[0]) == sample.tree(results[1])
    for result in results:
        assert sample.contents(result) == expected(sample.source)
    assert verify(sample.repository, VerifyRequest(read_data=True, workers=0)).clean


@pytest.fixture
def failing_late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A backup whose last step fails: everything is stored and nothing committed."""
    call = BackupWorker.__call__

    def fail(worker: BackupWorker, task: Any) -> Any:
        if isinstance(task, StoreBlob) and b"manifest.json" in task.content:
            call(worker, Flush())
            raise RuntimeError("a bug")
        return call(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(BackupWorker, "__call__", fail)
        yield


def test_an_interrupted_run_makes_no_snapshot(sample: BackedUp, failing_late: None) -> None:
    sample.fill({"a": 700_000})
    with pytest.raises(RuntimeError):
        sample.run()
    assert not sample.repository.ids(FileKind.SNAPSHOT)
    assert not list(keys_of(sample.repository.store, FileKind.LOCK))


def test_what_an_interrupted_run_has_stored_is_not_stored_again(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.fill({f"{n}": 40 << 10 for n in range(1000)})
    call = BackupWorker._file
    files = 0

    def stop(worker: BackupWorker, *arguments: Any) -> Any:
        nonlocal files
        files += 1
        if files == 900:
            raise KeyboardInterrupt
        return call(worker, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BackupWorker, "_file", stop)
        patch.setattr("holdfast.flows.backup_tasks.SLICE_ENTRIES", 100)
        patch.setattr("holdfast.flows.backup.SLICE_ENTRIES", 100)
        with pytest.raises(KeyboardInterrupt):
            sample.run()
    stored = sum(info.size_bytes for _, info in sample.repository.pack_files())
    assert stored > 10 << 20, "the interrupted run was to store something"
    result = sample.clean()
    # What the interrupted task itself had stored was not reported back: a pack at most.
    assert result.added.raw_bytes < (41 << 20) - stored + (17 << 20)
    assert sample.contents(result) == expected(sample.source)


def test_what_is_backed_up_comes_back(tmp_path: Path) -> None:
    sample = BackedUp(tmp_path)
    sample.fill({"a": 3 << 20, "b/c": 100, "b/d/e": b""})
    sample.repository = make(version=1)
    result = sample.clean()
    request = RestoreRequest(
        snapshot_of(result).id,
        os.fsencode(tmp_path / "out"),
        path=os.fsencode(sample.source),
        root_metadata=True,
        workers=0,
    )
    assert not restore(sample.repository, request).findings
    assert_same_tree(sample.source, tmp_path / "out", root_entry=True)
