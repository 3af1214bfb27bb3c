"""Reading a task's changed files: while it runs, and while it is held still.

While it runs, a file is stored as it is read, and a change meanwhile is noticed. While it is
held still every moment counts: files are read into memory up to a bound, cloned where that
is used up and the file system can, and only otherwise stored at once; `store_held` does the
rest when the computation runs again. A file is never dropped silently.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from holdfast.flows.file_content import ContentWriter
from holdfast.flows.task_memory import Directory, Entry, look_of
from holdfast.model.finding import Finding
from holdfast.repo.tree import encode_node
from holdfast.sources.path.confine import join
from holdfast.sources.path.mapped import mapped_inodes
from holdfast.sources.path.metadata import OwnerNames, Xattrs, node_from_stat, read_xattrs
from holdfast.sources.path.read import TRIES, look, open_for_reading, same_file
from holdfast.sources.path.reflink import unnamed_clone
from holdfast.sources.path.settling import Settling
from holdfast.sources.path.tally import printable

HELD_BYTES = 256 << 20
"""How much is read into memory while the computation is held still."""


class _Held(NamedTuple):
    """A file that was read, or cloned, and is not stored yet."""

    directory: Directory
    name: bytes
    status: os.stat_result
    xattrs: Xattrs
    settled: bool
    content: bytes
    clone: int


class TaskReader:
    """Reads for one capture. `bytes_read` is what came from the directory."""

    def __init__(
        self,
        contents: ContentWriter,
        owners: OwnerNames,
        settling: Settling,
        *,
        held_bytes: int,
        on_read: Callable[[bytes], None] = lambda _path: None,
    ) -> None:
        self._contents, self._owners, self.settling = contents, owners, settling
        self._room, self._on_read = held_bytes, on_read
        self._clones = True
        self._held: list[_Held] = []
        self.findings: list[Finding] = []
        self.later: list[tuple[Directory, bytes, int]] = []
        self.bytes_read = 0

    # While the computation runs

    def take_settled(
        self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result
    ) -> None:
        """Store a file that has come to rest; note one that has not for the next pass."""
        self._learn_mapped()
        if self.settling.is_settled(st):
            self.take_running(directory, dir_fd, name, st)
        else:
            self.later.append((directory, name, st.st_size))

    def _learn_mapped(self) -> None:
        # Only now, as most captures of a quiet directory come to an end without it.
        if self.settling.mapped is None:
            self.settling = replace(self.settling, mapped=mapped_inodes())

    def store_later(self, reopen: Callable[[bytes], int]) -> None:
        """Store what was left for the next pass, where that is too much to hold in memory.

        It is read again in the next pass all the same, and then most of it is known.
        """
        findings, self.findings = self.findings, []
        for directory, name, _ in self.later:
            try:
                dir_fd = reopen(directory.path)
            except OSError:
                continue  # what is wrong with it shows in the next pass
            try:
                fd = self._open(dir_fd, name, join(directory.path, name))
                if fd >= 0:
                    self._store_once(fd)
            finally:
                os.close(dir_fd)
        self.findings = findings

    def _store_once(self, fd: int) -> None:
        try:
            _, size = self._contents.from_file(fd, os.fstat(fd).st_size)
            self.bytes_read += size
        except OSError:
            pass
        finally:
            os.close(fd)

    def take_running(
        self, directory: Directory, dir_fd: int, name: bytes, _st: os.stat_result
    ) -> None:
        """Store a file while others may write; one that never rests is torn."""
        self._learn_mapped()
        path = join(directory.path, name)
        fd = self._open(dir_fd, name, path)
        if fd < 0:
            return
        try:
            before = look(fd)
            if not self._is_regular(before.status, path):
                return
            for _ in range(TRIES):
                ids, size = self._contents.from_file(fd, before.status.st_size)
                self.bytes_read += size
                after = os.fstat(fd)
                if same_file(before, after) and size == after.st_size:
                    settled = self.settling.is_settled(after)
                    break
                gone, before = before, look(fd)
            else:
                # With times of a state that is gone, nobody takes this for unchanged.
                after, settled = gone.status, False
                self._torn(path)
            xattrs = self._xattrs(fd, path)
        except OSError as error:
            self._unreadable(error, path)
            return
        finally:
            os.close(fd)
        directory.entries[name] = self._entry(name, after, xattrs, ids, size, settled=settled)

    # While it is held still

    def take_still(
        self, directory: Directory, dir_fd: int, name: bytes, _st: os.stat_result
    ) -> None:
        """Get hold of a file's content as it is now, as fast as can be."""
        path = join(directory.path, name)
        fd = self._open(dir_fd, name, path)
        if fd < 0:
            return
        try:
            st = os.fstat(fd)
            if not self._is_regular(st, path):
                return
            xattrs = self._xattrs(fd, path)
            for _ in range(TRIES):
                before = st
                size = self._seize(directory, name, fd, dir_fd, before, xattrs=xattrs)
                st = os.fstat(fd)
                if look_of(st) == look_of(before) and size == st.st_size:
                    return
                # Somebody writes who is not held still.
                self._release(directory, name)
            self._seize(directory, name, fd, dir_fd, before, xattrs=xattrs, settled=False)
            self._torn(path)
        except OSError as error:
            self._release(directory, name)
            self._unreadable(error, path)
        finally:
            os.close(fd)

    def _seize(
        self,
        directory: Directory,
        name: bytes,
        fd: int,
        dir_fd: int,
        st: os.stat_result,
        *,
        xattrs: Xattrs,
        settled: bool = True,
    ) -> int:
        """Read, clone or store the content; return how many bytes there were."""
        settled = settled and self.settling.is_settled(st)
        if st.st_size <= self._room:
            content = _read(fd, st.st_size)
            self.bytes_read += len(content)
            self._room -= len(content)
            self._held.append(_Held(directory, name, st, xattrs, settled, content, -1))
            return len(content)
        if self._clones:
            try:
                clone = unnamed_clone(fd, dir_fd)
            except OSError:
                self._clones = False  # this file system cannot, and it is asked no more
            else:
                self._held.append(_Held(directory, name, st, xattrs, settled, b"", clone))
                return os.fstat(clone).st_size
        ids, size = self._contents.from_file(fd, st.st_size)
        self.bytes_read += size
        directory.entries[name] = self._entry(name, st, xattrs, ids, size, settled=settled)
        return size

    def _release(self, directory: Directory, name: bytes) -> None:
        """Let go of what was just seized of a file."""
        directory.entries.pop(name, None)
        if self._held and self._held[-1].directory is directory and self._held[-1].name == name:
            held = self._held.pop()
            self._room += len(held.content)
            if held.clone >= 0:
                os.close(held.clone)

    def store_held(self) -> None:
        """Store what was read and cloned; the computation runs again."""
        waiting, self._held = self._held, []
        waiting.reverse()
        try:
            while waiting:
                held = waiting[-1]
                if held.clone >= 0:
                    ids, size = self._contents.from_file(held.clone, held.status.st_size)
                    self.bytes_read += size
                    os.close(held.clone)
                else:
                    ids = self._contents.from_memory(memoryview(held.content))
                    size = len(held.content)
                waiting.pop()
                held.directory.entries[held.name] = self._entry(
                    held.name, held.status, held.xattrs, ids, size, settled=held.settled
                )
        finally:
            self._held = waiting
            self.close()

    def close(self) -> None:
        """Close clones that nobody will store."""
        for held in self._held:
            if held.clone >= 0:
                os.close(held.clone)
        self._held = []

    # Both

    def _entry(
        self,
        name: bytes,
        st: os.stat_result,
        xattrs: Xattrs,
        ids: list[bytes],
        size: int,
        *,
        settled: bool,
    ) -> Entry:
        content = tuple(ids)
        node = node_from_stat(name, st, self._owners, xattrs=xattrs, content=content, size=size)
        return Entry(look_of(st), settled, encode_node(node), content, size)

    def _open(self, dir_fd: int, name: bytes, path: bytes) -> int:
        self._on_read(path)
        try:
            return open_for_reading(name, dir_fd)
        except FileNotFoundError:
            return -1  # removed since it was listed: as if the listing had been a bit later
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                self._replaced(path)
            else:
                self._unreadable(error, path)
            return -1

    def _is_regular(self, st: os.stat_result, path: bytes) -> bool:
        if stat.S_ISREG(st.st_mode):
            return True
        self._replaced(path)
        return False

    def _xattrs(self, fd: int, path: bytes) -> Xattrs:
        return read_xattrs(fd, on_finding=self.findings.append, subject=path)

    def _find(self, code: str, message: str, path: bytes) -> None:
        self.findings.append(Finding(code, message, printable(path)))

    def _torn(self, path: bytes) -> None:
        message = f"changed every time it was read ({TRIES} times); what is stored mixes states"
        self._find("file_torn", message, path)

    def _replaced(self, path: bytes) -> None:
        message = (
            "was replaced by something else than a file while it was captured; it is not in "
            "the snapshot, the next one will have what is there then"
        )
        self._find("file_unreadable", message, path)

    def _unreadable(self, error: OSError, path: bytes) -> None:
        message = f"could not be read: {error.strerror}; it is not in the snapshot"
        self._find("file_unreadable", message, path)


def _read(fd: int, expected: int) -> bytes:
    """The content from the beginning: at most a byte more than expected, which shows growth."""
    content = os.pread(fd, expected + 1, 0)
    while len(content) <= expected:
        more = os.pread(fd, expected + 1 - len(content), len(content))
        if not more:
            break
        content += more
    return content
