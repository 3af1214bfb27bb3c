"""Access tokens: what programs use in place of a password."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Id, PathId, Time, Word
from holdfast.api.operation import PREFIX, router
from holdfast.control import tokens as service
from holdfast.control.database import Tx
from holdfast.control.tables import Token as Row
from holdfast.edge.answers import listing, nothing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("tokens")

Rights = Annotated[
    list[Literal["create", "read", "restore", "delete", "administer"]],
    Field(min_length=1, max_length=5),
]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,15}$", max_length=16)]


class Token(Document):
    """A token without its secret. `hint` is how the secret begins."""

    id: str
    name: str
    purpose: str
    hint: str
    rights: list[str]
    kinds: list[str]
    resources: list[str]
    user_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None
    used_from: str


class Tokens(Listing[Token]):
    """A page of tokens."""


class NewToken(Body):
    """What a token is for. `kinds` and `resources` narrow it where they are given.

    A kind is one of sources, such as ``path``, or ``bucket``.
    """

    name: Word
    rights: Rights
    kinds: Annotated[list[Kind], Field(max_length=20)] = Field(default_factory=list)
    resources: Annotated[list[Id], Field(max_length=500)] = Field(default_factory=list)
    expires_at: Time | None = None


class IssuedToken(Document):
    """A token with its secret, which is shown this once."""

    token: Token
    secret: str


@routes.get("/tokens", response_model=Tokens)
def list_tokens(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List tokens, newest first; also those that have ended."""
    with call.reading() as tx:
        found = service.tokens(tx, call.who, cursor=cursor, limit=limit)
    return listing(call.request, found, Token.model_validate)


@routes.post("/tokens", response_model=IssuedToken, status_code=201)
def issue_token(call: Asked, body: NewToken, key: KeyHeader = None) -> Response:
    """Issue a token.

    It cannot have more rights than who issues it. The secret is in this answer only. The
    token's id and its secret are an S3 client's key pair, too.
    """

    def act(tx: Tx) -> tuple[Row, str]:
        return service.issue(
            tx,
            call.who,
            name=body.name,
            rights=body.rights,
            kinds=body.kinds,
            resources=body.resources,
            expires_at=body.expires_at,
            keys=call.keys,
            now=call.now,
        )

    return once(
        call,
        key,
        body,
        act,
        lambda made: IssuedToken(token=Token.model_validate(made[0]), secret=made[1]),
        status=201,
        location=lambda made: f"{PREFIX}/tokens/{made[0].id}",
        secret=True,
    )


@routes.delete("/tokens/{token_id}", status_code=204)
def revoke_token(call: Asked, token_id: PathId) -> Response:
    """Revoke a token; within five seconds nobody can use it any more."""
    with call.writing() as tx:
        service.revoke(tx, call.who, token_id, now=call.now)
    return nothing()
