"""``holdfast disk backup``: store disk images or block devices as a new snapshot."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import snapshot_document
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_compression, add_parent, add_record, add_workers
from holdfast.errors import UsageError
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.backup_disk import DiskBackupResult


def configure(parser: Parser) -> None:
    parser.add_argument(
        "disks",
        metavar="NAME=IMAGE",
        nargs="+",
        help="a name for the disk, and a raw or qcow2 image or a block device",
    )
    add_record(parser)
    reading = parser.add_argument_group("how to read")
    add_parent(reading, "host and disks")
    reading.add_argument(
        "--dirty",
        metavar="[NAME=]FILE",
        action="append",
        default=[],
        help="a JSON list of the ranges that changed since the parent; no other is read",
    )
    add_compression(parser)
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.backup_disk import DiskBackupRequest, backup_disk
    from holdfast.repo.writer import Compression

    disks = _named(arguments.disks, "NAME=IMAGE, such as vda=/srv/images/web.qcow2")
    only = next(iter(disks)) if len(disks) == 1 else None
    dirty = _named(arguments.dirty, "NAME=FILE where there are several disks", only)
    request = DiskBackupRequest(
        disks=disks,
        dirty=dirty,
        parent=None if arguments.force else arguments.parent,
        tags=values.tags(arguments.tag),
        hostname=arguments.host,
        time=arguments.time,
        workers=invocation.workers,
        compression=Compression(arguments.compression),
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    result = backup_disk(invocation.open_repository(), request, invocation.progress)
    return Outcome(_document(result), summary=_summary(result), findings=result.findings)


def _named(texts: list[str], form: str, only: str | None = None) -> dict[str, str]:
    """Read NAME=VALUE; without a name it is that of the `only` disk."""
    found: dict[str, str] = {}
    for each in texts:
        name, equals, value = each.partition("=")
        if not equals and only is not None:
            name, value = only, each
        if not name or not value:
            raise UsageError(f"{each!r} cannot be meant; write {form}")
        if name in found:
            raise UsageError(f"{name!r} is named twice; every disk has a name of its own")
        found[name] = value
    return found


def _document(result: DiskBackupResult) -> dict[str, object]:
    return {
        "snapshot": snapshot_document(result.snapshot),
        "parent": result.parent,
        "consistency": result.consistency.value,
        "disks": [
            {
                "name": disk.name,
                "size_bytes": disk.size_bytes,
                "zero_bytes": disk.zero_bytes,
                "read_bytes": disk.read_bytes,
                "reused_bytes": disk.reused_bytes,
                "whole_read_reason": disk.whole_read_reason,
            }
            for disk in result.disks
        ],
        "bytes_added": result.added.raw_bytes,
        "bytes_stored": result.added.stored_bytes,
        "seconds": round(result.seconds, 3),
    }


def _summary(result: DiskBackupResult) -> list[str]:
    lines = [
        f"{disk.name}: {print_bytes(disk.size_bytes)}, of which {print_bytes(disk.read_bytes)} "
        f"were read, {print_bytes(disk.reused_bytes)} are the parent's and "
        f"{print_bytes(disk.zero_bytes)} zero"
        for disk in result.disks
    ]
    added = result.added
    against = f", compared with {result.parent[:8]}" if result.parent else ""
    return [
        *lines,
        f"{print_bytes(added.raw_bytes)} were new, {print_bytes(added.stored_bytes)} stored",
        f"snapshot {result.snapshot.short_id} saved in {text.duration(result.seconds)}{against}",
    ]
