"""The obligations of `Runner`, one by one, for every implementation.

Nothing here knows how a runner works inside; what is peculiar to one has its own tests. A
computation shows that it runs by what it adds to a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from podman_store import IMAGE, PodmanStore
from runner_cases import RunnerCase, wait_until
from slurm_cluster import Slurm

from holdfast.errors import NotFreezable, StartFailed

KINDS = (
    "local",
    "local-bare",
    pytest.param("podman", marks=pytest.mark.xdist_group("podman")),
    pytest.param("slurm", marks=pytest.mark.xdist_group("slurm")),
)
TICKING = "while :; do echo tick >> $HOLDFAST_JOB/ticks; done"
"""Writes as fast as it can, for ever."""

FAMILY = f"""
cd "$HOLDFAST_JOB"
(while :; do echo x >> child; done) &
(setsid sh -c 'while :; do echo x >> stranger; done' > /dev/null 2>&1 &) 2> /dev/null
{TICKING}
"""
"""The same with a child, and one in a session of its own where there is a setsid."""


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunnerCase]:
    root = os.fspath(tmp_path / "instance")
    if request.param == "podman":
        store: PodmanStore = request.getfixturevalue("podman")
        options = {"program": store.program, "environment": store.environment}
        made = RunnerCase("podman", root, options, IMAGE)
    elif request.param == "slurm":
        cluster: Slurm = request.getfixturevalue("slurm")
        made = RunnerCase("slurm", root, {"environment": cluster.environment})
    elif request.param == "local-bare":
        made = RunnerCase("local", root, {"namespace": False, "cgroup": False})
    else:
        made = RunnerCase("local", root)
    yield made
    made.runner().remove(made.place)


def size(case: RunnerCase, name: str = "ticks") -> int:
    path = case.place.job / name
    return path.stat().st_size if path.exists() else 0


def wait_for_growth(case: RunnerCase, *names: str) -> None:
    before = {name: size(case, name) for name in names or ("ticks",)}
    wait_until(lambda: all(size(case, name) > before[name] for name in before))


def assert_still(case: RunnerCase) -> None:
    """Nothing in the job's directory changes; a computation that runs is never so slow."""
    before = {path.name: path.stat().st_size for path in case.place.job.iterdir()}
    time.sleep(0.3)
    assert {path.name: path.stat().st_size for path in case.place.job.iterdir()} == before


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_is_the_commands(case: RunnerCase, code: int) -> None:
    reference = case.start(f"exit {code}")
    status = case.ended()
    assert (status.kind, status.exit_code, status.reference) == ("ended", code, reference)
    assert status.started_at is not None
    assert status.ended_at is not None
    assert status.started_at <= status.ended_at
    assert case.runner().status(case.place) == status


def test_all_of_the_output_is_there_at_the_end_behind_what_was_there(case: RunnerCase) -> None:
    """T1: output can be read whole."""
    case.place.make()
    case.place.stdout.write_bytes(b"before\n")
    case.start("seq 1 100000; printf 'no \\377 line' ; echo trouble >&2")
    case.ended()
    numbers = b"".join(b"%d\n" % n for n in range(1, 100001))
    assert case.place.stdout.read_bytes() == b"before\n" + numbers + b"no \xff line"
    assert case.place.stderr.read_bytes() == b"trouble\n"


def test_the_command_works_in_its_directory_and_knows_it(case: RunnerCase) -> None:
    case.place.make()
    (case.place.job / "given").write_text("input")
    case.start(
        'echo "$GREETING" > here; cat given > "$HOLDFAST_JOB/copy"; mkdir sub',
        environment={"GREETING": "two\nlines = 'quoted' #"},
    )
    assert case.ended().exit_code == 0
    assert (case.place.job / "here").read_text() == "two\nlines = 'quoted' #\n"
    assert (case.place.job / "copy").read_text() == "input"
    assert (case.place.job / "sub").is_dir()


def test_a_second_start_begins_nothing(case: RunnerCase) -> None:
    reference = case.start("echo begun; sleep 0.3")
    assert case.start("echo again") == reference
    case.ended()
    assert case.start("echo again") == reference
    assert case.place.stdout.read_text() == "begun\n"


def test_it_outlives_whoever_started_it(case: RunnerCase) -> None:
    """T11: a computation outlives the agent."""
    script = "while [ ! -e go ]; do sleep 0.05; done; exit 5"
    with case.elsewhere("start", script) as starter:
        starter.kill()
        starter.wait()
    assert case.runner().status(case.place).kind == "running"
    (case.place.job / "go").touch()
    assert case.ended().exit_code == 5


