from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.model.quantity import (
    parse_bytes,
    parse_duration,
    parse_rate,
    print_bytes,
    print_bytes_exact,
    print_duration,
    print_rate,
    print_rate_exact,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("42", 42),
        ("42 B", 42),
        ("500k", 500_000),
        ("500K", 500_000),
        ("10GB", 10**10),
        ("1.5 GiB", 3 << 29),
        (" 1.5gib ", 3 << 29),
        ("0.1 GB", 10**8),
        ("1Ti", 1 << 40),
        ("8EiB", 8 << 60),
        ("0.5KiB", 512),
    ],
)
def test_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "k", "1X", "-1", "1 G B", "1,5 GB", "1e3", "GiB", ".5k", "1.k", "1iB", "٣k", "1  k"],
)
def test_bad_bytes_say_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match=r"10GB or 1\.5 GiB"):
        parse_bytes(text)


def test_nothing_is_rounded() -> None:
    for text in ("0.3 GiB", "1.5", "0.0001k"):
        with pytest.raises(UsageError, match="whole number of bytes"):
            parse_bytes(text)
    with pytest.raises(UsageError, match="whole number of bytes per second"):
        parse_rate("1 bit/s")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (3 << 29, "1.50 GiB"),
        (10 << 20, "10.0 MiB"),
        (999 << 10, "999 KiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (5 << 70, "5120 EiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert print_bytes(size) == text
    assert print_rate(size) == f"{text}/s"


def test_exact_bytes() -> None:
    assert print_bytes_exact(3 << 29) == "1536 MiB"
    assert print_bytes_exact(0) == "0 B"
    assert print_bytes_exact(1025) == "1025 B"
    with pytest.raises(UsageError):
        print_bytes_exact(-1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("7d", 604800), ("1w", 604800), ("1h 5s", 3605), ("0s", 0)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "1m1h", "1h1h", "1.5h", "-1s", "1y", "h", "1h,2m", "٣s"]
)
def test_bad_durations_say_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 1h30m or 7d"):
        parse_duration(text)


def test_printed_durations() -> None:
    assert print_duration(0) == "0s"
    assert print_duration(90) == "1m30s"
    assert print_duration(604800 + 3600) == "7d1h"
    with pytest.raises(UsageError):
        print_duration(-1)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100MB/s", 10**8),
        ("10 MiB/s", 10 << 20),
        ("5M", 5_000_000),
        ("800 Mbit/s", 10**8),
        ("800Mbps", 10**8),
        ("8bit/s", 1),
        ("100/s", 100),
        ("1kb/s", 1000),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "10MB/h", "-1M", "10 MB / s", "/s", "1 bit"])
def test_bad_rates_say_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match="800 Mbit/s"):
        parse_rate(text)


def test_no_rate_would_never_finish() -> None:
    with pytest.raises(UsageError, match="never finish"):
        parse_rate("0")
    assert print_rate_exact(3 << 29) == "1536 MiB/s"
