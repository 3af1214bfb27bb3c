"""Damage traced to people's files: which paths of which snapshots need blobs that are lost.

Runs only where something is lost. Trees are visited once however many snapshots share
them. It reads and decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import Damaged
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.tree import decode_documents, document_name

Lost = Collection[tuple[BlobType, bytes]]


@dataclass(frozen=True, slots=True)
class LostPath:
    """A file that is not whole, or a directory of which nothing can be read.

    `path` begins with ``/``; bytes that are not UTF-8 are as `os.fsdecode` gives them.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class DamagedSnapshot:
    """A snapshot that cannot be restored whole, and what it lacks.

    `time`, `hostname` and `paths` are empty where the record itself cannot be read.
    """

    id: str
    time: datetime | None
    hostname: str
    paths: tuple[str, ...]
    lost: tuple[LostPath, ...]


@dataclass(slots=True)
class _Frame:
    """A directory that is being looked through: its name in the one above, and what is left."""

    name: bytes
    tree: bytes
    nodes: Iterator[tuple[bytes, bytes]]
    lost: list[LostPath]


class DamageTracer:
    """Answers what a tree lacks, given the blobs that are lost."""

    def __init__(self, repository: Repository, index: BlobIndex, lost: Lost) -> None:
        self._reader = BlobReader(repository, index)
        self._lost = lost
        self._known: dict[bytes, tuple[LostPath, ...]] = {}

    def below(self, root: bytes) -> tuple[LostPath, ...]:
        """Return every lost path below a tree, relative to it, beginning with ``/``."""
        stack: list[_Frame] = []
        self._enter(b"", root, stack)
        while stack:
            frame = stack[-1]
            for name, subtree in frame.nodes:
                if self._enter(name, subtree, stack):
                    break  # and come back to the nodes after it
                frame.lost.extend(_below(name, self._known[subtree]))
            else:
                stack.pop()
                self._known[frame.tree] = lost = tuple(frame.lost)
                if stack:
                    stack[-1].lost.extend(_below(frame.name, lost))
        return self._known[root]

    def _enter(self, name: bytes, tree: bytes, stack: list[_Frame]) -> bool:
        """Open a tree; return False where that settled it at once."""
        if tree in self._known:
            return False
        try:
            if (BlobType.TREE, tree) in self._lost:
                raise Damaged("lost")
            nodes = decode_documents(self._reader.load(BlobType.TREE, tree), "a tree")
            lost: list[LostPath] = []
            directories: list[tuple[bytes, bytes]] = []
            for node in nodes:
                child = document_name(node)
                missing = sum(
                    (BlobType.DATA, bytes.fromhex(text)) in self._lost
                    for text in node.get("content") or ()
                )
                if missing:
                    count = len(node["content"])
                    lost.append(
                        LostPath(
                            "/" + os.fsdecode(child), f"{missing} of its {count} parts are lost"
                        )
                    )
                if node.get("subtree"):
                    directories.append((child, bytes.fromhex(node["subtree"])))
        except (Damaged, KeyError, ValueError, TypeError, AttributeError):
            self._known[tree] = (LostPath("/", "the directory cannot be read"),)
            return False
        if not directories:
            self._known[tree] = tuple(lost)
            return False
        stack.append(_Frame(name, tree, iter(directories), lost))
        return True


def _below(name: bytes, lost: Iterable[LostPath]) -> Iterator[LostPath]:
    for each in lost:
        path = f"/{os.fsdecode(name)}{'' if each.path == '/' else each.path}"
        yield LostPath(path, each.reason)


def trace_damage(
    repository: Repository,
    index: BlobIndex,
    snapshots: Iterable[Snapshot],
    lost: Lost,
    on_snapshot: Callable[[], None] = lambda: None,
) -> list[DamagedSnapshot]:
    """Return the snapshots that need any of the `lost` blobs, with the paths they lack."""
    tracer = DamageTracer(repository, index, lost)
    damaged = []
    for snapshot in snapshots:
        paths = tracer.below(bytes.fromhex(snapshot.tree))
        if paths:
            damaged.append(
                DamagedSnapshot(
                    snapshot.id, snapshot.time, snapshot.hostname, snapshot.paths, paths
                )
            )
        on_snapshot()
    return damaged
