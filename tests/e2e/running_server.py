"""``holdfast up`` as a child process, and the command line of a person who uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

PROGRAM = str(Path(sys.executable).with_name("holdfast"))
UP_SECONDS = 90.0
STOP_SECONDS = 60.0
_KEPT = ("PATH", "LANG", "TMPDIR")


@dataclass
class RunningServer:
    """A server in `directory`; every start takes a free port."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)
    announced: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return str(self.announced["url"])

    @property
    def environment(self) -> dict[str, str]:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        environment |= {"HOME": str(home), "HOLDFAST_DEBUG": "1"}
        environment |= {"HOLDFAST_SERVER_LOG_FORMAT": "json", **self.variables}
        return environment

    def start(self, *arguments: str) -> None:
        """Return when it has said that it is up."""
        with (self.directory / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "up", "--json", "--port", "0", "--data-directory", self.data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        timer = threading.Timer(UP_SECONDS, self.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line, self.log
        self.announced = json.loads(line)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the server only; what it started has to end by itself."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def kill_all(self) -> None:
        """Leave nothing behind, whatever a test did."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.kill()

    def children(self) -> list[int]:
        """The processes of its group but itself."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self.pid and fields[0] != "Z":
                        found.append(int(entry.name))
        return found

    def run(
        self,
        *arguments: str | Path,
        status: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a person of this installation."""
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            env={**self.environment, **variables},
        )
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def json(
        self,
        *arguments: str | Path,
        status: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """The one document that a command prints."""
        done = self.run(*arguments, "--json", status=status, variables=variables)
        return json.loads(done.stdout)

    def login(self) -> None:
        """Sign in as the first owner."""
        self.run(
            *("login", "--url", self.url, "--email", self.announced["owner_email"]),
            *("--account-password-file", self.announced["password_file"]),
        )
