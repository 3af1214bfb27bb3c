"""Tokens: secrets that stand for rights. Issued once, kept as a SHA-256, never shown again.

A secret has 256 random bits, so a fast hash is enough and finding it by its hash tells
nothing through time. An access token's is kept sealed besides, until it is revoked: requests
to buckets are signed with it and do not carry it (see `bucket_access`). A token never
carries more than who issued it, and never more than that person still has: it is cut to the
person's role whenever it is used, and ends with the membership.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import or_, select, update

from holdfast.control import audit
from holdfast.control.database import Tx
from holdfast.control.paging import Order, Page, page
from holdfast.control.principal import ROLE_RIGHTS, Principal, Right, system
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Account, Bucket, Host, Member, Schedule, Source, Token
from holdfast.errors import Forbidden, NotFound, NotSignedIn, UsageError

NOTE_USE_EVERY: Final = timedelta(minutes=1)
_SECRET: Final = re.compile(r"hf_[A-Za-z0-9_-]{43}")
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,15}")
_MAX_NARROWING: Final = 500
_LISTED: Final = ("access", "enrolment", "gateway")


def new_secret() -> str:
    """A fresh secret text: ``hf_`` and 43 characters that stand for 256 bits."""
    return f"hf_{secrets.token_urlsafe(32)}"


def sha256_of(secret: str) -> str:
    """How a secret is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def hint_of(secret: str) -> str:
    """Enough of a secret to tell it from others in a list, too little to help in guessing."""
    return f"{secret[:7]}..."


def issue(
    tx: Tx,
    who: Principal,
    *,
    name: str,
    rights: Iterable[str],
    kinds: Iterable[str] = (),
    resources: Iterable[str] = (),
    expires_at: datetime | None = None,
    keys: MasterKeys | None = None,
    now: datetime,
) -> tuple[Token, str]:
    """A new access token and its secret, which is kept sealed only.

    `kinds` (of sources, or ``bucket``) and `resources` (ids of hosts, sources, schedules,
    buckets) narrow it. Without `keys` it cannot sign requests to buckets. `Forbidden` where
    it would exceed the rights or the narrowing of `who`.
    """
    who.require(Right.ADMINISTER)
    wanted = _rights(rights)
    for right in sorted(wanted):
        who.require(right)
    wanted_kinds, wanted_resources = frozenset(kinds), frozenset(resources)
    _within(wanted_kinds, who.kinds, "kinds")
    _within(wanted_resources, who.resources, "resources")
    for kind in wanted_kinds:
        if not _KIND.fullmatch(kind):
            raise UsageError(f"{kind!r} is no kind of source, such as 'path'.")
    _check_own(tx, who, wanted_resources)
    if expires_at is not None and expires_at <= now:
        raise UsageError("The token would have expired already; choose a time in the future.")
    token, secret = _made(
        tx,
        account_id=who.account_id,
        user_id=who.user_id,
        purpose="access",
        name=_name(name),
        rights=sorted(wanted),
        kinds=sorted(wanted_kinds),
        resources=sorted(wanted_resources),
        expires_at=expires_at,
        created_at=now,
    )
    if keys is not None:
        token.sealed_secret = keys.seal(secret.encode(), context_of(Token, token.id))
        tx.flush()
    _record_issued(tx, who, token, now=now)
    return token, secret


