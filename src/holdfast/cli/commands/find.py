"""``holdfast find``: find the snapshots that hold a name."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import output, text, values
from holdfast.cli.choice import add_choice, matcher
from holdfast.cli.entries import entry_document, modified, shown_path
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, value_of
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.find import FindResult
    from holdfast.repo.repository import Repository


def configure(parser: Parser) -> None:
    parser.add_argument(
        "patterns", metavar="PATTERN", nargs="+", help="a name or pattern, written as in .gitignore"
    )
    parser.add_argument("--below", metavar="DIRECTORY", default="", help="only below this path")
    moment = value_of(values.moment)
    parser.add_argument("--newer", metavar="TIME", type=moment, help="only what changed since then")
    parser.add_argument("--older", metavar="TIME", type=moment, help="only what did not")
    add_choice(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.find import FindRequest, find
    from holdfast.flows.locate import normal_path
    from holdfast.model.patterns import PathFilter

    PathFilter(include=arguments.patterns)  # a bad pattern is said before a password is asked for
    repository = invocation.open_repository()
    ids = _ids(repository, arguments)
    if ids == ():
        return Outcome(summary=["no snapshot matches"])
    request = FindRequest(
        patterns=tuple(arguments.patterns),
        path=normal_path(os.fsencode(arguments.below)),
        snapshots=ids or (),
        modified_from=arguments.newer,
        modified_until=arguments.older,
        with_lock=invocation.with_lock,
    )
    result = find(repository, request, invocation.progress)
    invocation.progress.clear()
    if invocation.json:
        for version in result.versions:
            document = entry_document(version.path, version.node)
            output.write_document({**document, "snapshots": list(version.snapshots)})
        return Outcome(findings=result.findings)
    return Outcome(answer=_lines(result), summary=_summary(result), findings=result.findings)


def _ids(repository: Repository, arguments: Namespace) -> tuple[str, ...] | None:
    """Ids of the snapshots to search; None for all there are."""
    if not (arguments.host or arguments.path or arguments.tag):
        return None
    snapshots, _ = repository.snapshots()
    return tuple(snapshot.id for snapshot in filter(matcher(arguments), snapshots))


def _lines(result: FindResult) -> Iterator[str]:
    last = None
    for version in result.versions:
        if version.path != last:
            yield shown_path(version.path)
            last = version.path
        ids = " ".join(name[:8] for name in version.snapshots)
        yield f"  {modified(version.node)}  {print_bytes(version.node.size):>10}  {ids}"


def _summary(result: FindResult) -> list[str]:
    versions = text.count(len(result.versions), "version")
    return [f"{versions} in {text.count(result.searched_snapshots, 'snapshot')}"]
