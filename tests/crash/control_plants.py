"""Mistakes that are planted in a server, which the tests here have to find.

Each takes how an attribute is put in the place of another: `setattr` in a process of its own,
or a fixture's that takes it back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from holdfast.control import completion, due, job_end, job_report, metering, upkeep
from holdfast.control.database import Database, Tx
from holdfast.control.job_scope import any_job
from holdfast.control.tables import Account, Job, Meter
from holdfast.store.local import LocalStore
from holdfast.store.protocol import Buffer

LATE_SECONDS = 1.0
Put = Callable[[Any, str, Any], None]


def attempts_not_told_apart(put: Put) -> None:
    """Whoever reports the end of a job that is leased ends it."""

    def held(tx: Tx, who: object, job_id: str, attempt: int) -> Job | None:
        return any_job(tx, job_id, lock=True)

    put(job_report, "_held", held)


def ends_acknowledged_too_early(put: Put) -> None:
    """An agent is told that its end was taken, which is committed a moment later."""
    transact = Database.transact

    def promise(self: Database, act: Callable[[Tx], Any]) -> Any:
        if "finish_job" not in act.__qualname__:
            return transact(self, act)
        with self._writes() as session:
            answer = act(session)
            session.rollback()
        threading.Timer(LATE_SECONDS, lambda: transact(self, act)).start()
        return answer

    put(Database, "transact", promise)


def objects_acknowledged_too_early(put: Put) -> None:
    """A client is told that its pack was stored, which happens a moment later."""
    create = LocalStore.create

    def create_late(self: LocalStore, key: str, data: Buffer) -> None:
        if not key.startswith("data/"):
            create(self, key, data)
            return
        kept = bytes(data)
        threading.Timer(LATE_SECONDS, lambda: create(self, key, kept)).start()

    put(LocalStore, "create", create_late)


def strangers_are_left(put: Put) -> None:
    """A reconciliation finds nobody old enough."""
    put(upkeep, "_STRANGER", timedelta(days=1000))


def missed_slots_are_not_told(put: Put) -> None:
    put(due._Settlement, "_tell_missed", lambda *_: None)


def missed_slots_have_no_rows(put: Put) -> None:
    put(due._Settlement, "_skip", lambda *_: "")


def ends_are_not_written_down(put: Put) -> None:
    put(job_end, "_write_down", lambda *_, **__: None)


def runs_are_left_when_their_job_fails(put: Put) -> None:
    """A job that nobody took is ended, and its run waits for ever."""
    put(completion, "abandon", lambda *_, **__: None)


def hours_are_booked_without_the_balance(put: Put) -> None:
    book = metering.book_hours

    def book_and_forget(tx: Tx, **more: Any) -> int:
        done = book(tx, **more)
        tx.execute(update(Account).values(balance_micro=0))
        return done

    put(metering, "book_hours", book_and_forget)


def hours_are_forgotten(put: Put) -> None:
    """A meter moves on by an hour that was not booked."""
    book = metering.book_hours

    def book_some(tx: Tx, *, now: datetime, **more: Any) -> int:
        for meter in tx.scalars(select(Meter).where(Meter.until.is_(None))):
            if meter.booked_until + timedelta(hours=2) < now:
                meter.booked_until += timedelta(hours=1)
        tx.flush()
        return book(tx, now=now, **more)

    put(metering, "book_hours", book_some)
