"""The renewal of a running instance's inputs: what is copied, what stays, and how it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from input_bucket import Bucket
from task_desk import TaskDesk, task_spec

from holdfast.agent.jobs import task_inputs
from holdfast.agent.jobs.context import JobContext
from holdfast.agent.jobs.task_directory import Identity, TaskDirectory
from holdfast.agent.jobs.task_inputs import Fetched, fetch_inputs
from holdfast.agent.jobs.task_inputs_renewal import InputsRenewal
from holdfast.agent.jobs.task_notebook import Notebook
from holdfast.agent.jobs.task_spec import Input
from holdfast.agent.jobs.task_spec import task_spec as parsed
from holdfast.model.finding import Finding

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def wish(at: datetime, since: datetime = NOW) -> dict[str, Any]:
    return {"inputs": {"renewed_at": at.isoformat(), "since": since.isoformat()}}


class Instance:
    """A directory with a renewal of its own."""

    def __init__(self, bucket: Bucket, desk: TaskDesk, above: Path) -> None:
        self.bucket, self.desk = bucket, desk
        self.directory = TaskDirectory(str(above), "i-1")
        self.directory.make(Identity("job", "i-1", "task", "local"))
        self.job = self.directory.place.job
        self.said: list[str] = []
        self.stages: list[str] = []
        self.found: list[Finding] = []
        self.inputs = [{"bucket": "data", "prefix": "in/", "strip_prefix": "in/"}]
        self.attempt()

    def attempt(self) -> None:
        """Attend it anew, as after the end of an agent."""
        self.context = JobContext(
            job_id="j", kind="task", attempt=1, spec={},
            repository={"id": "r", "url": f"{self.bucket.url}/restic/r/", "password": ""},
            credential="full", host_name="h", roots=(), put_only=False, workers=0,
            state_directory="", cache_directory="",
            report=lambda stage, _: self.stages.append(stage),
            say=lambda _, line: self.said.append(line),
        )  # fmt: skip
        self.notebook = Notebook(self.directory, self.desk.mailbox)
        self.renewal = InputsRenewal(
            self.context,
            parsed(task_spec("true", inputs=self.inputs)),
            self.notebook,
            os.fsencode(self.job),
            aside=self.directory.incoming,
            find=self.found.append,
        )

    def act(self, orders: dict[str, Any]) -> None:
        """Follow the orders until nothing is under way any more."""
        self.renewal.act(orders)
        self.wait(lambda: not self.renewal.is_busy, orders)

    def wait(self, what: Callable[[], object], orders: dict[str, Any]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.01)
            self.renewal.act(orders)

    @property
    def incoming(self) -> Path:
        return Path(os.fsdecode(self.directory.incoming))

    def parts(self) -> list[str]:
        return os.listdir(self.incoming) if self.incoming.exists() else []

    def fetch(self, inputs: list[Input], newer_than: datetime) -> Fetched:
        return fetch_inputs(
            self.context,
            inputs,
            os.fsencode(self.job),
            aside=self.directory.incoming,
            check=lambda: None,
            newer_than=newer_than,
        )

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.job)): path.read_bytes()
            for path in self.job.rglob("*")
            if path.is_file()
        }

    def copied(self) -> list[str]:
        """The objects that were asked for since the last time."""
        below = "/data/v1/buckets/data/objects/"
        found = [each.removeprefix(below) for each in self.bucket.asked if below in each]
        self.bucket.asked.clear()
        return found


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    bucket, desk = Bucket(), TaskDesk()
    made = Instance(bucket, desk, tmp_path)
    yield made
    made.renewal.stop()
    desk.close()
    bucket.close()


def test_what_is_new_comes_and_nothing_else_changes(instance: Instance) -> None:
    """T1: additive; what the command changed or deleted stays so."""
    instance.bucket.put("in/changed", b"first", later(-9))
    instance.bucket.put("in/deleted", b"first", later(-9))
    instance.bucket.put("in/replaced", b"second", later(1))
    instance.bucket.put("in/deep/new", b"new", later(2))
    instance.bucket.put("elsewhere", b"new", later(2))
    (instance.job / "changed").write_bytes(b"by the command")
    (instance.job / "replaced").write_bytes(b"first")
    (instance.job / "own").write_bytes(b"own")
    with open(instance.job / "replaced", "rb") as reader:
        instance.act(wish(later(3)))
        assert reader.read() == b"first", "who has it open reads on what it has"
    assert instance.files() == {
        "changed": b"by the command",
        "replaced": b"second",
        "deep/new": b"new",
        "own": b"own",
    }
    assert instance.said == ["Renewed the inputs: 2 objects, 9 bytes."]
    assert (instance.found, instance.stages) == ([], [])


def test_each_wish_is_done_once_and_begins_where_the_last_one_ended(instance: Instance) -> None:
    instance.bucket.put("in/a", b"1", later(1))
    instance.act({})
    instance.act({"inputs": None})
    assert instance.bucket.asked == []
    instance.act(wish(later(2)))
    assert instance.copied() == ["in/a"]
    (instance.job / "a").write_bytes(b"by the command")
    instance.act(wish(later(2)))
    instance.attempt()
    instance.act(wish(later(2)))
    assert instance.bucket.asked == [], "another attempt knows of it"
    instance.bucket.put("in/b", b"2", later(3))
    instance.act(wish(later(4)))
    assert instance.copied() == ["in/b"]
    assert instance.files() == {"a": b"by the command", "b": b"2"}


def test_a_failed_one_is_told_and_the_next_one_makes_good_for_it(instance: Instance) -> None:
    instance.bucket.put("in/a", b"1", later(1))
    whole = instance.bucket.page
    instance.bucket.page = lambda *_: {}  # type: ignore[method-assign]
    instance.act(wish(later(2)))
    instance.act(wish(later(2)))
    (found,) = instance.found
    assert (found.code, found.subject) == ("inputs_not_renewed", later(2).isoformat())
    assert instance.notebook.inputs_at is None
    instance.bucket.page = whole  # type: ignore[method-assign]
    instance.act(wish(later(3)))
    assert instance.files() == {"a": b"1"}
    assert instance.notebook.inputs_at == later(3)


def test_a_stop_leaves_nothing_behind(instance: Instance) -> None:
    """The end of a computation does not wait for it, and no half of a file is in the results."""
    instance.bucket.put("in/a", bytes(8 << 20), later(1))
    (instance.job / "a").write_bytes(b"first")
    instance.bucket.held.set()
    orders = wish(later(2))
    instance.renewal.act(orders)
    instance.wait(lambda: instance.parts(), orders)
    assert instance.files() == {"a": b"first"}, "a part of it is not where a capture looks"
    instance.renewal.stop()
    assert instance.parts() == []
    assert instance.files() == {"a": b"first"}
    assert instance.notebook.inputs_at is None
    assert instance.said == ["The renewal of the inputs was left off: the task ends."]
    assert instance.found == []
    instance.renewal.act(wish(later(9)))
    assert not instance.renewal.is_busy, "after the end nothing is begun"


def test_what_a_killed_attempt_has_left_goes_with_the_next(instance: Instance) -> None:
    instance.bucket.put("in/a", bytes(8 << 20), later(1))
    instance.bucket.held.set()
    orders = wish(later(2))
    instance.renewal.act(orders)
    instance.wait(lambda: instance.parts(), orders)
    (left,) = instance.parts()
    instance.renewal.stop()
    instance.bucket.held.clear()
    (instance.incoming / left).write_bytes(b"a part of it")
    (instance.incoming / "of another version").write_bytes(b"")
    instance.attempt()
    instance.act(orders)
    assert instance.parts() == []
    assert instance.files() == {"a": bytes(8 << 20)}


def test_a_file_has_the_label_of_the_directory_that_it_comes_into(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SELinux lets a container read what is labelled like its own; others stand in for it."""
    monkeypatch.setattr(task_inputs, "_LABEL", "user.label")
    try:
        os.setxattr(instance.job, "user.label", b"of the container")
    except OSError as error:
        pytest.skip(f"this file system has no such attributes: {error.strerror}")
    instance.bucket.put("in/a", b"1", later(1))
    instance.act(wish(later(2)))
    assert os.getxattr(instance.incoming, "user.label") == b"of the container"
    assert instance.files() == {"a": b"1"}


