"""``holdfast backup``: store files and directories as a new snapshot."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import snapshot_document
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import (
    Parser,
    add_compression,
    add_parent,
    add_patterns,
    add_record,
    add_workers,
    value_of,
)
from holdfast.errors import UsageError
from holdfast.model.quantity import parse_bytes, print_bytes

if TYPE_CHECKING:
    from holdfast.flows.backup import BackupResult
    from holdfast.sources.path.selection import Selection


def configure(parser: Parser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to back up")
    rules = add_patterns(parser, "what to leave out")
    rules.add_argument(
        "--exclude-file",
        metavar="FILE",
        action="append",
        default=[],
        help="a file of exclude patterns, one on a line",
    )
    rules.add_argument(
        "--exclude-caches",
        action="store_true",
        help="leave out what lies in directories with a CACHEDIR.TAG",
    )
    rules.add_argument(
        "--exclude-if-present",
        metavar="NAME",
        action="append",
        default=[],
        help="leave out what lies in directories that hold this name",
    )
    rules.add_argument(
        "--exclude-larger-than",
        metavar="SIZE",
        type=value_of(parse_bytes),
        help="leave out larger files, such as 10GiB",
    )
    rules.add_argument(
        "--one-file-system", action="store_true", help="stay out of other mounted file systems"
    )
    add_record(parser)
    reading = parser.add_argument_group("how to read")
    add_parent(reading, "host and paths")
    reading.add_argument(
        "--consistency",
        choices=("auto", "snapshot", "reflink", "live"),
        default="auto",
        help="read from a btrfs snapshot where there can be one (auto), only so (snapshot), "
        "from clones of the files (reflink), or from the files themselves (live)",
    )
    reading.add_argument("--with-atime", action="store_true", help="record access times")
    reading.add_argument(
        "--ignore-inode",
        action="store_true",
        help="take files for unchanged although their inode or change time is another one",
    )
    add_compression(parser)
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="read everything and store nothing"
    )
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.backup import BackupRequest, backup
    from holdfast.repo.writer import Compression
    from holdfast.sources.path.ladder import Wish

    selection = _selection(arguments)
    selection.check()
    request = BackupRequest(
        paths=tuple(os.fsencode(path) for path in arguments.paths),
        selection=selection,
        tags=values.tags(arguments.tag),
        hostname=arguments.host,
        time=arguments.time,
        parent=None if arguments.force else arguments.parent,
        wish=Wish(arguments.consistency),
        one_file_system=arguments.one_file_system,
        with_atime=arguments.with_atime,
        ignore_inode=arguments.ignore_inode,
        workers=invocation.workers,
        compression=Compression(arguments.compression),
        dry_run=arguments.dry_run,
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    result = backup(invocation.open_repository(), request, invocation.progress)
    return Outcome(_document(result), summary=_summary(result), findings=result.findings)


def _selection(arguments: Namespace) -> Selection:
    from holdfast.sources.path.selection import Selection

    exclude = list(arguments.exclude)
    for path in arguments.exclude_file:
        exclude += _patterns(path)
    return Selection(
        exclude=tuple(exclude),
        include=tuple(arguments.include),
        whitelist=tuple(arguments.whitelist),
        blacklist=tuple(arguments.blacklist),
        larger_than_bytes=arguments.exclude_larger_than,
        caches=arguments.exclude_caches,
        if_present=tuple(arguments.exclude_if_present),
    )


def _patterns(path: str) -> list[str]:
    from holdfast.model.patterns import read_pattern_lines

    try:
        with open(path, "rb") as file:
            lines = read_pattern_lines(file.read())
    except OSError as error:
        raise UsageError(f"the file of patterns {path} cannot be read: {error.strerror}") from None
    return [line.decode("utf-8", "surrogateescape") for line in lines if line]


def _document(result: BackupResult) -> dict[str, object]:
    counts, added = result.counts, result.added
    return {
        "snapshot": None if result.snapshot is None else snapshot_document(result.snapshot),
        "parent": result.parent,
        "files_new": counts.files_new,
        "files_changed": counts.files_changed,
        "files_unmodified": counts.files_unmodified,
        "dirs_new": counts.dirs_new,
        "dirs_changed": counts.dirs_changed,
        "dirs_unmodified": counts.dirs_unmodified,
        "bytes_processed": counts.bytes_seen,
        "bytes_added": added.raw_bytes,
        "bytes_stored": added.stored_bytes,
        "seconds": round(result.seconds, 3),
    }


def _summary(result: BackupResult) -> list[str]:
    counts, added = result.counts, result.added
    speed = print_bytes(int(counts.bytes_seen / max(result.seconds, 1e-3)))
    lines = [
        (
            f"{text.count(counts.files, 'file')}: {counts.files_new:,} new, "
            f"{counts.files_changed:,} changed, {counts.files_unmodified:,} unmodified"
        ),
        f"{print_bytes(counts.bytes_seen)} in {text.duration(result.seconds)} ({speed}/s)",
        f"{print_bytes(added.raw_bytes)} were new, {print_bytes(added.stored_bytes)} stored",
    ]
    if result.snapshot is None:
        lines.append("dry run: nothing was stored")
    else:
        against = f", compared with {result.parent[:8]}" if result.parent else ""
        lines.append(f"snapshot {result.snapshot.short_id} saved{against}")
    return lines
