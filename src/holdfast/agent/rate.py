"""How fast a job goes: bytes per second of the last while, and the seconds that are left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

_WHILE_SECONDS: Final = 30.0


class Rate:
    """Looks back half a minute; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def forget(self) -> None:
        """Another stage begins, whose bytes count from nothing."""
        self._seen.clear()

    def of(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        """What can be said of a job that stands there; empty while it is too early."""
        now, done = self._clock(), int(progress.get("bytes_done", 0))
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WHILE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        seconds, amount = now - self._seen[0][0], done - self._seen[0][1]
        if seconds < 1 or amount <= 0:
            return {}
        rate = amount / seconds
        left = int(progress.get("bytes_total", 0)) - done
        found: dict[str, Any] = {"bytes_per_second": int(rate)}
        if left > 0:
            found["seconds_left"] = int(left / rate)
        return found
