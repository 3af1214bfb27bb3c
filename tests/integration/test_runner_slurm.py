"""What is peculiar to the runner of a real Slurm; tests/contract/test_runner.py has the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runner_cases import RunnerCase, wait_until
from slurm_cluster import Slurm

from holdfast.errors import NotFreezable, RunnerUnavailable, StartFailed
from holdfast.runners.runner import RunnerStatus
from holdfast.runners.slurm import SlurmRunner
from holdfast.runners.slurm_client import SlurmClient

pytestmark = pytest.mark.xdist_group("slurm")

TICKING = "while :; do date +%s.%N >> $HOLDFAST_JOB/ticks; sleep 0.02; done"


@pytest.fixture
def case(slurm: Slurm, tmp_path: Path) -> RunnerCase:
    return RunnerCase("slurm", os.fspath(tmp_path / "instance"), {"environment": slurm.environment})


def runner(case: RunnerCase) -> SlurmRunner:
    made = case.runner()
    assert isinstance(made, SlurmRunner)
    return made


def ticks(case: RunnerCase) -> int:
    path = case.place.job / "ticks"
    return path.stat().st_size if path.exists() else 0


def wait_for_ticks(case: RunnerCase) -> None:
    before = ticks(case)
    wait_until(lambda: ticks(case) > before)


def status(case: RunnerCase) -> RunnerStatus:
    return case.runner().status(case.place)


def codes(found: RunnerStatus) -> list[str]:
    return [note.code for note in found.notes]


def job_ids(slurm: Slurm) -> list[str]:
    return slurm.ask("squeue", "--noheader", "--format=%i", "--states=all").split()


def test_a_host_says_what_its_cluster_offers(case: RunnerCase) -> None:
    """T11."""
    said = runner(case).inventory()
    assert said is not None
    assert said["version"].split(".")[0].isdigit()
    assert said["partitions"] == ["long", "short"]


def test_a_host_without_a_cluster_offers_none(tmp_path: Path) -> None:
    configuration = tmp_path / "slurm.conf"
    configuration.write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\n")
    assert SlurmRunner(environment={"SLURM_CONF": os.fspath(configuration)}).inventory() is None


def test_the_job_carries_name_partition_and_limit(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start("sleep 60", name="thesis %j", partition="long", time_limit_seconds=3600)
    shown = slurm.ask("scontrol", "show", "job", reference)
    assert "Partition=long" in shown
    assert "Comment=thesis %j" in shown
    # The task's hour, and a minute of the runner's.
    assert "TimeLimit=01:01:00" in shown
    assert "JobName=holdfast-instance-" in shown
    assert "Requeue=1" in shown
    case.runner().remove(case.place)
    jobs = SlurmClient(environment=slurm.environment).jobs(job_id=int(reference))
    assert [job for job in jobs if not job.over] == []


def test_what_slurm_refuses_is_said(case: RunnerCase) -> None:
    case.place.make()
    with pytest.raises(StartFailed, match=r"[Ii]nvalid partition"):
        case.runner().start(case.place, case.shell("true", partition="absent"))
    assert status(case).kind == "none"


def test_no_secret_of_the_agent_reaches_the_job(
    case: RunnerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_AGENT_TOKEN", "hf_secret")
    case.start("env", environment={"GIVEN": "value"})
    assert case.ended().exit_code == 0
    lines = case.place.stdout.read_text().splitlines()
    assert "GIVEN=value" in lines
    assert f"HOLDFAST_JOB={case.place.job}" in lines
    assert not [line for line in lines if "hf_secret" in line]


def test_the_directory_is_seen_where_the_nodes_have_a_mount_point(
    slurm: Slurm, tmp_path: Path
) -> None:
    """T2: ``/job``, where a node lets it be mounted."""
    point = tmp_path / "job"
    point.mkdir()
    options = {"environment": slurm.environment, "mount_point": os.fspath(point)}
    case = RunnerCase("slurm", os.fspath(tmp_path / "instance"), options)
    case.start('pwd > where; echo "$HOLDFAST_JOB" >> where; id -u >> where')
    assert case.ended().exit_code == 0
    seen = (case.place.job / "where").read_text().split()
    assert seen == [os.fspath(point), os.fspath(point), str(os.getuid())]
    assert list(point.iterdir()) == []


def test_a_start_whose_answer_was_lost_is_found_again(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start("echo begun; sleep 60")
    before = job_ids(slurm)
    # As if the agent had died between sbatch and writing the answer down.
    (case.place.control / "id").unlink()
    (case.place.control / "owner").unlink(missing_ok=True)
    assert status(case).reference == reference
    (case.place.control / "id").unlink()
    assert case.start("echo again") == reference
    assert job_ids(slurm) == before
    case.runner().remove(case.place)


def test_of_two_jobs_submitted_for_one_place_one_runs(slurm: Slurm, case: RunnerCase) -> None:
    first = case.start("echo begun; sleep 1")
    name = (case.place.control / "name").read_text()
    script = os.fspath(case.place.control / "batch")
    second = slurm.ask("sbatch", "--parsable", "-o", "/dev/null", "-J", name, script).strip()
    assert second != first
    assert case.ended().exit_code == 0
    assert case.place.stdout.read_text() == "begun\n"


def test_a_job_in_the_queue_is_running_and_cannot_be_frozen(slurm: Slurm, case: RunnerCase) -> None:
    slurm.ask("scontrol", "update", "PartitionName=long", "State=DOWN")
    try:
        case.start(TICKING, partition="long")
        assert status(case).kind == "running"
        assert status(case).started_at is None
        with pytest.raises(NotFreezable), case.runner().freeze(case.place):
            pass
        case.runner().abort(case.place, grace_seconds=0)
        ended = case.ended()
    finally:
        slurm.ask("scontrol", "update", "PartitionName=long", "State=UP")
    assert (ended.kind, ended.exit_code, ended.started_at) == ("ended", 143, None)
    assert codes(ended) == []
    assert ticks(case) == 0


def test_a_requeue_is_noted_and_runs_the_command_again(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start(
        'echo run >> runs; while [ "$(wc -l < runs)" -lt 2 ]; do sleep 0.05; done'
    )
    wait_until(lambda: (case.place.job / "runs").exists())
    slurm.ask("scontrol", "requeue", reference)
    client = SlurmClient(environment=slurm.environment)
    wait_until(lambda: client.jobs(job_id=int(reference))[0].waiting)
    assert status(case).kind == "running"
    # Slurm waits for two minutes otherwise.
    slurm.ask("scontrol", "update", f"JobId={reference}", "StartTime=now")
    ended = case.ended()
    assert (ended.kind, ended.exit_code) == ("ended", 0)
    assert codes(ended) == ["slurm_requeued"]
    assert (case.place.job / "runs").read_text() == "run\nrun\n"


def test_a_command_that_had_ended_is_not_run_again(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start("echo run >> runs; exit 6")
    assert case.ended().exit_code == 6
    slurm.ask("scontrol", "requeue", reference)
    slurm.ask("scontrol", "update", f"JobId={reference}", "StartTime=now")
    client = SlurmClient(environment=slurm.environment)
    wait_until(lambda: client.jobs(job_id=int(reference))[0].over)
    assert (case.place.job / "runs").read_text() == "run\n"
    (case.place.control / "end.json").unlink()
    assert case.ended().exit_code == 6


def test_a_cancellation_in_slurm_is_told(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start(TICKING)
    wait_for_ticks(case)
    slurm.ask("scancel", reference)
    ended = case.ended()
    assert (ended.kind, ended.exit_code) == ("ended", 143)
    assert codes(ended) == ["slurm_cancelled"]


def test_the_signal_before_the_limit_leaves_a_mark_and_the_command_alone(
    slurm: Slurm, case: RunnerCase
) -> None:
    reference = case.start(f"{TICKING}")
    wait_for_ticks(case)
    assert codes(status(case)) == []
    # What --signal=B:USR1@60 has Slurm do.
    slurm.ask("scancel", "--signal=USR1", "--batch", reference)
    wait_until((case.place.control / "time_limit_near").exists)
    assert codes(status(case)) == ["slurm_time_limit_near"]
    wait_for_ticks(case)
    case.runner().remove(case.place)


@pytest.mark.slow
def test_slurm_gives_notice_before_the_limit(slurm: Slurm, tmp_path: Path) -> None:
    # A job of two minutes, told 110 s before its end; Slurm looks twice a minute.
    options = {"environment": slurm.environment, "notice_seconds": 50}
    case = RunnerCase("slurm", os.fspath(tmp_path / "instance"), options)
    case.start(TICKING, time_limit_seconds=60)
    wait_for_ticks(case)
    wait_until(lambda: codes(status(case)) == ["slurm_time_limit_near"])
    wait_for_ticks(case)
    case.runner().remove(case.place)


def test_a_controller_that_restarts_is_waited_for(slurm: Slurm, case: RunnerCase) -> None:
    case.start(f"{TICKING} & while [ ! -e end ]; do sleep 0.05; done; exit 3")
    wait_for_ticks(case)
    impatient = SlurmRunner(environment=slurm.environment, patience_seconds=0)
    slurm.stop_controller()
    try:
        wait_for_ticks(case)
        with pytest.raises(RunnerUnavailable, match="not reachable"):
            impatient.status(case.place)
        with pytest.raises(NotFreezable), impatient.freeze(case.place):
            pass
    finally:
        slurm.start_controller()
    assert status(case).kind == "running"
    (case.place.job / "end").touch()
    assert case.ended().exit_code == 3


def test_a_start_waits_for_the_controller(slurm: Slurm, case: RunnerCase) -> None:
    slurm.stop_controller()
    with ThreadPoolExecutor(1) as threads:
        try:
            started = threads.submit(case.start, "exit 4")
            wait_until((case.place.control / "name").exists)
        finally:
            slurm.start_controller()
        reference = started.result()
    ended = case.ended()
    assert (ended.exit_code, ended.reference) == (4, reference)


def test_a_freeze_outlives_neither_freezer_nor_helper(case: RunnerCase) -> None:
    case.start(TICKING)
    wait_for_ticks(case)
    with case.elsewhere("freeze") as freezer:
        for child in children(freezer.pid):
            os.kill(child, signal.SIGKILL)
        freezer.kill()
        freezer.wait()
    before = ticks(case)
    assert (case.place.control / "frozen").exists()
    assert ticks(case) == before
    # Whoever asks next lets it go on: an agent that came back after its host had crashed.
    assert status(case).kind == "running"
    wait_for_ticks(case)
    assert not (case.place.control / "frozen").exists()
    case.runner().remove(case.place)


def test_a_job_that_somebody_else_stopped_is_left_alone(slurm: Slurm, case: RunnerCase) -> None:
    reference = case.start(TICKING)
    wait_for_ticks(case)
    slurm.ask("scancel", "--signal=STOP", "--full", reference)
    with pytest.raises(NotFreezable, match="Somebody else"), case.runner().freeze(case.place):
        pass
    slurm.ask("scancel", "--signal=CONT", "--full", reference)
    wait_for_ticks(case)
    case.runner().remove(case.place)


def test_the_cluster_of_the_tests_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import slurm_cluster\n"
        "with slurm_cluster.running(Path(sys.argv[1])) as slurm:\n"
        "    slurm.ask('sbatch', '-o', '/dev/null', '--wrap', 'setsid sleep 4321')\n"
        "    print(slurm.configuration, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, os.fspath(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as user:
        assert user.stdout is not None
        configuration = user.stdout.readline().decode().strip()
        user.kill()
    wait_until(lambda: not Path(configuration).exists() and not of_cluster(configuration))


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def of_cluster(configuration: str) -> list[str]:
    """Processes that carry the configuration of a cluster in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURM_CONF={configuration}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found
