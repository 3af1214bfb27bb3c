"""Snapshots of tasks in the control plane: asked for, periodic, warned of, kept and removed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from control_tasks import Tasks
from control_world import World
from sqlalchemy import select

from holdfast.control import jobs, recycle, snapshots, task_snapshots, tasks
from holdfast.control.completion import reconcile
from holdfast.control.completion.report import Report
from holdfast.control.tables import (
    Account,
    Event,
    Job,
    Meter,
    Snapshot,
    Task,
    TaskPreview,
    TaskSnapshot,
    View,
)
from holdfast.errors import (
    BadPattern,
    CreditExhausted,
    Forbidden,
    NoSuchBucket,
    NotFound,
    NotReady,
    QuotaExceeded,
    StaleAttempt,
    UsageError,
)
from holdfast.model.task import instance_snapshot_id


@pytest.fixture
def made(world: World) -> Tasks:
    return Tasks(world)


def ask(made: Tasks, task: Task, **options: Any) -> TaskSnapshot:
    world = made.world
    with world.database.write() as tx:
        return task_snapshots.request(tx, world.principal(), task.id, now=world.now, **options)


def periodic(made: Tasks, task: Task, seconds: int | None, **options: Any) -> Task:
    world = made.world
    with world.database.write() as tx:
        return task_snapshots.set_periodic(
            tx, world.principal(), task.id, seconds=seconds, now=world.now, **options
        )


def views(made: Tasks) -> list[tuple[str, str]]:
    with made.world.database.read() as tx:
        return [
            (each.prefix, each.snapshot_id)
            for each in tx.scalars(select(View).order_by(View.prefix))
        ]


def findings(whole: TaskSnapshot) -> list[str]:
    return [each["code"] for each in whole.findings]


def test_a_manual_snapshot_is_ordered_taken_and_seen(world: World, made: Tasks) -> None:
    """T3, T5, T7: status and sizes, and a directory named by its time."""
    host = made.host()
    task, job = made.running(host, result_bucket="results", snapshot_whitelist="log")
    whole = ask(made, task, blacklist="tmp", bucket_prefix="at-", label="first", notes="n")
    assert (whole.status, whole.directory) == ("triggered", "at-20261102100000/")
    part_id = instance_snapshot_id(whole.id, 0)
    order = {
        "task_snapshot_id": whole.id,
        "snapshot_id": part_id,
        "whitelist": "log",
        "blacklist": "tmp",
        "triggered_at": world.now.isoformat(),
    }
    assert made.say(host, job)["snapshots"] == [order]
    world.advance(seconds=1)
    orders = made.say(
        host, job, made.snapshot_said(whole, "inProgress", bytes_total=100, bytes_done=40)
    )
    assert orders["snapshots"] == [order], "listed until its end was heard"
    seen = world.again(whole)
    assert (seen.status, seen.bytes_total, seen.bytes_done) == ("inProgress", 100, 40)
    assert seen.updated_at == world.now
    said = made.snapshot_said(whole, "success", bytes_total=100, bytes_done=100)
    assert made.say(host, job, said)["snapshots"] == []
    made.say(host, job, said, made.snapshot_said(whole, "failure"))
    seen = world.again(whole)
    assert (seen.status, seen.bytes_total, seen.bytes_done) == ("success", 100, 100)
    (part,) = made.parts(task)
    assert (part.id, part.status, part.kind) == (part_id, "COMPLETED", "task")
    assert (part.manifest_id, part.task_snapshot_id) == (said["result"]["manifest_id"], whole.id)
    assert made.runs.events(part.id) == ["snapshot.started", "snapshot.completed"]
    assert made.runs.bookings(part.id) == 1, "each counts once"
    assert views(made) == [("at-20261102100000/", part.id)]
    assert world.again(task).results_count > 0
    with world.database.read() as tx:
        meter = tx.scalars(select(Meter).where(Meter.until.is_(None))).one()
        assert (meter.resource_id, meter.quantity_bytes) == (part.source_id, 3_000_000)


def test_no_two_snapshots_are_seen_in_one_directory(world: World, made: Tasks) -> None:
    host = made.host()
    one, _ = made.running(host, result_bucket="results")
    other, _ = made.running(host, result_bucket="results")
    assert [ask(made, each).directory for each in (one, one, other)] == [
        "20261102100000/",
        "20261102100001/",
        "20261102100002/",
    ]


def test_a_snapshot_of_several_instances(world: World, made: Tasks) -> None:
    """T7: success when all parts are, failure when one failed; sizes are sums."""
    host = made.host()
    task = made.submit(instance_count=3)
    by_number = {}
    for _ in range(3):
        job = made.claim(host)
        by_number[job.spec["number"]] = job
    for number in (0, 1):
        made.say(host, by_number[number], {"type": "state", "state": "executing"})
    whole = ask(made, task)
    assert len(made.parts(task)) == 2, "only of what executes"
    made.say(host, by_number[0], made.snapshot_said(whole, "success", 0, bytes_total=5))
    assert world.again(whole).status == "inProgress"
    error = {"code": "source_error", "message": "No."}
    made.say(host, by_number[1], made.snapshot_said(whole, "failure", 1, error=error))
    seen = world.again(whole)
    assert (seen.status, seen.bytes_total) == ("failure", 5)
    parts = {each.status: each for each in made.parts(task)}
    assert parts["FAILED"].error_code == "source_error"
    stranger = made.snapshot_said(whole, "success", 2)
    made.say(host, by_number[2], stranger)
    assert len(made.parts(task)) == 2
    assert world.again(whole).bucket is None
    assert views(made) == []


def test_what_cannot_be_asked_for(world: World, made: Tasks) -> None:
    host = made.host()
    waiting = made.submit()
    with pytest.raises(NotReady, match="executes"):
        ask(made, waiting)
    made.claim(host)
    task, job = made.running(host)
    for error, options in (
        (BadPattern, {"whitelist": "("}),
        (BadPattern, {"blacklist": "(?=x)"}),
        (NoSuchBucket, {"bucket": "none"}),
        (UsageError, {"label": "x" * 101}),
        (UsageError, {"bucket_prefix": "x" * 901}),
    ):
        with pytest.raises(error):
            ask(made, task, **options)
    world.set(world.account, quota_snapshots=0)
    with pytest.raises(QuotaExceeded):
        ask(made, task)
    world.set(world.account, quota_snapshots=None, prepaid=True)
    with pytest.raises(CreditExhausted):
        ask(made, task)
    assert made.parts(task) == []
    made.finish(host, job)
    with pytest.raises(NotReady):
        ask(made, task)


@pytest.mark.parametrize("seconds", [0, -1, 604_801])
def test_an_interval_that_cannot_be(made: Tasks, seconds: int) -> None:
    task, _ = made.running(made.host())
    with pytest.raises(UsageError):
        periodic(made, task, seconds)


def test_periodic_snapshots_are_set_changed_and_stopped(world: World, made: Tasks) -> None:
    """T3: at submission or at any time during the run, changed or stopped likewise."""
    host = made.host()
    task = made.submit(periodic_seconds=10, snapshot_whitelist="w")
    job = made.claim(host)
    assert made.say(host, job)["periodic"] is None, "nothing runs yet"
    world.advance(seconds=3)
    orders = made.say(host, job, {"type": "state", "state": "executing"})
    assert orders["periodic"] == {
        "seconds": 10,
        "since": world.now.isoformat(),
        "whitelist": "w",
        "blacklist": None,
    }
    world.advance(seconds=5)
    periodic(made, task, 604_800, whitelist="", blacklist="b")
    assert made.say(host, job)["periodic"] == {
        "seconds": 604_800,
        "since": world.now.isoformat(),
        "whitelist": None,
        "blacklist": "b",
    }
    periodic(made, task, None)
    assert made.say(host, job)["periodic"] is None
    made.finish(host, job)
    with pytest.raises(NotReady):
        periodic(made, task, 5)


def test_slots_get_their_rows_when_they_are_heard_of(world: World, made: Tasks) -> None:
    """T5, T8: what overlaps is skipped and recorded, with the figures."""
    host = made.host()
    task, job = made.running(host, periodic_seconds=10, result_bucket="results")
    first = world.advance(seconds=10)
    made.say(host, job, made.slot_said(task, first, "inProgress", bytes_total=9))
    second = world.advance(seconds=10)
    skipped = made.slot_said(task, second, "skipped")
    made.say(host, job, skipped, skipped)
    said = made.slot_said(task, first, "success", bytes_total=9, bytes_done=9)
    said["result"] |= {"capture_seconds": 12.5, "logical_bytes": 1_500_000_000}
    made.say(host, job, said)
    one, two = made.wholes(task)
    assert (one.trigger, one.slot_at, one.status) == ("periodic", first, "success")
    assert findings(one) == ["snapshot_large", "snapshot_interval_short"]
    assert "1,500,000,000" in one.findings[0]["message"]
    assert "125 %" in one.findings[1]["message"]
    assert (two.status, two.slot_at) == ("skipped", second)
    assert findings(two) == ["still_running", "snapshot_interval_short"]
    assert [each.status for each in made.parts(task)] == ["COMPLETED", "SKIPPED"]
    assert made.parts(task)[1].findings[0]["code"] == "still_running"
    assert views(made) == [(f"{first:%Y%m%d%H%M%S}/", made.parts(task)[0].id)]
    warned = made.runs.events(task.id).count("task.warning")
    assert warned == 2, "each kind once for a task"
    third = world.advance(seconds=10)
    made.say(host, job, made.slot_said(task, third, "success"))
    assert [each.status for each in made.wholes(task)] == ["success", "skipped", "success"]


def test_a_slot_that_nobody_attended_says_so(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host, periodic_seconds=10)
    ask(made, task)
    made.say(host, job, made.slot_said(task, world.advance(seconds=10), "skipped"))
    skipped = next(each for each in made.wholes(task) if each.trigger == "periodic")
    assert (skipped.status, findings(skipped)) == ("skipped", ["host_silent"])
    assert "task.warning" not in made.runs.events(task.id)


def test_a_slot_that_was_never_finished_fails_with_the_next_one(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host, periodic_seconds=10)
    made.say(host, job, made.slot_said(task, world.advance(seconds=10), "inProgress"))
    made.say(host, job, made.slot_said(task, world.advance(seconds=10), "inProgress"))
    assert [each.status for each in made.wholes(task)] == ["failure", "inProgress"]
    assert made.parts(task)[0].error_code == "interrupted"


def test_ids_that_are_not_the_slots_are_refused(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host, periodic_seconds=10)
    other, _ = made.running(host)
    theirs = ask(made, other)
    slot = world.advance(seconds=10)
    wrong = made.slot_said(task, slot, "success")
    made.say(host, job, wrong | {"slot_at": (slot + timedelta(seconds=1)).isoformat()})
    made.say(host, job, wrong | {"snapshot_id": theirs.id})
    made.say(host, job, made.snapshot_said(theirs, "failure"))
    assert made.wholes(task) == []
    assert world.again(theirs).status == "triggered"
    assert world.again(task).findings[0]["code"] == "message_refused"


def test_without_credit_periodic_ones_pause(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host, periodic_seconds=10)
    world.set(world.account, prepaid=True)
    assert made.say(host, job)["periodic"] is None
    assert made.say(host, job)["periodic"] is None
    assert [each["code"] for each in world.again(task).findings] == ["paused_for_credit"]
    world.set(world.account, prepaid=False)
    assert made.say(host, job)["periodic"] is not None
    world.set(world.account, quota_snapshots=0)
    assert made.say(host, job)["periodic"] is None
    assert world.again(task).findings[-1]["code"] == "quota_reached"


def test_a_result_that_says_too_little_fails_the_part_and_nothing_else(
    world: World, made: Tasks
) -> None:
    host = made.host()
    task, job = made.running(host)
    bad, taken, good = ask(made, task), ask(made, task), ask(made, task)
    first = made.snapshot_said(good, "success")
    made.say(
        host,
        job,
        made.snapshot_said(bad, "success", result={"manifest_id": "x"}),
        first,
        made.snapshot_said(taken, "success", result=first["result"]),
    )
    assert [world.again(each).status for each in (bad, taken, good)] == [
        "failure",
        "failure",
        "success",
    ]
    codes = {each.error_code for each in made.parts(task)}
    assert codes == {None, "report_refused"}


def test_what_is_not_taken_when_the_task_ends_fails(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host)
    taken, left = ask(made, task), ask(made, task)
    made.finish(host, job, messages=[made.snapshot_said(taken, "success")])
    assert world.again(taken).status == "success", "what was unheard comes with the end"
    assert world.again(left).status == "failure"
    failed = next(each for each in made.parts(task) if each.status == "FAILED")
    assert failed.error_code == "task_ended"


def test_snapshots_of_a_lost_host_stay_and_unfinished_ones_fail(world: World, made: Tasks) -> None:
    """T5: available whatever the final status is, also when the host died."""
    host = made.host()
    task, job = made.running(host)
    taken = ask(made, task)
    made.say(host, job, made.snapshot_said(taken, "success"))
    left = ask(made, task)
    world.advance(seconds=jobs.LEASE_SECONDS)
    made.runs.expire()
    with pytest.raises(StaleAttempt):
        made.say(host, job, made.snapshot_said(left, "success"))
    assert world.again(left).status == "triggered"
    world.advance(seconds=301)
    made.runs.expire()
    assert (world.again(taken).status, world.again(left).status) == ("success", "failure")
    failed = next(each for each in made.parts(task) if each.status == "FAILED")
    assert failed.error_code == "host_lost"


def test_captions_and_removal(world: World, made: Tasks) -> None:
    """T9: label and notes; parts are recycled like any snapshot."""
    host = made.host()
    task, job = made.running(host)
    whole = ask(made, task)
    who = world.principal()
    with world.database.write() as tx:
        task_snapshots.edit(tx, who, whole.id, label="best", now=world.now)
        row = task_snapshots.edit(tx, who, whole.id, notes="lr 0.1", now=world.now)
        assert (row.label, row.notes) == ("best", "lr 0.1")
        with pytest.raises(NotReady):
            task_snapshots.remove(tx, who, whole.id, now=world.now)
        (part,) = task_snapshots.parts(tx, who, whole.id)
        with pytest.raises(NotReady):
            snapshots.cancel(tx, who, part.id, now=world.now)
    assert world.again(job).cancel_requested_at is None, "or the task would have been ended"
    made.say(host, job, made.snapshot_said(whole, "success"))
    with world.database.write() as tx:
        reader = world.principal(rights=["read", "create"])
        with pytest.raises(Forbidden):
            task_snapshots.remove(tx, reader, whole.id, now=world.now)
        task_snapshots.remove(tx, who, whole.id, now=world.now)
    assert made.parts(task)[0].status == "DELETED"
    with world.database.write() as tx:
        recycle.recover(tx, who, part.id, now=world.now)
    assert made.parts(task)[0].status == "COMPLETED"
    made.finish(host, job)
    with world.database.write() as tx:
        tasks.remove(tx, who, task.id, now=world.now)
        assert task_snapshots.get(tx, who, whole.id).id == whole.id, "it outlives its task"
        other = world.principal(_other(world))
        with pytest.raises(NotFound):
            task_snapshots.get(tx, other, whole.id)


def _other(world: World) -> Account:
    return world.operator_account


def test_starting_from_a_tasks_snapshot(world: World, made: Tasks) -> None:
    """T9: restart from snapshot; each instance from its own part, or else from the first."""
    host = made.host(slots=8)
    task = made.submit(instance_count=2)
    running = [made.claim(host) for _ in range(2)]
    for each in running:
        made.say(host, each, {"type": "state", "state": "executing"})
    whole = ask(made, task)
    with pytest.raises(NotReady):
        made.submit(starts_from=whole.id)
    manifests = {}
    for each in running:
        number = each.spec["number"]
        said = made.snapshot_said(whole, "success", number)
        manifests[number] = said["result"]["manifest_id"]
        made.say(host, each, said)
    made.submit(starts_from=whole.id, instance_count=3)
    claimed = [made.claim(host) for _ in range(3)]
    found = {each.spec["number"]: each.spec["starts_from"]["manifest_id"] for each in claimed}
    assert found[0] == manifests[0]
    assert found[1] == manifests[1]
    assert found[2] in manifests.values()


def test_previews_are_asked_answered_and_forgotten(world: World, made: Tasks) -> None:
    """T10: the form shows what filters would take."""
    host = made.host()
    task, job = made.running(host)
    who = world.principal()

    def ask_preview(**options: Any) -> TaskPreview:
        with world.database.write() as tx:
            return task_snapshots.preview_ask(tx, who, task.id, now=world.now, **options)

    with pytest.raises(BadPattern):
        ask_preview(whitelist="(")
    with pytest.raises(NotReady):
        ask_preview(number=7)
    asked = ask_preview(whitelist="log", entries_wanted=5)
    world.advance(milliseconds=1)
    unanswered = ask_preview()
    orders = made.say(host, job)
    assert orders["previews"][0] == {
        "preview_id": asked.id,
        "whitelist": "log",
        "blacklist": None,
        "entries_wanted": 5,
    }
    answer = {"files": 1, "bytes": 2, "entries": [{"path": "a\ud800", "bytes": 2}], "cut": False}
    message = {"type": "preview", "preview_id": asked.id, "answer": answer}
    orders = made.say(host, job, message, message | {"answer": {"files": 9}})
    assert [each["preview_id"] for each in orders["previews"]] == [unanswered.id]
    with world.database.read() as tx:
        kept = task_snapshots.preview_get(tx, who, asked.id)
        assert kept.answer is not None
        assert (kept.answer["files"], kept.answered_at) == (1, world.now)
        with pytest.raises(Forbidden):
            task_snapshots.preview_get(tx, world.principal(rights=["read"]), asked.id)
    made.finish(host, job)
    assert (world.again(unanswered).answer or {})["error"]["code"] == "task_ended"
    world.advance(days=2)
    with world.database.write() as tx:
        assert task_snapshots.forget_previews(tx, now=world.now) == 2


def test_orphans_of_a_running_task_are_left_and_later_ones_are_known(
    world: World, made: Tasks
) -> None:
    """What a task stored and has not said yet is neither removed nor called unknown."""
    host = made.host()
    task, job = made.running(host)
    unsaid = "e" * 64
    upkeep = made.runs.add_upkeep("reconcile", spec={"known": [], "older_than": made.at()})

    def compare(orphans: dict[str, str]) -> list[str]:
        with world.database.write() as tx:
            row = tx.get_one(Job, upkeep.id)
            report = Report({"missing": [], "orphans": orphans})
            reconcile.complete(tx, row, report, now=world.now)
        with world.database.read() as tx:
            found = select(Job.spec).where(Job.kind == "remove")
            return [each["manifest_id"] for spec in tx.scalars(found) for each in spec["snapshots"]]

    assert compare({unsaid: job.id}) == []
    with world.database.read() as tx:
        assert tx.scalars(select(Event).where(Event.kind == "repository.reconciled")).all() == []
    whole = ask(made, task)
    said = made.snapshot_said(whole, "success")
    said["result"]["manifest_id"] = unsaid
    made.finish(host, job, messages=[said])
    left = "f" * 64
    assert compare({unsaid: job.id, left: job.id}) == [left]
    with world.database.read() as tx:
        assert tx.scalars(select(Snapshot.manifest_id)).all() == [unsaid]
