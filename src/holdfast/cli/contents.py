"""What is in a server's snapshots: ``snapshot browse``, ``snapshot diff``, ``download``."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from holdfast.cli import output, text, values
from holdfast.cli.choose import snapshot_id
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.errors import TargetNotEmpty, UsageError
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.data import Entry

Chooser: TypeAlias = "Callable[[Client, str], str]"
"""From what a person wrote to the id of a snapshot."""

_MEANS = "an id, a name, or `latest`"
_SIGNS = {"added": "+", "removed": "-", "modified": "M", "metadata": "U", "type": "T"}


class Browse:
    """``snapshot browse``: what a directory holds."""

    def configure(self, parser: Parser) -> None:
        parser.add_argument(
            "snapshot",
            metavar="SNAPSHOT[:PATH]",
            help="an id, a name, or `latest`; the path is relative to what was captured",
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        name, path = values.snapshot_and_path(arguments.snapshot)
        with invocation.client() as client:
            chosen = snapshot_id(client, name)
            for entry in client.data.entries(chosen, path):
                if invocation.json:
                    output.write_document(as_document(entry))
                else:
                    output.write_lines([_line(entry)])
        return Outcome()


@dataclass(frozen=True, slots=True)
class Compare:
    """``snapshot diff``: what differs from one snapshot to another."""

    choose: Chooser = snapshot_id
    means: str = _MEANS

    def configure(self, parser: Parser) -> None:
        parser.add_argument("old", metavar="OLD[:PATH]", help=f"{self.means}; only below the path")
        parser.add_argument("new", metavar="NEW", help=self.means)
        parser.add_argument(
            "--content", action="store_true", help="leave out what differs in metadata only"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        old, path = values.snapshot_and_path(arguments.old)
        count = 0
        with invocation.client() as client:
            ids = self.choose(client, old), self.choose(client, arguments.new)
            for each in client.data.diff(*ids, path, metadata=not arguments.content):
                count += 1
                if invocation.json:
                    output.write_document(as_document(each))
                else:
                    sign = _SIGNS.get(each.change, each.change)
                    grown = f"  ({each.growth_bytes:+,} bytes)" if each.growth_bytes else ""
                    output.write_lines([f"{sign}  {text.name(each.path)}{grown}"])
        if invocation.json:
            return Outcome()
        return Outcome(summary=["", text.count(count, "difference")])


@dataclass(frozen=True, slots=True)
class Download:
    """``snapshot download``: a file, a folder as an archive, or everything."""

    choose: Chooser = snapshot_id
    means: str = _MEANS

    def configure(self, parser: Parser) -> None:
        parser.add_argument(
            "snapshot",
            metavar="SNAPSHOT[:PATH]",
            help=f"{self.means}; without a path everything",
        )
        parser.add_argument(
            "-o",
            "--output",
            metavar="FILE",
            help="where to, or - for standard output; by default by its name into this directory",
        )
        parser.add_argument(
            "--format", choices=("zip", "tar"), default="zip", help="of archives (default: zip)"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        name, path = values.snapshot_and_path(arguments.snapshot)
        path = path.strip("/")
        with invocation.client() as client:
            chosen = self.choose(client, name)
            entry = client.data.entry(chosen, path)
            is_file = entry is not None and entry.kind == "file"
            target = arguments.output or _target(entry, path, arguments.format)
            if target != "-" and os.path.lexists(target):
                raise TargetNotEmpty(f"{target} is there already; choose another name with -o.")
            sink = output.RawOutput() if target == "-" else target
            report, form = invocation.progress, arguments.format
            if is_file:
                size = client.data.download_file(chosen, path, sink, report=report)
            elif path:
                size = client.data.download_folder(chosen, path, sink, form=form, report=report)
            else:
                size = client.data.download_archive(chosen, sink, form=form, report=report)
        if target == "-":
            output.RawOutput().flush()
            return Outcome(raw=True)
        return Outcome(
            {"download": {"file": os.path.abspath(target), "bytes": size}},
            summary=[f"{print_bytes(size)} in {target}"],
        )


def _target(entry: Entry | None, path: str, form: str) -> str:
    name = os.path.basename(path)
    if entry is None or entry.kind != "file":
        return f"{name or 'snapshot'}.{form}"
    if not name:
        name = os.path.basename(entry.name)
    if name in ("", ".", ".."):
        raise UsageError("This has no name to call a file by; give -o FILE.")
    return name


def _line(entry: Entry) -> str:
    size = print_bytes(entry.size_bytes) if entry.kind == "file" else ""
    arrow = f" -> {text.name(entry.link_target)}" if entry.link_target else ""
    end = "/" if entry.kind == "directory" else ""
    return f"{size:>10}  {entry.mtime[:19].replace('T', ' ')}  {text.name(entry.name)}{end}{arrow}"
