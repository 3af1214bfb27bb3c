"""A ZIP archive as a stream: written in one pass by Python's `zipfile`, and never read.

The directory at its end is kept in memory until then, less than a kilobyte an entry. Sizes
and numbers beyond those of the old format are written as ZIP64. Modes, links, owners and
times to the second are kept in the fields of Info-ZIP (``proginfo/extrafld.txt``);
nanoseconds, attributes, hard links and devices have no place in ZIP. An archive that was not
finished has no directory, so that nobody takes it for a whole one.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime

from holdfast.flows.dump import Sink
from holdfast.model.node import Node, NodeType

_UNIX = 3
_FOLDER_ATTRIBUTE = 0x10
_TIME_FIELD, _OWNER_FIELD = struct.Struct("<HHBi"), struct.Struct("<HHBBIBI")
_KINDS = {
    NodeType.FILE: stat.S_IFREG,
    NodeType.DIRECTORY: stat.S_IFDIR,
    NodeType.SYMLINK: stat.S_IFLNK,
}


class ZipStream:
    """Writes entries to a sink; call `finish` when all are there, and `close` in any case."""

    def __init__(self, out: Sink, level: int = 1) -> None:
        """`level` is zlib's, 0 to 9; 0 does not compress."""
        self._level = level
        self._way = _WayOut(out)
        self._archive = zipfile.ZipFile(self._way, "w")

    @staticmethod
    def refuses(node: Node) -> str:
        """Why the format has no place for an entry; empty where it has one."""
        return "" if node.type in _KINDS else f"a ZIP archive cannot hold a {node.type}"

    def holds(self, path: bytes) -> bool:
        """Whether there is an entry of that name."""
        name = path.decode()
        return name in self._archive.NameToInfo or name + "/" in self._archive.NameToInfo

    def add(self, path: bytes, node: Node, pieces: Iterable[bytes]) -> None:
        """Write one entry; for a regular file `pieces` give exactly its `size` bytes.

        `path` is UTF-8, and no entry has it.
        """
        directory = node.type is NodeType.DIRECTORY
        info = zipfile.ZipInfo(path.decode() + "/" * directory, _date(node))
        info.create_system = _UNIX
        info.external_attr = (_KINDS[node.type] | node.mode) << 16
        info.extra = _unix_fields(node)
        if directory:
            info.external_attr |= _FOLDER_ATTRIBUTE
            info.CRC = info.compress_size = info.file_size = 0  # `mkdir` leaves them to us
            self._archive.mkdir(info)
            return
        if node.type is NodeType.SYMLINK:
            pieces = (node.linktarget,)
        # Deflated at any level: the end of stored data cannot be found by who reads a stream.
        info.compress_type = zipfile.ZIP_DEFLATED
        # The public way to say it (`compress_level`) came with Python 3.13, which keeps this one.
        info._compresslevel = self._level  # type: ignore[attr-defined]
        info.file_size = node.size  # decides whether the entry takes ZIP64
        with self._archive.open(info, "w") as entry:
            for piece in pieces:
                entry.write(piece)

    def finish(self) -> None:
        """Write the directory and the end of the archive."""
        self._archive.close()

    def close(self) -> None:
        """Let go of everything; nothing is written."""
        self._way.bar()
        self._archive.close()


class _WayOut:
    """The sink as `zipfile` wants one: it cannot seek, and is barred once a write has failed.

    `zipfile` ends an entry and an archive also where an error made it stop.
    """

    def __init__(self, out: Sink) -> None:
        self._out: Sink | None = out

    def write(self, data: bytes, /) -> int:
        out, self._out = self._out, None
        if out is not None:
            out.write(data)
            self._out = out
        return len(data)

    def bar(self) -> None:
        self._out = None

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The sink belongs to the caller."""


def _date(node: Node) -> tuple[int, int, int, int, int, int]:
    """The time in the old form: UTC, in steps of two seconds, from 1980 to 2107."""
    earliest, latest = 315_532_800, 4_354_819_198
    moment = datetime.fromtimestamp(min(max(node.mtime_ns // 1_000_000_000, earliest), latest), UTC)
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second


def _unix_fields(node: Node) -> bytes:
    """The owner, and the modification time in seconds where the field can hold it."""
    owner = _OWNER_FIELD.pack(0x7875, 11, 1, 4, node.uid, 4, node.gid)
    seconds = node.mtime_ns // 1_000_000_000
    if not -(1 << 31) <= seconds < 1 << 31:
        return owner
    return _TIME_FIELD.pack(0x5455, 5, 1, seconds) + owner
