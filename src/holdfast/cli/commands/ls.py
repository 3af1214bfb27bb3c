"""``holdfast ls``: list what a snapshot holds."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import closing
from typing import TYPE_CHECKING, cast

from holdfast.cli import output, values
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.entries import entry_document, long_line, shown_path
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.errors import UsageError
from holdfast.model.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Generator

    from holdfast.flows.browse import BrowsedEntry


def configure(parser: Parser) -> None:
    add_snapshot(parser, with_path=True)
    parser.add_argument(
        "directory",
        metavar="PATH",
        nargs="?",
        default="",
        help="a directory in it; without one, everything is listed",
    )
    parser.add_argument("-l", "--long", action="store_true", help="with mode, owner, size and time")
    parser.add_argument(
        "-R", "--recursive", action="store_true", help="also what is below the directories"
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.browse import BrowseRequest, browse
    from holdfast.flows.locate import normal_path

    name, path = values.snapshot_and_path(arguments.snapshot)
    if path and arguments.directory:
        raise UsageError("the path is named twice; write it once")
    path = path or arguments.directory
    repository = invocation.open_repository()
    request = BrowseRequest(
        snapshot=chosen(repository, arguments, name).id,
        path=normal_path(os.fsencode(path)),
        recursive=arguments.recursive or not path,
        with_lock=invocation.with_lock,
    )
    findings: list[Finding] = []
    with closing(
        cast("Generator[BrowsedEntry, None, None]", browse(repository, request, findings.append))
    ) as entries:
        for entry in entries:
            if invocation.json:
                output.write_document(entry_document(entry.path, entry.node))
            elif arguments.long:
                output.write_lines([long_line(entry.path, entry.node)])
            else:
                output.write_lines([shown_path(entry.path)])
    return Outcome(findings=findings)
