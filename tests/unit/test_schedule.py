from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from holdfast.errors import UsageError
from holdfast.model.schedule import Arrears, Schedule, spread_offset
from holdfast.model.window import Window

START = datetime(2024, 6, 3, tzinfo=UTC)  # a Monday
BERLIN = ZoneInfo("Europe/Berlin")


def local(schedule: Schedule, day: str, days: int = 1) -> list[str]:
    """The wall-clock times in Berlin at which a schedule is due from `day` on."""
    start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    end = start + timedelta(days=days)
    return [f"{each.astimezone(BERLIN):%d %H:%M %Z}" for each in schedule.due_between(start, end)]


def berlin(expression: str, window: str = "") -> Schedule:
    return Schedule.cron_expression(
        expression, timezone="Europe/Berlin", window=Window.parse(window) if window else None
    )


def test_intervals() -> None:
    six = Schedule.every(hours=6)
    assert six.next_due(START) == START + timedelta(hours=6)
    assert six.next_due(START - timedelta(microseconds=1)) == START
    assert six.next_due(START.astimezone(BERLIN)) == START + timedelta(hours=6)
    assert six.due_between(START, START + timedelta(hours=12)) == [
        START,
        START + timedelta(hours=6),
    ]
    assert six.due_between(START, START) == []
    moved = Schedule.every(hours=6, identifier="backup-1")
    assert 0 <= moved.offset_seconds < 6 * 3600
    assert len(moved.due_between(START, START + timedelta(days=7))) == 28


def test_presets() -> None:
    assert Schedule.preset("6h") == Schedule.every(hours=6)
    assert Schedule.preset("12h") == Schedule.every(hours=12)
    assert Schedule.preset("daily").cron == "0 0 * * *"
    weekly = Schedule.preset("weekly", timezone="Europe/Berlin")
    assert local(weekly, "2024-06-03", 14) == ["09 00:00 CEST", "16 00:00 CEST"]
    with pytest.raises(UsageError, match="choose 6h, 12h, daily, weekly"):
        Schedule.preset("monthly")


@pytest.mark.parametrize("hours", [0, 169, -1])
def test_intervals_out_of_range_are_refused(hours: int) -> None:
    with pytest.raises(UsageError, match=r"1 hour to 168 hours|needs an interval"):
        Schedule.every(hours=hours)
    Schedule.every(hours=168)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "0 * * * * *",
        "60 * * * *",
        "@daily",
        "0 0 31 2 *",
        "0 0 30 2 *",
        "a b c d e",
        "*/0 * * * *",
        "9" * 5000 + " * * * *",
        "1-0 * * * *",
    ],
)
def test_cron_expressions_that_cannot_be_meant_are_refused(expression: str) -> None:
    with pytest.raises(UsageError):
        Schedule.cron_expression(expression)


def test_other_values_that_cannot_be_meant_are_refused() -> None:
    for zone in ("Mars/Olympus", "", "../etc", "Europe", "/etc/localtime"):
        with pytest.raises(UsageError, match="no time zone"):
            Schedule.preset("daily", timezone=zone)
    with pytest.raises(UsageError, match="not both"):
        Schedule(interval_seconds=3600, cron="0 0 * * *")
    with pytest.raises(UsageError, match="offset"):
        Schedule(interval_seconds=3600, offset_seconds=-1)
    with pytest.raises(UsageError, match="time zone"):
        Schedule.every(hours=1).next_due(datetime(2024, 1, 1))


def test_cron_days() -> None:
    assert local(berlin("30 2 * * 1-5"), "2024-06-07", 4) == ["07 02:30 CEST", "10 02:30 CEST"]
    assert local(berlin("0 3 L * *"), "2024-02-28", 3) == ["29 03:00 CET"]
    assert Schedule.cron_expression("0 0 29 2 *").next_due(START) == datetime(
        2028, 2, 29, tzinfo=UTC
    )


def test_a_skipped_time_falls_due_once() -> None:
    day = "2024-03-31"  # 02:00 CET is followed by 03:00 CEST
    assert local(berlin("30 2 * * *"), day) == ["31 03:00 CEST"]
    assert local(berlin("0,30 2,3 * * *"), day) == ["31 03:00 CEST", "31 03:30 CEST"]
    assert local(berlin("*/20 2 * * *"), day) == ["31 03:00 CEST"]
    assert local(berlin("0 */6 * * *"), day)[:2] == ["31 00:00 CET", "31 06:00 CEST"]
    # Also when asking from the very instant on.
    instant = datetime(2024, 3, 31, 1, tzinfo=UTC)
    assert berlin("30 2 * * *").due_between(instant, instant + timedelta(hours=9)) == [instant]
    assert berlin("30 2 * * *").next_due(instant) == datetime(2024, 4, 1, 0, 30, tzinfo=UTC)


def test_a_repeated_time_falls_due_once() -> None:
    day = "2024-10-27"  # 03:00 CEST is followed by 02:00 CET
    assert local(berlin("30 2 * * *"), day) == ["27 02:30 CEST"]
    assert local(berlin("0 */2 * * *"), day)[:3] == [
        "27 00:00 CEST",
        "27 02:00 CEST",
        "27 04:00 CET",
    ]
    assert local(berlin("*/30 2-3 * * *"), day) == [
        "27 02:00 CEST",
        "27 02:30 CEST",
        "27 03:00 CET",
        "27 03:30 CET",
    ]
    within_the_second = datetime(2024, 10, 27, 2, 10, fold=1, tzinfo=BERLIN)
    assert berlin("30 2 * * *").next_due(within_the_second) == datetime(
        2024, 10, 28, 1, 30, tzinfo=UTC
    )


