"""A thread that does one thing again and again until it is stopped.

A failure is logged and the next turn comes all the same, because what a turn does is due
until it has been done. The pause is between the end of one turn and the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from holdfast.errors import HoldfastError

_log = structlog.get_logger("holdfast.ticker")
_COMPLAINT_SECONDS = 60.0


class Ticker:
    """Calls `turn` every `seconds` from `start` to `stop`; what `turn` returns is ignored."""

    def __init__(self, name: str, seconds: float, turn: Callable[[], object]) -> None:
        self._name, self._seconds, self._turn = name, seconds, turn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failures = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the turn in progress end, and start no other."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # A failure that lasts is told once a minute, not with every turn.
        told_every = max(1, round(_COMPLAINT_SECONDS / self._seconds))
        while not self._stopping.is_set():
            try:
                self._turn()
                self._failures = 0
            except Exception as error:
                if self._failures % told_every == 0:
                    self._complain(error)
                self._failures += 1
            self._stopping.wait(self._seconds)

    def _complain(self, error: Exception) -> None:
        if isinstance(error, HoldfastError):
            _log.warning("turn failed", ticker=self._name, error=error.code, reason=error.message)
        else:
            _log.error("turn failed", ticker=self._name, exc_info=error)
