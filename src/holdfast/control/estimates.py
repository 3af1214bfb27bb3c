"""Estimates: what an act would cost, before it is done, and what it did cost beside it.

An estimate says on what it rests: every quantity that is not known is either taken from
what the same source did before, and the assumption is listed, or left open. It changes
nothing and promises nothing. Amounts are exact for their quantities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select

from holdfast.control import amounts, copies, scope
from holdfast.control.database import Tx
from holdfast.control.ledger import IS_ONCE, hour_from
from holdfast.control.prices import (
    DOWNLOADED,
    HOURS_PER_MONTH,
    STORED,
    UPLOADED,
    currency_of,
    price_at,
)
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import (
    Account,
    Host,
    LedgerEntry,
    Meter,
    Price,
    Repository,
    Snapshot,
    Source,
)
from holdfast.model.quantity import print_bytes
from holdfast.model.retention import RestorePoint, RetentionPolicy, decide
from holdfast.model.schedule import Schedule

RUNS_LOOKED_AT: Final = 5
LATER_PART: Final = 10
"""What a later snapshot adds while there is only one: this part of it."""

_HOUR: Final = timedelta(hours=1)
_MONTH: Final = timedelta(hours=HOURS_PER_MONTH)
_LONGEST: Final = timedelta(days=366)
_MOST_POINTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Cost:
    """One thing that is paid for. `per` is once or month; None where it is not known."""

    what: str
    region_id: str
    per: str
    quantity_bytes: int | None
    rate: str
    unit: str
    femto: int | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "region_id": self.region_id,
            "per": self.per,
            "quantity_bytes": self.quantity_bytes,
            "rate": self.rate,
            "unit": self.unit,
            "amount": None if self.femto is None else amounts.exact(self.femto),
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What something would cost: once, and for each month (of 730 hours) that it stays."""

    subject_kind: str
    subject_id: str
    currency: str
    costs: tuple[Cost, ...]
    assumptions: tuple[str, ...]

    def femto(self, per: str) -> int | None:
        """The sum of what is paid once, or each month; None when a part is not known."""
        parts = [cost.femto for cost in self.costs if cost.per == per]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def as_dict(self) -> dict[str, Any]:
        sums = {per: self.femto(per) for per in ("once", "month")}
        return {
            "subject_kind": self.subject_kind,
            "subject_id": self.subject_id,
            "currency": self.currency,
            "once": None if sums["once"] is None else amounts.exact(sums["once"]),
            "per_month": None if sums["month"] is None else amounts.exact(sums["month"]),
            "costs": [cost.as_dict() for cost in self.costs],
            "assumptions": list(self.assumptions),
        }


@dataclass(frozen=True, slots=True)
class Actual:
    """What a snapshot has cost, and what its estimate was when it was asked for.

    `stored_femto`: its present share of the repository, at the prices of the hours that
    were booked since it was there. None where it is not known.
    """

    snapshot_id: str
    currency: str
    uploaded_bytes: int | None
    uploaded_femto: int | None
    share_bytes: int | None
    stored_hours: int
    stored_femto: int | None
    estimate: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {
            "snapshot_id": self.snapshot_id,
            "currency": self.currency,
            "uploaded_bytes": self.uploaded_bytes,
            "uploaded": None if self.uploaded_femto is None else amounts.exact(self.uploaded_femto),
            "share_bytes": self.share_bytes,
            "stored_hours": self.stored_hours,
            "stored": None if self.stored_femto is None else amounts.exact(self.stored_femto),
            "estimate": self.estimate.as_dict(),
        }


def estimate_snapshot(
    tx: Tx,
    who: Principal,
    source_id: str,
    *,
    now: datetime,
    expected_bytes: int | None = None,
) -> Estimate:
    """What one more snapshot of a source would cost; `expected_bytes` where it is the first."""
    who.require(Right.READ)
    source = scope.find(tx, who, Source, source_id)
    return _of_snapshot(_Rates(tx, source, now), source, expected_bytes)


