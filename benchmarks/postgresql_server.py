"""A PostgreSQL server for a benchmark: its own cluster, in a directory, behind a socket.

The settings are those of a fresh installation; commits wait for the disk. Its directory can
be started again another time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psycopg

_START_SECONDS = 120


def programs() -> str | None:
    """The directory of the newest installed server's programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    return os.path.dirname(path) if path else None


class Server:
    """A running server. `pid` is its first process; the others are its children."""

    def __init__(self, socket_directory: str, pid: int) -> None:
        self.pid = pid
        self._socket_directory = socket_directory

    def url(self, name: str) -> str:
        return f"postgresql://holdfast@/{name}?host={self._socket_directory}"

    def sql(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def running(binaries: str, directory: str) -> Iterator[Server]:
    """Start the cluster in `directory`, which is made where it is not there yet."""
    who = _unprivileged()
    data = os.path.join(directory, "data")
    # A socket's path may have 107 characters.
    socket_directory = tempfile.mkdtemp(prefix="hfbench-", dir="/tmp")
    os.makedirs(directory, exist_ok=True)
    for each in (directory, socket_directory):
        if who:
            shutil.chown(each, who["user"], who["group"])
    if not os.path.exists(os.path.join(data, "PG_VERSION")):
        subprocess.run(
            [f"{binaries}/initdb", "-D", data, "-U", "holdfast", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-instructions"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **who,
        )  # fmt: skip
    log_path = os.path.join(directory, "log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [f"{binaries}/postgres", "-D", data, "-k", socket_directory, "-c", "listen_addresses="],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **who,
        )  # fmt: skip
    try:
        server = Server(socket_directory, process.pid)
        _wait(server, process, log_path)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(socket_directory, ignore_errors=True)


def _wait(server: Server, process: subprocess.Popen[bytes], log_path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.sql("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"PostgreSQL did not start; see {log_path}") from None
            time.sleep(0.05)
        else:
            return


def _unprivileged() -> dict[str, Any]:
    """Whom the server runs as: PostgreSQL refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise SystemExit("there is no user 'postgres' or 'nobody' to run PostgreSQL as")
