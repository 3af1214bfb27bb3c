from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from holdfast.errors import UsageError
from holdfast.model.span import CalendarSpan


def test_parse_and_print() -> None:
    assert CalendarSpan.parse("1y5m7d2h") == CalendarSpan(1, 5, 7, 2)
    assert str(CalendarSpan.parse(" 2h30d ")) == "30d2h"
    assert not CalendarSpan.parse("")
    assert not CalendarSpan.parse("0d")
    assert CalendarSpan.parse("1h")


@pytest.mark.parametrize("text", ["1", "d", "1w", "-1d", "1d 2h", "1d1d", "1.5d", "1h٣d"])
def test_bad_spans_say_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match="1y5m7d2h"):
        CalendarSpan.parse(text)


def test_negative_spans_are_refused() -> None:
    with pytest.raises(UsageError):
        CalendarSpan(days=-1)


@pytest.mark.parametrize(
    ("span", "moment", "expected"),
    [
        ("1m", "2023-03-31T12:00:00", "2023-03-03T12:00:00"),
        ("1m", "2024-03-31T12:00:00", "2024-03-02T12:00:00"),
        ("2m", "2024-03-31T12:00:00", "2024-01-31T12:00:00"),
        ("1y", "2024-02-29T12:00:00", "2023-03-01T12:00:00"),
        ("13m1d", "2024-01-01T00:00:00", "2022-11-30T00:00:00"),
        ("36h", "2024-01-02T00:00:00", "2023-12-31T12:00:00"),
        ("5000y", "2024-01-02T00:00:00", "0001-01-01T00:00:00"),
        ("999999999d999999999h", "2024-01-02T00:00:00", "0001-01-01T00:00:00"),
    ],
)
def test_before(span: str, moment: str, expected: str) -> None:
    found = CalendarSpan.parse(span).before(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_day_is_a_day_of_the_wall_clock_and_an_hour_is_an_hour() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    after_change = datetime(2024, 3, 31, 12, tzinfo=berlin)  # 23 hours after noon of the 30th
    day_before = CalendarSpan(days=1).before(after_change)
    assert day_before == datetime(2024, 3, 30, 11, tzinfo=UTC)
    assert CalendarSpan(hours=24).before(after_change) == datetime(2024, 3, 30, 10, tzinfo=UTC)
    in_utc = after_change.astimezone(UTC)
    assert CalendarSpan(days=1).before(in_utc, berlin) == day_before
