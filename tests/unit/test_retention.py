from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from holdfast.errors import UsageError
from holdfast.model.retention import (
    RestorePoint,
    RetentionDecision,
    RetentionPolicy,
    decide,
)
from holdfast.model.span import CalendarSpan

NOW = datetime(2024, 6, 30, 12, tzinfo=UTC)


def points(*times: str, tags: tuple[str, ...] = ()) -> list[RestorePoint]:
    return [RestorePoint(t, datetime.fromisoformat(t).replace(tzinfo=UTC), tags) for t in times]


def reasons(decisions: list[RetentionDecision]) -> dict[str, tuple[str, ...]]:
    return {each.point.id: each.reasons for each in decisions}


def kept(decisions: list[RetentionDecision]) -> list[str]:
    return [each.point.id for each in decisions if each.keep]


def test_no_points_no_decisions() -> None:
    assert decide(RetentionPolicy(keep_last=1), [], now=NOW) == []


def test_an_empty_policy_keeps_everything_and_says_so() -> None:
    decisions = decide(RetentionPolicy(), points("2024-06-01", "2020-01-01"), now=NOW)
    assert [each.keep for each in decisions] == [True, True]
    assert set(reasons(decisions).values()) == {("no retention rule is set",)}


def test_every_reason_is_given() -> None:
    decisions = decide(
        RetentionPolicy(keep_last=1, keep_daily=2, keep_within=CalendarSpan(days=2)),
        points("2024-06-30T10:00", "2024-06-30T09:00", "2024-06-29T10:00", "2024-06-01T10:00"),
        now=NOW,
    )
    assert reasons(decisions) == {
        "2024-06-30T10:00": ("within 2d", "last snapshot", "daily snapshot"),
        "2024-06-30T09:00": ("within 2d",),
        "2024-06-29T10:00": ("within 2d", "daily snapshot"),
        "2024-06-01T10:00": ("not kept by any rule",),
    }


def test_the_oldest_stays_while_a_rule_has_room() -> None:
    days = points("2024-06-30T10:00", "2024-06-29T10:00", "2024-06-29T08:00", "2024-06-29T06:00")
    assert reasons(decide(RetentionPolicy(keep_daily=3), days, now=NOW)) == {
        "2024-06-30T10:00": ("daily snapshot",),
        "2024-06-29T10:00": ("daily snapshot",),
        "2024-06-29T08:00": ("not kept by any rule",),
        "2024-06-29T06:00": ("oldest daily snapshot",),
    }
    assert "2024-06-29T06:00" not in kept(decide(RetentionPolicy(keep_daily=2), days, now=NOW))


def test_weeks_are_iso_weeks() -> None:
    # 30 December 2024 is in week 1 of 2025; 2027-01-03 is in week 53 of 2026.
    same = points("2025-01-05T10:00", "2024-12-30T10:00", "2024-12-29T10:00", "2024-12-01T10:00")
    decisions = decide(RetentionPolicy(keep_weekly=2), same, now=datetime(2025, 2, 1, tzinfo=UTC))
    assert kept(decisions) == ["2025-01-05T10:00", "2024-12-29T10:00"]


def test_the_time_zone_says_where_days_begin() -> None:
    late = points("2024-06-30T01:00", "2024-06-29T23:00", "2024-06-29T01:00")
    policy = RetentionPolicy(keep_daily=1)
    assert kept(decide(policy, late, now=NOW)) == ["2024-06-30T01:00"]
    policy = RetentionPolicy(keep_daily=2)
    tokyo = decide(policy, late, now=NOW, timezone=ZoneInfo("Asia/Tokyo"))
    assert kept(tokyo) == ["2024-06-30T01:00", "2024-06-29T01:00"]
    own = [
        RestorePoint("b", datetime(2024, 6, 30, 1, tzinfo=timezone(timedelta(hours=3)))),
        RestorePoint("a", datetime(2024, 6, 29, 23, tzinfo=timezone(timedelta(hours=3)))),
    ]
    assert kept(decide(policy, own, now=NOW)) == ["b", "a"]
    assert kept(decide(RetentionPolicy(keep_daily=1), own, now=NOW, timezone=UTC)) == ["b"]


def test_times_in_the_repeated_hour_are_ordered_as_instants() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = RestorePoint("first", datetime(2024, 10, 27, 2, 50, tzinfo=berlin))
    second = RestorePoint("second", datetime(2024, 10, 27, 2, 10, fold=1, tzinfo=berlin))
    now = datetime(2024, 10, 28, tzinfo=berlin)
    assert kept(decide(RetentionPolicy(keep_last=1), [first, second], now=now)) == ["second"]


