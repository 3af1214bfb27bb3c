"""A task from its beginning to its end, with real commands, and a real gateway and repository.

Spec lines: T2, T3, T4, T5, T7, T8, T9.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from input_bucket import Bucket
from sample_repository import PASSWORD, contents
from task_desk import TaskDesk, manual, task_spec

from holdfast.agent import jobs
from holdfast.agent.jobs.context import JobEnd
from holdfast.agent.jobs.task_directory import TaskDirectory
from holdfast.flows import task_recall
from holdfast.repo.repository import Repository


class TaskSite:
    """A machine on which one instance runs, attended in a thread of this process."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.desk = TaskDesk()
        self.directory = TaskDirectory(str(place.base / "tasks"), "i-1")
        self.ended: list[JobEnd | BaseException] = []
        self._threads: list[threading.Thread] = []

    def begin(
        self, command: str, *, attempt: int = 1, bucket: Bucket | None = None, **spec: Any
    ) -> None:
        """Begin an attempt; with `bucket` the gateway has inputs, and no repository."""
        context = replace(
            self.place.context("task", attempt=attempt, **task_spec(command, **spec)),
            task_directory=str(self.place.base / "tasks"),
            mailbox=self.desk.mailbox,
        )
        if bucket is not None:
            gateway = {"id": "r", "url": f"{bucket.url}/restic/r/", "password": ""}
            context = replace(context, repository=gateway, credential="full")

        def attend() -> None:
            try:
                self.ended.append(jobs.run(context, 1))
            except BaseException as error:
                self.ended.append(error)

        thread = threading.Thread(target=attend, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self, seconds: float = 60.0) -> JobEnd:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), self.desk.messages
        end = self.ended[-1]
        if isinstance(end, BaseException):
            raise end
        return end

    def run(self, command: str, **spec: Any) -> JobEnd:
        self.begin(command, **spec)
        return self.end()

    def forsake(self) -> None:
        """End the attempt as a kill would: nothing is told, and the computation goes on."""
        self.desk.forsake()
        for thread in self._threads:
            thread.join(30)
        assert isinstance(self.ended[-1], KeyboardInterrupt)

    @property
    def job(self) -> Path:
        return self.directory.place.job

    def restored(self, manifest_id: str) -> dict[str, Any]:
        repository = Repository.open(self.place.store, PASSWORD)
        snapshots, _ = repository.snapshots()
        return contents(repository, next(s for s in snapshots if s.id == manifest_id))

    def close(self) -> None:
        from holdfast.runners.choice import runner_for

        self.desk.orders["abort"] = True
        for thread in self._threads:
            thread.join(30)
        self.desk.close()
        runner_for("local").remove(self.directory.place)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TaskSite]:
    with workplace(tmp_path) as place:
        made = TaskSite(place)
        yield made
        made.close()


WITH_RESULTS = {"snapshot_id": "r-1", "whitelist": None, "blacklist": None, "on_cancel": False}


def test_from_beginning_to_end(site: TaskSite) -> None:
    """T1, T2: the directory, variables, output, and the final results by their filters."""
    command = "echo hello; echo oops >&2; echo $GREETING $INSTANCE_ID > out.txt; echo x > no.tmp"
    end = site.run(
        command,
        constants={"COMMAND": command, "GREETING": "good day"},
        results={**WITH_RESULTS, "blacklist": r"\.tmp$"},
    )
    assert (end.result["outcome"], end.result["exit_code"]) == ("success", 0)
    assert site.desk.states == ["preparing", "executing", "uploading"]
    assert (site.desk.output("stdout"), site.desk.output("stderr")) == (b"hello\n", b"oops\n")
    results = end.result["results"]
    assert site.restored(results["manifest_id"]) == {"out.txt": b"good day 0\n"}
    assert results["verified"] is True


def test_a_command_that_fails_has_results_too(site: TaskSite) -> None:
    end = site.run("echo so far > log; exit 3", results=WITH_RESULTS)
    assert (end.result["outcome"], end.result["exit_code"]) == ("failure", 3)
    assert end.result["error"]["code"] == "command_failed"
    assert site.restored(end.result["results"]["manifest_id"]) == {"log": b"so far\n"}