def test_a_freeze_holds_all_of_it_still(case: RunnerCase) -> None:
    case.start(FAMILY)
    wait_for_growth(case, "ticks", "child")
    with case.frozen() as frozen:
        assert_still(case)
        assert case.runner().status(case.place).kind == "running"
        assert frozen.holds()
    wait_for_growth(case, "ticks", "child")
    with case.frozen() as frozen:
        assert_still(case)
    wait_for_growth(case, "ticks", "child")


def test_it_goes_on_when_the_freezer_is_killed(case: RunnerCase) -> None:
    case.start(FAMILY)
    wait_for_growth(case)
    with case.elsewhere("freeze") as freezer:
        assert_still(case)
        freezer.kill()
    wait_for_growth(case, "ticks", "child")


def test_it_goes_on_at_the_end_of_a_freeze_that_has_forked(case: RunnerCase) -> None:
    case.start(TICKING)
    wait_for_growth(case)
    worker = get_context("fork").Process(target=time.sleep, args=(1000,))
    try:
        with case.frozen():
            worker.start()
        wait_for_growth(case)
    finally:
        worker.kill()
        worker.join()


def test_a_freeze_ends_in_time_by_itself(case: RunnerCase) -> None:
    case.start(TICKING)
    wait_for_growth(case)
    with case.frozen(at_most_seconds=0.2) as frozen:
        wait_for_growth(case)
        assert not frozen.holds()


def test_only_one_freezes_at_a_time(case: RunnerCase) -> None:
    case.start(TICKING)
    wait_for_growth(case)
    with (
        case.frozen() as frozen,
        pytest.raises(NotFreezable),
        case.runner().freeze(case.place),
    ):
        pass
    wait_for_growth(case)
    assert frozen.how


def test_nothing_freezes_where_nothing_runs(case: RunnerCase) -> None:
    case.place.make()
    with pytest.raises(NotFreezable), case.runner().freeze(case.place):
        pass
    case.start("true")
    case.ended()
    with pytest.raises(NotFreezable), case.runner().freeze(case.place):
        pass


def test_an_abort_asks_first(case: RunnerCase) -> None:
    case.start("trap 'echo asked > asked; exit 9' TERM; echo up; while :; do sleep 0.05; done")
    wait_until(lambda: case.place.stdout.read_bytes() == b"up\n")
    case.runner().abort(case.place, grace_seconds=30)
    assert case.ended().exit_code == 9
    assert (case.place.job / "asked").exists()


def test_an_abort_kills_what_does_not_listen(case: RunnerCase) -> None:
    case.start(f"trap '' TERM; echo up; {TICKING}")
    wait_until(lambda: case.place.stdout.read_bytes() == b"up\n")
    case.runner().abort(case.place, grace_seconds=1)
    assert case.ended().exit_code == 137
    assert_still(case)


def test_an_abort_reaches_what_is_frozen(case: RunnerCase) -> None:
    case.start(FAMILY)
    wait_for_growth(case)
    with case.frozen() as frozen:
        case.runner().abort(case.place, grace_seconds=0)
        assert case.ended().exit_code is not None
        assert not frozen.holds()
    assert_still(case)


def test_what_the_command_leaves_behind_ends_with_it(case: RunnerCase) -> None:
    case.start("(while :; do echo x >> ticks; done) & while [ ! -e ticks ]; do :; done; exit 4")
    assert case.ended().exit_code == 4
    assert_still(case)


def test_a_command_that_is_not_there_does_not_start(case: RunnerCase) -> None:
    if case.kind == "slurm":
        pytest.skip("what the nodes have is known when the job's turn has come, not before")
    case.place.make()
    command = case.shell("true")
    missing = type(command)(argv=("no-such-program",), image=case.image)
    with pytest.raises(StartFailed, match="no-such-program"):
        case.runner().start(case.place, missing)
    assert case.runner().status(case.place).kind == "none"
    assert case.place.stdout.read_bytes() == b""
    assert case.place.stderr.read_bytes() == b""
    case.start("exit 2")
    assert case.ended().exit_code == 2


def test_nothing_is_where_nothing_was(case: RunnerCase) -> None:
    case.runner().remove(case.place)
    case.place.make()
    assert case.runner().status(case.place).kind == "none"
    case.runner().abort(case.place)
    case.runner().remove(case.place)
    assert not case.place.root.exists()


def test_a_removal_ends_and_deletes(case: RunnerCase) -> None:
    case.start(f"mkdir locked; echo > locked/file; chmod 500 locked || true; {TICKING}")
    wait_for_growth(case)
    case.runner().remove(case.place)
    assert not case.place.root.exists()
    case.place.make()
    assert case.runner().status(case.place).kind == "none"
