"""What an instance's command writes: followed in its files, sent on in pieces.

A piece begins where the one before it ended; an attempt after the first goes on where the
control plane was known to be, and sends at most a little twice. Invariants: no more than a
few pieces are on the way at the same time, so that a fast command costs no memory; nothing
beyond the control plane's limit is sent, and then a finding says so.
"""

from __future__ import annotations

import base64
import os
from collections import deque
from pathlib import Path
from typing import Final

from holdfast.agent.mailbox import Mailbox
from holdfast.model.finding import Finding

PIECE_BYTES: Final = 256 << 10
MOST_BYTES: Final = 64 << 20
"""Of one stream of one instance."""

_ON_THE_WAY: Final = 16


class TaskOutput:
    """One stream, from `offset` on, which is where the control plane is known to be."""

    def __init__(self, mailbox: Mailbox, stream: str, file: Path, offset: int = 0) -> None:
        self.stream = stream
        self._mailbox, self._file = mailbox, file
        self._offset = self._heard = offset
        self._on_the_way: deque[tuple[int, int]] = deque()

    @property
    def heard_bytes(self) -> int:
        """Up to where the control plane has it."""
        while self._on_the_way and self._mailbox.is_heard(self._on_the_way[0][0]):
            self._heard = self._on_the_way.popleft()[1]
        return self._heard

    @property
    def is_cut(self) -> bool:
        """Whether the limit was reached, and more is there."""
        return self._offset >= MOST_BYTES and self._size() > MOST_BYTES

    @property
    def finding(self) -> Finding:
        """That the rest is not shown."""
        return Finding(
            "output_cut",
            f"more than {MOST_BYTES} bytes were written to {self.stream}; the rest is not kept. "
            "Write long output to a file in /job, where snapshots and results take it",
            self.stream,
        )

    def send(self) -> bool:
        """Send what is new, as far as there is room; return whether more is there."""
        while True:
            _ = self.heard_bytes
            if len(self._on_the_way) >= _ON_THE_WAY:
                return self._is_behind()
            data = self._next()
            if not data:
                return False
            number = self._mailbox.send(
                {
                    "type": "output",
                    "stream": self.stream,
                    "offset": self._offset,
                    "data": base64.b64encode(data).decode("ascii"),
                }
            )
            self._offset += len(data)
            self._on_the_way.append((number, self._offset))

    def _next(self) -> bytes:
        most = min(PIECE_BYTES, MOST_BYTES - self._offset)
        if most <= 0:
            return b""
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""  # nothing was written yet
        try:
            return os.pread(descriptor, most, self._offset)
        finally:
            os.close(descriptor)

    def _is_behind(self) -> bool:
        return self._offset < min(self._size(), MOST_BYTES)

    def _size(self) -> int:
        try:
            return os.stat(self._file, follow_symlinks=False).st_size
        except OSError:
            return 0
