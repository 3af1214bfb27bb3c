"""A node: one named entry of a directory, with its metadata and where its content lies.

The fields are those of restic's tree nodes (``internal/data/node.go`` of restic 0.19);
how they are written as JSON is the business of ``repo/tree.py``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class NodeType(StrEnum):
    """What kind of directory entry a node is; the values are restic's words."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "symlink"
    BLOCK_DEVICE = "dev"
    CHARACTER_DEVICE = "chardev"
    FIFO = "fifo"
    SOCKET = "socket"
    IRREGULAR = "irregular"


class Node(NamedTuple):
    """One entry of a directory. A named tuple, because trees hold millions of them.

    Names and link targets are bytes as the kernel gives them; times are nanoseconds since
    the epoch; `mode` is the twelve permission bits of ``st_mode`` (the kind is in `type`).
    `content` are the 32-byte ids of a file's data blobs in order; `subtree` is the 32-byte
    id of a directory's tree. `device` is ``st_rdev`` of device files; `device_id` is
    ``st_dev`` and, with `inode`, tells which files are hard links of one another.
    """

    name: bytes
    type: NodeType
    mode: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 0
    linktarget: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    device: int = 0
    content: tuple[bytes, ...] = ()
    subtree: bytes | None = None
