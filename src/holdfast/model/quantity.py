"""Quantities as people write them: bytes, durations and rates, to exact integers and back.

Units are read as the standards have them: k, M, G, T, P, E are powers of 1000, and with an
i (KiB, MiB, ...) powers of 1024; upper and lower case do not matter. Nothing is rounded on
the way in: what is not a whole number of bytes or seconds is refused. Every error says what
is accepted.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from holdfast.errors import UsageError

_PREFIXES: Final = "kmgtpe"
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_NUMBER = r"([0-9]{1,24}(?:\.[0-9]{1,24})?) ?"
_BYTES = re.compile(_NUMBER + r"(?:([kmgtpe])(i)?)?b?", re.IGNORECASE | re.ASCII)
_RATE = re.compile(
    _NUMBER + r"(?:([kmgtpe])(i)?)?(?:(b?)(?:/s)?|(bits?/s|bps))", re.IGNORECASE | re.ASCII
)
_DURATION_PART = re.compile(r"([0-9]{1,15})([wdhms])")
_DURATION_UNITS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}

_BYTES_ACCEPTED = "write a number and a unit, such as 500k, 10GB or 1.5 GiB (k = 1000, Ki = 1024)"
_RATE_ACCEPTED = "write bytes or bits per second, such as 100MB/s, 10 MiB/s or 800 Mbit/s"
_DURATION_ACCEPTED = (
    "write weeks, days, hours, minutes and seconds in this order, such as 90s, 1h30m or 7d"
)


def parse_bytes(text: str) -> int:
    """Read ``1.5 GiB``, ``10GB``, ``500k`` or ``42`` as a number of bytes."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a number of bytes: {_BYTES_ACCEPTED}")
    size = Fraction(found[1]) * _factor(found[2], found[3])
    if size.denominator != 1:
        raise UsageError(f"{text!r} is not a whole number of bytes; use a smaller unit")
    return int(size)


def print_bytes(size: int) -> str:
    """For people: three digits (or 1000 to 1023) and a binary unit, ``1.50 GiB``."""
    if abs(size) < 1024:
        return f"{size} B"
    value = Fraction(abs(size))
    power = 0
    # 1023.99 KiB would be shown as 1024 KiB, so the border is where the rounding is.
    while power < len(_BINARY) - 1 and value >= (1024 if power == 0 else Fraction(2047, 2)):
        value /= 1024
        power += 1
    sign = "-" if size < 0 else ""
    decimals = 2 if value < Fraction(9995, 1000) else 1 if value < Fraction(9995, 100) else 0
    return f"{sign}{float(value):.{decimals}f} {_BINARY[power]}"


def print_bytes_exact(size: int) -> str:
    """In the greatest unit that needs no fraction, ``1536 MiB``; `parse_bytes` reads it back."""
    if size < 0:
        raise UsageError(f"{size} is less than no bytes")
    power = 0
    while size and power < len(_BINARY) - 1 and size % 1024 ** (power + 1) == 0:
        power += 1
    return f"{size // 1024**power} {_BINARY[power]}"


def parse_duration(text: str) -> int:
    """Read ``90s``, ``1h30m`` or ``7d`` as seconds; each unit at most once, greatest first."""
    seconds = 0
    rest = text.strip()
    allowed = "wdhms"
    while rest:
        part = _DURATION_PART.match(rest)
        if part is None or part[2] not in allowed:
            break
        seconds += int(part[1]) * _DURATION_UNITS[part[2]]
        allowed = allowed[allowed.index(part[2]) + 1 :]
        rest = rest[part.end() :].lstrip(" ")
    if rest or allowed == "wdhms":
        raise UsageError(f"{text!r} is not a duration: {_DURATION_ACCEPTED}")
    return seconds


def print_duration(seconds: int) -> str:
    """Exact, ``1d2h`` or ``90`` as ``1m30s``; `parse_duration` reads it back."""
    if seconds < 0:
        raise UsageError(f"a duration of {seconds} seconds is negative")
    parts = []
    for unit in "dhms":
        number, seconds = divmod(seconds, _DURATION_UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def parse_rate(text: str) -> int:
    """Read ``100MB/s``, ``10 MiB/s``, ``5M`` or ``800 Mbit/s`` as bytes per second.

    Bits must be written as ``bit/s`` or ``bps``; a lone ``b`` means bytes. No rate at all
    is refused, because it would never end.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a rate: {_RATE_ACCEPTED}")
    rate = Fraction(found[1]) * _factor(found[2], found[3]) / (8 if found[5] else 1)
    if rate.denominator != 1:
        raise UsageError(f"{text!r} is not a whole number of bytes per second; use a smaller unit")
    if not rate:
        raise UsageError(f"a rate of {text!r} would never finish; leave the limit out for none")
    return int(rate)


def print_rate(bytes_per_second: int) -> str:
    """For people: ``1.50 GiB/s``."""
    return f"{print_bytes(bytes_per_second)}/s"


def print_rate_exact(bytes_per_second: int) -> str:
    """``1536 MiB/s``; `parse_rate` reads it back."""
    return f"{print_bytes_exact(bytes_per_second)}/s"


def _factor(prefix: str | None, binary: str | None) -> int:
    power = _PREFIXES.index(prefix.lower()) + 1 if prefix else 0
    return int((1024 if binary else 1000) ** power)