def issue_for_host(tx: Tx, host: Host, *, now: datetime) -> str:
    """A host's own credential; the one that it had before ends."""
    tx.execute(
        update(Token)
        .where(Token.host_id == host.id, Token.purpose == "agent", Token.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    token, secret = _made(
        tx,
        account_id=host.account_id,
        host_id=host.id,
        purpose="agent",
        name=host.name,
        created_at=now,
    )
    _record_issued(tx, system(host.account_id), token, now=now)
    return secret


def issue_gateway(tx: Tx, account_id: str, *, now: datetime) -> str:
    """A credential for a data plane, which may only ask what other credentials may."""
    token, secret = _made(
        tx, account_id=account_id, purpose="gateway", name="gateway", created_at=now
    )
    _record_issued(tx, system(account_id), token, now=now)
    return secret


def revoke(tx: Tx, who: Principal, token_id: str, *, now: datetime) -> Token:
    """End a token; again is no error. A host's own credential ends with the host instead."""
    who.require_everywhere(Right.ADMINISTER)
    token = tx.get(Token, token_id, with_for_update=True, populate_existing=True)
    if token is None or token.account_id != who.account_id or token.purpose not in _LISTED:
        raise NotFound(f"There is no token {token_id}.")
    if token.revoked_at is None:
        token.revoked_at = now
        token.sealed_secret = None
        audit.record(tx, who, "token.revoke", "token", token.id, now=now)
    return token


def tokens(tx: Tx, who: Principal, *, cursor: str | None, limit: int) -> Page[Token]:
    """The account's tokens, newest first, also those that have ended."""
    who.require_everywhere(Right.ADMINISTER)
    statement = select(Token).where(Token.account_id == who.account_id, Token.purpose.in_(_LISTED))
    order: list[Order] = [Token.created_at.desc(), Token.id.desc()]
    return page(tx, statement, order=order, cursor=cursor, limit=limit)


def authenticate(tx: Tx, secret: str, *, address: str, request_id: str, now: datetime) -> Principal:
    """Who presents this secret; `NotSignedIn` where nobody may with it."""
    token = find(tx, secret)
    if token is None or token.purpose == "enrolment":
        raise NotSignedIn("This token is not known here. Check that it was copied whole.")
    return _principal(tx, token, address=address, request_id=request_id, now=now)


def principal_of(
    tx: Tx, token_id: str, *, address: str, request_id: str, now: datetime
) -> Principal:
    """Who an access token stands for, when a gateway has seen that its secret is known.

    The same checks as in `authenticate`; `NotSignedIn` also for tokens of other purposes.
    """
    token = tx.get(Token, token_id)
    if token is None or token.purpose != "access":
        raise NotSignedIn("This token is not known here. Check the access key.")
    return _principal(tx, token, address=address, request_id=request_id, now=now)


def _principal(tx: Tx, token: Token, *, address: str, request_id: str, now: datetime) -> Principal:
    if token.revoked_at is not None:
        raise NotSignedIn("This token was revoked. Ask an owner of the account for another.")
    if token.expires_at is not None and token.expires_at <= now:
        raise NotSignedIn("This token has expired. Ask an owner of the account for another.")
    if token.purpose == "agent":
        return _agent(tx, token, address=address, request_id=request_id)
    account = tx.get_one(Account, token.account_id)
    rights = frozenset(Right(each) for each in token.rights)
    if token.user_id is not None:
        member = tx.get(Member, (token.account_id, token.user_id))
        if member is None:
            raise NotSignedIn("This token was issued by somebody who has left the account.")
        rights &= ROLE_RIGHTS[member.role]
    return Principal(
        "gateway" if token.purpose == "gateway" else "token",
        token.id,
        token.account_id,
        rights,
        kinds=frozenset(token.kinds),
        resources=frozenset(token.resources),
        operator=account.is_operator,
        user_id=token.user_id,
        address=address,
        request_id=request_id,
    )


def find(tx: Tx, secret: str) -> Token | None:
    """The token with this secret, whatever its purpose, also when it has ended."""
    if not _SECRET.fullmatch(secret):
        return None
    digest = sha256_of(secret)
    token = tx.scalar(select(Token).where(Token.secret_sha256 == digest))
    if token is None or not hmac.compare_digest(token.secret_sha256, digest):
        return None
    return token


def note_use(tx: Tx, token_id: str, address: str, now: datetime) -> None:
    """Keep when and from where a token was last used, at most once a minute."""
    tx.execute(
        update(Token)
        .where(
            Token.id == token_id,
            or_(Token.used_at.is_(None), Token.used_at <= now - NOTE_USE_EVERY),
        )
        .values(used_at=now, used_from=address[:64])
    )


def _agent(tx: Tx, token: Token, *, address: str, request_id: str) -> Principal:
    host = tx.get(Host, token.host_id) if token.host_id else None
    if host is None or host.revoked_at is not None:
        raise NotSignedIn("This host was revoked. Enrol it again with a new enrolment token.")
    rights = {Right.CREATE} if host.put_only else {Right.CREATE, Right.READ, Right.RESTORE}
    if host.keeper:
        rights.add(Right.DELETE)
    return Principal(
        "agent",
        host.id,
        token.account_id,
        frozenset(rights),
        host_id=host.id,
        address=address,
        request_id=request_id,
    )


def _made(tx: Tx, **columns: Any) -> tuple[Token, str]:
    secret = new_secret()
    token = Token(secret_sha256=sha256_of(secret), hint=hint_of(secret), **columns)
    tx.add(token)
    tx.flush()
    return token, secret


def _record_issued(tx: Tx, who: Principal, token: Token, *, now: datetime) -> None:
    audit.record(
        tx,
        who,
        "token.issue",
        "token",
        token.id,
        now=now,
        after=audit.state_of(
            token, "name", "purpose", "host_id", "rights", "kinds", "resources", "expires_at"
        ),
    )


def _rights(words: Iterable[str]) -> frozenset[Right]:
    try:
        wanted = frozenset(Right(word) for word in words)
    except ValueError as error:
        raise UsageError(f"{error}; the rights are {', '.join(Right)}.") from None
    if not wanted:
        raise UsageError(f"A token needs at least one right of {', '.join(Right)}.")
    return wanted


def _within(wanted: Collection[str], own: Collection[str], what: str) -> None:
    if len(wanted) > _MAX_NARROWING:
        raise UsageError(f"A token can be limited to at most {_MAX_NARROWING} {what}.")
    if own and not (wanted and set(wanted) <= set(own)):
        raise Forbidden(
            f"You are limited to some {what} yourself, and can issue tokens for those only: "
            f"{', '.join(sorted(own))}."
        )


def _check_own(tx: Tx, who: Principal, ids: Collection[str]) -> None:
    """`NotFound` unless each id is a host, source, schedule or bucket of the account."""
    if not ids:
        return
    found: set[str] = set()
    for table in (Host, Source, Schedule, Bucket):
        statement = select(table.id).where(table.account_id == who.account_id, table.id.in_(ids))
        found.update(tx.scalars(statement))
    for missing in sorted(set(ids) - found):
        raise NotFound(f"The account has no host, source, schedule or bucket {missing}.")


def _name(name: str) -> str:
    text = name.strip()
    if not text or len(text) > 100 or not text.isprintable():
        raise UsageError("A token needs a name of 1 to 100 printable characters, to know it by.")
    return text
