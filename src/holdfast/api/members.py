"""Members: who belongs to an account, and as what."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import Response

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Email, PathId, Secret
from holdfast.api.operation import router
from holdfast.control import members as service
from holdfast.edge.answers import listing, nothing, plain
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit, page_of_all

routes = router("members")

Role = Literal["owner", "admin", "member", "viewer"]


class Member(Document):
    """A person in the account."""

    user_id: str
    email: str
    role: Role
    created_at: datetime


class Members(Listing[Member]):
    """A page of members."""


class NewMember(Body):
    """Whom to add. `password` is for a person who is new to this installation."""

    email: Email
    role: Role
    password: Secret | None = None


class NewRole(Body):
    """What a member becomes."""

    role: Role


@routes.get("/members", response_model=Members)
def list_members(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List the account's members, longest there first."""
    with call.reading() as tx:
        found = service.members(tx, call.who)
    page = page_of_all(found, name=lambda person: person.user_id, cursor=cursor, limit=limit)
    return listing(call.request, page, Member.model_validate)


@routes.post("/members", response_model=Member, status_code=201)
def add_member(call: Asked, body: NewMember, key: KeyHeader = None) -> Response:
    """Add a member."""
    return once(
        call,
        key,
        body,
        lambda tx: service.add(
            tx,
            call.who,
            email=body.email,
            role=body.role,
            password=body.password,
            now=call.now,
        ),
        Member.model_validate,
        status=201,
    )


@routes.patch("/members/{user_id}", response_model=Member)
def set_member_role(call: Asked, user_id: PathId, body: NewRole) -> Response:
    """Give a member another role; the last owner stays one."""
    with call.writing() as tx:
        person = service.set_role(tx, call.who, user_id, body.role, now=call.now)
    return plain(Member.model_validate(person))


@routes.delete("/members/{user_id}", status_code=204)
def remove_member(call: Asked, user_id: PathId) -> Response:
    """Remove a member, with the sessions and tokens that they have in this account."""
    with call.writing() as tx:
        service.remove(tx, call.who, user_id, now=call.now)
    return nothing()
