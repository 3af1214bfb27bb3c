"""The processes of the demonstration: a server, and machines with an agent each.

A machine is a directory with a root of its own and an agent that thinks it is ``/root``. A
process group per machine is what makes it possible to take a machine away at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from holdfast.demo.narration import Differs

_UP_SECONDS = 60.0
_STOP_SECONDS = 20.0


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "holdfast", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Ours without anything that would lead to another server or repository."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HOLDFAST_", "RESTIC_"))
    }
    return {**ours, **more}


@dataclass
class Process:
    """A child in a group of its own, with its log in a file."""

    command: list[str]
    log: Path
    variables: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    def start(self) -> IO[str]:
        """Start it; returns its standard output."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(**self.variables),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        return self._process.stdout

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Also what it has left, and also if a person does not want to wait any longer.
            self.kill()

    def kill(self) -> None:
        """Take it away, with everything that it started, without a word."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close()

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def explain(self, why: str) -> Differs:
        """An error that has the end of the log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return Differs(f"{why}; the end of its log:\n{tail}")


class Server:
    """``holdfast up`` in a directory; `url` is known once it has started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        guarded = directory / "own-root"
        guarded.mkdir()
        self._process = Process(
            program(*("up", "--json", "--port", "0"), "--data-directory", str(directory / "data")),
            directory / "server.log",
            {
                "HOLDFAST_SERVER_AGENT_ROOTS": str(guarded),
                "HOLDFAST_SERVER_LOG_FORMAT": "json",
            },
        )
        self.url = ""
        self.email = ""
        self.password = ""

    @property
    def password_file(self) -> Path:
        return self.directory / "data" / "owner.password"

    def start(self) -> None:
        """Return when it listens."""
        output = self._process.start()
        timer = threading.Timer(_UP_SECONDS, self._process.kill)
        timer.start()
        try:
            line = output.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._process.explain("The server did not come up")
        document: dict[str, Any] = json.loads(line)
        self.url, self.email = document["url"], document["owner_email"]
        self.password = Path(document["password_file"]).read_text().strip()

    def stop(self) -> None:
        try:
            self._process.stop()
        finally:
            _kill_all_of(self.directory)


class Machine:
    """A rented machine: a root of its own, and an agent with settings of its own."""

    def __init__(
        self, directory: Path, name: str, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.directory, self.name = directory, name
        self.root = directory / "root"
        self.root.mkdir(parents=True)
        self._state = directory / "state"
        cache = {"HOLDFAST_AGENT_CACHE_DIRECTORY": str(directory / "cache")}
        self._variables = {**cache, **settings}
        self._process: Process | None = None

    def enrol(self, url: str, token: str) -> None:
        """Make it one of the server's, as a person there would, and start its agent."""
        token_file = self.directory / "token"
        token_file.write_text(token)
        where = ["--state-directory", str(self._state)]
        done = subprocess.run(
            program(
                *("agent", "enrol", url, "--enrolment-token-file", str(token_file)),
                *("--name", self.name, "--root", f"/root={self.root}", *where),
            ),
            env=environment(**self._variables),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Differs(f"{self.name} could not enrol: {done.stderr.strip()}")
        self._process = Process(
            program("agent", "run", *where),
            self.directory / "agent.log",
            {
                **self._variables,
                "HOLDFAST_AGENT_SERVER": url,
                "HOLDFAST_AGENT_NAME": self.name,
                "HOLDFAST_AGENT_ROOTS": f"/root={self.root}",
            },
        )
        self._process.start()

    def vanish(self) -> None:
        """Kill everything that runs there, and take its disk away."""
        if self._process is not None:
            self._process.kill()
        # Computations outlive their agent; a machine that is gone takes them along.
        _kill_all_of(self.directory)
        shutil.rmtree(self.directory)

    def stop(self) -> None:
        try:
            if self._process is not None:
                self._process.stop()
        finally:
            _kill_all_of(self.directory)


def _kill_all_of(directory: Path) -> None:
    """Kill every process that has a path below `directory` in its arguments or environment."""
    inside = f"{directory}/".encode()
    while found := [pid for pid in _processes() if inside in _start_of(pid)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes() -> list[int]:
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()
    ]


def _start_of(pid: int) -> bytes:
    """Its arguments and environment; nothing where it has ended, noticed or not."""
    try:
        return b"\0".join(
            Path(f"/proc/{pid}/{each}").read_bytes() for each in ("cmdline", "environ")
        )
    except OSError:
        return b""
