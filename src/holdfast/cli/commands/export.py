"""``holdfast export``: write a snapshot, or a part of one, as a tar or zip archive."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.output import RawOutput
from holdfast.cli.parser import Parser
from holdfast.errors import UsageError
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.export_archive import ExportRequest, ExportResult
    from holdfast.repo.repository import Repository

_BUFFER_BYTES = 1 << 20


def configure(parser: Parser) -> None:
    add_snapshot(parser, with_path=True)
    parser.add_argument(
        "--format", choices=("tar", "zip"), default="tar", help="of the archive (default: tar)"
    )
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="the archive; - is standard output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--strict", action="store_true", help="stop where something is damaged, leave nothing zero"
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.export_archive import ArchiveFormat, ExportRequest, export_archive
    from holdfast.flows.locate import normal_path

    to_stdout = arguments.output == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal; redirect the output or name a file")
    name, path = values.snapshot_and_path(arguments.snapshot)
    inside = normal_path(os.fsencode(path))
    repository = invocation.open_repository()
    request = ExportRequest(
        snapshot=chosen(repository, arguments, name).id,
        path=inside,
        format=ArchiveFormat(arguments.format),
        strict=arguments.strict,
        with_lock=invocation.with_lock,
    )
    if to_stdout:
        out = RawOutput()
        result = export_archive(repository, request, out, invocation.progress)
        out.flush()
        return Outcome(findings=result.findings, raw=True)
    result = _to_file(repository, request, arguments, invocation)
    document = {
        "output": arguments.output,
        "entries": result.entries,
        "bytes_written": result.bytes_written,
        "seconds": round(result.seconds, 3),
    }
    summary = (
        f"{text.count(result.entries, 'entry', 'entries')}, {print_bytes(result.bytes_written)}, "
        f"written to {text.name(arguments.output)} in {text.duration(result.seconds)}"
    )
    return Outcome(document, summary=[summary], findings=result.findings)


def _to_file(
    repository: Repository, request: ExportRequest, arguments: Namespace, invocation: Invocation
) -> ExportResult:
    from holdfast.flows.export_archive import export_archive
    from holdfast.sources.disk.target import TargetFile, translated

    with TargetFile(arguments.output, overwrite=arguments.overwrite, fsync=True) as target:
        try:
            with open(target.fd, "wb", buffering=_BUFFER_BYTES, closefd=False) as file:
                return export_archive(repository, request, file, invocation.progress)
        except OSError as error:
            raise translated(error, arguments.output) from error
