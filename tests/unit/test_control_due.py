from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import event, func, select

from holdfast.control import due, schedules, snapshots
from holdfast.control.tables import Account, Event, Host, Job, Schedule, Snapshot, Source


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host(max_jobs=100)


@pytest.fixture
def source(world: World, host: Host) -> Source:
    return world.add_source(host)


def create(world: World, source: Source, **fields: Any) -> Schedule:
    if not {"interval_hours", "preset", "cron"} & set(fields):
        fields["interval_hours"] = 1
    fields.setdefault("retention", {"keep_last": -1})
    with world.database.write() as tx:
        who = world.principal(tx.get_one(Account, source.account_id))
        return schedules.create(tx, who, source_id=source.id, now=world.now, **fields)


def settle(world: World) -> int:
    return due.settle_due(world.database, world.keys, now=world.now)


def slots(world: World, row: Schedule) -> list[Snapshot]:
    with world.database.read() as tx:
        return list(
            tx.scalars(
                select(Snapshot).where(Snapshot.schedule_id == row.id).order_by(Snapshot.slot_at)
            )
        )


def kinds(world: World) -> list[str]:
    with world.database.read() as tx:
        return list(tx.scalars(select(Event.kind).order_by(Event.id)))


def first_slot(world: World, row: Schedule) -> datetime:
    due_at = world.again(row).due_at
    assert due_at is not None
    world.now = due_at
    return due_at


def test_a_due_slot_becomes_a_run_with_its_job(world: World, host: Host, source: Source) -> None:
    row = create(world, source, archive_format="repository")
    slot = first_slot(world, row)
    assert settle(world) == 1
    [snapshot] = slots(world, row)
    assert (snapshot.status, snapshot.trigger, snapshot.slot_at) == ("PENDING", "schedule", slot)
    with world.database.read() as tx:
        job = tx.get_one(Job, snapshot.job_id)
    assert job.lock_key == f"source:{source.id}"
    assert job.give_up_at == slot + timedelta(hours=1)
    assert job.spec == {
        "snapshot_id": snapshot.id,
        "source_id": source.id,
        "path": "/root/models",
        "directory": "/root/models",
        "options": {},
        "name": "",
        "archive_format": "repository",
        "parent_manifest_id": None,
        "put_only": False,
        "trigger": "schedule",
    }
    assert settle(world) == 0
    assert world.again(row).due_at == slot + timedelta(hours=1)


def test_the_next_run_reads_against_the_last_good_one(
    world: World, host: Host, source: Source
) -> None:
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    [done] = CatalogAgent(world, host).work()
    world.advance(hours=1)
    settle(world)
    first, second = slots(world, row)
    with world.database.read() as tx:
        job = tx.get_one(Job, second.job_id)
    assert job.spec["parent_manifest_id"] == first.manifest_id is not None
    assert second.parent_id == first.id == done.subject_id


def test_a_put_only_host_reads_nothing(world: World) -> None:
    """H2"""
    source = world.add_source(world.add_host(put_only=True))
    world.add_snapshot(source, world.add_repository())
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    with world.database.read() as tx:
        job = tx.get_one(Job, slots(world, row)[0].job_id)
    assert (job.spec["put_only"], job.spec["parent_manifest_id"]) == (True, None)


def test_slots_that_nobody_saw_are_missed_and_made_up_for_once(
    world: World, source: Source
) -> None:
    """B6"""
    row = create(world, source)
    slot = first_slot(world, row)
    world.advance(hours=9, minutes=30)
    assert settle(world) == 1
    found = slots(world, row)
    assert [each.status for each in found] == ["SKIPPED"] * 9 + ["PENDING"]
    assert [each.slot_at for each in found] == [slot + timedelta(hours=n) for n in range(10)]
    assert {each.findings[0]["code"] for each in found[:9]} == {"slot_missed"}
    assert found[9].trigger == "catch-up"
    assert kinds(world).count("snapshot.missed") == 1
    assert settle(world) == 0


