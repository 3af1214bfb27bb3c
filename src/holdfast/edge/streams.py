"""Open streams: how many each account has in this process, so that none takes all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import TooManyRequests


class Streams:
    """Counts open streams. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    def check(self, account_id: str, most: int) -> None:
        """Raise `TooManyRequests` where the account has so many already."""
        with self._lock:
            if self._open[account_id] < most:
                return
        raise TooManyRequests("The account watches in too many places; close one of them.", 30)

    @contextmanager
    def counted(self, account_id: str) -> Iterator[None]:
        """Count one for as long as the block lasts."""
        with self._lock:
            self._open[account_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[account_id] -= 1
                if not self._open[account_id]:
                    del self._open[account_id]
