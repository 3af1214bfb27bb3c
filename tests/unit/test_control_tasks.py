"""Tasks in the control plane: submitting, placing, states, aborting, and lost hosts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from control_tasks import Tasks
from control_world import World
from sqlalchemy import func, select

from holdfast.control import (
    buckets,
    hosts,
    job_end,
    jobs,
    metrics,
    restores,
    snapshots,
    sources,
    tasks,
)
from holdfast.control.forsaken import forsaken
from holdfast.control.principal import Right
from holdfast.control.tables import AuditEntry, Bucket, Host, Job, Snapshot, Source, Task
from holdfast.errors import (
    BadPattern,
    CreditExhausted,
    Forbidden,
    NameTaken,
    NoSuchBucket,
    NotFound,
    NotReady,
    UsageError,
)
from holdfast.model.task import InstanceState


@pytest.fixture
def made(world: World) -> Tasks:
    return Tasks(world)


def abort(made: Tasks, task: Task) -> Task:
    with made.world.database.write() as tx:
        return tasks.abort(tx, made.world.principal(), task.id, now=made.world.now)


def remove(made: Tasks, task: Task) -> Task:
    with made.world.database.write() as tx:
        return tasks.remove(tx, made.world.principal(), task.id, now=made.world.now)


def states(made: Tasks, task: Task) -> list[str]:
    return [each.state for each in made.instances(task)]


def test_a_task_goes_through_its_states(world: World, made: Tasks) -> None:
    """T1: Submitted, dispatched, executing, uploading, Success."""
    host = made.host()
    task = made.submit(result_bucket="results", tags=["a"], labels={"team": "x"})
    assert world.again(task).state == "Submitted", "until a host has taken it up"
    job = made.claim(host)
    assert world.again(task).state == "FullyDispatched"
    made.say(host, job, {"type": "state", "state": "executing", "at": made.at(), "runner": "local"})
    seen = world.again(task)
    assert (seen.state, seen.previous_state) == ("FullyExecuting", "FullyDispatched")
    assert seen.started_at == world.now
    world.advance(seconds=5)
    made.say(host, job, {"type": "state", "state": "uploading", "at": made.at()})
    assert world.again(task).state == "UploadingResults"
    made.say(host, job, {"type": "state", "state": "executing", "at": made.at()})
    assert world.again(task).state == "UploadingResults", "a repetition does not lead back"
    ended = made.finish(host, job, results=made.runs.result(files=7))
    assert ended.state == "succeeded"
    seen = world.again(task)
    assert (seen.state, seen.ended_at, seen.state_since) == ("Success", world.now, world.now)
    assert seen.results_count == 7
    assert made.runs.events(task.id) == ["task.submitted", "task.started", "task.ended"]
    with world.database.read() as tx:
        actions = set(tx.scalars(select(AuditEntry.action).where(AuditEntry.subject_id == task.id)))
        assert tx.scalars(select(Bucket.name)).all() == ["results"]
    assert {"task.submit", "task.ended", "task.succeeded"} <= actions
    (instance,) = made.instances(task)
    assert (instance.state, instance.exit_code) == ("succeeded", 0)
    (results,) = made.parts(task)
    assert (results.status, results.kind, results.task_snapshot_id) == ("COMPLETED", "task", None)
    source = world_row(world, Source, results.source_id)
    assert source.removed_at == world.now, "nothing of it will be captured any more"


def test_the_job_says_what_to_do(world: World, made: Tasks) -> None:
    host = made.host(runners=("podman",))
    task = made.submit(
        profile="docker-batch",
        constants=(("DOCKER_REPO", "library/python"), ("SEED", "7")),
        results_whitelist=r"\.pt$",
        time_limit_seconds=60,
    )
    job = made.claim(host)
    spec = job.spec
    assert spec["constants"] == {
        "DOCKER_REPO": "library/python",
        "DOCKER_TAG": "latest",
        "DOCKER_CMD": "",
        "DOCKER_WORKDIR": "/job",
        "DOCKER_USER": "",
        "DOCKER_IMAGE_DIGEST": "",
        "SEED": "7",
    }
    assert spec["results"] == {
        "snapshot_id": None,
        "whitelist": r"\.pt$",
        "blacklist": None,
        "on_cancel": False,
    }
    assert (spec["task_id"], spec["number"], spec["instances"]) == (task.id, 0, 1)
    assert spec["time_limit_seconds"] == 60
    assert job.repository_id is not None


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"profile": "no-such"}, UsageError),
        ({"constants": ()}, UsageError),
        ({"constants": (("COMMAND", " "),)}, UsageError),
        ({"constants": (("COMMAND", "x"), ("not upper", "x"))}, UsageError),
        ({"constants": (("COMMAND", "x"), ("HOLDFAST_JOB", "x"))}, UsageError),
        ({"name": " "}, UsageError),
        ({"instance_count": 0}, UsageError),
        ({"periodic_seconds": 0}, UsageError),
        ({"periodic_seconds": 604_801}, UsageError),
        ({"snapshot_whitelist": "("}, BadPattern),
        ({"results_blacklist": r"(a)\1"}, BadPattern),
        ({"periodic_seconds": 5, "periodic_options": {"whitelist": "["}}, BadPattern),
        ({"periodic_seconds": 5, "periodic_options": {"bucket": "none"}}, NoSuchBucket),
        ({"inputs": ({"bucket": "none"},)}, NoSuchBucket),
        ({"runs_on": "00000000-0000-0000-0000-000000000000"}, NotFound),
        ({"starts_from": "00000000-0000-0000-0000-000000000000"}, NotFound),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_made(
    world: World, made: Tasks, members: dict[str, Any], error: type[Exception]
) -> None:
    """T4: a bad or dangerous pattern is refused at once."""
    with pytest.raises(error):
        made.submit(**members)
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(Task)) == 0


def test_without_credit_nothing_is_taken(world: World, made: Tasks) -> None:
    world.set(world.account, prepaid=True)
    with pytest.raises(CreditExhausted):
        made.submit()


def test_short_names_are_found_and_are_free_again(world: World, made: Tasks) -> None:
    task = made.submit(short_name="train-7")
    with pytest.raises(NameTaken):
        made.submit(short_name="train-7")
    with world.database.read() as tx:
        for word in ("train-7", task.id):
            assert tasks.find(tx, world.principal(), word).id == task.id
    remove(made, task)
    with world.database.read() as tx, pytest.raises(NotFound):
        tasks.find(tx, world.principal(), "train-7")
    made.submit(short_name="train-7")


def test_tasks_are_listed_by_state_tag_label_and_name(world: World, made: Tasks) -> None:
    first = made.submit(name="alpha", tags=["x", "y"], labels={"team": "vision"})
    world.advance(seconds=1)
    second = made.submit(name="beta", tags=["z"], labels={"team": "text"})
    gone = made.submit(name="gamma", tags=["x"])
    remove(made, gone)

    def found(**filters: Any) -> list[str]:
        with world.database.read() as tx:
            return [each.id for each in tasks.tasks(tx, world.principal(), **filters).items]

    assert found() == [second.id, first.id]
    assert found(tag="x") == [first.id]
    assert found(label="team") == [second.id, first.id]
    assert found(label="team=text") == [second.id]
    assert found(search="ALP") == [first.id]
    assert found(state="Submitted") == [second.id, first.id]
    assert found(state="Success") == []


# Placing


def test_instances_go_to_hosts_that_offer_what_they_need(world: World, made: Tasks) -> None:
    """T11: several hosts, fewest first; others are left alone."""
    made.host(runners=("podman",))
    made.host(silent_since=world.now)
    made.host(seen_at=world.now - timedelta(minutes=5))
    made.host(put_only=True)
    made.host(revoked_at=world.now)
    made.host(slots=0)
    made.host(account=world.add_account("Other"))
    few, many = made.host(slots=2), made.host(slots=5)
    task = made.submit(instance_count=9)
    placed = [each.host_id for each in made.instances(task)]
    assert placed.count(few.id) == 2
    assert placed.count(many.id) == 5
    assert placed.count(None) == 2, "they wait for a slot"
    assert made.place() == 0
    job = made.claim(few)
    made.finish(few, job)
    assert made.place() == 1


def test_a_wished_host_is_waited_for(world: World, made: Tasks) -> None:
    made.host()
    wished = made.host(silent_since=world.now)
    task = made.submit(runs_on=wished.id)
    assert made.instances(task)[0].host_id is None
    world.set(wished, silent_since=None)
    assert made.place() == 1
    assert made.instances(task)[0].host_id == wished.id


def test_a_heartbeat_of_a_host_with_slots_places(world: World, made: Tasks) -> None:
    host = world.add_host()
    task = made.submit()
    inventory = {"task_slots": 1, "runners": {"local": {"namespace": True}}}
    with world.database.write() as tx:
        hosts.heartbeat(
            tx,
            world.agent(host),
            instance="agent-1",
            version="1",
            inventory=inventory,
            running=[],
            now=world.now,
        )
    assert made.instances(task)[0].host_id == host.id


def test_a_host_that_does_not_take_it_up_loses_it_to_another(world: World, made: Tasks) -> None:
    first = made.host()
    task = made.submit()
    source_id = made.instances(task)[0].source_id
    world.advance(minutes=3)
    assert made.runs.expire() == 1
    assert world.again(task).state == "Submitted"
    assert made.instances(task)[0].job_id is None
    world.set(first, silent_since=world.now)
    second = made.host()
    assert made.place() == 1
    (instance,) = made.instances(task)
    assert (instance.host_id, instance.source_id) == (second.id, source_id)
    job = made.claim(second)
    assert made.finish(second, job).state == "succeeded"
    assert world.again(task).state == "Success"


def test_tasks_have_room_of_their_own(world: World, made: Tasks) -> None:
    """A host whose other jobs are at their limit still runs tasks, and the other way round."""
    host = made.host(max_jobs=1)
    made.runs.add(world.add_source(host, "/root/a"))
    backup = made.runs.add(world.add_source(host, "/root/b"))[1]
    made.submit()
    made.submit()

    def claim(**room: int) -> str | None:
        world.advance(milliseconds=1)
        who = world.agent(host)
        wanted = jobs.Room(**room) if room else None
        with world.database.write() as tx:
            worth = jobs.is_worth_claiming(tx, who, instance="a", room=wanted, now=world.now)
            job = jobs.claim(tx, who, instance="a", room=wanted, now=world.now)
            assert worth or job is None
            return None if job is None else job.kind

    assert claim(jobs=0, tasks=0) is None
    assert claim(jobs=0, tasks=1) == "task"
    assert claim(jobs=1, tasks=0) == "backup"
    assert claim(jobs=1, tasks=0) is None, "max_jobs"
    assert claim() == "task", "which does not count there"
    assert claim() is None
    assert world.again(backup).state == "queued"


# Ends


def test_the_error_of_an_instance_is_kept(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host)
    made.finish(host, job, "failure", error={"code": "time_limit", "message": "Too long."})
    (instance,) = made.instances(task)
    assert (instance.state, instance.error_code) == ("failed", "time_limit")
    assert (instance.exit_code, world.again(task).state) == (1, "Failure")
    task, job = made.running(host)
    made.finish(host, job, "failure")
    assert made.instances(task)[0].error_code == "command_failed"


def test_aborting_what_waits_is_at_once(world: World, made: Tasks) -> None:
    waiting = made.submit()
    assert abort(made, waiting).state == "Cancelled"
    host = made.host()
    given = made.submit()
    assert abort(made, given).state == "Cancelled"
    assert made.runs.claim(host) is None
    assert made.runs.events(given.id) == ["task.submitted", "task.cancelled"]
    assert abort(made, given).state == "Cancelled", "again is no error"
    task, job = made.running(host)
    made.finish(host, job)
    with pytest.raises(NotReady):
        abort(made, task)


def test_aborting_what_runs_is_an_order(world: World, made: Tasks) -> None:
    """T1: PendingCancel until the host has done it."""
    host = made.host()
    task, job = made.running(host, instance_count=1)
    assert made.say(host, job)["abort"] is False
    assert abort(made, task).state == "PendingCancel"
    assert made.say(host, job)["abort"] is True
    made.finish(host, job, "cancelled")
    assert world.again(task).state == "Cancelled"


def test_aborting_ends_waiting_instances_and_orders_the_others(world: World, made: Tasks) -> None:
    host = made.host(slots=2)
    task = made.submit(instance_count=3)
    job = made.claim(host)
    assert abort(made, task).state == "PendingCancel"
    assert sorted(states(made, task)) == ["cancelled", "cancelled", "preparing"]
    assert made.say(host, job)["abort"] is True
    made.finish(host, job, "cancelled")
    assert world.again(task).state == "Cancelled"


def renew(made: Tasks, task: Task) -> Task:
    with made.world.database.write() as tx:
        return tasks.renew_inputs(tx, made.world.principal(), task.id, now=made.world.now)


def with_inputs(made: Tasks, host: Any, **members: Any) -> tuple[Task, Job]:
    world = made.world
    with world.database.write() as tx:
        buckets.ensure(tx, world.account.id, "inputs", keys=world.keys, now=world.now)
    return made.running(host, inputs=({"bucket": "inputs"},), **members)


def test_renewing_inputs_is_an_order(world: World, made: Tasks) -> None:
    """T1: what came into the buckets since; the order stands, and a new wish is a later time."""
    host = made.host()
    task, job = with_inputs(made, host)
    since = world.now
    assert made.say(host, job)["inputs"] is None
    world.advance(seconds=9)
    renew(made, task)
    first = {"renewed_at": world.now.isoformat(), "since": since.isoformat()}
    assert made.say(host, job)["inputs"] == first
    assert made.say(host, job)["inputs"] == first
    renew(made, task)
    again = made.say(host, job)["inputs"]
    assert again["renewed_at"] > first["renewed_at"], "also within one tick of the clock"
    assert again["since"] == first["since"]
    with world.database.read() as tx:
        entries = tx.scalars(select(AuditEntry).where(AuditEntry.action == "task.renew_inputs"))
        assert [each.subject_id for each in entries] == [task.id] * 2


def test_inputs_are_renewed_only_of_what_computes_and_has_any(world: World, made: Tasks) -> None:
    host = made.host()
    without, _ = made.running(host)
    with pytest.raises(UsageError, match="no input"):
        renew(made, without)
    storing, job = with_inputs(made, host)
    made.say(host, job, {"type": "state", "state": "uploading", "at": made.at()})
    with pytest.raises(NotReady, match="UploadingResults"):
        renew(made, storing)
    made.finish(host, job)
    with pytest.raises(NotReady, match="Success"):
        renew(made, storing)
    ending, job = with_inputs(made, host)
    abort(made, ending)
    with pytest.raises(NotReady, match="being ended"):
        renew(made, ending)
    reader = replace(world.principal(), rights=frozenset({Right.READ}))
    with pytest.raises(Forbidden), world.database.write() as tx:
        tasks.renew_inputs(tx, reader, ending.id, now=world.now)
    remove(made, storing)
    with pytest.raises(NotFound):
        renew(made, storing)


def test_deleting_a_running_task_aborts_it_first(world: World, made: Tasks) -> None:
    """T1: PendingDelete on the way out; snapshots stay."""
    host = made.host()
    task, job = made.running(host, result_bucket="results", results_on_cancel=True)
    assert remove(made, task).state == "PendingDelete"
    assert made.say(host, job)["abort"] is True
    made.finish(host, job, "cancelled", results=made.runs.result())
    assert world.again(task).removed_at == world.now
    with world.database.read() as tx, pytest.raises(NotFound):
        tasks.get(tx, world.principal(), task.id)
    assert [each.status for each in made.parts(task)] == ["COMPLETED"]
    assert made.runs.events(task.id)[-2:] == ["task.cancelled", "task.removed"]


def test_a_restarted_agent_attaches_and_a_lost_host_fails(world: World, made: Tasks) -> None:
    """T5: the host died; the task ends, and says why."""
    host = made.host()
    task, job = made.running(host)
    world.advance(seconds=job_end.RETRY_PAUSES_SECONDS[0])
    again = made.claim(host, "agent-2")
    assert (again.id, again.attempt) == (job.id, 2), "at once, not after a pause"
    assert again.give_up_at is None
    assert world.again(task).state == "FullyExecuting"
    world.advance(seconds=jobs.LEASE_SECONDS)
    made.runs.expire()
    assert world.again(job).state == "queued"
    assert world.again(task).state == "FullyExecuting", "the computation may be going on"
    world.advance(seconds=301)
    made.runs.expire()
    (instance,) = made.instances(task)
    assert (instance.state, instance.error_code) == ("failed", "host_lost")
    assert world.again(task).state == "Failure"


def test_a_host_that_comes_back_is_told_which_computations_are_forsaken(
    world: World, made: Tasks
) -> None:
    host, other = made.host(), made.host()
    _, job = made.running(host)

    def told(asking: Host = host) -> list[str]:
        with world.database.read() as tx:
            return forsaken(tx, world.agent(asking), [job.id, "another"])

    assert told() == [], "it is attended"
    world.advance(seconds=jobs.LEASE_SECONDS)
    made.runs.expire()
    assert told() == [], "an attempt may attach to it"
    world.advance(seconds=301)
    made.runs.expire()
    assert world.again(job).state == "failed"
    assert told() == [job.id]
    assert told(other) == []


def test_an_aborted_task_of_a_lost_host_is_cancelled(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host)
    world.advance(seconds=jobs.LEASE_SECONDS)
    made.runs.expire()
    assert abort(made, task).state == "PendingCancel", "somebody may attach and end it"
    assert world.again(job).state == "queued"
    world.advance(seconds=301)
    made.runs.expire()
    assert world.again(task).state == "Cancelled"
    assert made.instances(task)[0].error_code == "host_lost"


def test_revoking_the_host_ends_what_runs_there(world: World, made: Tasks) -> None:
    host = made.host()
    task, _ = made.running(host)
    waiting = made.submit()
    with world.database.write() as tx:
        hosts.revoke(tx, world.principal(), host.id, now=world.now)
    assert made.instances(task)[0].error_code == "host_lost"
    assert made.instances(waiting)[0].state == InstanceState.WAITING
    assert made.instances(waiting)[0].job_id is None


def test_messages_that_cannot_be_meant_are_left_and_noted(world: World, made: Tasks) -> None:
    host = made.host()
    task = made.submit()
    job = made.claim(host)
    made.say(
        host,
        job,
        {"type": "nonsense"},
        {},
        {"type": "state", "state": "succeeded"},
        {"type": "output", "stream": "stdout", "offset": 0, "data": "not base64!"},
        {"type": "output", "stream": "stdout", "offset": -1, "data": ""},
        {"type": "snapshot", "status": "success"},
        {"type": "finding", "finding": {"code": "slurm_requeued", "message": "a\0b"}},
        {"type": "finding", "finding": {"code": "slurm_requeued", "message": "again"}},
        {"type": "state", "state": "executing", "at": made.at(), "reference": "pid\0 7" * 100},
    )
    seen = world.again(task)
    assert seen.state == "FullyExecuting"
    codes = [each["code"] for each in seen.findings]
    assert codes.count("slurm_requeued") == 1
    assert "message_refused" in codes


# What else knows of snapshots and sources


def test_a_tasks_directory_is_no_source_that_people_keep(world: World, made: Tasks) -> None:
    host = made.host()
    task, _ = made.running(host)
    source_id = made.instances(task)[0].source_id or ""
    who = world.principal()
    with world.database.write() as tx:
        assert sources.sources(tx, who).items == []
        assert sources.get(tx, who, source_id).kind == "task"
        with pytest.raises(NotReady, match="task"):
            sources.edit(tx, who, source_id, labels={}, now=world.now)
        with pytest.raises(NotReady, match="task"):
            sources.remove(tx, who, source_id, now=world.now)
        with pytest.raises(NotReady, match="task"):
            snapshots.request(tx, who, source_id=source_id, now=world.now, keys=world.keys)
        text = metrics.render(tx, now=world.now).decode()
    assert source_id not in text


def test_results_can_be_restored_and_started_from(world: World, made: Tasks) -> None:
    """T9: a new task begins with what another one left."""
    host = made.host()
    task, job = made.running(host, result_bucket="results")
    made.finish(host, job, results=made.runs.result())
    (results,) = made.parts(task)
    with world.database.write() as tx:
        restore = restores.request(tx, world.principal(), snapshot_id=results.id, now=world.now)
        assert (restore.host_id, restore.target) == (host.id, "/root/restored")
        wanted = tx.get_one(Job, restore.job_id)
        assert wanted.spec["captured_path"] == "/job"
        jobs.request_cancel(tx, world.principal(), wanted.id, now=world.now)
    made.submit(starts_from=results.id)
    job = made.claim(host)
    assert job.spec["starts_from"] == {
        "snapshot_id": results.id,
        "manifest_id": results.manifest_id,
        "captured_path": "/job",
    }


def test_a_start_that_was_removed_before_there_was_a_host_fails(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host, result_bucket="results")
    made.finish(host, job, results=made.runs.result())
    (results,) = made.parts(task)
    world.set(host, silent_since=world.now)
    second = made.submit(starts_from=results.id)
    world.set(world_row(world, Snapshot, results.id), status="DELETED", purged_at=world.now)
    world.set(host, silent_since=None)
    assert made.place() == 0
    assert made.instances(second)[0].error_code == "input_missing"
    assert world.again(second).state == "Failure"


def world_row(world: World, table: Any, row_id: str | None) -> Any:
    with world.database.read() as tx:
        return tx.get_one(table, row_id)


def test_others_do_not_find_it_and_rights_are_needed(world: World, made: Tasks) -> None:
    """A4."""
    task = made.submit()
    other = world.principal(world.add_account("Other"))
    narrow = world.principal(resources=frozenset({"x"}))
    of_kind = world.principal(kinds=frozenset({"task"}))
    of_path = world.principal(kinds=frozenset({"path"}))
    with world.database.write() as tx:
        for who in (other, narrow, of_path):
            with pytest.raises(NotFound):
                tasks.get(tx, who, task.id)
            with pytest.raises(NotFound):
                tasks.abort(tx, who, task.id, now=world.now)
            assert tasks.tasks(tx, who).items == []
        assert tasks.get(tx, of_kind, task.id).id == task.id
        wish = tasks.NewTask("x", "batch", (("COMMAND", "x"),))
        for who in (narrow, of_path, world.principal(rights=["read"])):
            with pytest.raises(Forbidden):
                tasks.submit(tx, who, wish, now=world.now, keys=world.keys)
        tasks.submit(tx, of_kind, wish, now=world.now, keys=world.keys)
        with pytest.raises(Forbidden):
            tasks.remove(tx, world.principal(rights=["create"]), task.id, now=world.now)
