"""How a statement's charges are put into groups: whose they are, and under which name.

Every charge is in one group, and the groups' sum is the charges' sum; only by all labels
at once does a resource count once for each of its labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import aliased

from holdfast.control.allocation import allocate
from holdfast.control.database import Tx
from holdfast.control.ledger import HOURLY
from holdfast.control.tables import (
    AuditEntry,
    Bucket,
    Drill,
    Host,
    LedgerEntry,
    Repository,
    Restore,
    Schedule,
    Snapshot,
    Source,
)

GROUPINGS: Final = ("resource", "label", "schedule", "snapshot")
MANUAL: Final = "manual"
UNLABELLED: Final = "(none)"

_ORIGINAL: Final = aliased(Snapshot)
_SCHEDULE_ID: Final = func.coalesce(Snapshot.schedule_id, _ORIGINAL.schedule_id)
"""A copy has no schedule; what it costs is for the one that its original is of."""

Key = tuple[str, str, str, str]
"""Group, what, kind, currency."""


@dataclass(frozen=True, slots=True)
class Booked:
    """The month's charges for one resource and thing in a region: quantities and sum."""

    what: str
    kind: str
    currency: str
    resource_kind: str
    resource_id: str
    region_id: str
    labels: Mapping[str, str]
    quantity_mb: int
    femto: int


@dataclass(frozen=True, slots=True)
class _Run:
    """What a charge for a snapshot, restore or drill belongs to."""

    source_id: str
    schedule_id: str | None
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class _Stay:
    """A snapshot that was stored during the month, and what it weighs."""

    run: _Run
    weight: int


class _Sums:
    def __init__(self) -> None:
        self.parts: dict[Key, tuple[int, int]] = {}

    def add(self, group: str, booked: Booked, quantity: int, femto: int) -> None:
        key = (group, booked.what, booked.kind, booked.currency)
        before = self.parts.get(key, (0, 0))
        self.parts[key] = (before[0] + quantity, before[1] + femto)


def grouped(
    tx: Tx,
    account_id: str,
    booked: Sequence[Booked],
    *,
    group_by: str,
    label: str | None,
    start: datetime,
    end: datetime,
) -> tuple[dict[str, str], dict[Key, tuple[int, int]]]:
    """Names of groups, and the quantity and femto of each group's charges."""
    sums = _Sums()
    if group_by == "label":
        for each in booked:
            for group in _labelled(each.labels, label):
                sums.add(group, each, each.quantity_mb, each.femto)
        return {}, sums.parts
    runs = _runs(tx, account_id, start, end)
    if group_by == "resource":
        for each in booked:
            run = runs.get(each.resource_id)
            sums.add(run.source_id if run else each.resource_id, each, each.quantity_mb, each.femto)
        return _source_names(tx, account_id) | _bucket_names(tx, account_id, booked), sums.parts
    stays = _stays(tx, account_id, start, _booked_end(tx, account_id, start, end))
    names = _schedule_names(tx, account_id) if group_by == "schedule" else {}

    def group_of(run: _Run) -> str:
        return (run.schedule_id or MANUAL) if group_by == "schedule" else run.snapshot_id

    for each in booked:
        run = runs.get(each.resource_id)
        there = stays.get((each.resource_id, each.region_id), ())
        if run is not None:
            sums.add(group_of(run), each, each.quantity_mb, each.femto)
        elif each.kind == HOURLY and there:
            weights = [stay.weight for stay in there]
            for stay, quantity, femto in zip(
                there,
                allocate(each.quantity_mb, weights),
                allocate(each.femto, weights),
                strict=True,
            ):
                sums.add(group_of(stay.run), each, quantity, femto)
        else:
            sums.add(each.resource_id, each, each.quantity_mb, each.femto)
    if group_by == "snapshot":
        names = _snapshot_names(tx, account_id, start, end)
    return names | _bucket_names(tx, account_id, booked), sums.parts


def _labelled(labels: Mapping[str, str], label: str | None) -> list[str]:
    if label:
        return [str(labels.get(label, UNLABELLED))]
    return [f"{name}={value}" for name, value in sorted(labels.items())] or [UNLABELLED]


def _runs(tx: Tx, account_id: str, start: datetime, end: datetime) -> dict[str, _Run]:
    """Snapshots, restores and drills that ended in the month, which is when they are booked."""
    columns = (Snapshot.source_id, _SCHEDULE_ID, Snapshot.id)
    ended = (
        select(Snapshot.id, *columns)
        .outerjoin(_ORIGINAL, _ORIGINAL.id == Snapshot.copy_of_id)
        .where(
            Snapshot.account_id == account_id,
            Snapshot.finished_at >= start,
            Snapshot.finished_at < end,
        )
    )
    restored = (
        select(Restore.id, *columns)
        .join(Snapshot, Snapshot.id == Restore.snapshot_id)
        .outerjoin(_ORIGINAL, _ORIGINAL.id == Snapshot.copy_of_id)
        .where(
            Restore.account_id == account_id,
            Restore.finished_at >= start,
            Restore.finished_at < end,
        )
    )
    drilled = (
        select(Drill.id, *columns)
        .join(Snapshot, Snapshot.id == Drill.snapshot_id)
        .outerjoin(_ORIGINAL, _ORIGINAL.id == Snapshot.copy_of_id)
        .where(
            Drill.account_id == account_id,
            # A keeper's costs nothing.
            Drill.host_id.is_not(None),
            Drill.finished_at >= start,
            Drill.finished_at < end,
        )
    )
    return {
        row_id: _Run(source_id, schedule_id, snapshot_id)
        for statement in (ended, restored, drilled)
        for row_id, source_id, schedule_id, snapshot_id in tx.execute(statement)
    }


