"""A task that waits in a queue before it begins, and whose runner gives notice of its end.

A real command, captured into a real repository; its runner says of it what a batch system
would. Spec lines: T1, T3, T5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import PASSWORD, contents
from task_desk import TaskDesk, manual, task_spec

from holdfast.agent.jobs.context import JobEnd
from holdfast.agent.jobs.task_attendance import Attendance
from holdfast.agent.jobs.task_directory import TaskDirectory
from holdfast.agent.jobs.task_spec import task_spec as parsed
from holdfast.model.finding import Finding
from holdfast.repo.repository import Repository
from holdfast.runners.local import LocalRunner
from holdfast.runners.runner import Place, RunnerStatus

NOTICE = Finding("slurm_time_limit_near", "Slurm will soon end the job.", "7")


class QueueRunner(LocalRunner):
    """Local processes of which it says that they began when `granted` was set."""

    granted: datetime | None = None
    notice = False

    def status(self, place: Place) -> RunnerStatus:
        found = super().status(place)
        notes = (*found.notes, NOTICE) if self.notice else found.notes
        return replace(found, started_at=self.granted, notes=notes)


class Attended:
    """One instance, attended in a thread."""

    def __init__(self, place: Workplace, command: str) -> None:
        self.desk, self.runner = TaskDesk(), QueueRunner()
        self.place = place
        self.directory = TaskDirectory(str(place.base / "tasks"), "i-1")
        self._command = command
        self._end: list[JobEnd] = []
        self._thread = threading.Thread()

    def _attend(self, document: dict[str, Any]) -> None:
        context = replace(
            self.place.context("task", attempt=1, **document),
            task_directory=str(self.place.base / "tasks"),
            mailbox=self.desk.mailbox,
        )
        attendance = Attendance(
            context,
            parsed(document),
            directory=self.directory,
            runner=self.runner,
            mailbox=self.desk.mailbox,
        )
        self._end.append(attendance.run())

    def start(self, *, limit_seconds: int) -> None:
        document = task_spec(self._command, time_limit_seconds=limit_seconds, grace_seconds=1)
        self._thread = threading.Thread(target=self._attend, args=[document], daemon=True)
        self._thread.start()
        self.desk.wait(lambda: self.desk.output() == b"begun\n")

    @property
    def end(self) -> JobEnd:
        self._thread.join(60)
        return self._end[0]

    def captured(self, message: dict[str, Any]) -> dict[str, bytes]:
        repository = Repository.open(self.place.store, PASSWORD)
        snapshots, _ = repository.snapshots()
        wanted = message["result"]["manifest_id"]
        return contents(repository, next(each for each in snapshots if each.id == wanted))

    def close(self) -> None:
        self.desk.orders["abort"] = True
        self._thread.join(30)
        self.desk.close()
        self.runner.remove(self.directory.place)


@pytest.fixture
def attended(tmp_path: Path) -> Iterator[Attended]:
    with workplace(tmp_path) as place:
        made = Attended(place, "echo 1 > a; echo begun; sleep 600")
        yield made
        made.close()


def hourly() -> dict[str, Any]:
    return {"seconds": 3600, "since": datetime.now(UTC).isoformat()}


def test_a_queue_costs_no_time_and_no_snapshots(attended: Attended) -> None:
    """T1, T3: `executing` and the time limit count from the true beginning."""
    desk = attended.desk
    desk.orders["periodic"] = {"seconds": 1, "since": datetime.now(UTC).isoformat()}
    attended.start(limit_seconds=5)
    desk.wait(lambda: len(desk.states) == 2)
    time.sleep(3)
    desk.orders["snapshots"] = [manual(1)]
    desk.wait(lambda: desk.ends("s-1"))
    assert [each["trigger"] for each in desk.ends()] == ["manual"]
    assert desk.states == ["preparing", "preparing"]
    waiting = desk.of("state")[-1]
    assert waiting["reference"], "people can find it in the queue"
    desk.orders["snapshots"] = []
    granted = attended.runner.granted = datetime.now(UTC)
    end = attended.end
    assert end.result["error"]["code"] == "time_limit"
    assert datetime.fromisoformat(end.result["started_at"]) == granted
    began = desk.of("state")[2]
    assert (began["state"], datetime.fromisoformat(began["at"])) == ("executing", granted)
    slots = [datetime.fromisoformat(each["slot_at"]) for each in desk.ends() if each["slot_at"]]
    assert slots
    assert min(slots) > granted - timedelta(seconds=1)


def test_an_abort_in_the_queue(attended: Attended) -> None:
    attended.start(limit_seconds=3600)
    attended.desk.orders["abort"] = True
    end = attended.end
    assert (end.result["outcome"], end.result["started_at"]) == ("cancelled", None)
    assert "executing" not in attended.desk.states


def test_the_last_state_is_taken_at_the_notice_and_at_the_limit(attended: Attended) -> None:
    """T5: the notice may come long before the end."""
    desk = attended.desk
    desk.orders["periodic"] = hourly()
    attended.start(limit_seconds=3600)
    attended.runner.granted = datetime.now(UTC)
    attended.runner.notice = True
    desk.wait(desk.ends)
    (attended.directory.place.job / "a").write_bytes(b"2\n")
    attended.runner.granted -= timedelta(seconds=3600)
    end = attended.end
    assert end.result["error"]["code"] == "time_limit"
    assert NOTICE in end.findings
    noticed, last = desk.ends()
    assert (noticed["trigger"], last["trigger"]) == ("periodic", "periodic")
    assert attended.captured(noticed) == {"a": b"1\n"}
    assert attended.captured(last) == {"a": b"2\n"}
