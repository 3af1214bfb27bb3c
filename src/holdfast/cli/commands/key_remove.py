"""``holdfast key remove``: remove a key."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.commands.key_list import outcome_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("key", metavar="KEY", help="the id of a key, or the beginning of one")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.keys import key_remove

    repository = invocation.open_repository()
    invocation.confirm(
        f"remove key {arguments.key}?", ["its password will open the repository no more"]
    )
    result = key_remove(repository, arguments.key)
    return outcome_of(result, f"key {result.changed[:8]} is removed")
