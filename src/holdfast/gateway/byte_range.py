"""The Range header: one range of bytes, as RFC 9110 writes it.

Anything that is not exactly one range is passed over, and the whole is sent, as the RFC
allows.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class ByteRange(NamedTuple):
    """From `first` to `last`, both included; without `first` the `last` bytes of it all."""

    first: int | None
    last: int | None

    def within(self, size: int) -> tuple[int, int] | None:
        """Offset and length in something of `size` bytes; None where it holds none of them."""
        if self.first is None:
            assert self.last is not None
            length = min(self.last, size)
            return (size - length, length) if length else None
        if self.first >= size:
            return None
        last = size - 1 if self.last is None else min(self.last, size - 1)
        return self.first, last - self.first + 1


def parse_range(header: str | None) -> ByteRange | None:
    """The range that a header asks for, or None for everything."""
    match = _FORM.fullmatch((header or "").replace(" ", ""))
    if match is None:
        return None
    first = int(match[1]) if match[1] else None
    last = int(match[2]) if match[2] else None
    if (first is None and last is None) or (
        first is not None and last is not None and last < first
    ):
        return None
    return ByteRange(first, last)
