"""Run one command and measure it with everything that it starts.

Wall seconds, CPU seconds of all its processes, and the peak of their memory together. It
judges nothing: what the figures mean is the reader's business.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory import tree_memory_bytes

_SAMPLE_SECONDS = 0.05


class CommandFailed(Exception):
    """A measured command failed, so there is nothing to report."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one command. `stored_bytes` is by how much the repository grew."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, where, and with which additions to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str | None = None
    accepted: tuple[int, ...] = (0,)


def run_quietly(command: Command) -> None:
    """Run a command that is not measured."""
    measure(command)


def measure(command: Command) -> Sample:
    """Run a command to its end; raise `CommandFailed` with its last words where it fails."""
    os.sync()
    with tempfile.TemporaryFile() as words:
        started = time.perf_counter()
        child = subprocess.Popen(
            command.arguments,
            cwd=command.directory,
            env={**_environment(), **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,  # its id names the whole tree of processes
        )
        ended = threading.Event()
        peak = [0]
        sampler = threading.Thread(target=_sample, args=(child.pid, ended, peak))
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        ended.set()
        sampler.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in command.accepted:
            words.seek(0)
            tail = words.read()[-2000:].decode(errors="replace")
            line = " ".join(command.arguments)
            raise CommandFailed(f"{line}\nended with status {child.returncode}:\n{tail}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime, peak[0])


def stored_bytes(directory: str) -> int:
    """The sizes of all files below a directory."""
    total = 0
    for parent, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    return total


def _sample(session: int, ended: threading.Event, peak: list[int]) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        peak[0] = max(peak[0], tree_memory_bytes(session))


def _environment() -> dict[str, str]:
    # Compiled modules are kept, as in an installed program.
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