def test_what_fires_every_hour_goes_by_elapsed_time() -> None:
    for expression in ("15 * * * *", "15 0-23 * * *", "15 */1 * * *"):
        for day, hours in (("2024-03-31", 23), ("2024-10-27", 25), ("2024-06-01", 24)):
            start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
            found = berlin(expression).due_between(start, start + timedelta(days=1))
            assert len(found) == hours
            gaps = {b - a for a, b in pairwise(found)}
            assert gaps == {timedelta(hours=1)}


def test_the_offset_is_fixed_by_the_id_and_spreads() -> None:
    assert spread_offset("x", 0) == spread_offset("x", 1) == 0
    assert spread_offset("schedule-1", 3600) == spread_offset("schedule-1", 3600) == 1813
    seconds = Counter(spread_offset(f"schedule-{n}", 300) for n in range(3000))
    assert len(seconds) == 300
    assert max(seconds.values()) < 30
    moved = Schedule.cron_expression("0 3 * * *", identifier="schedule-1")
    assert moved.next_due(START) == START + timedelta(
        hours=3, seconds=spread_offset("schedule-1", 300)
    )


def test_a_slot_outside_the_window_waits_for_it() -> None:
    assert local(berlin("0 12 * * *", "22:00-06:00"), "2024-06-03", 2) == [
        "03 22:00 CEST",
        "04 22:00 CEST",
    ]
    # Slots of its own serve for those that were held back.
    assert local(berlin("15 * * * *", "22:00-00:00"), "2024-06-03", 1) == [
        "03 22:15 CEST",
        "03 23:15 CEST",
    ]
    # The offset is used to spread inside the window, too.
    moved = Schedule(
        interval_seconds=7 * 86400,
        offset_seconds=3600 * 5 + 60,
        timezone="Europe/Berlin",
        window=Window.parse("22:00-00:00"),
    )
    assert local(moved, "2024-06-03", 7) == ["06 23:01 CEST"]


def test_a_window_that_is_skipped_still_starts_once() -> None:
    daily = berlin("0 0 * * *", "02:00-02:30")
    assert local(daily, "2024-03-30", 3) == ["30 02:00 CET", "31 03:00 CEST", "01 02:00 CEST"]
    assert local(daily, "2024-10-26", 3) == ["26 02:00 CEST", "27 02:00 CEST", "28 02:00 CET"]


def test_nothing_to_settle() -> None:
    six = Schedule.every(hours=6)
    at_five = START + timedelta(hours=5)
    assert six.settle(START, at_five) == Arrears(None, None, (), START + timedelta(hours=6))
    assert not six.settle(START, at_five).is_catch_up


def test_a_slot_in_time() -> None:
    six = Schedule.every(hours=6)
    now = START + timedelta(minutes=5)
    assert six.missed_slots(START - timedelta(hours=1), now) == []
    assert six.settle(START - timedelta(hours=1), now) == Arrears(
        START, now, (), START + timedelta(hours=6)
    )
    assert six.settle(START, now).run is None


def test_many_missed_slots_are_caught_up_once() -> None:
    six = Schedule.every(hours=6)
    now = START + timedelta(hours=20)
    missed = [START + timedelta(hours=hours) for hours in (6, 12, 18)]
    assert six.missed_slots(START, now) == missed
    arrears = six.settle(START, now)
    assert arrears == Arrears(missed[-1], now, tuple(missed), START + timedelta(hours=24))
    assert arrears.is_catch_up
    assert six.settle(now, now + timedelta(minutes=1)).run is None
    # When the last one can still start in time, the others are missed and it serves for all.
    now = START + timedelta(hours=18, minutes=1)
    arrears = six.settle(START, now)
    assert (arrears.run, arrears.missed) == (missed[-1], tuple(missed[:2]))
    assert not arrears.is_catch_up
    assert six.settle(START, now, grace_seconds=59).missed == tuple(missed)


def test_a_late_run_waits_for_the_window() -> None:
    # Mondays at 23:00, only from 22:00 to 06:00.
    weekly = Schedule.cron_expression("0 23 * * 1", window=Window.parse("22:00-06:00"))
    monday = START + timedelta(hours=23)
    noon = START + timedelta(days=1, hours=12)
    arrears = weekly.settle(START, noon)
    assert arrears.run == monday
    assert arrears.not_before == START + timedelta(days=1, hours=22)
    night = START + timedelta(days=1, hours=3)
    assert weekly.settle(START, night).not_before == night
    # A regular slot that comes no later serves instead.
    daily = Schedule.cron_expression("0 0 * * *", window=Window.parse("22:00-23:00"))
    arrears = daily.settle(START - timedelta(days=3), START + timedelta(hours=12))
    assert arrears.run is None
    assert len(arrears.missed) == 3
    assert arrears.next_due == START + timedelta(hours=22)
