"""``holdfast copy``: copy snapshots into another repository."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.choice import add_choice, chosen, matcher, snapshot_document
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_compression, add_other_repository, add_workers
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.copy import CopyResult
    from holdfast.repo.repository import Repository


def configure(parser: Parser) -> None:
    parser.add_argument(
        "snapshots", metavar="SNAPSHOT", nargs="*", help="snapshots to copy; by default all"
    )
    add_other_repository(parser, "to", "where to copy to; it must exist", required=True)
    add_choice(parser)
    add_compression(parser)
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.copy import CopyRequest, copy
    from holdfast.repo.writer import Compression

    source = invocation.open_repository()
    destination = invocation.open_other(
        arguments.other, arguments.other_password_file, arguments.other_password_command
    )
    ids = _ids(source, arguments)
    if ids == ():
        return Outcome({"copied": [], "skipped": []}, summary=["no snapshot matches"])
    request = CopyRequest(
        ids=ids or (),
        workers=invocation.workers,
        compression=Compression(arguments.compression),
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    result = copy(source, destination, request, invocation.progress)
    document = {
        "copied": [
            {"source": old, "snapshot": snapshot_document(new)} for old, new in result.copied
        ],
        "skipped": list(result.skipped),
        "bytes_read": result.bytes_read,
        "bytes_added": result.added.raw_bytes,
        "bytes_stored": result.added.stored_bytes,
        "seconds": round(result.seconds, 3),
    }
    return Outcome(document, summary=_summary(result), findings=result.findings)


def _ids(source: Repository, arguments: Namespace) -> tuple[str, ...] | None:
    """Full ids of what is to be copied; None for all there is."""
    if arguments.snapshots:
        return tuple(chosen(source, arguments, name).id for name in arguments.snapshots)
    if not (arguments.host or arguments.path or arguments.tag):
        return None
    snapshots, _ = source.snapshots()
    return tuple(snapshot.id for snapshot in filter(matcher(arguments), snapshots))


def _summary(result: CopyResult) -> list[str]:
    lines = [f"snapshot {old[:8]} is there as {new.short_id}" for old, new in result.copied]
    if result.skipped:
        lines.append(f"{text.count(len(result.skipped), 'snapshot')} were there already")
    read, stored = print_bytes(result.bytes_read), print_bytes(result.added.stored_bytes)
    return [*lines, f"{read} read and {stored} stored in {text.duration(result.seconds)}"]
