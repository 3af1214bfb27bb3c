"""Tasks and the deaths around them: agents and children are killed, computations live on.

Real agents, real children, a real gateway; the control plane is the one under tests/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import Site, site, wait_until_gone
from control_server import KeptJob
from sample_repository import contents
from task_desk import joined, manual, task_spec

from holdfast.agent.jobs.task_directory import task_directories
from holdfast.runners.choice import runner_for

ORDERS: dict[str, Any] = {"abort": False, "snapshots": [], "periodic": None, "previews": []}
RESULTS = {"snapshot_id": "r-1", "whitelist": None, "blacklist": None, "on_cancel": False}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        made.make_repository()
        made.settings["task_slots"] = 2
        yield made
        made.close()
        for directory in task_directories(str(made.state / "tasks")):
            runner_for("local").remove(directory.place)


def add_task(place: Site, command: str, **more: Any) -> KeptJob:
    job = place.add("task", **task_spec(command, **more))
    job.orders = dict(ORDERS)
    return job


def waits_for_go(place: Site) -> str:
    return f"while ! [ -e {place.base}/go ]; do sleep 0.05; done"


def lines(job: KeptJob) -> list[str]:
    return [line["text"] for body in job.reports for line in body["lines"]]


def output(job: KeptJob) -> bytes:
    return joined(job.messages, "stdout")


def snapshot_ends(job: KeptJob) -> list[dict[str, Any]]:
    return [m for m in job.messages if m["type"] == "snapshot" and m["status"] == "success"]


def files_of(place: Site, manifest_id: str) -> dict[str, bytes]:
    repository = place.repository()
    snapshots, _ = repository.snapshots()
    return contents(repository, next(each for each in snapshots if each.id == manifest_id))


def test_a_task_through_a_real_agent(place: Site) -> None:
    """T3: orders come with the answers to reports, and what they ask for is told at once."""
    agent = place.start()
    job = add_task(place, f"echo one; echo 1 > n; {waits_for_go(place)}", results=RESULTS)
    place.control.wait(lambda: output(job) == b"one\n")
    job.orders = {**ORDERS, "snapshots": [manual(1)]}
    place.control.wait(lambda: snapshot_ends(job))
    job.orders = dict(ORDERS)
    (place.base / "go").touch()
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "succeeded"
    assert end["result"]["outcome"] == "success"
    (taken,) = snapshot_ends(job)
    assert files_of(place, taken["result"]["manifest_id"]) == {"n": b"1\n"}
    assert files_of(place, end["result"]["results"]["manifest_id"]) == {"n": b"1\n"}
    beat = place.control.heartbeats[-1]["inventory"]
    assert (beat["task_slots"], "local" in beat["runners"]) == (2, True)
    assert place.control.claims[0]["room"] == {"jobs": 2, "tasks": 2}
    agent.terminate()
    assert agent.wait(60) == 0


def test_tasks_take_no_place_from_jobs(place: Site) -> None:
    place.start(max_jobs=1, task_slots=1)
    task = add_task(place, f"echo one; {waits_for_go(place)}")
    place.control.wait(lambda: output(task) == b"one\n")
    waiting = add_task(place, "true", instance_id="i-2")
    backup = place.add_backup()
    place.control.wait_for_end(backup)
    assert waiting.state == "queued"
    (place.base / "go").touch()
    place.control.wait_for_end(task)
    place.control.wait_for_end(waiting)


def test_a_killed_agent_costs_the_computation_nothing(place: Site) -> None:
    first = place.start()
    command = f"echo $$ >> pids; echo one; {waits_for_go(place)}; echo two; cat pids | wc -l"
    job = add_task(place, command)
    place.control.wait(lambda: output(job) == b"one\n")
    child = place.wait_for_child(first)
    first.kill()
    first.wait()
    wait_until_gone([child])
    second = place.start()
    place.control.wait(lambda: job.attempt == 2 and _executing(job) == 2)
    (place.base / "go").touch()
    end = place.control.wait_for_end(job)
    assert end["result"]["outcome"] == "success"
    assert output(job) == b"one\ntwo\n1\n"
    second.terminate()
    second.wait(60)


def test_an_agent_that_leaves_lets_it_run(place: Site) -> None:
    first = place.start()
    job = add_task(place, f"echo $$; echo one; {waits_for_go(place)}; echo two")
    place.control.wait(lambda: output(job).endswith(b"one\n"))
    first.terminate()
    assert first.wait(60) == 0
    place.control.wait(lambda: job.finishes)
    assert job.end["error"]["code"] == "interrupted"
    assert job.end["error"]["retryable"] is True
    (directory,) = task_directories(str(place.state / "tasks"))
    assert runner_for("local").status(directory.place).kind == "running"
    place.start()
    place.control.wait(lambda: job.attempt == 2)
    (place.base / "go").touch()
    place.control.wait(lambda: len(job.finishes) == 2)
    assert job.end["result"]["outcome"] == "success"
    assert output(job).endswith(b"one\ntwo\n")


def test_a_cancelled_job_ends_the_computation(place: Site) -> None:
    place.start()
    job = add_task(place, "echo one; sleep 600")
    place.control.wait(lambda: output(job) == b"one\n")
    job.cancel = True
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "cancelled"
    (directory,) = task_directories(str(place.state / "tasks"))
    status = runner_for("local").status
    place.control.wait(lambda: status(directory.place).kind != "running")


def test_a_host_that_comes_back_too_late_ends_what_it_runs(place: Site) -> None:
    """T5: the instance has failed meanwhile; nobody waits half an hour for the sweep."""
    first = place.start()
    job = add_task(place, "echo one; sleep 600")
    place.control.wait(lambda: output(job) == b"one\n")
    child = place.wait_for_child(first)
    first.kill()
    first.wait()
    wait_until_gone([child])
    (directory,) = task_directories(str(place.state / "tasks"))
    status = runner_for("local").status
    beats = len(place.control.heartbeats)
    place.control.deaf_to = {"claim"}
    place.start()
    place.control.wait(lambda: len(place.control.heartbeats) > beats + 1)
    assert place.control.heartbeats[-1]["computations"] == [job.id]
    assert status(directory.place).kind == "running", "somebody may still attach to it"
    job.state = "failed"
    place.control.wait(lambda: status(directory.place).kind != "running")
    assert job.attempt == 1


def test_a_snapshot_is_reported_by_the_next_attempt(place: Site) -> None:
    """T5: what was stored counts, also where its agent was killed before it was heard."""
    first = place.start()
    job = add_task(place, f"echo one; echo 1 > n; {waits_for_go(place)}")
    place.control.wait(lambda: output(job) == b"one\n")
    (directory,) = task_directories(str(place.state / "tasks"))
    child = place.wait_for_child(first)
    with place.control.changed:
        reports = len(job.reports)
        job.orders = {**ORDERS, "snapshots": [manual(1)]}
    # The next report brings the order; the one after it is a second away.
    place.control.wait(lambda: len(job.reports) > reports)
    place.control.deaf_to = {"progress"}
    place.control.wait(directory.reports)
    first.kill()
    first.wait()
    wait_until_gone([child])
    assert not snapshot_ends(job)
    place.control.deaf_to = set()
    place.start()
    place.control.wait(lambda: snapshot_ends(job))
    (place.base / "go").touch()
    place.control.wait(lambda: job.finishes)
    taken = {each["result"]["manifest_id"] for each in snapshot_ends(job)}
    snapshots, _ = place.repository().snapshots()
    assert {each.id for each in snapshots} == taken
    assert directory.reports() == {}


def test_a_message_that_is_refused_costs_only_itself(place: Site) -> None:
    place.control.refused_messages = {"preview"}
    place.start()
    job = add_task(place, f"echo one; {waits_for_go(place)}; echo two")
    place.control.wait(lambda: output(job) == b"one\n")
    wanted = {"preview_id": "p-1", "whitelist": None, "blacklist": None, "entries_wanted": 1}
    job.orders = {**ORDERS, "previews": [wanted]}
    place.control.wait(lambda: any("kind preview is lost" in line for line in lines(job)))
    (place.base / "go").touch()
    end = place.control.wait_for_end(job)
    assert end["result"]["outcome"] == "success"
    assert output(job) == b"one\ntwo\n"


def _executing(job: KeptJob) -> int:
    return sum(m["type"] == "state" and m["state"] == "executing" for m in job.messages)
