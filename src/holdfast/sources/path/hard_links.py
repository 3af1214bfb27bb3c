"""Hard links: which nodes of a snapshot are further names of a file already seen.

Two nodes are the same file only if their content agrees too: a file that changed while it
was captured under two names comes back as two files, and neither's bytes are lost.
"""

from __future__ import annotations

from holdfast.model.node import Node, NodeType


class HardLinks:
    """Remembers the first path of every file that has several names."""

    def __init__(self) -> None:
        self._first: dict[tuple[object, ...], bytes] = {}

    def first(self, node: Node, path: bytes) -> bytes | None:
        """The path under which this file was met before; None when this is the first."""
        if node.links < 2 or not node.inode or node.type is NodeType.DIRECTORY:
            return None
        key = (node.device_id, node.inode, node.type, node.content, node.linktarget, node.device)
        known = self._first.setdefault(key, path)
        return None if known == path else known
