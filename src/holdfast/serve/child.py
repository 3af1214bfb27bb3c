"""A child process that is kept running: started again with growing pauses when it ends.

A child that has run for a minute starts afresh with the shortest pause. Stopping sends
SIGTERM, and SIGKILL to one that does not listen. The child itself must end with its parent
(it is told so by an argument), because a parent that was killed can stop nobody.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

_log = structlog.get_logger("holdfast.child")

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
SETTLED_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0


class Child:
    """Keeps one command running from `start` to `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._name = name
        self._command, self._environment = list(command), environment
        self._first_pause_seconds = first_pause_seconds
        self._stop_seconds = stop_seconds
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"child-{name}", daemon=True)
        self.starts = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the child and wait until it has ended."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                _log.warning("child does not end, killing it", child=self._name, pid=process.pid)
                process.kill()
                process.wait()
        self._thread.join()

    def _run(self) -> None:
        pause = self._first_pause_seconds
        while not self._stopping.is_set():
            began = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._started()
            process = self._process
            status = process.wait() if process is not None else None
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= SETTLED_SECONDS:
                pause = self._first_pause_seconds
            _log.warning(
                "child ended, starting it again",
                child=self._name,
                exit_status=status,
                pause_seconds=pause,
            )
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _started(self) -> subprocess.Popen[bytes] | None:
        self.starts += 1
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, env=self._environment
            )
        except OSError as error:
            _log.exception("child cannot be started", child=self._name, reason=error.strerror)
            return None
        _log.info("child started", child=self._name, pid=process.pid)
        return process