def test_a_long_absence_is_settled_in_pieces(
    world: World, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B6"""
    rows = [create(world, source) for _ in range(5)]
    world.advance(hours=50)
    monkeypatch.setattr(due, "BATCH_SLOTS", 60)
    assert settle(world) == 5
    for row in rows:
        found = slots(world, row)
        assert 49 <= len(found) <= 50
        assert [each.status for each in found].count("PENDING") == 1


def test_a_run_that_no_agent_took_makes_room_for_the_next(world: World, source: Source) -> None:
    """B6"""
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    world.advance(hours=1)
    settle(world)
    world.advance(hours=1)
    settle(world)
    found = slots(world, row)
    assert [each.status for each in found] == ["SKIPPED", "SKIPPED", "PENDING"]
    assert [each["code"] for each in found[0].findings] == ["host_silent"]
    with world.database.read() as tx:
        jobs = [tx.get_one(Job, each.job_id).state for each in found]
    assert jobs == ["failed", "failed", "queued"]


def test_a_slot_is_skipped_while_the_last_run_goes_on(
    world: World, host: Host, source: Source
) -> None:
    """B6"""
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    agent = CatalogAgent(world, host)
    job = agent.claim()
    assert job is not None
    world.advance(hours=1)
    settle(world)
    running, skipped = slots(world, row)
    assert (running.status, skipped.status) == ("RUNNING", "SKIPPED")
    assert [each["code"] for each in skipped.findings] == ["still_running"]
    assert kinds(world)[-1] == "snapshot.skipped"
    agent.succeed(job)
    world.advance(hours=1)
    settle(world)
    assert [each.status for each in slots(world, row)] == ["COMPLETED", "SKIPPED", "PENDING"]


def test_a_failed_run_waits_for_its_next_attempt_at_most_until_the_next_slot(
    world: World, host: Host, source: Source
) -> None:
    """B6"""
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    agent = CatalogAgent(world, host)
    for minutes in (1, 3, 9):
        job = agent.claim()
        assert job is not None
        agent.fail(job, retryable=True)
        world.advance(minutes=minutes)
    assert slots(world, row)[0].status == "PENDING"
    world.advance(hours=1)
    settle(world)
    failed, following = slots(world, row)
    assert (failed.status, failed.error_code) == ("FAILED", "store_unavailable")
    assert following.status == "PENDING"
    assert len(agent.work()) == 1
    assert [each.status for each in slots(world, row)] == ["FAILED", "COMPLETED"]


def test_without_credit_slots_are_skipped(world: World) -> None:
    """M4"""
    account = world.add_account("Poor", prepaid=True)
    source = world.add_source(world.add_host(account))
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    [skipped] = slots(world, row)
    assert skipped.status == "SKIPPED"
    assert [each["code"] for each in skipped.findings] == ["paused_for_credit"]


def test_a_reached_quota_skips_slots(world: World) -> None:
    """A1"""
    account = world.add_account("Small", quota_snapshots=1)
    source = world.add_source(world.add_host(account))
    world.add_snapshot(source, world.add_repository(account))
    row = create(world, source)
    first_slot(world, row)
    settle(world)
    assert [each["code"] for each in slots(world, row)[0].findings] == ["quota_reached"]


def test_a_quota_counts_what_is_about_to_run(world: World) -> None:
    """A1"""
    account = world.add_account("Small", quota_snapshots=3)
    host = world.add_host(account)
    rows = [create(world, world.add_source(host, f"/root/{n}")) for n in range(5)]
    world.advance(hours=1)
    settle(world)
    statuses = sorted(slots(world, row)[-1].status for row in rows)
    assert statuses == ["PENDING"] * 3 + ["SKIPPED"] * 2


def test_a_path_that_left_its_root_is_skipped(world: World, source: Source, host: Host) -> None:
    """B2"""
    row = create(world, source)
    world.set(host, roots=[{"path": "/data", "directory": "/data"}])
    first_slot(world, row)
    settle(world)
    [skipped] = slots(world, row)
    assert [each["code"] for each in skipped.findings] == ["source_refused"]


@pytest.mark.parametrize("gone", ["host", "zone"])
def test_a_schedule_that_can_have_no_runs_is_paused_and_says_so(
    world: World, source: Source, host: Host, gone: str
) -> None:
    row = create(world, source)
    if gone == "host":
        world.set(host, revoked_at=world.now)
    else:
        world.set(row, timezone="Mars/Olympus")
    first_slot(world, row)
    assert settle(world) == 1
    assert slots(world, row) == []
    paused = world.again(row)
    assert (paused.paused, paused.due_at) == (True, None)
    assert kinds(world)[-1] == "schedule.paused"


def test_one_broken_schedule_stops_no_other(world: World, source: Source) -> None:
    broken, good = create(world, source), create(world, source)
    world.set(broken, cron="broken", interval_hours=None)
    world.advance(hours=1)
    settle(world)
    assert world.again(broken).paused
    assert [each.status for each in slots(world, good)] == ["PENDING"]


def test_a_late_run_waits_for_the_window(world: World, source: Source) -> None:
    """S3"""
    row = create(world, source, cron="0 1 * * *", window="00:00-04:00")
    first_slot(world, row)
    world.advance(hours=8)
    settle(world)
    world.advance(days=1)
    settle(world)
    for each in slots(world, row):
        assert each.slot_at is not None
        assert each.slot_at.hour == 1


def test_a_persons_run_for_a_schedule_is_not_taken_for_a_slot(world: World, source: Source) -> None:
    """B5"""
    row = create(world, source)
    with world.database.write() as tx:
        manual = snapshots.request(
            tx,
            world.principal(),
            source_id=source.id,
            schedule_id=row.id,
            now=world.now,
            keys=world.keys,
        )
    first_slot(world, row)
    settle(world)
    world.advance(hours=1)
    settle(world)
    assert world.again(manual).status == "PENDING"


def test_two_replicas_settle_every_slot_once(world: World, host: Host) -> None:
    rows = [create(world, world.add_source(host, f"/root/{n}")) for n in range(40)]
    world.advance(hours=3)
    failures: list[BaseException] = []

    def replica() -> None:
        try:
            settle(world)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=replica) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    settle(world)
    with world.database.read() as tx:
        jobs = tx.scalar(select(func.count()).select_from(Job))
        counts = dict(
            tx.execute(
                select(Snapshot.schedule_id, func.count()).group_by(Snapshot.schedule_id)
            ).all()
        )
    assert jobs == 40
    assert {counts[row.id] for row in rows} <= {2, 3}


def test_a_thousand_due_at_once_share_their_statements(world: World, host: Host) -> None:
    """S3"""
    with world.database.write() as tx:
        for number in range(1000):
            source = Source(
                account_id=world.account.id,
                host_id=host.id,
                path=f"/root/{number}",
                created_at=world.now,
            )
            tx.add(source)
            tx.flush()
            tx.add(
                Schedule(
                    account_id=world.account.id,
                    source_id=source.id,
                    interval_hours=1,
                    retention={"keep_last": 1},
                    created_at=world.now,
                    updated_at=world.now,
                    settled_until=world.now,
                    due_at=world.now + timedelta(minutes=1),
                )
            )
    world.advance(hours=1)
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(world.database.engine, "before_cursor_execute", count)
    assert settle(world) == 1000
    event.remove(world.database.engine, "before_cursor_execute", count)
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(Snapshot)) == 1000
    assert 0 < statements < 500
