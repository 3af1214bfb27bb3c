from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import holds, recycle, retention, schedules, sources
from holdfast.control.tables import AuditEntry, Event, Repository, Schedule, Snapshot, Source


class Protected:
    """A source with a schedule, and completed snapshots of chosen ages."""

    def __init__(self, world: World, rules: dict[str, Any]) -> None:
        self.world = world
        self.source: Source = world.add_source(world.add_host())
        self.repository: Repository = world.add_repository()
        with world.database.write() as tx:
            self.schedule: Schedule = schedules.create(
                tx,
                world.principal(),
                source_id=self.source.id,
                preset="daily",
                retention=rules,
                now=world.now,
            )

    def add(self, *ages_days: float, **fields: Any) -> list[Snapshot]:
        """Snapshots of these ages, in the same order."""
        made = []
        for age in ages_days:
            at = self.world.now - timedelta(days=age)
            made.append(
                self.world.add_snapshot(
                    self.source,
                    self.repository,
                    schedule_id=self.schedule.id,
                    created_at=at,
                    captured_at=at,
                    **fields,
                )
            )
        return made

    def apply(self) -> None:
        with self.world.database.write() as tx:
            retention.apply(tx, tx.get_one(Schedule, self.schedule.id), now=self.world.now)

    def statuses(self, rows: list[Snapshot]) -> list[str]:
        return [self.world.again(row).status for row in rows]

    def events(self, kind: str) -> list[Event]:
        with self.world.database.read() as tx:
            return list(tx.scalars(select(Event).where(Event.kind == kind)))


def test_what_goes_expires_with_a_reason_and_a_time_to_recover_it(world: World) -> None:
    """B4 S3 S4"""
    it = Protected(world, {"max_age_days": 7})
    rows = it.add(0, 1, 6, 8)
    it.apply()
    assert it.statuses(rows) == ["COMPLETED"] * 3 + ["EXPIRED"]
    old = world.again(rows[3])
    assert old.removed_because == "older than 7 days"
    assert old.removed_at == world.now
    assert old.purge_at == world.now + timedelta(days=7)
    assert old.manifest_id is not None
    assert world.again(rows[0]).kept_because == ["not older than 7 days"]
    [event] = it.events("snapshot.expired")
    assert event.subject_id == old.id
    with world.database.read() as tx:
        actions = list(tx.scalars(select(AuditEntry.action)))
    assert "snapshot.expire" in actions


def test_every_reason_to_keep_is_kept(world: World) -> None:
    """S3"""
    it = Protected(world, {"keep_last": 2, "keep_daily": 3})
    rows = it.add(0, 0.01, 0.02, 1, 2, 3)
    it.apply()
    found = [world.again(row) for row in rows]
    assert found[0].kept_because == ["last snapshot", "daily snapshot"]
    assert found[1].kept_because == ["last snapshot"]
    assert found[2].removed_because == "not kept by any rule"
    assert [each.status for each in found] == ["COMPLETED"] * 2 + ["EXPIRED"] + [
        "COMPLETED",
        "COMPLETED",
        "EXPIRED",
    ]


def test_doing_it_again_changes_nothing(world: World) -> None:
    it = Protected(world, {"keep_last": 2})
    rows = it.add(0, 1, 2)
    it.apply()
    removed_at = world.again(rows[2]).removed_at
    world.advance(hours=1)
    it.apply()
    assert it.statuses(rows) == ["COMPLETED", "COMPLETED", "EXPIRED"]
    assert world.again(rows[2]).removed_at == removed_at
    assert len(it.events("snapshot.expired")) == 1


def test_a_held_snapshot_stays_until_it_is_released(world: World) -> None:
    """S4"""
    it = Protected(world, {"max_age_days": 7})
    rows = it.add(0, 20)
    who = world.principal()
    with world.database.write() as tx:
        hold = holds.place(tx, who, rows[1].id, reason="an auditor asked", now=world.now)
    it.apply()
    assert it.statuses(rows) == ["COMPLETED", "COMPLETED"]
    assert world.again(rows[1]).kept_because == ["held"]
    with world.database.write() as tx:
        holds.release(tx, who, hold.id, now=world.now)
    world.advance(days=1, hours=1)
    assert retention.apply_due(world.database, now=world.now) == 1
    assert it.statuses(rows) == ["COMPLETED", "EXPIRED"]


def test_only_completed_runs_of_the_schedule_count(world: World) -> None:
    it = Protected(world, {"keep_last": 1})
    failed = it.add(0, status="FAILED")
    rows = it.add(1, 2)
    other = world.add_snapshot(it.source, it.repository)
    it.apply()
    assert it.statuses([*failed, *rows, other]) == ["FAILED", "COMPLETED", "EXPIRED", "COMPLETED"]


