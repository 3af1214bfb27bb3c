"""Captures of a task as plain restic sees them: checked, listed and restored."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from restic_program import Restic, restic_named
from task_sample import Computation, Task, nothing_runs
from tree_compare import assert_same_tree

from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.store.local import LocalStore

MIB = 1 << 20

APPENDER = """
import os
number = 0
while True:
    number += 1
    with open(f"log-{number % 7}", "ab") as log:
        log.write(os.urandom(3000))
    if number == 50:
        print("ready")
"""


@pytest.fixture(params=["OLD", "NEW"])
def restic(request: pytest.FixtureRequest, tmp_path: Path) -> Restic:
    return Restic(restic_named(request.param), tmp_path / "repository")


@pytest.fixture
def task(tmp_path: Path, restic: Restic) -> Task:
    return Task(tmp_path, LocalStore(str(restic.directory)))


def test_restic_checks_and_restores_every_capture(
    task: Task, restic: Restic, tmp_path: Path
) -> None:
    job = os.fsencode(task.job)
    task.fill({"a": 3 * MIB, "d/e/b": 5000, "d/empty": 0, 'odd "name"\n': 10})
    os.link(job + b"/a", job + b"/d/second name of a")
    os.symlink(b"../a", job + b"/d/link")
    os.mkdir(job + b"/empty directory", 0o750)
    os.setxattr(job + b"/a", b"user.note", b"kept")
    os.utime(job + b"/a", ns=(1, 123456789))
    with (task.job / "sparse").open("wb") as file:
        file.truncate(20 * MIB)
    for number in range(3):
        task.fill({"changing": 100_000, f"new-{number}/x": 10}, seed=number)
        result = task.capture(nothing_runs)
        restic.run("check", "--read-data")
        restic.run("restore", result.manifest_id, "--target", str(tmp_path / f"r{number}"))
        assert_same_tree(task.job, tmp_path / f"r{number}" / "job")
        request = RestoreRequest(result.manifest_id, os.fsencode(tmp_path / f"h{number}"))
        restore(task.repository, request)
        assert_same_tree(task.job, tmp_path / f"h{number}" / "job")
    listed = json.loads(restic.run("snapshots", "--json", "--tag", "holdfast-job=1"))
    assert [each["paths"] for each in listed] == [["/job"]] * 3
    assert [each["id"] for each in listed[1:]] == [
        each["id"] for each in listed if each.get("parent")
    ]


def test_restic_restores_what_a_running_computation_had_when_it_was_held_still(
    task: Task, restic: Restic, tmp_path: Path
) -> None:
    task.fill({"quiet": MIB})
    with Computation(APPENDER, task.job) as appender:
        results = [task.capture(appender.freeze) for _ in range(4)]
    restic.run("check", "--read-data")
    sizes = []
    for number, result in enumerate(results):
        target = tmp_path / f"r{number}"
        restic.run("restore", result.manifest_id, "--target", str(target))
        logs = [path.stat().st_size for path in (target / "job").glob("log-*")]
        assert len(logs) == 7
        assert all(size % 3000 == 0 for size in logs)
        # In turn: at one moment no log is more than one entry ahead of another.
        assert max(logs) - min(logs) in (0, 3000)
        sizes.append(sum(logs))
    assert sizes == sorted(sizes)
