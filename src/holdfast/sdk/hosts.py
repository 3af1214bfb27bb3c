"""Hosts: machines with an agent, and the invitations that they enrol with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/hosts"

Roots = Iterable[Mapping[str, str]]
"""Guarded paths: ``{"path": "/root", "directory": "/srv/pods/7/root"}``, or the path alone."""


@dataclass(frozen=True, slots=True)
class Root:
    """A guarded path, and the directory of the machine that it stands for."""

    path: str
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with an agent. `status`: online, silent, revoked or new (never heard of)."""

    id: str
    name: str
    status: str = ""
    region_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    inventory: Mapping[str, Any] = field(default_factory=dict)
    roots: tuple[Root, ...] = ()
    put_only: bool = False
    keeper: bool = False
    max_jobs: int = 1
    created_at: datetime | None = None
    enrolled_at: datetime | None = None
    seen_at: datetime | None = None
    silent_since: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """A secret with which one host can enrol, once; `command` is what to run there."""

    id: str
    secret: str
    expires_at: datetime | None = None
    command: str = ""


class HostsResource:
    """The account's hosts."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, search: str = "") -> Iterator[Host]:
        """All hosts, newest first; `search` looks in their names."""
        return pages(self._transport, _PATH, Host, {"search": search})

    def get(self, host_id: str) -> Host:
        return from_json(Host, self._transport.get(f"{_PATH}/{host_id}"))

    def invite(
        self,
        *,
        name: str = "",
        roots: Roots | None = None,
        put_only: bool = False,
        keeper: bool = False,
        region_id: str = "",
        expires_in_seconds: int = 3600,
    ) -> Invitation:
        """Let one machine enrol. `put_only`: it can add backups, and neither read nor remove.

        `region_id` is a keeper's; other hosts are of their account's region.
        """
        body: dict[str, object] = {
            "name": name,
            "put_only": put_only,
            "keeper": keeper,
            "expires_in_seconds": expires_in_seconds,
        }
        if region_id:
            body["region_id"] = region_id
        if roots is not None:
            body["roots"] = [dict(each) for each in roots]
        return from_json(Invitation, self._transport.post(f"{_PATH}/invitations", body))

    def edit(self, host_id: str, **changes: object) -> Host:
        """Change `name`, `labels`, `max_jobs` or `roots`."""
        return from_json(Host, self._transport.patch(f"{_PATH}/{host_id}", changes))

    def revoke(self, host_id: str) -> Host:
        """Take its credential away; its work in progress fails, its snapshots stay."""
        return from_json(Host, self._transport.post(f"{_PATH}/{host_id}/revoke"))
