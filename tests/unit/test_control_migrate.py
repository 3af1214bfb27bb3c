"""Migrations: they make exactly the tables that there are, once, whoever starts when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from control_database import make_tables
from control_world import World
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from holdfast.control import append_only, migrate
from holdfast.control.database import Database
from holdfast.control.tables import Base
from holdfast.errors import NewerVersion


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url)
    yield database
    database.close()


def test_an_empty_database_is_brought_up_to_date(empty: Database) -> None:
    assert not migrate.is_current(empty)
    problem = migrate.schema_problem(empty)
    assert problem is not None
    assert "start one server" in problem
    migrate.upgrade(empty)
    assert migrate.is_current(empty)
    assert migrate.schema_problem(empty) is None
    migrate.upgrade(empty)
    assert migrate.is_current(empty)


def test_the_migrated_schema_is_that_of_the_tables(empty: Database) -> None:
    migrate.upgrade(empty)
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrated_schema_is_the_same_in_every_detail(empty: Database) -> None:
    """The comparison above knows nothing of, say, conditions of partial indexes."""
    make_tables(empty.url)
    wanted = described(empty.engine), triggers(empty)
    with empty.engine.begin() as connection:
        Base.metadata.drop_all(connection)
    migrate.upgrade(empty)
    schema, protection = wanted
    assert triggers(empty) == protection
    for table, found in described(empty.engine).items():
        assert found == schema.pop(table)
    assert schema == {}


def described(engine: Engine) -> dict[str, Any]:
    found = inspect(engine)
    return {
        table: {
            "columns": [
                (each["name"], str(each["type"]), each["nullable"], each["default"])
                for each in found.get_columns(table)
            ],
            "key": found.get_pk_constraint(table),
            "unique": sorted(map(str, found.get_unique_constraints(table))),
            "foreign": sorted(map(str, found.get_foreign_keys(table))),
            "indexes": sorted(
                f"{each['name']} {each['column_names']} {each['unique']} "
                f"{ {name: str(value) for name, value in each['dialect_options'].items()} }"
                for each in found.get_indexes(table)
            ),
            "checks": sorted(map(str, found.get_check_constraints(table))),
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def triggers(database: Database) -> list[tuple[str, ...]]:
    query = (
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 1"
        if database.is_sqlite
        else "SELECT tgname, tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger "
        "WHERE NOT tgisinternal ORDER BY 1"
    )
    with database.read() as tx:
        found = [tuple(row) for row in tx.execute(text(query))]
    assert {row[1] for row in found} == set(append_only.TABLES)
    return found


def test_i3_several_replicas_may_start_at_once(empty_database_url: str) -> None:
    replicas = [Database(empty_database_url) for _ in range(4)]
    together = threading.Barrier(len(replicas), timeout=60)
    failed: list[BaseException] = []

    def start(replica: Database) -> None:
        together.wait()
        try:
            migrate.upgrade(replica)
            assert migrate.is_current(replica)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for replica in replicas:
        replica.close()
    assert failed == []


def test_a_newer_schema_is_refused(empty: Database) -> None:
    migrate.upgrade(empty)
    with empty.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not migrate.is_current(empty)
    assert "newer version" in str(migrate.schema_problem(empty))
    with pytest.raises(NewerVersion, match="9999"):
        migrate.upgrade(empty)


def test_a_step_that_fails_leaves_the_schema_as_it_was(empty: Database) -> None:
    with empty.write() as tx:
        tx.execute(text("CREATE TABLE jobs (id TEXT)"))
    with pytest.raises(DBAPIError):
        migrate.upgrade(empty)
    assert inspect(empty.engine).get_table_names() == ["jobs"]
    assert not migrate.is_current(empty)


def test_foreign_keys_are_on_again_after_an_upgrade(empty: Database) -> None:
    migrate.upgrade(empty)
    world = World(empty)
    with pytest.raises(IntegrityError):
        world.add_account("x", region_id="none")


def test_a_database_made_from_the_tables_is_what_tests_use(empty_database_url: str) -> None:
    make_tables(empty_database_url)
    database = Database(empty_database_url)
    assert set(inspect(database.engine).get_table_names()) == set(Base.metadata.tables)
    database.close()
