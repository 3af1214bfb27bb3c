"""Cutting file content into chunks: content-defined, so that insertions move no other cut.

FastCDC with normalised chunking, by pyfastcdc. Any boundaries are valid to any reader of
the format; the sizes are restic's order of magnitude, so that mixed repositories have
indexes of the usual size. Pure: takes and gives positions in a buffer.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

MIN_CHUNK_BYTES = 512 << 10
AVERAGE_CHUNK_BYTES = 1 << 20
MAX_CHUNK_BYTES = 4 << 20


class Chunker:
    """Cuts one stream after another; keeps no state between calls."""

    def __init__(
        self,
        min_bytes: int = MIN_CHUNK_BYTES,
        average_bytes: int = AVERAGE_CHUNK_BYTES,
        max_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        self.min_bytes, self.max_bytes = min_bytes, max_bytes
        self._average_bytes = average_bytes

    @cached_property
    def _cdc(self) -> FastCDC:
        # Loading it takes 40 ms, and most runs meet no file that is long enough to be cut.
        from pyfastcdc import FastCDC

        return FastCDC(
            avg_size=self._average_bytes, min_size=self.min_bytes, max_size=self.max_bytes
        )

    def cut(self, buffer: memoryview, *, last: bool) -> list[int]:
        """Return the ends of the chunks in `buffer`, ascending.

        Unless `last`, the rest behind the final end is undecided: give it again, in front
        of what follows it. With a buffer of at least `max_bytes` there is always one end.
        """
        length = len(buffer)
        if not length:
            return []
        if length <= self.min_bytes:
            return [length] if last else []
        ends = [chunk.offset + chunk.length for chunk in self._cdc.cut_buf(buffer)]
        if not last and length - (ends[-2] if len(ends) > 1 else 0) < self.max_bytes:
            ends.pop()  # it may only have ended because the buffer did
        return ends