def estimate_schedule(
    tx: Tx,
    who: Principal,
    source_id: str,
    *,
    schedule: Schedule,
    policy: RetentionPolicy,
    now: datetime,
    expected_bytes: int | None = None,
    copy_region_id: str | None = None,
) -> Estimate:
    """What a schedule would cost each month, once retention removes as much as is added.

    With the region that its snapshots are copied to, what the copies cost is among it.
    """
    who.require(Right.READ)
    source = scope.find(tx, who, Source, source_id)
    rates = _Rates(tx, source, now)
    sizes = rates.sizes(expected_bytes)
    runs = len(schedule.due_between(now, now + _MONTH))
    kept = _kept(schedule, policy, now)
    rates.assume(f"a month has {HOURS_PER_MONTH} hours, in which the schedule runs {runs} times")
    rates.assume(f"retention keeps {kept} snapshots, as after a year of the schedule")
    uploaded = stored = None
    if sizes.base is not None and sizes.later is not None:
        uploaded = runs * sizes.later
        stored = sizes.base + max(kept - 1, 0) * sizes.later
    costs = [rates.cost(UPLOADED, "month", uploaded), rates.cost(STORED, "month", stored)]
    if copy_region_id is not None:
        copies.check_region(tx, rates.region_id, copy_region_id)
        rates.assume("every snapshot is copied, and its copies stay as long as it does")
        costs += [
            rates.cost(DOWNLOADED, "month", uploaded),
            rates.cost(UPLOADED, "month", uploaded, region_id=copy_region_id),
            rates.cost(STORED, "month", stored, region_id=copy_region_id),
        ]
    return Estimate("source", source_id, rates.currency, tuple(costs), rates.assumptions)


def estimate_copy(
    tx: Tx, who: Principal, snapshot_id: str, *, region_id: str, now: datetime
) -> Estimate:
    """What a copy of a snapshot to another region would cost."""
    who.require(Right.READ)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id)
    source = tx.get_one(Source, snapshot.source_id)
    rates = _Rates(tx, source, now, repository_id=snapshot.repository_id)
    copies.check_region(tx, rates.region_id, region_id)
    return _of_copy(rates, snapshot, region_id)


def estimate_restore(
    tx: Tx,
    who: Principal,
    snapshot_id: str,
    *,
    now: datetime,
    restored_bytes: int | None = None,
) -> Estimate:
    """What restoring or downloading a snapshot would cost; `restored_bytes` for a part."""
    who.require(Right.READ)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id)
    source = tx.get_one(Source, snapshot.source_id)
    rates = _Rates(tx, source, now, repository_id=snapshot.repository_id)
    size = snapshot.logical_bytes if restored_bytes is None else restored_bytes
    if restored_bytes is None:
        rates.assume("everything in the snapshot is restored")
    rates.assume("what is restored is paid for as it is, not as it is compressed")
    costs = (rates.cost(DOWNLOADED, "once", size),)
    return Estimate("snapshot", snapshot_id, rates.currency, costs, rates.assumptions)


def actual_of(tx: Tx, who: Principal, snapshot_id: str) -> Actual:
    """What a snapshot has cost so far, beside what was estimated for it."""
    who.require(Right.READ)
    snapshot = scope.find(tx, who, Snapshot, snapshot_id)
    source = tx.get_one(Source, snapshot.source_id)
    rates = _Rates(tx, source, snapshot.created_at, repository_id=snapshot.repository_id)
    if snapshot.copy_of_id is None:
        estimate = _of_snapshot(rates, source, None)
    else:
        original = tx.get_one(Snapshot, snapshot.copy_of_id)
        there = _Rates(tx, source, snapshot.created_at, repository_id=original.repository_id)
        estimate = _of_copy(there, original, rates.region_id)
    once = select(LedgerEntry).where(
        LedgerEntry.resource_id == snapshot_id,
        LedgerEntry.what == UPLOADED,
        IS_ONCE,
    )
    entry = tx.scalars(once).first()
    hours, stored = _stored_so_far(tx, snapshot, rates.region_id, rates.currency)
    return Actual(
        snapshot_id,
        entry.currency if entry else rates.currency,
        snapshot.stored_bytes,
        -entry.amount_femto if entry else None if snapshot.stored_bytes is None else 0,
        snapshot.share_bytes,
        hours,
        stored,
        estimate,
    )


