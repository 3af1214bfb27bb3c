"""Daemons that all workers of a test run share, and that nobody leaves behind.

A supervisor process (a module's own file, run as a program) owns the daemons. Every test
process that uses them holds a shared lock on one file; the supervisor waits for the exclusive
lock, so it stops the daemons when the last user is gone, however that user ended. The daemons
die with the supervisor.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

_PR_SET_PDEATHSIG = 1


class Cluster(Protocol):
    """What a supervisor owns."""

    def start(self) -> Any:
        """Start the daemons; a dataclass of JSON values that users need."""

    def stop(self) -> None:
        """End them, and remove what they kept."""


@contextmanager
def running(shared: Path, program: str, name: str, *, within_seconds: float) -> Iterator[Any]:
    """What `start` returned, as a dictionary, of the cluster whose state lies under `shared`.

    It is started by `program`, given that directory, if nobody has yet.
    """
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / "start.lock").open("w") as start, (shared / "users.lock").open("w") as users:
        fcntl.flock(start, fcntl.LOCK_EX)
        # Waits here while a former supervisor takes its cluster down.
        fcntl.flock(users, fcntl.LOCK_SH)
        state = shared / "state.json"
        if not state.exists():
            _start_supervisor(shared, state, program, name, within_seconds)
        fcntl.flock(start, fcntl.LOCK_UN)
        yield json.loads(state.read_text())


def _start_supervisor(
    shared: Path, state: Path, program: str, name: str, within_seconds: float
) -> None:
    log = shared / "supervisor.log"
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, program, str(shared)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + within_seconds
    while not state.exists():
        if supervisor.poll() is not None or time.monotonic() > deadline:
            supervisor.kill()
            tail = log.read_text(errors="replace")[-4000:]
            raise RuntimeError(f"the {name} test cluster did not start:\n{tail}")
        time.sleep(0.05)
    # The supervisor outlives this process where other workers still use the cluster.
    supervisor.returncode = 0


def until_unused(users: int) -> None:
    """Wait until nobody holds the users' lock any more, and hold it alone."""
    fcntl.flock(users, fcntl.LOCK_EX)


def supervise(shared: Path, cluster: Cluster, serve: Callable[[int], None] = until_unused) -> None:
    """Run a cluster while `serve` does, which is given the descriptor of the users' lock."""
    state = shared / "state.json"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with (shared / "users.lock").open("w") as users:
        try:
            started = cluster.start()
            fresh = shared / "state.json.new"
            fresh.write_text(json.dumps(started.__dict__))
            fresh.rename(state)
            serve(users.fileno())
        finally:
            # Still under the exclusive lock: a new user waits, then starts its own.
            state.unlink(missing_ok=True)
            cluster.stop()


def free_port() -> int:
    """A port that nobody listens on, also not while its owner ends and starts again.

    It is below those that the kernel gives to connections, which come and go meanwhile.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(12_000, 30_000)))
            return port


def die_with_parent() -> None:
    """In a child: have the kernel end it with the supervisor."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
