"""Entries of snapshots as people and programs are shown them."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

from holdfast.cli import text
from holdfast.model.node import Node, NodeType
from holdfast.model.quantity import print_bytes

_LETTERS = {
    NodeType.FILE: "-",
    NodeType.DIRECTORY: "d",
    NodeType.SYMLINK: "l",
    NodeType.BLOCK_DEVICE: "b",
    NodeType.CHARACTER_DEVICE: "c",
    NodeType.FIFO: "p",
    NodeType.SOCKET: "s",
    NodeType.IRREGULAR: "?",
}


def shown_path(path: bytes) -> str:
    """A path in a snapshot, from its root, for people."""
    return "/" + text.name(path)


def entry_document(path: bytes, node: Node) -> dict[str, object]:
    """An entry for programs; times are in nanoseconds since the epoch."""
    document: dict[str, object] = {
        "path": "/" + os.fsdecode(path),
        "type": node.type.value,
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "size": node.size,
        "mtime_ns": node.mtime_ns,
    }
    if node.type is NodeType.SYMLINK:
        document["linktarget"] = os.fsdecode(node.linktarget)
    return document


def long_line(path: bytes, node: Node) -> str:
    """An entry as ``ls -l`` shows it."""
    mode = _LETTERS[node.type] + stat.filemode(node.mode)[1:]
    owner = f"{node.user or node.uid}:{node.group or node.gid}"
    size = print_bytes(node.size) if node.type is NodeType.FILE else ""
    target = f" -> {text.name(node.linktarget)}" if node.type is NodeType.SYMLINK else ""
    return f"{mode} {owner:15} {size:>10} {modified(node)} {shown_path(path)}{target}"


def modified(node: Node) -> str:
    """Local time of the last change of the content; far away ones as their number."""
    try:
        return text.moment(datetime.fromtimestamp(node.mtime_ns // 10**9, UTC))
    except (ValueError, OverflowError):
        return f"@{node.mtime_ns // 10**9}"
