"""Accounts: the team that owns things, its profile, its limits.

A change of an account is scoped by the one who asks; only operators list accounts and set
limits, and they see no account's data here. The balance is the ledger's to change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import Final

from sqlalchemy import select

from holdfast.control import audit, members, users
from holdfast.control.database import Tx
from holdfast.control.paging import Order, Page, page
from holdfast.control.prices import DEFAULT_CURRENCY
from holdfast.control.principal import Principal, Right, system
from holdfast.control.tables import Account, LedgerEntry, Region
from holdfast.errors import InUse, NotFound, UsageError

PROFILE_FIELDS: Final = {
    "legal_name": 200,
    "address": 500,
    "country": 2,
    "currency": 3,
    "contact": 200,
    "email": users.MAX_EMAIL,
}
"""The fields that billing needs, with the most characters that each may have."""
CURRENCIES: Final = ("USD", "EUR", "INR")
RECYCLE_DAYS: Final = range(1, 91)
MAX_NAME: Final = 100
_INT64_MAX: Final = (1 << 63) - 1
_QUOTAS: Final = ("quota_stored_bytes", "quota_snapshots", "quota_running_jobs")


class Unchanged(Enum):
    """Says that something is to stay as it is, where None would mean that there is no limit."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
Limit = int | None | Unchanged


def create(
    tx: Tx,
    *,
    name: str,
    region_id: str,
    is_operator: bool = False,
    prepaid: bool = False,
    now: datetime,
) -> Account:
    """A new account without members, made by Holdfast itself."""
    account = _made(
        tx, name=name, region_id=region_id, is_operator=is_operator, prepaid=prepaid, now=now
    )
    _record_created(tx, system(account.id), account, now=now)
    return account


def create_as(
    tx: Tx,
    who: Principal,
    *,
    name: str,
    region_id: str,
    prepaid: bool = False,
    owner_email: str | None = None,
    owner_password: str | None = None,
    now: datetime,
) -> Account:
    """A new account, made by an operator, with its first owner where one is named."""
    who.require_operator()
    account = _made(tx, name=name, region_id=region_id, is_operator=False, prepaid=prepaid, now=now)
    there = replace(who, account_id=account.id)  # so that the account can read who made it
    _record_created(tx, there, account, now=now)
    audit.record(tx, who, "account.create", "account", account.id, now=now)
    if owner_email is not None:
        members.add(
            tx,
            system(account.id),
            email=owner_email,
            role="owner",
            password=owner_password,
            now=now,
        )
    return account


def get(tx: Tx, who: Principal) -> Account:
    """The account of the one who asks."""
    return tx.get_one(Account, who.account_id)


def accounts(tx: Tx, who: Principal, *, cursor: str | None, limit: int) -> Page[Account]:
    """All accounts, newest first; operators only."""
    who.require_operator()
    order: list[Order] = [Account.created_at.desc(), Account.id.desc()]
    return page(tx, select(Account), order=order, cursor=cursor, limit=limit)


def missing_profile_fields(account: Account) -> list[str]:
    """The fields that billing needs and the profile lacks, in the order of `PROFILE_FIELDS`."""
    return [name for name in PROFILE_FIELDS if not account.profile.get(name)]


def edit_profile(
    tx: Tx, who: Principal, changes: Mapping[str, str | None], *, now: datetime
) -> Account:
    """Change fields of the profile; None or an empty text removes one.

    The currency stays once something was booked in it.
    """
    who.require_everywhere(Right.ADMINISTER)
    account = _locked(tx, who.account_id)
    before = dict(account.profile)
    after = dict(before)
    for name, value in changes.items():
        text = _profile_value(name, value)
        if text is None:
            after.pop(name, None)
        else:
            after[name] = text
    booked = before.get("currency") or DEFAULT_CURRENCY
    if booked != (after.get("currency") or DEFAULT_CURRENCY) and _has_ledger(tx, account):
        raise InUse(
            f"The account's ledger is kept in {booked}, so its currency stays; ask the operator "
            "for another account."
        )
    account.profile = after
    audit.record(
        tx, who, "account.profile", "account", account.id, now=now, before=before, after=after
    )
    return account


