"""Regions: where things can be stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/regions"


@dataclass(frozen=True, slots=True)
class Region:
    """A place with one object store."""

    id: str
    name: str
    created_at: datetime | None = None


class RegionsResource:
    """The regions of the installation."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Region]:
        return pages(self._transport, _PATH, Region)

    def create(
        self, name: str, location: str, *, options: Mapping[str, str] | None = None
    ) -> Region:
        """Add a region; `options` are its store's credentials. Operators only."""
        body = {"name": name, "location": location, "options": dict(options or {})}
        return from_json(Region, self._transport.post(_PATH, body))
