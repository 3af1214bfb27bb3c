"""How many requests one token or address may make: a bucket for each, in this process.

It holds no lock while anybody waits and never waits itself; who comes too often is told
when to come again. Memory is bounded: at most `MAX_KEYS` buckets, the longest unused go
first.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Final

from holdfast.errors import TooManyRequests

MAX_KEYS: Final = 100_000


class RateLimiter:
    """`burst` requests at once for each key, `rate_per_second` in the long run. Thread-safe."""

    def __init__(self, rate_per_second: float, burst: int) -> None:
        assert rate_per_second > 0
        assert burst >= 1
        self._rate = rate_per_second
        self._burst = float(burst)
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, *, now: float) -> None:
        """Count one request at `now`, in seconds of any clock that only goes forward.

        Raises `TooManyRequests` with the whole seconds after which the next one passes.
        A refused request costs nothing.
        """
        with self._lock:
            left, at = self._buckets.get(key, (self._burst, now))
            left = min(self._burst, left + max(0.0, now - at) * self._rate)
            passes = left >= 1
            self._buckets[key] = (left - 1 if passes else left, max(at, now))
            self._buckets.move_to_end(key)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        if not passes:
            seconds = max(1, math.ceil((1 - left) / self._rate))
            raise TooManyRequests(
                f"Too many requests; go on in {seconds} s, and ask at most "
                f"{self._rate:g} times a second.",
                seconds,
            )