def test_manual_snapshots_while_it_runs(site: TaskSite) -> None:
    """T3, T4, T7: at any moment, with filters of their own; the last one from the final state."""
    go = site.place.base / "go"
    waiting = f"while ! [ -e {go} ]; do sleep 0.05; done"
    site.begin(f"echo 1 > a.txt; echo 2 > b.log; echo ready; {waiting}")
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["snapshots"] = [manual(1, whitelist=r"\.txt$"), manual(2, blacklist="^a")]
    site.desk.wait(lambda: len(site.desk.ends()) == 2)
    first, second = site.desk.ends()
    assert (first["snapshot_id"], first["status"], first["error"]) == ("s-1", "success", None)
    assert site.restored(first["result"]["manifest_id"]) == {"a.txt": b"1\n"}
    assert site.restored(second["result"]["manifest_id"]) == {"b.log": b"2\n"}
    assert first["bytes_total"] == first["bytes_done"] == 2
    assert first["result"]["consistency"] == "frozen"
    assert first["directory_at"] == first["triggered_at"] == "2026-03-01T12:00:01+00:00"
    words = [each["status"] for each in site.desk.of("snapshot") if each["snapshot_id"] == "s-1"]
    assert words == ["inProgress", "success"]
    go.touch()
    end = site.end()
    assert end.result["snapshots_taken"] == 2
    assert end.result["frozen_seconds"] > 0
    assert os.listdir(site.directory.place.root / "agent/reports") == []


def test_what_is_ordered_at_the_end_is_taken_of_the_final_state(site: TaskSite) -> None:
    site.begin("echo done > a.txt")
    site.desk.wait(lambda: "uploading" in site.desk.states)
    site.desk.orders["snapshots"] = [manual(1)]
    site.end()
    ends = site.desk.ends()
    # It may have come too late, which is for the control plane to say.
    assert [each["status"] for each in ends] in ([], ["success"])


def test_a_bad_filter_costs_one_snapshot_only(site: TaskSite) -> None:
    site.begin("echo ready; sleep 60")
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["snapshots"] = [manual(1, whitelist="(")]
    site.desk.orders["previews"] = [preview("p-1", whitelist="(")]
    site.desk.wait(lambda: site.desk.ends("s-1") and site.desk.of("preview"))
    assert site.desk.ends("s-1")[0]["error"]["code"] == "bad_pattern"
    assert site.desk.of("preview")[0]["answer"]["error"]["code"] == "bad_pattern"
    site.desk.orders["snapshots"] = [manual(2)]
    site.desk.wait(lambda: site.desk.ends("s-2"))
    assert site.desk.ends("s-2")[0]["status"] == "success"


def preview(preview_id: str, **more: Any) -> dict[str, Any]:
    wanted = {"preview_id": preview_id, "whitelist": None, "blacklist": None, "entries_wanted": 10}
    return {**wanted, **more}


def test_a_preview_is_what_a_snapshot_takes(site: TaskSite) -> None:
    """T10: the form shows what filters would take before anything is taken."""
    site.begin("echo 1 > a.txt; mkdir d; echo 22 > d/b.txt; echo 3 > c.log; echo ready; sleep 60")
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["previews"] = [preview("p-1", blacklist=r"\.log$")]
    site.desk.wait(lambda: site.desk.of("preview"))
    (answered,) = site.desk.of("preview")
    assert answered["answer"] == {
        "files": 2,
        "bytes": 5,
        "entries": [{"path": "a.txt", "bytes": 2}, {"path": "d/b.txt", "bytes": 3}],
        "cut": False,
    }


def test_renewing_inputs_holds_nothing_up(site: TaskSite, tmp_path: Path) -> None:
    """T1: output, previews and the end go on beside it; what came in part is nowhere in /job.

    Captures list the directory as previews do.
    """
    bucket = Bucket()
    try:
        bucket.put("a", b"first", datetime(2026, 3, 1, tzinfo=UTC))
        go = tmp_path / "go"
        command = f"echo one; while ! [ -e {go} ]; do sleep 0.05; done; cat a"
        site.begin(command, bucket=bucket, inputs=[{"bucket": "data"}])
        site.desk.wait(lambda: site.desk.output() == b"one\n")
        bucket.held.set()
        bucket.put("a", bytes(8 << 20), datetime(2026, 3, 3, tzinfo=UTC))
        at = {"renewed_at": "2026-03-04T00:00:00+00:00", "since": "2026-03-02T00:00:00+00:00"}
        site.desk.orders["inputs"] = at
        incoming = site.directory.place.root / "agent/incoming"
        site.desk.wait(lambda: any(each.stat().st_size for each in incoming.iterdir()))
        site.desk.orders["previews"] = [preview("p-1")]
        site.desk.wait(lambda: site.desk.of("preview"))
        assert os.listdir(incoming), "it comes all the while"
        (shown,) = site.desk.of("preview")
        assert shown["answer"]["entries"] == [{"path": "a", "bytes": 5}]
        go.touch()
        end = site.end()
    finally:
        bucket.close()
    assert (end.result["outcome"], end.findings) == ("success", ())
    assert site.desk.output() == b"one\nfirst"
    assert {path.name: path.read_bytes() for path in site.job.iterdir()} == {"a": b"first"}


