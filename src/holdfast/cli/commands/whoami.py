"""``holdfast whoami``: which server this is, and who one is there."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.verbs import column, details


def configure(parser: Parser) -> None:
    del parser  # it takes none


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.sdk.record import as_document

    del arguments
    with invocation.client() as client:
        me = client.me.get()
    columns = (
        column("kind"),
        column("id"),
        column("account", "account_id"),
        column("operator"),
        column("rights"),
        column("only kinds", "kinds"),
        column("only", "resources"),
    )
    return Outcome(
        {"url": client.url, "me": as_document(me)},
        answer=[f"server:     {client.url}", *details(columns, me)],
    )
