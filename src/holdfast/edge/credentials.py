"""Who asks: from a request's credential to a `Principal`.

A credential is a bearer token, the same in ``X-API-KEY`` or bare in ``Authorization``, or
the cookie of a browser's session; the first of these that is there counts, and a wrong one is
not made up for by another. Browsers send cookies also when somebody else's page asks, so a
change that comes with a cookie must come from our own pages.

Invariant: agents and gateways reach only what is made for them. Their rights are for
repositories; a machine that was taken over must not be able to change, say, a retention.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from starlette.requests import Request

from holdfast.control import sign_in, tokens
from holdfast.control.principal import Principal
from holdfast.edge.deployment import SESSION_COOKIE, Deployment
from holdfast.errors import Forbidden, NotSignedIn

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
PEOPLE: Final = frozenset({"user", "token"})
AGENTS: Final = frozenset({"agent"})
GATEWAYS: Final = frozenset({"gateway"})

_LONGEST_SECRET: Final = 500
_BARE: Final = "hf_"
"""How a token begins: Qarnot's clients send theirs without naming a scheme."""


def authenticate(
    request: Request, deployment: Deployment, *, kinds: frozenset[str], now: datetime
) -> Principal:
    """Who asks; `NotSignedIn` or `Forbidden` where nobody of these kinds does."""
    secret = _token_of(request)
    if secret is not None:
        who = _by_token(request, deployment, secret, now)
    elif cookie := request.cookies.get(SESSION_COOKIE):
        who = _by_cookie(request, deployment, cookie, now)
    else:
        raise NotSignedIn(
            "This needs a credential: send a token as 'Authorization: Bearer ...' or in "
            "X-API-KEY, or sign in."
        )
    request.state.caller = f"{who.kind}:{who.id}"
    if who.kind not in GATEWAYS:  # they ask for everybody
        deployment.gates.pass_credential(who.kind, who.id)
    if who.kind not in kinds:
        raise Forbidden(
            f"A credential of the kind '{who.kind}' does not reach this; it is for "
            f"{' and '.join(sorted(kinds))}."
        )
    return who


def check_origin(request: Request, deployment: Deployment) -> None:
    """Raise `Forbidden` unless a request that changes something comes from our own pages.

    Every browser of today sends ``Sec-Fetch-Site`` or ``Origin`` with such a request.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        allowed = origin is not None and origin.lower() == deployment.origin
    if not allowed:
        raise Forbidden(
            "This was asked by a page of another site, or by a program that uses a browser's "
            "session; programs send a token."
        )


def _token_of(request: Request) -> str | None:
    """The token that was sent; an empty text where the header is there and has none."""
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, space, rest = header.partition(" ")
        if not space and scheme.startswith(_BARE):
            return scheme
        return rest.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("X-API-KEY")


def _by_token(request: Request, deployment: Deployment, secret: str, now: datetime) -> Principal:
    if not 0 < len(secret) <= _LONGEST_SECRET or not secret.isascii():
        raise NotSignedIn("The credential is not a token of this installation; make a new one.")
    address: str = request.state.address
    with deployment.database.read() as tx:
        who = tokens.authenticate(
            tx, secret, address=address, request_id=request.state.request_id, now=now
        )
    if who.kind != "agent":  # its host's heartbeat says when it was here last
        deployment.uses.note(deployment.database, who.id, address, now)
    return who


def _by_cookie(request: Request, deployment: Deployment, secret: str, now: datetime) -> Principal:
    if len(secret) > _LONGEST_SECRET or not secret.isascii():
        raise NotSignedIn("The session is not known here; sign in again.")
    check_origin(request, deployment)
    with deployment.database.read() as tx:
        return sign_in.authenticate_cookie(
            tx,
            secret,
            address=request.state.address,
            request_id=request.state.request_id,
            now=now,
        )
