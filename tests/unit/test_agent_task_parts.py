"""The parts of attending a task: commands, the directory, output, captures, inputs, the sweep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from input_bucket import Bucket
from task_desk import TaskDesk, joined, manual, task_spec

from holdfast.agent import load
from holdfast.agent.inventory import Inventory
from holdfast.agent.jobs.context import JobContext
from holdfast.agent.jobs.side_work import Done, SideWork
from holdfast.agent.jobs.task_captures import CapturePlan
from holdfast.agent.jobs.task_command import command_of, runner_name, slurm_seconds
from holdfast.agent.jobs.task_directory import Identity, TaskDirectory, task_directories
from holdfast.agent.jobs.task_inputs import fetch_inputs, safe_path
from holdfast.agent.jobs.task_notebook import Notebook
from holdfast.agent.jobs.task_output import MOST_BYTES, PIECE_BYTES, TaskOutput
from holdfast.agent.jobs.task_spec import Input, TaskSpec
from holdfast.agent.jobs.task_spec import task_spec as parsed
from holdfast.agent.mailbox import Mailbox
from holdfast.agent.task_sweep import FORSAKEN_AFTER, TaskSweep, unfinished_computations
from holdfast.errors import NotFound, StoreUnavailable, TargetFull, UsageError
from holdfast.model.progress import Progress
from holdfast.runners.choice import DEFAULTS, runner_for
from holdfast.runners.runner import Command

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def spec(profile: str = "batch", **constants: str) -> TaskSpec:
    document = task_spec("")
    return parsed({**document, "profile": profile, "constants": constants, "number": 3})


# Commands


def test_a_batch_command_goes_to_a_shell_with_its_variables() -> None:
    found = command_of(spec(COMMAND="echo $A", A="1", INSTANCE_ID="9", **{"no-name": "x"}))
    assert found.argv == ("/bin/sh", "-c", "echo $A")
    assert found.environment == {
        "A": "1",
        "HOLDFAST_TASK_ID": "0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11",
        "HOLDFAST_INSTANCE": "3",
        "INSTANCE_ID": "3",
        "INSTANCE_COUNT": "1",
    }


def test_a_container_is_named_by_its_constants() -> None:
    found = command_of(
        spec("docker-batch", DOCKER_REPO="library/busybox", DOCKER_CMD="ls", DOCKER_USER="7", X="y")
    )
    assert (found.image, found.user, found.workdir) == ("library/busybox:latest", "7", "/job")
    assert found.argv == ("/bin/sh", "-c", "ls")
    assert found.environment["X"] == "y"
    assert not any(name.startswith("DOCKER_") for name in found.environment)
    pinned = spec("docker-batch", DOCKER_REPO="r", DOCKER_TAG="1", DOCKER_IMAGE_DIGEST="sha256:0")
    found = command_of(pinned)
    assert (found.image, found.image_digest, found.argv) == ("r:1", "sha256:0", ())


def test_the_shorter_time_limit_counts() -> None:
    wanted = spec("slurm-batch", COMMAND="x", SLURM_TIME_LIMIT="2", SLURM_PARTITION="gpu")
    assert command_of(wanted).partition == "gpu"
    assert command_of(wanted).time_limit_seconds == 120
    assert command_of(replace(wanted, time_limit_seconds=60)).time_limit_seconds == 60
    times = {"90": 5400, "1:30": 90, "1:00:05": 3605, "2-3": 183600, "1-0:1:1": 86461, " ": None}
    assert {text: slurm_seconds(text) for text in times} == times
    with pytest.raises(UsageError, match="SLURM_TIME_LIMIT"):
        slurm_seconds("an hour")


@pytest.mark.parametrize("wanted", [spec(), spec("docker-batch", DOCKER_CMD="x"), spec(COMMAND="")])
def test_a_command_that_lacks_something(wanted: TaskSpec) -> None:
    with pytest.raises(UsageError, match="needs the constant"):
        command_of(wanted)


def test_specs_of_another_version() -> None:
    with pytest.raises(UsageError, match="profile"):
        runner_name(spec("quantum"))
    for name in ("task_id", "instance_id", "number", "profile"):
        document = task_spec("x")
        del document[name]
        with pytest.raises(UsageError, match=name):
            parsed(document)


# The directory and its notes


def made(tmp_path: Path, instance_id: str = "i-1", job_id: str = "job-1") -> TaskDirectory:
    directory = TaskDirectory(str(tmp_path), instance_id)
    directory.make(Identity(job_id, instance_id, "t-1", "local"))
    return directory


def test_a_preparation_that_was_cut_off_begins_anew(tmp_path: Path) -> None:
    directory = made(tmp_path)
    (directory.place.job / "half").write_text("x")
    assert not directory.is_prepared
    directory = made(tmp_path)
    assert os.listdir(directory.place.job) == []
    directory.set_prepared()
    directory.set_started(NOW)
    again = TaskDirectory(str(tmp_path), "i-1")
    assert (again.is_prepared, again.started_at, again.finished()) == (True, NOW, None)
    assert again.identity() == Identity("job-1", "i-1", "t-1", "local")
    for name in ("../x", "", "a/b", "."):
        with pytest.raises(UsageError, match="no id"):
            TaskDirectory(str(tmp_path), name)


def test_notes_that_are_not_whole_say_nothing(tmp_path: Path) -> None:
    directory = made(tmp_path)
    notes = directory.place.root / "agent"
    for name in ("finished.json", "state.json", "task.json", "reports/s-1.json"):
        (notes / name).write_text('{"half":')
    (notes / "reports/s-2.json.new").write_text("{}")
    assert directory.finished() is None
    assert directory.state() == {}
    assert directory.identity() is None
    assert directory.reports() == {}


def test_the_end_of_a_snapshot_is_told_until_it_is_heard(tmp_path: Path) -> None:
    """T5: the report of a finished snapshot survives its attempt."""
    directory = made(tmp_path)
    box = Mailbox(lambda _: None)
    notebook = Notebook(directory, box)
    plan = CapturePlan("t", 0, begins_at=NOW)
    (wanted,) = plan.manual({"snapshots": [manual(1)]})
    notebook.begins(wanted)
    lost = Notebook(directory, box)
    assert lost.under_way() == wanted, "the next attempt knows what was being taken"
    notebook.ended(wanted, wanted.message("success", result={"manifest_id": "m"}))
    said: list[dict[str, Any]] = []
    second = Mailbox(lambda document: said.append(dict(document)))
    notebook = Notebook(directory, second)
    notebook.tell_again()
    assert [each["message"]["status"] for each in said] == ["success"]
    assert notebook.under_way() is None
    assert notebook.done == ["s-1"]
    notebook.settle()
    assert list(directory.reports()) == ["s-1"]
    second.take({"heard": 1})
    notebook.settle()
    assert directory.reports() == {}


def test_a_full_disk_does_not_end_the_attendance(tmp_path: Path) -> None:
    directory = made(tmp_path)
    said: list[dict[str, Any]] = []
    notebook = Notebook(directory, Mailbox(lambda document: said.append(dict(document))))
    (wanted,) = CapturePlan("t", 0, begins_at=NOW).manual({"snapshots": [manual(1)]})
    notes = directory.place.root / "agent"
    notes.rename(tmp_path / "kept")
    notes.write_text("no directory can be made here")
    notebook.begins(wanted)
    notebook.ended(wanted, wanted.message("success"))
    assert said, "it is told all the same"
    assert notebook.trouble is not None
    assert notebook.trouble.code == "notes_not_kept"
    notes.unlink()
    (tmp_path / "kept").rename(notes)
    notebook.save()
    assert Notebook(directory, Mailbox(lambda _: None)).done == ["s-1"], "it is tried again"


# Output


@pytest.fixture
def desk() -> Iterator[TaskDesk]:
    made_desk = TaskDesk()
    yield made_desk
    made_desk.close()


def test_output_goes_in_pieces_and_goes_on_where_it_was_heard(
    desk: TaskDesk, tmp_path: Path
) -> None:
    file = tmp_path / "stdout"
    output = TaskOutput(desk.mailbox, "stdout", file)
    assert not output.send(), "nothing was written yet"
    data = os.urandom(PIECE_BYTES + 1000)
    file.write_bytes(data)
    assert not output.send()
    assert [each["offset"] for each in desk.of("output")] == [0, PIECE_BYTES]
    assert desk.output() == data
    desk.wait(lambda: output.heard_bytes == len(data))
    with file.open("ab") as opened:
        opened.write(b"more")
    TaskOutput(desk.mailbox, "stdout", file, output.heard_bytes).send()
    assert desk.output() == data + b"more"


def test_a_fast_command_does_not_fill_the_memory(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    box = Mailbox(lambda document: said.append(dict(document["message"])))
    file = tmp_path / "stdout"
    file.touch()
    os.truncate(file, MOST_BYTES + 5)
    output = TaskOutput(box, "stdout", file)
    assert output.send(), "there is more"
    assert output.send()
    assert len(box.unheard()) * PIECE_BYTES <= 8 << 20
    while output.send():
        box.take({"heard": len(said)})
    assert len(joined(said, "stdout")) == MOST_BYTES
    assert output.is_cut
    assert output.finding.code == "output_cut"


# When to capture


def periodic(seconds: int, since: datetime = NOW) -> dict[str, Any]:
    return {"periodic": {"seconds": seconds, "since": since.isoformat(), "whitelist": "x"}}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_slots_are_taken_once_each() -> None:
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=at(25))
    taken = []
    for second in range(70):
        decision = plan.decide(periodic(10), at(second), busy_since=None)
        assert decision.skipped == ()
        if decision.begin is not None:
            taken.append(decision.begin)
    assert [each.slot_at for each in taken] == [at(30), at(40), at(50), at(60)]
    assert len({each.snapshot_id for each in taken}) == 4
    assert taken[0].filters.whitelist == "x"
    again = CapturePlan(
        "0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=at(25), last_slot=plan.last_slot
    )
    assert again.decide(periodic(10), at(69), busy_since=None).begin is None


def test_an_overlap_is_skipped_and_says_how_long() -> None:
    """T8: an overlap is skipped and recorded, never queued."""
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=NOW)
    assert plan.decide(periodic(10), at(10), busy_since=None).begin is not None
    decision = plan.decide(periodic(10), at(20.5), busy_since=at(10))
    assert decision.begin is None
    (skipped,) = decision.skipped
    assert skipped.wanted.slot_at == at(20)
    assert "10.5 s" in skipped.finding.message
    assert plan.decide(periodic(10), at(29), busy_since=None).begin is None, "it is not queued"


def test_an_absence_is_no_flood() -> None:
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=NOW)
    decision = plan.decide(periodic(1), at(86_400), busy_since=None)
    assert decision.begin is not None
    assert decision.begin.slot_at == at(86_400)
    assert 0 < len(decision.skipped) <= 20
    assert decision.skipped[-1].wanted.slot_at == at(86_399)


def test_slots_before_the_command_began_do_not_count() -> None:
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=NOW)
    plan.begin(at(35))
    decision = plan.decide(periodic(10), at(39), busy_since=None)
    assert (decision.begin, decision.skipped) == (None, ())
    decision = plan.decide(periodic(10), at(40), busy_since=None)
    assert decision.begin is not None
    assert decision.begin.slot_at == at(40)
    plan.begin(at(35))
    assert plan.decide(periodic(10), at(41), busy_since=None).begin is None


def test_the_last_one_is_never_left_out() -> None:
    """T5: not even in the second of the beginning, or of a slot."""
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=at(0.4))
    lasts = [plan.last(periodic(10), at(second)) for second in (0.7, 0.9, 7.5)]
    assert [each and each.slot_at for each in lasts] == [at(1), at(2), at(7)]
    assert plan.last({"periodic": None}, at(9)) is None


def test_manual_ones_wait_their_turn_and_come_once() -> None:
    plan = CapturePlan("0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11", 0, begins_at=NOW, done=["s-9"])
    orders = {"snapshots": [manual(2), manual(1), manual(9)], **periodic(10)}
    assert plan.decide(orders, at(5), busy_since=at(1)).begin is None
    first = plan.decide(orders, at(10), busy_since=None).begin
    assert first is not None
    assert first.trigger == "periodic", "a slot has its moment"
    second = plan.decide(orders, at(11), busy_since=None).begin
    assert second is not None
    assert second.snapshot_id == "s-1"
    plan.done.add("s-1")
    third = plan.decide(orders, at(12), busy_since=None).begin
    assert third is not None
    assert third.snapshot_id == "s-2"
    plan.done.add("s-2")
    assert plan.decide(orders, at(13), busy_since=None).begin is None


# Work beside


def test_work_beside_opens_once_and_anew_after_a_failure() -> None:
    opened = 0

    def opening() -> nullcontext[int]:
        nonlocal opened
        opened += 1
        return nullcontext(opened)

    work: SideWork[int] = SideWork("test", opening)
    ends: list[Done] = []

    def do(act: Any) -> Done:
        work.begin(act, ends.append)
        deadline = time.monotonic() + 30
        while work.is_busy:
            assert time.monotonic() < deadline
            work.poll()
        return ends[-1]

    assert [do(lambda number: number).value for _ in range(2)] == [1, 1]
    assert isinstance(do(lambda _: 1 / 0).error, ZeroDivisionError)
    assert do(lambda number: number).value == 2
    assert work.stop()


def test_a_stop_unwinds_what_reports() -> None:
    work: SideWork[None] = SideWork("test", nullcontext)
    begun = threading.Event()
    report = work.checked(lambda _: begun.set())

    def act(_: None) -> None:
        while True:
            report(Progress("x"))
            time.sleep(0.001)

    work.begin(act, lambda _: None)
    assert begun.wait(30)
    assert work.stop()


# Inputs


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    served = Bucket()
    yield served
    served.close()


@contextmanager
def fetched(
    bucket: Bucket, job: Path, *inputs: Input, check: Any = lambda: None
) -> Iterator[tuple[dict[str, bytes], Any]]:
    job.mkdir(exist_ok=True)
    context = JobContext(
        job_id="j", kind="task", attempt=1, spec={},
        repository={"id": "repo", "url": f"{bucket.url}/restic/repo/", "password": ""},
        credential="full", host_name="h", roots=(), put_only=False, workers=0,
        state_directory="", cache_directory="", report=lambda *_: None, say=lambda *_: None,
    )  # fmt: skip
    aside = os.fsencode(job.parent / "incoming")
    done = fetch_inputs(context, inputs, os.fsencode(job), aside=aside, check=check)
    yield (
        {
            str(path.relative_to(job)): path.read_bytes()
            for path in job.rglob("*")
            if path.is_file() and not path.is_symlink()
        },
        done,
    )


def test_inputs_are_copied_below_the_directory(bucket: Bucket, tmp_path: Path) -> None:
    """T1: input buckets are in the directory before the command starts."""
    bucket.objects = {
        "in/a": b"1", "in/deep/er/b": os.urandom(3_000_000), "in/empty": b"", "in/folder/": b"",
        "other": b"no", "in/ü #?%41": b"odd",
    }  # fmt: skip
    bucket.cut = {"in/deep/er/b"}
    with fetched(bucket, tmp_path / "job", Input("data", "in/", "in/")) as (found, done):
        assert found == {
            "a": b"1",
            "deep/er/b": bucket.objects["in/deep/er/b"],
            "empty": b"",
            "ü #?%41": b"odd",
        }
        assert (done.objects, done.findings) == (4, ())
    assert bucket.asked.count("/data/v1/buckets/data/objects/in/deep/er/b") == 2, "asked again"


def test_more_objects_than_a_page(bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects = {f"{number:04}": b"" for number in range(1001)}
    with fetched(bucket, tmp_path / "job", Input("data")) as (found, _):
        assert len(found) == 1001


def test_no_object_leads_out_of_the_directory(bucket: Bucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"kept")
    job = tmp_path / "job"
    job.mkdir()
    (job / "link").symlink_to(outside)
    (job / "way").symlink_to(outside / "file")
    bucket.objects = {
        "../escape": b"x", "a/../../escape": b"x", "link/planted": b"x", "way": b"mine",
        "file": b"1", "file/below": b"2",
    }  # fmt: skip
    with fetched(bucket, job, Input("data")) as (found, done):
        assert found == {"way": b"mine", "file": b"1"}
        assert sorted(each.subject for each in done.findings) == [
            "data/../escape",
            "data/a/../../escape",
            "data/file/below",
            "data/link/planted",
        ]
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_bytes() == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["incoming", "job", "outside"]
    assert os.listdir(tmp_path / "incoming") == []


def test_names_of_objects_as_paths() -> None:
    assert safe_path("a//b") == ("a", "b")
    assert safe_path("/etc/passwd") == ("etc", "passwd")
    assert safe_path("folder/") == ()
    assert safe_path("in/a", "in/") == ("a",)
    assert safe_path("x" * 300) is None
    assert safe_path("a\0b") is None


def test_inputs_that_are_not_there_or_change(bucket: Bucket, tmp_path: Path) -> None:
    with (
        pytest.raises(NotFound, match="bucket nothing"),
        fetched(bucket, tmp_path / "job", Input("nothing")),
    ):
        pass
    bucket.objects = {"a": b"22"}
    listed = bucket.page("", "")
    listed["objects"][0]["etag"] = "0" * 32
    bucket.page = lambda *_: listed  # type: ignore[method-assign]
    stops = iter([*[False] * 5, *[True] * 1000])

    def check() -> None:
        if next(stops):
            raise KeyboardInterrupt

    with (
        pytest.raises((StoreUnavailable, KeyboardInterrupt)),
        fetched(bucket, tmp_path / "job", Input("data"), check=check),
    ):
        pass
    assert os.listdir(tmp_path / "job") == [], "what is not right is not left"
    assert os.listdir(tmp_path / "incoming") == []


def test_room_is_looked_at_first(bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects = {"a": b"1"}
    listed = bucket.page("", "")
    listed["objects"][0]["size_bytes"] = 1 << 60
    bucket.page = lambda *_: listed  # type: ignore[method-assign]
    with pytest.raises(TargetFull, match="free"), fetched(bucket, tmp_path / "j", Input("data")):
        pass
    assert bucket.asked == ["/data/v1/buckets/data/objects"]


# The sweep


def test_a_forsaken_computation_is_ended_and_its_directory_removed(tmp_path: Path) -> None:
    directory = made(tmp_path)
    runner = runner_for("local")
    directory.set_started(NOW)
    runner.start(directory.place, Command(argv=("sleep", "600")))
    sweep = TaskSweep(str(tmp_path), DEFAULTS)

    def swept(moment: datetime, *, running: list[str], heard: datetime | None = NOW) -> str:
        sweep.sweep(moment, running=running, heard_since=heard)
        return runner.status(directory.place).kind

    try:
        later = NOW + 2 * FORSAKEN_AFTER
        assert swept(NOW, running=["job-1"]) == "running"
        assert swept(later, running=["job-1"]) == "running", "it is attended"
        assert swept(later, running=[]) == "running", "not at once"
        assert swept(later + FORSAKEN_AFTER, running=[], heard=None) == "running", "out of contact"
        assert swept(later + 2 * FORSAKEN_AFTER, running=[], heard=NOW) == "running"
        assert swept(later + 3 * FORSAKEN_AFTER, running=[], heard=later) != "none"
        deadline = time.monotonic() + 30
        while runner.status(directory.place).kind == "running":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sweep.sweep(later + 5 * FORSAKEN_AFTER, running=[], heard_since=NOW)
        assert list(task_directories(str(tmp_path))) == []
    finally:
        runner.remove(directory.place)


def test_a_computation_whose_job_has_ended_is_ended_at_once(tmp_path: Path) -> None:
    directory = made(tmp_path)
    runner = runner_for("local")
    assert unfinished_computations(str(tmp_path)) == [], "nothing was begun"
    directory.set_started(NOW)
    runner.start(directory.place, Command(argv=("sleep", "600")))
    sweep = TaskSweep(str(tmp_path), DEFAULTS)
    try:
        assert unfinished_computations(str(tmp_path)) == ["job-1"]
        sweep.end({"job-2"})
        assert runner.status(directory.place).kind == "running", "it is of another job"
        sweep.end({"job-1"})
        deadline = time.monotonic() + 30
        while runner.status(directory.place).kind == "running":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sweep.end({"job-1"})
        assert directory.place.root.exists(), "what was not fetched may be looked for"
        directory.set_finished({"result": {}, "findings": []})
        assert unfinished_computations(str(tmp_path)) == []
    finally:
        runner.remove(directory.place)


def test_an_end_that_was_not_reported_is_kept(tmp_path: Path) -> None:
    directory = made(tmp_path)
    directory.set_finished({"result": {}, "findings": []})
    (tmp_path / "i-2").mkdir()
    sweep = TaskSweep(str(tmp_path), DEFAULTS)
    sweep.sweep(NOW, running=[], heard_since=None)
    sweep.sweep(NOW + 10 * FORSAKEN_AFTER, running=[], heard_since=None)
    assert directory.finished() is not None
    sweep.sweep(NOW + 11 * FORSAKEN_AFTER, running=[], heard_since=NOW)
    sweep.sweep(NOW + 12 * FORSAKEN_AFTER, running=["job-1"], heard_since=NOW)
    assert directory.finished() is not None
    assert not (tmp_path / "i-2").exists(), "it was never made whole"
    sweep.sweep(NOW + 13 * FORSAKEN_AFTER, running=[], heard_since=NOW)
    sweep.sweep(NOW + 14 * FORSAKEN_AFTER, running=[], heard_since=NOW)
    assert not directory.place.root.exists()


# Settings, and what a host tells


def test_what_may_run_tasks_is_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('task_slots = 3\ntask_directory = "t"\npodman_run = ["--device", "gpu"]\n')
    found = load(str(file), {"HOLDFAST_AGENT_PODMAN": "sudo 'pod man'"})
    assert (found.task_slots, found.tasks) == (3, str(tmp_path / "t"))
    assert found.runners.podman == ("sudo", "pod man")
    assert found.runners.podman_run == ("--device", "gpu")
    assert load(None, {}).tasks == "/var/lib/holdfast/agent/tasks"
    for name, value in {"PODMAN": "'", "TASK_SLOTS": "-1"}.items():
        with pytest.raises(UsageError):
            load(None, {f"HOLDFAST_AGENT_{name}": value})


def test_a_host_tells_what_runs_tasks_where_it_takes_some() -> None:
    """T11: on one machine out of the box."""
    none = Inventory([], query=("false",)).document(0)
    assert (none["task_slots"], none["runners"]) == (0, {})
    found = Inventory([], task_slots=2, query=("false",)).document(1, 1)
    assert (found["task_slots"], found["tasks_running"]) == (2, 1)
    assert "namespace" in found["runners"]["local"]
