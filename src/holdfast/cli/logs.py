"""A log's lines on standard output: text for people, JSON lines for programs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli import output, text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.verbs import Argument, declare

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.jobs import Line


@dataclass(frozen=True, slots=True)
class LogOf:
    """A command that prints what a run said."""

    subject: Argument
    fetch: Callable[[Client, Namespace], Iterable[Line]]

    def configure(self, parser: Parser) -> None:
        declare(parser, (self.subject,))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        with invocation.client() as client:
            for line in self.fetch(client, arguments):
                if invocation.json:
                    output.write_document(as_document(line))
                else:
                    level = "" if line.level == "info" else f"{line.level}: "
                    output.write_lines([f"{text.moment(line.at)}  {level}{text.name(line.text)}"])
        return Outcome()
