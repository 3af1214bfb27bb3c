"""Signing in with a password, and the browser's session that comes of it.

Whoever guesses is slowed down, for each e-mail address and for each network address,
also after a restart. An attempt counts as failed before the password is looked at, so
that many at once are no way around. What is answered, and how long that takes, does not
tell whether there is such a person. Passwords are hashed outside of any transaction.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from holdfast.control import audit, passwords, users
from holdfast.control.database import Database, Tx
from holdfast.control.principal import ROLE_RIGHTS, Principal
from holdfast.control.tables import Account, Member, SignIn, SignInFailure, User
from holdfast.control.tokens import sha256_of
from holdfast.errors import NotSignedIn, TooManyRequests, UsageError

LASTS: Final = timedelta(days=7)
FREE_FOR_EMAIL: Final = 5
FREE_FOR_ADDRESS: Final = 20
LONGEST_PAUSE: Final = timedelta(minutes=15)
FORGOTTEN_AFTER: Final = timedelta(hours=24)
_SECRET: Final = re.compile(r"hs_[A-Za-z0-9_-]{43}")


def sign_in(
    database: Database,
    email: str,
    password: str,
    *,
    account_id: str | None = None,
    address: str,
    now: datetime,
) -> tuple[SignIn, str]:
    """Open a session and return it with its secret, which is not kept.

    `account_id` chooses among the accounts that the person belongs to; None takes the
    first. `NotSignedIn` where the two do not belong together, `TooManyRequests` after too
    many failures. Takes the database, not a transaction, because a failure must be kept.
    """
    try:
        wanted = users.address_of(email)
    except UsageError:
        wanted = ""
    subjects = _subjects(wanted or email, address)
    user_id, kept = database.transact(lambda tx: _counted(tx, wanted, subjects, now=now))
    if not passwords.matches(password, kept):
        raise NotSignedIn("The e-mail address and the password do not belong together.")
    assert kept is not None
    renewed = passwords.hash_of(password) if passwords.is_outdated(kept) else kept

    def open_session(tx: Tx) -> tuple[SignIn, str]:
        user = tx.get(User, user_id, with_for_update={"key_share": True})
        if user is None or user.password_hash != kept:
            raise NotSignedIn("The password was changed just now; sign in with the new one.")
        user.password_hash = renewed
        row, secret = _opened(tx, user, account_id, address=address, now=now)
        _uncount(tx, *subjects)
        return row, secret

    return database.transact(open_session)


def authenticate_cookie(
    tx: Tx, secret: str, *, address: str, request_id: str, now: datetime
) -> Principal:
    """Whose session this is, with the rights of their role now; `NotSignedIn` where none is."""
    row = _find(tx, secret)
    member = tx.get(Member, (row.account_id, row.user_id)) if row is not None else None
    if row is None or member is None or row.expires_at <= now:
        raise NotSignedIn("You are not signed in, or were signed out; sign in again.")
    account = tx.get_one(Account, row.account_id)
    return _person(member, account, address=address, request_id=request_id)


def sign_out(tx: Tx, secret: str, *, now: datetime) -> None:
    """End a session; one that is not there is no error."""
    row = _find(tx, secret)
    if row is None:
        return
    who = Principal("user", row.user_id, row.account_id, user_id=row.user_id)
    audit.record(tx, who, "user.sign_out", "user", row.user_id, now=now)
    tx.delete(row)


def forget_old(tx: Tx, *, now: datetime) -> int:
    """Drop sessions that have expired and failures of long ago; how many rows those were."""
    expired = delete(SignIn).where(SignIn.expires_at <= now)
    forgotten = delete(SignInFailure).where(SignInFailure.last_at < now - FORGOTTEN_AFTER)
    return sum(tx.connection().execute(each).rowcount for each in (expired, forgotten))


def _find(tx: Tx, secret: str) -> SignIn | None:
    if not _SECRET.fullmatch(secret):
        return None
    digest = sha256_of(secret)
    row = tx.scalar(select(SignIn).where(SignIn.secret_sha256 == digest))
    return row if row is not None and hmac.compare_digest(row.secret_sha256, digest) else None


def _person(member: Member, account: Account, *, address: str, request_id: str) -> Principal:
    return Principal(
        "user",
        member.user_id,
        account.id,
        ROLE_RIGHTS[member.role],
        operator=account.is_operator,
        user_id=member.user_id,
        address=address,
        request_id=request_id,
    )


def _opened(
    tx: Tx, user: User, account_id: str | None, *, address: str, now: datetime
) -> tuple[SignIn, str]:
    statement = select(Member).where(Member.user_id == user.id)
    if account_id is not None:
        statement = statement.where(Member.account_id == account_id)
    member = tx.scalar(statement.order_by(Member.created_at, Member.account_id).limit(1))
    if member is None:
        raise NotSignedIn("You belong to no account here, or not to this one; ask an owner of it.")
    secret = f"hs_{secrets.token_urlsafe(32)}"
    row = SignIn(
        account_id=member.account_id,
        user_id=user.id,
        secret_sha256=sha256_of(secret),
        created_at=now,
        expires_at=now + LASTS,
        address=address[:64],
    )
    tx.add(row)
    account = tx.get_one(Account, member.account_id)
    who = _person(member, account, address=address, request_id="")
    audit.record(tx, who, "user.sign_in", "user", user.id, now=now)
    return row, secret


def _subjects(email: str, address: str) -> tuple[str, str]:
    """What failures are counted for. Of an IPv6 address it is the network: one home has /64."""
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6:
            mapped = parsed.ipv4_mapped
            parsed_network = ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64))
            origin = str(mapped) if mapped else str(parsed_network)
        else:
            origin = str(parsed)
    except ValueError:
        origin = address[:64]
    return f"email:{sha256_of(email)}", f"address:{origin}"


def _counted(
    tx: Tx, email: str, subjects: tuple[str, str], *, now: datetime
) -> tuple[str | None, str | None]:
    """Count a failure for both; the id and the kept password of the person, if there is one."""
    rows = [_locked(tx, subject, now=now) for subject in subjects]
    until = max((row.blocked_until for row in rows if row.blocked_until), default=now)
    if until > now:
        seconds = math.ceil((until - now).total_seconds())
        raise TooManyRequests(f"Too many sign-ins have failed; try again in {seconds} s.", seconds)
    for row, free in zip(rows, (FREE_FOR_EMAIL, FREE_FOR_ADDRESS), strict=True):
        row.failures += 1
        row.last_at = now
        row.blocked_until = _pause_after(row.failures, free, now=now)
    user = tx.scalar(select(User).where(User.email == email))
    return (user.id, user.password_hash) if user else (None, None)


def _pause_after(failures: int, free: int, *, now: datetime) -> datetime | None:
    if failures < free:
        return None
    seconds = 2.0 ** min(failures - free, 30)
    return now + min(timedelta(seconds=seconds), LONGEST_PAUSE)


def _locked(tx: Tx, subject: str, *, now: datetime) -> SignInFailure:
    """The row of a subject, made if need be, and nobody else's until the transaction ends."""
    row = tx.get(SignInFailure, subject, with_for_update=True)
    if row is None:
        try:
            with tx.begin_nested():
                row = SignInFailure(subject=subject, failures=0, last_at=now)
                tx.add(row)
        except IntegrityError:  # another sign-in made it meanwhile
            row = tx.get_one(SignInFailure, subject, with_for_update=True)
    if row.last_at < now - FORGOTTEN_AFTER:
        row.failures, row.blocked_until = 0, None
    return row


def _uncount(tx: Tx, email_subject: str, address_subject: str) -> None:
    """Take back what `_counted` assumed; of an address only that, for others come from it."""
    row = tx.get(SignInFailure, email_subject, with_for_update=True)
    if row is not None:
        row.failures, row.blocked_until = 0, None
    row = tx.get(SignInFailure, address_subject, with_for_update=True)
    if row is not None:
        row.failures = max(0, row.failures - 1)
        row.blocked_until = None
