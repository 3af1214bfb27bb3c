"""``holdfast disk export``: write a disk of a snapshot as a raw or qcow2 image."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_workers
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.export_disk import DiskExportResult


def configure(parser: Parser) -> None:
    add_snapshot(parser)
    parser.add_argument(
        "disk", metavar="NAME", nargs="?", default="", help="the disk, where there are several"
    )
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="the image to make, or a block device"
    )
    parser.add_argument(
        "--format", choices=("raw", "qcow2"), default="raw", help="of the image (default: raw)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file, or what is on a block device"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read everything back when it is written"
    )
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.backup_disk import DISK_TAG
    from holdfast.flows.export_disk import DiskExportRequest, DiskFormat, export_disk

    repository = invocation.open_repository()
    snapshot = chosen(repository, arguments, arguments.snapshot, lambda each: DISK_TAG in each.tags)
    request = DiskExportRequest(
        snapshot=snapshot.id,
        output=arguments.output,
        disk=arguments.disk,
        format=DiskFormat(arguments.format),
        overwrite=arguments.overwrite,
        verify=arguments.verify,
        workers=invocation.workers,
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    result = export_disk(repository, request, invocation.progress)
    return Outcome(
        {
            "snapshot": result.snapshot,
            "disk": result.disk,
            "output": arguments.output,
            "format": arguments.format,
            "size_bytes": result.size_bytes,
            "data_bytes": result.data_bytes,
            "damaged_bytes": result.damaged_bytes,
            "complete": result.complete,
            "verified": result.verified,
            "seconds": round(result.seconds, 3),
        },
        summary=_summary(result, arguments.output),
        findings=result.findings,
    )


def _summary(result: DiskExportResult, output: str) -> list[str]:
    size, data = print_bytes(result.size_bytes), print_bytes(result.data_bytes)
    lines = [f"{result.disk}: {size}, of which {data} are data, written to {text.name(output)}"]
    if result.verified and result.complete:
        lines.append("read back, and the same")
    if not result.complete:
        lines.append(f"{print_bytes(result.damaged_bytes)} are lost and zero in it")
    return [*lines, f"done in {text.duration(result.seconds)}"]
