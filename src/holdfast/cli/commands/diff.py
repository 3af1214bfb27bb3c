"""``holdfast diff``: compare two snapshots."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import closing
from typing import TYPE_CHECKING, cast

from holdfast.cli import output, text, values
from holdfast.cli.choice import add_choice, chosen
from holdfast.cli.entries import entry_document, shown_path
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.model.finding import Finding
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from collections.abc import Generator

    from holdfast.flows.diff import Change, DiffTotals

_MARKS = {"added": "+", "removed": "-", "modified": "M", "metadata": "U", "type": "T"}


def configure(parser: Parser) -> None:
    parser.add_argument("old", metavar="OLD[:PATH]", help="a snapshot, or a place in one")
    parser.add_argument("new", metavar="NEW[:PATH]", help="another one")
    parser.add_argument(
        "--no-metadata",
        action="store_true",
        help="leave out entries of which only mode, owner, time or attributes changed",
    )
    add_choice(parser, "latest is the newest")


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.diff import DiffRequest, DiffTotals, diff
    from holdfast.flows.locate import normal_path

    repository = invocation.open_repository()
    (old, old_path), (new, new_path) = map(values.snapshot_and_path, (arguments.old, arguments.new))
    request = DiffRequest(
        old=chosen(repository, arguments, old).id,
        new=chosen(repository, arguments, new).id,
        old_path=normal_path(os.fsencode(old_path)),
        new_path=normal_path(os.fsencode(new_path)),
        metadata=not arguments.no_metadata,
        with_lock=invocation.with_lock,
    )
    totals = DiffTotals()
    findings: list[Finding] = []
    with closing(
        cast("Generator[Change, None, None]", diff(repository, request, findings.append))
    ) as changes:
        for change in changes:
            totals.add(change)
            if invocation.json:
                output.write_document(_document(change))
            else:
                mark = _MARKS[change.kind.value]
                output.write_lines([f"{mark} {shown_path(change.path)}"])
    if invocation.json:
        output.write_document({"totals": _totals(totals)})
    return Outcome(summary=_summary(totals), findings=findings)


def _document(change: Change) -> dict[str, object]:
    return {
        "change": change.kind.value,
        "path": "/" + os.fsdecode(change.path),
        "old": None if change.old is None else entry_document(change.path, change.old),
        "new": None if change.new is None else entry_document(change.path, change.new),
    }


def _totals(totals: DiffTotals) -> dict[str, object]:
    counts = (
        ("files", totals.files),
        ("directories", totals.directories),
        ("others", totals.others),
    )
    return {
        **{name: {kind.value: number for kind, number in by.items()} for name, by in counts},
        "added_bytes": totals.added_bytes,
        "removed_bytes": totals.removed_bytes,
    }


def _summary(totals: DiffTotals) -> list[str]:
    lines = [""]
    for noun, plural, counts in (
        ("file", "files", totals.files),
        ("directory", "directories", totals.directories),
        ("other entry", "other entries", totals.others),
    ):
        words = [f"{number:,} {kind.value}" for kind, number in counts.items() if number]
        if words:
            total = sum(counts.values())
            lines.append(f"{text.count(total, noun, plural)}: {', '.join(words)}")
    lines.append(
        f"{print_bytes(totals.added_bytes)} came, {print_bytes(totals.removed_bytes)} went"
    )
    return lines
