from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.model.quantity import (
    parse_bytes,
    parse_duration,
    parse_rate,
    print_bytes,
    print_bytes_exact,
    print_duration,
    print_rate_exact,
)
from holdfast.model.span import CalendarSpan

bounded = settings(max_examples=200, derandomize=True, deadline=None)
sizes = st.one_of(
    st.integers(0, 1 << 70),
    st.builds(lambda n, power: n * 1024**power, st.integers(0, 5000), st.integers(0, 7)),
)


@bounded
@given(sizes)
def test_exact_bytes_are_read_back(size: int) -> None:
    assert parse_bytes(print_bytes_exact(size)) == size
    if size:
        assert parse_rate(print_rate_exact(size)) == size


@bounded
@given(sizes)
@example(1023 * 1024 + 1023)
@example((1 << 20) - 512)
def test_bytes_for_people_are_near(size: int) -> None:
    number, unit = print_bytes(size).split()
    factor = parse_bytes(f"1 {unit}")
    assert len(number.replace(".", "")) == 3 or float(number) < 1024 or factor == 1 << 60
    assert abs(float(number) * factor - size) <= 0.005 * size


@bounded
@given(st.integers(0, 10**12))
def test_durations_are_read_back(seconds: int) -> None:
    assert parse_duration(print_duration(seconds)) == seconds


@bounded
@given(st.builds(CalendarSpan, *[st.integers(0, 999)] * 4))
def test_spans_are_read_back(span: CalendarSpan) -> None:
    assert CalendarSpan.parse(str(span)) == span


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.text(alphabet="0123456789.kmgtpeiKMGB wdhms/bits-", max_size=12))
def test_any_text_is_a_quantity_or_a_usage_error(text: str) -> None:
    for parse in (parse_bytes, parse_duration, parse_rate):
        try:
            value = parse(text)
        except UsageError:
            continue
        assert value >= 0
