"""Captures of a live task directory, one after the other."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sample_repository import expected
from task_sample import Computation, Task, nothing_runs
from tree_compare import assert_same_tree

from holdfast.errors import (
    BadPattern,
    Damaged,
    HoldfastError,
    NotReady,
    PathEscapes,
    SourceVanished,
    StoreUnavailable,
    UsageError,
)
from holdfast.flows import task_capture_run, task_reading, task_recall
from holdfast.flows.forget import ForgetRequest, forget, plan_forget
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.task_capture import CaptureRequest, CaptureResult, Freeze, TaskCapturer
from holdfast.model.consistency import Consistency
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import FileKind
from holdfast.sources.path import read, settling
from holdfast.sources.path.settling import REMOTE_NS, RUNNING_NS, STILL_NS, Settling
from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import Buffer

MIB = 1 << 20

WRITER = """
import os
a = os.open("a", os.O_RDWR | os.O_CREAT)
b = os.open("z/b", os.O_RDWR | os.O_CREAT)
number = 0
while True:
    number += 1
    os.pwrite(a, b"%012d" % number, 0)
    os.pwrite(b, b"%012d" % number, 0)
    if number == 100:
        print("ready")
"""

MAPPER = """
import mmap, os, signal
file = os.open("mapped", os.O_RDWR)
pages = mmap.mmap(file, 8192)
os.close(file)
pages[0:4] = b"1111"
def store(*_):
    pages[0:4] = b"%04d" % (int(pages[0:4]) + 1111)
    print("stored")
signal.signal(signal.SIGUSR1, store)
print("ready")
while True:
    signal.pause()
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


