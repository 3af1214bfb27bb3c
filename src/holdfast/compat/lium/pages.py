"""Lists by page number, over services that have cursors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query

from holdfast.control.paging import Page

PAGES: Final = 1000
"""A list further than this has to be filtered; the client asks for 100 entries a page."""

Number = Annotated[int, Query(ge=1, le=PAGES)]
Size = Annotated[int, Query(ge=1, le=100)]

_Row = TypeVar("_Row")


def numbered(
    number: int,
    read: Callable[[str | None], Page[_Row]],
    show: Callable[[_Row], dict[str, Any]],
) -> dict[str, Any]:
    """The page of that number, as the client reads it; `read` gives the page after a cursor."""
    page = read(None)
    for _ in range(number - 1):
        if page.next_cursor is None:
            return {"items": [], "has_next": False}
        page = read(page.next_cursor)
    return {"items": [show(row) for row in page.items], "has_next": page.next_cursor is not None}
