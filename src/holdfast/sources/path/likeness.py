"""Whether an entry on the disk is what its node says: what differs, and whether that had to be.

`differences` only looks. `refusal` tries, on an entry that nobody keeps, to put one difference
right, and so tells what this host cannot do (its rights, its file system) from what was done
wrong. Nothing here uses the code that restores: an error in that one has to show here. Entries
are given as ``/proc/self/fd/N`` of a pinned descriptor, never by a name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from holdfast.model.node import Node, NodeType
from holdfast.sources.path.metadata import node_type

_REFUSED = (OSError, OverflowError, ValueError)
_SYSTEM = (b"security.", b"system.", b"btrfs.")
_OURS = frozenset((b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"))
_DEVICES = frozenset((NodeType.BLOCK_DEVICE, NodeType.CHARACTER_DEVICE))


class Difference(NamedTuple):
    """One thing that is not as in the snapshot.

    `aspect` is what of the entry: owner, mode, set-id bits, modification time, attributes,
    kind, device number or link target. `message` says what is there and what should be.
    `attribute` is the name of the extended attribute, if it is one.
    """

    aspect: str
    message: str
    attribute: bytes = b""


def differences(
    node: Node,
    status: os.stat_result,
    *,
    xattrs: Mapping[bytes, bytes] | None,
    linktarget: bytes = b"",
) -> list[Difference]:
    """What of an entry's metadata is not the node's; nothing is read or changed.

    `xattrs` is None where they cannot be read, and then they are not compared. Sizes are the
    business of who compares the content. Access and change times cannot come back.
    """
    kind = node_type(status.st_mode)
    if kind is not node.type:
        return [Difference("kind", f"it came back as a {kind} and was a {node.type}")]
    found = []
    if kind in _DEVICES and status.st_rdev != node.device:
        found.append(
            Difference("device number", f"device {status.st_rdev:#x} was {node.device:#x}")
        )
    if kind is NodeType.SYMLINK:
        if linktarget != node.linktarget:
            found.append(Difference("link target", "it points elsewhere than it did"))
    else:
        found += _mode(node, status)
    if (status.st_uid, status.st_gid) != (node.uid, node.gid):
        is_, was = f"{status.st_uid}:{status.st_gid}", f"{node.uid}:{node.gid}"
        found.append(Difference("owner", f"it belongs to {is_} and belonged to {was}"))
    if xattrs is not None:
        found += _attributes(dict(node.xattrs), xattrs)
    if status.st_mtime_ns != node.mtime_ns:
        message = f"modification time {status.st_mtime_ns} ns was {node.mtime_ns} ns"
        found.append(Difference("modification time", message))
    return found


def _mode(node: Node, status: os.stat_result) -> list[Difference]:
    wanted, mode = node.mode & 0o7777, stat.S_IMODE(status.st_mode)
    if mode == wanted:
        return []
    foreign = 0
    if node.type is not NodeType.DIRECTORY:
        foreign |= stat.S_ISUID if status.st_uid != node.uid else 0
        foreign |= stat.S_ISGID if status.st_gid != node.gid else 0
    aspect = "set-id bits" if mode == wanted & ~foreign else "mode"
    return [Difference(aspect, f"mode {mode:o} was {wanted:o}")]


def _attributes(wanted: Mapping[bytes, bytes], found: Mapping[bytes, bytes]) -> list[Difference]:
    result = []
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            words = "is missing"
        elif name in wanted:
            if wanted[name] == found[name]:
                continue
            words = "has another value"
        elif name.startswith(_SYSTEM) and name not in _OURS:
            continue  # labels and properties that the system gives to every new file
        else:
            words = "is new"
        result.append(Difference("attributes", f"the attribute {name!a} {words}", name))
    return result


def refusal(where: bytes, node: Node, difference: Difference) -> str:
    """Why this host cannot make an entry as it was, or ``""`` where it could have been made so.

    Changes the entry. `where` is ``/proc/self/fd/N``.
    """
    try:
        if difference.aspect == "owner":
            os.chown(where, node.uid, node.gid)
        elif difference.aspect == "mode":
            os.chmod(where, node.mode & 0o7777)
        elif difference.aspect == "set-id bits":
            return "they would lend the rights of another owner"
        elif difference.aspect == "modification time":
            os.utime(where, ns=(node.mtime_ns, node.mtime_ns))
        elif difference.aspect == "attributes":
            return _attribute_refusal(where, node, difference.attribute)
        else:
            return ""
    except _REFUSED as error:
        return _reason(error)
    status = os.stat(where)
    again = differences(node, status, xattrs=None, linktarget=node.linktarget)
    if any(each.aspect == difference.aspect for each in again):
        return "the file system does not keep it"
    return ""


def _attribute_refusal(where: bytes, node: Node, name: bytes) -> str:
    value = dict(node.xattrs).get(name)
    mode = stat.S_IMODE(os.stat(where).st_mode)
    try:
        if mode & 0o200 == 0 and node.type is not NodeType.SYMLINK:
            os.chmod(where, mode | 0o200)  # attributes can be set only by who may write
        if value is None:
            os.removexattr(where, name)
        else:
            os.setxattr(where, name, value)
    except _REFUSED as error:
        return _reason(error)
    finally:
        if mode & 0o200 == 0 and node.type is not NodeType.SYMLINK:
            with suppress(OSError):
                os.chmod(where, mode)
    return ""


def refusal_to_make(node: Node, parent_fd: int) -> str:
    """Why an entry that is missing cannot be made here, or ``""`` where it can.

    Never for files and directories: without them nothing is proven. What is made for a
    moment is removed again.
    """
    if node.type in (NodeType.FILE, NodeType.DIRECTORY):
        return ""
    name = node.name
    try:
        if node.type is NodeType.SYMLINK:
            os.symlink(node.linktarget, name, dir_fd=parent_fd)
        elif node.type is NodeType.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent_fd)
        else:
            kind = stat.S_IFBLK if node.type is NodeType.BLOCK_DEVICE else stat.S_IFCHR
            os.mknod(name, 0o600 | kind, node.device, dir_fd=parent_fd)
        os.unlink(name, dir_fd=parent_fd)
    except _REFUSED as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
