"""Metadata of directory entries: from ``stat`` and extended attributes to a `Node`.

Reads only metadata: never content, never through a symbolic link unless asked to. What
cannot be read is reported, not guessed. The fields are filled as restic fills them, with
one difference: `device_id` is kept only where it means something, for hard links, so that
a file system snapshot (whose ``st_dev`` is new every time) does not change every tree.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable

from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.tally import printable

Xattrs = tuple[tuple[bytes, bytes], ...]
OnFinding = Callable[[Finding], None]

_TYPES = {
    stat.S_IFREG: NodeType.FILE,
    stat.S_IFDIR: NodeType.DIRECTORY,
    stat.S_IFLNK: NodeType.SYMLINK,
    stat.S_IFBLK: NodeType.BLOCK_DEVICE,
    stat.S_IFCHR: NodeType.CHARACTER_DEVICE,
    stat.S_IFIFO: NodeType.FIFO,
    stat.S_IFSOCK: NodeType.SOCKET,
}
_UNSUPPORTED = frozenset((errno.ENOTSUP, errno.ENOSYS))


def node_type(st_mode: int) -> NodeType:
    """The kind of an entry; what no POSIX kind fits is irregular."""
    return _TYPES.get(stat.S_IFMT(st_mode), NodeType.IRREGULAR)


def read_xattrs(
    path_or_fd: bytes | int,
    follow: bool = False,
    *,
    on_finding: OnFinding | None = None,
    subject: bytes = b"",
) -> Xattrs:
    """All extended attributes, sorted by name: ACLs, capabilities and ``user.*`` alike.

    One system call when there are none. A file system without attributes gives ``()``.
    Whatever else keeps them from being read is a finding ``xattr_unreadable`` about
    `subject`, and the attributes that could be read are returned; without `on_finding`
    the OSError is raised. `follow` has no meaning for a file descriptor.
    """
    try:
        if isinstance(path_or_fd, int):
            names = os.listxattr(path_or_fd)
        else:
            names = os.listxattr(path_or_fd, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return ()
        _unreadable(error, "the list of extended attributes", on_finding, subject)
        return ()
    if not names:
        return ()
    pairs: list[tuple[bytes, bytes]] = []
    for name in names:
        try:
            if isinstance(path_or_fd, int):
                value = os.getxattr(path_or_fd, name)
            else:
                value = os.getxattr(path_or_fd, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _UNSUPPORTED or error.errno == errno.ENODATA:
                continue  # removed since it was listed, or a namespace that only lists
            _unreadable(error, f"the extended attribute {name!a}", on_finding, subject)
            continue
        pairs.append((os.fsencode(name), value))
    pairs.sort()
    return tuple(pairs)


def _unreadable(error: OSError, what: str, on_finding: OnFinding | None, subject: bytes) -> None:
    if on_finding is None:
        raise error
    message = f"{what} could not be read ({error.strerror}); it is not in the snapshot"
    on_finding(Finding("xattr_unreadable", message, printable(subject)))


class OwnerNames:
    """Names of user and group numbers, each looked up once; no name gives ``""``."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def user(self, uid: int) -> str:
        name = self._users.get(uid)
        if name is None:
            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                name = ""
            self._users[uid] = name
        return name

    def group(self, gid: int) -> str:
        name = self._groups.get(gid)
        if name is None:
            try:
                name = grp.getgrgid(gid).gr_name
            except (KeyError, OverflowError):
                name = ""
            self._groups[gid] = name
        return name


def node_from_stat(
    name: bytes,
    st: os.stat_result,
    owners: OwnerNames,
    *,
    linktarget: bytes = b"",
    xattrs: Xattrs = (),
    content: tuple[bytes, ...] = (),
    subtree: bytes | None = None,
    size: int | None = None,
    with_atime: bool = False,
) -> Node:
    """A node of any kind from its ``lstat``; what stat does not tell is passed in.

    `size` replaces ``st_size`` where the bytes read differ from it. Unless `with_atime`,
    the access time is the modification time, because reading a file to back it up changes
    its access time and would change every tree.
    """
    mode = st.st_mode
    kind = _TYPES.get(stat.S_IFMT(mode), NodeType.IRREGULAR)
    regular = kind is NodeType.FILE
    links = 0 if kind in _UNLINKED else st.st_nlink
    device = kind is NodeType.BLOCK_DEVICE or kind is NodeType.CHARACTER_DEVICE
    mtime_ns = st.st_mtime_ns
    uid, gid = st.st_uid, st.st_gid
    # By position: with twenty names the call would cost twice as much.
    return Node(
        name,
        kind,
        mode & 0o7777,
        mtime_ns,
        st.st_atime_ns if with_atime else mtime_ns,
        st.st_ctime_ns,
        uid,
        gid,
        owners.user(uid),
        owners.group(gid),
        st.st_ino,
        st.st_dev if links > 1 else 0,
        (st.st_size if size is None else size) if regular else 0,
        links,
        linktarget,
        xattrs,
        st.st_rdev if device else 0,
        content,
        subtree,
    )


_UNLINKED = frozenset((NodeType.DIRECTORY, NodeType.FIFO, NodeType.SOCKET, NodeType.IRREGULAR))
