"""Exporting a snapshot, or a part of one, as one archive: tar or ZIP, to any binary stream.

Written in one pass, in memory that does not grow with its bytes; it grows with the entries of
a ZIP archive, less than a kilobyte each, and with the hard links of a tar archive. Nothing is
left out or changed without a finding: damage is written as zeroes and named, and what the
format cannot hold is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from holdfast.errors import Damaged
from holdfast.flows.browse import BrowsedEntry, entries_below
from holdfast.flows.dump import ContentReader, Sink
from holdfast.flows.locate import MANIFEST_DIRECTORY, Place, Trees, has_manifest, locate
from holdfast.flows.read_session import ReadSession
from holdfast.flows.restore_messages import damage_finding
from holdfast.flows.tar_stream import TarStream
from holdfast.flows.zip_stream import ZipStream
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import check_name
from holdfast.sources.path.hard_links import HardLinks
from holdfast.sources.path.tally import FindingTally, printable

_REPORT_SECONDS = 0.2
_ZIP_NAME_BYTES = 65_000


class ArchiveFormat(StrEnum):
    """Forms of an archive. Only tar holds everything that a snapshot does."""

    TAR = "tar"
    ZIP = "zip"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export: everything at and below `path`, under the name of `path` itself.

    The whole snapshot is exported under the paths that were backed up, without the leading
    slash. `level` is how hard ZIP compresses, 0 to 9. `strict` makes damage an error.
    """

    snapshot: str
    path: bytes = b""
    format: ArchiveFormat = ArchiveFormat.TAR
    level: int = 1
    with_manifest: bool = False
    strict: bool = False
    with_lock: bool = True


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written: entries, logical bytes of files, and what a person should know."""

    entries: int
    bytes_written: int
    findings: tuple[Finding, ...]
    seconds: float


def export_archive(
    repository: Repository, request: ExportRequest, out: Sink, report: Report = ignore_progress
) -> ExportResult:
    """Write the archive to `out`, which is not closed.

    Raises `NotFound`, and `PathEscapes` for a snapshot with names that would lead elsewhere
    when the archive is unpacked.
    """
    started = time.monotonic()
    with ReadSession(repository, with_lock=request.with_lock) as session:
        snapshot = session.snapshot(request.snapshot)
        trees = Trees(session.reader)
        place = locate(trees, snapshot, request.path)
        session.keep_lock()
        archive: TarStream | ZipStream = (
            TarStream(out) if request.format is ArchiveFormat.TAR else ZipStream(out, request.level)
        )
        hides = not (place.path or request.with_manifest) and has_manifest(snapshot)
        with closing(archive), ContentReader(repository, session.index) as content:
            run = _Export(archive, content, report, strict=request.strict)
            for entry in _entries(trees, place, run.findings):
                if hides and entry.path.partition(b"/")[0] == MANIFEST_DIRECTORY:
                    continue
                run.add(entry.path, entry.node)
            archive.finish()
    findings = (*session.index.findings, *run.damaged, *run.findings.findings())
    return ExportResult(run.entries, run.bytes_written, findings, time.monotonic() - started)


def _entries(trees: Trees, place: Place, findings: FindingTally) -> Iterator[BrowsedEntry]:
    """Entries under the name of the place; the place itself first."""
    above = len(place.path.rpartition(b"/")[0])
    cut = above + 1 if above else 0
    if place.node is not None and place.is_directory:
        yield BrowsedEntry(place.path[cut:], place.node)
    for entry in entries_below(trees, place, findings.add_finding):
        yield BrowsedEntry(entry.path[cut:], entry.node)


class _Export:
    """One export under way."""

    def __init__(
        self,
        archive: TarStream | ZipStream,
        content: ContentReader,
        report: Report,
        *,
        strict: bool,
    ) -> None:
        self._archive, self._content, self._report = archive, content, report
        self._strict = strict
        self._links = HardLinks()
        self._reported = 0.0
        self.findings = FindingTally()
        self.damaged: list[Finding] = []
        self.entries = 0
        self.bytes_written = 0

    def add(self, path: bytes, node: Node) -> None:
        check_name(node.name)
        reason = self._archive.refuses(node)
        if reason:
            self.findings.add("not_in_archive", f"{reason}; it was left out", path)
            return
        archive = self._archive
        if isinstance(archive, TarStream):
            first = self._links.first(node, path)
            if first is not None:
                archive.add_link(path, node, first)
            else:
                archive.add(path, node, self._stream(path, node))
        else:
            name = self._zip_name(archive, path)
            if name is None:
                return
            if node.xattrs:
                message = "a ZIP archive cannot hold its extended attributes; export as tar"
                self.findings.add("attributes_not_in_archive", message, path)
            archive.add(name, node, self._stream(path, node))
        self.entries += 1
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(
                Progress(
                    "export",
                    files_done=self.entries,
                    bytes_done=self.bytes_written,
                    current=printable(path),
                )
            )

    def _stream(self, path: bytes, node: Node) -> Iterator[bytes]:
        if node.type is not NodeType.FILE:
            return
        lost = 0
        reason = ""

        def note(length: int, error: Damaged) -> None:
            nonlocal lost, reason
            lost, reason = lost + length, error.message

        for piece in self._content.stream(node, None if self._strict else note):
            self.bytes_written += len(piece)
            yield piece
        if reason:
            self.damaged.append(damage_finding(path, node.size, lost, reason))

    def _zip_name(self, archive: ZipStream, path: bytes) -> bytes | None:
        """The name in a ZIP archive, which is UTF-8: other bytes become ``%FF``."""
        if len(path) > _ZIP_NAME_BYTES:
            message = "its path is too long for a ZIP archive; it was left out"
            self.findings.add("not_in_archive", message, path)
            return None
        text = path.decode("utf-8", "surrogateescape")
        name = "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)
        why = "is not UTF-8, as ZIP requires" if name != text else "was given to another entry"
        encoded = name.encode()
        while archive.holds(encoded):
            encoded += b"~"
        if encoded != path:
            name = encoded.decode()
            message = f"its name {why}; it is {name!r} in the archive"
            self.findings.add("name_replaced", message, path)
        return encoded
