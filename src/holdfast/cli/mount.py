"""All snapshots as a read-only file system, through FUSE.

``ids/ID`` and ``snapshots/TIME`` are the snapshots that were there when it was mounted,
``snapshots/latest`` is a link to the newest. Files are read piece by piece as they are asked
for; pieces and directories are kept in memory up to a bound. Nothing can be written. What is
damaged gives an input/output error, and never other bytes.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import mfusepy

from holdfast.errors import HoldfastError, TargetError
from holdfast.flows.placement import placed
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.tree import decode_tree

CACHE_BYTES = 64 << 20
_DIRECTORIES_KEPT = 128
_KINDS = {
    NodeType.FILE: stat.S_IFREG,
    NodeType.DIRECTORY: stat.S_IFDIR,
    NodeType.SYMLINK: stat.S_IFLNK,
    NodeType.BLOCK_DEVICE: stat.S_IFBLK,
    NodeType.CHARACTER_DEVICE: stat.S_IFCHR,
    NodeType.FIFO: stat.S_IFIFO,
    NodeType.SOCKET: stat.S_IFSOCK,
    NodeType.IRREGULAR: stat.S_IFREG,
}

Directory = dict[bytes, Node]
R = TypeVar("R")


def mount(
    repository: Repository,
    index: BlobIndex,
    snapshots: Iterable[Snapshot],
    directory: str,
    *,
    allow_other: bool = False,
) -> None:
    """Mount and serve until it is unmounted, or a signal ends it. Raises `TargetError`."""
    options = {"allow_other": True, "default_permissions": True} if allow_other else {}
    try:
        mfusepy.FUSE(
            SnapshotFileSystem(repository, index, snapshots),
            directory,
            foreground=True,
            ro=True,
            fsname="holdfast",
            subtype="holdfast",
            **options,
        )
    except RuntimeError as error:
        raise TargetError(
            f"{directory} cannot be mounted on (FUSE's error {error}); is it an empty directory "
            "of yours, and is fuse3 installed?"
        ) from None


def names_of(snapshots: Iterable[Snapshot]) -> dict[str, Snapshot]:
    """A name for each snapshot by its time; a number tells those of one second apart."""
    named: dict[str, Snapshot] = {}
    for snapshot in snapshots:
        name = wanted = snapshot.time.astimezone().isoformat(timespec="seconds")
        number = 1
        while name in named:
            number += 1
            name = f"{wanted}-{number}"
        named[name] = snapshot
    return named


def _reported(act: Callable[..., R]) -> Callable[..., R]:
    """What the repository cannot give is an input/output error to whoever reads."""

    @functools.wraps(act)
    def guarded(*arguments: Any) -> R:
        try:
            return act(*arguments)
        except HoldfastError:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    return guarded


class _OpenFile(NamedTuple):
    """Where the pieces of a file begin, how long they are, and their ids."""

    size: int
    starts: list[int]
    pieces: list[tuple[int, bytes]]


class SnapshotFileSystem(mfusepy.Operations):  # type: ignore[misc]
    """The operations that FUSE calls, from many threads at once."""

    use_ns = True

    def __init__(
        self, repository: Repository, index: BlobIndex, snapshots: Iterable[Snapshot]
    ) -> None:
        self._repository, self._index = repository, index
        self._lock = threading.Lock()
        # Threads of FUSE have no storage of their own that lasts, so readers are lent.
        self._readers: list[BlobReader] = []
        self._directories: OrderedDict[bytes, Directory] = OrderedDict()
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._blobs_bytes = 0
        self._files: dict[int, _OpenFile] = {}
        self._next_handle = 1
        self._top = self._make_top(list(snapshots))

    @staticmethod
    def _make_top(snapshots: list[Snapshot]) -> dict[bytes, Directory]:
        """The two directories above all snapshots."""
        by_time, by_id = {}, {}
        for name, snapshot in names_of(snapshots).items():
            time_ns = int(snapshot.time.timestamp() * 1e9)
            node = Node(
                b"",
                NodeType.DIRECTORY,
                mode=0o755,
                mtime_ns=time_ns,
                atime_ns=time_ns,
                ctime_ns=time_ns,
                uid=os.getuid(),
                gid=os.getgid(),
                subtree=bytes.fromhex(snapshot.tree),
            )
            by_time[name.encode()] = node
            by_id[snapshot.short_id.encode()] = node
            newest = node._replace(
                type=NodeType.SYMLINK, linktarget=name.encode(), mode=0o777, subtree=None
            )
        if snapshots:
            by_time[b"latest"] = newest
        return {b"snapshots": by_time, b"ids": by_id}

    # What FUSE asks

    @_reported
    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        node = self._find(path)
        size = len(node.linktarget) if node.type is NodeType.SYMLINK else node.size
        return {
            "st_mode": _KINDS[node.type] | node.mode,
            "st_nlink": 1,
            "st_uid": node.uid,
            "st_gid": node.gid,
            "st_rdev": node.device,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_mtime": node.mtime_ns,
            "st_atime": node.atime_ns,
            "st_ctime": node.ctime_ns,
        }

    @_reported
    def readdir(self, path: str, _handle: int) -> list[str]:
        return [".", "..", *map(os.fsdecode, self._list(path))]

    @_reported
    def readlink(self, path: str) -> str:
        return os.fsdecode(self._find(path).linktarget)

    @_reported
    def listxattr(self, path: str) -> list[str]:
        return [os.fsdecode(name) for name, _ in self._find(path).xattrs if name[:5] == b"user."]

    @_reported
    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        for known, value in self._find(path).xattrs:
            if known[:5] == b"user." and known == os.fsencode(name):
                return value
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    @_reported
    def open(self, path: str, _flags: int) -> int:
        node = self._find(path)
        starts: list[int] = []
        pieces: list[tuple[int, bytes]] = []
        for start, length, blob_id in placed(node.content, node.size, self._length_of):
            starts.append(start)
            pieces.append((length, blob_id))
        with self._lock:
            handle, self._next_handle = self._next_handle, self._next_handle + 1
            self._files[handle] = _OpenFile(node.size, starts, pieces)
        return handle

    @_reported
    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        file = self._files[handle]
        end = min(offset + size, file.size)
        found: list[bytes] = []
        number = bisect_right(file.starts, offset) - 1
        while offset < end:
            if not 0 <= number < len(file.pieces):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            start, (length, blob_id) = file.starts[number], file.pieces[number]
            if not start <= offset < start + length:  # what is unknown has no place
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            part = self._blob(blob_id)[offset - start : end - start]
            found.append(part)
            offset += len(part)
            number += 1
        return b"".join(found)

    def release(self, _path: str, handle: int) -> int:
        with self._lock:
            self._files.pop(handle, None)
        return 0

    # What the repository has

    def _find(self, path: str) -> Node:
        above, _, name = path.rpartition("/")
        if not name or os.fsencode(path[1:]) in self._top:
            return Node(b"", NodeType.DIRECTORY, mode=0o755, uid=os.getuid(), gid=os.getgid())
        node = self._list(above).get(os.fsencode(name))
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node

    def _list(self, path: str) -> Directory:
        parts = [part for part in os.fsencode(path).split(b"/") if part]
        if not parts:
            return {name: Node(name, NodeType.DIRECTORY) for name in self._top}
        here: Directory | None = self._top.get(parts[0])
        for part in parts[1:]:
            node = None if here is None else here.get(part)
            here = None if node is None or node.subtree is None else self._tree(node.subtree)
        if here is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return here

    def _tree(self, tree_id: bytes) -> Directory:
        with self._lock:
            known = self._directories.get(tree_id)
            if known is not None:
                self._directories.move_to_end(tree_id)
                return known
        text = self._load(BlobType.TREE, tree_id)
        directory = {node.name: node for node in decode_tree(text, f"tree {tree_id.hex()[:8]}")}
        with self._lock:
            self._directories[tree_id] = directory
            if len(self._directories) > _DIRECTORIES_KEPT:
                self._directories.popitem(last=False)
        return directory

    def _length_of(self, blob_id: bytes) -> int | None:
        location = self._index.find(BlobType.DATA, blob_id)
        return None if location is None else location.raw_length

    def _blob(self, blob_id: bytes) -> bytes:
        with self._lock:
            known = self._blobs.get(blob_id)
            if known is not None:
                self._blobs.move_to_end(blob_id)
                return known
        content = self._load(BlobType.DATA, blob_id)
        with self._lock:
            if blob_id not in self._blobs:
                self._blobs[blob_id] = content
                self._blobs_bytes += len(content)
            while self._blobs_bytes > CACHE_BYTES and len(self._blobs) > 1:
                _, dropped = self._blobs.popitem(last=False)
                self._blobs_bytes -= len(dropped)
        return content

    def _load(self, kind: BlobType, blob_id: bytes) -> bytes:
        with self._lock:
            reader = self._readers.pop() if self._readers else None
        reader = reader or BlobReader(self._repository, self._index)
        try:
            return reader.load(kind, blob_id)
        finally:
            with self._lock:
                self._readers.append(reader)
