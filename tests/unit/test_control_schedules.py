from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import due, events, retention, schedules, snapshots
from holdfast.control.principal import Right
from holdfast.control.tables import Event, Schedule, Snapshot, Source
from holdfast.errors import Forbidden, NotFound, NotReady, UsageError


def create(world: World, source: Source, **fields: Any) -> Schedule:
    if not {"interval_hours", "preset", "cron"} & set(fields):
        fields["interval_hours"] = 6
    fields.setdefault("retention", {"max_age_days": 30})
    with world.database.write() as tx:
        return schedules.create(tx, world.principal(), source_id=source.id, now=world.now, **fields)


def edit(world: World, row: Schedule, **changes: Any) -> Schedule:
    with world.database.write() as tx:
        return schedules.edit(tx, world.principal(), row.id, now=world.now, **changes)


@pytest.fixture
def source(world: World) -> Source:
    return world.add_source(world.add_host())


@pytest.mark.parametrize(
    ("preset", "interval_hours", "cron", "spread"),
    [
        ("6h", 6, None, 6 * 3600),
        ("12h", 12, None, 12 * 3600),
        ("daily", None, "0 0 * * *", 3600),
        ("weekly", None, "0 0 * * 0", 3600),
    ],
)
def test_presets(
    world: World, preset: str, interval_hours: int | None, cron: str | None, spread: int
) -> None:
    """B3"""
    source = world.add_source(world.add_host())
    row = create(world, source, preset=preset)
    assert (row.interval_hours, row.cron) == (interval_hours, cron)
    assert schedules.preset_of(row) == preset
    assert 0 <= row.offset_seconds < spread
    assert row.due_at == schedules.schedule_of(row).next_due(world.now)
    assert row.due_at is not None
    assert row.due_at - world.now <= timedelta(days=7, hours=1)


@pytest.mark.parametrize("hours", [1, 5, 168])
def test_any_interval_from_an_hour_to_a_week(world: World, source: Source, hours: int) -> None:
    """B3"""
    assert create(world, source, interval_hours=hours).interval_hours == hours


def test_cron_counts_in_its_time_zone(world: World, source: Source) -> None:
    """B3"""
    row = create(world, source, cron="30  2 * * *", timezone="America/New_York")
    assert row.cron == "30 2 * * *"
    assert row.due_at is not None
    spread = row.due_at - datetime(2026, 11, 3, 7, 30, tzinfo=UTC)
    assert timedelta() <= spread < timedelta(minutes=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval_hours": 0},
        {"interval_hours": 169},
        {"interval_hours": 6, "preset": "daily"},
        {"preset": "hourly"},
        {"cron": "* * *"},
        {"cron": "0 0 31 2 *"},
        {"interval_hours": 6, "timezone": "Mars/Olympus"},
        {"interval_hours": 6, "window": "25:00-26:00"},
        {"interval_hours": 6, "retention": {}},
        {"interval_hours": 6, "retention": {"max_age_days": 0}},
        {"interval_hours": 6, "retention": {"max_age_days": 366}},
        {"interval_hours": 6, "retention": {"max_age_days": "30"}},
        {"interval_hours": 6, "retention": {"keep_last": -2}},
        {"interval_hours": 6, "retention": {"keep_last": True}},
        {"interval_hours": 6, "retention": {"keep_within": "a month"}},
        {"interval_hours": 6, "retention": {"keep_tags": [["a"]]}},
        {"interval_hours": 6, "archive_format": "tar"},
        {"interval_hours": 6, "name": "a/b"},
    ],
)
def test_what_cannot_be_meant_is_refused(
    world: World, source: Source, wrong: dict[str, Any]
) -> None:
    """B3"""
    with pytest.raises(UsageError):
        create(world, source, **wrong)


@pytest.mark.parametrize(
    "rules",
    [
        {"max_age_days": 7},
        {"max_age_days": 365, "keep_last": -1},
        {
            "keep_hourly": 24,
            "keep_daily": 7,
            "keep_weekly": 4,
            "keep_monthly": 12,
            "keep_yearly": 3,
        },
        {"keep_within": "1y6m", "keep_within_daily": "30d"},
    ],
)
def test_retention_is_kept_as_written(world: World, source: Source, rules: dict[str, Any]) -> None:
    """B3"""
    row = world.again(create(world, source, retention={"keep_last": 0} | rules))
    assert row.retention == rules
    policy = schedules.policy_of(row)
    for name, value in rules.items():
        assert str(getattr(policy, name)) == str(value)


