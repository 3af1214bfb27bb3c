"""Commands as processes of this machine: what the contract of runners does not ask of all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_cases import RunnerCase, wait_until

import holdfast
from holdfast.errors import NotFreezable, StartFailed
from holdfast.runners import cgroup, local, records
from holdfast.runners.choice import available, runner_for
from holdfast.runners.leftovers import end_leftovers
from holdfast.runners.local import LocalRunner, namespace_works
from holdfast.runners.processes import boot_id, descendants, environment_holds, process, processes
from holdfast.runners.runner import Command, Place

BARE = {"namespace": False, "cgroup": False}
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
job_mounted = pytest.mark.skipif(
    not namespace_works(), reason="no user or mount namespaces for this user here"
)


@pytest.fixture(params=["cgroup or not", "bare"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunnerCase]:
    options = BARE if request.param == "bare" else {}
    made = RunnerCase("local", os.fspath(tmp_path / "instance"), options)
    yield made
    made.runner().remove(made.place)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[RunnerCase]:
    made = RunnerCase("local", os.fspath(tmp_path / "instance"), BARE)
    yield made
    made.runner().remove(made.place)


def state(case: RunnerCase) -> dict[str, Any]:
    found = records.read(os.fspath(case.place.control / "state.json"))
    assert found is not None
    return found


def family(token: str) -> list[int]:
    """The living processes that carry the token of a computation."""
    entry = f"HOLDFAST_RUN={token}".encode()
    return [
        each.pid for each in processes() if not each.is_dead and environment_holds(each.pid, entry)
    ]


def said(case: RunnerCase) -> str:
    return case.place.stdout.read_text()


# Start and end


def test_a_signal_is_an_exit_code_as_shells_say_it(case: RunnerCase) -> None:
    case.start("kill -SEGV $$")
    assert case.ended().exit_code == 128 + signal.SIGSEGV


def test_what_forks_twice_is_seen_and_ended(case: RunnerCase) -> None:
    case.start(
        "setsid sh -c '(sleep 1000 & echo $! > far; wait) &' ; "
        "while [ ! -s far ]; do sleep 0.02; done; exit 3"
    )
    assert case.ended().exit_code == 3
    pid = int((case.place.job / "far").read_text())
    found = process(pid)
    assert found is None or found.is_dead
    assert family(state(case)["token"]) == []


def test_no_child_stays_a_zombie(case: RunnerCase) -> None:
    case.start("for n in 1 2 3; do (sleep 0 &) ; done; touch forked; sleep 1000")
    wait_until((case.place.job / "forked").exists)
    supervisor = state(case)["supervisor"]
    wait_until(lambda: not any(each.parent == supervisor and each.is_dead for each in processes()))


def test_the_supervisor_leaves_nothing_of_its_own_behind(case: RunnerCase) -> None:
    case.start("true")
    case.ended()
    noted = state(case)
    wait_until(lambda: (found := process(noted["supervisor"])) is None or found.is_dead)
    assert not (case.place.control / "socket").exists()
    assert noted["cgroup"] is None or not os.path.exists(noted["cgroup"])
    assert (case.place.control / "log").read_bytes() == b""


def test_the_agents_own_environment_stays_with_the_agent(bare: RunnerCase) -> None:
    bare.place.make()
    runner = LocalRunner(
        **BARE,
        environment={"PATH": os.environ["PATH"], "HOLDFAST_AGENT_TOKEN": "secret", "LC_ALL": "C"},
    )
    runner.start(bare.place, bare.shell("env", environment={"MINE": "1"}))
    bare.ended()
    names = {line.partition("=")[0] for line in said(bare).splitlines()}
    assert names >= {"PATH", "LC_ALL", "MINE", "HOLDFAST_JOB"}
    assert "HOLDFAST_AGENT_TOKEN" not in names
    assert b"secret" not in Path(f"/proc/{os.getpid()}/cmdline").read_bytes()


def test_a_directory_to_work_in_may_be_named(case: RunnerCase) -> None:
    case.place.make()
    (case.place.job / "deep").mkdir()
    case.start("touch here", workdir="/job/deep")
    assert case.ended().exit_code == 0
    assert (case.place.job / "deep" / "here").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"workdir": "nowhere"}, "nowhere cannot be used: No such file"),
        ({"user": "nobody-of-that-name"}, "no user nobody-of-that-name"),
    ],
)
def test_what_cannot_be_meant_does_not_start(
    case: RunnerCase, more: dict[str, str], why: str
) -> None:
    with pytest.raises(StartFailed, match=why):
        case.start("true", **more)
    assert case.runner().status(case.place).kind == "none"


def test_a_place_may_lie_deep(tmp_path: Path) -> None:
    """The address of a socket has 107 bytes at most."""
    case = RunnerCase("local", os.fspath(tmp_path / ("d" * 120) / ("e" * 120)), BARE)
    case.start("sleep 1000")
    case.runner().abort(case.place, grace_seconds=30)
    assert case.ended().exit_code == 128 + signal.SIGTERM
    case.runner().remove(case.place)


def test_the_runner_keeps_the_time_limit_where_nobody_else_does(
    bare: RunnerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LIMIT_SLACK_SECONDS", -0.9)
    bare.start("sleep 1000", time_limit_seconds=1)
    ended = bare.ended()
    assert ended.exit_code == 128 + signal.SIGTERM
    assert [note.code for note in ended.notes] == ["limit_kept_late"]


def test_stopping_the_supervisor_ends_the_computation_and_says_so(case: RunnerCase) -> None:
    case.start("trap 'exit 6' TERM; echo up; while :; do sleep 0.02; done")
    wait_until(lambda: said(case) == "up\n")
    os.kill(state(case)["supervisor"], signal.SIGTERM)
    ended = case.ended()
    assert (ended.kind, ended.exit_code) == ("ended", 6)
    assert [note.code for note in ended.notes] == ["supervisor_stopped"]


# Lost


def test_where_the_supervisor_was_killed_nothing_lives_on(case: RunnerCase) -> None:
    case.start(
        "(sleep 1000 & wait) & setsid sh -c 'sleep 1000 & wait' & "
        "(setsid sleep 1000 &) ; env -i sleep 1000 & touch forked; sleep 1000"
    )
    wait_until((case.place.job / "forked").exists)
    noted = state(case)
    wait_until(lambda: len(descendants(noted["supervisor"])) >= 8)
    everything = descendants(noted["supervisor"])
    os.kill(noted["supervisor"], signal.SIGKILL)
    status = case.ended()
    assert (status.kind, status.exit_code) == ("lost", None)
    assert [note.code for note in status.notes] == ["supervisor_lost"]
    for each in everything:
        found = process(each.pid)
        assert found is None or found.is_dead or found.started != each.started
    assert case.runner().status(case.place) == status
    assert case.start("echo again") == str(noted["command"])
    assert said(case) == ""


def test_a_frozen_computation_whose_supervisor_was_killed_ends_too(case: RunnerCase) -> None:
    case.start("(sleep 1000 & wait) & touch forked; sleep 1000")
    wait_until((case.place.job / "forked").exists)
    noted = state(case)
    with case.runner().freeze(case.place) as frozen:
        os.kill(noted["supervisor"], signal.SIGKILL)
        wait_until(lambda: not frozen.holds())
        assert case.ended().kind == "lost"
    assert family(noted["token"]) == []


def test_strangers_under_the_numbers_of_a_lost_computation_live(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        try:
            known = process(stranger.pid)
            assert known is not None
            noted = {
                "command": stranger.pid,
                "started": known.started - 1,
                "boot": boot_id(),
                "token": "none",
                "cgroup": None,
            }
            end_leftovers(noted)
            end_leftovers({**noted, "started": known.started, "boot": "another"})
            assert stranger.poll() is None
            end_leftovers({**noted, "started": known.started})
            assert stranger.wait() == -signal.SIGKILL
        finally:
            stranger.kill()


# Freeze


def test_what_a_person_has_stopped_stays_so_after_a_freeze(bare: RunnerCase) -> None:
    bare.start("sleep 1000 & echo $! > stopped; kill -STOP $!; sleep 1000")
    path = bare.place.job / "stopped"
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    pid = int(path.read_text())

    def stands() -> bool:
        found = process(pid)
        assert found is not None
        return found.state == "T"

    wait_until(stands)
    command = state(bare)["command"]
    with bare.runner().freeze(bare.place) as frozen:
        assert frozen.how == "signals"
        held = process(command)
        assert held is not None
        assert held.state == "T"
    wait_until(lambda: (found := process(command)) is not None and found.state != "T")
    assert stands()


def test_a_freeze_catches_what_forks_all_the_time(bare: RunnerCase) -> None:
    bare.start("while :; do (: ; (: >> forked) &) ; done")
    wait_until((bare.place.job / "forked").exists)
    for _ in range(5):
        with bare.runner().freeze(bare.place) as frozen:
            tree = descendants(state(bare)["supervisor"])
            assert tree
            assert all(each.state == "T" for each in tree)
            assert [each.pid for each in descendants(state(bare)["supervisor"])] == [
                each.pid for each in tree
            ]
            assert frozen.holds()


def test_an_aborted_computation_is_not_held_still(bare: RunnerCase) -> None:
    bare.start("trap '' TERM; echo up; while :; do sleep 0.02; done")
    wait_until(lambda: said(bare) == "up\n")
    bare.runner().abort(bare.place, grace_seconds=1000)
    with pytest.raises(NotFreezable, match="is ending"), bare.runner().freeze(bare.place):
        pass
    bare.runner().abort(bare.place, grace_seconds=0)
    assert bare.ended().exit_code == 137


@root_only
def test_a_control_group_is_used_where_there_is_one(tmp_path: Path) -> None:
    case = RunnerCase("local", os.fspath(tmp_path / "instance"))
    case.start("sleep 1000")
    try:
        with case.runner().freeze(case.place) as frozen:
            assert frozen.how == ("signals" if state(case)["cgroup"] is None else "cgroup")
    finally:
        case.runner().remove(case.place)


@root_only
def test_what_has_left_the_control_group_is_held_still_too(tmp_path: Path) -> None:
    case = RunnerCase("local", os.fspath(tmp_path / "instance"))
    above = cgroup._own_directory()
    case.start(
        f"(sh -c 'echo $PPID > {above}/cgroup.procs'; while :; do echo x >> ticks; done) & wait"
    )
    ticks = case.place.job / "ticks"
    try:
        wait_until(ticks.exists)
        if (path := state(case)["cgroup"]) is None:
            pytest.skip("no control group can be made here")
        inside = set(cgroup.Cgroup(path).members())
        left = [each for each in descendants(state(case)["supervisor"]) if each.pid not in inside]
        assert len(left) == 1
        with case.runner().freeze(case.place):
            [held] = [
                each for each in descendants(state(case)["supervisor"]) if each.pid == left[0].pid
            ]
            assert held.state == "T"
        before = ticks.stat().st_size
        wait_until(lambda: ticks.stat().st_size > before)
    finally:
        case.runner().remove(case.place)


# /job


@job_mounted
def test_the_directory_is_seen_as_job(tmp_path: Path) -> None:
    """T2: the working directory is /job, whatever the machine's own root looks like."""
    case = RunnerCase("local", os.fspath(tmp_path / "instance"))
    case.start("pwd; echo $HOLDFAST_JOB; echo text > /job/file; ls -d /usr /proc/self; id -u")
    assert case.ended().exit_code == 0
    assert said(case).split() == ["/job", "/job", "/proc/self", "/usr", str(os.geteuid())]
    assert (case.place.job / "file").read_text() == "text\n"
    assert (case.place.job / "file").stat().st_uid == os.geteuid()
    assert case.runner().status(case.place).notes == ()
    case.runner().remove(case.place)