def test_when_everything_would_go_nothing_goes_and_it_is_said_once(world: World) -> None:
    """S3"""
    it = Protected(world, {"max_age_days": 7})
    rows = it.add(10, 11, 12)
    it.apply()
    world.advance(days=1, hours=2)
    retention.apply_due(world.database, now=world.now)
    assert it.statuses(rows) == ["COMPLETED"] * 3
    assert len(it.events("retention.refused")) == 1
    assert "every snapshot" in world.again(rows[0]).kept_because[0]


def test_rules_that_cannot_be_read_remove_nothing_and_stop_no_other_schedule(
    world: World,
) -> None:
    it = Protected(world, {"max_age_days": 7})
    broken = it.add(0, 20)
    with world.database.write() as tx:
        second = schedules.create(
            tx,
            world.principal(),
            source_id=it.source.id,
            preset="weekly",
            retention={"keep_last": 1},
            now=world.now,
        )
    for age in (0, 1):
        at = world.now - timedelta(days=age)
        world.add_snapshot(it.source, it.repository, schedule_id=second.id, captured_at=at)
    world.set(it.schedule, timezone="Mars/Olympus")
    with world.database.write() as tx:
        assert retention.apply_all(tx, [it.schedule.id, second.id], now=world.now) == 1
    assert it.statuses(broken) == ["COMPLETED", "COMPLETED"]
    [event] = it.events("retention.refused")
    assert "cannot be read" in event.message


def test_the_newest_stays_while_the_schedule_does(world: World) -> None:
    """B9"""
    it = Protected(world, {"max_age_days": 7})
    held, newest = it.add(20, 10)
    with world.database.write() as tx:
        holds.place(tx, world.principal(), held.id, reason="kept", now=world.now)
    it.apply()
    assert it.statuses([held, newest]) == ["COMPLETED", "COMPLETED"]
    assert world.again(newest).kept_because == ["newest snapshot of its schedule"]


@pytest.mark.parametrize("ended", ["schedule", "source", "host"])
def test_what_a_machine_left_ages_on_without_runs(world: World, ended: str) -> None:
    """B9"""
    it = Protected(world, {"max_age_days": 7})
    rows = it.add(0, 1, 2)
    it.apply()
    who = world.principal()
    with world.database.write() as tx:
        if ended == "schedule":
            schedules.remove(tx, who, it.schedule.id, now=world.now)
        elif ended == "source":
            sources.remove(tx, who, it.source.id, now=world.now)
    if ended == "host":
        world.set(it.schedule, paused=True, due_at=None)
    counts = []
    for _ in range(12):
        retention.apply_due(world.database, now=world.now)
        counts.append(it.statuses(rows).count("COMPLETED"))
        world.advance(days=1)
    left = 1 if ended == "host" else 0
    assert counts[0] == 3
    assert counts[-1] == left
    assert sorted(counts, reverse=True) == counts
    if left:
        assert world.again(rows[0]).status == "COMPLETED"


def test_an_idle_schedule_is_looked_at_only_when_something_may_go(world: World) -> None:
    it = Protected(world, {"max_age_days": 30})
    it.add(0, 10)
    it.apply()
    due_at = world.again(it.schedule).retention_due_at
    assert due_at is not None
    assert timedelta(days=20) < due_at - world.now < timedelta(days=20, hours=2)


def test_several_schedules_at_once(world: World) -> None:
    it = Protected(world, {"keep_last": 1})
    rows = it.add(0, 1)
    with world.database.write() as tx:
        second = schedules.create(
            tx,
            world.principal(),
            source_id=it.source.id,
            preset="weekly",
            retention={"keep_last": 2},
            now=world.now,
        )
    others = [
        world.add_snapshot(it.source, it.repository, schedule_id=second.id, captured_at=at)
        for at in (world.now, world.now - timedelta(days=1), world.now - timedelta(days=2))
    ]
    with world.database.write() as tx:
        assert retention.apply_all(tx, [it.schedule.id, second.id], now=world.now) == 2
    assert it.statuses(rows) == ["COMPLETED", "EXPIRED"]
    assert it.statuses(others) == ["COMPLETED", "COMPLETED", "EXPIRED"]


def test_recovering_what_retention_removed_holds_it(world: World) -> None:
    """S4"""
    it = Protected(world, {"max_age_days": 7})
    rows = it.add(0, 8)
    it.apply()
    with world.database.write() as tx:
        recycle.recover(tx, world.principal(), rows[1].id, now=world.now)
    it.apply()
    assert it.statuses(rows) == ["COMPLETED", "COMPLETED"]
    with world.database.read() as tx:
        assert len(holds.holds(tx, world.principal(), rows[1].id)) == 1
