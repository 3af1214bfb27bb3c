"""What a worker process does of a backup: directories, files, parts of files, trees.

A task is one of the tuples below; each answer carries what the worker's writer has stored
since, so that the parent can index it. The worker decides nothing about the snapshot; it
turns entries into the text of nodes, and reads every file in a way that notices changes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from holdfast.errors import Damaged, HoldfastError, SourceVanished
from holdfast.flows.file_content import ContentWriter
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.repo import rfc3339
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.tree import (
    decode_attributes,
    decode_documents,
    document_name,
    encode_node,
    join_nodes,
)
from holdfast.repo.writer import BlobWriter, StoredPack, WriteSetup, WriteTotals
from holdfast.sources.path.confine import ConfinedTree
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.read import TRIES, look, open_for_reading, same_file
from holdfast.sources.path.scan import list_entries, list_names
from holdfast.sources.path.selection import Selection
from holdfast.sources.path.tally import printable

SLICE_ENTRIES = 1024
STREAMED_FROM_BYTES = 48 << 20
_PARENT_TREES_KEPT = 2


class ScanDirectory(NamedTuple):
    """Take a whole directory. `path` is relative to the root with that number."""

    root: int
    path: bytes
    parent_tree: bytes | None
    topmost: bool = False  # answer with the texts of all nodes, as more will be added to them


class ScanNames(NamedTuple):
    """Take some entries of a directory."""

    root: int
    path: bytes
    names: list[bytes]
    parent_tree: bytes | None
    chosen: bool = False  # named by a person: filters do not apply to them


class StoreChunks(NamedTuple):
    """Store chunks of a file that the parent holds open.

    The answer is a list of (id, bytes), or the reason why it cannot be read.
    """

    path: str
    ranges: list[tuple[int, int]]


class StoreBlob(NamedTuple):
    """Store one blob of these bytes; answer is its id."""

    type: BlobType
    content: bytes


class Flush(NamedTuple):
    """Store what is buffered."""


class Subdirectory(NamedTuple):
    """A directory that was met: its node without the subtree, and where it was before."""

    name: bytes
    text: str
    parent_tree: bytes | None
    same_metadata: bool


class LargeFile(NamedTuple):
    """A file that the parent cuts and shares out among the workers."""

    name: bytes
    existed: bool


class Scanned(NamedTuple):
    """What was found in a directory, or in some of its entries.

    `tree` is set when the directory is complete and stored. `unchanged` says that all
    entries here are as in the parent snapshot and `texts` was left empty for it, `more`
    are the names of a directory that is too large for one task.
    """

    tree: bytes | None = None
    unchanged: bool = False
    texts: list[tuple[bytes, str]] = []  # noqa: RUF012 - a default that nobody changes
    subdirectories: list[Subdirectory] = []  # noqa: RUF012
    large_files: list[LargeFile] = []  # noqa: RUF012
    more: list[bytes] | None = None


@dataclass(slots=True)
class Counts:
    """Entries and logical bytes seen, by how they compare with the parent snapshot."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    bytes_seen: int = 0
    bytes_read: int = 0

    @property
    def files(self) -> int:
        return self.files_new + self.files_changed + self.files_unmodified

    def include(self, other: Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Answer(NamedTuple):
    """The result of a task, and what goes along with it."""

    value: Any
    stored: list[StoredPack]
    totals: WriteTotals
    counts: Counts
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class BackupSetup:
    """Makes a worker's handler; everything in it can be sent to another process.

    `settled_before_ns`: a file changed later than this is read again even when it looks
    as it did, because a store through a memory map, or a second change within one tick of
    the clock, leaves no trace in its metadata for a while. `within`: for each root a
    directory that it must lie in when it is opened (see `ConfinedTree`), or nothing.
    """

    repository: Repository
    write: WriteSetup
    roots: tuple[bytes, ...]
    devices: tuple[frozenset[int], ...]
    selection: Selection
    settled_before_ns: int
    one_file_system: bool = False
    with_atime: bool = False
    ignore_inode: bool = False
    within: tuple[bytes, ...] = ()
    before_read: Callable[[bytes], None] | None = field(default=None)

    def __call__(self) -> BackupWorker:
        return BackupWorker(self)


class BackupWorker:
    """Does tasks one after another; one for each process."""

    def __init__(self, setup: BackupSetup) -> None:
        self._setup = setup
        self._selection = setup.selection
        self._writer = BlobWriter(setup.write)
        self._reader = BlobReader(setup.repository, setup.write.index)
        self._trees = [
            ConfinedTree(root, within=within)
            for root, within in zip_longest(setup.roots, setup.within, fillvalue=b"")
        ]
        self._owners = OwnerNames()
        self._contents = ContentWriter(self._writer)
        self._parents: dict[bytes, dict[bytes, dict[str, Any]]] = {}
        self._counts = Counts()
        self._findings: list[Finding] = []

    def __call__(self, task: Any) -> Answer:
        stored: list[StoredPack] | None = None
        value: Any = None
        if isinstance(task, ScanDirectory):
            value = self._scan_directory(task)
        elif isinstance(task, ScanNames):
            value = self._scan_names(task)
        elif isinstance(task, StoreChunks):
            value = self._store_chunks(task)
        elif isinstance(task, StoreBlob):
            value = self._writer.add(task.type, task.content)
        else:
            stored = self._writer.flush()
        if stored is None:
            stored = self._writer.take_stored()
        counts, self._counts = self._counts, Counts()
        findings, self._findings = self._findings, []
        return Answer(value, stored, self._writer.take_totals(), counts, findings)

    # Directories

    def _scan_directory(self, task: ScanDirectory) -> Scanned:
        tree = self._trees[task.root]
        try:
            fd = os.open(
                b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.directory(task.path)
            )
        except FileNotFoundError:
            if not task.path or task.topmost:
                raise SourceVanished(
                    f"{printable(self._setup.roots[task.root])} is not there any more"
                ) from None
            self._find("directory_vanished", "went away while it was backed up", task.path)
            return self._empty(task)
        except (OSError, HoldfastError) as error:
            self._unreadable("directory_unreadable", error, task.path)
            return self._empty(task)
        try:
            try:
                names = list_names(fd)
            except OSError as error:
                self._unreadable("directory_unreadable", error, task.path)
                return self._empty(task)
            if self._selection.skips_directory(fd, names):
                return self._empty(task)
            if len(names) > SLICE_ENTRIES:
                return Scanned(more=names)
            return self._entries(fd, task, names, whole=not task.topmost, chosen=False)
        finally:
            os.close(fd)

    def _empty(self, task: ScanDirectory) -> Scanned:
        if task.topmost:
            return Scanned()
        return Scanned(tree=self._writer.add(BlobType.TREE, join_nodes(())))

    def _scan_names(self, task: ScanNames) -> Scanned:
        try:
            fd = os.open(
                b".",
                os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
                dir_fd=self._trees[task.root].directory(task.path),
            )
        except (OSError, HoldfastError) as error:
            # It was there when its names were listed.
            self._unreadable("directory_unreadable", error, task.path)
            return Scanned()
        try:
            return self._entries(fd, task, task.names, whole=False, chosen=task.chosen)
        finally:
            os.close(fd)

    def _entries(
        self,
        fd: int,
        task: ScanDirectory | ScanNames,
        names: list[bytes],
        *,
        whole: bool,
        chosen: bool,
    ) -> Scanned:
        before = self._parent_nodes(task.parent_tree)
        vanished: list[bytes] = []
        unreadable: list[tuple[bytes, OSError]] = []
        entries = list_entries(fd, names, vanished, unreadable)
        prefix = task.path + b"/" if task.path else b""
        for name, error in unreadable:
            self._unreadable("file_unreadable", error, prefix + name)
        for name in vanished:
            if chosen:
                raise SourceVanished(f"{printable(prefix + name)} does not exist")
        texts: list[tuple[bytes, str]] = []
        kept: list[tuple[bytes, os.stat_result, dict[str, Any]]] = []
        subdirectories: list[Subdirectory] = []
        large: list[LargeFile] = []
        devices = self._setup.devices[task.root] if self._setup.one_file_system else None
        excludes = None if chosen or self._selection.takes_all else self._selection.excludes
        unchanged = True
        counts = self._counts
        for name, st in entries:
            path = prefix + name
            if excludes is not None and excludes(path, st):
                continue
            mode = st.st_mode
            if stat.S_ISREG(mode):
                old = before.get(name)
                if old is not None and self._is_unmodified(old, st):
                    counts.files_unmodified += 1
                    counts.bytes_seen += st.st_size
                    kept.append((name, st, old))
                    continue
                unchanged = False
                if st.st_size >= STREAMED_FROM_BYTES:
                    large.append(LargeFile(name, old is not None))
                    continue
                text = self._file(fd, name, path, old is not None)
                if text is not None:
                    texts.append((name, text))
            elif stat.S_ISDIR(mode):
                node = self._node(name, st, fd, path)
                old = before.get(name)
                text = encode_node(node)[:-1]
                same = self._same_directory(old, node)
                parent = bytes.fromhex(old["subtree"]) if old and old.get("subtree") else None
                if devices is not None and st.st_dev not in devices:
                    empty = self._writer.add(BlobType.TREE, join_nodes(()))
                    texts.append((name, with_subtree(text, empty)))
                    unchanged = unchanged and same and parent == empty
                    continue
                # A new one may stand for one that is gone, so that their numbers agree.
                unchanged = unchanged and old is not None
                subdirectories.append(Subdirectory(name, text, parent, same))
            elif stat.S_ISSOCK(mode):
                continue  # a socket is nothing without the process that listens on it
            else:
                special = self._special(fd, name, st, path)
                if special is None:
                    continue
                texts.append((name, special))
                unchanged = unchanged and self._same_special(before.get(name), st)
        gone = len(before) - len(kept) - len(texts) - len(subdirectories) - len(large)
        if task.parent_tree is None or (whole and gone):
            unchanged = False
        if whole and not subdirectories and not large:
            if unchanged:
                assert task.parent_tree is not None
                return Scanned(tree=task.parent_tree, unchanged=True)
        elif whole and unchanged and not large:
            return Scanned(unchanged=True, subdirectories=subdirectories)
        texts.extend((name, self._kept_text(name, st, old)) for name, st, old in kept)
        if whole and not subdirectories and not large:
            texts.sort()
            return Scanned(tree=self._writer.add(BlobType.TREE, join_nodes(t for _, t in texts)))
        return Scanned(texts=texts, subdirectories=subdirectories, large_files=large)

    def _parent_nodes(self, parent_tree: bytes | None) -> dict[bytes, dict[str, Any]]:
        if parent_tree is None:
            return {}
        nodes = self._parents.get(parent_tree)
        if nodes is None:
            try:
                tree = self._reader.load(BlobType.TREE, parent_tree)
                documents = decode_documents(tree, f"tree {parent_tree.hex()[:8]}")
                nodes = {document_name(document): document for document in documents}
            except (Damaged, KeyError, ValueError, TypeError):
                # Without the parent everything is read, which also heals what was damaged.
                self._findings.append(
                    Finding(
                        "parent_damaged",
                        "a directory of the parent snapshot cannot be read; its files are read "
                        "whole",
                        parent_tree.hex(),
                    )
                )
                nodes = {}
            while len(self._parents) >= _PARENT_TREES_KEPT:
                del self._parents[next(iter(self._parents))]
            self._parents[parent_tree] = nodes
        return nodes

    # Comparing with the parent snapshot

    def _is_unmodified(self, old: dict[str, Any], st: os.stat_result) -> bool:
        """Whether the parent's node is certainly of this file with this content."""
        if (
            old.get("size", 0) != st.st_size
            or st.st_ctime_ns >= self._setup.settled_before_ns
            or old["type"] != "file"
            or not _same_time(old.get("ctime"), st.st_ctime_ns)
            or not _same_time(old.get("mtime"), st.st_mtime_ns)
            or (old.get("inode", 0) != st.st_ino and not self._setup.ignore_inode)
        ):
            return False
        knows = self._writer.knows
        return all(knows(BlobType.DATA, bytes.fromhex(blob)) for blob in old.get("content") or ())

    def _same_directory(self, old: dict[str, Any] | None, node: Node) -> bool:
        return (
            old is not None
            and node.ctime_ns < self._setup.settled_before_ns
            and old["type"] == "dir"
            and _same_time(old.get("ctime"), node.ctime_ns)
            and _same_time(old.get("mtime"), node.mtime_ns)
            and _same_time(old.get("atime"), node.atime_ns)
            and old.get("inode", 0) == node.inode
        )

    def _same_special(self, old: dict[str, Any] | None, st: os.stat_result) -> bool:
        return (
            old is not None
            and _same_time(old.get("ctime"), st.st_ctime_ns)
            and _same_time(old.get("mtime"), st.st_mtime_ns)
            and not self._setup.with_atime
            and old.get("inode", 0) == st.st_ino
            and st.st_ctime_ns < self._setup.settled_before_ns
        )

    # Nodes

    def _node(
        self, name: bytes, st: os.stat_result, fd: int, path: bytes, target: bytes = b""
    ) -> Node:
        xattrs = read_xattrs(
            b"/proc/self/fd/%d/%s" % (fd, name), on_finding=self._findings.append, subject=path
        )
        return node_from_stat(
            name,
            st,
            self._owners,
            linktarget=target,
            xattrs=xattrs,
            with_atime=self._setup.with_atime,
        )

    def _special(self, fd: int, name: bytes, st: os.stat_result, path: bytes) -> str | None:
        target = b""
        if stat.S_ISLNK(st.st_mode):
            try:
                target = os.readlink(name, dir_fd=fd)
            except OSError as error:
                self._unreadable("link_unreadable", error, path)
                return None
        return encode_node(self._node(name, st, fd, path, target))

    def _kept_text(self, name: bytes, st: os.stat_result, old: dict[str, Any]) -> str:
        """The node of an unmodified file; its attributes cannot have changed without ctime."""
        node = node_from_stat(
            name,
            st,
            self._owners,
            xattrs=decode_attributes(old.get("extended_attributes")),
            content=tuple(map(bytes.fromhex, old.get("content") or ())),
            with_atime=self._setup.with_atime,
        )
        return encode_node(node)

    # Files

    def _file(self, dir_fd: int, name: bytes, path: bytes, existed: bool) -> str | None:
        """Read and store one file; return its node's text, or None where it cannot be read."""
        if self._setup.before_read is not None:
            self._setup.before_read(path)
        try:
            fd = open_for_reading(name, dir_fd)
        except FileNotFoundError:
            return None  # removed since it was listed: as if the listing had been a bit later
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                self._replaced(path)
                return None
            self._unreadable("file_unreadable", error, path)
            return None
        try:
            before = look(fd)
            if not stat.S_ISREG(before.status.st_mode):
                self._replaced(path)
                return None
            for _ in range(TRIES):
                content, size = self._content(fd, before.status.st_size)
                after = os.fstat(fd)
                if same_file(before, after) and size == after.st_size:
                    break
                gone, before = before, look(fd)
            else:
                # With times of a state that is gone, no later run takes this for unchanged.
                after = gone.status
                self._find(
                    "file_torn",
                    f"changed every time it was read ({TRIES} times); what is stored mixes states",
                    path,
                )
            xattrs = read_xattrs(fd, on_finding=self._findings.append, subject=path)
        except OSError as error:
            self._unreadable("file_unreadable", error, path)
            return None
        finally:
            os.close(fd)
        counts = self._counts
        if existed:
            counts.files_changed += 1
        else:
            counts.files_new += 1
        counts.bytes_seen += size
        node = node_from_stat(
            name,
            after,
            self._owners,
            xattrs=xattrs,
            content=tuple(content),
            size=size,
            with_atime=self._setup.with_atime,
        )
        return encode_node(node)

    def _content(self, fd: int, expected: int) -> tuple[list[bytes], int]:
        """Store a file's content from its beginning; return blob ids and bytes read."""
        ids, size = self._contents.from_file(fd, expected)
        self._counts.bytes_read += size
        return ids, size

    def _store_chunks(self, task: StoreChunks) -> list[tuple[bytes, int]] | str:
        answer = []
        fd = -1
        try:
            fd = os.open(task.path, os.O_RDONLY | os.O_CLOEXEC)
            for offset, length in task.ranges:
                view = self._contents.buffer[:length]
                held = 0
                while held < length:
                    read = os.preadv(fd, [view[held:]], offset + held)
                    if not read:
                        break
                    held += read
                if not held:
                    break  # cut short since; no program expects a blob of nothing
                answer.append((self._writer.add(BlobType.DATA, view[:held]), held))
                self._counts.bytes_read += held
        except OSError as error:
            return error.strerror or str(error)
        finally:
            if fd >= 0:
                os.close(fd)
        return answer

    # Findings

    def _find(self, code: str, message: str, path: bytes) -> None:
        self._findings.append(Finding(code, message, printable(path)))

    def _replaced(self, path: bytes) -> None:
        """A file that became a link or something else since it was listed."""
        self._find(
            "file_unreadable",
            "was replaced by something else than a file while it was backed up; it is not in "
            "the snapshot, the next one will have what is there then",
            path,
        )

    def _unreadable(self, code: str, error: Exception, path: bytes) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self._find(code, f"could not be read: {reason}; it is not in the snapshot", path)


def with_subtree(text: str, tree: bytes) -> str:
    """Complete the text of a directory's node with its tree."""
    return f'{text},"subtree":"{tree.hex()}"}}'


def _same_time(text: str | None, nanoseconds: int) -> bool:
    if text is None:
        return False
    if text == rfc3339.from_ns(nanoseconds):
        return True
    if text.endswith("Z"):
        return False
    try:
        return rfc3339.to_ns(text) == nanoseconds
    except ValueError:
        return False
