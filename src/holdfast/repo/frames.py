"""Sealed bodies that can be read anywhere: a stream cut into frames of 64 KiB.

Each frame is sealed by itself, under keys that are derived from the repository's password and
the body's id. In front of what it carries it holds, sealed too, its number and whether it is
the last one. So a frame that was changed, moved, left out, cut off or taken from another body
does not open, or is not the one that was asked for.

A body of n bytes has ``ceil(n / 65536)`` frames, one at least; the last may be short. Layout of
a frame: ``IV (16) || ciphertext of (number and last flag (8) || bytes) || MAC (16)``. The keys
are HKDF-SHA256 (RFC 5869) of the password with the body's id as the information.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from holdfast.errors import Damaged
from holdfast.repo.crypto import OVERHEAD_BYTES, Buffer, MasterKey, Sealer

FRAME_BYTES = 64 << 10
_HEAD = struct.Struct(">Q")
_LAST = 1 << 63
_SEALED_BYTES = FRAME_BYTES + _HEAD.size + OVERHEAD_BYTES
_PURPOSE = b"holdfast framed body 1\0"
_KEY_BYTES = 64


def body_key(password: str, body_id: str) -> MasterKey:
    """The keys of one body."""
    extracted = hmac.digest(bytes(32), password.encode(), hashlib.sha256)
    info = _PURPOSE + body_id.encode()
    derived, block = b"", b""
    for count in range(1, _KEY_BYTES // 32 + 1):
        block = hmac.digest(extracted, block + info + bytes([count]), hashlib.sha256)
        derived += block
    return MasterKey.from_bytes(derived)


def sealed_size(size_bytes: int) -> int:
    """How many bytes a body of `size_bytes` takes once it is sealed."""
    return size_bytes + _frames(size_bytes) * (_SEALED_BYTES - FRAME_BYTES)


def sealed_stretch(offset: int, length: int, size_bytes: int) -> tuple[int, int]:
    """Where in the sealed body the frames lie that hold a stretch of it: offset and length."""
    assert offset >= 0
    assert 0 <= length <= size_bytes - offset
    first, end = _numbers(offset, length, size_bytes)
    begin = first * _SEALED_BYTES
    return begin, min(end * _SEALED_BYTES, sealed_size(size_bytes)) - begin


def open_stretch(
    key: MasterKey, sealed: Buffer, offset: int, length: int, *, size_bytes: int, what: str
) -> bytes:
    """The bytes of a stretch, out of the frames that `sealed_stretch` named.

    Raises `Damaged`, naming `what`, where they are not exactly those.
    """
    first, end = _numbers(offset, length, size_bytes)
    if len(sealed) != sealed_stretch(offset, length, size_bytes)[1]:
        raise Damaged(f"{what} is truncated: {len(sealed)} bytes are there of what was asked for")
    sealer, view, plain = Sealer(key), memoryview(sealed), bytearray()
    last = _frames(size_bytes) - 1
    for number in range(first, end):
        at = (number - first) * _SEALED_BYTES
        frame = sealer.open(view[at : at + _SEALED_BYTES], f"frame {number} of {what}")
        (head,) = _HEAD.unpack_from(frame)
        if head != (number | _LAST if number == last else number):
            raise Damaged(f"{what} is damaged: in the place of frame {number} lies another one")
        plain += memoryview(frame)[_HEAD.size :]
    begin = offset - first * FRAME_BYTES
    return bytes(memoryview(plain)[begin : begin + length])


class BodySealer:
    """Seals one body as it comes, into memory. Not thread-safe."""

    def __init__(self, key: MasterKey) -> None:
        self._sealer = Sealer(key)
        self._frame = bytearray(_HEAD.size + FRAME_BYTES)
        self._filled = 0
        self._number = 0
        self.sealed = bytearray()
        self.size_bytes = 0

    def write(self, data: Buffer) -> None:
        """Add bytes."""
        view = memoryview(data)
        self.size_bytes += len(view)
        while view:
            # A full frame is sealed once more follows: only then it is not the last one.
            if self._filled == FRAME_BYTES:
                self._seal(last=False)
            count = min(FRAME_BYTES - self._filled, len(view))
            at = _HEAD.size + self._filled
            self._frame[at : at + count] = view[:count]
            self._filled += count
            view = view[count:]

    def finish(self) -> bytearray:
        """The whole sealed body; nothing is written after that."""
        self._seal(last=True)
        return self.sealed

    def _seal(self, *, last: bool) -> None:
        _HEAD.pack_into(self._frame, 0, self._number | (_LAST if last else 0))
        plain = memoryview(self._frame)[: _HEAD.size + self._filled]
        at = len(self.sealed)
        self.sealed += bytes(len(plain) + OVERHEAD_BYTES)
        with memoryview(self.sealed) as out:
            self._sealer.seal_into(plain, out[at:])
        self._number += 1
        self._filled = 0


def _frames(size_bytes: int) -> int:
    return max(1, -(-size_bytes // FRAME_BYTES))


def _numbers(offset: int, length: int, size_bytes: int) -> tuple[int, int]:
    """The first frame that is needed, and the one behind the last. At least one is."""
    first = min(offset // FRAME_BYTES, _frames(size_bytes) - 1)
    return first, max(first + 1, -(-(offset + length) // FRAME_BYTES))
