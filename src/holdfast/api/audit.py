"""The audit log: who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Response

from holdfast.api.document import Document, Listing
from holdfast.api.operation import router
from holdfast.control import audit as service
from holdfast.edge.answers import listing
from holdfast.edge.call import Asked
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("audit")


class AuditEntry(Document):
    """One change: who, from where, what, before and after."""

    id: int
    at: datetime
    actor_kind: str
    actor_id: str
    address: str
    request_id: str
    action: str
    subject_kind: str
    subject_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditEntries(Listing[AuditEntry]):
    """A page of the audit log."""


@routes.get("/audit", response_model=AuditEntries)
def list_audit(
    call: Asked,
    subject_id: Annotated[str | None, Query(max_length=120, pattern=r"^[ -~]+$")] = None,
    action: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z_.]+$")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List what was changed in the account, newest first."""
    with call.reading() as tx:
        found = service.entries(
            tx, call.who, cursor=cursor, limit=limit, subject_id=subject_id, action=action
        )
    return listing(call.request, found, AuditEntry.model_validate)
