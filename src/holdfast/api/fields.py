"""The types of single members in requests and answers.

Every text has a greatest length and no NUL, every number fits into 64 bits, and a number is
never taken for a text or the other way round: what the databases could not keep, or would
keep as something else, is refused before a service sees it. Each rule is part of the
published schema.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, WithJsonSchema

LARGEST: Final = 2**53 - 1
"""The largest number that every reader of JSON can hold; it is 9 PB."""
_NO_NUL: Final = r"^[^\x00]*$"
_ID: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DEEPEST: Final = 32

Id = Annotated[str, Field(pattern=_ID, max_length=36, description="A UUID in lower case.")]
PathId = Annotated[str, Path(pattern=_ID, max_length=36)]
FilterId = Annotated[str | None, Query(pattern=_ID, max_length=36)]
SequenceId = Annotated[int, Field(ge=0, le=LARGEST)]

Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""One line of text that names something."""
ShortText = Annotated[str, Field(max_length=200, pattern=_NO_NUL)]
Text = Annotated[str, Field(max_length=2000, pattern=_NO_NUL)]
PathText = Annotated[
    str,
    Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$", description="An absolute path."),
]
Secret = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]
Email = Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s\x00]+@[^@\s\x00]+$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Boolean = StrictBool
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Bytes = Count
Amount = Annotated[
    str,
    Field(
        pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$",
        max_length=23,
        description="An exact decimal.",
    ),
]
Money = Annotated[str, Field(description="An exact decimal, in the account's currency.")]

_LABEL: Final = r"^[A-Za-z0-9]([A-Za-z0-9 ._/-]{0,61}[A-Za-z0-9])?$"
LabelName = Annotated[str, Field(pattern=_LABEL)]
LabelValue = Annotated[str, Field(max_length=255, pattern=_NO_NUL)]
Labels = Annotated[
    dict[LabelName, LabelValue],
    Field(max_length=64),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 64,
            "propertyNames": {"pattern": _LABEL},
            "additionalProperties": {"type": "string", "maxLength": 255, "pattern": _NO_NUL},
        }
    ),
]


def _flag(value: object) -> object:
    if value not in ("true", "false", True, False):
        raise ValueError("write true or false")
    return value


def _digits(value: object) -> object:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("write a whole number")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false, in a query."""
Whole = Annotated[int, BeforeValidator(_digits)]
"""A whole number, in a query."""


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("write a time as RFC 3339 does, such as 2026-11-02T10:00:00Z")
    if not isinstance(value, str | datetime):
        raise ValueError("write a time as a text, such as 2026-11-02T10:00:00Z")  # noqa: TRY004
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is too far away") from None


Time = Annotated[
    datetime,
    BeforeValidator(_rfc3339),
    AfterValidator(_utc),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant that was sent; kept as UTC."""


def _plain(value: Any) -> Any:
    """Refuse numbers that no database keeps, and nesting that no report needs."""
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("this document is nested too deeply")
        match each:
            case float() if not math.isfinite(each):
                raise ValueError("a number is not finite")
            case dict():
                waiting.extend((inner, depth + 1) for inner in each.values())
            case list():
                waiting.extend((inner, depth + 1) for inner in each)
    return value


JsonObject = Annotated[
    dict[Any, Any],
    AfterValidator(_plain),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
"""A document whose members an agent chooses. Services make its texts storable."""


def _without_surrogates(text: object) -> object:
    if not isinstance(text, str):
        return text
    return text.encode("utf-8", "replace").decode()


Said = Annotated[str, BeforeValidator(_without_surrogates)]
"""What an agent says in words: it is taken as it comes, and cut and cleaned by services.

A log line or a file's name must not be what makes a finished backup fail.
"""
