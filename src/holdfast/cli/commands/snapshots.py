"""``holdfast snapshots``: list the snapshots."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import add_choice, matcher, newest_of_each, snapshot_document
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, value_of
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.model.snapshot import Snapshot

_HEADER = ("id", "time", "host", "tags", "size", "paths")


def configure(parser: Parser) -> None:
    add_choice(parser)
    parser.add_argument(
        "--latest",
        metavar="N",
        type=value_of(values.natural),
        help="only the N newest of each host and set of paths",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    snapshots, findings = invocation.open_repository().snapshots()
    snapshots = list(filter(matcher(arguments), snapshots))
    if arguments.latest is not None:
        snapshots = newest_of_each(snapshots, arguments.latest)
    return Outcome(
        {"snapshots": [snapshot_document(each) for each in snapshots]},
        answer=text.table(_HEADER, _rows(snapshots), right=("size",)) if snapshots else (),
        summary=["", text.count(len(snapshots), "snapshot")],
        findings=findings,
    )


def _rows(snapshots: list[Snapshot]) -> Iterator[tuple[str, ...]]:
    for each in snapshots:
        seen = each.summary.get("total_bytes_processed")
        size = print_bytes(seen) if isinstance(seen, int) else ""
        first, *others = each.paths or ("",)
        moment = text.moment(each.time)
        yield each.short_id, moment, each.hostname, ",".join(each.tags), size, first
        for path in others:
            yield "", "", "", "", "", path
