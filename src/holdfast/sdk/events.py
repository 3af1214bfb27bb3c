"""Events: what happened in the account, so far and from now on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from holdfast.errors import ServerUnavailable
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/events"
_PAGE: Final = 500
_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people watch for, such as ``snapshot.failed``."""

    id: int
    at: datetime
    kind: str
    message: str = ""
    subject_kind: str = ""
    subject_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str = ""


class EventsResource:
    """The account's events."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(self, *, after_id: int | None = None, kinds: Iterable[str] = ()) -> Iterator[Event]:
        """Events after one, or all, oldest first."""
        query = {"after_id": after_id, "kinds": ",".join(kinds), "limit": _PAGE}
        return pages(self._transport, _PATH, Event, query, cursor_name="after_id")

    def watch(
        self, *, after_id: int | None = None, kinds: Iterable[str] = ()
    ) -> Generator[Event, None, None]:
        """Events as they happen, for as long as they are asked for; none is missed.

        A connection that is lost is made again, from the last event on.
        """
        query = {"kinds": ",".join(kinds)}
        last = after_id
        while True:
            headers = {"Accept": "text/event-stream"}
            if last is not None:
                headers["Last-Event-ID"] = str(last)
            try:
                with self._transport.stream(f"{_PATH}/stream", query, headers) as response:
                    for event in _events(response.iter_lines()):
                        last = event.id
                        yield event
            except ServerUnavailable:
                self._pause(_PAUSE_SECONDS)


def _events(lines: Iterable[str]) -> Iterator[Event]:
    """The events among the lines of a stream."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").lstrip(" "))
        elif not line and data:
            yield from_json(Event, json.loads("\n".join(data)))
            data = []
