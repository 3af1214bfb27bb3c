"""Tasks through ``holdfast up``: submitted over HTTP, run by the agent beside the server.

Spec lines: T3, T5, T9, T11.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer
from task_user import Tasks

from holdfast.agent.jobs.task_directory import task_directories
from holdfast.runners.choice import runner_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    made = RunningServer(tmp_path_factory.mktemp("up"), {"HOLDFAST_SERVER_TASK_SLOTS": "2"})
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.kill_all()
        for directory in task_directories(str(made.data / "agent/tasks")):
            runner_for("local").remove(directory.place)


def test_a_task_from_submission_to_results(server: RunningServer, tmp_path: Path) -> None:
    tasks = Tasks(server)
    go = tmp_path / "go"
    task_id = tasks.submit(
        f"echo hello; echo 1 > a.txt; while ! [ -e {go} ]; do sleep 0.1; done; echo 2 > b.txt",
        result_bucket="results",
    )
    tasks.wait(lambda: tasks.output(task_id) == "hello\n")
    taken = tasks.ask("POST", f"/tasks/{task_id}/snapshots", whitelist="txt$", label="first")

    def done() -> Any:
        found = tasks.ask("GET", f"/task-snapshots/{taken['id']}")
        return found if found["status"] in ("success", "failure") else None

    assert tasks.wait(done)["status"] == "success"
    looked = tasks.ask("POST", f"/tasks/{task_id}/previews", blacklist="b")
    seen = tasks.wait(lambda: tasks.ask("GET", f"/task-previews/{looked['id']}")["answer"])
    assert seen["entries"] == [{"path": "a.txt", "bytes": 2}]
    go.touch()
    assert tasks.end(task_id)["state"] == "Success"


def test_a_task_survives_a_restart_of_everything(server: RunningServer, tmp_path: Path) -> None:
    """T11: the server and its agent are stopped and started; the computation never notices."""
    tasks = Tasks(server)
    go = tmp_path / "go"
    task_id = tasks.submit(f"echo $$; while ! [ -e {go} ]; do sleep 0.1; done; echo end")
    begun = tasks.wait(lambda: tasks.output(task_id))
    server.stop()
    server.start()
    tasks = Tasks(server)
    go.touch()
    assert tasks.end(task_id)["state"] == "Success"
    assert tasks.output(task_id) == f"{begun}end\n"


def test_an_abort_and_a_failure(server: RunningServer) -> None:
    tasks = Tasks(server)
    task_id = tasks.submit("echo one; sleep 600")
    tasks.wait(lambda: tasks.output(task_id) == "one\n")
    tasks.ask("POST", f"/tasks/{task_id}/abort")
    assert tasks.end(task_id)["state"] == "Cancelled"
    failed = tasks.submit("exit 7")
    assert tasks.end(failed)["state"] == "Failure"
    (instance,) = tasks.ask("GET", f"/tasks/{failed}/instances")["items"]
    assert instance["exit_code"] == 7


def test_a_chain_of_tasks(server: RunningServer) -> None:
    """T1, T9: inputs come from a bucket, and the next task starts from the state of a snapshot."""
    tasks = Tasks(server)
    tasks.ask("POST", "/buckets", name="inputs")
    tasks.put("inputs", "data/n", b"20")
    first = tasks.submit(
        "expr $(cat n) + 1 > n; echo ready; sleep 600",
        inputs=[{"bucket": "inputs", "prefix": "data/", "strip_prefix": "data/"}],
    )
    tasks.wait(lambda: tasks.output(first) == "ready\n")
    taken = tasks.ask("POST", f"/tasks/{first}/snapshots", whitelist="^n$")
    path = f"/task-snapshots/{taken['id']}"
    tasks.wait(lambda: tasks.ask("GET", path)["status"] == "success")
    tasks.ask("POST", f"/tasks/{first}/abort")
    tasks.end(first)
    second = tasks.submit("expr $(cat n) '*' 2", starts_from=taken["id"])
    assert tasks.end(second)["state"] == "Success"
    assert tasks.output(second) == "42\n"
    third = tasks.submit("true", inputs=[{"bucket": "inputs", "prefix": "nothing/"}])
    assert tasks.end(third)["state"] == "Success", "nothing below a prefix is no error"


def test_new_inputs_come_while_it_runs(server: RunningServer, tmp_path: Path) -> None:
    """T1: new and replaced objects come; what the task changed or deleted itself stays so."""
    tasks = Tasks(server)
    tasks.ask("POST", "/buckets", name="renewed")
    for name in ("replaced", "changed", "deleted"):
        tasks.put("renewed", f"data/{name}", b"first\n")
    go = tmp_path / "go"
    task_id = tasks.submit(
        "echo mine > changed; rm deleted; echo ready; while ! [ -e added ]; do sleep 0.1; done; "
        f"cat added; while ! [ -e {go} ]; do sleep 0.1; done; tail -n 9 *",
        inputs=[{"bucket": "renewed", "prefix": "data/", "strip_prefix": "data/"}],
    )
    tasks.wait(lambda: tasks.output(task_id) == "ready\n")
    tasks.put("renewed", "data/added", b"one\n")
    tasks.put("renewed", "data/replaced", b"second\n")
    tasks.ask("POST", f"/tasks/{task_id}/renew-inputs")
    tasks.wait(lambda: tasks.output(task_id) == "ready\none\n")
    # The log has it when everything was copied.
    job_id = tasks.instance(task_id)["job_id"]
    said = "Renewed the inputs: 2 objects, 11 bytes."
    tasks.wait(lambda: said in str(tasks.ask("GET", f"/jobs/{job_id}/log")))
    tasks.put("renewed", "data/replaced", b"third\n")
    tasks.ask("POST", f"/tasks/{task_id}/renew-inputs")
    again = "Renewed the inputs: 1 objects, 6 bytes."
    tasks.wait(lambda: again in str(tasks.ask("GET", f"/jobs/{job_id}/log")))
    go.touch()
    assert tasks.end(task_id)["state"] == "Success"
    shown = tasks.output(task_id).removeprefix("ready\none\n").split()
    assert shown == [
        *("==>", "added", "<==", "one"),
        *("==>", "changed", "<==", "mine"),
        *("==>", "replaced", "<==", "third"),
    ]
    assert tasks.codes(task_id) == set()
