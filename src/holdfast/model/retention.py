"""Retention: which restore points stay and which go, and the reason for each one.

The keep rules mean exactly what restic's ``forget --keep-*`` means (restic 0.19,
``internal/data/snapshot_policy.go``), in restic's own words; added are a greatest age and
holds. Deciding is pure: nothing here deletes, and the clock is a parameter.

Invariants: every point gets exactly one decision; a held point is never removed; a policy
without rules removes nothing; deciding again about what was kept removes nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum, auto
from typing import Final

from holdfast.errors import UsageError
from holdfast.model.span import CalendarSpan

UNLIMITED: Final = -1
"""A count that keeps every period there is."""

PRESET_DAYS: Final = (7, 30, 90, 180)
"""The greatest ages that are offered by name; `RetentionPolicy.for_days` takes 1 to 365."""


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """What retention and grouping need to know of one snapshot; `time` is timezone-aware."""

    id: str
    time: datetime
    tags: tuple[str, ...] = ()
    held: bool = False
    host: str = ""
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise UsageError(f"restore point {self.id} has a time without a time zone; give one")


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The rules; a point stays when any keep rule wants it and it is not too old.

    Counts: so many newest points (`keep_last`), or the newest point of each of so many
    newest hours, days, ISO weeks, months or years that have one; -1 is all of them, 0 is
    off. Spans: every point, or one per period, within that span before the newest point.
    `keep_tags`: points that carry all tags of any one of the lists; the list ``("",)``
    means points without tags. `max_age_days`: what is older than so many times 24 hours
    before now goes, whatever the keep rules say; 0 is off.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: CalendarSpan = field(default_factory=CalendarSpan)
    keep_within_hourly: CalendarSpan = field(default_factory=CalendarSpan)
    keep_within_daily: CalendarSpan = field(default_factory=CalendarSpan)
    keep_within_weekly: CalendarSpan = field(default_factory=CalendarSpan)
    keep_within_monthly: CalendarSpan = field(default_factory=CalendarSpan)
    keep_within_yearly: CalendarSpan = field(default_factory=CalendarSpan)
    keep_tags: tuple[tuple[str, ...], ...] = ()
    max_age_days: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int) and each.name.startswith("keep_") and value < UNLIMITED:
                raise UsageError(
                    f"{each.name} is {value}; give a count, 0 for off, or -1 for unlimited"
                )
        if self.max_age_days < 0:
            raise UsageError(f"max_age_days is {self.max_age_days}; give days, or 0 for off")
        if not all(self.keep_tags):
            raise UsageError('a keep_tags list names no tag; give tags, or "" for untagged points')

    @classmethod
    def for_days(cls, days: int) -> RetentionPolicy:
        """The plain retention of a backup schedule: remove what is older than 1 to 365 days."""
        if not 1 <= days <= 365:
            raise UsageError(f"retention is {days} days; give 1 to 365")
        return cls(max_age_days=days)

    @property
    def has_keep_rules(self) -> bool:
        """Whether any rule but the greatest age is set."""
        return any(getattr(self, each.name) for each in fields(self) if each.name != "max_age_days")


@dataclass(frozen=True, slots=True)
class RetentionDecision:
    """What becomes of one point, and why: one reason per rule that keeps it, or why it goes."""

    point: RestorePoint
    keep: bool
    reasons: tuple[str, ...]


def decide(
    policy: RetentionPolicy,
    points: Iterable[RestorePoint],
    *,
    now: datetime,
    timezone: tzinfo | None = None,
    allow_remove_all: bool = False,
) -> list[RetentionDecision]:
    """Decide about every point of one group, newest first; equal times are ordered by id.

    `timezone` says where hours, days, weeks, months and years begin; by default each point
    counts in the zone of its own time, as restic does. A held point takes its place in the
    rules like any other. Raises UsageError when nothing of a non-empty group would remain,
    unless `allow_remove_all`.
    """
    if now.tzinfo is None:
        raise UsageError("retention needs a time with a time zone as now")
    # Two times in one zone compare by the wall clock, which repeats an hour every autumn;
    # against UTC they compare as instants.
    now = now.astimezone(UTC)
    ordered = sorted(points, key=lambda point: point.id)
    ordered.sort(key=lambda point: point.time.astimezone(UTC), reverse=True)
    oldest_allowed = (
        now - timedelta(days=policy.max_age_days)
        if 0 < policy.max_age_days < timedelta.max.days
        else None
    )
    # What is too old is taken out first, so that "the oldest" is the oldest that may stay.
    young = [p for p in ordered if oldest_allowed is None or p.time >= oldest_allowed]
    if policy.has_keep_rules:
        kept = _kept_by_rules(policy, young, now, timezone)
    elif policy.max_age_days:
        kept = [(f"not older than {_days(policy.max_age_days)}",)] * len(young)
    else:
        kept = [("no retention rule is set",)] * len(young)
    reasons_of_young = iter(kept)

    decisions = []
    for point in ordered:
        if oldest_allowed is not None and point.time < oldest_allowed:
            reasons: tuple[str, ...] = ()
            removal = f"older than {_days(policy.max_age_days)}"
        else:
            reasons = next(reasons_of_young)
            removal = "not kept by any rule"
        if point.held:
            reasons = ("held", *reasons)
        decisions.append(RetentionDecision(point, bool(reasons), reasons or (removal,)))

    if decisions and not allow_remove_all and not any(each.keep for each in decisions):
        raise UsageError(
            f"this retention would remove all {len(decisions)} restore points of the group "
            f"(the newest is {decisions[0].point.id}); add a keep rule such as keep-last 1, "
            "or allow removing all"
        )
    return decisions


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"


class _Period(Enum):
    """What a rule counts."""

    EACH = auto()
    HOUR = auto()
    DAY = auto()
    WEEK = auto()
    MONTH = auto()
    YEAR = auto()

    def of(self, local: datetime, position: int) -> object:
        """A value that two points share exactly when they are in the same period."""
        match self:
            case _Period.EACH:
                return position
            case _Period.HOUR:
                return (local.year, local.month, local.day, local.hour)
            case _Period.DAY:
                return (local.year, local.month, local.day)
            case _Period.WEEK:
                return tuple(local.isocalendar())[:2]
            case _Period.MONTH:
                return (local.year, local.month)
            case _Period.YEAR:
                return local.year


class _Bucket:
    """One keep rule while it runs over the points from new to old."""

    __slots__ = ("_left", "_newer_period", "_period", "_words", "cutoff")

    def __init__(self, words: str, period: _Period, left: int, cutoff: datetime | None) -> None:
        self._words = words
        self._period = period
        self._left = left
        self._newer_period: object = None
        self.cutoff = cutoff
        """Only points after this instant count; None means all."""

    def reason(self, local: datetime, position: int, *, oldest: bool) -> str | None:
        """Why this rule keeps the point, or None; must see every point once, newest first."""
        if self._left == 0:
            return None
        period = self._period.of(local, position)
        fresh = period != self._newer_period
        # While a rule has periods left to fill, the oldest point stays too: history that
        # is shorter than the rule asks for is kept whole at its far end.
        if not fresh and not oldest:
            return None
        self._newer_period = period
        if self._left != UNLIMITED:
            self._left -= 1
        return self._words if fresh else f"oldest {self._words}"


def _kept_by_rules(
    policy: RetentionPolicy, points: list[RestorePoint], now: datetime, timezone: tzinfo | None
) -> list[tuple[str, ...]]:
    """The reasons to keep each of `points` (newest first); an empty tuple where there is none."""
    # Spans reach back from the newest point and not from now, so that a host that is
    # switched off loses nothing; a clock that ran ahead must not move that reference.
    newest = next((point.time for point in points if point.time <= now), None)

    def cutoff(span: CalendarSpan) -> datetime:
        return datetime.min.replace(tzinfo=UTC) if newest is None else span.before(newest, timezone)

    counted = (
        (policy.keep_last, _Period.EACH, "last snapshot"),
        (policy.keep_hourly, _Period.HOUR, "hourly snapshot"),
        (policy.keep_daily, _Period.DAY, "daily snapshot"),
        (policy.keep_weekly, _Period.WEEK, "weekly snapshot"),
        (policy.keep_monthly, _Period.MONTH, "monthly snapshot"),
        (policy.keep_yearly, _Period.YEAR, "yearly snapshot"),
    )
    spanned = (
        (policy.keep_within_hourly, _Period.HOUR, "hourly within"),
        (policy.keep_within_daily, _Period.DAY, "daily within"),
        (policy.keep_within_weekly, _Period.WEEK, "weekly within"),
        (policy.keep_within_monthly, _Period.MONTH, "monthly within"),
        (policy.keep_within_yearly, _Period.YEAR, "yearly within"),
    )
    buckets = [_Bucket(words, period, left, None) for left, period, words in counted if left] + [
        _Bucket(f"{words} {span}", period, UNLIMITED, cutoff(span))
        for span, period, words in spanned
        if span
    ]
    within = cutoff(policy.keep_within) if policy.keep_within else None

    result = []
    for position, point in enumerate(points):
        local = point.time if timezone is None else point.time.astimezone(timezone)
        oldest = position == len(points) - 1
        reasons = [
            f"has tags [{', '.join(tags)}]" for tags in policy.keep_tags if _carries(point, tags)
        ]
        if within is not None and point.time > within:
            reasons.append(f"within {policy.keep_within}")
        for bucket in buckets:
            if bucket.cutoff is None or point.time > bucket.cutoff:
                reason = bucket.reason(local, position, oldest=oldest)
                if reason is not None:
                    reasons.append(reason)
        result.append(tuple(reasons))
    return result


def _carries(point: RestorePoint, tags: tuple[str, ...]) -> bool:
    """Whether the point has all `tags`; an empty name stands for a point that has none."""
    for tag in tags:
        if not tag and not point.tags:
            return True
        if tag not in point.tags:
            return False
    return True
