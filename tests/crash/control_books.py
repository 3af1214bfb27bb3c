"""The ledger against a calculation of its own, from what was stored and what was moved.

Fractions, one hour and one thing at a time, with the published rate and nothing of the code
that books.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

from sqlalchemy import func, select

from holdfast.control.database import Database
from holdfast.control.tables import (
    Account,
    Drill,
    Job,
    LedgerEntry,
    Meter,
    Price,
    Repository,
    Restore,
    Snapshot,
)

HOURS = {"GB-month": 730, "GB": 1}
"""By how many hours a published rate for 1,000 MB is divided."""
HOUR = timedelta(hours=1)
Run = Snapshot | Restore | Drill
Line = tuple[str, str, str, datetime | None]
"""Of what, which kind of costs, in which region, and for an hour which."""


def check_books(database: Database, *, clock_went_back: bool = False) -> None:
    """Balance and sum agree, nothing is booked twice, and every line is what it has to be.

    An hour that came twice, because the clock was put back, stays as it was booked when it
    was there first, with a quantity that the thing had then.
    """
    with database.read() as tx:
        accounts = tx.scalars(select(Account)).all()
        lines = tx.scalars(select(LedgerEntry)).all()
        meters = sorted(tx.scalars(select(Meter)), key=_by_time)
        snapshots = tx.scalars(select(Snapshot)).all()
        restores = tx.scalars(select(Restore).where(Restore.status == "COMPLETED")).all()
        # What the service tests by itself costs nothing.
        drills = tx.scalars(
            select(Drill).where(Drill.status == "COMPLETED", Drill.host_id.is_not(None))
        ).all()
        prices = tx.scalars(select(Price).order_by(Price.valid_from)).all()
        regions = {each.id: each.region_id for each in tx.scalars(select(Repository))}
        copied = {job.id: job for job in tx.scalars(select(Job).where(Job.kind == "copy"))}
        shares: dict[tuple[str, str], int] = {
            (source_id, region_id): int(total or 0)
            for source_id, region_id, total in tx.execute(
                select(Snapshot.source_id, Repository.region_id, func.sum(Snapshot.share_bytes))
                .join(Repository, Repository.id == Snapshot.repository_id)
                .where(Snapshot.manifest_id.is_not(None), Snapshot.purged_at.is_(None))
                .group_by(Snapshot.source_id, Repository.region_id)
            )
        }
    # All that is billed here is one account's.
    rates = Rates(prices, lines[-1].currency if lines else "USD")
    for account in accounts:
        its = sum(line.amount_femto for line in lines if line.account_id == account.id)
        balance = account.balance_micro * 10**9 + account.balance_rest_femto
        assert its == balance, f"the ledger has {its}, the balance is {balance}"
    booked = Counter(_line(line) for line in lines)
    assert not [key for key, times in booked.items() if times > 1], "booked twice"
    _check_meters(meters, shares)
    expected: dict[Line, Fraction] = {}
    for meter in meters:
        for hour in _hours(meter):
            cost = rates.cost("stored", meter.region_id, hour, meter.quantity_bytes)
            expected[meter.resource_id, meter.what, meter.region_id, hour] = cost

    def moved(what: str, region_id: str, row: Run, moved_bytes: int | None) -> None:
        if moved_bytes:
            assert row.finished_at is not None
            cost = rates.cost(what, region_id, row.finished_at, moved_bytes)
            expected[row.id, what, region_id, None] = cost

    places = {each.id: regions[each.repository_id] for each in snapshots}
    for snapshot in snapshots:
        if not snapshot.manifest_id:
            continue
        moved("uploaded", places[snapshot.id], snapshot, snapshot.stored_bytes)
        if snapshot.copy_of_id is not None:
            job = copied[snapshot.job_id or ""]
            read_bytes = int((job.result or {})["bytes_read"])
            moved("downloaded", job.spec["source_region_id"], snapshot, read_bytes)
    pulled: list[Restore | Drill] = [*restores, *drills]
    for each in pulled:
        moved("downloaded", places[each.snapshot_id], each, each.restored_bytes)
    found = {
        _line(line): Fraction(line.amount_femto, 10**15)
        for line in lines
        if line.kind in ("hourly", "once")
    }
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert not missing, f"not booked: {sorted(missing, key=str)[:5]}"
    assert not surplus, f"booked without a reason: {sorted(surplus, key=str)[:5]}"
    wrong = {key: (found[key], cost) for key, cost in expected.items() if found[key] != cost}
    if clock_went_back:
        for key in tuple(wrong):
            resource_id, what, region_id, begin = key
            had = [each.quantity_bytes for each in meters if each.resource_id == resource_id]
            if begin and found[key] in [rates.cost(what, region_id, begin, each) for each in had]:
                del wrong[key]
    assert not wrong, f"booked wrongly: {wrong}"


def _line(line: LedgerEntry) -> Line:
    hour = line.hour if line.kind == "hourly" else None
    return line.resource_id or "", line.what or "", line.region_id or "", hour


def _by_time(meter: Meter) -> tuple[datetime, bool, datetime]:
    """In their order, also where the clock was put back and some lasted no time."""
    return meter.since, meter.until is None, meter.until or meter.since


def _check_meters(meters: Sequence[Meter], shares: dict[tuple[str, str], int]) -> None:
    """In a region a thing has one quantity at a time, and now the one that the catalog says."""
    by_thing: dict[tuple[str, str], list[Meter]] = {}
    for meter in meters:
        by_thing.setdefault((meter.resource_id, meter.region_id), []).append(meter)
    for thing, its in by_thing.items():
        for one, other in pairwise(its):
            assert one.until is not None, f"{thing} has two meters at once"
            assert one.until <= other.since, f"{thing} has two meters at once"
    standing = {
        (each.resource_id, each.region_id): each.quantity_bytes
        for each in meters
        if each.until is None
    }
    assert standing == {thing: total for thing, total in shares.items() if total}


def _hours(meter: Meter) -> Iterator[datetime]:
    """The hours that a meter is booked for: those that begin in its time and have ended."""
    hour = meter.since.replace(minute=0, second=0, microsecond=0)
    if hour < meter.since:
        hour += HOUR
    end = meter.booked_until if meter.until is None else meter.until
    while hour < end:
        yield hour
        hour += HOUR


class Rates:
    """What was published, of which the latest that is valid counts."""

    def __init__(self, prices: Sequence[Price], currency: str) -> None:
        self._prices = [each for each in prices if each.currency == currency]

    def cost(self, what: str, region_id: str, at: datetime, quantity_bytes: int) -> Fraction:
        """What so many bytes cost for an hour, or once: a charge is negative."""
        of_it = (each for each in self._prices if (each.what, each.region_id) == (what, region_id))
        valid = [each for each in of_it if each.valid_from <= at]
        if not valid:
            return Fraction()
        with localcontext() as context:
            context.prec = 60
            exact = Decimal(valid[-1].rate) / 1000 / HOURS[valid[-1].unit]
            rate = exact.quantize(Decimal("1e-15"), ROUND_HALF_EVEN)
        whole_mb = (quantity_bytes + 500_000) // 1_000_000
        return -Fraction(rate) * whole_mb
