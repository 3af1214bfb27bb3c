"""How a disk lies in a snapshot's tree, written and read.

``NAME.disk/segment-000000/data`` and so on: each segment is a directory of its own with
one file in it. The invariant: equal content gives equal trees. So nodes carry nothing that
varies, neither times nor owners, and a segment in which nothing changed is its parent's.
Everything that is read is checked against the disk's shape before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import Damaged, NotFound
from holdfast.model.manifest import MANIFEST_PATH, DiskManifest, Manifest, from_json
from holdfast.model.node import Node, NodeType
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.tree import decode_documents, document_name, encode_node, join_nodes
from holdfast.sources.disk.segments import SEGMENT_FILE, DiskLayout

ID_BYTES = 32
_DIRECTORY_MODE = 0o700
_SEGMENT_MODE = 0o400
_NO_CONTENT = "]}"


def disk_directory(name: str) -> str:
    """The directory that a disk lies in, relative to the snapshot's root."""
    return f"{name}.disk"


def layout_of(disk: DiskManifest) -> DiskLayout:
    """Where the chunks of a stored disk lie."""
    return DiskLayout(disk.size_bytes, disk.chunk_size_bytes, disk.segment_size_bytes)


def segment_tree(ids: bytes | bytearray, length: int) -> bytes:
    """The tree of a segment of `length` bytes, whose chunks have these ids, one behind another."""
    node = Node(SEGMENT_FILE.encode(), NodeType.FILE, _SEGMENT_MODE, size=length)
    text = encode_node(node)
    assert text.endswith("[" + _NO_CONTENT)
    # One call into C for the whole list; by the chunk this would cost more than reading a hole.
    listed = '"' + ids.hex('"', ID_BYTES).replace('"', '","') + '"' if ids else ""
    return join_nodes([text[: -len(_NO_CONTENT)] + listed + _NO_CONTENT])


def disk_tree(layout: DiskLayout, trees: Sequence[bytes]) -> bytes:
    """The tree of a disk's directory from the ids of its segments' trees, in order."""
    return join_nodes(
        directory_node(name.encode(), tree)
        for name, tree in zip(layout.segment_names(), trees, strict=True)
    )


def directory_node(name: bytes, tree: bytes) -> str:
    """The text of a directory's node."""
    return encode_node(Node(name, NodeType.DIRECTORY, _DIRECTORY_MODE, subtree=tree))


def load_segment(reader: BlobReader, tree: bytes, length: int, chunks: int) -> bytes:
    """The chunk ids of a segment, one behind another.

    Raises `Damaged` where the tree cannot be read, or is not one of `length` bytes in that
    many chunks.
    """
    what = f"disk segment {tree.hex()[:8]}"
    try:
        (node,) = decode_documents(reader.load(BlobType.TREE, tree), what)
        if node["name"] == SEGMENT_FILE and node.get("size", 0) == length:
            ids = bytes.fromhex("".join(node.get("content") or ()))
            if len(ids) == chunks * ID_BYTES == len(node["content"]) * ID_BYTES:
                return ids
    except (KeyError, TypeError, ValueError):
        pass
    raise Damaged(f"{what} is not a segment of {length} bytes in {chunks} chunks")


def load_segment_trees(reader: BlobReader, root: bytes, disk: DiskManifest) -> list[bytes]:
    """The ids of the trees of all segments of a disk below a snapshot's `root`, in order."""
    tree = root
    for part in disk.directory.encode(errors="surrogateescape").split(b"/"):
        tree = _subtree(_entry(reader, tree, part), disk.directory)
    nodes = decode_documents(reader.load(BlobType.TREE, tree), f"the directory {disk.directory}")
    found = {document_name(node): node for node in nodes}
    layout = layout_of(disk)
    names = [name.encode() for name in layout.segment_names()]
    if found.keys() != set(names):
        raise Damaged(
            f"the directory {disk.directory} holds {len(found)} segments, not the "
            f"{layout.segment_count} of a disk of {disk.size_bytes} bytes"
        )
    return [_subtree(found[name], disk.directory) for name in names]


def load_manifest(reader: BlobReader, root: bytes) -> Manifest:
    """The manifest of the snapshot whose tree is `root`.

    Raises `NotFound` where there is none, as in snapshots that plain restic made.
    """
    directory, file = MANIFEST_PATH.encode().split(b"/")
    tree = _subtree(_entry(reader, root, directory), directory.decode())
    content = _entry(reader, tree, file).get("content") or []
    return from_json(b"".join(reader.load(BlobType.DATA, bytes.fromhex(i)) for i in content))


def _entry(reader: BlobReader, tree: bytes, name: bytes) -> dict[str, Any]:
    for node in decode_documents(reader.load(BlobType.TREE, tree), f"tree {tree.hex()[:8]}"):
        if document_name(node) == name:
            return node
    raise NotFound(
        f"the snapshot holds no {name.decode(errors='replace')}; it is not one of disks, or "
        "was made by another program"
    )


def _subtree(node: dict[str, Any], where: str) -> bytes:
    try:
        return bytes.fromhex(node["subtree"])
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"an entry of {where} is not a directory") from None
