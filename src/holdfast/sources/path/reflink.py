"""A reflink copy of a tree: every file cloned in one step into a directory beside it.

FICLONE shares a file's blocks on xfs and btrfs, so a clone takes no room and no time to
speak of, and is of one moment; the tree as a whole is not. Never copies bytes: a file that
cannot be cloned is left out with a finding. Clones have inodes and change times of their
own, so an incremental backup reads all of them again: this is for modest trees.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from holdfast.errors import SourceError, UsageError
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.confine import ConfinedTree, join, via_proc
from holdfast.sources.path.hard_links import HardLinks
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.tally import FindingTally, printable
from holdfast.sources.path.target import RestoreTarget

_FICLONE = 0x40049409
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNSUPPORTED = frozenset((errno.ENOTSUP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS))


def unnamed_clone(fd: int, directory_fd: int) -> int:
    """Clone an open file into one without a name, which is gone when it is closed.

    `directory_fd` is any directory of the same file system; nothing shows in it. Raises
    OSError where that file system cannot clone, or this user may not write there.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    clone = os.open(b".", flags, 0o600, dir_fd=directory_fd)
    try:
        fcntl.ioctl(clone, _FICLONE, fd)
    except BaseException:
        os.close(clone)
        raise
    return clone


class ReflinkCopy:
    """Clones below `source` into `staging`, an empty directory on the same file system."""

    def __init__(
        self,
        source: bytes,
        status: os.stat_result,
        staging: bytes,
        tally: FindingTally,
        max_files: int,
    ) -> None:
        """`status` is the source's, from before `staging` was made in it."""
        self._tree = ConfinedTree(source)
        self._target = RestoreTarget(staging)
        self._tally = tally
        self._room = max_files
        self._max_files = max_files
        self._owners = OwnerNames()
        self._links = HardLinks()
        self._device = status.st_dev
        self._root_node = node_from_stat(b"", status, self._owners, xattrs=read_xattrs(source))

    def run(self, *, leave_out: bytes, only: bytes | None = None) -> None:
        """Clone everything but entries of the root that begin with `leave_out`.

        `only` names the single entry of the root that is wanted. Raises SourceError when
        the file system cannot clone, UsageError when there are too many files.
        """
        try:
            self._target.prepare()
            self._target.claim_root(self._root_node)
            pending = [b""]
            while pending:
                parent = pending.pop()
                for name in self._tree.names(parent):
                    if not parent and (
                        name.startswith(leave_out) or (only is not None and name != only)
                    ):
                        continue
                    if self._entry(parent, name):
                        pending.append(join(parent, name))
            self._target.finish()
        finally:
            self._tally.merge(self._target.tally)
            self._tree.close()
            self._target.close()

    def _entry(self, parent: bytes, name: bytes) -> bool:
        """Clone one entry; True when it is a directory to go into."""
        path = join(parent, name)
        try:
            status = self._tree.lstat(parent, name)
            if status is None:
                return False  # gone since it was listed, as it may be in a live tree
            if status.st_dev != self._device:
                message = "another file system or subvolume is mounted here; it is not included"
                self._tally.add("mount_not_captured", message, path)
                return False
            fd = self._tree.directory(parent)
            target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b""
            node = node_from_stat(
                name,
                status,
                self._owners,
                linktarget=target,
                xattrs=read_xattrs(
                    via_proc(fd, name), on_finding=self._tally.add_finding, subject=path
                ),
                with_atime=True,
            )
        except OSError as error:
            self._left_out(path, error)
            return False
        if node.type is NodeType.DIRECTORY:
            return self._target.make_directory(parent, node)
        self._room -= 1
        if self._room < 0:
            raise UsageError(
                f"{printable(self._tree.root)} holds more than {self._max_files} files, too many"
                " to clone one by one; wish for a snapshot or a live read"
            )
        first = self._links.first(node, path)
        if first is not None:
            self._target.link(parent, node, first)
        elif node.type is NodeType.FILE:
            self._clone(parent, node)
        else:
            self._target.make_other(parent, node)
        return False

    def _clone(self, parent: bytes, node: Node) -> None:
        path = join(parent, node.name)
        try:
            source = os.open(node.name, _READ, dir_fd=self._tree.directory(parent))
        except OSError as error:
            self._left_out(path, error)
            return
        try:
            # Empty, because a clone of a file that shrank would keep the tail.
            pending = self._target.begin_file(parent, node._replace(size=0))
            if pending is None:
                return
            clone = self._target.open_pending(pending)
            try:
                fcntl.ioctl(clone, _FICLONE, source)
            except OSError as error:
                self._target.abandon_file(pending)
                if error.errno in _UNSUPPORTED:
                    raise SourceError(
                        f"{printable(self._tree.root)} lies on a file system that cannot clone"
                        " files; wish for auto or live"
                    ) from error
                self._left_out(path, error)
            else:
                self._target.finish_file(pending, node)
            finally:
                os.close(clone)
        finally:
            os.close(source)

    def _left_out(self, path: bytes, error: OSError) -> None:
        message = f"it could not be cloned and is not included: {error.strerror}"
        self._tally.add("file_not_cloned", message, path)
