"""Hosts: machines with an agent, and the invitations that they enrol with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import Boolean, Id, Labels, PathId, PathText, ShortText, Word
from holdfast.api.operation import PREFIX, router
from holdfast.control import hosts as service
from holdfast.control.database import Tx
from holdfast.control.tables import Host as Row
from holdfast.control.tables import Token as TokenRow
from holdfast.edge.answers import change, document, listing
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("hosts")

OBSERVED: Final = ("status", "seen_at", "silent_since", "version", "inventory", "enrolled_at")
"""What the agent reports; it does not count as an edit."""


class Root(Document):
    """A guarded path, and the directory of the machine that it stands for."""

    path: str
    directory: str


class Host(Document):
    """A machine with an agent.

    `status`: online, silent, revoked, or new (never heard of). `inventory` is what the
    agent reported last.
    """

    id: str
    region_id: str
    name: str
    labels: dict[str, str]
    status: Literal["online", "silent", "revoked", "new"]
    version: str
    inventory: dict[str, Any]
    roots: list[Root]
    put_only: bool
    keeper: bool
    max_jobs: int
    created_at: datetime
    enrolled_at: datetime
    seen_at: datetime | None
    silent_since: datetime | None
    revoked_at: datetime | None


class Hosts(Listing[Host]):
    """A page of hosts."""


class NewRoot(Body):
    """A guarded path; without `directory` it is where it says."""

    path: PathText
    directory: PathText | None = None


Roots = Annotated[list[NewRoot], Field(min_length=1, max_length=50)]


class HostEdit(Changes):
    """What can be changed of a host."""

    name: Word = ""
    labels: Labels = Field(default_factory=dict)
    max_jobs: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    roots: Roots = Field(default_factory=list)


class NewInvitation(Body):
    """What the host that enrols will be.

    `put_only`: it can add backups and can neither read nor remove any. `keeper`: it does
    the region's own work for every account; operators only, who may choose its `region_id`.
    """

    name: ShortText = ""
    roots: Roots | None = None
    put_only: Boolean = False
    keeper: Boolean = False
    region_id: Id | None = None
    expires_in_seconds: Annotated[int, Field(strict=True, ge=60, le=7 * 86400)] = 3600


class Invitation(Document):
    """A secret with which one host can enrol, once. It is shown in this answer only."""

    id: str
    secret: str
    expires_at: datetime | None
    command: str


@routes.get("/hosts", response_model=Hosts)
def list_hosts(
    call: Asked,
    search: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="In their names.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List hosts, newest first."""
    with call.reading() as tx:
        found = service.hosts(tx, call.who, cursor=cursor, limit=limit, search=search)
    return listing(call.request, found, _show(call.now))


@routes.get("/hosts/{host_id}", response_model=Host)
def get_host(call: Asked, host_id: PathId) -> Response:
    """Show a host."""
    with call.reading() as tx:
        row = service.get(tx, call.who, host_id)
    return document(call.request, _show(call.now)(row), observed=OBSERVED)


@routes.patch("/hosts/{host_id}", response_model=Host)
def edit_host(call: Asked, host_id: PathId, body: HostEdit, if_match: IfMatch = None) -> Response:
    """Change a host's name, labels, guarded roots, or how many jobs it runs at once."""
    changes = dict(body.given())
    if "roots" in changes:
        changes["roots"] = plain_roots(body.roots)
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, host_id),
        act=lambda tx: service.edit(tx, call.who, host_id, now=call.now, **changes),
        show=_show(call.now),
        observed=OBSERVED,
    )


@routes.post("/hosts/{host_id}/revoke", response_model=Host)
def revoke_host(call: Asked, host_id: PathId, key: KeyHeader = None) -> Response:
    """Revoke a host.

    Its credential ends and its work in progress fails; its backups stay as they are.
    """
    return once(
        call,
        key,
        None,
        lambda tx: service.revoke(tx, call.who, host_id, now=call.now),
        _show(call.now),
        observed=OBSERVED,
    )


@routes.post("/hosts/invitations", response_model=Invitation, status_code=201)
def invite_host(call: Asked, body: NewInvitation, key: KeyHeader = None) -> Response:
    """Invite a host: a secret with which one machine can enrol, once."""

    def act(tx: Tx) -> tuple[TokenRow, str]:
        return service.invite(
            tx,
            call.who,
            name=body.name,
            roots=None if body.roots is None else plain_roots(body.roots),
            put_only=body.put_only,
            keeper=body.keeper,
            region_id=body.region_id,
            expires_in_seconds=body.expires_in_seconds,
            now=call.now,
        )

    def show(made: tuple[TokenRow, str]) -> Invitation:
        token, secret = made
        return Invitation(
            id=token.id,
            secret=secret,
            expires_at=token.expires_at,
            command=f"holdfast agent enrol {call.deployment.public_url} --token {secret}",
        )

    return once(
        call,
        key,
        body,
        act,
        show,
        status=201,
        location=lambda made: f"{PREFIX}/tokens/{made[0].id}",
        secret=True,
    )


def plain_roots(given: list[NewRoot]) -> list[dict[str, str]]:
    """Roots as services take them."""
    return [{"path": each.path, "directory": each.directory or each.path} for each in given]


def _show(now: datetime) -> Any:
    def show(row: Row) -> Host:
        members = {name: getattr(row, name) for name in Host.model_fields if name != "status"}
        return Host.model_validate({**members, "status": service.status_of(row, now)})

    return show
