"""A snapshot's tree and a directory, side by side: is the one what the other says?

Walks the trees of the repository and the directory on the disk, and reads every file back.
It shares nothing with what has written the directory, so an error there is found here. What
differs because this host cannot do better (its rights, its file system) is told apart by
trying, so the directory must be one that nobody keeps; contents are never among that.

Memory does not grow with the size of the snapshot, except for what hard links need.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from holdfast.errors import Damaged
from holdfast.flows.drill_content import ContentCheck, Piece
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress, Report
from holdfast.repo.indextable import Location
from holdfast.sources.path.confine import ConfinedTree, join, via_proc
from holdfast.sources.path.hard_links import HardLinks
from holdfast.sources.path.likeness import Difference, differences, refusal, refusal_to_make
from holdfast.sources.path.metadata import node_type, read_xattrs
from holdfast.sources.path.tally import FindingTally, printable

FAILING: Final = frozenset({"drill_content", "drill_metadata", "drill_missing", "drill_extra"})
_LISTED_OF_EACH_CODE: Final = 200
_REPORT_SECONDS: Final = 0.2
_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_PROBE: Final = b"probe"
_LEFT_OUT: Final = frozenset({NodeType.SOCKET, NodeType.IRREGULAR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What should be there: the content of `tree`, as far as `takes` says.

    `nodes` gives a tree's nodes and raises `Damaged`; `find` tells where a data blob lies.
    `top` is the node of the directory itself, or None where nothing is said of it. `damaged`
    are the paths about which damage was reported already.
    """

    tree: bytes
    top: Node | None
    nodes: Callable[[bytes], list[Node]]
    find: Callable[[bytes], Location | None]
    takes: Callable[[bytes, Node], bool]
    damaged: frozenset[str] = frozenset()
    entries: int = 0
    bytes_: int = 0


