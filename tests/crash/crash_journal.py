"""What a history has begun and what was acknowledged, in a file that outlives its process.

A record is written when an act begins, and another one after the act has returned. What the
second one says is a promise that no kill may break. A record that a kill tore is none.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tree_compare import Entry

_LENGTH = struct.Struct("<I")

Content = dict[bytes, Entry] | str
"""What a snapshot has to give back: entries of a tree, or the SHA-256 of a disk."""


@dataclass(frozen=True)
class BackupBegun:
    """`attempt` is the tag of the snapshot that may come of it, in repository `where`."""

    attempt: str
    content: Content


@dataclass(frozen=True)
class Stored:
    """The snapshot `id` of that attempt was acknowledged in the repository `where`."""

    where: int
    attempt: str
    id: str


@dataclass(frozen=True)
class ForgetBegun:
    where: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    where: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """An act of that name has ended; `error` is what it raised."""

    act: str
    error: str = ""


ATTEMPT = "attempt:"


def attempt_of(tags: tuple[str, ...]) -> str:
    """Which attempt made a snapshot; all others of its tags are the flow's own."""
    (attempt,) = (tag for tag in tags if tag.startswith(ATTEMPT))
    return attempt


Record = BackupBegun | Stored | ForgetBegun | Forgotten | Ended


class Journal:
    """Appends to a file; every method may be called from the process that made it only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Record) -> None:
        text = pickle.dumps(record)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, _LENGTH.pack(len(text)) + text)
        finally:
            os.close(file)

    def records(self) -> Iterator[Record]:
        """Yield what was written whole."""
        text = self.path.read_bytes() if self.path.exists() else b""
        at = 0
        while at + _LENGTH.size <= len(text):
            (length,) = _LENGTH.unpack_from(text, at)
            end = at + _LENGTH.size + length
            if end > len(text):
                break
            yield pickle.loads(text[at + _LENGTH.size : end])
            at = end
        if at < len(text):
            # The torn end goes, so that what is appended next can be read.
            os.truncate(self.path, at)


class Promises:
    """What the records of a journal, or of several, promise about each repository."""

    def __init__(self, *journals: Journal) -> None:
        self.contents: dict[str, Content] = {}
        self.stored: dict[tuple[int, str], str] = {}
        """(repository, snapshot id) of everything acknowledged, to its attempt."""
        self.doomed: set[tuple[int, str]] = set()
        """What a forget was told to remove, whether or not it came to that."""
        self.gone: set[tuple[int, str]] = set()
        """What a forget has acknowledged to be removed."""
        self.ended: list[Ended] = []
        for journal in journals:
            for record in journal.records():
                self._include(record)

    def _include(self, record: Record) -> None:
        if isinstance(record, BackupBegun):
            self.contents[record.attempt] = record.content
        elif isinstance(record, Stored):
            self.stored[record.where, record.id] = record.attempt
        elif isinstance(record, ForgetBegun):
            self.doomed.update((record.where, name) for name in record.ids)
        elif isinstance(record, Forgotten):
            self.gone.update((record.where, name) for name in record.ids)
        else:
            self.ended.append(record)

    def kept(self, where: int) -> dict[str, str]:
        """The snapshots that have to be there: id to attempt."""
        return {
            name: attempt
            for (place, name), attempt in self.stored.items()
            if place == where and (place, name) not in self.doomed
        }
