"""Tables that only grow: the database itself refuses to change or remove their rows.

The services never try; this is for the day on which one of them is wrong. SQLite loses
triggers when a migration rebuilds a table, so a migration that touches one of these
tables calls `protect` again; it may be called at any time.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

TABLES: Final = ("audit", "ledger")

_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION holdfast_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are never changed or removed';
END
$$
"""


def protect(connection: Connection, *tables: str) -> None:
    """Forbid UPDATE and DELETE (on PostgreSQL also TRUNCATE) on these tables."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_FUNCTION)
    for table in tables:
        for statement in _statements(connection.dialect.name, table):
            connection.exec_driver_sql(statement)


def _statements(dialect: str, table: str) -> list[str]:
    if dialect == "postgresql":
        start, act = "CREATE OR REPLACE TRIGGER", "EXECUTE FUNCTION holdfast_append_only()"
        return [
            f"{start} {table}_rows BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {act}",
            f"{start} {table}_whole BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {act}",
        ]
    act = f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or removed'); END"
    return [
        f"CREATE TRIGGER IF NOT EXISTS {table}_{word} BEFORE {word} ON {table} {act}"
        for word in ("update", "delete")
    ]
