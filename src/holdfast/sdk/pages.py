"""Lists: an iterator that fetches one page after another while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from holdfast.errors import ServerUnavailable
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Query, Transport

T = TypeVar("T")


def pages(
    transport: Transport,
    path: str,
    kind: type[T],
    query: Query | None = None,
    *,
    cursor_name: str = "cursor",
) -> Iterator[T]:
    """Every item of the list at `path`; nothing is fetched before it is asked for.

    `cursor_name` is the parameter that `next_cursor` goes into.
    """
    cursor = (query or {}).get(cursor_name)
    while True:
        document = transport.get(path, {**(query or {}), cursor_name: cursor})
        items = document.get("items") if isinstance(document, dict) else None
        if not isinstance(items, list):
            raise ServerUnavailable(
                f"The server's answer is not a list of {kind.__name__}. Check the address, and "
                "that server and client are of versions that go together."
            )
        for item in items:
            yield from_json(kind, item)
        following = document.get("next_cursor")
        if not following or following == cursor:
            return
        cursor = following
