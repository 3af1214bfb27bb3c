"""Bringing the database's schema up to date, also when several replicas start at once.

All steps are taken in one transaction under a lock, so a schema is either as it was or up
to date, and the replica that comes second finds nothing to do. There is no way back: what
a newer version wrote, an older one refuses to work with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from holdfast.control.database import Database
from holdfast.errors import NewerVersion

_STEPS: Final = os.path.join(os.path.dirname(__file__), "migrations")
_LOCK_ID: Final = 0x686F6C6466617374  # "holdfast"
_ONE_AT_A_TIME: Final = threading.Lock()  # Alembic works through globals


def upgrade(database: Database) -> None:
    """Take all steps that are left; `NewerVersion` where the schema has steps not known here."""
    with _ONE_AT_A_TIME, _alone(database) as connection:
        if _left(connection):
            command.upgrade(_config(connection), "head")


def is_current(database: Database) -> bool:
    """Whether the schema is the one that this version works with."""
    return schema_problem(database) is None


def schema_problem(database: Database) -> str | None:
    """What is wrong with the database's schema and what to do; None where it is right."""
    with database.read() as tx:
        try:
            left = _left(tx.connection())
        except NewerVersion as error:
            return error.message
    if not left:
        return None
    return (
        f"The database lacks {len(left)} steps of its schema, up to {left[-1]}; start one server "
        "that may change the schema, or wait until it has."
    )


def draft(database: Database, message: str) -> str:
    """Write the step from an up-to-date database to today's tables; the path of its file.

    For those who change tables. What it writes needs to be read, and tested on both
    databases.
    """
    with _ONE_AT_A_TIME, _alone(database) as connection:
        step = command.revision(
            _config(connection),
            message,
            autogenerate=True,
            rev_id=f"{len(_known()) + 1:04d}",
        )
    assert step is not None
    assert not isinstance(step, list)
    return step.path


def _left(connection: Connection) -> list[str]:
    """The steps that the schema lacks, oldest first."""
    known = _known()
    taken = MigrationContext.configure(connection).get_current_revision()
    if taken is None:
        return known
    if taken not in known:
        raise NewerVersion(
            f"The database's schema is at step {taken}, and this version of Holdfast knows those "
            f"up to {known[-1] if known else 'none'}: a newer version has been at work. Start "
            "that version, or restore the database from before."
        )
    return known[known.index(taken) + 1 :]


def _known() -> list[str]:
    scripts = ScriptDirectory(_STEPS)
    return [each.revision for each in reversed(list(scripts.walk_revisions()))]


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", _STEPS.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction beside which nobody else changes the schema."""
    writing = database.engine.execution_options(holdfast_write=True)
    with writing.connect() as connection:
        if not database.is_sqlite:
            with connection.begin():
                connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
                yield connection
            return
        # SQLite's write lock is the lock. Rebuilding a table drops it under its own name,
        # which foreign keys would refuse; they can only be switched outside a transaction.
        sqlite = connection.connection.cursor()
        sqlite.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                assert broken is None, f"the steps broke a foreign key: {broken}"
        finally:
            sqlite.execute("PRAGMA foreign_keys=ON")
            sqlite.close()
