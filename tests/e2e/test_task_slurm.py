"""Tasks on a Slurm cluster, through a server's API and the agent beside it on a login node.

Spec lines: T1, T3, T5, T11.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from running_server import RunningServer
from slurm_cluster import Slurm
from task_user import Tasks

from holdfast.agent.jobs.task_directory import task_directories
from holdfast.runners.slurm import SlurmRunner

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

TICKING = "while :; do echo . >> a; echo . >> b; sleep 0.02; done"
LIMIT_SECONDS = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, slurm: Slurm) -> Iterator[RunningServer]:
    variables = {"HOLDFAST_SERVER_TASK_SLOTS": "4", **slurm.environment}
    made = RunningServer(tmp_path_factory.mktemp("up"), variables)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.kill_all()
        runner = SlurmRunner(environment=slurm.environment)
        for directory in task_directories(str(made.data / "agent/tasks")):
            runner.remove(directory.place)


@pytest.fixture(scope="module")
def tasks(server: RunningServer) -> Tasks:
    return Tasks(server)


def test_from_submission_to_results(server: RunningServer, tasks: Tasks) -> None:
    """T1, T5, T11: the job's directory, its output, its status and its files."""
    tasks.ask("POST", "/buckets", name="inputs")
    tasks.put("inputs", "given", b"41")
    command = (
        "echo $GREETING $INSTANCE_ID $SLURM_JOB_PARTITION; echo oops >&2;"
        "[ $PWD = $HOLDFAST_JOB ] && echo $(cat given) and 1 > result; exit 3"
    )
    task_id = tasks.submit_as(
        "slurm-batch",
        {"COMMAND": command, "SLURM_PARTITION": "long", "GREETING": "good day"},
        inputs=[{"bucket": "inputs"}],
        result_bucket="results",
    )
    assert tasks.end(task_id)["state"] == "Failure"
    found = tasks.instance(task_id)
    assert (found["exit_code"], found["error_code"]) == (3, "command_failed")
    assert found["runner"] == "slurm"
    assert found["reference"].isdigit()
    assert tasks.output(task_id) == "good day 0 long\n"
    assert tasks.ask("GET", f"/tasks/{task_id}/output/stderr") == "oops\n"
    assert tasks.appears("results") == {"given": b"41", "result": b"41 and 1\n"}


def test_snapshots_and_slurms_notice(server: RunningServer, tasks: Tasks, slurm: Slurm) -> None:
    """T3, T5: it stands while it is captured; before Slurm ends it, the last state is taken."""
    task_id = tasks.submit_as(
        "slurm-batch",
        {"COMMAND": TICKING},
        result_bucket="ticks",
        periodic={"seconds": 3600},
    )
    tasks.wait(lambda: tasks.get(task_id)["state"] == "FullyExecuting")
    found = tasks.instance(task_id)
    job = Path(server.data) / "agent/tasks" / found["id"] / "job"
    tasks.wait((job / "b").exists)
    taken = tasks.snapshot(task_id)
    (part,) = taken["parts"]
    assert part["consistency"] == "frozen", taken["findings"]
    seen = tasks.appears("ticks", taken["directory"])
    assert len(seen["a"]) - len(seen["b"]) in {0, 2}, "of one moment"
    assert seen["a"]
    assert tasks.codes(task_id) == set()
    # What --signal=B:USR1@60 has Slurm do.
    slurm.ask("scancel", "--signal=USR1", "--batch", found["reference"])
    tasks.wait(lambda: len(tasks.snapshots(task_id)) == 2)
    last, _ = tasks.snapshots(task_id)
    assert last["trigger"] == "periodic"
    assert "slurm_time_limit_near" in tasks.codes(task_id)
    assert len(tasks.appears("ticks", last["directory"])["a"]) > len(seen["a"])
    assert tasks.get(task_id)["state"] == "FullyExecuting", "a notice is no end"
    tasks.ask("POST", f"/tasks/{task_id}/abort")
    assert tasks.end(task_id)["state"] == "Cancelled"
    tasks.wait(lambda: found["reference"] not in slurm.ask("squeue", "--noheader", "-o", "%i"))


def test_waiting_in_the_queue_is_no_execution(
    server: RunningServer, tasks: Tasks, slurm: Slurm
) -> None:
    """T1: it executes, and its time limit counts, from when Slurm has started it."""
    slurm.ask("scontrol", "update", "PartitionName=long", "State=DOWN")
    try:
        task_id, forsaken = (
            tasks.submit_as(
                "slurm-batch",
                {"COMMAND": "echo 1 > a; echo begun; sleep 600", "SLURM_PARTITION": "long"},
                time_limit_seconds=LIMIT_SECONDS,
                result_bucket="queued",
                periodic={"seconds": 5},
            )
            for _ in range(2)
        )
        tasks.wait(lambda: tasks.instance(task_id)["reference"])
        tasks.wait(lambda: tasks.instance(forsaken)["reference"])
        tasks.ask("POST", f"/tasks/{forsaken}/abort")
        assert tasks.end(forsaken)["state"] == "Cancelled"
        assert tasks.instance(forsaken)["started_at"] is None, "it never was"
        time.sleep(LIMIT_SECONDS + 1)
        found = tasks.instance(task_id)
        assert (found["state"], found["started_at"]) == ("preparing", None)
        assert tasks.get(task_id)["state"] == "FullyDispatched"
        released = datetime.now(UTC).replace(microsecond=0)
    finally:
        slurm.ask("scontrol", "update", "PartitionName=long", "State=UP")
    tasks.wait(lambda: tasks.instance(task_id)["started_at"])
    assert datetime.fromisoformat(tasks.instance(task_id)["started_at"]) >= released
    assert tasks.end(task_id)["state"] == "Failure"
    assert tasks.instance(task_id)["error_code"] == "time_limit"
    assert tasks.output(task_id) == "begun\n"
    newest = tasks.snapshots(task_id)[0]
    assert tasks.appears("queued", newest["directory"]) == {"a": b"1\n"}
