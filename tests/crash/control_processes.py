"""Servers and agents as processes that are killed, and start again where they should run.

A process dies with the test's, whatever happens. What is killed here is gone when the call
returns, and so is what has to end with it by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_launch import die_with_parent
from control_relay import Message, Relay
from shared_cluster import free_port

from holdfast.agent import AgentSettings, enrol, parse_root

if TYPE_CHECKING:
    from control_site import Site

PROGRAM = str(Path(sys.executable).with_name("holdfast"))
LAUNCH = str(Path(__file__).with_name("control_launch.py"))


def eventually(
    true: Callable[[], object], what: str | Callable[[], str], seconds: float = 120.0
) -> None:
    """Wait until something is so; fail where it does not become so, and say `what`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.03)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """All processes that descend from one."""
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(each) for each in (task / "children").read_text().split()]
    except OSError:
        return []
    return [*found, *(each for child in found for each in below(child))]


def kill(pids: list[int]) -> None:
    """Kill processes at once, and wait until they are gone."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} do not die")


class Server:
    """One replica: API, gateway and clockwork in a process; `relay` is how others reach it."""

    def __init__(self, site: Site, number: int, **settings: Any) -> None:
        self.site, self.number, self.relay = site, number, Relay()
        self.directory = site.base / f"server-{number}"
        self.directory.mkdir(mode=0o700)
        self.port = free_port()
        self.settings = {
            "data_directory": str(self.directory),
            "port": self.port,
            "public_url": self.relay.url,
            "database_url": site.database_url,
            "master_key_file": str(site.base / "master.key"),
            "region_location": str(site.objects),
            "embedded_agent": False,
            "token_requests_per_second": 100_000,
            "address_requests_per_second": 100_000,
            "request_burst": 100_000,
            "log_format": "json",
            **settings,
        }
        self.plant = ""
        self.wanted = False
        self.process: subprocess.Popen[bytes] | None = None
        self._life = threading.RLock()

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def start(self) -> None:
        """Return when it is up."""
        with self._life:
            self.wanted = True
            process = self._launched()
        self._wait(process)

    def revive(self) -> None:
        """Start it where it should run and does not; it may be killed while it starts."""
        with self._life:
            if not self.wanted or self.is_up:
                return
            self.site.note(f"server {self.number} is started again")
            process = self._launched()
        self._wait(process)

    def _launched(self) -> subprocess.Popen[bytes]:
        order = {
            "settings": self.settings,
            "clock": str(self.site.clock_file),
            "plant": self.plant,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCH, json.dumps(order)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=self.site.environment, preexec_fn=die_with_parent, start_new_session=True,
            )  # fmt: skip
        return self.process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as told:
            line = told.readline()
        if line:
            self.relay.target = ("127.0.0.1", self.port)
        else:
            self.site.note(f"server {self.number} did not come up")

    def kill(self, _message: Message | None = None) -> None:
        """Kill -9; an embedded agent has to end by itself."""
        with self._life:
            self.relay.target = None
            if self.process is not None and self.process.poll() is None:
                kill([self.process.pid])
                self.process.wait()

    def stop(self) -> None:
        """Kill it, and leave it so."""
        with self._life:
            self.wanted = False
            self.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    @property
    def unexpected(self) -> list[str]:
        """Errors that nobody has foreseen, from its log: the ends of what it says of them."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[-1500:] for line in lines if '"exception"' in line or "Traceback" in line]

    @property
    def children(self) -> list[int]:
        """An agent beside it, with its jobs."""
        return below(self.process.pid) if self.process is not None and self.is_up else []

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Machine:
    """A host with an agent, and one root in which its trees lie."""

    def __init__(self, site: Site, name: str, server: Server, **settings: Any) -> None:
        self.site, self.name, self.server = site, name, server
        self.directory = site.base / name
        self.root = self.directory / "root"
        self.root.mkdir(parents=True)
        self.settings: dict[str, Any] = {
            "server": server.relay.url,
            "name": name,
            "roots": [f"/root={self.root}"],
            "workers": 1,
            "state_directory": str(self.directory / "state"),
            "cache_directory": str(self.directory / "cache"),
            "cancel_grace_seconds": 10,
            **settings,
        }
        self.host_id = self.secret = ""
        self.wanted = False
        self.process: subprocess.Popen[bytes] | None = None
        self._life = threading.RLock()

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    def enrol(self, secret: str) -> None:
        roots = tuple(parse_root(each) for each in self.settings["roots"])
        found = enrol(AgentSettings(**{**self.settings, "roots": roots}), secret)
        self.host_id, self.secret = found.host_id, found.secret

    def start(self) -> None:
        file = self.directory / "agent.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        file.write_text("\n".join(lines))
        with self._life, self.log.open("ab") as log:
            self.wanted = True
            self.process = subprocess.Popen(
                [PROGRAM, "agent", "run", "--settings", file, "--log-format", "json"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.site.environment, preexec_fn=die_with_parent, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def children(self) -> list[int]:
        """The jobs' processes, with their workers."""
        return below(self.pid) if self.is_up else []

    def scratch(self) -> list[Path]:
        """What lies where drills are restored to."""
        return sorted((self.directory / "state" / "drills").glob("*"))

    def kill(self, _message: Message | None = None) -> None:
        """Kill -9 of the agent alone; its children have to end by themselves."""
        with self._life:
            # Once it was waited for, its number may be anybody's.
            if self.process is None or self.process.poll() is not None:
                return
            children = self.children
            kill([self.process.pid])
            self.process.wait()
            eventually(
                lambda: not any(is_alive(pid) for pid in children),
                f"{children} go on without their agent",
            )

    def kill_children(self, _message: Message | None = None) -> None:
        """Kill -9 of the jobs' processes; the agent goes on."""
        with self._life:
            kill(self.children)

    def lose_power(self, _message: Message | None = None) -> None:
        """Kill -9 of everything at once."""
        with self._life:
            if self.process is not None and self.process.poll() is None:
                kill([self.process.pid, *self.children])
                self.process.wait()

    def stop(self) -> None:
        """Kill it, and leave it so."""
        with self._life:
            self.wanted = False
            self.lose_power()

    def revive(self) -> None:
        """Start it where it should run and does not."""
        with self._life:
            if self.wanted and not self.is_up:
                self.site.note(f"{self.name} is started again")
                self.start()

    def signal(self, number: signal.Signals, *, children: bool = False) -> None:
        with self._life:
            if self.is_up:
                for pid in [self.pid, *(self.children if children else ())]:
                    os.kill(pid, number)

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None
