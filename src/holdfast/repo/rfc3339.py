"""Times as restic writes them: RFC 3339 with up to nine digits, trailing zeros cut.

Nanoseconds since the epoch go in and come out; nothing is rounded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1 = -62_135_596_800
_YEAR_9999_END = 253_402_300_799
_FORM = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)"
)


@lru_cache(maxsize=65536)
def _seconds_text(seconds: int) -> str:
    clamped = min(max(seconds, _YEAR_1), _YEAR_9999_END)
    return (_EPOCH + timedelta(seconds=clamped)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def from_ns(nanoseconds: int) -> str:
    """Return the time in UTC; years outside 1 to 9999 are clamped, as the form cannot hold them."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    if not rest:
        return _seconds_text(seconds) + "Z"
    return f"{_seconds_text(seconds)}.{rest:09d}".rstrip("0") + "Z"


@lru_cache(maxsize=4096)
def _seconds_of(head: str, zone: str) -> int:
    # Not strptime, which takes forty times as long, and a restore asks for every file.
    moment = datetime.fromisoformat(head).replace(tzinfo=UTC)
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds


def to_ns(text: str) -> int:
    """Parse a time with any zone offset; raise ValueError for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if year == "0000":  # Go writes its zero time's neighbours so; datetime begins with year 1
        return _YEAR_1 * 1_000_000_000
    seconds = _seconds_of(f"{year}-{month}-{day}T{hour}:{minute}:{second}", zone)
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def to_datetime(text: str) -> datetime:
    """Parse a time into an aware datetime that keeps its zone offset, to the microsecond."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    head = text[:19].upper()
    fraction = (match.group(7) or "0").ljust(6, "0")[:6]
    zone = match.group(8).upper().replace("Z", "+00:00")
    return datetime.fromisoformat(f"{head}.{fraction}{zone}")
