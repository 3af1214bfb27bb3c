"""Mistakes around copies and drills, planted in a server; the tests here have to find each."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from control_plants import Put
from sqlalchemy import ColumnElement, select

from holdfast.control import completion, jobs, metering, recycle, run_row
from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.job_scope import any_job
from holdfast.control.tables import Job, LedgerEntry, Snapshot


def ends_of_copies_count_again(put: Put) -> None:
    """A copy's end that is repeated is carried out again, and so are its transfers booked."""
    finish, book = jobs.finish, metering.book_once

    def finish_again(tx: Tx, who: Any, job_id: str, **said: Any) -> Job:
        seen = any_job(tx, job_id)
        again = seen is not None and seen.kind == "copy" and seen.state == "succeeded"
        job = finish(tx, who, job_id, **said)
        if again:
            completion.complete(tx, job, Report(said["result"], ()), now=said["now"])
        return job

    def book_again(tx: Tx, *, what: str, resource_id: str, **more: Any) -> LedgerEntry | None:
        found = select(LedgerEntry).where(
            LedgerEntry.resource_id == resource_id, LedgerEntry.what == what
        )
        if tx.scalars(found).first() is not None:
            resource_id = str(uuid4())
        return book(tx, what=what, resource_id=resource_id, **more)

    put(jobs, "finish", finish_again)
    put(metering, "book_once", book_again)


def what_is_read_is_purged(put: Put) -> None:
    """Nobody asks whether what is removed is being copied, drilled or restored."""

    def due(now: datetime) -> tuple[ColumnElement[bool], ...]:
        return (
            Snapshot.purge_at <= now,
            Snapshot.purged_at.is_(None),
            Snapshot.status.in_(run_row.REMOVED),
        )

    put(recycle, "_due", due)


def both(put: Put) -> None:
    ends_of_copies_count_again(put)
    what_is_read_is_purged(put)
