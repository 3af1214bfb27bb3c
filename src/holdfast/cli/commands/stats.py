"""``holdfast stats``: say how much is stored, and how much deduplication saves."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.repo.statistics import RepositoryStatistics

_HEADER = ("id", "files", "size", "only its own")


def configure(parser: Parser) -> None:
    parser.add_argument(
        "snapshots",
        metavar="SNAPSHOT",
        nargs="*",
        help="say what removing these snapshots would give back",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.statistics import freed_by_deleting, statistics

    repository = invocation.open_repository()
    if not arguments.snapshots:
        result = statistics(
            repository, invocation.progress, wait_for_lock_seconds=invocation.wait_seconds
        )
        return Outcome(_document(result), answer=_lines(result))
    ids = [repository.find_snapshot(name).id for name in arguments.snapshots]
    freed = freed_by_deleting(repository, ids, wait_for_lock_seconds=invocation.wait_seconds)
    return Outcome(
        {
            "snapshots": ids,
            "freed_bytes": freed.total_bytes,
            "freed_at_once_bytes": freed.at_once_bytes,
            "freed_after_repack_bytes": freed.after_repack_bytes,
        },
        answer=[
            f"not needed without {text.count(len(set(ids)), 'snapshot')}:",
            f"in packs of their own:        {print_bytes(freed.at_once_bytes)}",
            f"in packs that others need:    {print_bytes(freed.after_repack_bytes)}",
        ],
    )


def _document(result: RepositoryStatistics) -> dict[str, object]:
    return {
        "logical_bytes": result.logical_bytes,
        "raw_bytes": result.raw_bytes,
        "needed_bytes": result.needed_bytes,
        "deduplication": round(result.deduplication, 4),
        "compression": round(result.compression, 4),
        "blobs": result.blobs,
        "packs": result.packs,
        "pack_bytes": result.pack_bytes,
        "snapshots": [
            {
                "id": each.id,
                "files": each.files,
                "logical_bytes": each.logical_bytes,
                "unique_bytes": each.unique_bytes,
            }
            for each in result.snapshots
        ],
    }


def _lines(result: RepositoryStatistics) -> list[str]:
    rows = [
        (
            each.id[:8],
            f"{each.files:,}",
            print_bytes(each.logical_bytes),
            print_bytes(each.unique_bytes),
        )
        for each in result.snapshots
    ]
    once = f"{print_bytes(result.raw_bytes)}, {result.deduplication:.2f} times less"
    packed = f"{print_bytes(result.needed_bytes)}, {result.compression:.2f} times less"
    return [
        *text.table(_HEADER, rows, right=("files", "size", "only its own")),
        "",
        f"in all snapshots: {print_bytes(result.logical_bytes)}",
        f"each piece once:  {once}",
        f"compressed:       {packed}",
        f"packs:            {print_bytes(result.pack_bytes)} in {result.packs:,}",
    ]
