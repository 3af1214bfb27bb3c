"""Captures of a task on real btrfs, xfs and tmpfs file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sample_repository import expected
from task_sample import Computation, Task, nothing_runs
from test_consistency_ladder import hidden, mounted

from holdfast.flows import task_capture_run, task_reading
from holdfast.model.consistency import Consistency
from holdfast.sources.path import reflink

MIB = 1 << 20

WRITER = """
import os
a = os.open("a", os.O_RDWR | os.O_CREAT | os.O_SYNC)
b = os.open("b", os.O_RDWR | os.O_CREAT | os.O_SYNC)
number = 0
while True:
    number += 1
    os.pwrite(a, b"%012d" % number, 0)
    os.pwrite(b, b"%012d" % number, 0)
    if number == 5:
        print("ready")
"""

MAPPER = """
import mmap, os, signal
file = os.open("mapped", os.O_RDWR)
pages = mmap.mmap(file, 4096)
os.close(file)
value = int(pages[0:1])
print("ready")
while True:
    signal.pause()
"""


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Task]:
    with mounted(tmp_path, "btrfs") as point:
        subprocess.run(["btrfs", "-q", "subvolume", "create", point / "v"], check=True)
        yield Task(point / "v")


@contextmanager
def right_after(act: Callable[[], object]) -> Iterator[None]:
    """A freeze of a computation that goes on at once when it is let go."""
    yield
    act()


def test_on_btrfs_the_computation_stands_only_for_a_snapshot(btrfs: Task) -> None:
    btrfs.fill({"large": 9 * MIB, "d/e": 10})
    for number in range(3):
        btrfs.fill({"changed": 3 * MIB}, seed=number)
        kept = expected(btrfs.job)
        # What is stored is of before, although all of it is read after.
        result = btrfs.capture(lambda: right_after(lambda: btrfs.fill({"changed": 5, "new": 5})))
        assert result.consistency is Consistency.FROZEN
        assert btrfs.contents(result) == kept
        (btrfs.job / "new").unlink()
    assert hidden(btrfs.job) == []
    btrfs.assert_whole()


def test_on_btrfs_what_cannot_be_held_still_is_of_one_moment_of_the_disk(btrfs: Task) -> None:
    with Computation(WRITER, btrfs.job):
        for _ in range(4):
            result = btrfs.capture()
            assert result.consistency is Consistency.ATOMIC
            files = btrfs.contents(result)
            assert int(files["a"]) - int(files["b"]) in (0, 1)


def test_what_is_too_much_for_memory_is_cloned_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_capture_run, "HELD_BYTES", MIB)
    cloned = []
    really_clone = reflink.unnamed_clone

    def clone(fd: int, directory_fd: int) -> int:
        made: int = really_clone(fd, directory_fd)
        cloned.append(made)
        return made

    monkeypatch.setattr(task_reading, "unnamed_clone", clone)
    with mounted(tmp_path, "xfs") as point:
        task = Task(point)
        task.fill({"a": 700_000, "b": 8 * MIB, "c": 3 * MIB})
        before = expected(task.job)
        result = task.capture(lambda: right_after(lambda: task.fill({"b": 8 * MIB}, seed=9)))
        assert result.consistency is Consistency.FROZEN
        assert task.contents(result) == before
        assert len(cloned) == 2
        assert sorted(os.listdir(task.job)) == ["a", "b", "c"]
        assert task.contents(task.capture(nothing_runs)) == expected(task.job)
        task.assert_whole()


def test_in_memory_a_mapped_file_is_always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a store into a page that was only read so far moves no time at all."""
    memory = Path("/dev/shm", f"holdfast-task-{os.getpid()}")
    memory.mkdir()
    try:
        task = Task(memory)
        (task.job / "mapped").write_bytes(b"1" + bytes(4095))
        monkeypatch.setattr("holdfast.sources.path.settling.STILL_NS", -(10**12))
        monkeypatch.setattr("holdfast.sources.path.settling.RUNNING_NS", -(10**12))
        task.capture(nothing_runs)
        assert task.capture(nothing_runs).read_bytes == 0
        with Computation(MAPPER, task.job) as mapper:
            for _ in range(2):
                assert task.capture(mapper.freeze).read_bytes == 4096
    finally:
        shutil.rmtree(memory)
