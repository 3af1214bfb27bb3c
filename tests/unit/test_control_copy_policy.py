"""The copies that schedules want: begun, made up for, and not begun again (S6)."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from catalog_agent import CatalogAgent
from control_copies import MB, Regions
from control_world import World

from holdfast.control import copy_policy, schedules, snapshots
from holdfast.control.clockwork import Clockwork
from holdfast.control.tables import Schedule, Snapshot
from holdfast.errors import NotFound, UsageError


@pytest.fixture
def regions(world: World) -> Regions:
    return Regions(world)


@pytest.fixture
def schedule(regions: Regions) -> Schedule:
    return regions.add_schedule()


def test_a_completed_run_is_copied(regions: Regions, schedule: Schedule) -> None:
    """S6: the first time the clockwork begins it, which makes the repository there."""
    first = regions.run(schedule)
    assert regions.copies_of(first) == []
    assert regions.plan() == 1
    regions.world.advance(days=1)
    second = regions.run(schedule)
    [copy] = regions.copies_of(second)
    assert (copy.status, copy.trigger, copy.schedule_id) == ("PENDING", "copy", None)
    job = regions.job(copy)
    assert (job.give_up_at, job.priority) == (regions.world.now + timedelta(days=7), 0)
    assert regions.plan() == 0
    regions.keeper.work()
    assert [each.status for row in (first, second) for each in regions.copies_of(row)] == [
        "COMPLETED",
        "COMPLETED",
    ]
    assert regions.plan() == 0


def test_what_was_completed_before_the_policy_is_not_copied(regions: Regions) -> None:
    schedule = regions.add_schedule(copy_region_id=None)
    old = regions.run(schedule)
    regions.world.advance(hours=1)
    regions.edit(schedule, copy_region_id=regions.there.id)
    regions.world.advance(hours=1)
    assert regions.plan() == 0
    new = regions.run(schedule)
    assert regions.plan() == 1
    assert (regions.copies_of(old), len(regions.copies_of(new))) == ([], 1)


@pytest.mark.parametrize(
    "fields",
    [{"status": "FAILED"}, {"status": "SKIPPED"}, {"archive_format": "zip"}, {"status": "RUNNING"}],
)
def test_only_what_can_be_copied_is(
    regions: Regions, schedule: Schedule, fields: dict[str, str]
) -> None:
    regions.add(schedule, **fields)
    regions.add()
    assert regions.plan() == 0


def test_missing_copies_are_made_up_for(regions: Regions, schedule: Schedule) -> None:
    """Whatever kept them from being begun, such as a server that was away."""
    rows = [regions.add(schedule) for _ in range(5)]
    assert regions.plan() == 5
    assert [len(regions.copies_of(row)) for row in rows] == [1] * 5
    regions.keeper.work()
    assert {each.status for row in rows for each in regions.copies_of(row)} == {"COMPLETED"}


def test_more_than_a_batch_is_made_up_for_at_once(
    regions: Regions, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_policy, "BATCH_SCHEDULES", 2)
    for each in (schedule, *(regions.add_schedule() for _ in range(4))):
        regions.add(each)
    assert regions.plan() == 5
    assert regions.plan() == 0


def test_after_failures_it_waits_longer_and_longer(regions: Regions, schedule: Schedule) -> None:
    world = regions.world
    row = regions.add(schedule)
    for failures in (1, 2, 3):
        assert regions.plan() == 1
        job = regions.keeper.claim()
        assert job is not None
        regions.keeper.fail(job)
        world.advance(hours=failures, seconds=-1)
        assert regions.plan() == 0
        world.advance(seconds=1)
    for _ in range(30):
        world.insert(
            Snapshot(
                account_id=row.account_id,
                source_id=row.source_id,
                host_id=row.host_id,
                repository_id=regions.copies_of(row)[0].repository_id,
                copy_of_id=row.id,
                status="FAILED",
                created_at=world.now,
                finished_at=world.now,
            )
        )
    world.advance(hours=23, minutes=59)
    assert regions.plan() == 0
    world.advance(minutes=1)
    assert regions.plan() == 1, "a day is the longest"


def test_what_a_person_cancelled_or_deleted_is_not_copied_again(
    regions: Regions, schedule: Schedule
) -> None:
    world = regions.world
    rows = [regions.add(schedule) for _ in range(2)]
    regions.plan()
    [cancelled], [deleted] = (regions.copies_of(row) for row in rows)
    with world.database.write() as tx:
        snapshots.cancel(tx, world.principal(), cancelled.id, now=world.now)
    regions.keeper.work()
    regions.delete(deleted)
    world.advance(days=30)
    assert regions.plan() == 0
    assert regions.statuses(cancelled, deleted) == ["CANCELLED", "DELETED"]


def test_what_was_cancelled_with_its_original_is_copied_when_that_is_back(
    regions: Regions, schedule: Schedule
) -> None:
    row = regions.add(schedule)
    regions.plan()
    [copy] = regions.copies_of(row)
    regions.delete(row)
    regions.follow()
    assert regions.statuses(copy) == ["CANCELLED"]
    assert regions.plan() == 0
    regions.world.advance(minutes=1)
    regions.recover(row)
    assert regions.plan() == 1
    assert [each.status for each in regions.copies_of(row)] == ["CANCELLED", "PENDING"]


def test_another_region_is_wanted_from_then_on(regions: Regions, schedule: Schedule) -> None:
    world = regions.world
    third = world.add_region("third", "/srv/third")
    old = regions.add(schedule)
    regions.plan()
    regions.keeper.work()
    world.advance(hours=1)
    changed = regions.edit(schedule, copy_region_id=third.id)
    assert changed.copy_since == world.now
    regions.edit(schedule, copy_region_id=third.id, name="the same again")
    world.advance(hours=1)
    assert regions.plan() == 0, "what was copied stays where it is"
    new = regions.add(schedule)
    assert regions.plan() == 1
    [copy] = regions.copies_of(new)
    assert regions.job(copy).region_id == third.id
    assert len(regions.copies_of(old)) == 1
    assert world.again(changed).copy_since == world.now - timedelta(hours=1, milliseconds=1)
    cleared = regions.edit(schedule, copy_region_id=None)
    assert (cleared.copy_region_id, cleared.copy_since) == (None, None)
    regions.add(schedule)
    assert regions.plan() == 0
    assert regions.lag(schedule) is None


def test_the_policy_is_checked(regions: Regions, schedule: Schedule) -> None:
    with pytest.raises(UsageError, match="in that region already"):
        regions.edit(schedule, copy_region_id=regions.here.id)
    with pytest.raises(UsageError, match="list the regions"):
        regions.edit(schedule, copy_region_id="0" * 36)
    with pytest.raises(UsageError, match="zip is not copied"):
        regions.edit(schedule, archive_format="zip")
    with pytest.raises(UsageError, match="zip is not copied"):
        regions.add_schedule(archive_format="zip")
    with pytest.raises(UsageError, match="list the regions"):
        regions.add_schedule(copy_region_id="nowhere")
    regions.edit(schedule, archive_format="zip", copy_region_id=None)
    world = regions.world
    stranger = world.principal(world.add_account("Other"))
    with world.database.write() as tx, pytest.raises(NotFound):
        schedules.edit(tx, stranger, schedule.id, now=world.now, copy_region_id=regions.there.id)


def test_a_paused_schedule_is_copied_and_a_removed_one_no_more(
    regions: Regions, schedule: Schedule
) -> None:
    world = regions.world
    regions.edit(schedule, paused=True)
    regions.add(schedule)
    assert regions.plan() == 1
    world.advance(minutes=1)
    with world.database.write() as tx:
        schedules.remove(tx, world.principal(), schedule.id, now=world.now)
    regions.add(schedule)
    assert regions.plan() == 0
    regions.keeper.work()
    assert regions.plan() == 0, "what had been begun is finished"


def test_two_replicas_at_once_make_one(regions: Regions, schedule: Schedule) -> None:
    rows = [regions.add(schedule) for _ in range(4)]
    gate = threading.Barrier(3)
    begun: list[int] = []

    def plan() -> None:
        gate.wait()
        begun.append(regions.plan())

    threads = [threading.Thread(target=plan) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(begun) == 4
    assert [len(regions.copies_of(row)) for row in rows] == [1] * 4


def test_a_copy_that_a_person_asked_for_is_enough(regions: Regions, schedule: Schedule) -> None:
    row = regions.add(schedule)
    regions.copy(row)
    assert regions.plan() == 0


def test_a_run_is_complete_also_when_its_copy_cannot_be_begun(
    regions: Regions, schedule: Schedule
) -> None:
    """M4: it is said, it is made up for, and the run counts."""
    world = regions.world
    regions.copied(regions.add())  # the repository is there
    world.advance(days=1)
    with world.database.write() as tx:
        row = snapshots.request(
            tx,
            world.principal(),
            source_id=regions.source.id,
            schedule_id=schedule.id,
            now=world.now,
            keys=world.keys,
        )
    world.set(world.account, quota_stored_bytes=MB)
    CatalogAgent(world, regions.host).work()
    run = world.again(row)
    assert run.status == "COMPLETED"
    assert [each["code"] for each in run.findings] == ["copy_not_begun"]
    assert regions.copies_of(run) == []
    assert regions.plan() == 0
    world.set(world.account, quota_stored_bytes=None)
    assert regions.plan() == 1
    assert world.again(run).findings == []


def test_one_account_that_may_not_does_not_stop_the_others(
    regions: Regions, schedule: Schedule
) -> None:
    world = regions.world
    regions.add(schedule)
    world.set(world.account, quota_stored_bytes=0)
    other = world.add_account("Other")
    source = world.add_source(world.add_host(other))
    theirs = world.add_repository(other)
    with world.database.write() as tx:
        wanted = schedules.create(
            tx,
            world.principal(other),
            source_id=source.id,
            preset="daily",
            retention={"keep_last": 3},
            copy_region_id=regions.there.id,
            now=world.now,
        )
    world.advance(minutes=1)
    row = world.add_snapshot(source, theirs, schedule_id=wanted.id)
    assert regions.plan() == 1
    assert len(regions.copies_of(row)) == 1


def test_the_clockwork_does_both(regions: Regions, schedule: Schedule) -> None:
    """S6: it begins what is missing, and ends what nobody wants any more."""
    world = regions.world
    row, gone = regions.add(schedule), regions.add()
    copy = regions.copy(gone)
    regions.delete(gone)
    clockwork = Clockwork(world.database, world.keys, replica_id="one")
    clockwork.tick(world.now)
    assert regions.statuses(copy) == ["CANCELLED"]
    assert len(regions.copies_of(row)) == 1


def test_retention_takes_copies_along_after_a_run(regions: Regions) -> None:
    """S3 S6: the copies there are those of what stays here."""
    world = regions.world
    schedule = regions.add_schedule(retention={"keep_last": 2})
    rows = []
    for _ in range(4):
        rows.append(regions.run(schedule))
        regions.plan()
        regions.keeper.work()
        world.advance(days=1)
    assert regions.statuses(*rows) == ["EXPIRED", "EXPIRED", "COMPLETED", "COMPLETED"]
    copies = [each for row in rows for each in regions.copies_of(row)]
    assert regions.statuses(*copies) == ["EXPIRED", "EXPIRED", "COMPLETED", "COMPLETED"]
