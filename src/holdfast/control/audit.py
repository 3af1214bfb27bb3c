"""The audit log: who changed what, from where, and what it was before and after.

Entries are written in the transaction of the change itself, so there is none without the
other. They are never changed or removed, and never hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import select

from holdfast.control.database import Tx
from holdfast.control.paging import Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import AuditEntry, Base

_SECRET: Final = re.compile(r"password|secret|sealed|credential|cookie|authorization|_hash\b", re.I)


def record(
    tx: Tx,
    who: Principal,
    action: str,
    subject_kind: str,
    subject_id: str,
    *,
    now: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Note one change in the account of `who`.

    Where both states are given only the members that differ are kept. Members whose name
    says that they are secret are dropped, at any depth.
    """
    old, new = _plain(before), _plain(after)
    if old is not None and new is not None:
        differing = {
            name for name in old.keys() | new.keys() if old.get(name, ...) != new.get(name, ...)
        }
        old = {name: value for name, value in old.items() if name in differing}
        new = {name: value for name, value in new.items() if name in differing}
    tx.add(
        AuditEntry(
            account_id=who.account_id,
            at=now,
            actor_kind=who.kind,
            actor_id=who.id[:120],
            address=who.address[:64],
            request_id=who.request_id[:64],
            action=action,
            subject_kind=subject_kind,
            subject_id=subject_id,
            before=old,
            after=new,
        )
    )


def state_of(row: Base, *names: str) -> dict[str, Any]:
    """Some columns of a row, as `before` or `after`."""
    return {name: getattr(row, name) for name in names}


def entries(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None,
    limit: int,
    subject_id: str | None = None,
    action: str | None = None,
) -> Page[AuditEntry]:
    """What was changed in the account, newest first."""
    who.require_everywhere(Right.ADMINISTER)
    statement = select(AuditEntry).where(AuditEntry.account_id == who.account_id)
    if subject_id is not None:
        statement = statement.where(AuditEntry.subject_id == subject_id)
    sieve = [] if action is None else [AuditEntry.action == action]
    order = [AuditEntry.id.desc()]
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def _plain(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if state is None else _value(state)


def _value(value: Any) -> Any:
    """The same as a JSON document without its secrets."""
    if isinstance(value, Mapping):
        return {
            str(name): _value(each) for name, each in value.items() if not _SECRET.search(str(name))
        }
    if isinstance(value, set | frozenset):
        return sorted(_value(each) for each in value)
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
