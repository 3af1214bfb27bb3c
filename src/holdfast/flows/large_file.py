"""A file large enough to be shared out: cut here, hashed and stored by the workers.

The parent reads the file once to find the cuts, which costs a fifth of what hashing and
packing cost, and workers read their parts from the page cache. The descriptor stays open
throughout, and workers read through it, so everybody reads the same file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from holdfast.errors import PathEscapes
from holdfast.flows.backup_tasks import StoreChunks
from holdfast.model.finding import Finding
from holdfast.repo.chunking import Chunker
from holdfast.repo.tree import encode_node
from holdfast.sources.path.confine import ConfinedTree
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.read import TRIES, look, open_for_reading, same_file
from holdfast.sources.path.tally import printable

_READ_BYTES = 4 << 20
_TASK_BYTES = 8 << 20


class LargeFileReader:
    """One file being cut. `gone` is True where it could not be read.

    `existed` says whether the parent snapshot has an entry of that name.
    """

    def __init__(
        self,
        tree: ConfinedTree,
        path: bytes,
        owners: OwnerNames,
        on_finding: Callable[[Finding], None],
        *,
        existed: bool,
        with_atime: bool,
    ) -> None:
        self.path, self.name = path, path.rpartition(b"/")[2]
        self.existed = existed
        self._owners, self._on_finding, self._with_atime = owners, on_finding, with_atime
        self._chunker = Chunker()
        self._buffer = memoryview(bytearray(self._chunker.max_bytes + _READ_BYTES))
        self._tries = 0
        self.gone = False
        self._fd = -1
        try:
            directory = tree.directory(path.rpartition(b"/")[0])
            self._fd = open_for_reading(self.name, directory)
            self._before = look(self._fd)
            if not stat.S_ISREG(self._before.status.st_mode):
                self._unreadable("it is something else than a file by now")
        except FileNotFoundError:
            self.gone = True  # removed since it was listed: as if the listing had been later
        except OSError as error:
            self._unreadable(error.strerror)
        except PathEscapes:
            self._unreadable("a directory on the way became a link")
        if self.gone and self._fd >= 0:
            os.close(self._fd)
        self._restart()

    def _restart(self) -> None:
        self._tries += 1
        self._offset = self._held = self._cut_at = 0
        self._at_end = False
        self._outstanding: set[int] = set()
        self._parts: dict[int, list[tuple[bytes, int]]] = {}
        self.last_task_number = -1

    def next_task(self) -> StoreChunks | None:
        """Return the next part of the file for a worker, or None where all is handed out."""
        ranges: list[tuple[int, int]] = []
        total = 0
        while total < _TASK_BYTES and not self._at_end:
            try:
                read = os.preadv(
                    self._fd, [self._buffer[self._held : self._held + _READ_BYTES]], self._offset
                )
            except OSError as error:
                self._unreadable(error.strerror)
                self._at_end = True
                break
            self._offset += read
            self._held += read
            self._at_end = not read
            start = 0
            for end in self._chunker.cut(self._buffer[: self._held], last=not read):
                ranges.append((self._cut_at, end - start))
                self._cut_at += end - start
                total += end - start
                start = end
            self._held -= start
            if start and self._held:
                self._buffer[: self._held] = bytes(self._buffer[start : start + self._held])
        if not ranges:
            return None
        self.last_task_number += 1
        self._outstanding.add(self.last_task_number)
        return StoreChunks(f"/proc/{os.getpid()}/fd/{self._fd}", ranges)

    def receive(self, number: int, chunks: list[tuple[bytes, int]] | str) -> None:
        """Take in what a worker answers to a `StoreChunks`."""
        self._outstanding.discard(number)
        if isinstance(chunks, str):
            if not self.gone:
                self._unreadable(chunks)
            self._at_end = True
        else:
            self._parts[number] = chunks

    @property
    def waits(self) -> bool:
        """Whether there is nothing to decide yet: parts are to be read, or under way."""
        return not self._at_end or bool(self._outstanding)

    def finished(self) -> bool:
        """Whether the file is done; begins again by itself where it changed meanwhile."""
        if self.waits:
            return False
        if self.gone:
            os.close(self._fd)
            return True
        after = os.fstat(self._fd)
        if not (same_file(self._before, after) and self.size == after.st_size):
            if self._tries < TRIES:
                self._before = look(self._fd)
                self._restart()
                return False
            self._on_finding(
                Finding(
                    "file_torn",
                    f"changed every time it was read ({TRIES} times); what is stored mixes states",
                    printable(self.path),
                )
            )
            # With times of a state that is gone, no later run takes this for unchanged.
            after = self._before.status
        self._after = after
        self._xattrs = read_xattrs(self._fd, on_finding=self._on_finding, subject=self.path)
        os.close(self._fd)
        return True

    @property
    def size(self) -> int:
        """Bytes that were stored; what the node says is always what its content adds up to."""
        return sum(length for part in self._parts.values() for _, length in part)

    def node_text(self) -> str | None:
        """Return the node's text once `finished`; None where the file could not be read."""
        if self.gone:
            return None
        content = tuple(
            blob_id
            for number in sorted(self._parts)
            for blob_id, length in self._parts[number]
            if length
        )
        return encode_node(
            node_from_stat(
                self.name,
                self._after,
                self._owners,
                xattrs=self._xattrs,
                content=content,
                size=self.size,
                with_atime=self._with_atime,
            )
        )

    def _unreadable(self, reason: str | None) -> None:
        self.gone = True
        self._on_finding(
            Finding(
                "file_unreadable",
                f"could not be read: {reason}; it is not in the snapshot",
                printable(self.path),
            )
        )
