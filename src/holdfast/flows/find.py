"""Finding a file in all snapshots: every version of it, and which snapshots hold it.

A directory that several snapshots share is searched once for each path that it lies at.
Reads trees only; memory grows with the number of different directories, not of snapshots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from holdfast.errors import Damaged, UsageError
from holdfast.flows.locate import MANIFEST_DIRECTORY, Trees, has_manifest, normal_path, root_tree
from holdfast.flows.read_session import ReadSession
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.model.patterns import PathFilter
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import join
from holdfast.sources.path.tally import printable

_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class FindRequest:
    """What to look for: patterns as in ``.gitignore`` (a bare name means any depth).

    `path` limits the search to what is below it, `snapshots` to some of the snapshots;
    empty means all. `modified_from` and `modified_until` limit modification times.
    """

    patterns: tuple[str | bytes, ...]
    path: bytes = b""
    snapshots: tuple[str, ...] = ()
    modified_from: datetime | None = None
    modified_until: datetime | None = None
    with_lock: bool = True


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """One version of an entry: the same path, content and metadata in all of `snapshots`,
    which are ids, oldest first."""

    path: bytes
    node: Node
    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FindResult:
    """Versions by path, and of each path oldest first."""

    versions: tuple[FoundVersion, ...]
    searched_snapshots: int
    findings: tuple[Finding, ...]


def find(
    repository: Repository, request: FindRequest, report: Report = ignore_progress
) -> FindResult:
    """Search the snapshots. A tree or snapshot that cannot be read is a finding."""
    if not request.patterns:
        raise UsageError("name what to look for")
    search = _Search(request)
    with ReadSession(repository, with_lock=request.with_lock) as session:
        snapshots = _chosen(session, request.snapshots, search.findings)
        search.trees = Trees(session.reader)
        session.keep_lock()
        for number, snapshot in enumerate(snapshots):
            report(
                Progress(
                    "find",
                    files_done=number,
                    files_total=len(snapshots),
                    current=snapshot.short_id,
                )
            )
            search.take(snapshot)
    return FindResult(search.versions(), len(snapshots), tuple(search.findings))


def _chosen(session: ReadSession, names: Iterable[str], findings: list[Finding]) -> list[Snapshot]:
    if names:
        chosen = [session.snapshot(name) for name in names]
        return sorted(chosen, key=lambda snapshot: (snapshot.time, snapshot.id))
    snapshots, unreadable = session.repository.snapshots()
    findings.extend(unreadable)
    return snapshots


@dataclass(slots=True)
class _Version:
    path: bytes
    node: Node
    snapshots: list[str] = field(default_factory=list)


class _Visit(NamedTuple):
    """A directory that is being searched: what is left of it, and what was found so far."""

    path: bytes
    key: bytes
    nodes: Iterator[Node]
    found: list[int]


class _Search:
    """One search; `_below` remembers for each directory which versions lie below it."""

    trees: Trees

    def __init__(self, request: FindRequest) -> None:
        self._filter = PathFilter(include=request.patterns)
        self._top = normal_path(request.path)
        self._from = _nanoseconds(request.modified_from)
        self._until = _nanoseconds(request.modified_until)
        self._versions: list[_Version] = []
        self._numbers: dict[tuple[bytes, Node], int] = {}
        self._below: dict[bytes, tuple[int, ...]] = {}
        self.findings: list[Finding] = []

    def versions(self) -> tuple[FoundVersion, ...]:
        held = (version for version in self._versions if version.snapshots)
        ordered = sorted(held, key=lambda version: version.path)
        return tuple(FoundVersion(v.path, v.node, tuple(v.snapshots)) for v in ordered)

    def take(self, snapshot: Snapshot) -> None:
        hidden = MANIFEST_DIRECTORY if has_manifest(snapshot) else b""
        for number in self._search(root_tree(snapshot)):
            version = self._versions[number]
            if not hidden or version.path.partition(b"/")[0] != hidden:
                version.snapshots.append(snapshot.id)

    def _search(self, root: bytes) -> tuple[int, ...]:
        """The numbers of all versions below a root tree, each directory searched once."""
        stack = [self._enter(b"", root)]
        while True:
            here = stack[-1]
            node = next(here.nodes, None)
            if node is None:
                stack.pop()
                self._below[here.key] = tuple(here.found)
                if not stack:
                    return self._below[here.key]
                stack[-1].found.extend(here.found)
                continue
            path = join(here.path, node.name)
            is_directory = node.type is NodeType.DIRECTORY
            if not self._leads_to_top(path, is_directory):
                continue
            if self._filter.excludes(path, is_directory):
                continue
            if self._matches(path, node):
                here.found.append(self._number(path, node))
            if is_directory and node.subtree is not None:
                stack.append(self._enter(path, node.subtree))

    def _enter(self, path: bytes, tree: bytes) -> _Visit:
        key = hashlib.blake2b(tree + path, digest_size=_KEY_BYTES).digest()
        known = self._below.get(key)
        if known is not None:
            return _Visit(path, key, iter(()), list(known))
        try:
            return _Visit(path, key, iter(self.trees.nodes(tree)), [])
        except Damaged as error:
            message = f"this directory cannot be searched: {error.message}"
            self.findings.append(Finding("directory_damaged", message, printable(path)))
            return _Visit(path, key, iter(()), [])

    def _leads_to_top(self, path: bytes, is_directory: bool) -> bool:
        """Whether an entry is at or below where the search begins, or on the way to it."""
        top = self._top
        if not top or path == top or path.startswith(top + b"/"):
            return True
        return is_directory and top.startswith(path + b"/")

    def _matches(self, path: bytes, node: Node) -> bool:
        if self._top and not (path == self._top or path.startswith(self._top + b"/")):
            return False
        # A directory passes the filter also where it only leads to what is looked for: no
        # file has that name below it, so whether that passes depends on the directory.
        if node.type is NodeType.DIRECTORY and self._filter.excludes(
            path + b"/\0", is_directory=False
        ):
            return False
        if self._from is not None and node.mtime_ns < self._from:
            return False
        return self._until is None or node.mtime_ns <= self._until

    def _number(self, path: bytes, node: Node) -> int:
        # Reading changes a file's access time, which makes no other version of it, and a
        # directory is what it is, whatever lies in it.
        same = node._replace(atime_ns=0, ctime_ns=0, subtree=None, device_id=0)
        number = self._numbers.setdefault((path, same), len(self._versions))
        if number == len(self._versions):
            self._versions.append(_Version(path, node))
        return number


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1_000_000_000)
