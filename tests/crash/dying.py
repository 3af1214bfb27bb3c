"""Processes that die by SIGKILL where they are told to.

A `Trap` is handed to a `LocalStore` and counts its steps over all processes that were forked
since, without a lock that a dying process could keep. `forked` runs something in a child and
says how it ended, `apart` passes on how it failed; a child that hangs has failed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy  # noqa: F401 - what is imported here, thousands of children need not import

DEADLINE_SECONDS = 120.0
_PR_SET_CHILD_SUBREAPER = 36


class Trap:
    """Ends a process at the step with a certain number, once it was armed.

    With `everybody` the whole process group dies, as when a machine loses power; otherwise
    only the process, worker or parent, that came to that step.
    """

    def __init__(self, step: int, *, everybody: bool = True) -> None:
        self._everybody = everybody
        self._left = os.eventfd(step, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
        self._victims = os.eventfd(1, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
        self._is_armed = False

    def arm(self) -> None:
        """Count from here; called before the processes that shall count are forked."""
        self._is_armed = True

    def __call__(self, name: str) -> None:
        """The hook of a store."""
        if not self._is_armed:
            return
        if not _taken(self._left) and (self._everybody or _taken(self._victims)):
            os.kill(0 if self._everybody else os.getpid(), signal.SIGKILL)
            signal.pause()  # until the signal is delivered

    def close(self) -> None:
        for file in (self._left, self._victims):
            os.close(file)


def _taken(semaphore: int) -> bool:
    try:
        os.eventfd_read(semaphore)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Ending:
    """How a child ended: by itself, killed, or with the traceback of what it raised."""

    killed: bool
    failure: str = ""


class Child:
    """A forked process with a process group of its own; `wait` for it exactly once."""

    def __init__(self, work: Callable[[], object], failures: Path) -> None:
        self._failures = failures
        # Orphaned workers become children of this process, which can then see them end.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with warnings.catch_warnings():
            # Threads of the test runner stay behind; nothing of theirs is used in the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _run(work, failures)
        self._pidfd = os.pidfd_open(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child and its workers."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # Not a group of its own yet.
            os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        return self._ends_within(0)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> Ending:
        """Wait until it has ended; one that takes too long is killed and has failed."""
        hung = not self._ends_within(seconds)
        if hung:
            # Each process of the group says where it is.
            self.send(signal.SIGUSR1)
            self._ends_within(1)
            self.send(signal.SIGKILL)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self._bury_workers()
        if hung:
            return Ending(False, f"hung for {seconds} seconds\n{self._failures.read_text()}")
        if os.WIFSIGNALED(status):
            killed = os.WTERMSIG(status) == signal.SIGKILL
            return Ending(killed, "" if killed else f"ended by signal {os.WTERMSIG(status)}")
        if os.WEXITSTATUS(status):
            return Ending(False, self._failures.read_text())
        return Ending(False)

    def _bury_workers(self) -> None:
        """Take in the workers that lost their parent; none goes on without it for long."""
        for _ in range(1000):
            try:
                if os.waitpid(-self.pid, os.WNOHANG)[0] == 0:
                    time.sleep(0.005)
            except ChildProcessError:
                return
        self.send(signal.SIGKILL)
        raise AssertionError("a worker process went on without its parent")

    def _ends_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def forked(work: Callable[[], object], failures: Path) -> Ending:
    """Run `work` in a child process; what it raises comes back as text."""
    return Child(work, failures).wait()


def apart(work: Callable[[], object], failures: Path) -> None:
    """Run `work` in a child process, and fail as it fails.

    Everything that opens a repository runs so: what a test leaves running, such as a thread
    that is about to end, must not be copied into the next process to be forked.
    """
    ending = forked(work, failures)
    assert not ending.killed, "killed by somebody else"
    assert not ending.failure, ending.failure


def _run(work: Callable[[], object], failures: Path) -> NoReturn:
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1, failures.open("w"))
        work()
    except BaseException:
        failures.write_text(traceback.format_exc())
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
