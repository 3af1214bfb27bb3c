"""Browser sessions, and who one is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document
from holdfast.api.fields import Email, Id, Secret
from holdfast.api.operation import largest_body, router
from holdfast.control import sign_in, users
from holdfast.control.principal import Principal
from holdfast.edge.answers import document, nothing, plain
from holdfast.edge.call import Anybody, Asked
from holdfast.edge.credentials import check_origin
from holdfast.edge.deployment import SESSION_COOKIE
from holdfast.errors import NotReady

routes = router("sessions")


class NewSession(Body):
    """What a person signs in with; `account_id` chooses among several accounts."""

    email: Email
    password: Secret
    account_id: Id | None = None


class Session(Document):
    """A browser's session. Its secret is in the cookie only."""

    id: str
    account_id: str
    user_id: str
    created_at: datetime
    expires_at: datetime


class Me(Document):
    """Who asks, and what they may do."""

    kind: Literal["user", "token"]
    id: str
    account_id: str
    user_id: str | None
    operator: bool
    rights: list[str]
    kinds: Annotated[list[str], Field(description="Limited to these kinds; empty: to none.")]
    resources: Annotated[list[str], Field(description="Limited to these; empty: to none.")]


class NewPassword(Body):
    """A change of one's own password."""

    old_password: Secret
    new_password: Secret


@routes.post("/sessions", response_model=Session, status_code=201)
@largest_body(16 << 10)
def sign_in_session(visit: Anybody, body: NewSession) -> Response:
    """Sign in.

    Sets the cookie `holdfast_session`. Failed attempts are answered alike, whether or not
    there is such a person, and make the next ones wait.
    """
    visit.deployment.gates.pass_sign_in(visit.address)
    if "Sec-Fetch-Site" in visit.request.headers or "Origin" in visit.request.headers:
        check_origin(visit.request, visit.deployment)
    session, secret = sign_in.sign_in(
        visit.deployment.database,
        body.email,
        body.password,
        account_id=body.account_id,
        address=visit.address,
        now=visit.now,
    )
    answer = document(visit.request, Session.model_validate(session), status=201)
    answer.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=int((session.expires_at - visit.now).total_seconds()),
        path="/",
        secure=visit.deployment.is_secure,
        httponly=True,
        samesite="lax",
    )
    return answer


@routes.delete("/sessions/current", status_code=204)
def sign_out_session(call: Asked) -> Response:
    """Sign out: end this browser's session and take its cookie back."""
    secret = call.request.cookies.get(SESSION_COOKIE)
    if secret is None or call.who.kind != "user":
        raise NotReady("This request does not come from a session; revoke a token instead.")
    with call.writing() as tx:
        sign_in.sign_out(tx, secret, now=call.now)
    answer = nothing()
    answer.delete_cookie(SESSION_COOKIE, path="/", secure=call.deployment.is_secure, httponly=True)
    return answer


@routes.get("/me", response_model=Me)
def get_me(call: Asked) -> Response:
    """Show who this credential stands for, and its rights."""
    return plain(_me(call.who))


@routes.put("/me/password", status_code=204)
def change_password(call: Asked, body: NewPassword) -> Response:
    """Change one's own password.

    All other sessions of this person end.
    """
    call.deployment.gates.pass_sign_in(call.address)
    with call.writing() as tx:
        users.change_password(tx, call.who, body.old_password, body.new_password, now=call.now)
    return nothing()


def _me(who: Principal) -> Me:
    return Me(
        kind="user" if who.kind == "user" else "token",
        id=who.id,
        account_id=who.account_id,
        user_id=who.user_id,
        operator=who.operator,
        rights=sorted(who.rights),
        kinds=sorted(who.kinds),
        resources=sorted(who.resources),
    )
