"""Files of snapshots as keys of a bucket: listed in the order of keys, found, and read.

A key is the path below the captured one, after the view's prefix. Only regular files are
seen, and only where every name on the way is UTF-8. Trees are read as they are needed, from
the first one that can hold a wanted key on, and the last ones are kept, sorted.

The ETag of a file is made of the ids of its blobs: the same for the same content, another one
for other content.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from holdfast.errors import NoSuchKey, NotFound
from holdfast.flows.dump import ContentReader
from holdfast.flows.locate import MANIFEST_DIRECTORY, Trees, has_manifest
from holdfast.flows.read_session import ReadSession
from holdfast.gateway.authority import Grant
from holdfast.gateway.downloads import part_of
from holdfast.gateway.place import inside
from holdfast.gateway.reading import opened, place_in
from holdfast.gateway.s3.index import OpenedBucket, SeenView
from holdfast.gateway.s3.list import Listed, Source
from holdfast.gateway.workroom import Workroom
from holdfast.model.node import Node, NodeType

EMPTY_ETAG = hashlib.md5(b"", usedforsecurity=False).hexdigest()
_ENTRIES_KEPT = 400_000
_TOPS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Folder:
    """A sorted directory: names as keys have them, those of folders with a slash behind."""

    names: Sequence[str]
    nodes: Sequence[Node]


Load = Callable[[bytes], Folder]


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file of a view, under its key."""

    key: str
    view: SeenView
    node: Node

    @property
    def etag(self) -> str:
        return etag_of(self.node)

    @property
    def modified_at(self) -> datetime:
        return modified_at(self.node)


class Views:
    """Views of opened buckets; thread-safe. Everything here blocks."""

    def __init__(self, room: Workroom) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._folders: OrderedDict[tuple[str, bytes], Folder] = OrderedDict()
        self._entries = 0
        self._tops: OrderedDict[tuple[str, str, str], tuple[bytes | None, bool]] = OrderedDict()

    def sources(self, bucket: OpenedBucket, prefix: str) -> list[Source]:
        """One for each view that can hold keys with `prefix`, for a listing."""
        return [
            self._source(bucket, view, prefix, rank)
            for rank, view in enumerate(bucket.views)
            if view.prefix.startswith(prefix) or prefix.startswith(view.prefix)
        ]

    def find(
        self, bucket: OpenedBucket, key: str, *, made_after: datetime | None = None
    ) -> SeenFile:
        """The file that is seen under a key, in views made after that; raises `NoSuchKey`."""
        for view in reversed(bucket.views):
            if made_after is not None and view.created_at <= made_after:
                continue
            if key.startswith(view.prefix):
                with self._loading(bucket, view) as (top, load):
                    node = None if top is None else _find(top, load, key[len(view.prefix) :])
                if node is not None:
                    return SeenFile(key, view, node)
        raise NoSuchKey("There is no object of that key.")

    def stream(
        self, bucket: OpenedBucket, file: SeenFile, offset: int, length: int
    ) -> Iterator[bytes]:
        """A stretch of a file's content, checked, in order."""
        if not length:
            return
        with opened(self._room, _grant(bucket, file.view)) as repository:
            index = repository.open_index()
            part, skip = part_of(file.node, offset, length, index)
            left = length
            with ContentReader(repository, index) as content:
                for piece in content.stream(part):
                    wanted = piece[skip : skip + left] if skip or left < len(piece) else piece
                    skip, left = 0, left - len(wanted)
                    yield wanted

    def _source(self, bucket: OpenedBucket, view: SeenView, prefix: str, rank: int) -> Source:
        inner = prefix[len(view.prefix) :] if prefix.startswith(view.prefix) else ""

        def source(after: str) -> Generator[Listed, None, None]:
            if after.startswith(view.prefix):
                behind = after[len(view.prefix) :]
            elif after > view.prefix:
                return
            else:
                behind = ""
            with self._loading(bucket, view) as (top, load):
                if top is None:
                    return
                for path, node in walk(top, load, prefix=inner, after=behind):
                    yield Listed(
                        view.prefix + path,
                        rank,
                        node.size,
                        etag_of(node),
                        modified_at(node),
                        made_at=view.created_at,
                    )

        return source

    @contextmanager
    def _loading(self, bucket: OpenedBucket, view: SeenView) -> Iterator[tuple[bytes | None, Load]]:
        """The view's top folder, and what reads folders; no top where nothing is seen."""
        grant = _grant(bucket, view)
        with (
            opened(self._room, grant) as repository,
            ReadSession(repository, with_lock=False) as session,
        ):
            place = grant.repository_location
            known = (place, view.manifest_id, view.captured_path)
            with self._lock:
                found = self._tops.get(known)
            if found is None:
                try:
                    snapshot = session.snapshot(view.manifest_id)
                    where = place_in(Trees(session.reader), snapshot, inside(grant, b""))
                except NotFound:
                    # Deleted a moment ago; soon the view will be gone, too.
                    found = (None, False)
                else:
                    found = (where.tree, not where.path and has_manifest(snapshot))
                    with self._lock:
                        self._tops[known] = found
                        if len(self._tops) > _TOPS_KEPT:
                            self._tops.popitem(last=False)
            top, hides = found
            trees: Trees | None = None

            def load(tree_id: bytes) -> Folder:
                nonlocal trees
                kept = self._kept(place, tree_id)
                if kept is None:
                    trees = trees or Trees(session.reader)
                    kept = folder_of(trees.nodes(tree_id))
                    self._keep(place, tree_id, kept)
                if hides and tree_id == top:
                    return _without_manifest(kept)
                return kept

            yield top, load

    def _kept(self, place: str, tree_id: bytes) -> Folder | None:
        with self._lock:
            folder = self._folders.get((place, tree_id))
            if folder is not None:
                self._folders.move_to_end((place, tree_id))
            return folder

    def _keep(self, place: str, tree_id: bytes, folder: Folder) -> None:
        with self._lock:
            if (place, tree_id) not in self._folders:
                self._folders[place, tree_id] = folder
                self._entries += len(folder.names) + 1
            while self._entries > _ENTRIES_KEPT and len(self._folders) > 1:
                _, dropped = self._folders.popitem(last=False)
                self._entries -= len(dropped.names) + 1


