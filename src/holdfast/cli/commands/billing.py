"""``holdfast billing ...``: what the account has, what it paid, and what an act would cost."""

from __future__ import annotations

import re
from argparse import Namespace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from holdfast.cli import output, values
from holdfast.cli.choose import region_id, snapshot_id, source_id
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, value_of
from holdfast.cli.verbs import (
    Column,
    Doing,
    Listing,
    Showing,
    argument,
    column,
    declare,
    size,
    table,
)
from holdfast.errors import UsageError
from holdfast.model.quantity import parse_bytes

if TYPE_CHECKING:
    from holdfast.sdk.billing import Estimate
    from holdfast.sdk.client import Client

_GROUPS = ("resource", "schedule", "snapshot", "label")


def _month(written: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})", written, re.ASCII)
    if not found or not 1 <= int(found[2]) <= 12:
        raise UsageError(f"{written!r} is no month; write 2026-11")
    return int(found[1]), int(found[2])


def amount(written: str) -> Decimal:
    try:
        value = Decimal(written)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise UsageError(f"{written!r} is no amount; write 25 or 12.50")
    return value


class Monthly:
    """``billing statement``: a month, by resource, schedule, snapshot or label."""

    def configure(self, parser: Parser) -> None:
        declare(
            parser,
            (
                argument(
                    "month",
                    metavar="MONTH",
                    nargs="?",
                    type=value_of(_month),
                    help="such as 2026-11 (default: this one)",
                ),
                argument("--by", choices=_GROUPS, default="resource", help="in which groups"),
                argument("--label", metavar="NAME", default="", help="the label of --by label"),
                argument("--csv", action="store_true", help="print it as CSV"),
            ),
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        now = datetime.now(UTC)
        year, month = arguments.month or (now.year, now.month)
        how = {"group_by": arguments.by, "label": arguments.label}
        with invocation.client() as client:
            if arguments.csv:
                output.write_lines(client.billing.statement_csv(year, month, **how).splitlines())
                return Outcome()
            found = client.billing.statement(year, month, **how)
        columns = (
            Column(arguments.by, lambda line: line.name or line.group),
            column("what"),
            Column("quantity", lambda line: f"{line.quantity:,} {line.unit}", right=True),
            Column("cost", lambda line: f"{line.cost:f} {line.currency}", right=True),
        )
        totals = [f"to pay: {each.cost:f} {each.currency}" for each in found.totals]
        state = "" if found.complete else "the month is not over, or not wholly booked yet"
        return Outcome(
            {"statement": as_document(found)},
            answer=[*table(columns, found.lines), *totals],
            summary=[state] if state else [],
        )


def _estimate(client: Client, arguments: Namespace) -> Any:
    if arguments.copy:
        if not arguments.to:
            raise UsageError("Copied to where? Give --to REGION.")
        return client.billing.estimate_copy(
            snapshot_id(client, arguments.copy), region_id(client, arguments.to)
        )
    if arguments.restore:
        return client.billing.estimate_restore(snapshot_id(client, arguments.restore))
    if not arguments.source:
        raise UsageError("Of what? Name a source, or give --restore or --copy SNAPSHOT.")
    return client.billing.estimate_snapshot(
        source_id(client, arguments.source), expected_bytes=arguments.size
    )


def _costs(estimate: Estimate) -> str:
    return "; ".join(
        f"{each.what} {'unknown' if each.amount is None else _rounded(each.amount)} per {each.per}"
        for each in estimate.costs
    )


VERBS = {
    "balance": Showing(
        "balance",
        lambda client, _arguments: client.billing.balance(),
        (
            Column("balance", lambda found: f"{found.balance:f} {found.currency}"),
            column("credit", "credit_state"),
            column("since", "credit_state_since"),
            column("prepaid"),
        ),
    ),
    "ledger": Listing(
        "booking",
        lambda client, arguments: client.billing.ledger(
            kind=arguments.kind or "", since=arguments.since, until=arguments.until
        ),
        (
            column("time", "at"),
            column("kind"),
            column("what"),
            Column("for", lambda entry: entry.note or entry.resource_id or ""),
            Column("MB", lambda entry: f"{entry.quantity_mb:,}", right=True),
            Column("amount", lambda entry: f"{entry.amount:f}", right=True),
            column("currency"),
        ),
        (
            argument(
                "--kind",
                choices=("hourly", "once", "credit", "correction"),
                help="only bookings of this kind",
            ),
            argument(
                "--since", metavar="TIME", type=value_of(values.moment), help="of then or later"
            ),
            argument(
                "--until", metavar="TIME", type=value_of(values.moment), help="of before then"
            ),
        ),
    ),
    "statement": Monthly(),
    "estimate": Showing(
        "estimate",
        _estimate,
        (
            Column("once", lambda found: _money(found.once, found.currency)),
            Column("each month", lambda found: _money(found.per_month, found.currency)),
            Column("of which", _costs),
            Column("assuming", lambda found: "; ".join(found.assumptions)),
        ),
        (
            argument("source", metavar="SOURCE", nargs="?", help="an id, a path, or HOST:PATH"),
            argument(
                "--size",
                metavar="SIZE",
                type=value_of(parse_bytes),
                help="how much it is, where no snapshot says so yet",
            ),
            argument(
                "--restore", metavar="SNAPSHOT", default="", help="what restoring this would cost"
            ),
            argument(
                "--copy", metavar="SNAPSHOT", default="", help="what a copy of this would cost"
            ),
            argument("--to", metavar="REGION", default="", help="the region of --copy"),
        ),
    ),
    "cost": Showing(
        "cost",
        lambda client, arguments: client.billing.cost(snapshot_id(client, arguments.snapshot)),
        (
            column("snapshot", "snapshot_id"),
            size("uploaded", "uploaded_bytes"),
            Column("for", lambda found: _money(found.uploaded, found.currency)),
            size("share of what is stored", "share_bytes"),
            column("hours", "stored_hours"),
            Column("stored for", lambda found: _money(found.stored, found.currency)),
        ),
        (argument("snapshot", metavar="SNAPSHOT", help="an id, a name, or `latest`"),),
    ),
    "credit": Doing(
        "booking",
        lambda client, arguments: client.billing.credit(
            arguments.account, arguments.amount, note=arguments.note
        ),
        lambda entry, _arguments: f"booked {entry.amount:f} {entry.currency}",
        (
            argument("account", metavar="ACCOUNT", help="its id"),
            argument("amount", metavar="AMOUNT", type=value_of(amount), help="such as 25 or 12.50"),
            argument("--note", metavar="TEXT", required=True, help="what it is for"),
        ),
    ),
}


def _money(value: Decimal | None, currency: str) -> str:
    return "" if value is None else f"{_rounded(value)} {currency}"


def _rounded(value: Decimal) -> str:
    """An exact amount as people read it: to a millionth."""
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".")