def test_a_source_may_have_several_schedules(world: World, source: Source) -> None:
    """B1"""
    create(world, source, name="often")
    world.advance(seconds=1)
    create(world, source, name="weekly copy", preset="weekly")
    with world.database.read() as tx:
        found = schedules.schedules(tx, world.principal(), source_id=source.id).items
    assert [each.name for each in found] == ["weekly copy", "often"]


def test_ids_spread_a_thousand_schedules(world: World) -> None:
    """S3"""
    host = world.add_host()
    with world.database.write() as tx:
        rows = [Source(account_id=world.account.id, host_id=host.id, path=f"/root/{n}",
                       created_at=world.now) for n in range(100)]  # fmt: skip
        tx.add_all(rows)
        tx.flush()
        offsets = {
            schedules.create(
                tx,
                world.principal(),
                source_id=row.id,
                preset="daily",
                retention={"keep_last": 1},
                now=world.now,
            ).due_at
            for row in rows
        }
    assert len(offsets) > 80


def test_pause_resume_and_the_slots_between(world: World, source: Source) -> None:
    """B1"""
    row = create(world, source, interval_hours=1)
    who = world.principal()
    with world.database.write() as tx:
        schedules.pause(tx, who, row.id, now=world.now)
    paused = world.again(row)
    assert (paused.paused, paused.due_at) == (True, None)
    world.advance(hours=10)
    assert due.settle_due(world.database, world.keys, now=world.now) == 0
    with world.database.write() as tx:
        resumed = schedules.resume(tx, who, row.id, now=world.now)
    assert resumed.settled_until == world.now
    assert resumed.due_at is not None
    assert world.now < resumed.due_at <= world.now + timedelta(hours=1)
    world.now = resumed.due_at
    assert due.settle_due(world.database, world.keys, now=world.now) == 1
    with world.database.read() as tx:
        slots = tx.scalars(select(Snapshot)).all()
        kinds = [each.kind for each in events.events(tx, who, after_id=None, limit=100)]
    assert [each.status for each in slots] == ["PENDING"]
    assert kinds == ["schedule.created", "schedule.paused", "schedule.resumed"]


def test_a_change_settles_what_was_due_by_the_old_rules(world: World, source: Source) -> None:
    """B1"""
    row = create(world, source, interval_hours=1)
    assert row.due_at is not None
    world.now = row.due_at
    due.settle_due(world.database, world.keys, now=world.now)
    world.advance(hours=2, minutes=1)
    changed = edit(world, row, interval_hours=168, retention={"max_age_days": 90})
    assert changed.interval_hours == 168
    assert changed.settled_until == world.now
    assert changed.due_at is not None
    assert changed.due_at > world.now
    with world.database.read() as tx:
        found = tx.scalars(select(Snapshot).order_by(Snapshot.slot_at)).all()
    # The first run was never taken, one slot passed, and the last one has its run.
    assert [each.status for each in found] == ["SKIPPED", "SKIPPED", "PENDING"]
    slots = [each.slot_at for each in found if each.slot_at]
    assert [b - a for a, b in pairwise(slots)] == [timedelta(hours=1)] * 2


def test_a_change_before_the_first_repository_waits_for_the_clockwork(
    world: World, source: Source
) -> None:
    row = create(world, source, interval_hours=1)
    world.advance(hours=1)
    with pytest.raises(NotReady, match="try again"):
        edit(world, row, name="later")


def test_a_wrong_change_leaves_the_old_schedule(world: World, source: Source) -> None:
    """B1"""
    row = create(world, source, preset="daily", timezone="Europe/Berlin")
    before = schedules.schedule_of(row)
    with pytest.raises(UsageError):
        edit(world, row, name="good", window="nonsense")
    with pytest.raises(UsageError, match="account_id"):
        edit(world, row, account_id="other")
    again = world.again(row)
    assert schedules.schedule_of(again) == before
    assert again.name == ""


def test_another_path_of_the_same_host(world: World, source: Source) -> None:
    """B1"""
    row = create(world, source)
    host = world.add_host()
    with world.database.read() as tx:
        same = tx.get_one(type(host), source.host_id)
    other = world.add_source(same, "/root/other")
    assert edit(world, row, source_id=other.id).source_id == other.id
    with pytest.raises(UsageError):
        edit(world, row, source_id=world.add_source(host, "/root/third").id)
    assert world.again(row).source_id == other.id