class _Rates:
    """Prices and history of one source at one instant, and the assumptions made so far."""

    def __init__(
        self, tx: Tx, source: Source, at: datetime, *, repository_id: str | None = None
    ) -> None:
        self._tx = tx
        self._source = source
        self._at = at
        account = tx.get_one(Account, source.account_id)
        self.currency = currency_of(account)
        if repository_id is not None:
            self.region_id = tx.get_one(Repository, repository_id).region_id
        else:
            self.region_id = tx.get_one(Host, source.host_id).region_id
        self._assumptions: list[str] = []

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(self._assumptions)

    def assume(self, text: str) -> None:
        self._assumptions.append(text)

    def cost(
        self, what: str, per: str, quantity_bytes: int | None, *, region_id: str | None = None
    ) -> Cost:
        where = region_id or self.region_id
        price = price_at(self._tx, what, where, self.currency, self._at)
        if price is None:
            there = "" if region_id is None else " in the other region"
            self.assume(
                f"there is no price for {what} in {self.currency}{there}, so it costs nothing"
            )
            return Cost(what, where, per, quantity_bytes, "0", "", 0)
        femto = None
        if quantity_bytes is not None:
            times = HOURS_PER_MONTH if what == STORED else 1
            femto = amounts.megabytes(quantity_bytes) * price.rate_femto * times
        return Cost(what, where, per, quantity_bytes, price.rate, price.unit, femto)

    def sizes(self, expected_bytes: int | None) -> _Sizes:
        """What is stored of the source, what its next run adds, and each one after that."""
        runs, at_all = self._runs()
        if not at_all and expected_bytes is None:
            self.assume("the source has no snapshot yet, so what it would store is not known")
            return _Sizes(None, None, None)
        if at_all < 2:
            if runs:
                first = runs[0].stored_bytes or 0
                self.assume(f"the source's first snapshot added {print_bytes(first)}")
            else:
                first = expected_bytes or 0
                self.assume(
                    f"the source has {print_bytes(first)}, and neither compression nor "
                    "deduplication saves anything"
                )
            later = first // LATER_PART
            self.assume(f"each later snapshot adds a tenth of the first, {print_bytes(later)}")
            return _Sizes(first, later if runs else first, later)
        later = sum(run.stored_bytes or 0 for run in runs) // len(runs)
        self.assume(
            f"a snapshot adds {print_bytes(later)}, the mean of the last {len(runs)} (the "
            "source's first one does not count)"
        )
        stored, number = self._stored()
        return _Sizes(max(stored - later * max(number - 1, 0), later), later, later)

    def added_by_copy(self, snapshot: Snapshot, region_id: str) -> int | None:
        """What a copy of the snapshot would add to another region's repository."""
        there = (
            select(Snapshot.id)
            .join(Repository, Repository.id == Snapshot.repository_id)
            .where(
                Snapshot.source_id == self._source.id,
                Repository.region_id == region_id,
                Snapshot.manifest_id.is_not(None),
                Snapshot.finished_at <= self._at,
                Snapshot.purged_at.is_(None),
            )
        )
        if self._tx.scalar(there.limit(1)) is not None:
            added = snapshot.stored_bytes
            self.assume(
                "that region has other snapshots of the source, so the copy adds there what the "
                "snapshot added here"
            )
            return added
        if snapshot.logical_bytes is None:
            self.assume("the snapshot is not completed, so what it holds is not known")
            return None
        stored, _ = self._stored()
        added = min(stored, snapshot.logical_bytes) if stored else snapshot.logical_bytes
        self.assume(
            f"that region has no snapshot of the source, so all that is stored of it here goes "
            f"there, {print_bytes(added)}"
        )
        return added

    def _runs(self) -> tuple[Sequence[Snapshot], int]:
        """The last completed runs without the source's first, if there are others; how many."""
        found = (
            select(Snapshot)
            .where(
                Snapshot.source_id == self._source.id,
                Snapshot.copy_of_id.is_(None),
                Snapshot.manifest_id.is_not(None),
                Snapshot.finished_at <= self._at,
            )
            .order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
            .limit(RUNS_LOOKED_AT + 1)
        )
        runs = self._tx.scalars(found).all()
        return (runs[:-1] if len(runs) > 1 else runs), len(runs)

    def _stored(self) -> tuple[int, int]:
        """Stored bytes of the source, and of how many snapshots they are."""
        found = select(func.coalesce(func.sum(Snapshot.share_bytes), 0), func.count()).where(
            Snapshot.source_id == self._source.id,
            Snapshot.copy_of_id.is_(None),
            Snapshot.manifest_id.is_not(None),
            Snapshot.finished_at <= self._at,
            Snapshot.purged_at.is_(None),
        )
        stored, number = self._tx.execute(found).one()
        return int(stored or 0), number


