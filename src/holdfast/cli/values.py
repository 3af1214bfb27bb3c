"""Values as people write them on a command line: counts, moments, shares, tags.

Sizes, durations and rates are those of `holdfast.model.quantity`. Pure; each function
raises `UsageError` with a sentence that shows an accepted form.
"""

from __future__ import annotations

import re
from datetime import datetime

from holdfast.errors import UsageError


def natural(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise UsageError(f"{text!r} is not a whole number from 0")
    return int(text)


def count_or_all(text: str) -> int:
    """A count; ``all`` or -1 is -1."""
    return -1 if text in ("all", "unlimited", "-1") else natural(text)


def moment(text: str) -> datetime:
    """An ISO 8601 time; local where it names no zone."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is not a time; write 2026-11-21, 2026-11-21T06:30 or with a zone "
            "2026-11-21T06:30+01:00"
        ) from None


def percentage(text: str) -> float:
    """``5`` or ``5%``, from 0 to 100."""
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?%?", text, re.ASCII):
        number = float(text.removesuffix("%"))
        if number <= 100:
            return number
    raise UsageError(f"{text!r} is not a percentage from 0 to 100, such as 5%")


def tags(texts: list[str]) -> tuple[str, ...]:
    """Every tag of a repeated option whose values are lists separated by commas."""
    found = [tag.strip() for text in texts for tag in text.split(",")]
    for tag in found:
        recordable(tag)
    return tuple(dict.fromkeys(tag for tag in found if tag))


def recordable(text: str) -> str:
    """A name that a snapshot's record can hold: text in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is not text in UTF-8; choose another name") from None
    return text


def snapshot_and_path(text: str) -> tuple[str, str]:
    """``SNAPSHOT`` or ``SNAPSHOT:PATH``; without a path it is empty."""
    snapshot, _, path = text.partition(":")
    return snapshot, path
