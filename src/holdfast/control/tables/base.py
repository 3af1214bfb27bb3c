"""What all tables share: the base class, ids, and types that mean the same on both databases.

An id is a random UUID, so that it cannot be guessed; order comes from times and sequence
numbers, never from ids. Times are aware, UTC, to the microsecond. Bytes and amounts of
money are 64-bit integers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeDecorator

# Names of constraints are fixed, because a migration can only change what it can name.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """An aware time; kept as UTC, also where the database knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a time without a time zone"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON document."""

# SQLite counts up by itself only in a column declared as INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

Id = Annotated[str, mapped_column(String(36))]
NewId = Annotated[str, mapped_column(String(36), primary_key=True, default=lambda: str(uuid4()))]
Time = Annotated[datetime, mapped_column(UtcTime)]
Number = Annotated[int, mapped_column(BigInteger)]
Json = Annotated[dict[str, Any], mapped_column(Document)]
JsonList = Annotated[list[Any], mapped_column(Document)]


class Base(DeclarativeBase):
    """The registry of all tables."""

    metadata = MetaData(naming_convention=NAMING)
