"""A calendar span: so many years, months, days and hours, as in ``1y5m7d2h``.

Written and subtracted as restic does for its keep-within rules. A month is a month of the
calendar and not thirty days; a day is a day of the wall clock, so it may last 23 or 25
hours. A span has no length in seconds, and nothing here invents one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from holdfast.errors import UsageError

_PART = re.compile(r"([0-9]{1,9})([ymdh])")
_ACCEPTED = "write numbers followed by y, m, d or h, such as 30d, 12h or 1y5m7d2h"


@dataclass(frozen=True, slots=True)
class CalendarSpan:
    """Years, months, days and hours, none negative. The empty span is false: a rule turned off."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def __post_init__(self) -> None:
        if min(self.years, self.months, self.days, self.hours) < 0:
            raise UsageError(f"a span cannot be negative: {self}; {_ACCEPTED}")

    @classmethod
    def parse(cls, text: str) -> CalendarSpan:
        """Read ``1y5m7d2h``: any order, each unit at most once; an empty text is the empty span.

        Raises UsageError that says what is accepted.
        """
        found: dict[str, int] = {}
        rest = text.strip()
        while rest:
            part = _PART.match(rest)
            if part is None:
                raise UsageError(f"{text!r} is not a span of time: {_ACCEPTED}")
            number, unit = part.groups()
            if unit in found:
                raise UsageError(f"{text!r} names the unit {unit!r} twice: {_ACCEPTED}")
            found[unit] = int(number)
            rest = rest[part.end() :]
        return cls(found.get("y", 0), found.get("m", 0), found.get("d", 0), found.get("h", 0))

    def __bool__(self) -> bool:
        return bool(self.years or self.months or self.days or self.hours)

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number)

    def before(self, moment: datetime, timezone: tzinfo | None = None) -> datetime:
        """The instant this span before `moment`, in UTC.

        Years, months and days are taken from the wall clock of `timezone` (by default the
        moment's own), and a day that the month does not have runs over into the next one:
        one month before 31 March is 3 March, or 2 March in a leap year. Hours are elapsed
        hours. What lies before the year 1 is the first instant of it.
        """
        local = moment if timezone is None else moment.astimezone(timezone)
        months = local.year * 12 + local.month - 1 - self.years * 12 - self.months
        try:
            year, month = divmod(months, 12)
            first = local.replace(year=year, month=month + 1, day=1, fold=0)
            shifted = first + timedelta(days=local.day - 1 - self.days)
            return shifted.astimezone(UTC) - timedelta(hours=self.hours)
        except (ValueError, OverflowError):
            return datetime.min.replace(tzinfo=UTC)
