"""Statements: what an account's month cost, by resource, by label, by schedule or by snapshot.

A statement is computed from the ledger alone and changes nothing. Its lines are exact. The
only rounding there is happens on its totals: the sum of each currency's lines, half to the
even coin; so lines that a reader rounds need not add up to it, and the lines as given do.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select

from holdfast.control import amounts
from holdfast.control.database import Tx
from holdfast.control.ledger import CHARGES, ONCE
from holdfast.control.principal import Principal, Right
from holdfast.control.statement_groups import GROUPINGS, Booked, grouped
from holdfast.control.tables import LedgerEntry, Meter
from holdfast.errors import UsageError

_COLUMNS: Final = ("group", "name", "what", "quantity", "unit", "currency", "cost")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class StatementLine:
    """What one group cost for one thing. `quantity` is in MB-hours for what goes by time."""

    group: str
    name: str
    what: str
    quantity: int
    unit: str
    currency: str
    cost_femto: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "name": self.name,
            "what": self.what,
            "quantity": self.quantity,
            "unit": self.unit,
            "currency": self.currency,
            "cost": amounts.exact(self.cost_femto),
        }


@dataclass(frozen=True, slots=True)
class StatementTotal:
    """One currency's sums. `cost` is what is to be paid: the one rounded number."""

    currency: str
    cost_femto: int
    credit_femto: int

    @property
    def cost(self) -> str:
        return amounts.rounded(self.cost_femto, self.currency)

    def as_dict(self) -> dict[str, Any]:
        return {
            "currency": self.currency,
            "cost": self.cost,
            "cost_exact": amounts.exact(self.cost_femto),
            "credit": amounts.rounded(self.credit_femto, self.currency),
            "credit_exact": amounts.exact(self.credit_femto),
        }


@dataclass(frozen=True, slots=True)
class Statement:
    """One month (of UTC) of one account.

    `booked_until`: hours from then on are still to come; None when the month is complete,
    or when nothing costs by the hour any more.
    """

    account_id: str
    year: int
    month: int
    group_by: str
    lines: tuple[StatementLine, ...]
    totals: tuple[StatementTotal, ...]
    booked_until: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """The statement as JSON has it; amounts are texts, so that no reader rounds them."""
        return {
            "account_id": self.account_id,
            "month": f"{self.year:04d}-{self.month:02d}",
            "group_by": self.group_by,
            "lines": [line.as_dict() for line in self.lines],
            "totals": [total.as_dict() for total in self.totals],
            "booked_until": self.booked_until.isoformat() if self.booked_until else None,
            "complete": self.booked_until is None,
        }

    def as_csv(self) -> str:
        """The lines and, as the last rows, the totals."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        for line in self.lines:
            row = line.as_dict()
            writer.writerow(row | {each: _plain(row[each]) for each in ("group", "name")})
        for total in self.totals:
            writer.writerow({"group": "total", "currency": total.currency, "cost": total.cost})
        return text.getvalue()


def statement(
    tx: Tx,
    who: Principal,
    *,
    year: int,
    month: int,
    group_by: str = "resource",
    label: str | None = None,
) -> Statement:
    """What a month cost. `group_by`: resource, label, schedule or snapshot.

    By label there is a group for each value of the label named `label`; without that, for
    each label and value, where a resource counts in as many groups as it has labels. What
    is stored is metered for a source as a whole; by schedule and by snapshot its cost is
    split among the source's snapshots, by their share and how long they were there.
    """
    who.require_everywhere(Right.READ)
    if group_by not in GROUPINGS:
        raise UsageError(f"{group_by!r} is no grouping; choose one of {', '.join(GROUPINGS)}.")
    start, end = month_of(year, month)
    booked = _booked(tx, who.account_id, start, end, with_labels=group_by == "label")
    names, parts = grouped(
        tx, who.account_id, booked, group_by=group_by, label=label, start=start, end=end
    )
    lines = tuple(
        StatementLine(
            group,
            names.get(group, group),
            what,
            quantity,
            "MB" if kind == ONCE else "MB-hour",
            currency,
            -femto,
        )
        for (group, what, kind, currency), (quantity, femto) in sorted(
            parts.items(), key=lambda each: (names.get(each[0][0], each[0][0]), each[0])
        )
    )
    return Statement(
        who.account_id,
        year,
        month,
        group_by,
        lines,
        _totals(tx, who.account_id, start, end),
        _booked_until(tx, who.account_id, end),
    )


def month_of(year: int, month: int) -> tuple[datetime, datetime]:
    """The first instant of a month and of the next one, in UTC."""
    if not (2000 <= year <= 9998 and 1 <= month <= 12):
        raise UsageError(f"{year}-{month} is no month; give a year and a month from 1 to 12.")
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return datetime(year, month, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)


def _of(account_id: str, start: datetime, end: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        LedgerEntry.account_id == account_id,
        LedgerEntry.hour >= start,
        LedgerEntry.hour < end,
    )


def _booked(
    tx: Tx, account_id: str, start: datetime, end: datetime, *, with_labels: bool
) -> list[Booked]:
    """The charges of the month, summed up by what they are for."""
    # With the labels in a group's key there may be several groups for one resource.
    labels = [LedgerEntry.labels] if with_labels else []
    keys = (
        LedgerEntry.what,
        LedgerEntry.kind,
        LedgerEntry.currency,
        LedgerEntry.resource_kind,
        LedgerEntry.resource_id,
        LedgerEntry.region_id,
    )
    sums = (
        func.sum(LedgerEntry.quantity_mb),
        func.sum(LedgerEntry.amount_micro),
        func.sum(LedgerEntry.amount_rest_femto),
    )
    found = select(*keys, *sums, *labels).where(
        *_of(account_id, start, end), LedgerEntry.kind.in_(CHARGES)
    )
    booked = []
    for row in map(_whole, tx.execute(found.group_by(*keys, *labels))):
        what, kind, currency, resource_kind, resource_id, region_id, *sums_and_labels = row
        quantity, micro, rest, *more = sums_and_labels
        booked.append(
            Booked(
                what=what,
                kind=kind,
                currency=currency,
                resource_kind=resource_kind,
                resource_id=resource_id,
                region_id=region_id,
                labels=more[0] if more else {},
                quantity_mb=quantity,
                femto=amounts.joined(micro, rest),
            )
        )
    return booked


def _whole(row: Sequence[Any]) -> list[Any]:
    """PostgreSQL's sums of whole numbers are Decimals."""
    return [int(each) if isinstance(each, Decimal) else each for each in row]


def _totals(tx: Tx, account_id: str, start: datetime, end: datetime) -> tuple[StatementTotal, ...]:
    """Sums of the ledger itself, whatever the groups are."""
    keys = (LedgerEntry.currency, LedgerEntry.kind)
    found = select(
        *keys, func.sum(LedgerEntry.amount_micro), func.sum(LedgerEntry.amount_rest_femto)
    ).where(*_of(account_id, start, end))
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for currency, kind, micro, rest in map(_whole, tx.execute(found.group_by(*keys))):
        sums[currency][kind not in CHARGES] += amounts.joined(micro, rest)
    return tuple(
        StatementTotal(currency, -cost, credit) for currency, (cost, credit) in sorted(sums.items())
    )


def _booked_until(tx: Tx, account_id: str, end: datetime) -> datetime | None:
    found = select(func.min(Meter.booked_until)).where(
        Meter.account_id == account_id, Meter.until.is_(None), Meter.booked_until < end
    )
    return tx.scalars(found).one()


def _plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
