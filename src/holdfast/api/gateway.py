"""The gateways' side: what a credential may do with a repository or a snapshot."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document
from holdfast.api.fields import Id, Secret
from holdfast.api.operation import router
from holdfast.control import gateway_access
from holdfast.edge.answers import plain
from holdfast.edge.call import AskedByGateway

routes = router("gateway")


class Question(Body):
    """Whose credential it is that a gateway was given: for a repository or for a snapshot.

    `address` is where the gateway's own caller comes from.
    """

    credential: Secret
    repository_id: Id | None = None
    snapshot_id: Id | None = None
    address: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""


class GatewayPrincipal(Document):
    """Who that is."""

    kind: str
    id: str


class Grant(Document):
    """What it may do, and where the repository lies. The last five are for snapshots."""

    account_id: str
    principal: GatewayPrincipal
    rights: list[Literal["append", "read", "delete"]]
    put_only: bool
    repository_id: str
    location: str
    options: dict[str, Any]
    password: str | None
    manifest_id: str | None
    captured_path: str | None
    snapshot_name: str | None
    snapshot_status: str | None


@routes.post("/gateway/resolve", response_model=Grant)
def resolve_credential(call: AskedByGateway, body: Question) -> Response:
    """Ask what a credential may do. An answer may be kept for five seconds.

    401 says that the credential in the body is not known, or with `gateway_not_signed_in`
    that the gateway's own is not; 404 that it does not extend to what was asked for.
    """
    with call.reading() as tx:
        found = gateway_access.resolve(
            tx,
            body.credential,
            repository_id=body.repository_id,
            snapshot_id=body.snapshot_id,
            address=body.address or call.address,
            request_id=call.request_id,
            keys=call.keys,
            now=call.now,
        )
    who = found.principal
    if who.kind == "token":
        call.deployment.uses.note(call.deployment.database, who.id, who.address, call.now)
    return plain(
        Grant(
            account_id=found.account_id,
            principal=GatewayPrincipal(kind=who.kind, id=who.id),
            rights=sorted(found.rights),  # type: ignore[arg-type]
            put_only=found.put_only,
            repository_id=found.repository_id,
            location=found.location,
            options=dict(found.options),
            password=found.password,
            manifest_id=found.manifest_id,
            captured_path=found.captured_path,
            snapshot_name=found.snapshot_name,
            snapshot_status=found.snapshot_status,
        )
    )
