"""``holdfast event ...``: what happened, and what happens."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import output, text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.verbs import Listing, argument, column, declare

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.events import Event

_KIND = argument(
    "--kind",
    metavar="KIND",
    action="append",
    default=[],
    help="only these, such as snapshot.failed; given again, more",
)


def _list(client: Client, arguments: Namespace) -> Iterator[Event]:
    return client.events.list(after_id=arguments.after, kinds=arguments.kind)


class Watch:
    """``event watch``: events as they happen, until somebody stops it."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_KIND,))
        parser.add_argument(
            "--after", metavar="ID", type=int, help="begin after this one instead of now"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        with invocation.client() as client:
            for event in client.events.watch(after_id=arguments.after, kinds=arguments.kind):
                if invocation.json:
                    output.write_document(as_document(event))
                else:
                    line = f"{text.moment(event.at)}  {event.kind:22}{text.name(event.message)}"
                    output.write_lines([line])
                output.flush()
        return Outcome()


VERBS = {
    "list": Listing(
        "event",
        _list,
        (
            column("time", "at"),
            column("kind"),
            column("message"),
            column("about", "subject_id"),
            column("id", right=True),
        ),
        (_KIND, argument("--after", metavar="ID", type=int, help="only those after this one")),
    ),
    "watch": Watch(),
}
