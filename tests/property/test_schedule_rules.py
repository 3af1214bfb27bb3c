from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.model.schedule import Schedule
from holdfast.model.window import Window, earliest_instant

# Changes of an hour at night and at midnight, of half an hour, of a whole day, and none.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "UTC",
)
CHANGES = (
    datetime(2024, 3, 31, tzinfo=UTC),
    datetime(2024, 10, 27, tzinfo=UTC),
    datetime(2024, 3, 10, tzinfo=UTC),
    datetime(2024, 11, 3, tzinfo=UTC),
    datetime(2024, 4, 25, tzinfo=UTC),
    datetime(2024, 10, 6, tzinfo=UTC),
    datetime(2011, 12, 30, tzinfo=UTC),
)
bounded = settings(max_examples=120, derandomize=True, deadline=None)

moments = st.builds(
    lambda change, seconds: change + timedelta(seconds=seconds),
    st.sampled_from(CHANGES),
    st.one_of(st.integers(-2 * 86400, 2 * 86400), st.integers(-96, 96).map(lambda n: n * 1800)),
)
minutes = st.sampled_from(["0", "30", "15,45", "*/20", "59"])
hours = st.sampled_from(["*", "0", "1,2", "2", "*/2", "1-3", "23", "*/6", "0-23"])
days = st.sampled_from(["* * *", "* * *", "* * 0", "1,27,31 * *", "L * *", "* * 6,0"])
clock = st.builds(time, st.integers(0, 23), st.sampled_from([0, 30]))
windows = st.one_of(
    st.none(), st.tuples(clock, clock).filter(lambda w: w[0] != w[1]).map(lambda w: Window(*w))
)
offsets = st.one_of(st.just(0), st.integers(0, 7200))
crons = st.builds(
    lambda minute, hour, day, zone, offset, window: Schedule(
        cron=f"{minute} {hour} {day}", timezone=zone, offset_seconds=offset, window=window
    ),
    minutes,
    hours,
    days,
    st.sampled_from(ZONES),
    offsets,
    windows,
)
intervals = st.builds(
    lambda hours, name, zone, window: Schedule.every(
        hours=hours, identifier=name, timezone=zone, window=window
    ),
    st.sampled_from([1, 5, 6, 24, 168]),
    st.text(max_size=3),
    st.sampled_from(ZONES),
    windows,
)
schedules = st.one_of(crons, intervals)


@bounded
@given(schedules, moments)
def test_due_times_strictly_increase_and_next_due_finds_each(
    schedule: Schedule, start: datetime
) -> None:
    found = schedule.due_between(start, start + timedelta(days=4))
    assert all(a < b for a, b in pairwise(found))
    assert all(start <= each < start + timedelta(days=4) for each in found)
    assert all(each.tzinfo is UTC and not each.microsecond for each in found)
    walked: list[datetime] = []
    moment = schedule.next_due(start - timedelta(microseconds=1))
    while moment is not None and moment < start + timedelta(days=4) and len(walked) < 40:
        walked.append(moment)
        moment = schedule.next_due(moment)
    assert walked == found[:40]


@bounded
@given(schedules, moments, st.integers(0, 2 * 86400), st.integers(0, 2 * 86400))
def test_a_split_gives_the_same_slots(
    schedule: Schedule, start: datetime, first: int, second: int
) -> None:
    middle = start + timedelta(seconds=first)
    end = middle + timedelta(seconds=second)
    assert schedule.due_between(start, end) == (
        schedule.due_between(start, middle) + schedule.due_between(middle, end)
    )


@bounded
@given(schedules, moments)
def test_a_split_at_a_slot_gives_the_same_slots(schedule: Schedule, start: datetime) -> None:
    end = start + timedelta(days=3)
    whole = schedule.due_between(start, end)
    for middle in whole[:5]:
        assert schedule.due_between(start, middle) + schedule.due_between(middle, end) == whole


@bounded
@given(schedules, moments)
def test_slots_start_inside_the_window(schedule: Schedule, start: datetime) -> None:
    assume(schedule.window is not None)
    assert schedule.window is not None
    zone = ZoneInfo(schedule.timezone)
    for due in schedule.due_between(start, start + timedelta(days=4)):
        opening, closing = schedule.window.around(due, zone)
        assert opening <= due < closing


@bounded
@given(schedules, moments)
def test_a_window_loses_no_day(schedule: Schedule, start: datetime) -> None:
    """Whatever is due without the window is served by the end of the first window after it."""
    assume(schedule.window is not None)
    assert schedule.window is not None
    zone = ZoneInfo(schedule.timezone)
    free = Schedule(
        schedule.interval_seconds, schedule.cron, schedule.timezone, schedule.offset_seconds
    )
    for slot in free.due_between(start, start + timedelta(days=2))[:20]:
        opening, closing = schedule.window.around(slot, zone)
        assert len(schedule.due_between(max(slot, opening), closing)) >= 1


@bounded
@given(
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from([each.date() for each in CHANGES]),
    st.integers(-3, 3),
)
def test_a_daily_time_falls_due_once_a_day(
    zone: str, hour: int, minute: int, day: date, shift: int
) -> None:
    """Every local date has its slot, a skipped time at the end of what was skipped."""
    schedule = Schedule.cron_expression(f"{minute} {hour} * * *", timezone=zone)
    named = [
        datetime.combine(day + timedelta(days=shift + n), time(hour, minute)) for n in range(4)
    ]
    expected = [earliest_instant(each, ZoneInfo(zone)) for each in named]
    distinct = sorted(set(expected))  # a date that was skipped whole shares its instant
    first, last = distinct[0], distinct[-1]
    assert schedule.due_between(first, last + timedelta(seconds=1)) == distinct
    assert len(distinct) == 4 or zone == "Pacific/Apia"


@bounded
@given(intervals, moments)
def test_intervals_are_even(schedule: Schedule, start: datetime) -> None:
    assume(schedule.window is None)
    length = timedelta(seconds=schedule.interval_seconds)
    found = schedule.due_between(start, start + 5 * length)
    assert len(found) == 5
    assert all(b - a == length for a, b in pairwise(found))


@bounded
@given(schedules, moments, st.lists(st.integers(60, 90000), max_size=12), st.integers(0, 3600))
def test_settling_step_by_step_reports_every_slot_once(
    schedule: Schedule, start: datetime, steps: list[int], grace: int
) -> None:
    """However the scheduler is interrupted, each slot is run for or missed, in order."""
    seen: list[datetime] = []
    now = start
    for step in steps:
        settled, now = now, now + timedelta(seconds=step)
        arrears = schedule.settle(settled, now, grace_seconds=grace)
        slots = list(arrears.missed)
        if arrears.run is not None:
            assert arrears.not_before is not None
            assert arrears.not_before >= now
            if not arrears.is_catch_up:
                slots.append(arrears.run)
        seen += slots
    expected = schedule.due_between(start, now + timedelta(seconds=1))
    assert seen == [each for each in expected if start < each <= now]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(alphabet="0123456789*/,-#LWMONSU ", max_size=24))
def test_any_text_is_a_cron_expression_or_a_usage_error(text: str) -> None:
    try:
        schedule = Schedule.cron_expression(text)
    except UsageError:
        return
    assert schedule.next_due(CHANGES[0]) is not None
