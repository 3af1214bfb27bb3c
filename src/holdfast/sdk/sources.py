"""Sources: what is protected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/sources"


@dataclass(frozen=True, slots=True)
class Source:
    """A path on a host. `protected_at` is when its last good snapshot was captured."""

    id: str
    host_id: str
    path: str
    kind: str = "path"
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    removed_at: datetime | None = None
    protected_at: datetime | None = None


class SourcesResource:
    """The account's sources."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, host_id: str = "", search: str = "", removed: bool = False
    ) -> Iterator[Source]:
        """All sources, newest first; `removed`: also those that are protected no more."""
        query = {"host_id": host_id, "search": search, "removed": removed or None}
        return pages(self._transport, _PATH, Source, query)

    def get(self, source_id: str) -> Source:
        return from_json(Source, self._transport.get(f"{_PATH}/{source_id}"))

    def create(
        self,
        host_id: str,
        path: str,
        *,
        options: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Source:
        """Protect a path. `options`: exclude (patterns), one_file_system, consistency."""
        body = {"host_id": host_id, "path": path, "options": dict(options or {})}
        body["labels"] = dict(labels or {})
        return from_json(Source, self._transport.post(_PATH, body))

    def edit(self, source_id: str, **changes: object) -> Source:
        """Change `options` or `labels`."""
        return from_json(Source, self._transport.patch(f"{_PATH}/{source_id}", changes))

    def remove(self, source_id: str) -> None:
        """Protect it no more: its schedules end, its snapshots stay."""
        self._transport.delete(f"{_PATH}/{source_id}")
