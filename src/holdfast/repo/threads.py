"""Threads that are really gone when they have been waited for.

Python counts a thread as ended a moment before the kernel does, and in that moment OpenSSL
holds a lock to tidy up after it. A process forked just then inherits the lock, which nobody
will ever give back, and hangs as soon as one of its own threads hashes or encrypts. So
threads that may have done either before a fork are waited for with these.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

_POLL_SECONDS = 0.0002
_LONGEST_SECONDS = 10.0


class JoinedThreads(ThreadPoolExecutor):
    """A thread pool after whose end a fork is safe."""

    def __init__(self, max_workers: int) -> None:
        self._native_ids: list[int] = []
        super().__init__(max_workers, initializer=_note, initargs=(self._native_ids,))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            wait_until_gone(self._native_ids)


def wait_until_gone(native_ids: Iterable[int]) -> None:
    """Wait until the kernel has ended threads of this process that Python has joined."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    for native_id in native_ids:
        # Without /proc nothing is there, and nothing is waited for.
        while os.path.exists(f"/proc/self/task/{native_id}") and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _note(native_ids: list[int]) -> None:
    native_ids.append(threading.get_native_id())
