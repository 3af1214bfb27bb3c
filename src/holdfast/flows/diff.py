"""Differences between two snapshots, or between two paths in them.

Both trees are walked side by side in the order of names; what has the same id is the same and
is not entered. Nothing is kept but the path to where the walk stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from holdfast.errors import Damaged, UsageError
from holdfast.flows.locate import MANIFEST_DIRECTORY, Place, Trees, has_manifest, locate
from holdfast.flows.read_session import ReadSession
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import join
from holdfast.sources.path.tally import printable

OnFinding = Callable[[Finding], None]


class ChangeKind(StrEnum):
    """What happened to an entry from the first to the second snapshot."""

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"  # content, link target or device number
    METADATA = "metadata"  # mode, owner, modification time or extended attributes
    TYPE = "type"


@dataclass(frozen=True, slots=True)
class Change:
    """One entry that differs; `path` is relative to what is compared.

    An added or removed directory is followed by everything in it.
    """

    kind: ChangeKind
    path: bytes
    old: Node | None
    new: Node | None

    @property
    def growth_bytes(self) -> int:
        """By how much the logical size of the file grew."""
        return _size(self.new) - _size(self.old)


@dataclass(frozen=True, slots=True)
class DiffRequest:
    """What to compare: two snapshots, and a path in each; `metadata` False leaves out
    entries of which only metadata changed."""

    old: str
    new: str
    old_path: bytes = b""
    new_path: bytes = b""
    metadata: bool = True
    with_lock: bool = True


@dataclass(slots=True)
class DiffTotals:
    """Sums over changes: files, directories and others by kind, and bytes of files."""

    files: dict[ChangeKind, int] = field(default_factory=lambda: dict.fromkeys(ChangeKind, 0))
    directories: dict[ChangeKind, int] = field(default_factory=lambda: dict.fromkeys(ChangeKind, 0))
    others: dict[ChangeKind, int] = field(default_factory=lambda: dict.fromkeys(ChangeKind, 0))
    added_bytes: int = 0
    removed_bytes: int = 0

    def add(self, change: Change) -> None:
        node = change.new or change.old
        assert node is not None
        if node.type is NodeType.FILE:
            counts = self.files
        elif node.type is NodeType.DIRECTORY:
            counts = self.directories
        else:
            counts = self.others
        counts[change.kind] += 1
        if change.kind is ChangeKind.METADATA:
            return
        self.added_bytes += _size(change.new)
        self.removed_bytes += _size(change.old)


def diff(repository: Repository, request: DiffRequest, on_finding: OnFinding) -> Iterator[Change]:
    """Yield what differs, in the order of paths; raises `NotFound` as `locate` does.

    A directory that cannot be read is a finding. The repository is locked until the iterator
    is closed.
    """
    with ReadSession(repository, with_lock=request.with_lock) as session:
        old, new = session.snapshot(request.old), session.snapshot(request.new)
        trees = Trees(session.reader)
        one = locate(trees, old, request.old_path)
        other = locate(trees, new, request.new_path)
        session.keep_lock()
        hides = not (one.path or other.path) and (has_manifest(old) or has_manifest(new))
        for change in _Comparison(trees, on_finding).places(one, other):
            if hides and change.path.partition(b"/")[0] == MANIFEST_DIRECTORY:
                continue
            if request.metadata or change.kind is not ChangeKind.METADATA:
                yield change


_Steps = Iterator["Change | _Steps"]
"""Changes, and iterators of more of them that belong in between."""


class _Comparison:
    def __init__(self, trees: Trees, on_finding: OnFinding) -> None:
        self._trees, self._on_finding = trees, on_finding

    def places(self, one: Place, other: Place) -> Iterator[Change]:
        """Every difference; on a stack of our own, as trees may be deeper than Python's."""
        stack = [self._places(one, other)]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
            elif isinstance(step, Change):
                yield step
            else:
                stack.append(step)

    def _places(self, one: Place, other: Place) -> _Steps:
        if one.is_directory is not other.is_directory:
            raise UsageError("a directory and a file cannot be compared; name two of a kind")
        if one.is_directory:
            yield self._trees_of(b"", one.tree, other.tree)
        else:
            assert one.node is not None
            assert other.node is not None
            # Two files may be compared under different names.
            yield self._nodes(other.path, one.node, other.node)

    def _trees_of(self, path: bytes, old_tree: bytes | None, new_tree: bytes | None) -> _Steps:
        if old_tree == new_tree:
            return
        old, new = self._load(path, old_tree), self._load(path, new_tree)
        if old is None or new is None:
            return
        at = then = 0
        while at < len(old) or then < len(new):
            if then == len(new) or (at < len(old) and old[at].name < new[then].name):
                yield self._only(path, old[at], ChangeKind.REMOVED)
                at += 1
            elif at == len(old) or new[then].name < old[at].name:
                yield self._only(path, new[then], ChangeKind.ADDED)
                then += 1
            else:
                yield self._nodes(join(path, new[then].name), old[at], new[then])
                at, then = at + 1, then + 1

    def _nodes(self, path: bytes, old: Node, new: Node) -> _Steps:
        if old.type is not new.type:
            yield Change(ChangeKind.TYPE, path, old, new)
            if old.type is NodeType.DIRECTORY:
                yield self._below(path, old, ChangeKind.REMOVED)
            elif new.type is NodeType.DIRECTORY:
                yield self._below(path, new, ChangeKind.ADDED)
            return
        if _content(old) != _content(new):
            yield Change(ChangeKind.MODIFIED, path, old, new)
        elif _metadata(old) != _metadata(new):
            yield Change(ChangeKind.METADATA, path, old, new)
        if new.type is NodeType.DIRECTORY:
            yield self._trees_of(path, old.subtree, new.subtree)

    def _only(self, parent: bytes, node: Node, kind: ChangeKind) -> _Steps:
        path = join(parent, node.name)
        added = kind is ChangeKind.ADDED
        yield Change(kind, path, None if added else node, node if added else None)
        if node.type is NodeType.DIRECTORY:
            yield self._below(path, node, kind)

    def _below(self, path: bytes, node: Node, kind: ChangeKind) -> _Steps:
        for child in self._load(path, node.subtree) or ():
            yield self._only(path, child, kind)

    def _load(self, path: bytes, tree: bytes | None) -> list[Node] | None:
        if tree is None:
            return []
        try:
            return sorted(self._trees.nodes(tree), key=lambda node: node.name)
        except Damaged as error:
            message = f"this directory cannot be compared: {error.message}"
            self._on_finding(Finding("directory_damaged", message, printable(path)))
            return None


def _size(node: Node | None) -> int:
    return node.size if node is not None and node.type is NodeType.FILE else 0


def _content(node: Node) -> tuple[object, ...]:
    return node.content, node.linktarget, node.device


def _metadata(node: Node) -> tuple[object, ...]:
    return node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs
