"""A tar archive as a stream: headers and content, written in one pass, nothing kept.

Every header is GNU tar's, preceded by a POSIX "pax" header for what it cannot hold: times to
the nanosecond, long or non-ASCII names, and extended attributes as ``SCHILY.xattr.NAME``,
as GNU tar and bsdtar write them. Names that are not UTF-8 are written as their bytes.
Source: POSIX.1-2017, "pax", and the manual of GNU tar.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterable

from holdfast.flows.dump import Sink
from holdfast.model.node import Node, NodeType

_BLOCK_BYTES = 512
_RECORD_BYTES = 10240
_NAME_BYTES = 100
_TYPES = {
    NodeType.FILE: tarfile.REGTYPE,
    NodeType.DIRECTORY: tarfile.DIRTYPE,
    NodeType.SYMLINK: tarfile.SYMTYPE,
    NodeType.BLOCK_DEVICE: tarfile.BLKTYPE,
    NodeType.CHARACTER_DEVICE: tarfile.CHRTYPE,
    NodeType.FIFO: tarfile.FIFOTYPE,
}


_ACLS = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_TAGS = {
    0x01: b"user:", 0x02: b"user:%d", 0x04: b"group:", 0x08: b"group:%d", 0x10: b"mask:",
    0x20: b"other:",
}  # fmt: skip


class TarStream:
    """Writes entries to a sink; call `finish` last."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._written = 0

    @staticmethod
    def refuses(node: Node) -> str:
        """Why the format has no place for an entry; empty where it has one."""
        if node.type not in _TYPES:
            return f"a tar archive cannot hold a {node.type}"
        if any(b"=" in name for name, _ in node.xattrs):
            return "a tar archive cannot hold an attribute with '=' in its name"
        return ""

    def add(self, path: bytes, node: Node, pieces: Iterable[bytes]) -> None:
        """Write one entry; for a regular file `pieces` give exactly its `size` bytes."""
        regular = node.type is NodeType.FILE
        self._header(path, node, _TYPES[node.type], node.linktarget, node.size if regular else 0)
        if regular:
            for piece in pieces:
                self._write(piece)
            self._pad(_BLOCK_BYTES)

    def add_link(self, path: bytes, node: Node, first: bytes) -> None:
        """Write a further name of the file that was added as `first`."""
        self._header(path, node, tarfile.LNKTYPE, first, 0)

    def close(self) -> None:
        """Nothing to give back."""

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * _BLOCK_BYTES))
        self._pad(_RECORD_BYTES)

    def _header(self, path: bytes, node: Node, kind: bytes, target: bytes, size: int) -> None:
        records: list[tuple[bytes, bytes]] = []
        if kind == tarfile.DIRTYPE:
            path += b"/"
        info = tarfile.TarInfo(_fitting(path, b"path", records))
        info.linkname = _fitting(target, b"linkpath", records)
        info.type, info.mode, info.size = kind, node.mode, size
        info.uid, info.gid = node.uid, node.gid
        info.uname, info.gname = node.user, node.group
        seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
        info.mtime = seconds
        if nanoseconds:
            records.append((b"mtime", _decimal(node.mtime_ns)))
        if node.type in (NodeType.BLOCK_DEVICE, NodeType.CHARACTER_DEVICE):
            info.devmajor, info.devminor = os.major(node.device), os.minor(node.device)
        for name, value in node.xattrs:
            records.append((b"SCHILY.xattr." + name, value))
            # GNU tar takes lists of access rights from here, and bsdtar from either.
            if name in _ACLS and (text := _acl_text(value)):
                records.append((_ACLS[name], text))
        if records:
            body = b"".join(_record(key, value) for key, value in records)
            pax = tarfile.TarInfo("././@PaxHeader")
            pax.type, pax.size = tarfile.XHDTYPE, len(body)
            self._write(pax.tobuf(tarfile.GNU_FORMAT))
            self._write(body)
            self._pad(_BLOCK_BYTES)
        self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._written += len(data)

    def _pad(self, unit: int) -> None:
        rest = -self._written % unit
        if rest:
            self._write(bytes(rest))


def _fitting(text: bytes, key: bytes, records: list[tuple[bytes, bytes]]) -> str:
    """What a header's field says; what does not fit, or is not ASCII, goes to `records`."""
    if len(text) > _NAME_BYTES or not text.isascii():
        records.append((key, text))
        cut = text[: _NAME_BYTES - 1]
        # Only readers that do not know pax headers see this.
        return bytes(byte if byte < 0x80 else 0x5F for byte in cut).decode()
    return text.decode()


def _decimal(nanoseconds: int) -> bytes:
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}".encode()


def _acl_text(value: bytes) -> bytes:
    """The text form of an ACL as the kernel stores it; empty for one that is not known."""
    if not value.startswith(_ACL_VERSION) or len(value) % _ACL_ENTRY.size != len(_ACL_VERSION):
        return b""
    entries = []
    for tag, rights, number in _ACL_ENTRY.iter_unpack(value[len(_ACL_VERSION) :]):
        who = _ACL_TAGS.get(tag)
        if who is None:
            return b""
        letters = b"".join(
            letter if rights & bit else b"-" for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1))
        )
        entries.append((who % number if b"%" in who else who) + b":" + letters)
    return b",".join(entries)


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