def test_spans_reach_back_from_the_newest_point_that_is_not_in_the_future() -> None:
    old = points("2020-01-10", "2020-01-09", "2020-01-01")
    policy = RetentionPolicy(keep_within=CalendarSpan(days=2))
    assert kept(decide(policy, old, now=NOW)) == ["2020-01-10", "2020-01-09"]
    ahead = points("2030-01-01") + old
    assert kept(decide(policy, ahead, now=NOW)) == ["2030-01-01", "2020-01-10", "2020-01-09"]
    made_now = [RestorePoint("now", NOW), RestorePoint("old", NOW - timedelta(days=3))]
    assert kept(decide(policy, made_now, now=NOW)) == ["now"]
    # The edge itself is out: within one day of the 10th does not reach the 9th.
    assert kept(decide(RetentionPolicy(keep_within=CalendarSpan(days=1)), old, now=NOW)) == [
        "2020-01-10"
    ]


def test_tags() -> None:
    tagged = [
        RestorePoint("ab", NOW - timedelta(1), ("a", "b")),
        RestorePoint("a", NOW - timedelta(2), ("a",)),
        RestorePoint("none", NOW - timedelta(3)),
        RestorePoint("c", NOW - timedelta(4), ("c",)),
    ]
    policy = RetentionPolicy(keep_tags=(("a", "b"), ("",)))
    assert reasons(decide(policy, tagged, now=NOW)) == {
        "ab": ("has tags [a, b]",),
        "a": ("not kept by any rule",),
        "none": ("has tags []",),
        "c": ("not kept by any rule",),
    }


def test_the_greatest_age_removes_what_is_older_whatever_else_would_keep_it() -> None:
    some = points("2024-06-23T12:00", "2024-06-23T11:59", "2024-05-01", tags=("keep",))
    assert reasons(decide(RetentionPolicy.for_days(7), some, now=NOW)) == {
        "2024-06-23T12:00": ("not older than 7 days",),
        "2024-06-23T11:59": ("older than 7 days",),
        "2024-05-01": ("older than 7 days",),
    }
    both = RetentionPolicy(keep_daily=-1, keep_tags=(("keep",),), max_age_days=7)
    assert kept(decide(both, some, now=NOW)) == ["2024-06-23T12:00"]


def test_a_held_point_stays_and_says_so() -> None:
    held = RestorePoint("old", datetime(2020, 1, 1, tzinfo=UTC), held=True)
    new = RestorePoint("new", NOW - timedelta(hours=1))
    for policy in (
        RetentionPolicy(max_age_days=1),
        RetentionPolicy(keep_last=1),
        RetentionPolicy(keep_last=1, max_age_days=30),
    ):
        assert reasons(decide(policy, [held, new], now=NOW))["old"] == ("held",)
    assert reasons(decide(RetentionPolicy(keep_last=2), [held], now=NOW))["old"] == (
        "held",
        "last snapshot",
    )


def test_removing_everything_is_refused_unless_allowed() -> None:
    old = points("2020-01-01", "2020-01-02")
    for policy in (RetentionPolicy.for_days(365), RetentionPolicy(keep_tags=(("gone",),))):
        with pytest.raises(UsageError, match=r"all 2 restore points .* newest is 2020-01-02"):
            decide(policy, old, now=NOW)
        assert kept(decide(policy, old, now=NOW, allow_remove_all=True)) == []


def test_values_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UsageError, match="keep_daily is -2"):
        RetentionPolicy(keep_daily=-2)
    with pytest.raises(UsageError, match="max_age_days"):
        RetentionPolicy(max_age_days=-1)
    with pytest.raises(UsageError, match="names no tag"):
        RetentionPolicy(keep_tags=((),))
    for days in (0, 366):
        with pytest.raises(UsageError, match="1 to 365"):
            RetentionPolicy.for_days(days)
    with pytest.raises(UsageError, match="time zone"):
        RestorePoint("x", datetime(2024, 1, 1))
    with pytest.raises(UsageError, match="time zone"):
        decide(RetentionPolicy(), [], now=datetime(2024, 1, 1))
    assert kept(decide(RetentionPolicy(max_age_days=10**12), points("2020-01-01"), now=NOW))
