"""A directory and a repository in memory, backed up again and again, looked at entry by entry."""

from __future__ import annotations

import os
from pathlib import Path

from sample_repository import contents, fill, make

from holdfast.flows.backup import BackupRequest, BackupResult, backup
from holdfast.flows.browse import BrowseRequest, browse
from holdfast.flows.locate import Trees, locate
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import IndexCache
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.store.protocol import ObjectStore


class BackedUp:
    """A repository, a directory `source`, and the last result."""

    def __init__(self, base: Path, store: ObjectStore | None = None) -> None:
        self.repository: Repository = make(store)
        self.base = base
        self.source = base / "source"
        self.source.mkdir()

    def fill(self, files: dict[str, int | bytes], seed: int = 0) -> None:
        fill(self.source, files, seed)

    def run(self, *paths: Path | bytes, **more: object) -> BackupResult:
        """Back up the paths, by default `source`, with nothing waited for."""
        chosen = tuple(os.fsencode(path) for path in paths or (self.source,))
        options: dict[str, object] = {"workers": 0, "settle_ns": 0, **more}
        return backup(self.repository, BackupRequest(chosen, **options))  # type: ignore[arg-type]

    def clean(self, *paths: Path | bytes, **more: object) -> BackupResult:
        result = self.run(*paths, **more)
        assert not result.findings
        return result

    def nodes(self, result: BackupResult, below: Path | bytes | None = None) -> dict[bytes, Node]:
        """Every entry below a path by its relative path; b"." is the path itself."""
        top = os.fsencode(self.source if below is None else below).strip(b"/")
        found: list[Finding] = []
        request = BrowseRequest(snapshot_of(result).id, recursive=True)
        entries = {e.path: e.node for e in browse(self.repository, request, found.append)}
        assert not found
        below_top = {p[len(top) + 1 :]: n for p, n in entries.items() if p.startswith(top + b"/")}
        return below_top | ({b".": entries[top]} if top in entries else {})

    def names(self, result: BackupResult, below: Path | None = None) -> set[str]:
        return {os.fsdecode(path) for path in self.nodes(result, below)} - {"."}

    def contents(self, result: BackupResult) -> dict[str, bytes]:
        return contents(self.repository, snapshot_of(result))

    def tree(self, result: BackupResult, path: Path | None = None) -> str:
        """The id of a directory's tree."""
        reader = BlobReader(self.repository, self.repository.open_index(IndexCache(None)))
        where = os.fsencode(self.source if path is None else path)
        place = locate(Trees(reader), snapshot_of(result), where)
        assert place.tree is not None
        return place.tree.hex()


def snapshot_of(result: BackupResult) -> Snapshot:
    assert result.snapshot is not None
    return result.snapshot


def codes(result: BackupResult) -> dict[str, str]:
    """What each finding is about, by its code; there is one of each."""
    assert len({finding.code for finding in result.findings}) == len(result.findings)
    return {finding.code: finding.subject for finding in result.findings}
