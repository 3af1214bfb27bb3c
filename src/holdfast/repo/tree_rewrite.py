"""Rewriting trees without what is lost: damaged files go, everything else stays as it was.

A directory that cannot be read goes as a whole. A size that does not match the content is
corrected. Trees without damage keep their id. Nothing is deleted here; what is dropped
is what `damage.py` names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from holdfast.errors import Damaged
from holdfast.repo.damage import Lost
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.tree import (
    decode_documents,
    decode_node,
    encode_node,
    join_nodes,
)

_KNOWN_FIELDS = frozenset(
    (
        *("name", "type", "mode", "mtime", "atime", "ctime", "uid", "gid", "user", "group"),
        *("inode", "device_id", "size", "links", "linktarget", "linktarget_raw"),
        *("extended_attributes", "device", "content", "subtree"),
    )
)
StoreTree = Callable[[bytes], bytes]
"""Stores the bytes of a tree and returns its id."""


class TreeRewriter:
    """Answers what a tree becomes without `lost`; each tree is rewritten once."""

    def __init__(
        self, repository: Repository, index: BlobIndex, lost: Lost, store: StoreTree
    ) -> None:
        self._reader, self._index = BlobReader(repository, index), index
        self._lost, self._store = lost, store
        self._done: dict[bytes, bytes | None] = {}
        self.corrected_sizes = 0

    def rewrite(self, root: bytes) -> bytes | None:
        """Return the id of the tree that is left, or None where nothing can be read."""
        pending = [root]
        while pending:
            tree = pending[-1]
            if tree in self._done:
                pending.pop()
                continue
            nodes = self._load(tree)
            if nodes is None:
                self._done[tree] = None
                continue
            below = [bytes.fromhex(node["subtree"]) for node in nodes if node.get("subtree")]
            missing = [subtree for subtree in below if subtree not in self._done]
            if missing:
                pending.extend(missing)
            else:
                self._done[tree] = self._without_lost(tree, nodes)
        return self._done[root]

    def _load(self, tree: bytes) -> list[dict[str, Any]] | None:
        if (BlobType.TREE, tree) in self._lost:
            return None
        try:
            nodes = decode_documents(self._reader.load(BlobType.TREE, tree), "a tree")
            for node in nodes:
                decode_node(node)
        except (Damaged, KeyError, ValueError, TypeError, AttributeError):
            return None
        return nodes

    def _without_lost(self, tree: bytes, nodes: list[dict[str, Any]]) -> bytes:
        kept, changed = [], False
        for node in nodes:
            new = self._node(node)
            changed = changed or new is not node
            if new is not None:
                kept.append(new)
        if not changed:
            return tree
        return self._store(join_nodes(map(_text, kept)))

    def _node(self, node: dict[str, Any]) -> dict[str, Any] | None:
        if node["type"] == "dir":
            subtree = self._done[bytes.fromhex(node["subtree"])] if node.get("subtree") else None
            if subtree is None:
                return None
            text = subtree.hex()
            return node if text == node["subtree"] else {**node, "subtree": text}
        if node["type"] != "file":
            return node
        size = 0
        for text in node.get("content") or ():
            blob_id = bytes.fromhex(text)
            place = self._index.find(BlobType.DATA, blob_id)
            if place is None or (BlobType.DATA, blob_id) in self._lost:
                return None
            size += place.raw_length
        if size == node.get("size", 0):
            return node
        self.corrected_sizes += 1
        return {**node, "size": size}


def _text(node: dict[str, Any]) -> str:
    if _KNOWN_FIELDS.issuperset(node):
        return encode_node(decode_node(node))
    return orjson.dumps(node).decode()  # what another program put there is kept
