"""S5: drill jobs through a real gateway, and what becomes of their scratch directories."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import fill, packs_holding
from structlog.testing import capture_logs

from holdfast.agent import drill_scratch, jobs
from holdfast.agent.drill_scratch import scratch, sweep
from holdfast.agent.jobs.context import JobEnd
from holdfast.agent.settings import load
from holdfast.errors import (
    InUse,
    NotFound,
    PathEscapes,
    TargetError,
    TargetFull,
    TargetNotEmpty,
    UsageError,
)
from holdfast.model.progress import Progress
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import pack_key
from holdfast.sources.path.confine import ConfinedTree

FILES: dict[str, int | bytes] = {"a": 200_000, "models/b": 1000, "models/c": 10, "notes": 5}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as made:
        fill(made.root, FILES)
        made.manifest_id = made.back_up()["manifest_id"]  # type: ignore[attr-defined]
        made.stages.clear()
        yield made


@pytest.fixture
def drills(tmp_path: Path) -> Path:
    return tmp_path / "drills"


def drill(
    place: Workplace,
    at_stage: Callable[[str], object] = lambda _stage: None,
    *,
    directory: Path | None = None,
    **more: Any,
) -> JobEnd:
    """Do the job; `at_stage` is told of every stage as it begins."""
    manifest_id = place.manifest_id  # type: ignore[attr-defined]
    spec = {"manifest_id": manifest_id, "captured_path": "/root", "paths": []}
    context = place.context("drill", **{**spec, **more})

    def report(stage: str, progress: Progress) -> None:
        is_new = stage not in place.stages
        context.report(stage, progress)
        if is_new:
            at_stage(stage)

    changed = replace(context, report=report)
    if directory is not None:
        changed = replace(changed, drill_directory=str(directory))
    return jobs.run(changed, 1)


def left(drills: Path) -> list[str]:
    """What is in the directory of drills, below it, too."""
    return sorted(str(path.relative_to(drills)) for path in drills.rglob("*"))


# What it reports


def test_a_snapshot_that_comes_back(place: Workplace, drills: Path) -> None:
    modes: dict[str, int] = {}

    def look(stage: str) -> None:
        if stage in ("preparing", "comparing"):
            modes[stage] = (drills / "job-1").stat().st_mode & 0o7777

    end = drill(place, look)
    milliseconds = end.result.pop("restore_milliseconds")
    assert milliseconds >= 0
    assert end.result == {
        "files": 4,
        "directories": 1,
        "restored_bytes": 201_015,
        "compared_bytes": 201_015,
        "passed": True,
    }
    assert end.findings == ()
    assert modes == {"preparing": 0o700, "comparing": 0o700}
    assert list(dict.fromkeys(place.stages)) == [
        *("preparing", "restoring", "comparing", "removing"),
    ]
    assert left(drills) == []
    assert place.said[-1][0] == "info"


def test_a_part_of_a_snapshot(place: Workplace) -> None:
    assert drill(place, paths=["models"]).result["files"] == 2
    assert drill(place, paths=["/root/models/b", "notes"]).result["restored_bytes"] == 1005
    with pytest.raises(UsageError):
        drill(place, paths=["/etc/passwd"])
    with pytest.raises(NotFound):
        drill(place, paths=["nothing"])


def test_what_did_not_come_back_is_a_result(place: Workplace, drills: Path) -> None:
    def spoil(stage: str) -> None:
        if stage == "comparing":
            (drills / "job-1/restored/models/c").write_bytes(bytes(10))

    end = drill(place, spoil)
    assert end.result["passed"] is False
    assert {finding.code for finding in end.findings} == {"drill_content", "drill_metadata"}
    assert {finding.subject for finding in end.findings} == {"models/c"}
    assert place.said[-1][0] == "error"
    assert left(drills) == []


def test_damage_is_a_result(place: Workplace, drills: Path) -> None:
    for pack in packs_holding(place.repository, BlobType.DATA):
        place.store.delete(pack_key(pack))
    end = drill(place)
    assert end.result["passed"] is False
    assert {finding.code for finding in end.findings} == {"file_damaged"}
    assert left(drills) == []


def test_very_many_findings_are_limited(place: Workplace, drills: Path) -> None:
    def spoil(stage: str) -> None:
        if stage == "comparing":
            for number in range(300):
                (drills / f"job-1/restored/models/{number}").mkdir()

    end = drill(place, spoil)
    assert end.result["passed"] is False
    assert len(end.findings) == 200 + 1 + 1
    assert any("100 more" in finding.message for finding in end.findings)


# Its scratch is gone at the end


@pytest.mark.parametrize("stage", ["preparing", "restoring", "comparing", "removing"])
def test_a_cancelled_drill_leaves_nothing(place: Workplace, drills: Path, stage: str) -> None:
    def cancel(begun: str) -> None:
        if begun == stage:
            assert os.path.isdir(drills / "job-1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drill(place, cancel)
    assert left(drills) == []


def test_a_failed_drill_leaves_nothing(place: Workplace, drills: Path) -> None:
    with pytest.raises(NotFound):
        drill(place, manifest_id="0" * 64)
    assert left(drills) == []


def test_no_room_is_said_before_anything_is_written(place: Workplace) -> None:
    small = place.base / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "holdfast", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        with pytest.raises(TargetFull, match=r"needed.*drill_directory.*paths"):
            drill(place, directory=small)
        assert "restoring" not in place.stages
        assert os.listdir(small) == []
        assert drill(place, directory=small, paths=["notes"]).result["passed"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_a_killed_attempt_has_left_is_removed_first(place: Workplace, drills: Path) -> None:
    killed(drills, "job-1")
    assert drill(place, attempt=2).result["passed"]
    assert left(drills) == []


def test_entries_that_nobody_may_enter_are_removed(tmp_path: Path) -> None:
    with scratch(str(tmp_path), "job-1", on_left=pytest.fail) as place:
        top = Path(os.fsdecode(place.path))
        fill(top, {"closed/in": 1})
        (top / "closed").chmod(0)
        os.mkfifo(top / "fifo")
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_very_deep_is_removed(tmp_path: Path) -> None:
    """Deeper than a path may be long."""
    with scratch(str(tmp_path), "job-1", on_left=pytest.fail) as place:
        here, name = os.open(place.path, os.O_RDONLY), "deep" * 5
        for _ in range(400):
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    assert os.listdir(tmp_path) == []


# Nothing else is touched


def test_what_is_no_id_is_refused(place: Workplace, drills: Path) -> None:
    for job_id in ("", "..", ".", "a/b", "/etc", "a\0b", "x" * 101, "a b"):
        with pytest.raises(UsageError):
            drill(place, job_id=job_id)
    assert not drills.exists()


@pytest.mark.parametrize("with_lock", [False, True])
def test_a_link_in_place_of_the_scratch_is_refused(
    place: Workplace, drills: Path, *, with_lock: bool
) -> None:
    victim = fill(place.base / "victim", {"mine": b"mine"})
    drills.mkdir()
    (drills / "job-1").symlink_to(victim)
    if with_lock:
        (drills / "job-1.drill-lock").touch()
    with pytest.raises(PathEscapes if with_lock else TargetNotEmpty, match="drill_directory"):
        drill(place)
    sweep(str(drills))
    assert (victim / "mine").read_bytes() == b"mine"
    assert (drills / "job-1").is_symlink()


def test_a_link_in_place_of_the_lock_is_refused(place: Workplace, drills: Path) -> None:
    drills.mkdir()
    (drills / "job-1.drill-lock").symlink_to(place.base / "made")
    with pytest.raises(PathEscapes, match="lock"):
        drill(place)
    sweep(str(drills))
    assert not (place.base / "made").exists()


def test_a_directory_of_somebody_else_is_left_alone(place: Workplace, drills: Path) -> None:
    fill(drills, {"job-1/mine": b"mine", "data/mine": b"mine"})
    with pytest.raises(TargetNotEmpty, match="drill_directory"):
        drill(place)
    sweep(str(drills))
    assert left(drills) == ["data", "data/mine", "job-1", "job-1/mine"]


def test_links_in_the_scratch_are_removed_and_not_followed(tmp_path: Path) -> None:
    victim = fill(tmp_path / "victim", {"d/mine": b"mine"})
    with scratch(str(tmp_path / "drills"), "job-1", on_left=pytest.fail) as place:
        (Path(os.fsdecode(place.path)) / "link").symlink_to(victim)
    assert (victim / "d/mine").read_bytes() == b"mine"
    assert left(tmp_path / "drills") == []


def test_a_wish_to_stop_while_it_is_removed_comes_after_that(
    place: Workplace, drills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = drill_scratch._empty

    def interrupted(_tree: ConfinedTree) -> None:
        monkeypatch.setattr(drill_scratch, "_empty", empty)
        raise KeyboardInterrupt

    monkeypatch.setattr(drill_scratch, "_empty", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drill(place)
    assert left(drills) == []


def test_a_lock_whose_file_is_gone_is_the_lock_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep removes the file between the opening and the locking of it."""
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / "job-1.drill-lock").unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    monkeypatch.setattr(drill_scratch, "_LOOK_SECONDS", 0.0)
    with scratch(str(tmp_path), "job-1", on_left=pytest.fail):
        sweep(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == ["job-1", "job-1.drill-lock"]


def test_what_is_mounted_in_the_scratch_is_not_emptied(tmp_path: Path) -> None:
    said: list[str] = []
    with scratch(str(tmp_path), "job-1", on_left=said.append) as place:
        mounted = Path(os.fsdecode(place.path)) / "mounted"
        mounted.mkdir()
        mount = ["mount", "-t", "tmpfs", "holdfast", str(mounted)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("no tmpfs may be mounted here")
        (mounted / "mine").write_bytes(b"mine")
    try:
        assert "another file system" in said[0]
        assert (mounted / "mine").read_bytes() == b"mine"
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_directory_for_drills_that_cannot_be_one(place: Workplace) -> None:
    with pytest.raises(TargetError, match="drill_directory"):
        drill(place, directory=place.root / "notes")


# The sweep


def killed(drills: Path, job_id: str) -> None:
    """What is left of a drill whose process was killed."""
    pid = begun(drills, job_id)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (drills / job_id / "restored/a").exists()


def begun(drills: Path, job_id: str) -> int:
    """A process that works in a scratch directory; its id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException), scratch(str(drills), job_id, on_left=pytest.fail) as place:
            fill(Path(os.fsdecode(place.path)), {"restored/a": 10})
            os.write(writing, b"!")
            time.sleep(60)
        os._exit(1)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    os.close(writing)
    return pid


def test_the_sweep_removes_what_the_killed_have_left(drills: Path) -> None:
    killed(drills, "job-1")
    killed(drills, "job-2")
    (drills / "job-3.drill-lock").touch()
    with capture_logs() as logs:
        sweep(str(drills))
    assert left(drills) == []
    assert [each["job_id"] for each in logs] == ["job-1", "job-2"]


def test_the_sweep_keeps_what_a_living_process_has(
    drills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_scratch, "_WAIT_SECONDS", 0.0)
    pid = begun(drills, "job-1")
    try:
        sweep(str(drills))
        assert (drills / "job-1/restored/a").exists()
        with (
            pytest.raises(InUse, match="still works"),
            scratch(str(drills), "job-1", on_left=pytest.fail),
        ):
            pass
        assert (drills / "job-1/restored/a").exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    sweep(str(drills))
    assert left(drills) == []


def test_an_attempt_waits_for_the_one_before_to_end(place: Workplace, drills: Path) -> None:
    pid = begun(drills, "job-1")
    os.kill(pid, signal.SIGKILL)
    # Not waited for yet: the kernel gives the lock back when it has ended, not when we look.
    assert drill(place, attempt=2).result["passed"]
    os.waitpid(pid, 0)


def test_one_that_cannot_be_removed_does_not_keep_the_sweep_from_others(drills: Path) -> None:
    killed(drills, "job-2")
    (drills / "job-1").symlink_to("elsewhere")
    (drills / "job-1.drill-lock").touch()
    with capture_logs() as logs:
        sweep(str(drills))
    assert left(drills) == ["job-1", "job-1.drill-lock"]
    assert "drill not swept" in {each["event"] for each in logs}


def test_there_is_nothing_to_sweep_where_no_drill_was(drills: Path) -> None:
    sweep(str(drills))
    assert not drills.exists()


# The setting


def test_where_drills_restore_is_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('drill_directory = "scratch"\n')
    assert load(str(file), {}).drills == str(tmp_path / "scratch")
    assert load(None, {}).drills == "/var/lib/holdfast/agent/drills"
    named = {"HOLDFAST_AGENT_DRILL_DIRECTORY": "/scratch"}
    assert load(str(file), named).drills == "/scratch"
    assert load(None, {}, {"state_directory": "/s"}).drills == "/s/drills"
