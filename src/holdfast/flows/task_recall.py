"""Remembering a task's directory from a snapshot that another process has made of it.

For a capturer that takes over: what the snapshot says of a file counts where the file looks
the same and had rested for a minute when it was captured. Reads trees only, no content.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

from holdfast.errors import Damaged
from holdfast.flows.task_memory import Directory, Entry
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo import rfc3339
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.tree import decode_tree, encode_node
from holdfast.sources.path.confine import join
from holdfast.sources.path.settling import REMOTE_NS


@dataclass(frozen=True, slots=True)
class Recalled:
    """The directory, and every directory in it by its path."""

    top: Directory
    stored: dict[bytes, Directory]


def recall(reader: BlobReader, snapshot: Snapshot, stored_as: bytes) -> Recalled:
    """Read the trees of a snapshot of `stored_as`; raise `Damaged` where that cannot be."""
    tree = bytes.fromhex(snapshot.tree)
    for name in stored_as[1:].split(b"/"):
        nodes = {node.name: node for node in _nodes(reader, tree)}
        subtree = nodes[name].subtree if name in nodes else None
        if subtree is None:
            raise Damaged(f"snapshot {snapshot.short_id} is not of a task's directory")
        tree = subtree
    began = snapshot.summary.get("backup_start")
    moment_ns = rfc3339.to_ns(str(began)) if began else int(snapshot.time.timestamp() * 1e9)
    top = Directory(b"", tree=tree)
    stored: dict[bytes, Directory] = {}
    pending = [top]
    while pending:
        here = pending.pop()
        stored[here.path] = here
        assert here.tree is not None
        for node in _nodes(reader, here.tree):
            here.names.append(node.name)
            if node.type is NodeType.DIRECTORY and node.subtree is not None:
                text = encode_node(node._replace(subtree=None))[:-1]
                path = join(here.path, node.name)
                sub = Directory(path, text=text, tree=node.subtree)
                here.directories[node.name] = sub
                pending.append(sub)
            else:
                here.entries[node.name] = _entry(node, moment_ns - REMOTE_NS)
    return Recalled(top, stored)


def _nodes(reader: BlobReader, tree: bytes) -> list[Node]:
    return decode_tree(reader.load(BlobType.TREE, tree), f"tree {tree.hex()[:8]}")


def _entry(node: Node, settled_before_ns: int) -> Entry:
    regular = node.type is NodeType.FILE
    kind = stat.S_IFREG if regular else 0
    look = (node.inode, kind, node.size, node.mtime_ns, node.ctime_ns)
    # Whether it was mapped at that time nobody knows, hence the longer rest.
    settled = regular and node.ctime_ns < settled_before_ns
    return Entry(look, settled, encode_node(node), node.content, node.size)