def test_periodic_snapshots(site: TaskSite) -> None:
    """T3: every N seconds, changed and stopped during the run."""
    # Written beside: between truncating a file and writing it there is an instant, too.
    site.begin("n=0; while :; do n=$((n+1)); echo $n > new; mv new n; sleep 0.1; done")
    site.desk.wait(lambda: "executing" in site.desk.states)
    since = datetime.now(UTC).replace(microsecond=0)
    site.desk.orders["periodic"] = {"seconds": 1, "since": since.isoformat()}
    site.desk.wait(lambda: len([e for e in site.desk.ends() if e["status"] == "success"]) >= 3)
    site.desk.orders["periodic"] = None
    ends = site.desk.ends()
    slots = [datetime.fromisoformat(each["slot_at"]) for each in ends]
    assert len(set(slots)) == len(slots)
    assert all((slot - since).total_seconds() >= 1 for slot in slots)
    assert {each["trigger"] for each in ends} == {"periodic"}
    taken = [each for each in ends if each["status"] == "success"]
    found = [int(site.restored(each["result"]["manifest_id"])["n"]) for each in taken]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_an_abort(site: TaskSite) -> None:
    """T1: cancelled; no results unless they are wanted then."""
    site.begin("echo ready; echo 1 > a; sleep 600", results=WITH_RESULTS)
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["abort"] = True
    end = site.end()
    assert (end.result["outcome"], end.result["results"]) == ("cancelled", None)


def test_an_abort_with_results(site: TaskSite) -> None:
    site.begin(
        "trap 'echo saved > a; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
        results={**WITH_RESULTS, "on_cancel": True},
    )
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["abort"] = True
    end = site.end()
    assert end.result["outcome"] == "cancelled"
    assert site.restored(end.result["results"]["manifest_id"]) == {"a": b"saved\n"}


def test_the_time_limit(site: TaskSite) -> None:
    """What was computed so far is taken once more before the end."""
    since = datetime.now(UTC).isoformat()
    site.desk.orders["periodic"] = {"seconds": 3600, "since": since}
    site.begin("echo 1 > a; sleep 600", time_limit_seconds=1)
    end = site.end()
    assert end.result["outcome"] == "failure"
    assert end.result["error"]["code"] == "time_limit"
    (last,) = site.desk.ends()
    assert (last["status"], last["trigger"]) == ("success", "periodic")
    assert site.restored(last["result"]["manifest_id"]) == {"a": b"1\n"}


def test_a_command_that_cannot_be_meant(site: TaskSite) -> None:
    end = site.run("", constants={})
    assert end.result["error"]["code"] == "start_failed"
    assert end.result["started_at"] is None or end.result["exit_code"] is None
    again = site.run("", constants={}, attempt=2)
    assert again == end, "an end that was noted down stays"
    unknown = site.run("true", profile="quantum", instance_id="i-2")
    assert unknown.result["error"]["code"] == "profile_unknown"


def test_restart_from_a_snapshot(site: TaskSite) -> None:
    """T9: the directory of a new task is the state of a snapshot."""
    end = site.run("mkdir d; echo 41 > d/n; ln -s d/n link", results=WITH_RESULTS)
    before = end.result["results"]["manifest_id"]
    end = site.run(
        "expr $(cat link) + 1 > d/n",
        starts_from={"snapshot_id": "r-1", "manifest_id": before, "captured_path": "/job"},
        instance_id="i-2",
        results={**WITH_RESULTS, "snapshot_id": "r-2"},
    )
    assert end.result["outcome"] == "success"
    assert site.restored(end.result["results"]["manifest_id"]) == {"n": b"42\n"}


def test_a_lost_computation(site: TaskSite) -> None:
    site.begin("echo ready; sleep 600", results=WITH_RESULTS)
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    state = json.loads((site.directory.place.control / "state.json").read_text())
    os.kill(state["supervisor"], signal.SIGKILL)
    end = site.end()
    assert end.result["error"]["code"] == "runner_lost"
    assert end.result["results"] is not None