@dataclass(frozen=True, slots=True)
class _Sizes:
    base: int | None
    next: int | None
    later: int | None


def _of_snapshot(rates: _Rates, source: Source, expected_bytes: int | None) -> Estimate:
    added = rates.sizes(expected_bytes).next
    rates.assume("it stays as long as nothing removes it")
    costs = (rates.cost(UPLOADED, "once", added), rates.cost(STORED, "month", added))
    return Estimate("source", source.id, rates.currency, costs, rates.assumptions)


def _of_copy(rates: _Rates, snapshot: Snapshot, region_id: str) -> Estimate:
    added = rates.added_by_copy(snapshot, region_id)
    rates.assume("the copy stays as long as the snapshot does")
    costs = (
        rates.cost(DOWNLOADED, "once", added),
        rates.cost(UPLOADED, "once", added, region_id=region_id),
        rates.cost(STORED, "month", added, region_id=region_id),
    )
    return Estimate("snapshot", snapshot.id, rates.currency, costs, rates.assumptions)


def _kept(schedule: Schedule, policy: RetentionPolicy, now: datetime) -> int:
    """How many snapshots there are after a year, or after so many runs as are looked at."""
    slots = schedule.due_between(now - _LONGEST, now)[-_MOST_POINTS:]
    points = [RestorePoint(f"{number:06}", slot) for number, slot in enumerate(slots)]
    decisions = decide(policy, points, now=now, allow_remove_all=True)
    return sum(each.keep for each in decisions)


def _stored_so_far(
    tx: Tx, snapshot: Snapshot, region_id: str, currency: str
) -> tuple[int, int | None]:
    """Booked hours in which the snapshot was there, and what its share cost in them."""
    if snapshot.manifest_id is None or snapshot.finished_at is None:
        return 0, None
    meter = select(Meter.booked_until).where(
        Meter.resource_id == snapshot.source_id,
        Meter.what == STORED,
        Meter.region_id == region_id,
        Meter.until.is_(None),
    )
    booked = tx.scalars(meter).one_or_none() or snapshot.purged_at or snapshot.finished_at
    first = hour_from(snapshot.finished_at)
    end = hour_from(min(snapshot.purged_at or booked, booked))
    found = select(Price).where(
        Price.what == STORED, Price.region_id == region_id, Price.currency == currency
    )
    prices = tx.scalars(found.order_by(Price.valid_from)).all()
    changes = [hour_from(price.valid_from) for price in prices]
    size = snapshot.stored_bytes if snapshot.purged_at else snapshot.share_bytes
    femto = 0
    for price, since, until in zip(prices, changes, [*changes, end][1:], strict=True):
        hours = (min(until, end) - max(since, first)) // _HOUR
        femto += max(hours, 0) * price.rate_femto * amounts.megabytes(size or 0)
    return max((end - first) // _HOUR, 0), femto
