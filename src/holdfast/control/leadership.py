"""Leadership: which replica does what only one should do at a time.

A row with a holder and a time until which it holds. Invariant: while a transaction that has
called `hold` with success is open, no other replica becomes leader, because the row is
locked; after it, none does before `until`. Clocks of replicas may differ by less than the
term without harm. Where a leader's time is further away than that, its clock was wrong or
has been put back since, and nobody waits for it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError

from holdfast.control.database import Tx
from holdfast.control.tables import Leadership


def hold(tx: Tx, name: str, holder: str, *, seconds: float, now: datetime) -> bool:
    """Become leader, or stay it, for another term; False where another replica is."""
    row = _row(tx, name)
    until = now + timedelta(seconds=seconds)
    if row is None:
        try:
            with tx.begin_nested():
                tx.add(Leadership(name=name, holder=holder, until=until))
        except IntegrityError:
            return False  # another replica was faster
        return True
    # No clock that is right gives out a term that ends later than this.
    latest = until + timedelta(seconds=seconds)
    if row.holder != holder and now < row.until <= latest:
        return False
    stays = row.holder == holder and row.until <= latest
    row.until = max(until, row.until) if stays else until
    row.holder = holder
    tx.flush()
    return True


def release(tx: Tx, name: str, holder: str, *, now: datetime) -> None:
    """Let another replica lead at once; nothing happens where one does already."""
    row = _row(tx, name)
    if row is not None and row.holder == holder:
        row.until = min(row.until, now)


def _row(tx: Tx, name: str) -> Leadership | None:
    return tx.get(Leadership, name, with_for_update=True, populate_existing=True)
