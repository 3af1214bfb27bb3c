"""Who belongs to an account, and as what: owner, admin, member or viewer.

An account always keeps an owner. Only an owner makes or unmakes owners. Adding somebody
does not tell whether that person was known to this installation before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select, update

from holdfast.control import audit, passwords, users
from holdfast.control.database import Tx
from holdfast.control.principal import ROLE_RIGHTS, Principal, Right
from holdfast.control.tables import Account, Member, SignIn, Token, User
from holdfast.errors import Forbidden, InUse, NameTaken, NotFound, UsageError

ROLES: Final = tuple(ROLE_RIGHTS)


@dataclass(frozen=True, slots=True)
class Person:
    """A member as others of the account see them."""

    user_id: str
    email: str
    role: str
    created_at: datetime


def members(tx: Tx, who: Principal) -> list[Person]:
    """Everybody in the account, longest there first."""
    who.require_everywhere(Right.READ)
    statement = (
        select(Member, User.email)
        .join(User, User.id == Member.user_id)
        .where(Member.account_id == who.account_id)
        .order_by(Member.created_at, Member.user_id)
    )
    return [_person(member, email) for member, email in tx.execute(statement)]


def add(
    tx: Tx,
    who: Principal,
    *,
    email: str,
    role: str,
    password: str | None = None,
    now: datetime,
) -> Person:
    """Make somebody a member.

    `password` is for a person who is new here; one who is known keeps their own. A new
    person without a password can sign in once an operator has set one.
    """
    who.require_everywhere(Right.ADMINISTER)
    address = users.address_of(email)
    _check_role(role)
    if password is not None:
        passwords.check_new(password)
    # Hashed in either case, so that time does not tell who is known here.
    kept = passwords.UNUSABLE if password is None else passwords.hash_of(password)
    _lock(tx, who.account_id)
    if role == "owner":
        _require_owner(tx, who)
    user = users.find(tx, address) or users.add_user(tx, address, kept, now=now)
    if tx.get(Member, (who.account_id, user.id)) is not None:
        raise NameTaken(f"{address} is a member already; change the role instead.")
    member = Member(account_id=who.account_id, user_id=user.id, role=role, created_at=now)
    tx.add(member)
    after = {"email": address, "role": role}
    audit.record(tx, who, "member.add", "user", user.id, now=now, after=after)
    return _person(member, address)


def set_role(tx: Tx, who: Principal, user_id: str, role: str, *, now: datetime) -> Person:
    """Give a member another role; `InUse` where no owner would be left."""
    who.require_everywhere(Right.ADMINISTER)
    _check_role(role)
    _lock(tx, who.account_id)
    member, user = _member(tx, who, user_id)
    if member.role == role:
        return _person(member, user.email)
    if "owner" in (member.role, role):
        _require_owner(tx, who)
    if member.role == "owner":
        _require_another_owner(tx, member)
    before = {"role": member.role}
    member.role = role
    audit.record(
        tx, who, "member.edit", "user", user_id, now=now, before=before, after={"role": role}
    )
    return _person(member, user.email)


def remove(tx: Tx, who: Principal, user_id: str, *, now: datetime) -> None:
    """End a membership, with its sessions and the tokens that the person issued."""
    who.require_everywhere(Right.ADMINISTER)
    _lock(tx, who.account_id)
    member, user = _member(tx, who, user_id)
    if member.role == "owner":
        _require_owner(tx, who)
        _require_another_owner(tx, member)
    of_person = (SignIn.account_id == who.account_id, SignIn.user_id == user_id)
    tx.execute(delete(SignIn).where(*of_person))
    tx.execute(
        update(Token)
        .where(
            Token.account_id == who.account_id,
            Token.user_id == user_id,
            Token.revoked_at.is_(None),
        )
        .values(revoked_at=now)
    )
    tx.delete(member)
    before = {"email": user.email, "role": member.role}
    audit.record(tx, who, "member.remove", "user", user_id, now=now, before=before)


def _lock(tx: Tx, account_id: str) -> None:
    """One change of an account's members at a time: two owners may not demote each other."""
    # NO KEY UPDATE: rows that refer to the account can be made meanwhile.
    tx.execute(select(Account.id).where(Account.id == account_id).with_for_update(key_share=True))


def _member(tx: Tx, who: Principal, user_id: str) -> tuple[Member, User]:
    member = tx.get(Member, (who.account_id, user_id), populate_existing=True)
    if member is None:
        raise NotFound(f"The account has no member {user_id}.")
    return member, tx.get_one(User, user_id)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UsageError(f"{role!r} is no role; the roles are {', '.join(ROLES)}.")


def _require_owner(tx: Tx, who: Principal) -> None:
    if who.kind == "system":
        return
    key = (who.account_id, who.user_id or "")
    asking = tx.get(Member, key, populate_existing=True)
    if asking is None or asking.role != "owner":
        raise Forbidden("Only an owner of the account makes, changes or removes its owners.")


def _require_another_owner(tx: Tx, member: Member) -> None:
    statement = select(func.count()).where(
        Member.account_id == member.account_id,
        Member.role == "owner",
        Member.user_id != member.user_id,
    )
    if not tx.scalar(statement):
        raise InUse(
            "This is the account's last owner; make somebody else an owner first, so that the "
            "account does not become nobody's."
        )


def _person(member: Member, email: str) -> Person:
    return Person(member.user_id, email, member.role, member.created_at)
