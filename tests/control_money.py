"""What tests of money share: prices, meters and an account's books, in few words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from control_world import World
from sqlalchemy import select

from holdfast.control import ledger, metering, prices
from holdfast.control.tables import Account, LedgerEntry, Source


def set_price(
    world: World,
    rate: str,
    *,
    what: str = "stored",
    unit: str = "GB-hour",
    currency: str = "EUR",
    region_id: str | None = None,
    valid_from: datetime | None = None,
) -> None:
    with world.database.write() as tx:
        prices.set_price(
            tx,
            what=what,
            region_id=region_id or world.region.id,
            currency=currency,
            rate=Decimal(rate),
            unit=unit,
            valid_from=valid_from or world.now,
            origin="test",
            now=world.now,
        )


def store(world: World, source: Source | str, quantity_bytes: int, what: str = "stored") -> None:
    """From now on so much is stored of a source of the first account."""
    with world.database.write() as tx:
        metering.set_quantity(
            tx,
            account_id=source.account_id if isinstance(source, Source) else world.account.id,
            region_id=world.region.id,
            what=what,
            resource_kind="source",
            resource_id=source.id if isinstance(source, Source) else source,
            quantity_bytes=quantity_bytes,
            now=world.now,
        )


def transfer(
    world: World,
    resource_kind: str,
    resource_id: str,
    quantity_bytes: int,
    *,
    what: str = "uploaded",
) -> LedgerEntry | None:
    with world.database.write() as tx:
        return metering.book_once(
            tx,
            account_id=world.account.id,
            region_id=world.region.id,
            what=what,
            resource_kind=resource_kind,
            resource_id=resource_id,
            quantity_bytes=quantity_bytes,
            at=world.now,
        )


def book(world: World, **options: int) -> int:
    """Book all that is due; returns the number of lines."""
    total = 0
    while True:
        with world.database.write() as tx:
            done = metering.book_hours(tx, now=world.now, **options)
        if not done:
            return total
        total += done


def give_credit(world: World, amount: str, account: Account | None = None) -> LedgerEntry:
    with world.database.write() as tx:
        account_id = (account or world.account).id
        return ledger.credit(
            tx, world.operator(), account_id, Decimal(amount), note="test", now=world.now
        )


def lines(world: World, account: Account | None = None) -> Sequence[LedgerEntry]:
    """An account's ledger; its balance is checked to be the sum."""
    account_id = (account or world.account).id
    with world.database.read() as tx:
        rows = tx.scalars(
            select(LedgerEntry)
            .where(LedgerEntry.account_id == account_id)
            .order_by(LedgerEntry.hour, LedgerEntry.id)
        ).all()
        balance = ledger.balance_femto(tx.get_one(Account, account_id))
        assert balance == sum(each.amount_femto for each in rows)
        assert balance == ledger.sum_femto(tx, account_id)
    return rows


def hours(world: World, account: Account | None = None) -> list[tuple[int, int]]:
    """The hourly lines as hours since the world's beginning, and MB."""
    begin = world.account.created_at.replace(minute=0, second=0, microsecond=0)
    return [
        (int((each.hour - begin).total_seconds()) // 3600, each.quantity_mb)
        for each in lines(world, account)
        if each.kind == ledger.HOURLY and each.hour is not None
    ]
