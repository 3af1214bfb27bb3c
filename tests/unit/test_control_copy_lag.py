"""How far copies are behind, for screens and for Prometheus (S6 S8)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from control_copies import Regions
from control_world import World

from holdfast.control import metrics, schedules, snapshots
from holdfast.control.copy_lag import CopyLag, lag_of
from holdfast.control.tables import Schedule


@pytest.fixture
def regions(world: World) -> Regions:
    return Regions(world)


def test_without_a_policy_there_is_no_lag(regions: Regions) -> None:
    schedule = regions.add_schedule(copy_region_id=None)
    regions.add(schedule)
    assert regions.lag(schedule) is None


def test_the_lag_is_the_age_of_the_oldest_that_waits(regions: Regions) -> None:
    """S6"""
    world = regions.world
    schedule = regions.add_schedule()
    assert regions.lag(schedule) == CopyLag(0, 0, None)
    first = regions.add(schedule)
    regions.plan()
    world.advance(hours=2)
    regions.add(schedule)
    world.advance(minutes=30)
    assert regions.lag(schedule) == CopyLag(2, 2 * 3600 + 1800, None), "under way is not there"
    regions.plan()
    assert regions.lag(schedule) == CopyLag(2, 2 * 3600 + 1800, None)
    job = regions.keeper.claim()
    assert job is not None
    assert job.spec["copy_of_id"] == first.id
    regions.keeper.succeed(job)
    done_at = world.now
    world.advance(minutes=5)
    assert regions.lag(schedule) == CopyLag(1, 35 * 60, done_at)
    regions.keeper.work()
    assert regions.lag(schedule) == CopyLag(0, 0, world.now)


def test_a_failure_is_behind_until_it_is_made_up_for(regions: Regions) -> None:
    world = regions.world
    schedule = regions.add_schedule()
    regions.add(schedule)
    regions.plan()
    job = regions.keeper.claim()
    assert job is not None
    regions.keeper.fail(job)
    world.advance(hours=5)
    lag = regions.lag(schedule)
    assert lag is not None
    assert (lag.pending, lag.lag_seconds) == (1, 5 * 3600)


def test_what_nobody_wants_there_is_not_behind(regions: Regions) -> None:
    world = regions.world
    schedule = regions.add_schedule()
    cancelled, deleted, expired = (regions.add(schedule) for _ in range(3))
    regions.plan()
    [copy] = regions.copies_of(cancelled)
    with world.database.write() as tx:
        snapshots.cancel(tx, world.principal(), copy.id, now=world.now)
    regions.delete(expired)
    regions.follow()
    regions.keeper.work()
    regions.delete(regions.copies_of(deleted)[0])
    world.advance(days=3)
    assert regions.lag(schedule) == CopyLag(0, 0, None)
    regions.recover(expired)
    lag = regions.lag(schedule)
    assert lag is not None
    assert lag.pending == 1, "that one is wanted again"


def test_each_schedule_has_its_own(regions: Regions) -> None:
    world = regions.world
    behind, done = regions.add_schedule(name="behind"), regions.add_schedule(name="done")
    regions.add(behind)
    world.advance(seconds=90)
    with world.database.read() as tx:
        assert lag_of(tx.get_one(Schedule, behind.id), now=world.now) == CopyLag(1, 90, None)
        assert lag_of(tx.get_one(Schedule, done.id), now=world.now) == CopyLag(0, 0, None)


def told(world: World, name: str) -> list[str]:
    with world.database.read() as tx:
        text = metrics.render(tx, now=world.now).decode()
    return [line for line in text.splitlines() if line.startswith(name)]


def test_prometheus_is_told(regions: Regions) -> None:
    """S6 S8"""
    world = regions.world
    name = "holdfast_schedule_copy_lag_seconds"
    schedule, plain = regions.add_schedule(), regions.add_schedule(copy_region_id=None)
    regions.add(schedule)
    regions.add(plain)
    world.advance(seconds=119)
    labels = f'account="{world.account.id}",region="there",schedule="{schedule.id}"'
    assert told(world, name) == [f"{name}{{{labels}}} 119.0"]
    regions.plan()
    regions.keeper.work()
    assert told(world, name) == [f"{name}{{{labels}}} 0.0"]
    with world.database.write() as tx:
        schedules.remove(tx, world.principal(), schedule.id, now=world.now)
    assert told(world, name) == []


def test_a_copy_makes_no_source_look_well_protected(regions: Regions) -> None:
    """S8: the age of the last good snapshot is that of the last capture."""
    world = regions.world
    row = regions.add()
    world.advance(days=2)
    regions.copied(row)
    world.set(regions.copies_of(row)[0], captured_at=world.now)
    [age] = [
        float(line.split()[-1])
        for line in told(world, "holdfast_source_last_good_snapshot_age_seconds")
    ]
    assert age == pytest.approx(timedelta(days=2).total_seconds(), abs=1)
