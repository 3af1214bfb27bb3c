"""Prices: what a MB costs, in which region and currency, from when on.

A price is never taken back and never reaches into the past: hours that have been booked
keep the price that they were booked with, and a price list that is read later is valid
from the moment of its reading. The price of an hour is the one valid at its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import aliased

from holdfast.control import audit
from holdfast.control.amounts import FEMTO_PER_UNIT, LARGEST_RATE_FEMTO
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Account, Price, Region
from holdfast.errors import Conflict, NotFound, UsageError

STORED: Final = "stored"
UPLOADED: Final = "uploaded"
DOWNLOADED: Final = "downloaded"
WHAT: Final = (STORED, UPLOADED, DOWNLOADED)

HOURS_PER_MONTH: Final = 730
DOCUMENT_FORMAT: Final = "holdfast-prices-1"
ANY_REGION: Final = "*"
DEFAULT_CURRENCY: Final = "USD"

# What large object stores publish, rounded. An operator's own price list takes their place.
DEFAULT_PRICES: Final[dict[str, Any]] = {
    "format": DOCUMENT_FORMAT,
    "prices": [
        {"what": what, "region": ANY_REGION, "currency": currency, "rate": rate, "unit": unit}
        for currency, stored, downloaded in (
            ("USD", "0.023", "0.09"),
            ("EUR", "0.021", "0.08"),
            ("INR", "2.00", "7.80"),
        )
        for what, rate, unit in (
            (STORED, stored, "GB-month"),
            (UPLOADED, "0", "GB"),
            (DOWNLOADED, downloaded, "GB"),
        )
    ],
}

_UNIT = re.compile(r"([KMGTP]?)(i?)B(?:-(hour|day|month))?")
_UNITS_ACCEPTED = "write MB, GB, TB, MiB, GiB or TiB, for storage with -hour, -day or -month"
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_HOURS: Final = {"hour": 1, "day": 24, "month": HOURS_PER_MONTH}
_CURRENCY = re.compile(r"[A-Z]{3}")
_LONGEST_RATE: Final = 40


def currency_of(account: Account) -> str:
    """What an account is billed in."""
    return str(account.profile.get("currency") or DEFAULT_CURRENCY)


def rate_femto(what: str, rate: Decimal, unit: str) -> int:
    """A published rate as femto for each MB, or for each MB and hour; half to even.

    This is the rate that is billed. Where a unit does not divide evenly (a month has 730
    hours), it is off by at most half a femto: under a thousandth of a unit for 1 PB and month.
    """
    found = _UNIT.fullmatch(unit)
    if found is None or (found[2] and not found[1]):
        raise UsageError(f"{unit!r} is no unit of a price: {_UNITS_ACCEPTED}.")
    if (what == STORED) != bool(found[3]):
        told = "goes by time" if what == STORED else "does not go by time"
        raise UsageError(f"The unit {unit!r} is not for {what!r}, which {told}: {_UNITS_ACCEPTED}.")
    if not rate.is_finite() or rate < 0 or len(format(rate, "f")) > _LONGEST_RATE:
        raise UsageError(f"{rate} is no rate; give a number from 0 up with a few decimals.")
    unit_bytes = int((1024 if found[2] else 1000) ** _POWERS[found[1]])
    hours = _HOURS[found[3]] if found[3] else 1
    femto = round(Fraction(rate) * FEMTO_PER_UNIT * 1_000_000 / unit_bytes / hours)
    if femto > LARGEST_RATE_FEMTO:
        raise UsageError(f"{rate} for each {unit} is more than 10 for each MB; check the unit.")
    if rate and not femto:
        raise UsageError(f"{rate} for each {unit} is too little to be billed; give 0 or more.")
    return femto


def set_price(
    tx: Tx,
    *,
    what: str,
    region_id: str,
    currency: str,
    rate: Decimal,
    unit: str,
    valid_from: datetime,
    origin: str,
    now: datetime,
    who: Principal | None = None,
) -> Price:
    """Add a price; the same again is found, and one that was not valid before is corrected.

    A `valid_from` in the past matters only for hours that have not been booked. `who` is the
    operator, for the audit log; None for a price list, which is the price's `origin`.
    """
    if who is not None:
        who.require_operator()
    _check_names(what, currency)
    femto = rate_femto(what, rate, unit)
    # The region's row is the lock under which its prices change.
    region = tx.get(Region, region_id, with_for_update={"key_share": True})
    if region is None:
        raise NotFound(f"There is no region {region_id}; list the regions for their ids.")
    same = [
        Price.what == what,
        Price.region_id == region_id,
        Price.currency == currency,
        Price.valid_from == valid_from,
    ]
    price = tx.scalars(select(Price).where(*same)).one_or_none()
    before = None if price is None else _record(price)
    if price is None:
        price = Price(what=what, region_id=region_id, currency=currency, valid_from=valid_from)
        tx.add(price)
    elif (price.rate_femto, price.unit) == (femto, unit):
        return price
    elif valid_from < now:
        raise Conflict(
            f"A price for {what} in {region.name} from {valid_from.isoformat()} is there already "
            "and may have been billed; set the new one from a later time."
        )
    price.rate = format(rate, "f")
    price.unit = unit
    price.rate_femto = femto
    price.origin = origin
    price.created_at = now
    tx.flush()
    if who is not None:
        after = _record(price)
        audit.record(tx, who, "price.set", "price", price.id, now=now, before=before, after=after)
    return price


def price_at(tx: Tx, what: str, region_id: str, currency: str, at: datetime) -> Price | None:
    """The price that is valid at an instant."""
    found = (
        select(Price)
        .where(
            Price.what == what,
            Price.region_id == region_id,
            Price.currency == currency,
            Price.valid_from <= at,
        )
        .order_by(Price.valid_from.desc())
        .limit(1)
    )
    return tx.scalars(found).one_or_none()


def prices(tx: Tx, who: Principal, *, at: datetime | None = None) -> list[Price]:
    """All prices there were; with `at` those that are valid then, and those to come."""
    who.require(Right.READ)
    order = (Price.region_id, Price.what, Price.currency, Price.valid_from)
    found = select(Price).order_by(*order)
    if at is not None:
        later = aliased(Price)
        replaced = select(later.id).where(_same_thing(later), later.valid_from > Price.valid_from)
        found = found.where(
            or_(Price.valid_from > at, ~replaced.where(later.valid_from <= at).exists())
        )
    return list(tx.scalars(found))


def refresh(
    tx: Tx,
    document: Mapping[str, Any],
    *,
    origin: str,
    now: datetime,
    only_missing: bool = False,
) -> int:
    """Take over a price list; returns how many prices are new or corrected.

    What the list says is valid already is valid from `now`. Nothing is changed if any entry
    cannot be read. With `only_missing` it is for regions that have no price at all.
    """
    if document.get("format") != DOCUMENT_FORMAT or not isinstance(document.get("prices"), list):
        raise UsageError(
            f"This is no price list: it must be an object with format {DOCUMENT_FORMAT!r} and "
            "a list of prices."
        )
    found = regions_without(tx) if only_missing else list(tx.scalars(select(Region)))
    regions = {region.name: region.id for region in found}
    wanted: dict[tuple[str, str, str, datetime], tuple[bool, datetime, Decimal, str]] = {}
    for number, entry in enumerate(document["prices"], 1):
        try:
            what, region, currency, rate, unit, valid_from = _read(entry)
        except UsageError as error:
            raise UsageError(f"Entry {number} of the price list: {error.message}") from error
        named = region != ANY_REGION
        ids = [regions[region]] if region in regions else [] if named else list(regions.values())
        begins = max(valid_from or now, now)
        for region_id in ids:
            key = (what, region_id, currency, begins)
            # An entry that names the region wins over one for all, then the later one.
            rank = (named, valid_from or now, rate, unit)
            if key not in wanted or rank[:2] >= wanted[key][:2]:
                wanted[key] = rank
    changed = 0
    for (what, region_id, currency, begins), (_, _, rate, unit) in sorted(
        wanted.items(), key=lambda item: item[0][3]
    ):
        valid = price_at(tx, what, region_id, currency, begins)
        if valid and (valid.rate_femto, valid.unit) == (rate_femto(what, rate, unit), unit):
            continue
        set_price(
            tx,
            what=what,
            region_id=region_id,
            currency=currency,
            rate=rate,
            unit=unit,
            valid_from=begins,
            origin=origin,
            now=now,
        )
        changed += 1
    return changed


def regions_without(tx: Tx) -> list[Region]:
    """Regions in which nothing has a price."""
    priced = select(Price.id).where(Price.region_id == Region.id)
    return list(tx.scalars(select(Region).where(~priced.exists())))


def _read(entry: object) -> tuple[str, str, str, Decimal, str, datetime | None]:
    if not isinstance(entry, Mapping):
        raise UsageError("it is not an object.")
    what, region, currency, unit = (
        entry.get(name) for name in ("what", "region", "currency", "unit")
    )
    if not (
        isinstance(what, str)
        and isinstance(region, str)
        and isinstance(currency, str)
        and isinstance(unit, str)
    ):
        raise UsageError("what, region, currency and unit must be texts.")
    _check_names(what, currency)
    rate = _number(entry.get("rate"))
    rate_femto(what, rate, unit)
    return what, region, currency, rate, unit, _instant(entry.get("valid_from"))


def _number(value: object) -> Decimal:
    """A float is refused: it is not the number that the list was written with."""
    if isinstance(value, (str, int, Decimal)) and not isinstance(value, bool):
        try:
            return Decimal(value)
        except InvalidOperation:
            pass
    raise UsageError(f"the rate {value!r} is no number; write it as text, such as '0.023'.")


def _instant(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise UsageError(f"valid_from {value!r} is no time; write 2026-12-01T00:00:00Z.") from error
    if instant.tzinfo is None:
        raise UsageError(f"valid_from {value!r} has no time zone; end it with Z for UTC.")
    return instant.astimezone(UTC)


def _record(price: Price) -> dict[str, Any]:
    names = ("what", "region_id", "currency", "rate", "unit", "valid_from")
    return audit.state_of(price, *names)


def _check_names(what: str, currency: str) -> None:
    if what not in WHAT:
        raise UsageError(f"There is no price for {what!r}; choose one of {', '.join(WHAT)}.")
    if not _CURRENCY.fullmatch(currency):
        raise UsageError(f"{currency!r} is no currency; write three capitals, such as USD.")


def _same_thing(other: type[Price]) -> ColumnElement[bool]:
    return (
        (other.what == Price.what)
        & (other.region_id == Price.region_id)
        & (other.currency == Price.currency)
    )
