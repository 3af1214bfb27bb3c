"""Tasks in containers, through a server's API and the agent of a machine with podman.

Spec lines: T1, T2, T3, T5, T11.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from podman_store import IMAGE, PodmanStore
from running_server import RunningServer
from task_user import TaskMachine, Tasks

from holdfast.agent.jobs.task_directory import task_directories
from holdfast.runners.podman import PodmanRunner

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman")]

REPOSITORY, TAG = IMAGE.rsplit(":", 1)
# The first process of a container ends at no signal that it does not expect.
TICKING = "trap exit TERM; while :; do echo . >> a; echo . >> b; sleep 0.02; done"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    made = RunningServer(tmp_path_factory.mktemp("up"), {"HOLDFAST_SERVER_TASK_SLOTS": "0"})
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.kill_all()


@pytest.fixture(scope="module")
def tasks(server: RunningServer) -> Tasks:
    return Tasks(server)


@pytest.fixture(scope="module")
def machine(server: RunningServer, tasks: Tasks, podman: PodmanStore) -> Iterator[TaskMachine]:
    variables = {
        "HOLDFAST_AGENT_PODMAN": shlex.join(podman.program),
        "CONTAINERS_CONF": podman.environment["CONTAINERS_CONF"],
    }
    made = TaskMachine(server, "gpu-1", variables)
    made.enrol(tasks.ask("POST", "/hosts/invitations", name="gpu-1")["secret"])
    made.start()
    try:
        yield made
    finally:
        made.kill()
        runner = PodmanRunner(podman.program, environment=podman.environment)
        for directory in task_directories(made.tasks):
            runner.remove(directory.place)


def container(command: str, **more: str) -> dict[str, str]:
    return {"DOCKER_REPO": REPOSITORY, "DOCKER_TAG": TAG, "DOCKER_CMD": command, **more}


def waits_for(bucketed: str) -> str:
    return f"while ! [ -e {bucketed} ]; do sleep 0.1; done"


def job_of(machine: TaskMachine, tasks: Tasks, task_id: str) -> Path:
    """The directory that the command sees as /job."""
    return Path(machine.tasks) / str(tasks.instance(task_id)["id"]) / "job"


def test_from_submission_to_results(machine: TaskMachine, tasks: Tasks) -> None:
    """T1, T2, T5: the image's own world, /job in it, its output, status and files."""
    tasks.ask("POST", "/buckets", name="inputs")
    tasks.put("inputs", "given", b"41")
    command = (
        "pwd; echo $HOLDFAST_JOB $GREETING $INSTANCE_ID; ls /; echo oops >&2;"
        "echo $(cat given) and 1 > result; mkdir sub; echo x > sub/y; exit 3"
    )
    task_id = tasks.submit_as(
        "docker-batch",
        container(command, GREETING="good day"),
        inputs=[{"bucket": "inputs"}],
        result_bucket="results",
    )
    ended = tasks.end(task_id)
    assert ended["state"] == "Failure"
    found = tasks.instance(task_id)
    assert (found["exit_code"], found["error_code"]) == (3, "command_failed")
    assert found["runner"] == "podman"
    where, told, *listed = tasks.output(task_id).splitlines()
    assert (where, told) == ("/job", "/job good day 0")
    assert "home" not in listed, "it is the image's root, not the host's"
    assert tasks.ask("GET", f"/tasks/{task_id}/output/stderr") == "oops\n"
    assert tasks.appears("results") == {
        "given": b"41",
        "result": b"41 and 1\n",
        "sub/y": b"x\n",
    }


def test_snapshots_of_a_container(machine: TaskMachine, tasks: Tasks) -> None:
    """T3, T5: it stands while it is captured, by hand and periodically, and goes on after."""
    task_id = tasks.submit_as("docker-batch", container(TICKING), result_bucket="ticks")
    tasks.wait(lambda: tasks.get(task_id)["state"] == "FullyExecuting")
    job = job_of(machine, tasks, task_id)
    tasks.wait((job / "b").exists)
    taken = tasks.snapshot(task_id)
    (part,) = taken["parts"]
    assert part["consistency"] == "frozen", part
    seen = tasks.appears("ticks", taken["directory"])
    assert len(seen["a"]) - len(seen["b"]) in {0, 2}, "of one moment"
    assert seen["a"]
    tasks.ask("PUT", f"/tasks/{task_id}/periodic", seconds=5)
    tasks.wait(lambda: len(tasks.snapshots(task_id)) >= 3)
    tasks.ask("DELETE", f"/tasks/{task_id}/periodic")
    periodic = [each for each in tasks.snapshots(task_id) if each["trigger"] == "periodic"]
    assert {part["consistency"] for each in periodic for part in each["parts"]} == {"frozen"}
    before = (job / "a").stat().st_size
    tasks.wait(lambda: (job / "a").stat().st_size > before)
    tasks.ask("POST", f"/tasks/{task_id}/abort")
    assert tasks.end(task_id)["state"] == "Cancelled"
    expected = {each["directory"].rstrip("/") for each in tasks.snapshots(task_id)}
    # A directory for each, and no results.
    tasks.wait(lambda: {path.split("/")[0] for path in tasks.contents("ticks")} == expected)


def test_an_abort_reaches_the_container(
    machine: TaskMachine, tasks: Tasks, podman: PodmanStore
) -> None:
    task_id = tasks.submit_as(
        "docker-batch", container("trap exit TERM; echo ready; sleep 600 & wait")
    )
    tasks.wait(lambda: tasks.output(task_id) == "ready\n")
    name = str(tasks.instance(task_id)["reference"])
    tasks.ask("POST", f"/tasks/{task_id}/abort")
    assert tasks.end(task_id)["state"] == "Cancelled"
    state = json.loads(podman("container", "inspect", name))[0]["State"]
    assert state["Running"] is False


def test_a_missing_image(machine: TaskMachine, tasks: Tasks) -> None:
    absent = {"DOCKER_REPO": "localhost/absent", "DOCKER_TAG": "3", "DOCKER_CMD": "true"}
    task_id = tasks.submit_as("docker-batch", absent)
    assert tasks.end(task_id)["state"] == "Failure"
    found = tasks.instance(task_id)
    assert found["error_code"] == "image_missing"
    assert "localhost/absent:3" in found["error_message"]
    assert "Check its name and tag" in found["error_message"]
    assert (found["started_at"], found["exit_code"]) == (None, None)


def test_an_agent_that_dies_costs_the_container_nothing(machine: TaskMachine, tasks: Tasks) -> None:
    """T11, T5: another agent attends the same container, and takes its snapshots."""
    command = f"echo begun >> runs; echo one; {waits_for('go')}; echo two"
    task_id = tasks.submit_as("docker-batch", container(command), result_bucket="survived")
    tasks.wait(lambda: tasks.output(task_id) == "one\n")
    tasks.snapshot(task_id)
    before = tasks.instance(task_id)["reference"]
    machine.kill()
    machine.start()
    taken = tasks.snapshot(task_id)
    assert tasks.appears("survived", taken["directory"]) == {"runs": b"begun\n"}
    (job_of(machine, tasks, task_id) / "go").touch()
    assert tasks.end(task_id)["state"] == "Success"
    assert tasks.output(task_id) == "one\ntwo\n"
    assert tasks.instance(task_id)["reference"] == before
