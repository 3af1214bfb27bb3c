"""What a gateway is told about buckets: who signed, and what that one may do with a bucket.

A request to S3 names a token and proves by a signature that its secret is known, so whoever
checks it needs the secret. A gateway is not told that: it is told the key that SigV4 derives
from it for one day and one region, which is worth nothing on another day.

Only access tokens that are live sign, never those of agents, of gateways, or for enrolment.
An access key that nobody has is answered with no key, after about the same work.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import select

from holdfast.control import buckets, credit, quotas, regions, sign_in, tokens, views
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Account, Bucket, Member, Region, Repository, Token, User
from holdfast.errors import CreditExhausted, Forbidden, HoldfastError, QuotaExceeded, UsageError

LIST: Final = "list"
READ: Final = "read"
APPEND: Final = "append"
DELETE: Final = "delete"

MAX_CANDIDATES: Final = 50
"""So many tokens of one person are tried; of more, the newest."""

_MEANING: Final = {
    Right.READ: LIST,
    Right.RESTORE: READ,
    Right.CREATE: APPEND,
    Right.DELETE: DELETE,
}
_TOKEN_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OLDEST: Final = timedelta(days=8)
"""A signed address works for seven days; the signature is of the day that it was made on."""
_NEWEST: Final = timedelta(days=1)
_NOBODYS: Final = "hf_" + "0" * 43


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be added for now."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BucketGrant:
    """What the one who asks may do in the account's buckets, and where bodies lie.

    `rights`: list, read, append, delete. `password` is the repository's: what bodies are
    sealed under.
    """

    account_id: str
    rights: frozenset[str]
    refusal: Refusal | None
    repository_id: str
    location: str
    options: Mapping[str, Any]
    password: str


@dataclass(frozen=True, slots=True)
class OpenedBucket:
    """A bucket with what somebody may do in it and what is seen in it."""

    bucket: Bucket
    grant: BucketGrant
    views: list[views.SeenView]


def caller(
    tx: Tx,
    *,
    credential: str | None = None,
    token_id: str | None = None,
    address: str,
    request_id: str,
    now: datetime,
) -> Principal:
    """For whom a gateway acts: exactly one of what was shown, and whose signature was right."""
    if (credential is None) == (token_id is None):
        raise UsageError("Give a credential or a token's id: exactly one of both.")
    if token_id is not None:
        return tokens.principal_of(tx, token_id, address=address, request_id=request_id, now=now)
    assert credential is not None
    # A browser that downloads has no token; its cookie reads what its owner may.
    is_session = credential.startswith("hs_")
    known = sign_in.authenticate_cookie if is_session else tokens.authenticate
    who = known(tx, credential, address=address, request_id=request_id, now=now)
    if who.kind == "gateway":
        raise Forbidden("This credential is for asking about others; it reaches no data itself.")
    return who


def opened(tx: Tx, who: Principal, name: str, *, keys: MasterKeys) -> OpenedBucket:
    """A bucket for somebody who may at least list it; `NoSuchBucket` for all others' buckets."""
    who.require(Right.READ)
    bucket = buckets.get(tx, who, name)
    repository = tx.get_one(Repository, bucket.repository_id)
    region = tx.get_one(Region, repository.region_id)
    rights = {_MEANING[right] for right in who.rights if right in _MEANING}
    if who.kind == "agent":
        rights -= {APPEND, DELETE}
    grant = BucketGrant(
        account_id=bucket.account_id,
        rights=frozenset(rights),
        refusal=_refusal(tx, bucket) if APPEND in rights else None,
        repository_id=repository.id,
        location=region.location,
        options=regions.options_of(region, keys),
        password=regions.password_of(tx, repository, keys),
    )
    return OpenedBucket(bucket, grant, views.views(tx, bucket))


def signing_keys(
    tx: Tx, access_key: str, date: str, region: str, *, keys: MasterKeys, now: datetime
) -> list[tuple[str, bytes]]:
    """Ids of tokens that may be meant by `access_key`, each with its derived key of that day.

    `access_key` is a token's id, or the e-mail address of a person, whose tokens they are
    then. `date` is ``YYYYMMDD``; for a day on which no request of now was signed there is
    no key.
    """
    if not _is_near(date, now):
        return []
    found = _of_token(tx, access_key) if _TOKEN_ID.fullmatch(access_key) else None
    candidates = [found] if found is not None else _of_person(tx, access_key)
    live = [each for each in candidates if _may_sign(tx, each, now)]
    secrets = [
        (each.id, keys.unseal(each.sealed_secret or "", context_of(Token, each.id)).decode())
        for each in live
    ]
    if not secrets:
        _derived(_NOBODYS, date, region)
    return [(token_id, _derived(secret, date, region)) for token_id, secret in secrets]


def _of_token(tx: Tx, token_id: str) -> Token | None:
    return tx.get(Token, token_id)


def _of_person(tx: Tx, email: str) -> list[Token]:
    # PostgreSQL refuses text with zero bytes, so what cannot be an address is not asked for.
    if "@" not in email or not email.isprintable():
        return []
    accounts = (
        select(Member.account_id)
        .join(User, User.id == Member.user_id)
        .where(User.email == email.strip().lower())
    )
    person = select(User.id).where(User.email == email.strip().lower()).scalar_subquery()
    found = select(Token).where(
        Token.account_id.in_(accounts),
        Token.user_id == person,
        Token.purpose == "access",
        Token.revoked_at.is_(None),
        Token.sealed_secret.is_not(None),
    )
    newest = found.order_by(Token.created_at.desc(), Token.id.desc()).limit(MAX_CANDIDATES)
    return list(tx.scalars(newest))


def _may_sign(tx: Tx, token: Token, now: datetime) -> bool:
    if token.purpose != "access" or token.sealed_secret is None or token.revoked_at is not None:
        return False
    if token.expires_at is not None and token.expires_at <= now:
        return False
    return token.user_id is None or tx.get(Member, (token.account_id, token.user_id)) is not None


def _derived(secret: str, date: str, region: str) -> bytes:
    """The signing key of AWS Signature Version 4, for the service s3."""
    key = f"AWS4{secret}".encode()
    for each in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, each.encode(), hashlib.sha256)
    return key


def _is_near(date: str, now: datetime) -> bool:
    try:
        day = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return False
    return now - _OLDEST - _NEWEST < day < now + _NEWEST


def _refusal(tx: Tx, bucket: Bucket) -> Refusal | None:
    account = tx.get_one(Account, bucket.account_id)
    try:
        credit.check_may_create(tx, account)
        quotas.check(tx, account, snapshots=0)
    except (CreditExhausted, QuotaExceeded) as error:
        return _told(error)
    return None


def _told(error: HoldfastError) -> Refusal:
    return Refusal(error.code, error.message)
