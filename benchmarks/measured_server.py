"""The real server in a process of its own, and how much CPU time it takes with its database.

Run as a program it is that process. It limits nobody, because one machine plays everybody,
and runs no clockwork, so that nothing but what is asked of it is measured.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from holdfast.api.app import make_app
from holdfast.control.database import Database
from holdfast.control.sealing import MasterKeys
from holdfast.edge.deployment import Deployment, Limits
from holdfast.serve import logs
from holdfast.serve.web_server import WebServer, listen

KEYS = MasterKeys([bytes(range(32))])
_UNLIMITED = Limits(address_rate=1e6, address_burst=10**6, token_rate=1e6, token_burst=10**6)


class Server:
    """A server under measurement at `url`, and the processes of its database."""

    def __init__(self, url: str, pid: int, database_pid: int | None) -> None:
        self.url = url
        self._pid = pid
        self._database_pid = database_pid

    def cpu_seconds(self) -> float:
        """CPU time so far, with that of the database where it has processes of its own."""
        pids = [self._pid]
        if self._database_pid is not None:
            pids += [self._database_pid, *_children(self._database_pid)]
        return sum(map(_cpu_seconds, pids))


@contextlib.contextmanager
def serving(work: str, database_url: str, database_pid: int | None) -> Iterator[Server]:
    """Start the server and wait until it answers; its log goes to a file in `work`."""
    port_file = os.path.join(work, "port")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(port_file)
    with open(os.path.join(work, "server.log"), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), database_url, port_file], stderr=log
        )
    try:
        while not os.path.exists(port_file):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start; see {work}/server.log")
            time.sleep(0.05)
        with open(port_file, encoding="ascii") as file:
            yield Server(file.read(), process.pid, database_pid)
    finally:
        process.terminate()
        process.wait()


def _serve(database_url: str, port_file: str) -> None:
    # Before there is any thread: all of them leave the signal to `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    logs.set_up(style="json", level="info")
    database = Database(database_url)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    deployment = Deployment(
        database,
        KEYS,
        public_url=url,
        gateway_url=url,
        version="benchmark",
        replica_id="benchmark",
        limits=_UNLIMITED,
        schema_problem=lambda _database: None,
    )
    server = WebServer(make_app(deployment), listener)
    server.start()
    with open(f"{port_file}.part", "w", encoding="ascii") as file:
        file.write(url)
    os.rename(f"{port_file}.part", port_file)
    signal.sigwait([signal.SIGTERM])
    deployment.wakeups.close()
    server.stop()
    database.close()


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(each) for each in file.read().split()]


def _cpu_seconds(pid: int) -> float:
    """Of all its threads; the usual counters go in steps of 10 ms."""
    total = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            path = f"/proc/{pid}/task/{thread}/schedstat"
            with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
                total += int(file.read().split()[0])
    return total / 1e9


if __name__ == "__main__":
    _serve(*sys.argv[1:])
