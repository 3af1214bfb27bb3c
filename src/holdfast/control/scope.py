"""Scope: what one who asks can see of the catalog.

Every row is looked up through here, so that what belongs to another account, or lies
outside of what a narrowed token extends to, is not found. Nothing here changes anything.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, false, or_
from sqlalchemy.orm import InstrumentedAttribute

from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Drill, Hold, Host, Restore, Schedule, Snapshot, Source, Task
from holdfast.control.unindexed import unindexed
from holdfast.errors import NotFound

_Row = TypeVar("_Row", Drill, Hold, Host, Restore, Schedule, Snapshot, Source, Task)
_Selected = TypeVar("_Selected")

_ID_LENGTH = 36
TASK = "task"


def find(tx: Tx, who: Principal, table: type[_Row], row_id: str, *, lock: bool = False) -> _Row:
    """The row with that id, locked until the transaction ends if wished; else `NotFound`."""
    # PostgreSQL refuses text with zero bytes, so what cannot be an id is not asked for.
    row = None
    if len(row_id) <= _ID_LENGTH and row_id.isascii() and row_id.isprintable():
        # NO KEY UPDATE: rows that refer to this one can be made meanwhile.
        row = tx.get(
            table,
            row_id,
            with_for_update={"key_share": True} if lock else None,
            populate_existing=lock,
        )
    if row is None or row.account_id != who.account_id or not _covers(tx, who, row):
        raise NotFound(
            f"There is no {table.__name__.lower()} {row_id[:_ID_LENGTH]!r} in this account; "
            "check the id."
        )
    return row


def covers(who: Principal, kind: str, *ids: str | None) -> bool:
    """Whether the one who asks extends to a thing of this kind with one of these ids.

    An agent extends to its own host, whatever its credential says.
    """
    if who.host_id is not None and who.host_id not in ids:
        return False
    return who.covers(kind, *ids)


def narrowed(
    statement: Select[_Selected],
    who: Principal,
    *,
    kind: InstrumentedAttribute[str] | None,
    host: InstrumentedAttribute[Any],
    ids: tuple[InstrumentedAttribute[Any], ...],
) -> Select[_Selected]:
    """Limit a statement to what the one who asks extends to; `ids` are columns besides `host`."""
    return statement.where(*narrowing(who, kind=kind, host=host, ids=ids))


def narrowing(
    who: Principal,
    *,
    kind: InstrumentedAttribute[str] | None,
    host: InstrumentedAttribute[Any],
    ids: tuple[InstrumentedAttribute[Any], ...],
) -> list[ColumnElement[bool]]:
    """The conditions of `narrowed`, for one whose list is a sieve; none where nothing is narrow."""
    conditions: list[ColumnElement[bool]] = []
    if who.kinds and kind is not None:
        conditions.append(unindexed(kind).in_(sorted(who.kinds)))
    if who.resources:
        allowed = sorted(who.resources)
        conditions.append(or_(*(unindexed(column).in_(allowed) for column in (host, *ids))))
    if who.host_id is not None:
        conditions.append(unindexed(host) == who.host_id)
    return conditions


def sees_tasks(who: Principal) -> bool:
    """Whether `who` extends to tasks at all."""
    return who.host_id is None and (not who.kinds or TASK in who.kinds)


def narrowing_tasks(who: Principal) -> list[ColumnElement[bool]]:
    """The conditions for which of its account's tasks `who` can see; none where it is all.

    A task runs on several hosts, so an agent sees none, and hosts count that were wished for.
    """
    if not sees_tasks(who):
        return [false()]
    if not who.resources:
        return []
    allowed = sorted(who.resources)
    return [or_(unindexed(Task.id).in_(allowed), unindexed(Task.runs_on).in_(allowed))]


def narrowing_drills(who: Principal) -> list[ColumnElement[bool]]:
    """The conditions for which drills `who` can see, beside their snapshots; none for all.

    Whoever sees a snapshot sees its drills, wherever they were done.
    """
    return narrowing(
        who,
        kind=Snapshot.kind,
        host=Snapshot.host_id,
        ids=(Drill.id, Drill.host_id, Snapshot.id, Snapshot.source_id, Snapshot.schedule_id),
    )


def _covers(
    tx: Tx, who: Principal, row: Drill | Hold | Host | Restore | Schedule | Snapshot | Source | Task
) -> bool:
    if not who.kinds and not who.resources and who.host_id is None:
        return True
    match row:
        case Host():
            # A host is of no kind, so a token for some kinds extends to every host.
            return covers(who, next(iter(sorted(who.kinds)), ""), row.id)
        case Source():
            return covers(who, row.kind, row.id, row.host_id)
        case Schedule():
            source = tx.get_one(Source, row.source_id)
            return covers(who, source.kind, row.id, source.id, source.host_id)
        case Snapshot():
            its = (row.id, row.source_id, row.schedule_id, row.host_id, row.copy_of_id)
            return covers(who, row.kind, *its)
        case Task():
            return who.host_id is None and who.covers(TASK, row.id, row.runs_on)
        case Hold():
            return _covers(tx, who, tx.get_one(Snapshot, row.snapshot_id))
        case Drill():
            snapshot = tx.get_one(Snapshot, row.snapshot_id)
            if _covers(tx, who, snapshot):
                return True
            return who.host_id is None and who.covers(snapshot.kind, row.id, row.host_id)
        case Restore():
            snapshot = tx.get_one(Snapshot, row.snapshot_id)
            ids = (row.id, row.host_id, snapshot.id, snapshot.source_id)
            return covers(who, snapshot.kind, *ids)
