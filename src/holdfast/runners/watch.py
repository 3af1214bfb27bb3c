"""Whether a supervisor lives, and how it is spoken to.

The lock in a place is taken by its supervisor before the command starts, and held until the
record of its end is on disk; the kernel gives it back with the process, so it cannot lie. No
other process ever has it open for longer than a look. Orders go through a socket, one message
each; supervisor.py says which.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from holdfast.errors import RunnerUnavailable
from holdfast.runners.runner import Place

START_SECONDS: Final = 30.0
"""How long the start of a supervisor may take."""

_ANSWER_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.01


@contextmanager
def one_starter(place: Place) -> Iterator[None]:
    """One process at a time starts something in a place."""
    with (place.control / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_watched(place: Place) -> bool:
    """Whether a supervisor lives."""
    try:
        descriptor = os.open(place.control / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def wait_for_lock(place: Place, deadline: float) -> None:
    """Let a supervisor that has written its last record go."""
    while is_watched(place) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def connect(place: Place) -> socket.socket | None:
    """A connection, or None where no supervisor takes orders any more."""
    try:
        directory = os.open(place.control, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        # A socket's path has 107 bytes at most, and a place may lie deeper.
        connection.connect(f"/proc/self/fd/{directory}/socket")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def ask(connection: socket.socket, order: dict[str, Any]) -> dict[str, Any]:
    try:
        connection.send(json.dumps(order).encode())
        said = connection.recv(4096)
    except TimeoutError:
        raise RunnerUnavailable("The supervisor does not answer; try again later.") from None
    except OSError:
        said = b""
    return json.loads(said) if said else {"refused": "the computation has just ended"}


def is_silent(connection: socket.socket) -> bool:
    """Whether the supervisor lives and has taken nothing back."""
    poll = select.poll()
    # The end of the connection counts as something to read.
    poll.register(connection, select.POLLIN)
    return not poll.poll(0)