@pytest.fixture
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as settled at once, so that a test need not wait for it."""
    monkeypatch.setattr(settling, "STILL_NS", -(10**12))
    monkeypatch.setattr(settling, "RUNNING_NS", -(10**12))


@contextmanager
def meanwhile(
    before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """A freeze: something happens right before it, and right after it."""
    before()
    yield
    after()


def refused() -> AbstractContextManager[None]:
    raise NotReady("The job is not running on this host.")


def counters(task: Task, result: CaptureResult) -> tuple[int, int]:
    files = task.contents(result)
    return int(files["a"]), int(files["b"])


# One moment


def test_what_is_held_still_is_captured_as_of_one_moment(task: Task) -> None:
    task.fill({"between": 3 * MIB, "z/big": MIB})
    with Computation(WRITER, task.job) as writer:
        moments = []
        for _ in range(8):
            result = task.capture(writer.freeze)
            assert result.consistency is Consistency.FROZEN
            assert not result.findings
            assert 0 < result.frozen_seconds <= result.capture_seconds
            first, second = counters(task, result)
            # The first is written before the second, so it is at most one ahead.
            assert first - second in (0, 1)
            moments.append(first)
            assert writer.state != "T"
        assert moments == sorted(set(moments)), "the writer went on in between"
    task.assert_whole()


def test_without_a_freeze_the_grade_says_so(task: Task) -> None:
    task.fill({"quiet": 5000, "z/quiet": 10})
    with Computation(WRITER, task.job):
        result = task.capture()
    assert result.consistency in (Consistency.PER_FILE, Consistency.TORN)
    torn = {each.subject for each in result.findings if each.code == "file_torn"}
    assert bool(torn) == (result.consistency is Consistency.TORN)
    assert torn <= {"a", "z/b"}
    assert result.frozen_seconds == 0
    task.assert_whole()


def test_what_cannot_be_held_still_is_read_file_by_file(task: Task) -> None:
    task.fill({"a": 5000, "b": 10})
    result = task.capture(refused)
    assert result.consistency is Consistency.PER_FILE
    (finding,) = result.findings
    assert finding.code == "not_frozen"
    assert "not running on this host" in finding.message
    assert task.contents(result) == expected(task.job)


def test_a_computation_is_let_go_whatever_happens(task: Task) -> None:
    task.fill({"a": 5000})
    with Computation(WRITER.replace("z/b", "b"), task.job) as writer:

        @contextmanager
        def freeze() -> Iterator[None]:
            with writer.freeze():
                moved = task.job.rename(task.job.with_name("moved"))
                try:
                    yield
                finally:
                    moved.rename(task.job)

        with pytest.raises(SourceVanished):
            task.capture(freeze)
        assert writer.state != "T"
        assert task.repository.ids(FileKind.SNAPSHOT) == []
        assert task.repository.ids(FileKind.LOCK) == []
        assert task.capture(writer.freeze).consistency is Consistency.FROZEN


# What changed since


@pytest.mark.usefixtures("no_settling")
def test_changes_between_the_two_looks_are_in_it(task: Task) -> None:
    task.fill({"kept": 100, "changed": 3 * MIB, "same-size": 100, "gone": 5, "d/gone": 5})
    task.capture(nothing_runs)

    def change() -> None:
        task.fill({"changed": 2 * MIB, "new": 10, "e/new": 20}, seed=1)
        before = (task.job / "same-size").stat()
        (task.job / "same-size").write_bytes(b"x" * 100)
        os.utime(task.job / "same-size", ns=(before.st_atime_ns, before.st_mtime_ns))
        (task.job / "gone").unlink()
        shutil.rmtree(task.job / "d")

    result = task.capture(lambda: meanwhile(change))
    assert result.consistency is Consistency.FROZEN
    assert task.contents(result) == expected(task.job)
    assert set(task.nodes(result)) == {"kept", "changed", "same-size", "new", "e", "e/new"}
    task.assert_whole()


@pytest.mark.usefixtures("no_settling")
@pytest.mark.parametrize(
    "change",
    ["rm d/gone", "rmdir e/empty", "mkdir d/new", "mv d/gone d/moved", "rm -r d", "touch d",
     "rm link", "chmod 600 d/gone", "ln d/gone second", "mkfifo d/fifo", "rm -r e; touch e"],
)  # fmt: skip
def test_a_single_change_is_in_it(task: Task, tmp_path: Path, change: str) -> None:
    task.fill({"kept": 100, "d/gone": 5, "d/kept": 5, "e/f/g": 5})
    (task.job / "e/empty").mkdir()
    os.symlink("nowhere", task.job / "link")
    task.capture(nothing_runs)
    for number in range(2):
        if number == 0:
            subprocess.run(["/bin/sh", "-ec", change], cwd=task.job, check=True)
        result = task.capture(nothing_runs)
        target = tmp_path / str(number)
        request = RestoreRequest(result.manifest_id, os.fsencode(target), path=b"job", workers=0)
        assert not restore(task.repository, request).findings
        assert_same_tree(task.job, target)


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(task: Task) -> None:
    path = task.job / "file"

    def write(number: int) -> None:
        path.write_bytes(b"%06d" % number)

    for number in range(12):
        before, after = functools.partial(write, number), functools.partial(write, number + 500)
        result = task.capture(functools.partial(meanwhile, before, after))
        assert task.contents(result) == {"file": b"%06d" % number}
        assert task.contents(task.capture(nothing_runs)) == {"file": b"%06d" % (number + 500)}


def test_stores_through_a_mapping_are_noticed(task: Task) -> None:
    """Only the first store into a page moves the times; the file is closed and mapped."""
    (task.job / "mapped").write_bytes(bytes(8192))
    with Computation(MAPPER, task.job) as mapper:
        for value in (b"1111", b"2222", b"3333"):
            result = task.capture(mapper.freeze)
            assert task.contents(result)["mapped"][:4] == value
            mapper.send(signal.SIGUSR1)


@pytest.mark.usefixtures("no_settling")
def test_what_did_not_change_is_neither_read_nor_stored(task: Task) -> None:
    task.fill({f"d{n % 5}/f{n}": 20_000 for n in range(50)})
    first = task.capture()
    assert (first.files, first.logical_bytes, first.read_bytes) == (50, 1_000_000, 1_000_000)
    assert first.stored_bytes > 1_000_000
    second = task.capture(nothing_runs)
    assert (second.files, second.logical_bytes, second.read_bytes) == (50, 1_000_000, 0)
    assert second.stored_bytes < 3000
    (task.job / "d1/f1").write_bytes(b"new")
    third = task.capture(nothing_runs)
    assert third.read_bytes == 3
    assert third.stored_bytes < 10_000
    assert task.contents(third) == expected(task.job)
    old, new = task.nodes(second), task.nodes(third)
    assert {name for name in old if old[name] != new[name]} == {"d1", "d1/f1"}
    task.assert_whole()


def test_a_capture_adds_few_objects(task: Task) -> None:
    files: dict[str, int | bytes] = {f"d{n % 9}/f{n}": 700 for n in range(60)}
    task.fill(files | {"large": 4 * MIB})
    task.capture(nothing_runs)
    before = {info.key for info in task.repository.store.list("")}
    task.fill(files | {"large": 4 * MIB}, seed=1)
    task.capture(nothing_runs)
    added = {info.key for info in task.repository.store.list("")} - before
    kinds = sorted(key.partition("/")[0] for key in added)
    assert kinds == ["data", "data", "index", "snapshots"]


def test_a_new_capturer_finds_what_another_has_stored(task: Task) -> None:
    task.fill({"a": 3 * MIB, "b/c": 40})
    task.capture(nothing_runs)
    again = task.new_capturer().capture(CaptureRequest())
    assert again.stored_bytes < 5000
    assert task.contents(again) == expected(task.job)


def test_a_capturer_that_takes_over_reads_only_what_it_cannot_trust(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.fill({"a": 3 * MIB, "b/c": 40, "b/d/e": 50})
    os.symlink("nowhere", task.job / "link")
    first = task.capture(nothing_runs)
    name = os.fsencode(task.job)

    def capturer(parent: str) -> TaskCapturer:
        return TaskCapturer(task.repository, name, hostname="node-1", parent=parent)

    cautious = capturer(first.manifest_id).capture(CaptureRequest())
    assert cautious.read_bytes == first.logical_bytes, "it all changed a moment ago"
    monkeypatch.setattr(task_recall, "REMOTE_NS", -(10**12))
    task.fill({"b/c": 41})
    second = capturer(first.manifest_id).capture(CaptureRequest(freeze=nothing_runs))
    assert second.read_bytes == 41
    assert second.consistency is Consistency.FROZEN
    assert task.contents(second) == expected(task.job)
    old, new = task.nodes(first), task.nodes(second)
    assert {each for each in old if old[each] != new[each]} == {"b", "b/c"}
    assert task.repository.snapshot(second.manifest_id).parent == first.manifest_id
    unknown = capturer("0" * 64).capture(CaptureRequest())
    assert [each.code for each in unknown.findings] == ["parent_damaged"]
    assert task.contents(unknown) == expected(task.job)
    task.assert_whole()


def test_more_than_memory_may_hold_is_captured_too(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_capture_run, "HELD_BYTES", MIB)
    task.fill({"a": 700_000, "b": 5 * MIB, "c": 700_000, "d": 100})
    result = task.capture(nothing_runs)
    assert result.consistency is Consistency.FROZEN
    assert task.contents(result) == expected(task.job)
    task.assert_whole()


def test_a_writer_who_is_not_held_still_makes_it_torn(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.fill({"a": 5000, "b": 5000})
    number = 0
    really_read = os.pread

    def read_beside_a_writer(fd: int, length: int, offset: int) -> bytes:
        nonlocal number
        content = really_read(fd, length, offset)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/a"):
            number += 1
            task.fill({"a": 5000 + number})
        return content

    monkeypatch.setattr(os, "pread", read_beside_a_writer)
    result = task.capture(nothing_runs)
    monkeypatch.undo()
    assert result.consistency is Consistency.TORN
    assert [(each.code, each.subject) for each in result.findings] == [("file_torn", "a")]
    assert task.contents(task.capture(nothing_runs)) == expected(task.job)


# Filters


@pytest.mark.usefixtures("no_settling")
def test_the_blacklist_wins_and_filters_may_change(task: Task) -> None:
    task.fill({"out/a.txt": 10, "out/b.log": 20, "tmp/a.txt": 30, "c.txt": 40})
    texts = task.capture(whitelist=r"\.txt$", blacklist="^tmp/")
    assert (texts.files, texts.logical_bytes) == (2, 50)
    assert set(task.contents(texts)) == {"a.txt", "c.txt"}
    everything = task.capture()
    assert everything.files == 4
    assert everything.read_bytes == 50, "what the first has read is remembered"
    assert task.capture(whitelist=r"\.txt$", blacklist="^tmp/").read_bytes == 0
    again = task.capture()
    assert (again.files, again.read_bytes) == (4, 0), "also what was left out in between"
    assert task.contents(again) == expected(task.job)
    task.assert_whole()


def test_a_bad_pattern_stores_nothing(task: Task) -> None:
    task.fill({"a": 1})
    with pytest.raises(BadPattern):
        task.capture(whitelist="(")
    with pytest.raises(BadPattern, match="back-references"):
        task.capture(blacklist=r"(a)\1")
    with pytest.raises(BadPattern):
        task.capturer.preview("[", None, limit=1)
    assert task.repository.ids(FileKind.SNAPSHOT) == []


def test_a_preview_names_the_first_files(task: Task) -> None:
    task.fill({"b": 1, "a/z": 2, "a/y": 3, "a.txt": 4, "c/d/e": 5})
    os.symlink("b", task.job / "link")
    shown = task.capturer.preview(None, "d", limit=3)
    assert (shown.files, shown.logical_bytes, shown.cut) == (4, 10, True)
    assert shown.entries == ((b"a.txt", 4), (b"a/y", 3), (b"a/z", 2))
    assert not task.capturer.preview(None, None, limit=5).cut


# What a directory may hold


def test_odd_names_links_and_special_files(task: Task) -> None:
    job = os.fsencode(task.job)
    for name in (b"\xff\xfe", b"new\nline", b'"quoted"', b"#", b"\\x41"):
        Path(os.fsdecode(job + b"/" + name)).write_bytes(name)
    os.makedirs(job + b"/empty/\xc3\x28")
    task.fill({"original": 3000})
    os.link(job + b"/original", job + b"/empty/second")
    os.symlink(b"no\xffwhere", job + b"/dangling")
    os.symlink(b"/etc", job + b"/outside")
    os.mkfifo(job + b"/fifo")
    with (task.job / "sparse").open("wb") as file:
        file.seek(9 * MIB)
        file.write(b"end")
    for result in (task.capture(nothing_runs), task.capture(nothing_runs), task.capture()):
        assert not result.findings
        nodes = task.nodes(result)
        assert nodes["original"].inode == nodes["empty/second"].inode
        assert nodes["original"].links == 2
        assert nodes["dangling"].linktarget == b"no\xffwhere"
        assert nodes["sparse"].size == 9 * MIB + 3
        assert nodes["fifo"].type.value == "fifo"
        assert "outside/passwd" not in nodes
        assert result.files == 8
    task.assert_whole()


@pytest.mark.parametrize("freeze", [nothing_runs, None])
def test_what_cannot_be_read_is_a_finding(
    task: Task, monkeypatch: pytest.MonkeyPatch, freeze: Freeze | None
) -> None:
    task.fill({"a": 10, "b": 10, "d/c": 20})
    really_open = read.open_for_reading

    def open_for_reading(name: bytes, dir_fd: int) -> int:
        if name == b"a":
            raise PermissionError(errno.EACCES, "Permission denied")
        if name == b"b":
            os.unlink(name, dir_fd=dir_fd)
            os.mkfifo(name, dir_fd=dir_fd)
        return really_open(name, dir_fd)

    monkeypatch.setattr(task_reading, "open_for_reading", open_for_reading)
    result = task.capture(freeze)
    assert {each.subject for each in result.findings} == {"a", "b"}
    assert {each.code for each in result.findings} == {"file_unreadable"}
    assert set(task.nodes(result)) == {"d", "d/c"}
    monkeypatch.undo()
    assert set(task.nodes(task.capture(freeze))) == {"a", "b", "d", "d/c"}
    task.assert_whole()


def test_the_name_in_the_snapshot_may_lie_deep(task: Task) -> None:
    task.fill({"a": 10})
    capturer = TaskCapturer(
        task.repository, os.fsencode(task.job), stored_as=b"/mnt/job", hostname="h"
    )
    snapshot = task.repository.snapshot(capturer.capture(CaptureRequest()).manifest_id)
    assert snapshot.paths == ("/mnt/job",)
    for name in (b"job", b"/", b"/a/../b", b"/a/"):
        with pytest.raises(UsageError):
            TaskCapturer(task.repository, os.fsencode(task.job), stored_as=name, hostname="h")


def test_a_directory_that_becomes_a_link_elsewhere_is_refused(task: Task, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "secret").write_bytes(b"secret")
    capturer = TaskCapturer(
        task.repository,
        os.fsencode(task.job),
        hostname="h",
        within=os.fsencode(os.path.realpath(task.job)),
    )
    capturer.capture(CaptureRequest())
    task.job.rmdir()
    task.job.symlink_to(other)
    with pytest.raises(PathEscapes):
        capturer.capture(CaptureRequest())
    with pytest.raises(PathEscapes):
        capturer.preview(None, None, limit=1)


# The record


def test_the_record_says_what_it_is_of(task: Task) -> None:
    task.fill({"a": 10})
    result = task.capture(nothing_runs)
    snapshot = task.repository.snapshot(result.manifest_id)
    assert snapshot.hostname == "node-1"
    assert snapshot.paths == ("/job",)
    assert snapshot.tags == ("holdfast-job=1",)
    moment = datetime.fromtimestamp(result.captured_ns / 1e9, UTC)
    assert abs((snapshot.time - moment).total_seconds()) < 0.001
    second = task.repository.snapshot(task.capture(nothing_runs).manifest_id)
    assert second.parent == snapshot.id
    assert len(task.repository.ids(FileKind.SNAPSHOT)) == 2


# The repository


def test_what_a_prune_took_away_is_stored_again(task: Task) -> None:
    task.fill({"a": 2 * MIB, "d/b": 5000, "d/e/c": 10})
    first = task.capture(nothing_runs)
    forget(task.repository, plan_forget(task.repository, ForgetRequest((first.manifest_id,))))
    limits = PruneLimits(max_unused_percent=0, instant=True)
    prune(task.repository, plan_prune(task.repository, PruneRequest(limits)))
    assert not list(task.repository.pack_files())
    assert task.contents(task.capture(nothing_runs)) == expected(task.job)
    task.assert_whole()


def forget_and_mark(task: Task, result: CaptureResult) -> None:
    forget(task.repository, plan_forget(task.repository, ForgetRequest((result.manifest_id,))))
    prune(task.repository, plan_prune(task.repository, PruneRequest()))


def sweep(task: Task) -> None:
    later = PruneRequest(now=datetime.now(UTC) + timedelta(days=3))
    prune(task.repository, plan_prune(task.repository, later))


def test_a_prune_between_captures_marks_and_a_later_one_sweeps(task: Task) -> None:
    task.fill({"a": 2 * MIB, "d/b": 5000})
    forget_and_mark(task, task.capture(nothing_runs))
    assert task.capture(nothing_runs).stored_bytes > 2 * MIB, "what is marked is not counted on"
    sweep(task)
    assert task.contents(task.capture(nothing_runs)) == expected(task.job)
    task.assert_whole()


@pytest.mark.usefixtures("no_settling")
def test_a_prune_during_a_capture_takes_nothing_that_it_needs(task: Task) -> None:
    task.fill({"a": 2 * MIB, "d/b": 5000})
    first = task.capture(nothing_runs)
    second = task.capture(lambda: meanwhile(lambda: forget_and_mark(task, first)))
    assert second.stored_bytes < 5000, "it was the prune that came too late"
    sweep(task)
    assert task.contents(second) == expected(task.job)
    assert task.contents(task.capture(nothing_runs)) == expected(task.job)
    task.assert_whole()


def test_what_another_process_adds_does_not_make_it_read_the_index_again(task: Task) -> None:
    task.fill({"a": 5000})
    task.capture(nothing_runs)
    task.new_capturer().capture(CaptureRequest())
    generation = task.capturer._memory.index.generation
    task.capture(nothing_runs)
    assert task.capturer._memory.index.generation == generation
    task.assert_whole()


class Rotten(MemoryStore):
    """A store that keeps other bytes than it is given, or nothing, while it is told to."""

    flips = fails = False

    def create(self, key: str, data: Buffer) -> None:
        if self.fails and key.startswith("snapshots/"):
            raise StoreUnavailable("the store is away for a moment; try again")
        if self.flips and key.startswith("data/"):
            changed = bytearray(data)
            changed[20] ^= 1
            data = bytes(changed)
        super().create(key, data)


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    store = Rotten()
    task = Task(tmp_path, store)
    task.fill({"a": 5000})
    assert task.capture(nothing_runs).verified
    unverified = task.capturer.capture(CaptureRequest(verify=False))
    assert not unverified.verified
    task.fill({"a": 6000})
    store.flips = True
    with pytest.raises(Damaged, match="read back"):
        task.capture(nothing_runs)


def test_after_a_failure_the_next_capture_is_whole(tmp_path: Path) -> None:
    store = Rotten()
    task = Task(tmp_path, store)
    task.fill({"a": 5000, "d/b": 3 * MIB})
    task.capture(nothing_runs)
    task.fill({"a": 6000, "d/b": MIB}, seed=1)
    store.fails = True
    with pytest.raises(HoldfastError):
        task.capture(nothing_runs)
    store.fails = False
    assert len(task.repository.ids(FileKind.SNAPSHOT)) == 1
    assert task.contents(task.capture(nothing_runs)) == expected(task.job)
    task.assert_whole()


# When times can be trusted


@pytest.mark.parametrize(
    ("kind", "still", "window_ns"),
    [
        ("ext4", True, STILL_NS),
        ("ext4", False, RUNNING_NS),
        ("tmpfs", True, STILL_NS),
        ("nfs4", True, REMOTE_NS),
        ("", False, REMOTE_NS),
    ],
)
def test_when_a_change_is_settled(tmp_path: Path, kind: str, still: bool, window_ns: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    st = path.stat()
    if st.st_ctime_ns % 10**9 == 0:
        pytest.skip("the times of this file system have no fraction")
    changed_ns = st.st_ctime_ns
    rule = Settling(changed_ns + window_ns, kind=kind, still=still)
    assert not rule.is_settled(st)
    assert Settling(changed_ns + window_ns + 1, kind=kind, still=still).is_settled(st)
    ahead = Settling(changed_ns - 10**9, kind=kind, still=still)
    assert not ahead.is_settled(st), "a time in the future says nothing"
    mapped = frozenset({st.st_ino})
    assert not Settling(changed_ns + 10**12, mapped, kind, still=still).is_settled(st)


def test_whole_seconds_settle_later(tmp_path: Path) -> None:
    times = (0o100644, 1, 1, 1, 0, 0, 1, 100, 100, 100)
    st = os.stat_result((*times, 100.0, 100.0, 100.0, 10**11, 10**11, 10**11))
    assert st.st_ctime_ns == 100 * 10**9
    assert not Settling(102 * 10**9, still=True).is_settled(st)
    assert Settling(103 * 10**9 + 1, still=True).is_settled(st)
