"""Putting metadata back onto an entry that exists: owner, attributes, mode, times.

The order is fixed: changing the owner clears set-id bits and capabilities, writing an ACL
changes the mode, everything changes the times. What the system refuses is a finding; it
never stops a restore. Entries are given as a descriptor or as ``/proc/self/fd/N``, never
by a name that somebody could exchange.
"""

from __future__ import annotations

import os
import stat

from holdfast.model.node import Node, NodeType
from holdfast.sources.path.metadata import read_xattrs
from holdfast.sources.path.tally import FindingTally

_CAPABILITY = b"security.capability"
_TIME_32BIT = 2**31 * 10**9
_REFUSED = (OSError, OverflowError, ValueError)


class AttributeWriter:
    """Applies nodes' metadata; which kinds is fixed, failures go to the tally."""

    def __init__(self, tally: FindingTally, *, owner: bool = True, xattrs: bool = True) -> None:
        self._tally = tally
        self._owner = owner
        self._xattrs = xattrs
        self._is_root = os.geteuid() == 0
        self._checked_precision = False

    def apply(self, where: int | bytes, node: Node, path: bytes, *, clean: bool = False) -> None:
        """Make an entry's metadata the node's.

        `where` is a descriptor, or ``/proc/self/fd/N`` of an O_PATH one. `clean`: the entry
        may carry extended attributes that the node has not (it existed before, or inherited
        an ACL); they are removed.
        """
        st = os.stat(where)
        uid, gid = st.st_uid, st.st_gid
        reset = False
        if self._owner and (uid != node.uid or gid != node.gid):
            uid, gid = self._chown(where, node, path, st)
            reset = True
        if self._xattrs and (clean or node.xattrs):
            if not self._is_root and st.st_mode & 0o200 == 0 and node.type is NodeType.FILE:
                os.chmod(where, 0o600)  # attributes can be set only by who may write
            self._apply_xattrs(where, node, path, clean=clean)
            reset = True
        if node.type is not NodeType.SYMLINK:
            mode = self._permitted_mode(node, path, uid, gid)
            if reset or mode != stat.S_IMODE(st.st_mode):
                self._chmod(where, mode, path)
        self._utime(where, node, path)

    def _chown(
        self, where: int | bytes, node: Node, path: bytes, st: os.stat_result
    ) -> tuple[int, int]:
        """Owner and group that the entry has afterwards."""
        try:
            os.chown(where, node.uid, node.gid)
        except _REFUSED as error:
            gid = st.st_gid
            if node.gid != gid:
                try:
                    os.chown(where, -1, node.gid)  # one of our own groups is allowed
                    gid = node.gid
                except _REFUSED:
                    pass
            if (st.st_uid, gid) != (node.uid, node.gid):
                message = (
                    f"owner {node.uid}:{node.gid} could not be set ({_reason(error)}), it belongs"
                    f" to {st.st_uid}:{gid}; restore as root to get owners back"
                )
                self._tally.add("owner_not_restored", message, path)
            return st.st_uid, gid
        return node.uid, node.gid

    def _apply_xattrs(self, where: int | bytes, node: Node, path: bytes, *, clean: bool) -> None:
        wanted = node.xattrs
        if clean:
            names = {name for name, _ in wanted}
            for name, _ in read_xattrs(where, follow=True, on_finding=self._tally.add_finding):
                if name in names or (name.startswith(b"security.") and name != _CAPABILITY):
                    continue  # labels of security modules belong to the system, not the file
                try:
                    os.removexattr(where, name)
                except OSError as error:
                    message = f"the attribute {name!a} could not be removed ({_reason(error)})"
                    self._tally.add("xattr_not_restored", message, path)
        for name, value in sorted(wanted, key=lambda pair: pair[0] == _CAPABILITY):
            try:
                os.setxattr(where, name, value)
            except _REFUSED as error:
                message = f"the attribute {name!a} could not be set ({_reason(error)})"
                self._tally.add("xattr_not_restored", message, path)

    def _permitted_mode(self, node: Node, path: bytes, uid: int, gid: int) -> int:
        """The node's mode, less set-id bits that would lend the rights of somebody else."""
        mode = node.mode & 0o7777
        if node.type is NodeType.DIRECTORY or not mode & 0o6000:
            return mode
        foreign = (0o4000 if uid != node.uid else 0) | (0o2000 if gid != node.gid else 0)
        if mode & foreign:
            message = (
                f"mode {mode:o} was restored without its set-id bits, because the file belongs"
                f" to {uid}:{gid} and not to {node.uid}:{node.gid}"
            )
            self._tally.add("setid_not_restored", message, path)
        return mode & ~foreign

    def _chmod(self, where: int | bytes, mode: int, path: bytes) -> None:
        try:
            os.chmod(where, mode)
            if mode & 0o7000 and not self._is_root:
                # The kernel drops the set-group bit without a word for groups not ours.
                left = stat.S_IMODE(os.stat(where).st_mode)
                if left != mode:
                    message = f"mode {mode:o} became {left:o}; restore as root to get it back"
                    self._tally.add("mode_not_restored", message, path)
        except OSError as error:
            message = f"mode {mode:o} could not be set ({_reason(error)})"
            self._tally.add("mode_not_restored", message, path)

    def _utime(self, where: int | bytes, node: Node, path: bytes) -> None:
        mtime_ns = node.mtime_ns
        try:
            os.utime(where, ns=(node.atime_ns or mtime_ns, mtime_ns))
            unusual = not -_TIME_32BIT <= mtime_ns < _TIME_32BIT
            if not unusual and (self._checked_precision or mtime_ns % 10**9 == 0):
                return
            # File systems clamp and round times silently: check what they may not hold,
            # and once per restore whether they hold nanoseconds at all.
            self._checked_precision = self._checked_precision or not unusual
            stored = os.stat(where).st_mtime_ns
            if stored != mtime_ns:
                message = (
                    "the target's file system does not hold this modification time:"
                    f" {mtime_ns} ns became {stored} ns"
                )
                self._tally.add("time_not_restored", message, path)
        except _REFUSED as error:
            message = f"its times could not be set ({_reason(error)})"
            self._tally.add("time_not_restored", message, path)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
