"""Zeroes: tell quickly whether bytes are all zero, and which parts of a buffer are not.

Never copies and never allocates by the length of what is looked at. Comparing against a
prepared block of zeroes by `bytes.startswith` is one memcmp: 15 GB/s, and it stops at
the first difference. Comparing a memoryview by ``==`` goes byte by byte at 0.6 GB/s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ZEROES = bytes(1 << 20)
"""A block of zeroes to compare with and to write from."""

Buffer = bytes | bytearray | memoryview


def is_zero(data: Buffer) -> bool:
    """Whether every byte of `data` is zero; an empty one counts as zero."""
    if len(data) <= len(ZEROES):
        return ZEROES.startswith(data)
    view = memoryview(data)
    return all(
        ZEROES.startswith(view[start : start + len(ZEROES)])
        for start in range(0, len(view), len(ZEROES))
    )


def nonzero_runs(offset: int, data: Buffer, block_bytes: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the parts of `data`, which lies at `offset`, that hold anything but zeroes.

    Parts begin and end at multiples of `block_bytes` counted from position 0 of the disk,
    or at the ends of `data`; neighbouring blocks come as one part.
    """
    view = memoryview(data)
    start = 0
    begun: int | None = None
    while start < len(view):
        end = min(start + block_bytes - (offset + start) % block_bytes, len(view))
        if is_zero(view[start:end]):
            if begun is not None:
                yield offset + begun, view[begun:start]
                begun = None
        elif begun is None:
            begun = start
        start = end
    if begun is not None:
        yield offset + begun, view[begun:]
