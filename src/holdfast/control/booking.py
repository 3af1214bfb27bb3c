"""Booking: hours of meters become lines of the ledger, all of them in one statement.

It is plain SQL of whole numbers that both databases understand, and is composed once: a
thousand meters take milliseconds. The caller has locked the accounts. Invariant: lines, the
balances that they change and how far the meters are booked are written together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from holdfast.control.amounts import BYTES_PER_MB, FEMTO_PER_MICRO
from holdfast.control.database import Tx
from holdfast.control.ledger import HOURLY
from holdfast.control.prices import DEFAULT_CURRENCY
from holdfast.control.tables import Account, LedgerEntry, Meter, Price, Source
from holdfast.control.tables.base import Document, UtcTime

HOUR: Final = timedelta(hours=1)

_ACCOUNTS: Final = cast("Table", Account.__table__)
_LEDGER: Final = cast("Table", LedgerEntry.__table__)
_METERS: Final = cast("Table", Meter.__table__)
_PRICES: Final = cast("Table", Price.__table__)
_SOURCES: Final = cast("Table", Source.__table__)

_accounts, _ledger, _meters = _ACCOUNTS.c, _LEDGER.c, _METERS.c

_IDS: Final[BindParameter[Any]] = bindparam("account_ids", expanding=True)
_BEHIND: Final = and_(
    _meters.until.is_(None), _meters.booked_until < bindparam("end", type_=UtcTime)
)
_LAST_ID: Final = select(func.max(_ledger.id))

# The empty text keeps the databases from going by account, through the whole ledger.
_ACCOUNT_ID: Final = _ledger.account_id + ""
_SUMS: Final = (
    select(
        _ACCOUNT_ID,
        func.count(),
        func.sum(_ledger.amount_micro),
        func.sum(_ledger.amount_rest_femto),
    )
    .where(_ledger.id > bindparam("last"), _ACCOUNT_ID.in_(_IDS))
    .group_by(_ACCOUNT_ID)
)
_REST: Final = _accounts.balance_rest_femto + bindparam("rest", type_=BigInteger)
_CHARGE: Final = (
    update(_ACCOUNTS)
    .where(_accounts.id == bindparam("account_id"))
    .values(
        balance_micro=_accounts.balance_micro
        + bindparam("micro", type_=BigInteger)
        + _REST // FEMTO_PER_MICRO,
        balance_rest_femto=_REST % FEMTO_PER_MICRO,
    )
)


def book_oldest(
    tx: Tx,
    account_ids: Sequence[str],
    *,
    end: datetime,
    limit_hours: int,
    meter_ids: Sequence[str] | None = None,
) -> int:
    """Book the oldest hours before `end` of locked accounts' meters, or of some of them.

    At most `limit_hours` of each meter; returns the number of lines, 0 when all is booked.
    """
    tx.flush()
    connection = tx.connection()
    which: dict[str, Any] = {"account_ids": list(account_ids)}
    if meter_ids is not None:
        which["meter_ids"] = list(meter_ids)
    lines = 0
    while not lines:
        start: datetime | None = connection.execute(
            _oldest(some=meter_ids is not None), {**which, "end": end}
        ).scalar_one()
        if start is None:
            break
        number = min(limit_hours, (end - start) // HOUR)
        lines = _book(tx, which, [start + HOUR * each for each in range(number)])
    return lines


def _book(tx: Tx, which: dict[str, Any], hours: Sequence[datetime]) -> int:
    connection = tx.connection()
    some = "meter_ids" in which
    moved = {**which, "end": hours[-1] + HOUR}
    last = connection.execute(_LAST_ID).scalar_one() or 0
    connection.execute(
        _lines(len(hours), some=some, dialect=connection.dialect.name),
        {**moved, **{f"hour_{number}": hour for number, hour in enumerate(hours)}},
    )
    connection.execute(_moved_on(some=some), moved)
    # The accounts are locked, so what is new of them in the ledger is what was just written.
    sums = connection.execute(_SUMS, {"last": last, "account_ids": which["account_ids"]}).all()
    if sums:
        charges = [
            {"account_id": each, "micro": int(micro), "rest": int(rest)}
            for each, _, micro, rest in sums
        ]
        connection.execute(_CHARGE, charges)
    for row in list(tx.identity_map.values()):
        if isinstance(row, Account):
            tx.refresh(row, ["balance_micro", "balance_rest_femto"])
        elif isinstance(row, Meter):
            tx.refresh(row, ["booked_until"])
    return sum(number for _, number, _, _ in sums)


def _which(*, some: bool) -> ColumnElement[bool]:
    if some:
        return (
            _BEHIND
            & (_meters.id.in_(bindparam("meter_ids", expanding=True)))
            & _meters.account_id.in_(_IDS)
        )
    return _BEHIND & _meters.account_id.in_(_IDS)


@lru_cache
def _oldest(*, some: bool) -> Select[Any]:
    return select(func.min(_meters.booked_until)).where(_which(some=some))


@lru_cache
def _moved_on(*, some: bool) -> Any:
    moved = bindparam("end", type_=UtcTime)
    return update(_METERS).where(_which(some=some)).values(booked_until=moved)


@lru_cache(maxsize=512)
def _lines(hours: int, *, some: bool, dialect: str) -> Insert:
    """The statement that writes the lines of so many hours (`hour_0` ...) before `end`."""
    lines = _due(hours, some=some)
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    written = insert(_LEDGER).from_select(
        list(lines.selected_columns.keys()), lines, include_defaults=False
    )
    # A clock that went back over a pause may ask for an hour that is booked.
    return written.on_conflict_do_nothing()


def _due(hours: int, *, some: bool) -> Select[Any]:
    # Not VALUES, which SQLAlchemy would compile anew every time.
    first, *others = (
        select(bindparam(f"hour_{number}", type_=UtcTime).label("hour")) for number in range(hours)
    )
    hour = (union_all(first, *others) if others else first).cte("hour")
    meter, price = _meter(some=some), _price()
    rate = func.coalesce(price.rate_femto, 0)
    # The rate in two parts, too: their products with a quantity stay within 64 bits.
    small = (rate % FEMTO_PER_MICRO) * meter.quantity_mb
    micro = (rate // FEMTO_PER_MICRO) * meter.quantity_mb + small // FEMTO_PER_MICRO
    rest = small % FEMTO_PER_MICRO
    return (
        select(
            meter.account_id,
            bindparam("end", type_=UtcTime).label("at"),
            literal(HOURLY).label("kind"),
            meter.what,
            meter.resource_kind,
            meter.resource_id,
            meter.region_id,
            hour.c.hour,
            meter.quantity_mb,
            price.id.label("price_id"),
            meter.currency,
            # A charge is negative, and its rest counts upwards from the micro below it.
            (-micro - case((rest > 0, 1), else_=0)).label("amount_micro"),
            case((rest > 0, FEMTO_PER_MICRO - rest), else_=0).label("amount_rest_femto"),
            literal("").label("note"),
            meter.labels,
        )
        .join_from(meter.what.table, hour, hour.c.hour >= meter.booked_until)
        .outerjoin(
            price.id.table,
            and_(
                price.what == meter.what,
                price.region_id == meter.region_id,
                price.currency == meter.currency,
                price.valid_from <= hour.c.hour,
                or_(price.valid_until.is_(None), price.valid_until > hour.c.hour),
            ),
        )
        .where(literal(1) == 1)  # without it SQLite takes ON CONFLICT for a join's ON
    )


def _meter(*, some: bool) -> Any:
    """Meters that are behind, with what their lines need of accounts and sources."""
    stated = func.nullif(_accounts.profile["currency"].as_string(), "")
    return (
        select(
            _meters.account_id,
            _meters.region_id,
            _meters.what,
            _meters.resource_kind,
            _meters.resource_id,
            _meters.booked_until,
            ((_meters.quantity_bytes + BYTES_PER_MB // 2) // BYTES_PER_MB).label("quantity_mb"),
            func.coalesce(stated, DEFAULT_CURRENCY).label("currency"),
            func.coalesce(_SOURCES.c.labels, literal({}, Document)).label("labels"),
        )
        .join_from(_METERS, _ACCOUNTS, _accounts.id == _meters.account_id)
        .outerjoin(_SOURCES, _SOURCES.c.id == _meters.resource_id)
        .where(_which(some=some))
        .cte("meter")
        .prefix_with("MATERIALIZED")  # once for all hours
        .c
    )


def _price() -> Any:
    """Prices, each with the time until which it is valid."""
    thing = (_PRICES.c.what, _PRICES.c.region_id, _PRICES.c.currency)
    following = func.lead(_PRICES.c.valid_from).over(
        partition_by=thing, order_by=_PRICES.c.valid_from
    )
    return (
        select(
            _PRICES.c.id,
            *thing,
            _PRICES.c.rate_femto,
            _PRICES.c.valid_from,
            following.label("valid_until"),
        )
        .cte("price")
        .c
    )