def test_without_a_namespace_the_directory_has_its_own_name(bare: RunnerCase) -> None:
    bare.start("pwd -P; echo $HOLDFAST_JOB")
    bare.ended()
    assert said(bare).split() == [os.fspath(bare.place.job)] * 2
    assert bare.runner().inventory() == {"namespace": False}


def test_where_no_namespace_can_be_had_it_is_said(tmp_path: Path) -> None:
    """A machine that allows none: here a user namespace that is allowed none below it."""
    script = tmp_path / "script.py"
    script.write_text(WHERE_NONE_CAN_BE_HAD)
    limits = "echo 0 > /proc/sys/user/max_mnt_namespaces"
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c", f'{limits}; exec "$@"', "sh"),
            *(sys.executable, os.fspath(script), os.fspath(tmp_path / "instance")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    job = os.fspath(tmp_path / "instance" / "job")
    assert answer == {
        "inventory": {"namespace": False},
        "exit_code": 0,
        "notes": ["job_not_mounted"],
        "said": f"{job}\n{job}\n",
    }


def test_the_end_is_known_where_the_command_has_filled_the_disk(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ON_A_FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=256k none {disk}; exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"),
            *(sys.executable, os.fspath(script), os.fspath(disk / "instance")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ended", 3]


ON_A_FULL_DISK = """
import json, sys, time
from pathlib import Path
from holdfast.runners.local import LocalRunner
from holdfast.runners.runner import Command, Place
place, runner = Place(Path(sys.argv[1])), LocalRunner()
place.make()
runner.start(place, Command(argv=("/bin/sh", "-c", "cat /dev/zero > full; exit 3")))
while (status := runner.status(place)).kind == "running":
    time.sleep(0.02)
print(json.dumps([status.kind, status.exit_code]))
"""


WHERE_NONE_CAN_BE_HAD = """
import json, sys, time
from pathlib import Path
from holdfast.runners.local import LocalRunner
from holdfast.runners.runner import Command, Place
place, runner = Place(Path(sys.argv[1])), LocalRunner()
place.make()
runner.start(place, Command(argv=("/bin/sh", "-c", "pwd -P; echo $HOLDFAST_JOB")))
while (status := runner.status(place)).kind == "running":
    time.sleep(0.02)
print(json.dumps({
    "inventory": runner.inventory(),
    "exit_code": status.exit_code,
    "notes": [note.code for note in status.notes],
    "said": place.stdout.read_text(),
}))
"""


# Other users


@root_only
@pytest.mark.parametrize("options", [{}, BARE], ids=["mounted", "bare"])
def test_a_command_can_run_as_somebody_else(options: dict[str, Any]) -> None:
    # Without a mount, a command can only be where its user may go: not below pytest's own.
    directory = Path(tempfile.mkdtemp(prefix="holdfast-nobody-"))
    try:
        directory.chmod(0o711)
        case = RunnerCase("local", os.fspath(directory / "instance"), options)
        case.place.make()
        (case.place.job / "given").write_text("input\n")
        case.start("id -u; id -g; cat given; touch made; kill -KILL $$", user=str(NOBODY))
        assert case.ended().exit_code == 137
        assert said(case).split() == [str(NOBODY), str(NOBODY), "input"]
        assert (case.place.job / "made").stat().st_uid == NOBODY
        case.runner().remove(case.place)
    finally:
        shutil.rmtree(directory)


@root_only
def test_it_needs_no_root() -> None:
    """Start, freeze, abort and loss, all by a user without any rights."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-nobody-"))
    try:
        # The checkout may lie where that user cannot look.
        package = Path(holdfast.__file__).parent
        for name in ("__init__.py", "errors.py", "model", "runners"):
            source, target = package / name, directory / "lib" / "holdfast" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        script = directory / "script.py"
        script.write_text(AS_NOBODY)
        for path in (directory, *directory.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        python = python_of(user)
        done = subprocess.run(
            [*user, python, os.fspath(script), os.fspath(directory / "instance")],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.fspath(directory / "lib")},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer == {"uid": NOBODY, "how": "signals", "code": 143, "lost": "lost", "left": []}
    finally:
        shutil.rmtree(directory)


def python_of(user: list[str]) -> str:
    """An interpreter that this user may run; ours may lie in somebody's home."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        # By a shell of that user: setpriv itself still has root's rights.
        line = [*user, "/bin/sh", "-c", '"$@"', "sh", python, "-c", check]
        if subprocess.run(line, capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no Python of version 3.11 that other users may run")


AS_NOBODY = """
import json, os, signal, sys, time
from pathlib import Path
from holdfast.runners import records
from holdfast.runners.local import LocalRunner
from holdfast.runners.processes import environment_holds, processes
from holdfast.runners.runner import Command, Place

def wait(condition):
    while not condition():
        time.sleep(0.02)

def start(root):
    place = Place(Path(root))
    place.make()
    script = "(sleep 1000 & wait) & touch $HOLDFAST_JOB/up; sleep 1000"
    runner.start(place, Command(argv=("/bin/sh", "-c", script)))
    wait((place.job / "up").exists)
    return place

runner = LocalRunner()
first = start(sys.argv[1] + "-1")
with runner.freeze(first) as frozen:
    assert frozen.holds()
runner.abort(first, grace_seconds=30)
wait(lambda: runner.status(first).kind != "running")
uid = (first.job / "up").stat().st_uid
code = runner.status(first).exit_code
second = start(sys.argv[1] + "-2")
state = records.read(str(second.control / "state.json"))
os.kill(state["supervisor"], signal.SIGKILL)
wait(lambda: runner.status(second).kind != "running")
entry = ("HOLDFAST_RUN=" + state["token"]).encode()
left = [p.pid for p in processes() if not p.is_dead and environment_holds(p.pid, entry)]
lost = runner.status(second).kind
runner.remove(first)
runner.remove(second)
print(json.dumps({"uid": uid, "how": frozen.how, "code": code, "lost": lost, "left": left}))
"""


# Choice


def test_the_inventory_names_what_works() -> None:
    found = available()
    assert found["local"] == {"namespace": namespace_works()}
    assert set(found) <= {"local", "podman", "slurm"}
    assert ("podman" in found) <= (shutil.which("podman") is not None)


def test_a_runner_is_found_by_its_name() -> None:
    assert [runner_for(name).name for name in ("local", "podman", "slurm")] == [
        "local",
        "podman",
        "slurm",
    ]


def test_the_values_are_what_they_say(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.make()
    place.stdout.write_text("kept")
    place.make()
    assert place.stdout.read_text() == "kept"
    assert place.control.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StartFailed, match="no command"):
        LocalRunner().start(place, Command(argv=()))
