"""Listing a task's directory through its filters: what a capture takes, and what a preview
shows. Both go through here, so that they agree. Reads names and metadata only, and never
leaves the directory, whatever links somebody plants meanwhile.
"""

from __future__ import annotations

import heapq
import os
import stat
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.errors import HoldfastError, SourceVanished
from holdfast.model.finding import Finding
from holdfast.sources.path.confine import ConfinedTree, join
from holdfast.sources.path.scan import list_entries, list_names
from holdfast.sources.path.selection import Selection
from holdfast.sources.path.tally import printable


class Listed(NamedTuple):
    """The entries of a directory, sorted by name, and the names that filters leave out."""

    fd: int
    taken: list[tuple[bytes, os.stat_result]]
    left: list[bytes]


class TaskListing:
    """Lists directory after directory; `close` it at the end."""

    def __init__(self, root: bytes, selection: Selection, *, within: bytes = b"") -> None:
        try:
            self._tree = ConfinedTree(root, within=within)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceVanished(
                f"{printable(root)} is not a directory any more; nothing was stored"
            ) from None
        self._excludes = None if selection.takes_all else selection.excludes
        self.findings: list[Finding] = []

    def __enter__(self) -> TaskListing:
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.close()

    @property
    def root_fd(self) -> int:
        """A descriptor of the captured directory, for its metadata."""
        return self._tree.directory(b"")

    def open(self, path: bytes) -> Listed | None:
        """List one directory; None, with a finding, where that cannot be done.

        The descriptor is for the caller to close.
        """
        try:
            fd = os.open(
                b".",
                os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
                dir_fd=self._tree.directory(path),
            )
        except (OSError, HoldfastError) as error:
            self._unreadable(path, error)
            return None
        try:
            return self._list(fd, path)
        except OSError as error:
            os.close(fd)
            self._unreadable(path, error)
            return None
        except BaseException:
            os.close(fd)
            raise

    def reopen(self, path: bytes) -> int:
        """A descriptor of a directory that was listed; for the caller to close."""
        return os.dup(self._tree.directory(path))

    def _list(self, fd: int, path: bytes) -> Listed:
        unreadable: list[tuple[bytes, OSError]] = []
        entries = list_entries(fd, list_names(fd), [], unreadable)
        for name, error in unreadable:
            self._unreadable(join(path, name), error, "file_unreadable")
        if self._excludes is None:
            return Listed(fd, entries, [])
        taken: list[tuple[bytes, os.stat_result]] = []
        left: list[bytes] = []
        excludes, prefix = self._excludes, path + b"/" if path else b""
        for entry in entries:
            if excludes(prefix + entry[0], entry[1]):
                left.append(entry[0])
            else:
                taken.append(entry)
        return Listed(fd, taken, left)

    def _unreadable(
        self, path: bytes, error: Exception, code: str = "directory_unreadable"
    ) -> None:
        if not path:
            raise SourceVanished(
                f"{printable(self._tree.root)} cannot be listed: {error}; nothing was stored"
            ) from error
        if isinstance(error, FileNotFoundError):
            return  # removed since it was listed: as if that had been a bit later
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"could not be read: {reason}; it is not in the snapshot"
        self.findings.append(Finding(code, message, printable(path)))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a capture would take now.

    `files` and `logical_bytes` are of all files, `entries` the first of them by path as
    (path, bytes); `cut` says that there are more.
    """

    files: int
    logical_bytes: int
    entries: tuple[tuple[bytes, int], ...]
    cut: bool


def preview(root: bytes, selection: Selection, *, within: bytes = b"", limit: int) -> Preview:
    """List what a capture with this selection would take; nothing is read or stored."""
    found: list[tuple[bytes, int]] = []
    with TaskListing(root, selection, within=within) as listing:
        pending = [b""]
        while pending:
            path = pending.pop()
            listed = listing.open(path)
            if listed is None:
                continue
            os.close(listed.fd)
            for name, st in listed.taken:
                if stat.S_ISDIR(st.st_mode):
                    pending.append(join(path, name))
                elif stat.S_ISREG(st.st_mode):
                    found.append((join(path, name), st.st_size))
    first = tuple(heapq.nsmallest(limit, found))
    return Preview(len(found), sum(size for _, size in found), first, len(found) > limit)
