"""The list of snapshots: filters, a search, an order, a cursor.

It reads only, and shows every row of the account that the one who asks extends to: runs
that came to nothing and snapshots that are gone are history, and are filtered by status.

Invariant: one filter leads, by an index in the order of the list, and the others are a
sieve. So no list is sorted, and a search through a large account comes in several pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, literal, or_, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from holdfast.control import scope
from holdfast.control.database import Tx
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Snapshot
from holdfast.control.unindexed import unindexed
from holdfast.errors import UsageError
from holdfast.model.caption import check_text

ORDERS: Final[dict[str, tuple[Any, ...]]] = {
    "newest": (Snapshot.created_at.desc(), Snapshot.id.desc()),
    "oldest": (Snapshot.created_at, Snapshot.id),
    "name": (Snapshot.name, Snapshot.id),
    "-name": (Snapshot.name.desc(), Snapshot.id.desc()),
    "status": (Snapshot.status, Snapshot.created_at, Snapshot.id),
}
_BY_TIME: Final = ("newest", "oldest")
_LEADING: Final = (Snapshot.copy_of_id, Snapshot.source_id, Snapshot.schedule_id, Snapshot.host_id)
"""Filters that an index by time begins with, the narrowest first."""


def snapshots(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    source_id: str | None = None,
    host_id: str | None = None,
    schedule_id: str | None = None,
    copy_of: str | None = None,
    copies: bool = False,
    status: str | Sequence[str] | None = None,
    kind: str | None = None,
    search: str | None = None,
    label: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    order: str = "newest",
) -> Page[Snapshot]:
    """Snapshots for which all that is given holds.

    A page may have fewer than there are (see `paging`). Copies are shown with `copies`, and
    those of one snapshot with `copy_of`. `search` is looked for in names,
    descriptions and labels, whatever the case of letters.
    `label` is ``key`` or ``key=value``. `since` <= made < `until`. `order` is one of
    `ORDERS`.
    """
    who.require(Right.READ)
    if order not in ORDERS:
        raise UsageError(f"There is no order {order!r}; choose {', '.join(ORDERS)}.")
    on_sqlite = tx.get_bind().dialect.name == "sqlite"
    same: dict[InstrumentedAttribute[Any], str | None] = {
        Snapshot.copy_of_id: copy_of,
        Snapshot.source_id: source_id,
        Snapshot.schedule_id: schedule_id,
        Snapshot.host_id: host_id,
        Snapshot.kind: kind,
    }
    same = {
        column: check_text(value, "filter", longest=100)
        for column, value in same.items()
        if value is not None
    }
    wanted = [status] if isinstance(status, str) else list(status or ())
    wanted = [check_text(each, "status", longest=16) for each in wanted]
    lead = next((column for column in _LEADING if column in same), None)
    statement = select(Snapshot)
    if lead is not None and order in _BY_TIME:
        statement = statement.where(
            lead == same.pop(lead), unindexed(Snapshot.account_id) == who.account_id
        )
    else:
        statement = statement.where(Snapshot.account_id == who.account_id)
        if wanted and (order == "status" or (order in _BY_TIME and len(set(wanted)) == 1)):
            statement = statement.where(Snapshot.status.in_(wanted))
            wanted = []
    sieve = [unindexed(column) == value for column, value in same.items()]
    sieve += scope.narrowing(
        who,
        kind=Snapshot.kind,
        host=Snapshot.host_id,
        ids=(Snapshot.id, Snapshot.source_id, Snapshot.schedule_id, Snapshot.copy_of_id),
    )
    if copy_of is None and not copies:
        sieve.append(unindexed(Snapshot.copy_of_id).is_(None))
    if wanted:
        sieve.append(unindexed(Snapshot.status).in_(wanted))
    spans = []
    if since is not None:
        spans.append(Snapshot.created_at >= since)
    if until is not None:
        spans.append(Snapshot.created_at < until)
    if order in _BY_TIME:
        statement = statement.where(*spans)
    else:
        sieve += spans
    if label:
        key, equals, value = check_text(label, "label", longest=400).partition("=")
        sieve.append(_has_label(key, value if equals else None, on_sqlite=on_sqlite))
    if search:
        words = check_text(search, "search", longest=200)
        sieve.append(_says(words, on_sqlite=on_sqlite))
    return page(tx, statement, order=ORDERS[order], cursor=cursor, limit=limit, sieve=sieve)


def _has_label(key: str, value: str | None, *, on_sqlite: bool) -> ColumnElement[bool]:
    if not on_sqlite:
        kept = type_coerce(Snapshot.labels, JSONB)
        return kept.has_key(key) if value is None else kept.contains({key: value})
    label = _labels(on_sqlite=on_sqlite)
    conditions = [label.c.key == key]
    if value is not None:
        conditions.append(label.c.value == value)
    return _IS_LABELLED & exists(select(label.c.key).where(*conditions))


def _says(words: str, *, on_sqlite: bool) -> ColumnElement[bool]:
    label = _labels(on_sqlite=on_sqlite)
    return or_(
        Snapshot.name.icontains(words, autoescape=True),
        Snapshot.description.icontains(words, autoescape=True),
        _IS_LABELLED
        & exists(
            select(label.c.key).where(
                or_(
                    label.c.key.icontains(words, autoescape=True),
                    label.c.value.icontains(words, autoescape=True),
                )
            )
        ),
    )


# Most snapshots are of a schedule and have no labels; taking those apart is what costs.
_IS_LABELLED: Final = Snapshot.labels != literal({}, Snapshot.labels.type)


def _labels(*, on_sqlite: bool) -> Any:
    """The labels of a row, as rows of `key` and `value`."""
    each = func.json_each if on_sqlite else func.jsonb_each_text
    return each(Snapshot.labels).table_valued("key", "value", name="label")