def test_a_window_or_zone_alone_keeps_the_frequency(world: World, source: Source) -> None:
    row = create(world, source, preset="daily", timezone="Europe/Berlin")
    changed = edit(world, row, window="22:00-06:00")
    assert (changed.cron, changed.timezone) == ("0 0 * * *", "Europe/Berlin")
    assert (changed.window, changed.offset_seconds) == ("22:00-06:00", row.offset_seconds)
    changed = edit(world, row, window=None, timezone="UTC")
    assert (changed.window, changed.timezone) == (None, "UTC")


def test_a_removed_schedule_runs_no_more(world: World, source: Source) -> None:
    """B1"""
    row = create(world, source, interval_hours=1)
    assert row.due_at is not None
    world.now = row.due_at
    due.settle_due(world.database, world.keys, now=world.now)
    with world.database.write() as tx:
        schedules.remove(tx, world.principal(), row.id, now=world.now)
    world.advance(days=3)
    assert due.settle_due(world.database, world.keys, now=world.now) == 0
    with world.database.read() as tx:
        assert [each.status for each in tx.scalars(select(Snapshot))] == ["CANCELLED"]
        assert schedules.schedules(tx, world.principal()).items == []
        kinds = set(tx.scalars(select(Event.kind)))
    assert "schedule.removed" in kinds
    with pytest.raises(NotReady):
        edit(world, row, name="again")


def test_preview_says_what_retention_would_do_and_changes_nothing(
    world: World, source: Source
) -> None:
    """S3"""
    row = create(world, source, interval_hours=24)
    repository = world.add_repository()
    for _ in range(10):
        world.advance(days=1)
        world.add_snapshot(source, repository, schedule_id=row.id)
    who = world.principal()
    with world.database.read() as tx:
        shown = schedules.preview(tx, who, row.id, {"keep_last": 3}, now=world.now)
        all_gone = schedules.preview(
            tx, who, row.id, {"max_age_days": 1}, now=world.now + timedelta(days=30)
        )
    assert [each.keep for each in shown] == [True] * 3 + [False] * 7
    assert shown[0].reasons == ("last snapshot",)
    assert shown[9].reasons == ("not kept by any rule",)
    assert all(each.keep for each in all_gone)
    assert "every snapshot" in all_gone[0].reasons[0]
    with world.database.read() as tx:
        assert set(tx.scalars(select(Snapshot.status))) == {"COMPLETED"}
    edit(world, row, retention={"keep_last": 3})
    world.advance(days=1, hours=1)
    gone = {each.point.id for each in shown if not each.keep}
    retention.apply_due(world.database, now=world.now)
    with world.database.read() as tx:
        expired = set(tx.scalars(select(Snapshot.id).where(Snapshot.status == "EXPIRED")))
    assert expired == gone


def test_others_schedules_are_not_found(world: World, source: Source) -> None:
    """A4"""
    row = create(world, source)
    stranger = world.principal(world.add_account("Other"))
    with world.database.write() as tx:
        assert schedules.schedules(tx, stranger).items == []
        for act in (schedules.pause, schedules.resume, schedules.remove, schedules.edit):
            with pytest.raises(NotFound):
                act(tx, stranger, row.id, now=world.now)
        with pytest.raises(NotFound):
            schedules.preview(tx, stranger, row.id, {"keep_last": 1}, now=world.now)
        with pytest.raises(NotFound):
            snapshots.request(tx, stranger, source_id=source.id, now=world.now, keys=world.keys)
        with pytest.raises(NotFound):
            schedules.create(
                tx,
                stranger,
                source_id=source.id,
                preset="daily",
                retention={"keep_last": 1},
                now=world.now,
            )


def test_rights_and_narrowed_tokens(world: World, source: Source) -> None:
    """A2"""
    row = create(world, source)
    reader = world.principal(rights=[Right.READ])
    elsewhere = world.principal(resources=frozenset({"another"}))
    here = world.principal(resources=frozenset({source.host_id}))
    with world.database.write() as tx:
        with pytest.raises(Forbidden):
            schedules.pause(tx, reader, row.id, now=world.now)
        assert schedules.schedules(tx, elsewhere).items == []
        with pytest.raises(NotFound):
            schedules.get(tx, elsewhere, row.id)
        assert [each.id for each in schedules.schedules(tx, here).items] == [row.id]
        assert schedules.get(tx, here, row.id).id == row.id
