"""A column that SQLite does not look up in an index.

SQLite keeps no statistics here, so of two indexes that would do it takes the one that it
knows less good about: all of an account's rows rather than the few of one source. Whoever
writes a statement does know, and names the columns that shall not choose. PostgreSQL has
its statistics and sees the plain column. It never changes what a statement finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.visitors import InternalTraversal

_S = TypeVar("_S")
_T = TypeVar("_T")


def unindexed(column: InstrumentedAttribute[_T]) -> ColumnElement[_T]:
    """The same column for a condition that is only checked on rows found by others."""
    return _Unindexed(column)


def by_lead(
    statement: Select[_S],
    account: InstrumentedAttribute[str],
    account_id: str,
    leads: Mapping[InstrumentedAttribute[Any], str | None],
) -> tuple[Select[_S], list[ColumnElement[bool]]]:
    """Find by the first of `leads` that is given, else by the account; all have an index.

    Returns the statement, and the conditions that are left to be checked on what it finds.
    """
    given = [(column, value) for column, value in leads.items() if value is not None]
    if not given:
        return statement.where(account == account_id), []
    (lead, value), *others = given
    found = statement.where(lead == value, unindexed(account) == account_id)
    return found, [unindexed(column) == each for column, each in others]


class _Unindexed(ColumnElement[_T]):
    _traverse_internals = [("column", InternalTraversal.dp_clauseelement)]  # noqa: RUF012
    inherit_cache = True

    def __init__(self, column: InstrumentedAttribute[_T]) -> None:
        self.column = column.__clause_element__()
        self.type = column.type


@compiles(_Unindexed)
def _plain(element: _Unindexed[Any], compiler: Any, **options: Any) -> str:
    text: str = compiler.process(element.column, **options)
    return text


@compiles(_Unindexed, "sqlite")
def _signed(element: _Unindexed[Any], compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.column, **options)}"
