"""A window: the part of every day in which a capture may start, in local time.

Invariant: every day has a window that is not empty, also when a change of clocks skips the
times that bound it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from holdfast.errors import UsageError

_TEXT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


def earliest_instant(local: datetime, zone: tzinfo) -> datetime:
    """The first instant in UTC at which the clocks of `zone` show the naive time `local`.

    For a time that is skipped this is the instant at which the skipped stretch ends.
    """
    while True:
        instant = local.replace(tzinfo=zone).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == local:
            return instant
        local = local.replace(second=0, microsecond=0) + timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` until before `end`, wall-clock times; `end` < `start` crosses midnight."""

    start: time
    end: time

    def __post_init__(self) -> None:
        if self.start.tzinfo or self.end.tzinfo:
            raise UsageError("a window has local times; the time zone is the schedule's")
        if self.start == self.end:
            raise UsageError(
                f"the window {self} is empty; give two different times, "
                "or leave the window out to allow the whole day"
            )

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``22:00-06:00``."""
        found = _TEXT.fullmatch(text.replace(" ", ""))
        if found is None:
            raise UsageError(f"{text!r} is not a window: give two times such as 22:00-06:00")
        numbers = [int(each) for each in found.groups()]
        return cls(time(numbers[0], numbers[1]), time(numbers[2], numbers[3]))

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def around(self, moment: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
        """Opening and closing instant, in UTC, of the first window that closes after `moment`."""
        today = moment.astimezone(zone).date()
        days = -1
        while True:
            bounds = self._of_day(datetime.combine(today + timedelta(days=days), time()), zone)
            if bounds[1] > moment:
                return bounds
            days += 1

    def closing_before(self, opening: datetime, zone: tzinfo) -> datetime:
        """The instant at which the window before the one that opens at `opening` closes."""
        today = opening.astimezone(zone).date()
        days = 0
        while True:
            bounds = self._of_day(datetime.combine(today + timedelta(days=days), time()), zone)
            if bounds[0] < opening:
                return bounds[1]
            days -= 1

    def _of_day(self, midnight: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
        """The window that opens on the day of the naive `midnight`."""
        end_day = midnight if self.start < self.end else midnight + timedelta(days=1)
        first = datetime.combine(midnight, self.start)
        last = datetime.combine(end_day, self.end)
        opening, closing = earliest_instant(first, zone), earliest_instant(last, zone)
        if closing <= opening:
            # The whole window is skipped: it opens when the skipped stretch ends.
            closing = opening + (last - first)
        return opening, closing
