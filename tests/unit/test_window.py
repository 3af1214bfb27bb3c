from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from holdfast.errors import UsageError
from holdfast.model.window import Window, earliest_instant

BERLIN = ZoneInfo("Europe/Berlin")


def test_parse_and_print() -> None:
    assert str(Window.parse("22:00 - 06:00")) == "22:00-06:00"
    for text in ("22-06", "24:00-01:00", "1:00-2:00", "", "01:60-02:00"):
        with pytest.raises(UsageError, match="22:00-06:00"):
            Window.parse(text)
    with pytest.raises(UsageError, match="empty"):
        Window.parse("01:00-01:00")


def test_around() -> None:
    night = Window.parse("22:00-06:00")
    monday = datetime(2024, 6, 3, tzinfo=UTC)
    opening, closing = monday - timedelta(hours=2), monday + timedelta(hours=6)
    assert night.around(monday, UTC) == (opening, closing)
    assert night.around(opening, UTC) == (opening, closing)
    assert night.around(closing - timedelta(seconds=1), UTC) == (opening, closing)
    day = timedelta(days=1)
    assert night.around(closing, UTC) == (opening + day, closing + day)
    assert night.closing_before(opening, UTC) == closing - day


def test_a_skipped_window_opens_when_the_skipped_stretch_ends() -> None:
    before = datetime(2024, 3, 31, 0, 30, tzinfo=UTC)
    assert Window.parse("02:00-02:45").around(before, BERLIN) == (
        datetime(2024, 3, 31, 1, tzinfo=UTC),
        datetime(2024, 3, 31, 1, 45, tzinfo=UTC),
    )


def test_earliest_instant() -> None:
    assert earliest_instant(datetime(2024, 3, 31, 2, 30, 7), BERLIN) == datetime(
        2024, 3, 31, 1, tzinfo=UTC
    )
    assert earliest_instant(datetime(2024, 10, 27, 2, 30), BERLIN) == datetime(
        2024, 10, 27, 0, 30, tzinfo=UTC
    )
    apia = ZoneInfo("Pacific/Apia")  # 30 December 2011 was skipped whole
    assert earliest_instant(datetime(2011, 12, 30, 9), apia) == datetime(
        2011, 12, 30, 10, tzinfo=UTC
    )
