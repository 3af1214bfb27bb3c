"""The ledger: every charge and credit of an account, and the balance that is their sum.

Lines are only ever added. The account's balance changes in the same transaction, under the
lock of the account's row, which every act of money takes before any other lock. So the
balance is the sum of the lines at every instant, and two who charge wait for each other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from sqlalchemy import func, literal_column, select

from holdfast.control import amounts, audit, paging
from holdfast.control.database import Tx
from holdfast.control.paging import DEFAULT_LIMIT, Page
from holdfast.control.prices import currency_of
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Account, LedgerEntry
from holdfast.control.unindexed import unindexed
from holdfast.errors import NotFound, UsageError

HOURLY: Final = "hourly"
ONCE: Final = "once"
CREDIT: Final = "credit"
CORRECTION: Final = "correction"
CHARGES: Final = (HOURLY, ONCE)

# The word itself and not a parameter: only then is the index of these lines used.
IS_ONCE: Final = LedgerEntry.kind == literal_column("'once'")


def hour_of(instant: datetime) -> datetime:
    """The beginning of the hour (of UTC) that an instant lies in."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_from(instant: datetime) -> datetime:
    """The first hour that begins at an instant or after it."""
    hour = hour_of(instant)
    return hour if hour == instant else hour + timedelta(hours=1)


def lock_account(tx: Tx, account_id: str) -> Account:
    """The account as it is now; nobody else changes its money until the transaction ends."""
    tx.flush()
    found = (
        select(Account)
        .where(Account.id == account_id)
        # Not the row's key: others go on to insert rows that refer to the account.
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    account = tx.scalars(found).one_or_none()
    if account is None:
        raise NotFound(f"There is no account {account_id}.")
    return account


def balance_femto(account: Account) -> int:
    """The balance, exactly."""
    return amounts.joined(account.balance_micro, account.balance_rest_femto)


def balance(account: Account) -> Decimal:
    """The balance in the account's currency, with all its decimals."""
    return amounts.decimal_of(balance_femto(account))


def add(tx: Tx, account: Account, entry: LedgerEntry) -> LedgerEntry:
    """Write one line and the balance with it; the account must be locked."""
    tx.add(entry)
    account.balance_micro, account.balance_rest_femto = amounts.split(
        balance_femto(account) + entry.amount_femto
    )
    tx.flush()
    return entry


def credit(
    tx: Tx, who: Principal, account_id: str, amount: Decimal, *, note: str, now: datetime
) -> LedgerEntry:
    """Put credit into an account, or (less than 0) take back what was put in by mistake."""
    who.require_operator()
    femto = amounts.femto_of(amount)
    if not femto:
        raise UsageError("Credit of 0 changes nothing; give an amount.")
    account = lock_account(tx, account_id)
    before = amounts.exact(balance_femto(account))
    micro, rest = amounts.split(femto)
    entry = LedgerEntry(
        account_id=account_id,
        at=now,
        hour=hour_of(now),
        kind=CREDIT if femto > 0 else CORRECTION,
        currency=currency_of(account),
        amount_micro=micro,
        amount_rest_femto=rest,
        note=note,
    )
    add(tx, account, entry)
    after = {"balance": amounts.exact(balance_femto(account)), "note": note}
    # In both accounts' logs: the one who gave it, and the one who has it.
    for actor in {who.account_id: who, account_id: replace(who, account_id=account_id)}.values():
        audit.record(
            tx,
            actor,
            "account.credited",
            "account",
            account_id,
            now=now,
            before={"balance": before},
            after=after,
        )
    return entry


def entries(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    kind: str | None = None,
    resource_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Page[LedgerEntry]:
    """An account's lines, of the latest hour first; `since` and `until` are about hours."""
    who.require(Right.READ)
    if resource_id is None:
        found = select(LedgerEntry).where(LedgerEntry.account_id == who.account_id)
    else:
        found = select(LedgerEntry).where(
            LedgerEntry.resource_id == resource_id,
            unindexed(LedgerEntry.account_id) == who.account_id,
        )
    sieve = [] if kind is None else [LedgerEntry.kind == kind]
    if since is not None:
        found = found.where(LedgerEntry.hour >= since)
    if until is not None:
        found = found.where(LedgerEntry.hour < until)
    order = (LedgerEntry.hour.desc(), LedgerEntry.id.desc())
    return paging.page(tx, found, order=order, cursor=cursor, limit=limit, sieve=sieve)


def sum_femto(tx: Tx, account_id: str) -> int:
    """The sum of all lines of an account, counted anew: what the balance must be."""
    micro, rest = tx.execute(
        select(func.sum(LedgerEntry.amount_micro), func.sum(LedgerEntry.amount_rest_femto)).where(
            LedgerEntry.account_id == account_id
        )
    ).one()
    return amounts.joined(int(micro or 0), int(rest or 0))


def is_empty(tx: Tx, account_id: str) -> bool:
    """Whether an account has no line yet; only then may its currency be changed."""
    found = select(LedgerEntry.id).where(LedgerEntry.account_id == account_id).limit(1)
    return tx.scalars(found).first() is None
