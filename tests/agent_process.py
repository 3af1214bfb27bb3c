"""A real agent in a process of its own, between a control plane and a gateway under test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from control_server import CREDENTIAL, HOST_ID, ControlServer, KeptJob, controlling
from gateway_server import Served, served
from sample_repository import CHEAP, PASSWORD

from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

_RUN = """
import json, os, sys
from holdfast.agent import AgentSettings, parse_root, run
from holdfast.errors import HoldfastError
order = json.loads(sys.argv[1])
order["roots"] = tuple(parse_root(each) for each in order.get("roots", ()))
try:
    sys.exit(run(AgentSettings(**order)))
except HoldfastError as error:
    print(error.message)
    sys.exit(error.exit_status)
"""


class Site:
    """A control plane, a gateway with one repository, and agents on a state directory."""

    def __init__(self, base: Path, control: ControlServer, gateway: Served) -> None:
        self.base, self.control, self.gateway = base, control, gateway
        self.root = base / "root"
        self.root.mkdir()
        self.state = base / "state"
        self.settings: dict[str, Any] = {
            "server": control.url,
            "name": "gpu-7",
            "roots": [f"/root={self.root}"],
            "workers": 1,
            "state_directory": str(self.state),
            "cache_directory": str(base / "cache"),
            "cancel_grace_seconds": 10,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = base / "agent.log"

    @property
    def store(self) -> LocalStore:
        return LocalStore(str(self.base / "repository" / "repositories" / "repo"))

    def repository(self) -> Repository:
        return Repository.open(self.store, PASSWORD)

    def make_repository(self) -> Repository:
        """Made here with a cheap key, so that opening it takes no time."""
        return Repository.create(self.store, PASSWORD, scrypt=CHEAP)

    def place(self) -> dict[str, Any]:
        """The repository as a claim's answer has it."""
        return {"id": "repo", "url": f"{self.gateway.url}/restic/repo/", "password": PASSWORD}

    def add(self, kind: str, **spec: Any) -> KeptJob:
        return self.control.add(kind, spec, self.place())

    def add_backup(self, path: str = "/root", **more: Any) -> KeptJob:
        spec = {"snapshot_id": "s-1", "path": path, "options": {}, "put_only": False, **more}
        return self.add("backup", **spec)

    def enrol(self, secret: str = CREDENTIAL, **more: Any) -> None:
        """As an enrolment would leave the machine."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        document = {"host_id": HOST_ID, "credential": secret, "server": self.control.url, **more}
        path = self.state / "credential"
        path.write_text(json.dumps(document))
        path.chmod(0o600)

    def start(self, **more: Any) -> subprocess.Popen[bytes]:
        order = json.dumps({**self.settings, **more})
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _RUN, order], stdout=log, stderr=log, env=self._environment()
            )
        self.processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        names = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
        return {name: os.environ[name] for name in names if name in os.environ}

    def children(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The jobs' processes of an agent."""
        return _children(process.pid)

    def wait_for_child(self, process: subprocess.Popen[bytes], seconds: float = 60) -> int:
        deadline = time.monotonic() + seconds
        while not (found := self.children(process)):
            assert time.monotonic() < deadline, self.log.read_text()
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        return found[0]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(each) for each in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {[p for p in pids if is_alive(p)]}"
        time.sleep(0.02)


def with_workers(pid: int) -> list[int]:
    """A child, and everything below it."""
    try:
        below = _children(pid)
    except OSError:
        return [pid]
    return [pid, *(each for child in below for each in with_workers(child))]


@contextmanager
def site(base: Path, lease_seconds: float = 60.0) -> Iterator[Site]:
    """Everything running but an agent; what was started is ended."""
    with ExitStack() as stack:
        control = stack.enter_context(controlling(lease_seconds))
        gateway = stack.enter_context(served(base / "repository"))
        made = Site(base, control, gateway)
        stack.callback(made.close)
        made.enrol()
        yield made
