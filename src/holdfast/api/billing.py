"""Billing: what an account has, what it paid, and what an act would cost."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Amount, Count, FilterId, Id, Money, PathId, Time, Whole
from holdfast.api.operation import router
from holdfast.api.schedules import ScheduleTiming
from holdfast.control import accounts, amounts, estimates, ledger, prices, statements
from holdfast.control.principal import Right
from holdfast.control.tables import LedgerEntry as Row
from holdfast.edge.answers import listing, plain
from holdfast.edge.call import Asked, Call
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("billing")

CSV_TYPE = "text/csv"
Year = Annotated[Whole, Query(ge=2000, le=9998)]
Month = Annotated[Whole, Query(ge=1, le=12)]
GroupBy = Literal["resource", "label", "schedule", "snapshot"]
LabelName = Annotated[
    str | None, Query(max_length=63, pattern=r"^[A-Za-z0-9._/-]+$", description="For `label`.")
]


class Balance(Document):
    """An account's credit."""

    balance: Money
    currency: str
    credit_state: str
    credit_state_since: datetime | None
    prepaid: bool


class LedgerEntry(Document):
    """One line of the ledger. Charges are negative."""

    id: int
    at: datetime
    kind: str
    what: str | None
    resource_kind: str | None
    resource_id: str | None
    region_id: str | None
    hour: datetime | None
    quantity_mb: int
    price_id: str | None
    currency: str
    amount: Money
    note: str
    labels: dict[str, str]


class Ledger(Listing[LedgerEntry]):
    """A page of the ledger."""


class StatementLine(Document):
    """What one group cost for one thing."""

    group: str
    name: str
    what: str
    quantity: int
    unit: str
    currency: str
    cost: Money


class StatementTotal(Document):
    """The sums of one currency. `cost` is what is to be paid: the one rounded number."""

    currency: str
    cost: Money
    cost_exact: Money
    credit: Money
    credit_exact: Money


class Statement(Document):
    """What a month cost."""

    account_id: str
    month: str
    group_by: GroupBy
    lines: list[StatementLine]
    totals: list[StatementTotal]
    booked_until: datetime | None
    complete: bool


class Cost(Document):
    """One thing that is paid for; `amount` is null where it is not known."""

    what: str
    region_id: str
    per: str
    quantity_bytes: int | None
    rate: str
    unit: str
    amount: str | None


class Estimate(Document):
    """What something would cost: once, and each month that it stays."""

    subject_kind: str
    subject_id: str
    currency: str
    once: str | None
    per_month: str | None
    costs: list[Cost]
    assumptions: list[str]


class Actual(Document):
    """What a snapshot has cost so far, beside its estimate."""

    snapshot_id: str
    currency: str
    uploaded_bytes: int | None
    uploaded: str | None
    share_bytes: int | None
    stored_hours: int
    stored: str | None
    estimate: Estimate


class SnapshotPlan(Body):
    """A snapshot that might be made; `expected_bytes` where it is the source's first."""

    source_id: Id
    expected_bytes: Count | None = None


class SchedulePlan(ScheduleTiming):
    """A schedule that might be made."""

    source_id: Id
    expected_bytes: Count | None = None
    copy_region_id: Id | None = None


class CopyPlan(Body):
    """A copy of a snapshot that might be made."""

    snapshot_id: Id
    region_id: Id


class RestorePlan(Body):
    """A restore that might be made; `restored_bytes` where it is of a part."""

    snapshot_id: Id
    restored_bytes: Count | None = None


class NewCredit(Body):
    """Credit to put in, or (less than 0) to take back."""

    amount: Amount
    note: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


@routes.get("/billing/balance", response_model=Balance)
def get_balance(call: Asked) -> Response:
    """Show the account's credit."""
    call.who.require(Right.READ)
    with call.reading() as tx:
        row = accounts.get(tx, call.who)
    return plain(
        Balance(
            balance=format(ledger.balance(row), "f"),
            currency=prices.currency_of(row),
            credit_state=row.credit_state,
            credit_state_since=row.credit_state_since,
            prepaid=row.prepaid,
        )
    )


