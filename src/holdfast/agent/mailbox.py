"""The mailbox of a long job: messages to the control plane, its orders, what was heard.

It lives in the job's child process. Messages are numbered from 1 and leave as lines on
stdout; the agent passes them on, and says with each renewed lease up to which number they
were heard and what is wanted now. Nothing here knows what messages or orders mean, and
nothing is kept on disk. Invariant: a message is unheard until the control plane has it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

CANCELLED: Final = "cancelled"
LEAVING: Final = "leaving"
"""Why a job is to stop: somebody wants it stopped, or the agent ends and comes back to it."""


class Mailbox:
    """Thread-safe. `say` writes one document to the agent."""

    def __init__(self, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._say = say
        self._changed = threading.Condition()
        self._sent = 0
        self._heard = 0
        self._unheard: deque[dict[str, Any]] = deque()
        self._orders: dict[str, Any] = {}
        self._news = False
        self._stop = ""

    def send(self, message: Mapping[str, Any]) -> int:
        """Send a message; return its number."""
        with self._changed:
            self._sent += 1
            numbered = {**message, "seq": self._sent}
            self._unheard.append(numbered)
            # Under the lock, so that numbers leave in their order.
            self._say({"message": numbered})
            return self._sent

    def orders(self) -> dict[str, Any]:
        """All that is wanted at the moment; empty until the control plane was heard once."""
        with self._changed:
            return self._orders

    def is_heard(self, number: int) -> bool:
        with self._changed:
            return self._heard >= number

    def unheard(self) -> list[dict[str, Any]]:
        """What the control plane is not known to have, in order."""
        with self._changed:
            return list(self._unheard)

    @property
    def stop(self) -> str:
        """Why the job is to stop, or an empty text."""
        with self._changed:
            return self._stop

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for anything new; return whether something came."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._news, timeout_seconds)
            self._news = False
            return came

    def wait_until_heard(self, timeout_seconds: float) -> bool:
        """Wait until nothing is unheard; return whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unheard, timeout_seconds)

    def take(self, document: Mapping[str, Any]) -> None:
        """Take what the agent says: ``heard``, ``orders`` and ``stop``, each where it is there."""
        with self._changed:
            if document.get("heard") is not None:
                self._heard = max(self._heard, int(document["heard"]))
                while self._unheard and self._unheard[0]["seq"] <= self._heard:
                    self._unheard.popleft()
            if document.get("orders") is not None:
                self._orders = dict(document["orders"])
            if document.get("stop"):
                self._stop = str(document["stop"])
            self._news = True
            self._changed.notify_all()
