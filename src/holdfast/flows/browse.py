"""Browsing: the entries of a snapshot, below any path, one by one.

Reads trees only, never content, and holds a few of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.errors import Damaged
from holdfast.flows.locate import (
    MANIFEST_DIRECTORY,
    Place,
    Trees,
    has_manifest,
    locate,
)
from holdfast.flows.read_session import ReadSession
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import join
from holdfast.sources.path.tally import printable

OnFinding = Callable[[Finding], None]


@dataclass(frozen=True, slots=True)
class BrowseRequest:
    """Which entries: those right below `path`, or with `recursive` all below it.

    A `path` that is no directory gives itself.
    """

    snapshot: str
    path: bytes = b""
    recursive: bool = False
    with_manifest: bool = False
    with_lock: bool = True


@dataclass(frozen=True, slots=True)
class BrowsedEntry:
    """One entry; `path` is relative to the snapshot's root."""

    path: bytes
    node: Node


def browse(
    repository: Repository, request: BrowseRequest, on_finding: OnFinding
) -> Iterator[BrowsedEntry]:
    """Yield entries in the order of their names, a directory before what is in it.

    Raises `NotFound` for a snapshot or path that is not there. A directory below that cannot
    be read is a finding. The repository is locked until the iterator is closed.
    """
    with ReadSession(repository, with_lock=request.with_lock) as session:
        snapshot = session.snapshot(request.snapshot)
        trees = Trees(session.reader)
        place = locate(trees, snapshot, request.path)
        session.keep_lock()
        hide = not request.with_manifest and has_manifest(snapshot)
        for entry in entries_below(trees, place, on_finding, recursive=request.recursive):
            if not (hide and entry.path.partition(b"/")[0] == MANIFEST_DIRECTORY):
                yield entry


def entries_below(
    trees: Trees, place: Place, on_finding: OnFinding, *, recursive: bool = True
) -> Iterator[BrowsedEntry]:
    """Yield what is at or below a place; see `browse`. The place itself is not locked."""
    if place.tree is None:
        assert place.node is not None
        yield BrowsedEntry(place.path, place.node)
        return
    levels = [(place.path, iter(trees.nodes(place.tree)))]
    while levels:
        path, nodes = levels[-1]
        node = next(nodes, None)
        if node is None:
            levels.pop()
            continue
        here = join(path, node.name)
        yield BrowsedEntry(here, node)
        if recursive and node.subtree is not None:
            try:
                levels.append((here, iter(trees.nodes(node.subtree))))
            except Damaged as error:
                message = f"what is in this directory is lost: {error.message}"
                on_finding(Finding("directory_damaged", message, printable(here)))
