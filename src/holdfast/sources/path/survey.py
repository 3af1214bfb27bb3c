"""A survey of a restore's target: what is there, and what a restore would do to it.

Writes nothing and makes nothing, not even the root, so it is all that a dry run needs.
Existing files are opened only to compare their content, and links are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterator
from types import TracebackType

from holdfast.errors import PathEscapes, TargetError, TargetNotEmpty
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.confine import ConfinedTree, check_name, join, via_proc
from holdfast.sources.path.metadata import node_type, read_xattrs
from holdfast.sources.path.restore_plan import (
    Action,
    Decision,
    Deletion,
    Overwrite,
    RestoreOptions,
    decide,
    freed_bytes,
)
from holdfast.sources.path.tally import FindingTally, printable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

SameContent = Callable[[int, Node], bool]
"""Does the file open for reading hold exactly the node's content? Need not close it."""


def open_root(root: bytes, within: bytes = b"") -> ConfinedTree:
    """The tree at an existing directory. Raises TargetError when it is none.

    PathEscapes where it does not lie `within` that directory, if one is given.
    """
    try:
        return ConfinedTree(root, within=within)
    except OSError as error:
        raise TargetError(
            f"{printable(root)} cannot be used as a directory: {error.strerror}"
        ) from error


def refuse_entries(tree: ConfinedTree) -> None:
    """Raise TargetNotEmpty when the root holds entries that a restore could meet."""
    names = set(tree.names(b"")) - {b"lost+found"}  # a fresh file system has that one
    if names:
        raise TargetNotEmpty(
            f"{printable(tree.root)} holds {len(names)} entries; restore into a new"
            " directory, or ask for a restore in place"
        )


class TargetSurvey:
    """Plans entries one by one. Findings about what cannot be planned are in `tally`."""

    def __init__(
        self,
        root: bytes | str,
        options: RestoreOptions | None = None,
        *,
        same_content: SameContent | None = None,
    ) -> None:
        """Look at the root, which need not exist yet.

        With `same_content`, files of the same size are compared by content and not by
        modification time. Raises TargetNotEmpty, and TargetError when it is no directory.
        """
        self.root = os.path.realpath(os.fsencode(root))
        self.options = options or RestoreOptions()
        self.tally = FindingTally()
        self._same_content = same_content
        self._tree = open_root(self.root) if os.path.lexists(self.root) else None
        if self._tree is not None and not self.options.in_place:
            try:
                refuse_entries(self._tree)
            except TargetNotEmpty:
                self.close()
                raise

    def close(self) -> None:
        if self._tree is not None:
            self._tree.close()

    def __enter__(self) -> TargetSurvey:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def plan_entry(self, parent: bytes, node: Node) -> Decision:
        """What a restore of this entry would do. Reads at most the existing entry."""
        check_name(node.name)
        tree = self._tree
        if tree is None or not self.options.in_place:
            return decide(node, None, self.options.overwrite)
        try:
            existing = tree.lstat(parent, node.name)
            same_link, same_xattrs, same_content = True, True, None
            if existing is not None and node_type(existing.st_mode) is node.type:
                fd = tree.directory(parent)
                if node.type is NodeType.SYMLINK:
                    same_link = os.readlink(node.name, dir_fd=fd) == node.linktarget
                if self.options.xattrs:
                    same_xattrs = read_xattrs(via_proc(fd, node.name)) == node.xattrs
                if self._same_content and self._wants_content(node, existing):
                    same_content = self._compare(tree, parent, node)
        except PathEscapes:
            existing = None  # below a link that make_directory replaces before
        except OSError as error:
            reason = f"what stands there cannot be examined: {error.strerror}"
            return Decision(Action.SKIP, reason, "entry_not_restored")
        return decide(
            node,
            existing,
            self.options.overwrite,
            delete_extra=self.options.delete_extra,
            compare_owner=self.options.owner,
            same_linktarget=same_link,
            same_xattrs=same_xattrs,
            same_content=same_content,
        )

    def _wants_content(self, node: Node, existing: os.stat_result) -> bool:
        return (
            node.type is NodeType.FILE
            and existing.st_size == node.size
            and self.options.overwrite is Overwrite.IF_CHANGED
        )

    def _compare(self, tree: ConfinedTree, parent: bytes, node: Node) -> bool:
        assert self._same_content is not None
        try:
            fd = os.open(node.name, _READ, dir_fd=tree.directory(parent))
        except PermissionError:
            return False  # it can be replaced, which needs no look at it
        try:
            return self._same_content(fd, node)
        finally:
            os.close(fd)

    def plan_extra(self, parent: bytes, keep: Container[bytes]) -> Iterator[Deletion]:
        """What `delete_extra` deletes in one directory: all names but `keep`, and below.

        Children come before their directory. Other file systems mounted there are kept,
        with a finding. Gives nothing when the directory is not there.
        """
        tree = self._tree
        if tree is None:
            return
        here = self._status(tree, parent)
        if here is None or not stat.S_ISDIR(here.st_mode):
            return
        for name in sorted(tree.names(parent)):
            if name not in keep:
                yield from self.plan_clearing(join(parent, name), here.st_dev)

    def plan_clearing(self, path: bytes, device: int | None = None) -> Iterator[Deletion]:
        """What must be deleted for one entry to be gone, itself last.

        For a decision with `clear`: its directory must be deleted before the restore.
        """
        tree = self._tree
        status = None if tree is None else self._status(tree, path)
        if tree is None or status is None:
            return
        device = status.st_dev if device is None else device
        below = tree.below(path) if stat.S_ISDIR(status.st_mode) else iter(())
        if status.st_dev != device:
            below = iter(())
        for entry, found in (*below, (path, status)):
            if found.st_dev != device:
                message = "another file system or subvolume is mounted here; it was not deleted"
                self.tally.add("mount_kept", message, entry)
                continue
            yield Deletion(entry, stat.S_ISDIR(found.st_mode), freed_bytes(found))

    @staticmethod
    def _status(tree: ConfinedTree, path: bytes) -> os.stat_result | None:
        parent, _, name = path.rpartition(b"/")
        if not path:
            return os.stat(tree.directory(b""))
        return tree.lstat(parent, name)
