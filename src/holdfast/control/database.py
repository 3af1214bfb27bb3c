"""The database: SQLite or PostgreSQL behind the same two kinds of transaction.

A write transaction takes SQLite's one write lock at its beginning, because upgrading a
read later is what "database is locked" comes from. The threads of a process wait for it in
a queue of their own: SQLite would let each one sleep and look again, up to a tenth of a
second at a time and the unlucky ones for seconds. On PostgreSQL transactions are READ
COMMITTED, and code that decides on what it read locks the rows (`with_for_update`).
Commit is durable on both when it returns.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from holdfast.errors import DatabaseUnavailable, UsageError

Tx = Session
"""A transaction in progress; services take it as their first argument and never end it."""

_T = TypeVar("_T")
_TRIES = 4
_SQLITE_BUSY_SECONDS = 30


class Database:
    """Opens transactions. Thread-safe; one for each process."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url = _checked(url)
        self.engine = _engine(self.url, pool_size)
        writing = self.engine.execution_options(holdfast_write=True)
        self._reads = sessionmaker(self.engine, expire_on_commit=False)
        self._writes = sessionmaker(writing, expire_on_commit=False)
        self._turn = _Turn() if self.is_sqlite else nullcontext()

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that sees one state of the database and changes nothing."""
        with _translated(), self._reads() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """A transaction that is committed, durably, unless the block raises."""
        with _translated(), self._turn, self._writes() as session, session.begin():
            yield session

    def transact(self, act: Callable[[Tx], _T]) -> _T:
        """Run `act` in a write transaction; again if the database was lost or deadlocked.

        `act` must have no effect but on the transaction: a commit whose answer was lost
        may have happened, so it must also find its own work done.
        """
        for left in reversed(range(_TRIES)):
            try:
                with self.write() as tx:
                    return act(tx)
            except DatabaseUnavailable:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        self.engine.dispose()


class _Turn:
    """One write transaction of this process at a time; the others wait as long as SQLite would."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_SQLITE_BUSY_SECONDS):
            raise DatabaseUnavailable(
                f"Others were writing to the database for {_SQLITE_BUSY_SECONDS} seconds. "
                "Nothing was changed; try again."
            )

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _checked(url: str) -> str:
    try:
        parsed = make_url(url)
    except Exception as error:
        raise UsageError(
            "The database address is not one: write sqlite:////path/to/file.db or "
            "postgresql://user@host/name."
        ) from error
    if parsed.get_backend_name() == "sqlite":
        return url
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    raise UsageError(f"{parsed.drivername} is no database that Holdfast runs on; use PostgreSQL.")


def _engine(url: str, pool_size: int) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=pool_size, max_overflow=pool_size, pool_pre_ping=True)
    path = make_url(url).database
    in_memory = not path or path == ":memory:"  # one connection is then the whole database
    if path and not in_memory:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    sizes = {} if in_memory else {"pool_size": pool_size, "max_overflow": pool_size}
    connecting = {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=connecting, **sizes)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None  # BEGIN is ours to say, see below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("holdfast_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Turn a lost or busy database into `DatabaseUnavailable`; other failures are defects."""
    try:
        yield
    except OperationalError as error:
        raise DatabaseUnavailable(
            f"The database does not answer as it should ({type(error.orig).__name__}: "
            f"{str(error.orig).splitlines()[0] if str(error.orig) else 'no reason given'}). "
            "Nothing was changed; try again."
        ) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailable("The connection to the database was lost. Try again.") from error