def _stays(
    tx: Tx, account_id: str, start: datetime, end: datetime
) -> dict[tuple[str, str], list[_Stay]]:
    """By source and region: what was stored, weighed by its share there and its seconds."""
    found = (
        select(
            Snapshot.source_id,
            Repository.region_id,
            _SCHEDULE_ID,
            Snapshot.id,
            Snapshot.share_bytes,
            Snapshot.stored_bytes,
            Snapshot.finished_at,
            Snapshot.purged_at,
        )
        .join(Repository, Repository.id == Snapshot.repository_id)
        .outerjoin(_ORIGINAL, _ORIGINAL.id == Snapshot.copy_of_id)
        .where(
            Snapshot.account_id == account_id,
            Snapshot.manifest_id.is_not(None),
            Snapshot.finished_at < end,
            or_(Snapshot.purged_at.is_(None), Snapshot.purged_at > start),
        )
    )
    stays: dict[tuple[str, str], list[_Stay]] = defaultdict(list)
    order = (Snapshot.finished_at, Snapshot.id)
    for source_id, region_id, schedule_id, row_id, share, stored, finished, purged in tx.execute(
        found.order_by(*order)
    ):
        assert finished is not None  # the condition above
        # What was removed has no share any more; what it added is the nearest to it.
        size = (stored if purged or share is None else share) or 0
        seconds = (min(purged or end, end) - max(finished, start)).total_seconds()
        stays[source_id, region_id].append(
            _Stay(_Run(source_id, schedule_id, row_id), size * int(seconds))
        )
    return stays


def _booked_end(tx: Tx, account_id: str, start: datetime, end: datetime) -> datetime:
    """The end of the last hour of the month that is booked; in a month that lasts, about now."""
    found = select(func.max(LedgerEntry.hour)).where(
        LedgerEntry.account_id == account_id,
        LedgerEntry.kind == HOURLY,
        LedgerEntry.hour >= start,
        LedgerEntry.hour < end,
    )
    last = tx.scalars(found).one()
    return end if last is None else last + timedelta(hours=1)


def _source_names(tx: Tx, account_id: str) -> dict[str, str]:
    found = select(Source.id, Host.name, Source.path).join(Host, Host.id == Source.host_id)
    rows = tx.execute(found.where(Source.account_id == account_id))
    return {row_id: f"{host}:{path}" for row_id, host, path in rows}


def _bucket_names(tx: Tx, account_id: str, booked: Sequence[Booked]) -> dict[str, str]:
    """The names of buckets that cost something; of removed ones, as the audit has them."""
    ids = {each.resource_id for each in booked if each.resource_kind == "bucket"}
    if not ids:
        return {}
    found = select(Bucket.id, Bucket.name).where(Bucket.account_id == account_id)
    names = {row_id: name for row_id, name in tx.execute(found) if row_id in ids}
    removed = select(AuditEntry.subject_id, AuditEntry.before).where(
        AuditEntry.account_id == account_id,
        AuditEntry.subject_id.in_(ids - names.keys()),
        AuditEntry.action == "bucket.remove",
    )
    names |= {
        row_id: str((before or {}).get("name", row_id)) for row_id, before in tx.execute(removed)
    }
    return {row_id: f"bucket {name}" for row_id, name in names.items()}


def _schedule_names(tx: Tx, account_id: str) -> dict[str, str]:
    found = select(Schedule.id, Schedule.name, Host.name, Source.path)
    found = found.join(Source, Source.id == Schedule.source_id)
    found = found.join(Host, Host.id == Source.host_id)
    rows = tx.execute(found.where(Schedule.account_id == account_id))
    return {row_id: name or f"{host}:{path}" for row_id, name, host, path in rows}


def _snapshot_names(tx: Tx, account_id: str, start: datetime, end: datetime) -> dict[str, str]:
    columns = (Snapshot.id, Snapshot.name, Snapshot.captured_at, Source.path, Snapshot.copy_of_id)
    found = select(*columns).join(Source, Source.id == Snapshot.source_id)
    rows = tx.execute(
        found.where(
            Snapshot.account_id == account_id,
            Snapshot.created_at < end,
            or_(Snapshot.purged_at.is_(None), Snapshot.purged_at > start),
        )
    )
    names = {}
    for row_id, name, captured, path, copy_of_id in rows:
        known = name or (f"{path} {captured:%Y-%m-%d %H:%M}" if captured else path)
        names[row_id] = known if copy_of_id is None else f"{known} (copy)"
    return names
