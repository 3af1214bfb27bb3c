"""``holdfast key list``: list the keys, one for each password."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser

if TYPE_CHECKING:
    from holdfast.flows.keys import KeysResult


def configure(parser: Parser) -> None:
    del parser  # it takes none


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.keys import keys

    del arguments
    return outcome_of(keys(invocation.open_repository()), "")


def outcome_of(result: KeysResult, did: str) -> Outcome:
    """What every command about keys shows: what it did, or all keys."""
    document: dict[str, object] = {
        "keys": [
            {
                "id": key.id,
                "created": None if key.created is None else key.created.isoformat(),
                "username": key.username,
                "hostname": key.hostname,
                "current": key.current,
            }
            for key in result.keys
        ]
    }
    if did:
        document["changed"] = result.changed
        return Outcome(document, summary=[did], findings=result.findings)
    rows = [
        (
            key.id[:8] + ("*" if key.current else ""),
            "" if key.created is None else text.moment(key.created),
            key.username,
            key.hostname,
        )
        for key in result.keys
    ]
    return Outcome(
        document,
        answer=text.table(("id", "created", "user", "host"), rows),
        summary=["* is the key in use"],
        findings=result.findings,
    )
