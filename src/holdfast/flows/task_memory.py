"""What a capturer remembers of a directory from one capture to the next.

For each entry: by what its state is recognised, and the text of its node. Nothing here
reads or stores; a remembered entry counts only where the live one looks the same. It takes
about a kilobyte for each file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.repo.pack import BlobType

Look = tuple[int, int, int, int, int]
"""Inode, kind, size, modification time, change time."""


def look_of(st: os.stat_result) -> Look:
    return st.st_ino, stat.S_IFMT(st.st_mode), st.st_size, st.st_mtime_ns, st.st_ctime_ns


class Entry(NamedTuple):
    """A file, link or special file. `settled`: see `Settling`."""

    look: Look
    settled: bool
    text: str
    blobs: tuple[bytes, ...] = ()
    size: int = 0


@dataclass(slots=True, eq=False)
class Directory:
    """A directory: what was taken of it, and what filters left out (`aside`).

    `names` are all that were taken, sorted. `text` is the node without its subtree, `tree`
    the id of the stored tree, None until it is stored.
    """

    path: bytes
    look: Look = (0, 0, 0, 0, 0)
    settled: bool = False
    text: str = ""
    names: list[bytes] = field(default_factory=list)
    entries: dict[bytes, Entry] = field(default_factory=dict)
    directories: dict[bytes, Directory] = field(default_factory=dict)
    aside_entries: dict[bytes, Entry] = field(default_factory=dict)
    aside_directories: dict[bytes, Directory] = field(default_factory=dict)
    tree: bytes | None = None

    def entry(self, name: bytes) -> Entry | None:
        return self.entries.get(name) or self.aside_entries.get(name)

    def directory(self, name: bytes) -> Directory | None:
        return self.directories.get(name) or self.aside_directories.get(name)

    def below(self) -> Iterator[Directory]:
        """This directory and all below it, also those that filters left out."""
        pending = [self]
        while pending:
            here = pending.pop()
            yield here
            pending.extend(here.directories.values())
            pending.extend(here.aside_directories.values())


def forget_missing(top: Directory, knows: Callable[[BlobType, bytes], bool]) -> None:
    """Forget every entry and tree that a new view of the index does not have whole."""
    for here in top.below():
        for entries in (here.entries, here.aside_entries):
            gone = [
                name
                for name, entry in entries.items()
                if not all(knows(BlobType.DATA, blob) for blob in entry.blobs)
            ]
            for name in gone:
                del entries[name]
        if here.tree is not None and not knows(BlobType.TREE, here.tree):
            here.tree = None
