"""Planning a restore: what would be created, replaced, left and deleted, before anything is.

Reads trees and the target, writes nothing. Where the target is new, only sizes are added up;
where it holds entries each is compared, and every replacement and deletion is in the plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Container

from holdfast.errors import Damaged
from holdfast.flows.fetch import holds_content
from holdfast.flows.restore_request import PlannedRestore, RestoreScope
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.tree import decode_tree
from holdfast.sources.path.confine import join
from holdfast.sources.path.hard_links import HardLinks
from holdfast.sources.path.restore_plan import Action, PlanBuilder, RestoreOptions
from holdfast.sources.path.survey import TargetSurvey


class RestorePlanner:
    """Walks what is to be restored once. Used by one thread, for one plan."""

    def __init__(
        self,
        reader: BlobReader,
        index: BlobIndex,
        scope: RestoreScope,
        options: RestoreOptions,
        target: bytes,
        *,
        compare_content: bool = False,
        sparse: bool = True,
    ) -> None:
        """Raises TargetNotEmpty, and TargetError where the target is no directory."""
        self._reader, self._index = reader, index
        self._scope, self._options, self._target = scope, options, target
        same = self._same_content if compare_content else None
        self._survey = TargetSurvey(target, options, same_content=same)
        self._sparse = sparse
        self._zero_ids: dict[int, bytes] = {}
        self._holes = 0
        self._builder = PlanBuilder()
        self._links = HardLinks()
        self._findings: list[Finding] = []
        self._passed: dict[bytes, tuple[bytes, Node]] = {}
        self._needed: set[bytes] = set()

    def plan(self, snapshot: Snapshot, tree: bytes) -> PlannedRestore:
        """The plan for everything below `tree`."""
        with self._survey:
            pending = [(b"", tree)]
            while pending:
                path, tree_id = pending.pop()
                try:
                    text = self._reader.load(BlobType.TREE, tree_id)
                    nodes = decode_tree(text, f"tree {tree_id.hex()[:8]}")
                except Damaged as error:
                    if not path:
                        raise
                    subject = path.decode("utf-8", "backslashreplace")
                    self._findings.append(Finding("directory_damaged", error.message, subject))
                    continue
                self._deletions(path, nodes)
                for node in reversed(nodes):
                    subtree = self._node(path, node)
                    if subtree is not None:
                        pending.append((join(path, node.name), subtree))
            findings = self._survey.tally.findings()
        plan = self._builder.build()
        plan = dataclasses.replace(
            plan,
            findings=(*plan.findings, *findings, *self._findings),
            needed_bytes=max(0, plan.needed_bytes - self._holes),
        )
        needed = frozenset(self._needed) if self._scope.leads_through else None
        return PlannedRestore(snapshot, plan, free_bytes(self._target), needed)

    def _node(self, parent: bytes, node: Node) -> bytes | None:
        """Take one entry into the plan; return the tree below it."""
        path = join(parent, node.name)
        if self._scope.excludes(path, node.type is NodeType.DIRECTORY, node.size):
            return None
        if node.type is NodeType.DIRECTORY:
            if self._scope.takes_itself(path):
                self._decide(parent, node)
                self._need(parent)
            else:
                self._passed[path] = (parent, node)
            return node.subtree
        self._need(parent)
        self._decide(parent, node)
        return None

    def _need(self, directory: bytes) -> None:
        """Take in the directories on the way to something that is restored."""
        while directory and directory not in self._needed:
            self._needed.add(directory)
            passed = self._passed.pop(directory, None)
            if passed is not None:
                self._decide(*passed)
            directory = directory.rpartition(b"/")[0]

    def _decide(self, parent: bytes, node: Node) -> None:
        path = join(parent, node.name)
        decision = self._survey.plan_entry(parent, node)
        linked = self._links.first(node, path) is not None
        self._builder.add(path, node, decision, linked=linked)
        if (
            self._sparse
            and not linked
            and decision.action in (Action.CREATE, Action.OVERWRITE)
            and len(node.content) > 1
        ):
            self._holes += self._hole_bytes(node)
        if decision.clear:
            for deletion in self._survey.plan_clearing(path):
                self._builder.delete(deletion)

    def _deletions(self, path: bytes, nodes: list[Node]) -> None:
        if not self._options.delete_extra:
            return
        keep = _Kept(self._scope, path, frozenset(node.name for node in nodes))
        for deletion in self._survey.plan_extra(path, keep):
            self._builder.delete(deletion)

    def _same_content(self, fd: int, node: Node) -> bool:
        return holds_content(fd, node, self._find)

    def _find(self, blob_id: bytes) -> Location | None:
        return self._index.find(BlobType.DATA, blob_id)

    def _hole_bytes(self, node: Node) -> int:
        """How much of a file is whole blobs of zeroes, as far as they occur more than once.

        Only such are looked at: whether a blob is zero costs a hash of as many zeroes.
        """
        if len(node.content) == len(set(node.content)):
            return 0
        total = 0
        for blob_id, number in Counter(node.content).items():
            location = self._find(blob_id) if number > 1 else None
            if location is None:
                continue
            length = location.raw_length
            if length not in self._zero_ids:
                self._zero_ids[length] = hashlib.sha256(bytes(length)).digest()
            if self._zero_ids[length] == blob_id:
                total += length * number
        return total


class _Kept(Container[bytes]):
    """Names that may not be deleted: those of the snapshot, and those out of scope."""

    def __init__(self, scope: RestoreScope, parent: bytes, names: frozenset[bytes]) -> None:
        self._scope, self._parent, self._names = scope, parent, names

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, bytes)
        if name in self._names:
            return True
        path = join(self._parent, name)
        # What stands there may be a file or a directory; it goes only if both are in scope.
        return self._scope.excludes(path, is_directory=False) or self._scope.excludes(
            path, is_directory=True
        )


def free_bytes(target: bytes) -> int:
    """The room where the target is or will be."""
    path = os.path.realpath(target)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    room = os.statvfs(path)
    blocks = room.f_bfree if os.geteuid() == 0 else room.f_bavail
    return blocks * room.f_frsize


def written_bytes(plan: PlannedRestore) -> int:
    """Logical bytes that carrying a plan out writes."""
    return plan.plan.bytes_[Action.CREATE] + plan.plan.bytes_[Action.OVERWRITE]
