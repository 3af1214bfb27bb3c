"""Drills that schedules have: when they are due, and of what (S5)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import func, select

from holdfast.control import drills, job_end, metrics, schedules
from holdfast.control.clockwork import STEPS, Clockwork
from holdfast.control.schedule_row import record
from holdfast.control.tables import Drill, Host, Job, Repository, Schedule, Snapshot, Source
from holdfast.errors import UsageError

DAY = timedelta(days=1)


class Plan:
    """A source with schedules, what was backed up of it, and a keeper."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host: Host = world.add_host()
        self.source: Source = world.add_source(self.host)
        self.repository: Repository = world.add_repository()
        self.keeper = CatalogAgent(world, world.add_host(world.operator_account, keeper=True))

    def add(self, drill_days: int | None = 7, **fields: Any) -> Schedule:
        with self.world.database.write() as tx:
            return schedules.create(
                tx,
                self.world.principal(),
                source_id=self.source.id,
                cron="0 3 * * *",
                retention={"keep_last": 3},
                drill_days=drill_days,
                now=self.world.now,
                **fields,
            )

    def edit(self, schedule: Schedule, **changes: Any) -> Schedule:
        with self.world.database.write() as tx:
            return schedules.edit(
                tx, self.world.principal(), schedule.id, now=self.world.now, **changes
            )

    def backed_up(self, schedule: Schedule, **fields: Any) -> Snapshot:
        return self.world.add_snapshot(
            self.source, self.repository, schedule_id=schedule.id, **fields
        )

    def due(self) -> int:
        return drills.plan_due(self.world.database, now=self.world.now)

    def due_at(self, schedule: Schedule) -> datetime | None:
        return self.world.again(schedule).drill_due_at

    def all(self) -> list[Drill]:
        with self.world.database.read() as tx:
            return list(tx.scalars(select(Drill).order_by(Drill.created_at, Drill.id)))


@pytest.fixture
def plan(world: World) -> Plan:
    return Plan(world)


def test_s5_the_newest_snapshot_is_drilled_when_it_is_due(world: World, plan: Plan) -> None:
    schedule = plan.add(7)
    assert (schedule.drill_days, schedule.drill_due_at) == (7, world.now + 7 * DAY)
    plan.backed_up(schedule)
    world.advance(days=6)
    newest = plan.backed_up(schedule)
    world.advance(hours=1)
    plan.backed_up(schedule, status="FAILED")
    plan.backed_up(schedule, status="RUNNING")
    plan.backed_up(schedule, archive_format="zip")
    plan.backed_up(schedule, manifest_id=None)
    plan.backed_up(schedule, status="DELETED", manifest_id="f" * 64)
    assert plan.due() == 0, "not yet"
    world.advance(days=1)
    assert plan.due() == 1
    [row] = plan.all()
    assert (row.snapshot_id, row.schedule_id, row.trigger) == (newest.id, schedule.id, "schedule")
    assert (row.host_id, row.paths, row.status) == (None, [], "PENDING")
    assert plan.due_at(schedule) == world.now + 7 * DAY
    with world.database.read() as tx:
        job = tx.get_one(Job, row.job_id)
    assert (job.priority, job.give_up_at, job.host_id) == (0, world.now + DAY, None)
    assert plan.due() == 0
    plan.keeper.work()
    assert world.again(newest).drilled_at == world.now


def test_s5_what_has_nothing_to_drill_is_looked_at_again_in_a_day(world: World, plan: Plan) -> None:
    schedule = plan.add(30)
    world.advance(days=30)
    assert plan.due() == 0
    assert plan.due_at(schedule) == world.now + DAY
    plan.backed_up(schedule)
    assert plan.due() == 0
    world.advance(days=1)
    assert plan.due() == 1
    assert plan.due_at(schedule) == world.now + 30 * DAY


def test_s5_an_unfinished_drill_is_waited_for(world: World, plan: Plan) -> None:
    schedule = plan.add(1)
    plan.backed_up(schedule)
    world.advance(days=1)
    assert plan.due() == 1
    assert plan.keeper.claim() is not None
    plan.backed_up(schedule)
    world.advance(days=1)
    assert plan.due() == 0, "that of yesterday goes on"
    assert plan.due_at(schedule) == world.now + DAY
    world.set(plan.all()[0], status="FAILED")
    world.advance(days=1)
    assert plan.due() == 1


def test_s5_a_persons_drill_of_the_same_snapshot_is_enough(world: World, plan: Plan) -> None:
    schedule = plan.add(1)
    snapshot = plan.backed_up(schedule)
    with world.database.write() as tx:
        who = world.principal()
        row = drills.request(tx, who, snapshot_id=snapshot.id, now=world.now)
    world.advance(days=1)
    assert plan.due() == 0
    with world.database.write() as tx:
        drills.cancel(tx, world.principal(), row.id, now=world.now)
    world.advance(days=1)
    assert plan.due() == 1


def test_s5_other_schedules_of_the_source_have_their_own(world: World, plan: Plan) -> None:
    first, second, none = plan.add(2), plan.add(3), plan.add(None)
    for each in (first, second, none):
        plan.backed_up(each)
    assert plan.due_at(none) is None
    world.advance(days=2)
    assert plan.due() == 1
    world.advance(days=1)
    assert plan.due() == 1
    assert [each.schedule_id for each in plan.all()] == [first.id, second.id]


def test_s5_a_paused_schedule_drills_and_a_removed_one_does_not(world: World, plan: Plan) -> None:
    paused, removed = plan.add(1, paused=True), plan.add(1)
    for each in (paused, removed):
        plan.backed_up(each)
    with world.database.write() as tx:
        schedules.remove(tx, world.principal(), removed.id, now=world.now)
    assert plan.due_at(removed) is None
    world.advance(days=1)
    assert plan.due() == 1
    assert [each.schedule_id for each in plan.all()] == [paused.id]


def test_s5_changing_how_often(world: World, plan: Plan) -> None:
    schedule = plan.add(None)
    begun = world.now
    assert plan.edit(schedule, drill_days=10).drill_due_at == begun + 10 * DAY
    world.advance(days=4)
    assert plan.edit(schedule, name="nightly").drill_due_at == begun + 10 * DAY
    assert plan.edit(schedule, drill_days=10).drill_due_at == begun + 10 * DAY
    assert plan.edit(schedule, paused=True).drill_due_at == begun + 10 * DAY
    changed = plan.edit(schedule, drill_days=5)
    assert changed.drill_due_at == world.now + 5 * DAY
    assert record(changed)["drill_days"] == 5
    cleared = plan.edit(schedule, drill_days=None)
    assert (cleared.drill_days, cleared.drill_due_at) == (None, None)


@pytest.mark.parametrize("days", [0, -1, 366, True])
def test_how_often_is_checked(plan: Plan, days: int) -> None:
    with pytest.raises(UsageError, match="1 to 365"):
        plan.add(days)
    schedule = plan.add(None)
    with pytest.raises(UsageError, match="1 to 365"):
        plan.edit(schedule, drill_days=days)


def test_archives_are_not_drilled(world: World, plan: Plan) -> None:
    with pytest.raises(UsageError, match="drilled"):
        plan.add(7, archive_format="zip")
    schedule = plan.add(7)
    with pytest.raises(UsageError, match="drilled"):
        plan.edit(schedule, archive_format="zip")
    assert world.again(schedule).archive_format == "repository"
    plan.edit(schedule, archive_format="zip", drill_days=None)


def test_s5_after_a_long_time_without_a_server_one_is_enough(world: World, plan: Plan) -> None:
    schedule = plan.add(7)
    plan.backed_up(schedule)
    world.advance(days=200)
    assert (plan.due(), plan.due()) == (1, 0)
    assert plan.due_at(schedule) == world.now + 7 * DAY


def test_s5_a_clock_that_goes_back_makes_none_twice(world: World, plan: Plan) -> None:
    schedule = plan.add(7)
    plan.backed_up(schedule)
    world.advance(days=7)
    assert plan.due() == 1
    plan.keeper.work()
    world.advance(hours=-3)
    assert plan.due() == 0
    world.advance(days=7)
    assert plan.due() == 0
    world.advance(hours=3)
    assert plan.due() == 1


def test_many_at_once_come_in_several_transactions(
    world: World, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "BATCH_SCHEDULES", 2)
    made = [plan.add(1) for _ in range(5)]
    for each in made[1:]:
        plan.backed_up(each)
    world.advance(days=1)
    assert plan.due() == 4
    assert {each.schedule_id for each in plan.all()} == {each.id for each in made[1:]}
    assert plan.due() == 0


def test_s5_the_clockwork_does_it(world: World, plan: Plan) -> None:
    plan.backed_up(plan.add(1))
    world.advance(days=1)
    [step] = [each for each in STEPS if each.name == "drills"]
    Clockwork(world.database, world.keys, replica_id="one", steps=[step]).tick(world.now)
    assert len(plan.all()) == 1


def test_s5_ninety_days_have_as_many_drills_as_they_should(world: World, plan: Plan) -> None:
    """By a clock of days, with backups now and then and a keeper that is away for a while."""
    begun = world.now
    days = {1: plan.add(1), 7: plan.add(7), 30: plan.add(30)}
    for day in range(91):
        world.now = begun + day * DAY
        if day % 10 == 0:
            for each in days.values():
                plan.backed_up(each)
        with world.database.write() as tx:
            job_end.expire_leases(tx, now=world.now)
        if plan.due() and not 40 <= day < 43:
            plan.keeper.work()
    made = Counter((each.schedule_id, each.status) for each in plan.all())
    assert made == {
        (days[1].id, "COMPLETED"): 87,
        (days[1].id, "FAILED"): 3,
        (days[7].id, "COMPLETED"): 11,
        (days[7].id, "FAILED"): 1,
        (days[30].id, "COMPLETED"): 3,
    }
    with world.database.read() as tx:
        assert tx.scalar(select(func.max(Snapshot.drilled_at))) == begun + 90 * DAY


def test_s5_s8_the_age_of_the_last_drill_is_told(world: World, plan: Plan) -> None:
    """Of protected sources whose schedule has drills; without any, as old as the source is."""

    def told() -> dict[str, float]:
        with world.database.read() as tx:
            text = metrics.render(tx, now=world.now).decode()
        return {
            line.split('source="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("holdfast_source_last_drill_age_seconds{")
        }

    schedule = plan.add(None)
    first = plan.backed_up(schedule)
    world.advance(hours=1)
    assert told() == {}
    plan.edit(schedule, drill_days=1)
    assert told() == {plan.source.id: 3600}
    for paths in ([], ["a"]):
        with world.database.write() as tx:
            who = world.principal()
            drills.request(tx, who, snapshot_id=first.id, paths=paths, now=world.now)
        plan.keeper.work()
        world.advance(minutes=10)
    assert told() == {plan.source.id: 1200}, "a part does not count"
    with world.database.write() as tx:
        schedules.remove(tx, world.principal(), schedule.id, now=world.now)
    assert told() == {}
    world.set(world.again(schedule), removed_at=None)
    world.set(plan.source, removed_at=world.now)
    assert told() == {}
