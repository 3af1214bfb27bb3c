"""Several replicas plan at once: of each missing copy and each due drill there is one (S5, S6)."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta

import pytest
from control_world import World
from sqlalchemy import select
from test_booking_races import at_once

from holdfast.control import copy_policy, drills
from holdfast.control.database import Database
from holdfast.control.tables import Drill, Job, Region, Repository, Schedule, Snapshot

REPLICAS = 3
SCHEDULES = 6


@pytest.fixture
def second(world: World) -> Region:
    """A region in which nobody has a repository yet."""
    return world.add_region("second")


@pytest.fixture
def snapshots(world: World, second: Region) -> list[Snapshot]:
    """One of each of several schedules that want copies and drills, and have had none."""
    host, repository = world.add_host(), world.add_repository()
    made = []
    for number in range(SCHEDULES):
        source = world.add_source(host, f"/root/{number}")
        schedule = world.insert(
            Schedule(
                account_id=source.account_id,
                source_id=source.id,
                interval_hours=24,
                created_at=world.now,
                updated_at=world.now,
                settled_until=world.now,
                copy_region_id=second.id,
                copy_since=world.now,
                drill_days=1,
                drill_due_at=world.now + timedelta(days=1),
            )
        )
        made.append(world.add_snapshot(source, repository, schedule_id=schedule.id))
    world.advance(days=1)
    return made


def test_replicas_that_plan_at_once_plan_each_thing_once(
    world: World, second: Region, snapshots: list[Snapshot]
) -> None:
    gate = threading.Barrier(REPLICAS)
    planned: list[tuple[int, int]] = []

    def replica() -> None:
        database = Database(world.database.url)
        try:
            gate.wait()
            copied = copy_policy.plan_missing(database, world.keys, now=world.now)
            drilled = drills.plan_due(database, now=world.now)
            planned.append((copied, drilled))
        finally:
            database.close()

    at_once(*[replica] * REPLICAS)
    with world.database.read() as tx:
        copies = Counter(
            tx.scalars(select(Snapshot.copy_of_id).where(Snapshot.copy_of_id.is_not(None)))
        )
        drilled = Counter(tx.scalars(select(Drill.snapshot_id)))
        jobs = Counter(tx.scalars(select(Job.kind)))
        repositories = tx.scalars(
            select(Repository.id).where(Repository.region_id == second.id)
        ).all()
    once = Counter(each.id for each in snapshots)
    assert (copies, drilled) == (once, once)
    assert jobs == {"copy": SCHEDULES, "drill": SCHEDULES}
    assert len(repositories) == 1
    assert [sum(each) for each in zip(*planned, strict=True)] == [SCHEDULES, SCHEDULES]
