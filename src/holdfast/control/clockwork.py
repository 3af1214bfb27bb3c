"""Clockwork: everything that happens because time has passed, one step after the other.

Replicas may all run it; one leads and does the work, the others find that out and rest.
Each step is a unit of its own: what it does is committed when the next one fails, and one
that fails is logged, does not stop the others, and is tried again in its turn. All steps
find their work in the database, so none is lost when nobody ran them for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from holdfast.control import (
    buckets,
    copy_follow,
    copy_policy,
    credit,
    drills,
    due,
    hosts,
    idempotency,
    job_end,
    leadership,
    metering,
    recycle,
    sign_in,
    task_place,
    task_snapshots,
    upkeep,
    uploads,
)
from holdfast.control.database import Database, Tx
from holdfast.control.sealing import MasterKeys
from holdfast.errors import DatabaseUnavailable

NAME: Final = "clockwork"
TERM_SECONDS: Final = 60.0
"""How long a leader that dies is waited for."""

_MAX_ROUNDS: Final = 1000
_log = structlog.get_logger(__name__)


class LeadershipLost(Exception):
    """Another replica leads by now; never leaves `Clockwork.tick`."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What a step works with: `now` is the tick's, `transact` fenced by leadership."""

    database: Database
    keys: MasterKeys
    now: datetime
    awake_seconds: float
    """How long this process has been ticking without a gap, so that it could hear hosts."""
    transact: Callable[[Callable[[Tx], int]], int]

    def repeat(self, act: Callable[[Tx], int]) -> int:
        """Run `act` in one transaction after the other until it finds nothing more."""
        total = 0
        for _ in range(_MAX_ROUNDS):
            done = self.transact(act)
            if not done:
                break
            total += done
        return total


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that time brings about; `act` returns how much there was to do."""

    name: str
    every_seconds: float
    act: Callable[[Shift], int]


def _note_silence(shift: Shift) -> int:
    # Right after a start every host looks silent: nobody was there to hear it.
    if shift.awake_seconds < hosts.SILENT_AFTER_SECONDS:
        return 0
    return shift.repeat(lambda tx: hosts.note_silence(tx, now=shift.now))


def _follow_and_copy(shift: Shift) -> int:
    gone = copy_follow.follow(shift.database, now=shift.now)
    return gone + copy_policy.plan_missing(shift.database, shift.keys, now=shift.now)


STEPS: Final = (
    Step("due", 5, lambda shift: due.settle_due(shift.database, shift.keys, now=shift.now)),
    Step(
        "leases",
        5,
        lambda shift: shift.repeat(lambda tx: job_end.expire_leases(tx, now=shift.now)),
    ),
    Step("silence", 10, _note_silence),
    Step(
        "tasks",
        5,
        lambda shift: shift.transact(lambda tx: _count(task_place.place_waiting, tx, shift)),
    ),
    Step("recycle", 60, lambda shift: recycle.purge_due(shift.database, now=shift.now)),
    Step("copies", 60, _follow_and_copy),
    Step("drills", 60, lambda shift: drills.plan_due(shift.database, now=shift.now)),
    Step("upkeep", 60, lambda shift: upkeep.plan(shift.database, now=shift.now)),
    Step(
        "uploads",
        600,
        lambda shift: shift.repeat(lambda tx: uploads.abort_old(tx, now=shift.now)),
    ),
    # Before the hours: one that is booked has what was stored at its beginning.
    Step(
        "buckets",
        60,
        lambda shift: shift.repeat(lambda tx: buckets.meter(tx, now=shift.now)),
    ),
    Step(
        "hours",
        60,
        lambda shift: shift.repeat(lambda tx: metering.book_hours(tx, now=shift.now)),
    ),
    Step(
        "credit",
        60,
        lambda shift: shift.transact(lambda tx: _count(credit.update_states, tx, shift)),
    ),
    Step(
        "idempotency",
        3600,
        lambda shift: shift.transact(lambda tx: _count(idempotency.forget_old, tx, shift)),
    ),
    Step(
        "previews",
        3600,
        lambda shift: shift.transact(lambda tx: _count(task_snapshots.forget_previews, tx, shift)),
    ),
    Step(
        "sign-ins",
        3600,
        lambda shift: shift.transact(lambda tx: _count(sign_in.forget_old, tx, shift)),
    ),
)


class Clockwork:
    """Ticks for one replica; not thread-safe. `steps` are all of them unless given."""

    def __init__(
        self,
        database: Database,
        keys: MasterKeys,
        *,
        replica_id: str,
        steps: Sequence[Step] = STEPS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._replica_id = replica_id
        self._steps = steps
        self._monotonic = monotonic
        self._done_at: dict[str, datetime] = {}
        self._awake_since: datetime | None = None
        self._ticked_at: datetime | None = None

    def tick(self, now: datetime) -> None:
        """Do everything that is due, if this replica leads; returns when it is done.

        Call it every few seconds. A failure of the database is logged like any other.
        """
        self._note_awake(now)
        begun = self._monotonic()

        def moment() -> datetime:
            return now + timedelta(seconds=self._monotonic() - begun)

        try:
            for step in self._steps:
                last = self._done_at.get(step.name)
                if last is not None and last <= now < last + timedelta(seconds=step.every_seconds):
                    continue
                self._do(step, now, moment)
        except LeadershipLost:
            # Whoever leads now does them; this one begins afresh when it leads again.
            self._done_at.clear()

    def resign(self, now: datetime) -> None:
        """Let another replica go on at once; for a process that ends."""
        self._done_at.clear()
        try:
            self._database.transact(
                lambda tx: leadership.release(tx, NAME, self._replica_id, now=now)
            )
        except Exception:
            _log.exception("clockwork_not_resigned", replica_id=self._replica_id)

    def _do(self, step: Step, now: datetime, moment: Callable[[], datetime]) -> None:
        def transact(act: Callable[[Tx], int]) -> int:
            def fenced(tx: Tx) -> int:
                self._lead(tx, moment())
                return act(tx)

            return self._database.transact(fenced)

        awake = timedelta() if self._awake_since is None else now - self._awake_since
        shift = Shift(self._database, self._keys, now, awake.total_seconds(), transact)
        begun = self._monotonic()
        try:
            # Once before each, for steps that open transactions of their own.
            self._database.transact(lambda tx: self._lead(tx, moment()))
            self._done_at[step.name] = now
            done = step.act(shift)
        except LeadershipLost:
            raise
        except DatabaseUnavailable as error:
            # Nothing that anybody has to mend here; where it was asked for is of no interest.
            _log.warning("clockwork_step_failed", step=step.name, error=error.message)
            return
        except Exception:
            _log.exception("clockwork_step_failed", step=step.name)
            return
        if done:
            seconds = round(self._monotonic() - begun, 3)
            _log.info("clockwork_step", step=step.name, done=done, seconds=seconds)

    def _lead(self, tx: Tx, at: datetime) -> None:
        if not leadership.hold(tx, NAME, self._replica_id, seconds=TERM_SECONDS, now=at):
            raise LeadershipLost

    def _note_awake(self, now: datetime) -> None:
        gap = timedelta(seconds=hosts.HEARTBEAT_SECONDS)
        last = self._ticked_at
        if self._awake_since is None or last is None or not timedelta() <= now - last <= gap:
            self._awake_since = now
        self._ticked_at = now


def _count(act: Callable[..., int | None], tx: Tx, shift: Shift) -> int:
    return act(tx, now=shift.now) or 0