def edit_settings(
    tx: Tx,
    who: Principal,
    *,
    name: str | None = None,
    recycle_days: int | None = None,
    low_credit_micro: int | None = None,
    now: datetime,
) -> Account:
    """Change what an account decides for itself; None leaves as it is.

    `recycle_days`: how long something deleted can be recovered; what is deleted already
    keeps its date.
    """
    who.require_everywhere(Right.ADMINISTER)
    account = _locked(tx, who.account_id)
    names = ("name", "recycle_days", "low_credit_micro")
    before = audit.state_of(account, *names)
    if name is not None:
        account.name = _name(name)
    if recycle_days is not None:
        if recycle_days not in RECYCLE_DAYS:
            raise UsageError(
                f"Deleted things can be kept for {RECYCLE_DAYS[0]} to {RECYCLE_DAYS[-1]} days."
            )
        account.recycle_days = recycle_days
    if low_credit_micro is not None:
        if not 0 <= low_credit_micro <= _INT64_MAX:
            raise UsageError("The credit at which to warn is an amount that is not negative.")
        account.low_credit_micro = low_credit_micro
    after = audit.state_of(account, *names)
    audit.record(
        tx, who, "account.settings", "account", account.id, now=now, before=before, after=after
    )
    return account


def set_quotas(
    tx: Tx,
    who: Principal,
    account_id: str,
    *,
    stored_bytes: Limit = UNCHANGED,
    snapshots: Limit = UNCHANGED,
    running_jobs: Limit = UNCHANGED,
    prepaid: bool | None = None,
    now: datetime,
) -> Account:
    """Set limits of any account, None for no limit; operators only."""
    who.require_operator()
    account = _locked(tx, account_id)
    before = audit.state_of(account, *_QUOTAS, "prepaid")
    for name, value in zip(_QUOTAS, (stored_bytes, snapshots, running_jobs), strict=True):
        if isinstance(value, Unchanged):
            continue
        if value is not None and not 0 <= value <= _INT64_MAX:
            raise UsageError(f"The limit {name} is a whole number that is not negative, or null.")
        setattr(account, name, value)
    if prepaid is not None:
        account.prepaid = prepaid
    after = audit.state_of(account, *_QUOTAS, "prepaid")
    for actor in {who.account_id: who, account.id: replace(who, account_id=account.id)}.values():
        audit.record(
            tx, actor, "account.quotas", "account", account.id, now=now, before=before, after=after
        )
    return account


def _made(
    tx: Tx, *, name: str, region_id: str, is_operator: bool, prepaid: bool, now: datetime
) -> Account:
    if tx.get(Region, region_id) is None:
        raise NotFound(f"There is no region {region_id}.")
    account = Account(
        name=_name(name),
        region_id=region_id,
        is_operator=is_operator,
        prepaid=prepaid,
        created_at=now,
    )
    tx.add(account)
    tx.flush()
    return account


def _record_created(tx: Tx, who: Principal, account: Account, *, now: datetime) -> None:
    after = audit.state_of(account, "name", "region_id", "is_operator", "prepaid")
    audit.record(tx, who, "account.create", "account", account.id, now=now, after=after)


def _locked(tx: Tx, account_id: str) -> Account:
    # NO KEY UPDATE: rows that refer to the account can be made meanwhile.
    account = tx.get(
        Account, account_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if account is None:
        raise NotFound(f"There is no account {account_id}.")
    return account


def _has_ledger(tx: Tx, account: Account) -> bool:
    booked = select(LedgerEntry.id).where(LedgerEntry.account_id == account.id).limit(1)
    return tx.scalar(booked) is not None


def _name(name: str) -> str:
    text = name.strip()
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise UsageError(f"An account needs a name of 1 to {MAX_NAME} printable characters.")
    return text


def _profile_value(name: str, value: str | None) -> str | None:
    longest = PROFILE_FIELDS.get(name)
    if longest is None:
        raise UsageError(f"A profile has no {name!r}; it has {', '.join(PROFILE_FIELDS)}.")
    text = (value or "").strip()
    if not text:
        return None
    if len(text) > longest or not all(each.isprintable() or each == "\n" for each in text):
        raise UsageError(f"The profile's {name} has at most {longest} printable characters.")
    if name == "currency" and text not in CURRENCIES:
        raise UsageError(f"The currency is one of {', '.join(CURRENCIES)}.")
    if name == "country" and not re.fullmatch("[A-Z]{2}", text):
        raise UsageError("The country is written with two letters as in ISO 3166, such as DE.")
    return users.address_of(text) if name == "email" else text
