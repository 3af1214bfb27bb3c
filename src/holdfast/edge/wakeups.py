"""Long polls: thousands of agents that wait for work, without a thread for each of them.

An agent that waits is a bell in the event loop. One poller of this process asks the database
for which hosts there is work and rings for those: at once when this process has changed
something that may have made work, and twice a second for what others write. While nobody
waits the poller does not run.

Invariant: a bell is hung before its owner looks for work, so that work which appears
after that look rings it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

POLL_SECONDS: Final = 0.5
CALM_SECONDS: Final = 0.02
"""So much is between two looks, however many changes there are."""

ANY_KEEPER: Final = None
"""Stands for work that any keeper may take."""

_log = logging.getLogger(__name__)


class Bell:
    """One who waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rung = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Whether it rang within that time; it can then ring again."""
        try:
            await asyncio.wait_for(self._rung.wait(), max(seconds, 0))
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def ring(self) -> None:
        """Wake the owner; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody is left to wake
            self._loop.call_soon_threadsafe(self._rung.set)


class Wakeups:
    """All bells of this process."""

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._bells: defaultdict[str | None, set[Bell]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None
        self._nudge: Bell | None = None
        self.closing = False

    @contextlib.contextmanager
    def listening(
        self, host_id: str, *, keeper: bool, find: Callable[[], set[str | None]]
    ) -> Iterator[Bell]:
        """Hang a bell for as long as the block lasts; in the event loop only.

        `find` asks the database which hosts have work; it is called in a thread.
        """
        bell = Bell(asyncio.get_running_loop())
        names = [host_id, ANY_KEEPER] if keeper else [host_id]
        with self._lock:
            for name in names:
                self._bells[name].add(bell)
        if self._poller is None or self._poller.done():
            self._nudge = Bell(asyncio.get_running_loop())
            self._poller = asyncio.create_task(self._poll(find, self._nudge))
        try:
            yield bell
        finally:
            with self._lock:
                for name in names:
                    self._bells[name].discard(bell)
                    if not self._bells[name]:
                        del self._bells[name]

    def notify(self, host_id: str | None) -> None:
        """Say that there is work for this host, or (None) for a keeper; from any thread."""
        with self._lock:
            bells = list(self._bells.get(host_id, ()))
        for bell in bells:
            bell.ring()

    def nudge(self) -> None:
        """Say that there may be work for somebody; from any thread."""
        if self._nudge is not None:
            self._nudge.ring()

    def close(self) -> None:
        """Let everybody go, because the process is about to end; from any thread."""
        self.closing = True
        with self._lock:
            bells = {bell for group in self._bells.values() for bell in group}
        for bell in bells:
            bell.ring()

    async def _poll(self, find: Callable[[], set[str | None]], nudge: Bell) -> None:
        while True:
            await nudge.wait(self._poll_seconds)
            await asyncio.sleep(CALM_SECONDS)
            with self._lock:
                if not self._bells:
                    return
            try:
                waiting = await asyncio.to_thread(find)
            except Exception:
                # The database may be away for a while; whoever waits asks again by itself.
                _log.warning("looking for waiting work failed", exc_info=True)
                continue
            for host_id in waiting:
                self.notify(host_id)
