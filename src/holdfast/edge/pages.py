"""Pages: every list is ``{"items": [...], "next_cursor": ...}`` with a Link to the next one.

A cursor says where the last page ended, so that a list stays whole while rows come and
go. `next_cursor` is null on the last page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BeforeValidator
from starlette.requests import Request

from holdfast.control.paging import DEFAULT_LIMIT, MAX_LIMIT, Page
from holdfast.errors import UsageError

LONGEST_CURSOR: Final = 500
LARGEST_ID: Final = 2**53 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


def _whole(value: object) -> object:
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("write a whole number")
    return value


Cursor = Annotated[
    str | None,
    Query(
        description="`next_cursor` of the page before.",
        max_length=LONGEST_CURSOR,
        pattern=r"^[ -~]*$",
    ),
]
Limit = Annotated[
    int, BeforeValidator(_whole), Query(description="At most so many items.", ge=1, le=MAX_LIMIT)
]
AfterId = Annotated[
    int | None,
    BeforeValidator(_whole),
    Query(description="Only what comes after the one with this id.", ge=0, le=LARGEST_ID),
]

_Item = TypeVar("_Item")

__all__ = [
    "DEFAULT_LIMIT",
    "AfterId",
    "Cursor",
    "Limit",
    "link_to_next",
    "page_by_id",
    "page_of_all",
]


def link_to_next(request: Request, **changed: str) -> str:
    """The value of a Link header to the same list, further on."""
    kept = [(name, value) for name, value in request.query_params.multi_items()]
    query = [(name, value) for name, value in kept if name not in changed]
    query.extend(changed.items())
    return f'<{request.url.path}?{urlencode(query)}>; rel="next"'


def page_of_all(
    items: Sequence[_Item], *, name: Callable[[_Item], str], cursor: str | None, limit: int
) -> Page[_Item]:
    """A page of a list that the service gives whole; the cursor is the last item's name."""
    start = 0
    if cursor is not None:
        names = [name(each) for each in items]
        if cursor not in names:
            raise UsageError(
                "The cursor belongs to another list, or its item is gone; begin again."
            )
        start = names.index(cursor) + 1
    chosen = list(items[start : start + limit])
    more = start + limit < len(items)
    return Page(chosen, name(chosen[-1]) if more and chosen else None)


def page_by_id(items: Sequence[_Item], *, name: Callable[[_Item], int], limit: int) -> Page[_Item]:
    """A page of a list that only grows; the cursor is `after_id` of the next one."""
    return Page(list(items), str(name(items[-1])) if len(items) >= limit else None)