class TreeComparison:
    """One comparison. `aside` is a directory on the same file system where it may try links."""

    def __init__(
        self,
        expected: Expected,
        root: bytes,
        aside: bytes,
        *,
        threads: int,
        report: Report,
    ) -> None:
        self._expected, self._root, self._aside = expected, root, aside
        self._threads, self._report = threads, report
        self._is_root = os.geteuid() == 0
        self._tally = FindingTally(_LISTED_OF_EACH_CODE)
        self._refused: dict[str, tuple[int, bytes, str]] = {}
        self._links = HardLinks()
        self._inodes: dict[bytes, tuple[int, int]] = {}
        self._holders: dict[tuple[int, int], bytes] = {}
        self._doubtful: dict[bytes, tuple[bytes, Node]] = {}
        self._reported, self._current = 0.0, b""
        self._entries = 0
        self.files = 0
        self.directories = 0
        self.compared_bytes = 0

    @property
    def passed(self) -> bool:
        """Whether everything is as it was, but for what this host cannot do."""
        return not any(self._tally.count(code) for code in FAILING)

    @property
    def findings(self) -> tuple[Finding, ...]:
        refused = tuple(
            Finding(
                "drill_not_compared",
                f"{aspect}: {count} of what the snapshot has cannot be had here ({reason}), and "
                "was not compared; a drill as root and on the same kind of file system can",
                printable(path),
            )
            for aspect, (count, path, reason) in self._refused.items()
        )
        return (*self._tally.findings(), *refused)

    def run(self) -> None:
        """Compare everything. What differs is in `findings`."""
        self._disk = ConfinedTree(self._root, within=self._root)
        try:
            with ContentCheck(
                self._threads, on_fault=self._content_fault, on_read=self._content_read
            ) as self._content:
                if self._expected.top is not None:
                    self._top(self._expected.top)
                self._walk()
                self._content.finish()
            for path, node in self._doubtful.values():
                with self._pinned(path) as pin:
                    self._judge(pin, node, path, self._differences(pin, node, path))
        finally:
            self._disk.close()
        self._tell(done=True)

    # The walk

    def _top(self, node: Node) -> None:
        pin = os.dup(self._disk.directory(b""))
        try:
            self._judge(pin, node, b"", self._differences(pin, node, b""))
        finally:
            os.close(pin)

    def _walk(self) -> None:
        pending = [(b"", self._expected.tree)]
        while pending:
            path, tree = pending.pop()
            self._current = path
            try:
                nodes = self._expected.nodes(tree)
            except Damaged as error:
                self._lost(path, f"what is in this directory is not known: {error.message}")
                continue
            try:
                there = self._names(path)
            except OSError as error:
                self._lost(path, f"this directory cannot be listed: {error.strerror}")
                continue
            for node in nodes:
                here = join(path, node.name)
                if node.type in _LEFT_OUT or not self._expected.takes(here, node):
                    continue
                if node.name not in there:
                    self._missing(path, node)
                elif self._entry(path, node) and node.subtree:
                    pending.append((here, node.subtree))
                there.discard(node.name)
                self._tell()
            for name in sorted(there):
                self._tally.add("drill_extra", "the snapshot does not have it", join(path, name))

    def _names(self, path: bytes) -> set[bytes]:
        directory = self._disk.directory(path)
        if not self._is_root:
            mode = stat.S_IMODE(os.stat(via_proc(directory)).st_mode)
            if mode & 0o700 != 0o700:
                # It was compared already, and its owner must get in.
                os.chmod(via_proc(directory), mode | 0o700)
        return set(self._disk.names(path))

    def _lost(self, path: bytes, message: str) -> None:
        if printable(path) not in self._expected.damaged:
            self._tally.add("drill_missing", message, path)

    def _missing(self, parent: bytes, node: Node) -> None:
        path = join(parent, node.name)
        reason = refusal_to_make(node, self._disk.directory(parent))
        if reason:
            self._cannot(f"entries of kind {node.type}", path, reason)
        else:
            below = ", with everything below it" if node.type is NodeType.DIRECTORY else ""
            self._lost(path, f"the {node.type} did not come back{below}")

    def _entry(self, parent: bytes, node: Node) -> bool:
        """Compare one entry; return whether to go on below it."""
        path = join(parent, node.name)
        try:
            with self._pinned(path) as pin:
                return self._compare(pin, node, path)
        except OSError as error:
            self._tally.add("drill_content", f"it cannot be looked at: {error.strerror}", path)
            return False

    def _compare(self, pin: int, node: Node, path: bytes) -> bool:
        status = os.fstat(pin)
        self._entries += 1
        if node.type is NodeType.FILE:
            self.files += 1
        elif node.type is NodeType.DIRECTORY:
            self.directories += 1
        key = b""
        if node_type(status.st_mode) is node.type and node.type is not NodeType.DIRECTORY:
            key = self._link_key(node, path)
            if self._is_known(pin, node, path, status, key):
                return False
        found = self._differences(pin, node, path)
        if node.type is NodeType.FILE and stat.S_ISREG(status.st_mode):
            self._read(pin, node, path, status)
        if found and key in self._inodes:
            # Its names may have been captured at different moments: one of them has to fit.
            self._doubtful[key] = (path, node)
        else:
            self._judge(pin, node, path, found)
        return node.type is NodeType.DIRECTORY and stat.S_ISDIR(status.st_mode)

    @contextmanager
    def _pinned(self, path: bytes) -> Iterator[int]:
        parent, _, name = path.rpartition(b"/")
        pin = os.open(name, _PIN, dir_fd=self._disk.directory(parent))
        try:
            yield pin
        finally:
            os.close(pin)

    @contextmanager
    def _readable(self, pin: int, status: os.stat_result) -> Iterator[None]:
        """Let the owner read a file for a moment; the mode was looked at before."""
        mode = stat.S_IMODE(status.st_mode)
        if self._is_root or mode & 0o400 or not stat.S_ISREG(status.st_mode):
            yield
            return
        os.chmod(via_proc(pin), mode | 0o400)
        try:
            yield
        finally:
            os.chmod(via_proc(pin), mode)

    # Hard links

    def _link_key(self, node: Node, path: bytes) -> bytes:
        """The path of the first name that a file was met under."""
        return self._links.first(node, path) or path

    def _is_known(
        self, pin: int, node: Node, path: bytes, status: os.stat_result, key: bytes
    ) -> bool:
        """Whether this is a further name of what was compared already; notes what it is."""
        inode = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            holder = self._holders.setdefault(inode, key)
            if holder != key:
                message = f"it came back as another name of {printable(holder)!r}, and was not"
                self._tally.add("drill_metadata", message, path)
        if node.links < 2 or not node.inode:
            return False
        known = self._inodes.get(key)
        if known is None:
            self._inodes[key] = inode
            return False
        if known != inode:
            self._apart(path, key)
            return False
        if key in self._doubtful and not self._differences(pin, node, path):
            del self._doubtful[key]
        return True

    def _apart(self, path: bytes, key: bytes) -> None:
        """Two names of one file came back as two: could they have been linked here?"""
        parent, _, name = key.rpartition(b"/")
        probe = join(self._aside, _PROBE)
        try:
            directory = self._disk.directory(parent)
            os.link(name, probe, src_dir_fd=directory, follow_symlinks=False)
            os.unlink(probe)
        except OSError as error:
            self._cannot("hard links", path, error.strerror or str(error))
            return
        message = f"it is a file of its own, and was another name of {printable(key)!r}"
        self._tally.add("drill_metadata", message, path)

    # Metadata

    def _differences(self, pin: int, node: Node, path: bytes) -> list[Difference]:
        status = os.fstat(pin)
        unreadable: list[Finding] = []
        with self._readable(pin, status):
            xattrs = read_xattrs(via_proc(pin), follow=True, on_finding=unreadable.append)
        if unreadable:
            self._cannot("attributes", path, "they cannot be read")
        linktarget = b""
        if stat.S_ISLNK(status.st_mode):
            linktarget = os.readlink(b"", dir_fd=pin)
        return differences(
            node,
            status,
            xattrs=None if unreadable else dict(xattrs),
            linktarget=linktarget,
        )

    def _judge(self, pin: int, node: Node, path: bytes, found: list[Difference]) -> None:
        wrong = []
        for difference in found:
            reason = refusal(via_proc(pin), node, difference)
            if reason:
                self._cannot(difference.aspect, path, reason)
            else:
                wrong.append(difference.message)
        if wrong:
            self._tally.add("drill_metadata", "; ".join(wrong), path)

    def _cannot(self, aspect: str, path: bytes, reason: str) -> None:
        count, first, words = self._refused.get(aspect, (0, path, reason))
        self._refused[aspect] = (count + 1, first, words)

    # Content

    def _read(self, pin: int, node: Node, path: bytes, status: os.stat_result) -> None:
        pieces = []
        at = 0
        for blob_id in node.content:
            location = self._expected.find(blob_id)
            if location is None:
                self._content_fault(path, "blobs of it are in no index")
                return
            pieces.append(Piece(at, location.raw_length, blob_id))
            at += location.raw_length
        if not at == node.size == status.st_size:
            message = f"it has {status.st_size} bytes and should have {node.size}"
            if at != node.size:
                message += f", of which the snapshot holds {at}"
            self._content_fault(path, message)
            return
        try:
            with self._readable(pin, status):
                fd = os.open(via_proc(pin), _READ)
        except OSError as error:
            self._content_fault(path, f"it cannot be read back: {error.strerror}")
            return
        self._content.check(fd, path, pieces)

    def _content_fault(self, path: bytes, message: str) -> None:
        if printable(path) not in self._expected.damaged:
            self._tally.add("drill_content", message, path)

    def _content_read(self, size_bytes: int) -> None:
        self.compared_bytes += size_bytes
        self._tell()

    def _tell(self, *, done: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        self._report(
            Progress(
                "comparing",
                files_done=self._entries,
                files_total=self._expected.entries,
                bytes_done=self.compared_bytes,
                bytes_total=self._expected.bytes_,
                current=printable(self._current),
            )
        )
