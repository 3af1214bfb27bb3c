"""Opened things that requests share, such as connections to a store: bounded, and closed
when nobody uses them.

Each is made once for its key, by the first who needs it; others who come meanwhile wait for
it. What is in use is never closed. A failure to make one is told to who asked, and forgotten.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(slots=True, eq=False)
class _Entry(Generic[V]):
    values: list[V] = field(default_factory=list)
    users: int = 0
    used_at: float = 0.0
    making: threading.Lock = field(default_factory=threading.Lock)


class Leases(Generic[V]):
    """Keeps idle ones while their weight is below `limit`, `idle_seconds` at most.

    Thread-safe. `weigh` may answer differently as time goes by.
    """

    def __init__(
        self,
        close: Callable[[V], None],
        *,
        limit: int,
        idle_seconds: float,
        weigh: Callable[[V], int] = lambda _value: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._close, self._limit, self._idle_seconds = close, limit, idle_seconds
        self._weigh, self._clock = weigh, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def use(self, key: Hashable, make: Callable[[], V]) -> Iterator[V]:
        """Hold the thing for `key`, making it where there is none."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.users += 1
        try:
            with entry.making:
                if not entry.values:
                    entry.values.append(make())
            yield entry.values[0]
        finally:
            self._give_back(key, entry)

    def close(self) -> None:
        """Close what is idle, and the rest as soon as it is given back."""
        self._closed = True
        self._trim()

    def _give_back(self, key: Hashable, entry: _Entry[V]) -> None:
        with self._lock:
            entry.users -= 1
            entry.used_at = self._clock()
            if not (entry.users or entry.values):
                del self._entries[key]
        self._trim()

    def _trim(self) -> None:
        with self._lock:
            now = self._clock()
            weights = {
                key: self._weigh(entry.values[0])
                for key, entry in self._entries.items()
                if entry.values
            }
            total = sum(weights.values())
            unused: list[V] = []
            for key, weight in weights.items():
                entry = self._entries[key]
                if entry.users:
                    continue
                idle = now - entry.used_at > self._idle_seconds
                if self._closed or idle or total > self._limit:
                    total -= weight
                    unused.extend(self._entries.pop(key).values)
        for value in unused:
            self._close(value)
