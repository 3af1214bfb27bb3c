"""Commands in real containers: what the contract of runners does not ask of all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from podman_store import IMAGE, PodmanStore
from runner_cases import RunnerCase, wait_until

from holdfast.errors import ImageMissing, StartFailed
from holdfast.runners import podman as podman_runner
from holdfast.runners.podman import PodmanRunner
from holdfast.runners.processes import process, processes
from holdfast.runners.runner import Command

pytestmark = pytest.mark.xdist_group("podman")

TICKING = "while :; do echo tick >> ticks; done"


@pytest.fixture
def case(podman: PodmanStore, tmp_path: Path) -> Iterator[RunnerCase]:
    options = {"program": podman.program, "environment": podman.environment}
    made = RunnerCase("podman", os.fspath(tmp_path / "instance"), options, IMAGE)
    yield made
    made.runner().remove(made.place)
    assert podman("ps", "--all", "--quiet") == ""


def container(podman: PodmanStore, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("container", "inspect", name))[0]
    return found


def digest_of(podman: PodmanStore, image: str) -> str:
    found: str = json.loads(podman("image", "inspect", image))[0]["Digest"]
    return found


def size(case: RunnerCase) -> int:
    path = case.place.job / "ticks"
    return path.stat().st_size if path.exists() else 0


def wait_for_growth(case: RunnerCase) -> None:
    before = size(case)
    wait_until(lambda: size(case) > before)


def test_the_inventory_names_the_version(podman: PodmanStore) -> None:
    runner = PodmanRunner(podman.program, environment=podman.environment)
    assert runner.inventory() == {"version": podman("--version").split()[-1]}


def test_the_job_is_mounted_and_the_digest_recorded(podman: PodmanStore, case: RunnerCase) -> None:
    """T2: the working directory is /job."""
    case.start("pwd; echo $HOLDFAST_JOB; echo text > /job/file")
    status = case.ended()
    assert case.place.stdout.read_text() == "/job\n/job\n"
    assert (case.place.job / "file").read_text() == "text\n"
    assert status.image_digest == digest_of(podman, IMAGE)


def test_a_digest_wins_over_a_tag_that_has_moved(podman: PodmanStore, case: RunnerCase) -> None:
    first = "localhost/holdfast-moving:1"
    podman("tag", IMAGE, first)
    digest = digest_of(podman, first)
    name = podman("create", IMAGE, "true").strip()
    podman("commit", "--change", "ENV SECOND=1", name, first)
    podman("rm", name)
    assert digest_of(podman, first) != digest
    case.place.make()
    command = Command(argv=("sh", "-c", "echo ${SECOND:-first}"), image=first)
    runner = case.runner()
    wanted = Command(argv=command.argv, image="localhost/holdfast-test", image_digest=digest)
    runner.start(case.place, wanted)
    assert case.ended().image_digest == digest
    assert case.place.stdout.read_text() == "first\n"
    runner.remove(case.place)
    case.place.make()
    # The content that is asked for is no longer what the tag means, nor anywhere else.
    with pytest.raises(ImageMissing, match="holdfast-moving@sha256"):
        runner.start(
            case.place,
            Command(argv=command.argv, image=first, image_digest="sha256:" + "0" * 64),
        )
    runner.start(case.place, command)
    case.ended()
    assert case.place.stdout.read_text() == "1\n"


def test_an_image_that_is_not_to_be_had_is_named(case: RunnerCase) -> None:
    case.place.make()
    lines: list[str] = []
    command = Command(argv=("true",), image="localhost/no-such-image:1")
    with pytest.raises(ImageMissing, match="localhost/no-such-image:1"):
        case.runner().start(case.place, command, report=lines.append)
    assert lines[0] == "Pulling the image localhost/no-such-image:1."
    assert len(lines) > 1
    assert case.runner().status(case.place).kind == "none"


def test_what_nobody_watches_is_lost_and_ended(podman: PodmanStore, case: RunnerCase) -> None:
    name = case.start(TICKING)
    wait_for_growth(case)
    found = container(podman, name)["State"]
    os.kill(found["ConmonPid"], signal.SIGKILL)
    wait_until(lambda: case.runner().status(case.place).kind == "lost")
    status = case.runner().status(case.place)
    assert [note.code for note in status.notes] == ["monitor_lost"]
    left = process(found["Pid"])
    assert left is None or left.is_dead
    assert case.start("true") == name


def test_a_container_that_somebody_removed_is_lost(podman: PodmanStore, case: RunnerCase) -> None:
    name = case.start("sleep 1000")
    podman("rm", "--force", "--time", "0", name)
    assert case.ended().kind == "lost"


def test_an_end_is_known_after_the_container_is_gone(podman: PodmanStore, case: RunnerCase) -> None:
    name = case.start("exit 8")
    status = case.ended()
    podman("rm", name)
    assert case.runner().status(case.place) == status
    assert status.exit_code == 8


def test_it_goes_on_when_the_guard_of_a_freeze_is_killed(
    podman: PodmanStore, case: RunnerCase
) -> None:
    name = case.start(TICKING)
    wait_for_growth(case)
    with case.runner().freeze(case.place) as frozen:
        [guard] = [
            each.pid for each in processes() if each.parent == os.getpid() and _guards(each.pid)
        ]
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not frozen.holds())
    assert container(podman, name)["State"]["Status"] == "paused"
    assert case.runner().status(case.place).kind == "running"
    wait_for_growth(case)


def _guards(pid: int) -> bool:
    return b"holdfast.runners.guard" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_start_that_was_cut_off_is_done_again_once(
    podman: PodmanStore, case: RunnerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOff(BaseException):
        """Stands for the death of the starter."""

    def cut_off(*_: object) -> None:
        raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(podman_runner.PodmanRunner, "_begin", cut_off)
        with pytest.raises(CutOff):
            case.start("echo begun")
    assert case.runner().status(case.place).kind == "none"
    case.start("echo begun")
    assert case.ended().exit_code == 0
    assert case.place.stdout.read_text() == "begun\n"
    assert len(podman("ps", "--all", "--quiet").split()) == 1


def test_a_start_that_was_cut_off_behind_the_start_is_known(
    podman: PodmanStore, case: RunnerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOff(BaseException):
        """Stands for the death of the starter."""

    def cut_off(*_: object) -> None:
        raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(podman_runner.PodmanRunner, "_adopt", cut_off)
        with pytest.raises(CutOff):
            case.start("echo begun; sleep 0.2; exit 4")
    case.start("echo again")
    assert case.ended().exit_code == 4
    assert case.place.stdout.read_text() == "begun\n"


def test_another_user_may_write_to_the_job(case: RunnerCase) -> None:
    case.start("id -u; echo text > made", user="1234")
    assert case.ended().exit_code == 0
    assert case.place.stdout.read_text() == "1234\n"
    assert (case.place.job / "made").exists()


def test_constants_are_not_seen_among_the_processes(podman: PodmanStore, case: RunnerCase) -> None:
    case.start("echo $WORD; sleep 1000", environment={"WORD": "swordfish-5c1"})
    wait_until(lambda: case.place.stdout.read_text() == "swordfish-5c1\n")
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "swordfish" not in shown.stdout
    assert not (case.place.control / "environment").exists()


def test_the_runner_keeps_the_time_limit_where_nobody_else_does(
    case: RunnerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podman_runner, "LIMIT_SLACK_SECONDS", 0)
    case.start(TICKING, time_limit_seconds=1)
    ended = case.ended()
    assert ended.exit_code == 137
    assert [note.code for note in ended.notes] == ["limit_kept_late"]


def test_a_directory_that_podman_cannot_mount_is_refused(
    podman: PodmanStore, tmp_path: Path
) -> None:
    options = {"program": podman.program, "environment": podman.environment}
    case = RunnerCase("podman", os.fspath(tmp_path / "a,b"), options, IMAGE)
    with pytest.raises(StartFailed, match="comma"):
        case.start("true")
    case.runner().remove(case.place)
