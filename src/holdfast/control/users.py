"""People who sign in: their address and what is kept of their password.

A person belongs to accounts through `members`, has one password for all of them, and is
told nothing here about accounts. An e-mail address is compared in lower case.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime

from sqlalchemy import delete, select

from holdfast.control import audit, passwords
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import SignIn, User
from holdfast.errors import Forbidden, NameTaken, NotFound, UsageError

MAX_EMAIL = 254


def address_of(email: str) -> str:
    """An e-mail address as it is kept; `UsageError` where it cannot be one."""
    text = unicodedata.normalize("NFC", email.strip()).lower()
    local, at, domain = text.rpartition("@")
    if (
        not (local and at and domain)
        or len(text) > MAX_EMAIL
        or not text.isprintable()
        or any(letter.isspace() for letter in text)
        or "@" in local
    ):
        raise UsageError("This is no e-mail address; write it like name@example.org.")
    return text


def create_user(tx: Tx, email: str, password: str, *, now: datetime) -> User:
    """A new person; `NameTaken` where the address has one already."""
    address = address_of(email)
    passwords.check_new(password)
    if find(tx, address) is not None:
        raise NameTaken(f"Somebody signs in as {address} already.")
    return add_user(tx, address, passwords.hash_of(password), now=now)


def add_user(tx: Tx, address: str, password_hash: str, *, now: datetime) -> User:
    """The row of a new person, as `create_user` makes it."""
    user = User(email=address, password_hash=password_hash, created_at=now)
    tx.add(user)
    tx.flush()
    return user


def find(tx: Tx, email: str) -> User | None:
    """The person with this address."""
    return tx.scalar(select(User).where(User.email == address_of(email)))


def change_password(tx: Tx, who: Principal, old: str, new: str, *, now: datetime) -> User:
    """Change one's own password; all browsers have to sign in again, this one too."""
    user = tx.get(User, who.user_id) if who.kind == "user" else None
    if user is None:
        raise Forbidden("Only a person who has signed in can change a password.")
    passwords.check_new(new)
    if not passwords.matches(old, user.password_hash):
        raise Forbidden("The old password is not right; nothing was changed.")
    return _set_password(tx, who, user, new, now=now)


def email_of(tx: Tx, user_id: str) -> str | None:
    """The address that a user signs in with; None where there is no such user."""
    return tx.scalar(select(User.email).where(User.id == user_id))


def reset_password(tx: Tx, who: Principal, email: str, new: str, *, now: datetime) -> User:
    """Give somebody a new password who has lost it; operators only."""
    who.require_operator()
    passwords.check_new(new)
    user = find(tx, email)
    if user is None:
        raise NotFound(f"Nobody signs in as {address_of(email)}.")
    return _set_password(tx, who, user, new, now=now)


def _set_password(tx: Tx, who: Principal, user: User, new: str, *, now: datetime) -> User:
    user.password_hash = passwords.hash_of(new)
    tx.execute(delete(SignIn).where(SignIn.user_id == user.id))
    audit.record(tx, who, "user.password", "user", user.id, now=now)
    return user
