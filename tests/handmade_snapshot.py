"""Snapshots written node by node, as a hostile or broken program could have made them."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import join_nodes
from holdfast.repo.writer import BlobWriter

MTIME = 1_600_000_000_123_456_789


class Maker:
    """Stores content and trees, and at the end a snapshot of a root tree."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer

    def file(self, name: bytes, *chunks: bytes, size: int | None = None, links: int = 1) -> Node:
        content = tuple(self._writer.add(BlobType.DATA, chunk) for chunk in chunks)
        return Node(
            name,
            NodeType.FILE,
            0o644,
            MTIME,
            MTIME,
            inode=77,
            links=links,
            size=sum(map(len, chunks)) if size is None else size,
            content=content,
        )

    def directory(self, name: bytes, nodes: Iterable[Node]) -> Node:
        return Node(name, NodeType.DIRECTORY, 0o755, MTIME, MTIME, subtree=self.tree(nodes))

    def link(self, name: bytes, target: bytes) -> Node:
        return Node(name, NodeType.SYMLINK, 0o777, MTIME, MTIME, linktarget=target)

    def tree(self, nodes: Iterable[Node]) -> bytes:
        from holdfast.repo.tree import encode_node

        # In the order given: a broken writer need not sort.
        return self._writer.add(BlobType.TREE, join_nodes(map(encode_node, nodes)))


def commit(session: WriteSession, writer: BlobWriter, tree: bytes) -> Snapshot:
    session.take(writer.flush())
    return session.commit(
        {"time": "2025-01-01T00:00:00Z", "tree": tree.hex(), "paths": ["/"], "hostname": "h"}
    )


class Handmade:
    """``with Handmade(repository) as made: ... made.snapshot(nodes)``."""

    def __init__(self, repository: Repository) -> None:
        self._session = WriteSession(repository, "backup")

    def __enter__(self) -> Handmade:
        self._session.__enter__()
        self._writer = BlobWriter(self._session.setup)
        self.make = Maker(self._writer)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._session.__exit__(None, None, None)

    def snapshot(self, nodes: Iterable[Node]) -> Snapshot:
        return commit(self._session, self._writer, self.make.tree(nodes))
