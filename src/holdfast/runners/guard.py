"""A process that holds a computation still for another one, and thaws it whatever happens.

For runners that freeze by a command and thaw by another. Between the two stands this guard,
which ends the freeze when the freezer says so, when the freezer dies, and when the time is
over. Should the guard itself be killed, the file that it had locked still says ``frozen`` and
is free: `thaw_stale` then makes up for it, which runners do whenever they are asked for a
status. Started as ``python -m holdfast.runners.guard`` by `guarded`.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from holdfast.errors import NotFreezable
from holdfast.runners.runner import Frozen

_COMMAND_SECONDS: Final = 60.0
_THAW_PAUSES_SECONDS: Final = (0.2, 1.0, 3.0, 10.0, 30.0)
_FREEZE_PAUSES_SECONDS: Final = (0.1, 0.4)
_FROZEN: Final = b"frozen"


@contextmanager
def guarded(
    freeze: Sequence[str],
    thaw: Sequence[str],
    *,
    lock: Path,
    how: str,
    at_most_seconds: float,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Frozen]:
    """Run `freeze`, and `thaw` at the end of the context or after the time, by a guard.

    `lock` is a file of the place that belongs to this alone. Both commands have to end only
    when their work is done; `thaw` has to succeed where nothing is frozen any more. Raises
    `NotFreezable` where `freeze` fails, with what it said.
    """
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "holdfast.runners.guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    order = {
        "freeze": list(freeze),
        "thaw": list(thaw),
        "lock": os.fspath(lock),
        "seconds": at_most_seconds,
        "freezer": os.getpid(),
    }
    try:
        with suppress(BrokenPipeError):
            guard.stdin.write(json.dumps(order).encode() + b"\n")
            guard.stdin.flush()
        said = json.loads(guard.stdout.readline() or b'{"refused": "the guard was killed"}')
        if "refused" in said:
            raise NotFreezable(
                f"The computation cannot be held still: {said['refused']}. "
                "Try again, or read it while it goes on."
            )
        yield Frozen(how=how, holds=functools.partial(_is_silent, guard.stdout))
    finally:
        with suppress(BrokenPipeError):
            # Said too, since a process that was forked in between has the pipe open.
            guard.stdin.write(b"thaw\n")
            guard.stdin.close()
        guard.wait()
        guard.stdout.close()


def thaw_stale(
    thaw: Sequence[str], *, lock: Path, environment: Mapping[str, str] = os.environ
) -> None:
    """Thaw what a killed guard has left frozen; does nothing where a guard lives."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(descriptor).st_size == 0:
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _run(thaw, environment) is None:
            os.ftruncate(descriptor, 0)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _is_silent(said: IO[bytes]) -> bool:
    """Whether the guard lives and has taken nothing back."""
    poll = select.poll()
    poll.register(said, select.POLLIN)
    return not poll.poll(0)


# The guard


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str | None:
    """Run a command; return what went wrong, or None."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return said[-1] if said else f"{command[0]} ended with status {done.returncode}"


def _say(document: dict[str, Any]) -> None:
    with suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(document).encode() + b"\n")


def _wait(freezer: int, seconds: float) -> str:
    """Wait for the end of the freeze; return why it came, or nothing where it was wanted."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN)
    # The pipe alone does not tell of the freezer's death where a child of it has it open too.
    try:
        gone = os.pidfd_open(freezer)
    except ProcessLookupError:
        return ""
    poll.register(gone, select.POLLIN)
    return "" if poll.poll(int(seconds * 1000)) else "the time of the freeze was over"


def _frozen(order: dict[str, Any]) -> str | None:
    """Freeze; return what went wrong, or None.

    A kernel that is busy may give a freeze up, so it is tried again after a moment.
    """
    trouble = _run(order["freeze"])
    for pause in _FREEZE_PAUSES_SECONDS:
        if trouble is None:
            break
        _run(order["thaw"])
        time.sleep(pause)
        trouble = _run(order["freeze"])
    return trouble


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.stdin.buffer.readline())
    lock = os.open(order["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say({"refused": "it is frozen for somebody else"})
        return 1
    # Before the deed: a guard that is killed in the middle of it has frozen, perhaps.
    os.write(lock, _FROZEN)
    os.fsync(lock)
    trouble = _frozen(order)
    reason = ""
    if trouble is None:
        _say({"frozen": True})
        reason = _wait(order["freezer"], order["seconds"])
    for pause in (0.0, *_THAW_PAUSES_SECONDS):
        time.sleep(pause)
        # Where freezing failed, some of it may stand still all the same.
        thawed = _run(order["thaw"]) is None
        if thawed or trouble is not None:
            os.ftruncate(lock, 0)
            break
    _say({"refused": trouble} if trouble is not None else {"thawed": reason})
    return 0


if __name__ == "__main__":
    sys.exit(main())
