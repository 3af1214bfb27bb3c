"""``holdfast unlock``: remove locks whose holders are gone."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--all",
        dest="every",
        action="store_true",
        help="remove the locks of those at work, too; what they do may be lost",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.unlock import unlock

    repository = invocation.open_repository()
    if arguments.every:
        held = [record.describe() for record in repository.lock_files().records()]
        if held:
            invocation.confirm("remove all locks?", held)
    result = unlock(repository, every_lock=arguments.every)
    document = {"removed": list(result.removed), "left": [each.id for each in result.left]}
    return Outcome(
        document,
        summary=[f"{text.count(len(result.removed), 'lock')} removed"],
        findings=result.findings,
    )
