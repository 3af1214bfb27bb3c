from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.model.retention import RestorePoint, RetentionPolicy, decide
from holdfast.model.span import CalendarSpan

NOW = datetime(2024, 7, 1, tzinfo=UTC)
COUNTS = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
SPANS = (
    "keep_within",
    "keep_within_hourly",
    "keep_within_daily",
    "keep_within_weekly",
    "keep_within_monthly",
    "keep_within_yearly",
)

bounded = settings(max_examples=80, derandomize=True, deadline=None)
zones: st.SearchStrategy[tzinfo | None] = st.sampled_from(
    [None, UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Lord_Howe")]
)
own_zones = st.sampled_from([UTC, timezone(timedelta(hours=9)), ZoneInfo("America/New_York")])


@st.composite
def histories(draw: st.DrawFn) -> list[RestorePoint]:
    """Points close together and far apart, a few in the future, some in the same second."""
    steps = draw(
        st.lists(
            st.one_of(st.integers(0, 5), st.integers(0, 72), st.integers(0, 24 * 90)), max_size=30
        )
    )
    moment = NOW + timedelta(hours=draw(st.integers(-300, 100)))
    result = []
    for number, hours in enumerate(steps):
        moment -= timedelta(hours=hours)
        result.append(
            RestorePoint(
                f"{draw(st.integers(0, 9))}-{number}",
                moment.astimezone(draw(own_zones)),
                tuple(draw(st.sets(st.sampled_from("ab")))),
                held=draw(st.integers(0, 9)) == 0,
            )
        )
    return draw(st.permutations(result))


spans = st.builds(
    CalendarSpan, st.integers(0, 2), st.integers(0, 14), st.integers(0, 40), st.integers(0, 50)
)
keep_rules = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.integers(-1, 6) for name in COUNTS},
        **dict.fromkeys(SPANS, spans),
        "keep_tags": st.sampled_from([(("a",),), (("a", "b"), ("",))]),
    },
).map(lambda given: RetentionPolicy(**given))  # type: ignore[arg-type]


def kept(
    policy: RetentionPolicy, points: list[RestorePoint], timezone: tzinfo | None = None
) -> set[str]:
    decisions = decide(policy, points, now=NOW, timezone=timezone, allow_remove_all=True)
    return {each.point.id for each in decisions if each.keep}


@bounded
@given(keep_rules, histories(), st.integers(0, 400))
def test_every_point_is_decided_once_with_a_reason(
    policy: RetentionPolicy, points: list[RestorePoint], days: int
) -> None:
    decisions = decide(replace(policy, max_age_days=days), points, now=NOW, allow_remove_all=True)
    assert sorted(each.point.id for each in decisions) == sorted(each.id for each in points)
    assert all(each.reasons and all(each.reasons) for each in decisions)
    times = [each.point.time.astimezone(UTC) for each in decisions]
    assert times == sorted(times, reverse=True)


@bounded
@given(keep_rules, histories(), st.integers(0, 400), zones)
def test_deciding_again_removes_nothing_more(
    policy: RetentionPolicy, points: list[RestorePoint], days: int, zone: tzinfo | None
) -> None:
    policy = replace(policy, max_age_days=days)
    once = kept(policy, points, zone)
    assert kept(policy, [each for each in points if each.id in once], zone) == once


@bounded
@given(keep_rules, histories(), st.sampled_from(COUNTS), st.integers(1, 5), zones)
def test_a_greater_count_keeps_at_least_as_much(
    policy: RetentionPolicy,
    points: list[RestorePoint],
    rule: str,
    more: int,
    zone: tzinfo | None,
) -> None:
    count = getattr(policy, rule)
    if count == -1 or not policy.has_keep_rules:
        return
    before = kept(policy, points, zone)
    for greater in (count + more, -1):
        changed = replace(policy, **{rule: greater})  # type: ignore[arg-type]
        assert before <= kept(changed, points, zone)


@bounded
@given(histories(), st.sampled_from(SPANS), spans, st.integers(0, 40))
def test_a_longer_span_keeps_at_least_as_much(
    points: list[RestorePoint], rule: str, span: CalendarSpan, more: int
) -> None:
    if not span:
        return
    longer = replace(span, days=span.days + more)
    assert kept(RetentionPolicy(**{rule: span}), points) <= kept(  # type: ignore[arg-type]
        RetentionPolicy(**{rule: longer}),  # type: ignore[arg-type]
        points,
    )


@bounded
@given(keep_rules, keep_rules, histories(), zones)
def test_rules_together_keep_what_each_keeps_alone(
    one: RetentionPolicy, other: RetentionPolicy, points: list[RestorePoint], zone: tzinfo | None
) -> None:
    changes = {
        name: getattr(other, name)
        for name in (*COUNTS, *SPANS, "keep_tags")
        if not getattr(one, name)
    }
    both = replace(one, **changes)
    others = replace(RetentionPolicy(), **changes)
    for alone in (one, others):
        if alone.has_keep_rules:
            assert kept(alone, points, zone) <= kept(both, points, zone)


@bounded
@given(keep_rules, histories(), zones)
def test_the_newest_is_kept_by_any_count(
    policy: RetentionPolicy, points: list[RestorePoint], zone: tzinfo | None
) -> None:
    if points and any(getattr(policy, name) for name in COUNTS):
        decisions = decide(policy, points, now=NOW, timezone=zone)
        assert decisions[0].keep


@bounded
@given(keep_rules, histories(), st.integers(0, 400))
def test_what_is_held_is_never_removed(
    policy: RetentionPolicy, points: list[RestorePoint], days: int
) -> None:
    held = {each.id for each in points if each.held}
    assert held <= kept(replace(policy, max_age_days=days), points)


@bounded
@given(keep_rules, histories())
def test_the_order_in_which_points_come_does_not_matter(
    policy: RetentionPolicy, points: list[RestorePoint]
) -> None:
    assert decide(policy, points, now=NOW, allow_remove_all=True) == decide(
        policy, sorted(points, key=lambda each: each.id), now=NOW, allow_remove_all=True
    )
