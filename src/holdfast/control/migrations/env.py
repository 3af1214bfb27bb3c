"""What Alembic runs for each command: everything happens on the connection that is given.

The transaction and its lock belong to `holdfast.control.migrate`, which starts this.
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import JSON, BigInteger

from holdfast.control.tables import Base
from holdfast.control.tables.base import UtcTime


def rendered(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """A step says what the database has, by the names that the template gives to it."""
    if kind == "type":
        if isinstance(item, UtcTime):
            return "TIME"
        if isinstance(item, JSON):
            return "DOCUMENT"
        if isinstance(item, BigInteger) and "sqlite" in item._variant_mapping:
            return "COUNTER"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    render_item=rendered,
)
with context.begin_transaction():
    context.run_migrations()
