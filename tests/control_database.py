"""Real databases for tests of the control plane: SQLite and PostgreSQL.

The fixture `database` gives each test a fresh `Database` with all tables, once on each. The
cluster belongs to the test process: it lies in a temporary directory, is reached through a
socket there, waits for no disk, and dies with the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.control import append_only
from holdfast.control.database import Database
from holdfast.control.tables import Base

PACKAGES = "postgresql"
START_SECONDS = 60

_PR_SET_PDEATHSIG = 1

_DISCONNECT_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# As a replica, because triggers forbid it to others.
_REMOVE_ROWS = """
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        PERFORM setval(quote_ident(name), 1, false);
    END LOOP;
END $$
"""
_SCHEMA = """
SELECT 'c', relname, count(*) FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped GROUP BY relname
UNION SELECT 't', tgname, tgenabled::int FROM pg_trigger WHERE NOT tgisinternal
UNION SELECT 'k', conname, 0 FROM pg_constraint
WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""


class Cluster:
    """A running PostgreSQL server with an empty database as the template of others."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self.directory = directory
        self._programs = programs
        self._as_user = _unprivileged()
        self._server: subprocess.Popen[bytes] | None = None
        self._schema: list[Any] = []
        self._reused: str | None = None

    def start(self) -> None:
        if self._as_user:
            shutil.chown(self.directory, self._as_user["user"], self._as_user["group"])
        data = self.directory / "data"
        subprocess.run(
            [self._programs / "initdb", "-D", data, "-U", "holdfast", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync", "--no-instructions"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as_user,
        )  # fmt: skip
        self._launch()
        self._wait()
        self._make_template()

    def _launch(self) -> None:
        settings = [
            "listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off",
            "shared_buffers=64MB", "max_connections=200", "autovacuum=off", "wal_level=minimal",
            "max_wal_senders=0", "timezone=Asia/Kolkata", "log_min_messages=fatal",
        ]  # fmt: skip
        with (self.directory / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self.directory / "data", "-k", self.directory,
                 *(part for setting in settings for part in ("-c", setting))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                preexec_fn=_die_with_parent, **self._as_user,
            )  # fmt: skip

    def restart(self, seconds_down: float = 0.0) -> None:
        """Stop at once, as with ``-m immediate``, and start again; connections are lost.

        What was committed without waiting for the log may be lost, too; a database keeps it
        where ``synchronous_commit`` was set for it.
        """
        self.stop()
        time.sleep(seconds_down)
        self._launch()
        self._wait()

    def url(self, name: str) -> str:
        return f"postgresql://holdfast@/{name}?host={self.directory}"

    def sql(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @contextlib.contextmanager
    def fresh(self, template: str = "holdfast_template") -> Iterator[str]:
        """The address of a new database, which is removed afterwards."""
        name = self._create(template)
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def emptied(self) -> Iterator[str]:
        """The address of a database with all tables and no rows.

        It is the same one again and again, because making one takes a quarter of a second;
        a test that changed the schema leaves it to be thrown away.
        """
        name = self._reused or self._create("holdfast_template")
        self._reused = None
        try:
            yield self.url(name)
        finally:
            with psycopg.connect(self.url(name), autocommit=True) as connection:
                connection.execute(_DISCONNECT_OTHERS)
                connection.execute(_REMOVE_ROWS)
                as_made = self._schema_of(connection) == self._schema
            if as_made:
                self._reused = name
            else:
                self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _create(self, template: str) -> str:
        name = f"t{uuid.uuid4().hex}"
        self.sql(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return name

    @staticmethod
    def _schema_of(connection: psycopg.Connection[Any]) -> list[Any]:
        return connection.execute(_SCHEMA).fetchall()

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)  # at once; nothing in it is kept
            self._server.wait()

    def _wait(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    tail = (self.directory / "log").read_text(errors="replace")[-4000:]
                    raise RuntimeError(f"PostgreSQL did not start:\n{tail}") from None
                time.sleep(0.02)
            else:
                return

    def _make_template(self) -> None:
        self.sql("CREATE DATABASE holdfast_template")
        make_tables(self.url("holdfast_template"))
        with psycopg.connect(self.url("holdfast_template")) as connection:
            self._schema = self._schema_of(connection)


def make_tables(url: str) -> None:
    """Create all tables as `tables` describes them; migrations are tested against this."""
    database = Database(url)
    try:
        with database.engine.begin() as connection:
            Base.metadata.create_all(connection)
            append_only.protect(connection, *append_only.TABLES)
    finally:
        database.close()


def _unprivileged() -> dict[str, Any]:
    """Whom the server runs as: PostgreSQL refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no user 'postgres' or 'nobody' to run PostgreSQL as")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


def _programs() -> Path | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if found:
        return Path(found[-1]).parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).parent if elsewhere else None


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[Cluster]:
    """One cluster for all tests of this process."""
    programs = _programs()
    if programs is None:
        reason = f"no PostgreSQL server: apt-get install {PACKAGES}"
        if os.environ.get("CI") or os.environ.get("HOLDFAST_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    # A socket's path may have 107 characters, which pytest's own directories exceed.
    directory = Path(tempfile.mkdtemp(prefix="hfpg-", dir="/tmp"))
    cluster = Cluster(programs, directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database with all tables and no rows."""
    if request.param == "sqlite":
        path = tmp_path / "control.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        with request.getfixturevalue("postgresql_cluster").emptied() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database in which there is nothing yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with request.getfixturevalue("postgresql_cluster").fresh("template0") as url:
            yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with all tables and no rows, once as SQLite and once as PostgreSQL."""
    opened = Database(database_url)
    try:
        yield opened
    finally:
        opened.close()