def walk(
    top: bytes, load: Load, *, prefix: str = "", after: str = ""
) -> Iterator[tuple[str, Node]]:
    """Files below a folder by path, in byte order, with `prefix` and behind `after`."""
    waiting = [_entries("", load(top), prefix, after)]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        path, node = found
        if node.type is NodeType.DIRECTORY:
            assert node.subtree is not None
            waiting.append(_entries(path, load(node.subtree), prefix, after))
        else:
            yield path, node


def folder_of(nodes: Sequence[Node]) -> Folder:
    """What of a directory can be seen, sorted as keys are."""
    seen = []
    for node in nodes:
        try:
            name = node.name.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if node.type is NodeType.FILE:
            seen.append((name, node))
        elif node.type is NodeType.DIRECTORY and node.subtree is not None:
            seen.append((name + "/", node))
    seen.sort(key=lambda each: each[0])
    return Folder([name for name, _ in seen], [node for _, node in seen])


def etag_of(node: Node) -> str:
    """Without quotation marks."""
    if not node.content:
        return EMPTY_ETAG
    digest = hashlib.md5(b"".join(node.content), usedforsecurity=False).hexdigest()
    return f"{digest}-{len(node.content)}"


def modified_at(node: Node) -> datetime:
    latest = 253_402_300_799
    return datetime.fromtimestamp(min(max(node.mtime_ns // 10**9, 0), latest), UTC)


def _entries(base: str, folder: Folder, prefix: str, after: str) -> Iterator[tuple[str, Node]]:
    """Entries of a folder that can hold what is wanted; `base` is its path, with its slash."""
    begin = 0
    for bound in (prefix, after):
        if bound.startswith(base):
            # The folder that holds the bound comes right before it.
            begin = max(begin, bisect_left(folder.names, bound[len(base) :]) - 1)
    for at in range(max(0, begin), len(folder.names)):
        node, path = folder.nodes[at], base + folder.names[at]
        if not path.startswith(prefix):
            if path > prefix:
                return
            if node.type is not NodeType.DIRECTORY or not prefix.startswith(path):
                continue
        if path <= after and not (node.type is NodeType.DIRECTORY and after.startswith(path)):
            continue
        yield path, node


def _find(top: bytes, load: Load, path: str) -> Node | None:
    tree: bytes = top
    *folders, name = path.split("/")
    for each in folders:
        node = _entry(load(tree), each + "/")
        if node is None or node.subtree is None:
            return None
        tree = node.subtree
    return _entry(load(tree), name)


def _entry(folder: Folder, name: str) -> Node | None:
    at = bisect_left(folder.names, name)
    if at < len(folder.names) and folder.names[at] == name:
        return folder.nodes[at]
    return None


def _without_manifest(folder: Folder) -> Folder:
    hidden = MANIFEST_DIRECTORY.decode() + "/"
    kept = [at for at, name in enumerate(folder.names) if name != hidden]
    return Folder([folder.names[at] for at in kept], [folder.nodes[at] for at in kept])


def _grant(bucket: OpenedBucket, view: SeenView) -> Grant:
    return replace(
        bucket.grant,
        repository_id=view.repository_id,
        manifest_id=view.manifest_id,
        captured_path=view.captured_path,
        name=view.prefix or view.snapshot_id,
    )