def test_a_second_attempt_attends_what_runs(site: TaskSite) -> None:
    """It goes on where the first was heard, and starts nothing anew."""
    go = site.place.base / "go"
    command = f"echo $$ >> pids; echo one; while ! [ -e {go} ]; do sleep 0.05; done; echo two"
    site.begin(command)
    site.desk.wait(lambda: site.desk.output() == b"one\n")
    site.forsake()
    messages = len(site.desk.messages)
    site.begin(command, attempt=2, results=WITH_RESULTS)
    site.desk.wait(lambda: "executing" in [m.get("state") for m in site.desk.messages[messages:]])
    go.touch()
    end = site.end()
    assert end.result["outcome"] == "success"
    assert site.desk.output() == b"one\ntwo\n"
    pids = site.restored(end.result["results"]["manifest_id"])["pids"]
    assert len(pids.splitlines()) == 1


def test_what_was_being_taken_when_an_attempt_died(site: TaskSite) -> None:
    """T5: stored and not noted down, it is taken over; not stored, it has failed."""
    command = "echo ready; echo 1 > a; sleep 600"
    site.begin(command)
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["snapshots"] = [manual(1)]
    site.desk.wait(lambda: site.desk.ends("s-1"))
    site.forsake()
    (first,) = site.desk.ends("s-1")
    under_way = {
        "task_snapshot_id": "ts-1",
        "snapshot_id": "s-1",
        "trigger": "manual",
        "triggered_at": first["triggered_at"],
        "slot_at": None,
        "whitelist": None,
        "blacklist": None,
    }
    site.directory.set_state({**site.directory.state(), "done": [], "under_way": under_way})
    site.begin(command, attempt=2)
    site.desk.wait(lambda: len(site.desk.ends("s-1")) == 2)
    _, again = site.desk.ends("s-1")
    assert again["status"] == "success"
    assert again["result"]["manifest_id"] == first["result"]["manifest_id"]
    assert again["result"]["verified"] is True
    site.forsake()
    slot = {"trigger": "periodic", "slot_at": first["triggered_at"], "snapshot_id": "s-2"}
    site.directory.set_state({**site.directory.state(), "under_way": {**under_way, **slot}})
    site.begin(command, attempt=3)
    site.desk.wait(lambda: site.desk.ends("s-2"))
    assert site.desk.ends("s-2")[0]["error"]["code"] == "interrupted"


def test_a_second_attempt_reads_what_changed(
    site: TaskSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6: the last snapshot of the attempt before vouches for what looks the same."""
    # What rested for less than a minute is read again otherwise.
    monkeypatch.setattr(task_recall, "REMOTE_NS", -(10**12))
    command = "head -c 300000 /dev/urandom > big; echo ready; sleep 600"
    site.begin(command)
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.desk.orders["snapshots"] = [manual(1)]
    site.desk.wait(lambda: site.desk.ends("s-1"))
    site.desk.orders["snapshots"] = []
    site.forsake()
    (site.job / "small").write_bytes(b"new")
    site.begin(command, attempt=2)
    site.desk.orders["snapshots"] = [manual(2)]
    site.desk.wait(lambda: site.desk.ends("s-2"))
    before, after = (site.desk.ends(each)[-1]["result"] for each in ("s-1", "s-2"))
    assert before["read_bytes"] >= 300_000
    assert after["read_bytes"] == 3
    assert set(site.restored(after["manifest_id"])) == {"big", "small"}


def test_a_link_in_place_of_the_directory_leads_nowhere(site: TaskSite, tmp_path: Path) -> None:
    """T2: only /job is captured, whatever the command does to its name on the host."""
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    site.begin("echo ready; sleep 600")
    site.desk.wait(lambda: site.desk.output() == b"ready\n")
    site.job.rename(site.job.with_name("was"))
    site.job.symlink_to(secret)
    wanted = {"preview_id": "p-1", "whitelist": None, "blacklist": None, "entries_wanted": 10}
    site.desk.orders |= {"snapshots": [manual(1)], "previews": [wanted]}
    site.desk.wait(lambda: site.desk.ends("s-1") and site.desk.of("preview"))
    (ended,), (previewed,) = site.desk.ends("s-1"), site.desk.of("preview")
    assert ended["error"]["code"] == "path_escapes"
    assert previewed["answer"]["error"]["code"] == "path_escapes"
