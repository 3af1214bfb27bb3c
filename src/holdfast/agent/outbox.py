"""The messages of a job's child that the control plane has not heard yet, in the agent.

They wait here between the child's stdout and the next report. Invariants: they are heard in
the order in which they were said, and one is dropped only when the control plane has it, or
has refused it by itself, which is told in the job's log.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

MOST_MESSAGES: Final = 100
MOST_BYTES: Final = 1900 << 10
"""Of one report's messages, as JSON; the control plane takes 2 MiB."""


class Outbox:
    """Filled by the thread that hears the child, emptied by the one that reports."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, int, dict[str, Any]]] = deque()
        self._heard = 0
        self._one_by_one = 0

    def put(self, message: Mapping[str, Any]) -> None:
        """Take a message with its ``seq``."""
        size = len(json.dumps(message))
        with self._lock:
            self._waiting.append((int(message["seq"]), size, dict(message)))

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether more waits than one report can hold."""
        with self._lock:
            sizes = [size for _, size, _ in self._waiting]
        return len(sizes) > MOST_MESSAGES or sum(sizes) > MOST_BYTES

    @property
    def heard(self) -> int:
        """The number of the last message that is settled."""
        with self._lock:
            return self._heard

    def batch(self) -> list[dict[str, Any]]:
        """The next messages that fit into one report, oldest first."""
        found: list[dict[str, Any]] = []
        room = MOST_BYTES
        with self._lock:
            most = 1 if self._one_by_one else MOST_MESSAGES
            for _, size, message in self._waiting:
                room -= size
                if len(found) == most or (found and room < 0):
                    break
                found.append(message)
        return found

    def settle(self, batch: list[dict[str, Any]]) -> None:
        """The control plane has these."""
        with self._lock:
            for _ in batch:
                self._heard = max(self._heard, self._waiting.popleft()[0])
            self._one_by_one = max(0, self._one_by_one - len(batch))

    def refuse(self, batch: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The control plane does not take these; return the one that was given up, if any.

        All of a refused batch are tried one by one, so that one bad message costs only itself.
        """
        if len(batch) == 1:
            with self._lock:
                self._heard = max(self._heard, self._waiting.popleft()[0])
                self._one_by_one = max(0, self._one_by_one - 1)
            return batch[0]
        with self._lock:
            self._one_by_one = len(batch)
        return None
