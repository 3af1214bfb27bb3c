"""Metering: what stands costs by the hour, and each hour of each thing is booked once.

An hour is one of the clock, in UTC. It costs what the thing's quantity is at the hour's
beginning, at the price valid then; what comes later in the hour counts from the next one.
So every hour of a thing has one quantity, however often it changed, and it does not matter
when the booking is done. An hour without a price is booked as 0.

What makes it exactly once: a meter says until when it is booked, and moves on in the
transaction that writes the lines, under the lock of the account's row; and (resource, what,
region, hour) is unique in the ledger. A thing that is stored in two regions has a meter in
each. All arithmetic is whole numbers, within 64 bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import insert, select, update

from holdfast.control import amounts
from holdfast.control.amounts import LARGEST_QUANTITY_BYTES
from holdfast.control.booking import book_oldest
from holdfast.control.database import Tx
from holdfast.control.ledger import IS_ONCE, ONCE, add, hour_from, hour_of, lock_account
from holdfast.control.prices import currency_of, price_at
from holdfast.control.tables import Account, Drill, LedgerEntry, Meter, Restore, Snapshot, Source
from holdfast.errors import UsageError

DEFAULT_LIMIT_HOURS: Final = 168
_ACCOUNTS_AT_ONCE: Final = 500


def set_quantity(
    tx: Tx,
    *,
    account_id: str,
    region_id: str,
    what: str,
    resource_kind: str,
    resource_id: str,
    quantity_bytes: int,
    now: datetime,
) -> None:
    """From `now` on there is so much of a thing in a region; 0 ends its costs there."""
    set_quantities(
        tx,
        account_id=account_id,
        region_id=region_id,
        what=what,
        resource_kind=resource_kind,
        quantities={resource_id: quantity_bytes},
        now=now,
    )


def set_quantities(
    tx: Tx,
    *,
    account_id: str,
    region_id: str,
    what: str,
    resource_kind: str,
    quantities: Mapping[str, int],
    now: datetime,
) -> None:
    """The same for many things of an account, in bytes by their ids."""
    for each in quantities.values():
        _check(each)
    lock_account(tx, account_id)
    found = select(
        Meter.id, Meter.resource_id, Meter.quantity_bytes, Meter.since, Meter.booked_until
    ).where(
        Meter.resource_id.in_(quantities),
        Meter.what == what,
        Meter.region_id == region_id,
        Meter.until.is_(None),
    )
    opened = {
        each: _Opening(now, hour_from(now)) for each, quantity in quantities.items() if quantity
    }
    closed = []
    behind: dict[datetime, list[str]] = defaultdict(list)
    for meter in tx.execute(found):
        wanted = quantities[meter.resource_id]
        if meter.quantity_bytes == wanted:
            del opened[meter.resource_id]
            continue
        # Another replica's clock may be ahead; a thing's own time never goes back.
        since = max(now, meter.since)
        due = hour_from(since)
        if meter.booked_until < due:
            behind[due].append(meter.id)
        if wanted:
            opened[meter.resource_id] = _Opening(since, max(due, meter.booked_until))
        closed.append({"id": meter.id, "until": since})
    for due, meter_ids in behind.items():
        while book_oldest(
            tx, [account_id], end=due, limit_hours=DEFAULT_LIMIT_HOURS, meter_ids=meter_ids
        ):
            pass
    if closed:  # before the next ones open: of a thing one is open in a region
        tx.execute(update(Meter), closed)
    if opened:
        tx.execute(
            insert(Meter),
            [
                {
                    "account_id": account_id,
                    "region_id": region_id,
                    "what": what,
                    "resource_kind": resource_kind,
                    "resource_id": each,
                    "quantity_bytes": quantities[each],
                    "since": opening.since,
                    "booked_until": opening.booked_until,
                }
                for each, opening in opened.items()
            ],
        )


class _Opening(NamedTuple):
    """From when a new meter counts, and until when its thing is booked already."""

    since: datetime
    booked_until: datetime


def book_hours(tx: Tx, *, now: datetime, limit_hours: int = DEFAULT_LIMIT_HOURS) -> int:
    """Book hours that have ended and are not booked; returns the number of lines.

    One call takes up to `limit_hours` hours, the oldest, so that a long gap does not become
    one long transaction. Call it again, in another one, until it returns 0.
    """
    end = hour_of(now)
    behind = select(Meter.account_id).where(Meter.until.is_(None), Meter.booked_until < end)
    behind = behind.distinct().order_by(Meter.account_id)
    lines = 0
    for account_ids in _batches(list(tx.scalars(behind))):
        # In one order, so that two who book wait for each other and never in a circle.
        locked = select(Account.id).where(Account.id.in_(account_ids)).order_by(Account.id)
        tx.execute(locked.with_for_update(key_share=True))
        lines += book_oldest(tx, account_ids, end=end, limit_hours=limit_hours)
    return lines


def book_once(
    tx: Tx,
    *,
    account_id: str,
    region_id: str,
    what: str,
    resource_kind: str,
    resource_id: str,
    quantity_bytes: int,
    at: datetime,
) -> LedgerEntry | None:
    """Book a transfer, at the price of its time; again for the same resource does nothing.

    So `resource_id` is the run's: a snapshot's or a restore's. Returns the line, the first
    one when it was booked before, or None for nothing transferred.
    """
    _check(quantity_bytes)
    if not quantity_bytes:
        return None
    account = lock_account(tx, account_id)
    found = select(LedgerEntry).where(
        LedgerEntry.resource_id == resource_id, LedgerEntry.what == what, IS_ONCE
    )
    before = tx.scalars(found).first()
    if before is not None:
        return before
    currency = currency_of(account)
    price = price_at(tx, what, region_id, currency, at)
    quantity_mb = amounts.megabytes(quantity_bytes)
    micro, rest = amounts.split(-(price.rate_femto if price else 0) * quantity_mb)
    entry = LedgerEntry(
        account_id=account_id,
        at=at,
        hour=hour_of(at),
        kind=ONCE,
        what=what,
        resource_kind=resource_kind,
        resource_id=resource_id,
        region_id=region_id,
        quantity_mb=quantity_mb,
        price_id=price.id if price else None,
        currency=currency,
        amount_micro=micro,
        amount_rest_femto=rest,
        labels=_labels_of(tx, resource_kind, resource_id),
    )
    return add(tx, account, entry)


def _check(quantity_bytes: int) -> None:
    if not 0 <= quantity_bytes <= LARGEST_QUANTITY_BYTES:
        raise UsageError(
            f"{quantity_bytes} bytes cannot be billed; it must be 0 to {LARGEST_QUANTITY_BYTES}."
        )


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), _ACCOUNTS_AT_ONCE):
        yield ids[first : first + _ACCOUNTS_AT_ONCE]


def _labels_of(tx: Tx, resource_kind: str, resource_id: str) -> dict[str, Any]:
    """The labels of the source that a run was of."""
    found = select(Source.labels)
    if resource_kind == "snapshot":
        found = found.join(Snapshot, Snapshot.source_id == Source.id)
        found = found.where(Snapshot.id == resource_id)
    elif resource_kind == "restore":
        found = found.join(Snapshot, Snapshot.source_id == Source.id)
        found = found.join(Restore, Restore.snapshot_id == Snapshot.id)
        found = found.where(Restore.id == resource_id)
    elif resource_kind == "drill":
        found = found.join(Snapshot, Snapshot.source_id == Source.id)
        found = found.join(Drill, Drill.snapshot_id == Snapshot.id)
        found = found.where(Drill.id == resource_id)
    else:
        found = found.where(Source.id == resource_id)
    return dict(tx.scalars(found).first() or {})
