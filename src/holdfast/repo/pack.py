"""Pack files: sealed blobs one after another, then a sealed header that lists them.

``sealed blob 1 || ... || sealed blob n || sealed header || header length (4 bytes, LE)``.
Source: restic's design document, "Pack Format". Knows bytes only: neither stores nor keys.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from holdfast.errors import Damaged
from holdfast.repo.crypto import OVERHEAD_BYTES

ENTRY_BYTES = 37
COMPRESSED_ENTRY_BYTES = 41
_PLAIN = struct.Struct("<BI32s")
_COMPRESSED = struct.Struct("<BII32s")
_LENGTH = struct.Struct("<I")
MAX_HEADER_BYTES = 16 << 20


class BlobType(IntEnum):
    """What a blob is; the numbers are those of pack headers."""

    DATA = 0
    TREE = 1

    @property
    def word(self) -> str:
        """The word used in index files."""
        return "tree" if self is BlobType.TREE else "data"


_TYPES = (BlobType.DATA, BlobType.TREE)


class PackedBlob(NamedTuple):
    """One blob in a pack: `length` is sealed, `raw_length` is unpacked, both in bytes.

    `compressed` tells whether the sealed content is a zstd frame.
    """

    id: bytes
    type: BlobType
    offset: int
    length: int
    raw_length: int
    compressed: bool


def encode_header(blobs: list[PackedBlob]) -> bytes:
    """Return the plain header for `blobs`, which lie in a pack in that order."""
    parts = []
    for blob in blobs:
        if blob.compressed:
            parts.append(_COMPRESSED.pack(blob.type | 2, blob.length, blob.raw_length, blob.id))
        else:
            parts.append(_PLAIN.pack(blob.type, blob.length, blob.id))
    return b"".join(parts)


def decode_header(header: bytes, what: str) -> list[PackedBlob]:
    """Parse a plain header; raise `Damaged`, naming `what`, where it is not one."""
    blobs: list[PackedBlob] = []
    at = offset = 0
    while at < len(header):
        kind = header[at]
        compressed = kind >= 2
        width = COMPRESSED_ENTRY_BYTES if compressed else ENTRY_BYTES
        if kind > 3 or at + width > len(header):
            raise Damaged(f"{what} has a header that cannot be read at byte {at}")
        if compressed:
            _, length, raw_length, blob_id = _COMPRESSED.unpack_from(header, at)
        else:
            _, length, blob_id = _PLAIN.unpack_from(header, at)
            raw_length = length - OVERHEAD_BYTES
        blobs.append(PackedBlob(blob_id, _TYPES[kind & 1], offset, length, raw_length, compressed))
        offset += length
        at += width
    return blobs


def header_length_field(sealed_header_length: int) -> bytes:
    """Return the last four bytes of a pack."""
    return _LENGTH.pack(sealed_header_length)


def sealed_header_length(tail: bytes, pack_size_bytes: int, what: str) -> int:
    """Read the header's length from the end of a pack; raise `Damaged` where it cannot be."""
    if len(tail) < _LENGTH.size:
        raise Damaged(f"{what} is truncated: it has no header length")
    length: int = _LENGTH.unpack(tail[-_LENGTH.size :])[0]
    if length < OVERHEAD_BYTES or length + _LENGTH.size > pack_size_bytes:
        raise Damaged(f"{what} is truncated or damaged: its header length {length} cannot be")
    return length


def pack_size_bytes(blobs: list[PackedBlob]) -> int:
    """Return the size that a pack with just these blobs has."""
    header = sum(COMPRESSED_ENTRY_BYTES if b.compressed else ENTRY_BYTES for b in blobs)
    return sum(b.length for b in blobs) + header + OVERHEAD_BYTES + _LENGTH.size
