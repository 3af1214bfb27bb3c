"""Times in and out: nothing is rounded, zeros are cut, every zone is understood."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.repo.rfc3339 import from_ns, to_datetime, to_ns

SECOND = 1_000_000_000
YEAR_1 = -62_135_596_800 * SECOND
YEAR_9999_END = 253_402_300_799 * SECOND + SECOND - 1
bounded = settings(max_examples=150, derandomize=True, deadline=None)


@bounded
@given(
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**63) // SECOND, 2**63 // SECOND).map(lambda s: s * SECOND)
    | st.integers(YEAR_1, YEAR_9999_END)
)
@example(0)
@example(-1)
@example(YEAR_1)
@example(YEAR_9999_END)
def test_a_time_comes_back_to_the_nanosecond(ns: int) -> None:
    text = from_ns(ns)
    assert to_ns(text) == ns
    assert text.endswith("Z")
    assert not text.endswith(("0Z", ".Z")) or "." not in text
    moment = to_datetime(text)
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == ns // 1000


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (500_000_000, "1970-01-01T00:00:00.5Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (10 * SECOND, "1970-01-01T00:00:10Z"),
        (1_700_000_000 * SECOND + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (YEAR_1, "0001-01-01T00:00:00Z"),
        (YEAR_9999_END, "9999-12-31T23:59:59.999999999Z"),
        (-59_000_000_000 * SECOND, "0100-05-13T15:06:40Z"),
    ],
)
def test_how_times_are_written(ns: int, text: str) -> None:
    assert from_ns(ns) == text


def test_years_that_the_form_cannot_hold_are_clamped() -> None:
    assert from_ns(YEAR_9999_END + 1).startswith("9999-12-31T23:59:59")
    assert from_ns(YEAR_1 - 1).startswith("0001-01-01T00:00:00")


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-10T12:00:00Z",
        "2024-03-10t12:00:00z",
        "2024-03-10T13:00:00+01:00",
        "2024-03-10T06:30:00-05:30",
        "2024-03-11T02:00:00.000000000+14:00",
        "2024-03-10T12:00:00.000+00:00",
    ],
)
def test_zones_name_the_same_moment(text: str) -> None:
    assert to_ns(text) == 1_710_072_000 * SECOND
    assert to_datetime(text) == datetime(2024, 3, 10, 12, tzinfo=UTC)


def test_a_datetime_keeps_its_zone() -> None:
    moment = to_datetime("2024-03-10T06:30:00.1234567-05:30")
    assert moment.utcoffset() == -timedelta(hours=5, minutes=30)
    assert moment.microsecond == 123_456


def test_more_than_nine_digits_are_read_as_nine() -> None:
    assert to_ns("1970-01-01T00:00:00.12345678999Z") == 123_456_789


def test_year_0_is_read_as_the_first_moment() -> None:
    assert to_ns("0000-12-31T00:00:00Z") == YEAR_1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-03-10",
        "2024-03-10T12:00:00",
        "2024-03-10 12:00:00Z",
        "2024-13-10T12:00:00Z",
        "2024-02-30T12:00:00Z",
        "2024-03-10T25:00:00Z",
        "2024-03-10T12:00:00.Z",
        "2024-03-10T12:00:00Z ",
        "2024-03-10T12:00:00+1:00",
        "12024-03-10T12:00:00Z",
        "-024-03-10T12:00:00Z",
    ],
)
def test_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some come from datetime, in its words
        to_ns(text)
    with pytest.raises(ValueError):  # noqa: PT011
        to_datetime(text)


@bounded
@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    for parse in (to_ns, to_datetime):
        try:
            parse(text)
        except ValueError:
            continue
