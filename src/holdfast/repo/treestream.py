"""A stream of trees: every tree that roots reach, fetched ahead where fetching is slow.

Like `walk.py`, but the caller says which trees are new to it, so that it may keep a bit per
blob and not a set of ids, and a tree that cannot be read is part of the stream. Nothing is
decided here about what a tree needs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from holdfast.errors import Damaged
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.tree import decode_documents

_FETCHES = 16


class StreamedTree(NamedTuple):
    """A tree with its raw nodes and the ids of its subtrees, or with its damage."""

    id: bytes
    nodes: list[dict[str, Any]]
    damage: Damaged | None


def stream_trees(
    repository: Repository,
    index: BlobIndex,
    roots: Iterable[bytes],
    enter: Callable[[bytes], bool],
) -> Iterator[StreamedTree]:
    """Yield every tree below `roots` for which `enter` answers True, parents first.

    `enter` is asked once for each mention of a tree, before it is fetched.
    """
    source = _Source(repository, index)
    pending = [root for root in roots if enter(root)]
    if repository.store.fork_safe:  # a local store answers faster than a thread does
        while pending:
            tree = source.fetch(pending.pop())
            yield tree
            pending.extend(subtree for subtree in subtrees(tree) if enter(subtree))
        return
    with ThreadPoolExecutor(_FETCHES, thread_name_prefix="trees") as threads:
        ahead: deque[Future[StreamedTree]] = deque()
        try:
            while pending or ahead:
                while pending and len(ahead) < 2 * _FETCHES:
                    ahead.append(threads.submit(source.fetch, pending.pop()))
                tree = ahead.popleft().result()
                yield tree
                pending.extend(subtree for subtree in subtrees(tree) if enter(subtree))
        finally:
            for future in ahead:
                future.cancel()


def subtrees(tree: StreamedTree) -> Iterator[bytes]:
    """Yield the ids of the trees right below a tree."""
    for node in tree.nodes:
        subtree = node.get("subtree")
        if subtree:
            yield bytes.fromhex(subtree)


class _Source:
    def __init__(self, repository: Repository, index: BlobIndex) -> None:
        self._repository, self._index = repository, index
        self._local = threading.local()

    def fetch(self, tree_id: bytes) -> StreamedTree:
        reader: BlobReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = BlobReader(self._repository, self._index)
        what = f"tree {tree_id.hex()[:8]}"
        try:
            nodes = decode_documents(reader.load(BlobType.TREE, tree_id), what)
            _check_shape(nodes, what)
        except Damaged as error:
            return StreamedTree(tree_id, [], error)
        return StreamedTree(tree_id, nodes, None)


def _check_shape(nodes: list[dict[str, Any]], what: str) -> None:
    """Raise `Damaged` unless every node names its content and its subtree by ids."""
    try:
        for node in nodes:
            subtree = node.get("subtree")
            if subtree and len(bytes.fromhex(subtree)) != 32:
                raise ValueError(subtree)
            for blob_id in node.get("content") or ():
                if len(blob_id) != 64:
                    raise ValueError(blob_id)
                bytes.fromhex(blob_id)
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{what} holds a node that cannot be read: {error}") from None
