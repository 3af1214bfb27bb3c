"""What the processes of a restore tell one another: tasks to workers, and their answers.

Values only, small enough to be sent by the thousand. Paths are relative to the target.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from holdfast.flows.restore_request import RestoreCounts
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.sources.path.tally import printable
from holdfast.sources.path.target import MadeDirectory, PendingFile


class Part(NamedTuple):
    """A directory, or the nodes that stand in its tree between two byte positions."""

    path: bytes
    tree: bytes
    start: int = 0
    stop: int = -1


class RestoreParts(NamedTuple):
    """Make what is in these; the answer's value is a list of `PartDone`."""

    parts: list[Part]


class VerifyParts(NamedTuple):
    """Read back the files in these; the answer's value is a list of `PartDone`."""

    parts: list[Part]


class RestoreOne(NamedTuple):
    """Make one file in full, because the first name of it could not be made."""

    parent: bytes
    node: Node
    key: bytes


class MakeLinks(NamedTuple):
    """Make further names: (parent, node, path of the first name)."""

    links: list[tuple[bytes, Node, bytes]]


class WriteChunks(NamedTuple):
    """Write blobs of a file: (offset, blob id); the value is a `ChunksDone`."""

    pending: PendingFile
    chunks: list[tuple[int, bytes]]
    size_bytes: int


class Finish(NamedTuple):
    """Hand back the findings; the answer's value is a `FindingTally`."""


class SharedFile(NamedTuple):
    """A file that has been begun and is to be filled by all workers.

    `key` is not empty where it is the first of several names.
    """

    pending: PendingFile
    node: Node
    key: bytes


class FurtherName(NamedTuple):
    """A name of a file whose first name some worker has taken on."""

    node: Node
    key: bytes


class PartDone(NamedTuple):
    """What came of a part; `more` are the parts that a large directory is cut into."""

    path: bytes
    subdirectories: list[tuple[bytes, bytes]]
    shared: list[SharedFile]
    links: list[FurtherName]
    more: list[Part]


class ChunksDone(NamedTuple):
    """What came of a `WriteChunks`: bytes that are lost and why, and whether writing failed."""

    lost_bytes: int
    reason: str
    failed: bool


class Answer(NamedTuple):
    """The result of a task, and what goes along with it.

    `firsts` are (key, path) of first names that are there now, with an empty path where
    one could not be made.
    """

    value: Any
    made: list[MadeDirectory]
    firsts: list[tuple[bytes, bytes]]
    counts: RestoreCounts
    damaged: list[Finding]
    current: bytes


def damage_finding(path: bytes, size: int, lost_bytes: int, reason: str) -> Finding:
    """The finding about a file whose content is not wholly there."""
    message = (
        f"{max(lost_bytes, 0)} of {size} bytes are lost, and zero in what was written: {reason}"
    )
    return Finding("file_damaged", message, printable(path))
