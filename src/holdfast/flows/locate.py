"""Finding what a path means inside a snapshot: ``SNAPSHOT:/path`` to a node and its tree.

Paths are bytes, relative to the snapshot's root, without a slash at either end; the root is
``b""``. Links are not followed: a path is a place in the snapshot, not in a file system.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from holdfast.errors import NotFound, UsageError
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.tree import decode_tree

MANIFEST_DIRECTORY = b".holdfast"
_TREES_KEPT = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a snapshot. `node` is None at the root, `tree` where it is no directory."""

    path: bytes
    node: Node | None
    tree: bytes | None

    @property
    def is_directory(self) -> bool:
        return self.tree is not None


class Trees:
    """Decoded trees of one repository; the last few are kept. Not thread-safe."""

    def __init__(self, reader: BlobReader) -> None:
        self._reader = reader
        self._kept: OrderedDict[bytes, list[Node]] = OrderedDict()

    def nodes(self, tree_id: bytes) -> list[Node]:
        """The nodes of a tree in stored order; raises `Damaged`."""
        nodes = self._kept.pop(tree_id, None)
        if nodes is None:
            text = self._reader.load(BlobType.TREE, tree_id)
            nodes = decode_tree(text, f"tree {tree_id.hex()[:8]}")
        self._kept[tree_id] = nodes
        if len(self._kept) > _TREES_KEPT:
            self._kept.popitem(last=False)
        return nodes


def split_reference(reference: str) -> tuple[str, bytes]:
    """Split ``SNAPSHOT:/path`` or ``SNAPSHOT`` into its two parts."""
    name, _, path = reference.partition(":")
    return name, normal_path(os.fsencode(path))


def normal_path(path: bytes) -> bytes:
    """A path as people write it, as a path in a snapshot; raises `UsageError` for ``..``."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageError(f"{os.fsdecode(path)!r} leads upwards; name a place in the snapshot")
    return b"/".join(parts)


def root_tree(snapshot: Snapshot) -> bytes:
    """The id of a snapshot's root tree."""
    return bytes.fromhex(snapshot.tree)


def has_manifest(snapshot: Snapshot) -> bool:
    """Whether the snapshot's ``.holdfast`` is our own document and not a user's directory."""
    return snapshot.program_version.startswith("holdfast")


def locate(trees: Trees, snapshot: Snapshot, path: bytes) -> Place:
    """The place at `path`; raises `NotFound` that says how far the path leads."""
    wanted = normal_path(path)
    tree: bytes | None = root_tree(snapshot)
    node: Node | None = None
    done: list[bytes] = []
    for name in wanted.split(b"/") if wanted else ():
        here = _shown(b"/".join(done))
        if tree is None:
            assert node is not None
            what = "a symbolic link to " + _shown(node.linktarget).removeprefix("/")
            kind = what if node.type is NodeType.SYMLINK else f"a {node.type}, not a directory"
            raise NotFound(f"{here} in snapshot {snapshot.short_id} is {kind}")
        found = [each for each in trees.nodes(tree) if each.name == name]
        if not found:
            raise NotFound(
                f"{here} in snapshot {snapshot.short_id} holds no {os.fsdecode(name)!r}; see "
                f"`holdfast ls {snapshot.short_id} {here}`"
            )
        node = found[0]
        done.append(name)
        tree = node.subtree if node.type is NodeType.DIRECTORY else None
    return Place(wanted, node, tree)


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
