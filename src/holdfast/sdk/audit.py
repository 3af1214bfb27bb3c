"""The audit log: who changed what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.sdk.pages import pages
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/audit"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: who, from where, what, before and after."""

    id: int
    at: datetime
    action: str
    actor_kind: str = ""
    actor_id: str = ""
    address: str = ""
    request_id: str = ""
    subject_kind: str = ""
    subject_id: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


class AuditResource:
    """The account's audit log."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, subject_id: str = "", action: str = "") -> Iterator[AuditEntry]:
        """What was changed, newest first."""
        query = {"subject_id": subject_id, "action": action}
        return pages(self._transport, _PATH, AuditEntry, query)