@routes.get("/billing/ledger", response_model=Ledger)
def list_ledger(
    call: Asked,
    *,
    kind: Literal["hourly", "once", "credit", "correction"] | None = None,
    resource_id: FilterId = None,
    since: Annotated[Time | None, Query(description="Of this hour or a later one.")] = None,
    until: Annotated[Time | None, Query(description="Of an hour before this.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List every charge and credit, the latest first."""
    with call.reading() as tx:
        found = ledger.entries(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            kind=kind,
            resource_id=resource_id,
            since=since,
            until=until,
        )
    return listing(call.request, found, _entry)


@routes.get("/billing/statement", response_model=Statement)
def get_statement(
    call: Asked,
    year: Year,
    month: Month,
    group_by: GroupBy = "resource",
    label: LabelName = None,
) -> Response:
    """Show what a month cost, in groups."""
    found = _statement(call, year, month, group_by, label)
    return plain(Statement.model_validate(found.as_dict()))


@routes.get(
    "/billing/statement.csv",
    response_class=Response,
    responses={200: {"content": {CSV_TYPE: {"schema": {"type": "string"}}}}},
)
def get_statement_csv(
    call: Asked,
    year: Year,
    month: Month,
    group_by: GroupBy = "resource",
    label: LabelName = None,
) -> Response:
    """Download what a month cost as CSV."""
    found = _statement(call, year, month, group_by, label)
    name = f"holdfast-{year:04d}-{month:02d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(found.as_csv(), 200, headers, CSV_TYPE)


@routes.post("/billing/estimates/snapshot", response_model=Estimate)
def estimate_snapshot(call: Asked, body: SnapshotPlan) -> Response:
    """Estimate what one more snapshot of a source would cost."""
    with call.reading() as tx:
        found = estimates.estimate_snapshot(
            tx, call.who, body.source_id, now=call.now, expected_bytes=body.expected_bytes
        )
    return plain(Estimate.model_validate(found.as_dict()))


@routes.post("/billing/estimates/schedule", response_model=Estimate)
def estimate_schedule(call: Asked, body: SchedulePlan) -> Response:
    """Estimate what a schedule would cost each month, once its retention is full."""
    timing, policy = body.as_values()
    with call.reading() as tx:
        found = estimates.estimate_schedule(
            tx,
            call.who,
            body.source_id,
            schedule=timing,
            policy=policy,
            now=call.now,
            expected_bytes=body.expected_bytes,
            copy_region_id=body.copy_region_id,
        )
    return plain(Estimate.model_validate(found.as_dict()))


@routes.post("/billing/estimates/copy", response_model=Estimate)
def estimate_copy(call: Asked, body: CopyPlan) -> Response:
    """Estimate what a copy of a snapshot to another region would cost."""
    with call.reading() as tx:
        found = estimates.estimate_copy(
            tx, call.who, body.snapshot_id, region_id=body.region_id, now=call.now
        )
    return plain(Estimate.model_validate(found.as_dict()))


@routes.post("/billing/estimates/restore", response_model=Estimate)
def estimate_restore(call: Asked, body: RestorePlan) -> Response:
    """Estimate what restoring or downloading a snapshot would cost."""
    with call.reading() as tx:
        found = estimates.estimate_restore(
            tx, call.who, body.snapshot_id, now=call.now, restored_bytes=body.restored_bytes
        )
    return plain(Estimate.model_validate(found.as_dict()))


@routes.get("/snapshots/{snapshot_id}/cost", response_model=Actual)
def get_snapshot_cost(call: Asked, snapshot_id: PathId) -> Response:
    """Show what a snapshot has cost so far, beside what was estimated."""
    with call.reading() as tx:
        found = estimates.actual_of(tx, call.who, snapshot_id)
    return plain(Actual.model_validate(found.as_dict()))


@routes.post("/accounts/{account_id}/credit", response_model=LedgerEntry, status_code=201)
def add_credit(call: Asked, account_id: PathId, body: NewCredit, key: KeyHeader = None) -> Response:
    """Put credit into an account, or take back what was put in by mistake. Operators only."""
    return once(
        call,
        key,
        body,
        lambda tx: ledger.credit(
            tx, call.who, account_id, Decimal(body.amount), note=body.note, now=call.now
        ),
        _entry,
        status=201,
    )


def _statement(
    call: Call, year: int, month: int, group_by: str, label: str | None
) -> statements.Statement:
    with call.reading() as tx:
        return statements.statement(
            tx, call.who, year=year, month=month, group_by=group_by, label=label
        )


def _entry(row: Row) -> LedgerEntry:
    members: dict[str, Any] = {
        name: getattr(row, name) for name in LedgerEntry.model_fields if name != "amount"
    }
    return LedgerEntry.model_validate({**members, "amount": amounts.exact(row.amount_femto)})
