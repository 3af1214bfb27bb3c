"""Walking trees: every tree that roots reach, each once however often it is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from holdfast.errors import Damaged
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.tree import decode_documents

Document = dict[str, Any]
OnDamage = Callable[[bytes, Damaged], None]


def walk_trees(
    reader: BlobReader,
    roots: Iterable[bytes],
    seen: set[bytes],
    on_damage: OnDamage | None = None,
) -> Iterator[tuple[bytes, list[Document]]]:
    """Yield (tree id, raw nodes) of every tree below `roots` that is not in `seen`.

    Ids are added to `seen`. A tree that cannot be read goes to `on_damage` and is passed
    over; without it the error is raised.
    """
    pending = list(roots)
    while pending:
        tree_id = pending.pop()
        if tree_id in seen:
            continue
        seen.add(tree_id)
        try:
            nodes = decode_documents(
                reader.load(BlobType.TREE, tree_id), f"tree {tree_id.hex()[:8]}"
            )
        except Damaged as error:
            if on_damage is None:
                raise
            on_damage(tree_id, error)
            continue
        yield tree_id, nodes
        for node in nodes:
            subtree = node.get("subtree")
            if subtree:
                pending.append(bytes.fromhex(subtree))