def test_a_link_in_place_of_the_directory_leads_nowhere(instance: Instance, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    instance.bucket.put("in/a", b"1", later(1))
    instance.job.rename(instance.job.with_name("was"))
    instance.job.symlink_to(elsewhere)
    instance.act(wish(later(2)))
    assert [each.code for each in instance.found] == ["inputs_not_renewed"]
    assert os.listdir(elsewhere) == []


def test_a_later_input_wins_also_when_it_is_older(instance: Instance) -> None:
    """Of two inputs with the same path the later one stays, whichever was replaced."""
    instance.bucket.put("low/x", b"replaced", later(1))
    instance.bucket.put("high/x", b"wins", later(-1))
    (instance.job / "x").write_bytes(b"wins")
    inputs = [Input("data", "low/", "low/"), Input("data", "high/", "high/")]
    fetched = instance.fetch(inputs, newer_than=NOW)
    assert (fetched.objects, instance.files()) == (0, {"x": b"wins"})


@pytest.mark.parametrize(("shift", "count"), [(-0.002, 0), (-0.0004, 1), (0.0, 1), (0.0004, 1)])
def test_lists_know_milliseconds(instance: Instance, shift: float, count: int) -> None:
    """What came in the same millisecond is copied rather than forgotten."""
    since = later(0.0005)
    instance.bucket.put("in/a", b"1", since + timedelta(seconds=shift))
    inputs = [Input("data", "in/", "in/")]
    fetched = instance.fetch(inputs, newer_than=since)
    assert fetched.objects == count


def test_an_unsafe_name_is_told_only_while_it_is_new(instance: Instance) -> None:
    instance.bucket.put("in/../old", b"1", later(-1))
    instance.bucket.put("in/../new", b"1", later(1))
    instance.act(wish(later(2)))
    (found,) = instance.found
    assert (found.code, found.subject) == ("input_left_out", "data/in/../new")
