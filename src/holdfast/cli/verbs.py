"""Commands to a server as tables: what to fetch or do, and how to show it.

A noun's module says which columns its list has and which call each verb makes; the rest is
here once. Records of the SDK go out as JSON under the same words as in the API.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from holdfast.cli import text, values
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, value_of
from holdfast.errors import UsageError
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, as `argparse` is told of it."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


def declare(parser: Parser, arguments: Iterable[Argument]) -> None:
    for each in arguments:
        parser.add_argument(*each.names, **each.options)


YES = argument("-y", "--yes", action="store_true", help="do not ask")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, or one line about a single thing."""

    title: str
    show: Callable[[Any], str]
    right: bool = False


def column(title: str, member: str = "", *, right: bool = False) -> Column:
    """A column of a record's member, which is called as the title unless it is named."""
    name = member or title.replace(" ", "_")
    return Column(title, lambda record: shown(getattr(record, name)), right=right)


def size(title: str, member: str) -> Column:
    return Column(title, lambda record: shown_bytes(getattr(record, member)), right=True)


def shown(value: object) -> str:
    """A value for people."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return text.moment(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(each)}" for name, each in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return str(value)


def shown_bytes(value: int | None) -> str:
    return "" if value is None else print_bytes(value)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: ``noun list``."""

    noun: str
    fetch: Callable[[Client, Namespace], Iterable[Any]]
    columns: Sequence[Column]
    arguments: Sequence[Argument] = ()
    plural: str = ""

    def configure(self, parser: Parser) -> None:
        declare(parser, self.arguments)
        parser.add_argument(
            "--limit",
            metavar="N",
            type=value_of(values.count_or_all),
            default=DEFAULT_LIMIT,
            help=f"at most so many, or `all` (default: {DEFAULT_LIMIT})",
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        plural = self.plural or f"{self.noun}s"
        with invocation.client() as client:
            fetched = iter(self.fetch(client, arguments))
            limit = None if arguments.limit < 0 else arguments.limit
            records = list(islice(fetched, limit))
            more = limit is not None and limit > 0 and next(fetched, None) is not None
        counted = text.count(len(records), self.noun, plural)
        return Outcome(
            {plural.replace(" ", "_"): [as_document(each) for each in records], "more": more},
            answer=table(self.columns, records),
            summary=["", f"{counted}, and there are more: see --limit" if more else counted],
        )


@dataclass(frozen=True, slots=True)
class Showing:
    """One thing: ``noun show ID``."""

    noun: str
    fetch: Callable[[Client, Namespace], Any]
    columns: Sequence[Column]
    arguments: Sequence[Argument] = ()

    def configure(self, parser: Parser) -> None:
        declare(parser, self.arguments)

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            record = self.fetch(client, arguments)
        return Outcome(document_of(self.noun, record), answer=details(self.columns, record))


@dataclass(frozen=True, slots=True)
class Doing:
    """An act on one thing; `asks` is the question before one that removes something."""

    noun: str
    act: Callable[[Client, Namespace], Any]
    said: Callable[[Any, Namespace], str]
    arguments: Sequence[Argument] = ()
    asks: Callable[[Namespace], str] | None = None
    shows: Sequence[Column] = field(default=())

    def configure(self, parser: Parser) -> None:
        declare(parser, self.arguments)
        if self.asks is not None:
            declare(parser, (YES,))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        if self.asks is not None:
            invocation.confirm(self.asks(arguments), ())
        with invocation.client() as client:
            record = self.act(client, arguments)
        return Outcome(
            document_of(self.noun, record),
            answer=details(self.shows, record) if self.shows else (),
            summary=[self.said(record, arguments)],
        )


def document_of(noun: str, record: object) -> dict[str, object]:
    from holdfast.sdk.record import as_document

    return {noun.replace(" ", "_").replace("-", "_"): as_document(record)}


def table(columns: Sequence[Column], records: Sequence[Any]) -> Iterable[str]:
    """Records as lines under a header; nothing for no records."""
    if not records:
        return ()
    return text.table(
        [each.title for each in columns],
        ([each.show(record) for each in columns] for record in records),
        right=[each.title for each in columns if each.right],
    )


def details(columns: Sequence[Column], record: Any) -> Iterator[str]:
    """One thing as a line for each of its members that has a value."""
    width = max((len(each.title) for each in columns), default=0) + 2
    for each in columns:
        if value := each.show(record):
            yield f"{each.title + ':':{width}}{text.name(value)}"


def labels(pairs: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` arguments."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"{pair!r} is no label; write KEY=VALUE")
        found[name] = value
    return found


def given(**members: object) -> dict[str, object]:
    """Those members that a person gave; None stands for one that was not."""
    return {name: value for name, value in members.items() if value is not None}
