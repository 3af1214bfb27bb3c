"""Billing: what the account has, what it paid, and what an act would cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/billing"


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's credit."""

    balance: Decimal
    currency: str
    credit_state: str = ""
    credit_state_since: datetime | None = None
    prepaid: bool = False


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the ledger. Charges are negative."""

    id: int
    at: datetime
    kind: str
    amount: Decimal
    currency: str
    what: str | None = None
    resource_kind: str | None = None
    resource_id: str | None = None
    region_id: str | None = None
    hour: datetime | None = None
    quantity_mb: int = 0
    price_id: str | None = None
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatementLine:
    """What one group cost for one thing."""

    group: str
    what: str
    cost: Decimal
    currency: str
    name: str = ""
    quantity: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class StatementTotal:
    """The sums of one currency; `cost` is what is to be paid."""

    currency: str
    cost: Decimal
    credit: Decimal = Decimal(0)
    cost_exact: Decimal = Decimal(0)
    credit_exact: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a month cost. `complete`: the month is over and wholly booked."""

    month: str
    group_by: str = "resource"
    account_id: str = ""
    lines: tuple[StatementLine, ...] = ()
    totals: tuple[StatementTotal, ...] = ()
    booked_until: datetime | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """One thing that is paid for; `amount` is None where it is not known."""

    what: str
    region_id: str = ""
    per: str = ""
    quantity_bytes: int | None = None
    rate: str = ""
    unit: str = ""
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What something would cost: once, and each month that it stays."""

    currency: str
    subject_kind: str = ""
    subject_id: str = ""
    once: Decimal | None = None
    per_month: Decimal | None = None
    costs: tuple[Cost, ...] = ()
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Actual:
    """What a snapshot has cost so far, beside what was estimated."""

    snapshot_id: str
    currency: str
    uploaded_bytes: int | None = None
    uploaded: Decimal | None = None
    share_bytes: int | None = None
    stored_hours: int = 0
    stored: Decimal | None = None
    estimate: Estimate | None = None


class BillingResource:
    """The account's money."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def balance(self) -> Balance:
        return from_json(Balance, self._transport.get(f"{_PATH}/balance"))

    def ledger(
        self,
        *,
        kind: str = "",
        resource_id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[LedgerEntry]:
        """Every charge and credit, the latest first."""
        query = {"kind": kind, "resource_id": resource_id, "since": since, "until": until}
        return pages(self._transport, f"{_PATH}/ledger", LedgerEntry, query)

    def statement(
        self, year: int, month: int, *, group_by: str = "resource", label: str = ""
    ) -> Statement:
        """A month by resource, label, schedule or snapshot."""
        query = {"year": year, "month": month, "group_by": group_by, "label": label}
        return from_json(Statement, self._transport.get(f"{_PATH}/statement", query))

    def statement_csv(
        self, year: int, month: int, *, group_by: str = "resource", label: str = ""
    ) -> str:
        """The same as CSV."""
        query = {"year": year, "month": month, "group_by": group_by, "label": label}
        return str(self._transport.get(f"{_PATH}/statement.csv", query))

    def estimate_snapshot(self, source_id: str, *, expected_bytes: int | None = None) -> Estimate:
        """What one more snapshot of a source would cost."""
        return self._estimate("snapshot", source_id=source_id, expected_bytes=expected_bytes)

    def estimate_copy(self, snapshot_id: str, region_id: str) -> Estimate:
        """What a copy of a snapshot to another region would cost."""
        return self._estimate("copy", snapshot_id=snapshot_id, region_id=region_id)

    def estimate_restore(self, snapshot_id: str, *, restored_bytes: int | None = None) -> Estimate:
        """What restoring or downloading a snapshot would cost."""
        return self._estimate("restore", snapshot_id=snapshot_id, restored_bytes=restored_bytes)

    def estimate_schedule(self, source_id: str, **members: object) -> Estimate:
        """What a schedule would cost each month; `members` as for making one."""
        return self._estimate("schedule", source_id=source_id, **members)

    def cost(self, snapshot_id: str) -> Actual:
        """What a snapshot has cost so far."""
        return from_json(Actual, self._transport.get(f"/api/v1/snapshots/{snapshot_id}/cost"))

    def credit(self, account_id: str, amount: Decimal, *, note: str) -> LedgerEntry:
        """Put credit into an account, or take some back; operators only."""
        body = {"amount": format(amount, "f"), "note": note}
        document = self._transport.post(f"/api/v1/accounts/{account_id}/credit", body)
        return from_json(LedgerEntry, document)

    def _estimate(self, kind: str, **members: object) -> Estimate:
        body = {name: value for name, value in members.items() if value is not None}
        return from_json(Estimate, self._transport.post(f"{_PATH}/estimates/{kind}", body))
