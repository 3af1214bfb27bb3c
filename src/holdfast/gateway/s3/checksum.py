"""Checksums that clients send with what they upload: all that S3 knows.

`hashlib` and `zlib` have the most; CRC-32C and CRC-64/NVME are computed over many stretches
of a piece at once with numpy, and put together after that, as a CRC is linear.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from base64 import b64encode
from typing import Any, Final, Protocol

import numpy as np

NAMES: Final = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
_LANES: Final = 1024
_REFLECTED: Final = {32: 0x82F63B78, 64: 0x9A6C9329AC4BC9B5}


class Checksum(Protocol):
    """A checksum over what it is given, piece by piece."""

    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


def new_checksum(name: str) -> Checksum:
    """One of `NAMES`."""
    match name:
        case "crc32":
            return _Crc32()
        case "crc32c":
            return Crc(32)
        case "crc64nvme":
            return Crc(64)
        case "sha1":
            return hashlib.sha1(usedforsecurity=False)
        case _:
            return hashlib.sha256()


def encoded(checksum: Checksum) -> str:
    """As it stands in a header."""
    return b64encode(checksum.digest()).decode()


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Crc:
    """CRC-32C (`bits` 32) or CRC-64/NVME (64): reflected, starting and ending with all ones."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._all = (1 << bits) - 1
        self._value = self._all

    def update(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        stretch = len(view) // _LANES
        if stretch >= 16:
            self._value = self._wide(np.frombuffer(view[: stretch * _LANES], np.uint8))
            view = view[stretch * _LANES :]
        table, value = _table(self._bits)[0], self._value
        for byte in view:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        self._value = value

    def digest(self) -> bytes:
        return (self._value ^ self._all).to_bytes(self._bits // 8, "big")

    def _wide(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
        table = _table(self._bits)[1]
        length = len(data) // _LANES
        columns = np.ascontiguousarray(data.reshape(_LANES, length).T).astype(np.uint64)
        state = np.zeros(_LANES, np.uint64)
        state[0] = self._value
        low, eight = np.uint64(0xFF), np.uint64(8)
        for column in columns:
            state = table[(state ^ column) & low] ^ (state >> eight)
        while len(state) > 1:
            # Of two neighbours the first one is moved over the bytes of the second.
            state = _moved(self._bits, length, state[0::2]) ^ state[1::2]
            length *= 2
        return int(state[0])


@functools.cache
def _table(bits: int) -> tuple[list[int], np.ndarray[Any, np.dtype[np.uint64]]]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_REFLECTED[bits] if value & 1 else 0)
        table.append(value)
    return table, np.array(table, np.uint64)


@functools.lru_cache(maxsize=256)
def _mover(bits: int, length: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """What each byte of a state becomes when `length` zero bytes follow: one row for each."""
    table = _table(bits)[0]
    if length == 1:
        ones = [1 << bit for bit in range(bits)]
        images = [table[one & 0xFF] ^ (one >> 8) for one in ones]
    else:
        half = _mover(bits, length // 2)
        images_of = np.array([1 << bit for bit in range(bits)], np.uint64)
        moved = _apply(half, _apply(half, images_of))
        if length % 2:
            moved = _apply(_mover(bits, 1), moved)
        images = [int(value) for value in moved]
    rows = np.zeros((bits // 8, 256), np.uint64)
    for row in range(bits // 8):
        for byte in range(256):
            value = 0
            for bit in range(8):
                if byte >> bit & 1:
                    value ^= images[row * 8 + bit]
            rows[row, byte] = value
    return rows


def _apply(
    rows: np.ndarray[Any, np.dtype[np.uint64]], state: np.ndarray[Any, np.dtype[np.uint64]]
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    result = np.zeros(len(state), np.uint64)
    for number, row in enumerate(rows):
        result ^= row[(state >> np.uint64(8 * number)) & np.uint64(0xFF)]
    return result


def _moved(
    bits: int, length: int, state: np.ndarray[Any, np.dtype[np.uint64]]
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return _apply(_mover(bits, length), state)
