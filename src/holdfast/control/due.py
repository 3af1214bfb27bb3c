"""Due slots: every slot of every schedule gets its one row in `snapshots`.

A slot is a run, or SKIPPED with a finding that says why. Slots that passed while nobody
looked are SKIPPED and caught up by one run. A run that no agent took before the next slot
becomes SKIPPED, and the next one takes its place; a run that is still going on makes the
next slot SKIPPED.

Two replicas may do this at once: a schedule's row is locked, and `settled_until` and
`due_at` move on in the transaction that writes the slots. Locks are taken in the order
account, schedule, job, snapshot, and nobody waits for a job that somebody else has locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import insert, or_, select

from holdfast.control import backup_run, events, job_end
from holdfast.control.backup_run import CATCH_UP, SCHEDULED, Run
from holdfast.control.database import Database, Tx
from holdfast.control.principal import system
from holdfast.control.schedule_row import schedule_of
from holdfast.control.sealing import MasterKeys
from holdfast.control.surroundings import Surroundings
from holdfast.control.tables import (
    Account,
    Host,
    Job,
    Repository,
    Schedule,
    Snapshot,
    Source,
)
from holdfast.errors import HoldfastError, NotReady
from holdfast.model.finding import Finding
from holdfast.model.schedule import Arrears

BATCH_SCHEDULES: Final = 100
"""So many schedules are settled in one transaction: short, and yet a thousand are quick."""

BATCH_SLOTS: Final = 5_000
"""And a transaction writes about so many slots, after a long time without a server."""

DEFAULT_LIMIT: Final = 10_000

_LAST_SLOT_LASTS: Final = timedelta(days=7)
"""The next slot ends a run that no agent took; this is for when there is no next slot."""


def settle_due(
    database: Database, keys: MasterKeys, *, now: datetime, limit: int = DEFAULT_LIMIT
) -> int:
    """Settle schedules that are due, the longest due first; returns how many were."""
    settled = 0
    while settled < limit:
        number = min(BATCH_SCHEDULES, limit - settled)

        def settle_some(tx: Tx, number: int = number) -> tuple[int, bool]:
            schedules = _due(tx, number, now=now)
            done = _settle(tx, schedules, keys, now=now)
            return done, len(schedules) == number or 0 < done < len(schedules)

        done, more = database.transact(settle_some)
        settled += done
        if not more:
            break
    return settled


def _due(tx: Tx, number: int, *, now: datetime) -> Sequence[Schedule]:
    """Schedules that are due, locked; what another replica has locked is left to it."""
    found = tx.execute(
        select(
            Schedule.id,
            Schedule.account_id,
            or_(Account.quota_snapshots.is_not(None), Account.quota_stored_bytes.is_not(None)),
        )
        .join(Account, Account.id == Schedule.account_id)
        .where(Schedule.due_at <= now)
        .order_by(Schedule.due_at, Schedule.id)
        .limit(number)
    ).all()
    if limited := {account_id for _, account_id, has_quota in found if has_quota}:
        # Quotas lock accounts, and accounts come before schedules, as at the end of a run.
        tx.execute(
            select(Account.id)
            .where(Account.id.in_(limited))
            .order_by(Account.id)
            .with_for_update(key_share=True)
        ).all()
    ids = [schedule_id for schedule_id, _, _ in found]
    if not ids:
        return []
    return tx.scalars(
        select(Schedule)
        .where(Schedule.id.in_(ids), Schedule.due_at <= now)
        .order_by(Schedule.due_at, Schedule.id)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def settle_before_change(tx: Tx, schedule: Schedule, *, now: datetime) -> None:
    """Settle what is due of a locked schedule, so that a change concerns later slots only.

    Raises `NotReady` in the one case in which that needs the clockwork: the account's
    first run ever is due right now.
    """
    if schedule.due_at is None or schedule.due_at > now:
        return
    if not _settle(tx, [schedule], None, now=now):
        raise NotReady("The schedule's first run is just about to start; try again in a moment.")


def settle_before_end(tx: Tx, schedule: Schedule, *, now: datetime) -> None:
    """Write down what is due of a locked schedule that is about to end; nothing runs any more."""
    if schedule.due_at is not None and schedule.due_at <= now:
        _settle(tx, [schedule], None, now=now, ends=True)


def _settle(
    tx: Tx,
    schedules: Sequence[Schedule],
    keys: MasterKeys | None,
    *,
    now: datetime,
    ends: bool = False,
) -> int:
    """Settle locked schedules as far as the slots fit into a transaction; returns how many."""
    if not schedules:
        return 0
    around = Surroundings.read(tx, schedules)
    runs: list[Run] = []
    skipped: list[dict[str, Any]] = []
    done = 0
    for schedule in schedules:
        if len(skipped) >= BATCH_SLOTS:
            break
        source = around.sources[schedule.source_id]
        host = around.hosts[source.host_id]
        stopped = _reason_to_stop(schedule, host)
        if stopped:
            if not ends:
                _pause(tx, schedule, stopped, now=now)
            done += 1
            continue
        repository = around.repository(tx, schedule.account_id, host.region_id, keys, now=now)
        if repository is None:
            continue
        arrears = schedule_of(schedule).settle(schedule.settled_until, now)
        if ends:
            arrears = _without_run(arrears)
        settlement = _Settlement(tx, schedule, source, host, repository, around, now)
        settlement.settle(arrears)
        runs += settlement.runs
        skipped += settlement.skipped
        schedule.settled_until = now
        schedule.due_at = arrears.next_due
        done += 1
    if skipped:
        tx.execute(insert(Snapshot), skipped)
    backup_run.start(tx, runs, now=now)
    return done


@dataclass(slots=True)
class _Settlement:
    """One schedule on its way from its last settled slot to now."""

    tx: Tx
    schedule: Schedule
    source: Source
    host: Host
    repository: Repository
    around: Surroundings
    now: datetime
    runs: list[Run] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def settle(self, arrears: Arrears) -> None:
        missed = [slot for slot in arrears.missed if slot != arrears.run]
        for slot in missed:
            self._skip(
                slot,
                Finding(
                    "slot_missed",
                    "This slot passed while Holdfast did not look at it.",
                ),
            )
        if missed:
            self._tell_missed(missed, arrears)
        if arrears.run is None:
            return
        run = Run(
            source=self.source,
            host=self.host,
            repository=self.repository,
            trigger=CATCH_UP if arrears.is_catch_up else SCHEDULED,
            schedule_id=self.schedule.id,
            slot_at=arrears.run,
            not_before=arrears.not_before,
            give_up_at=(arrears.next_due or self.now + _LAST_SLOT_LASTS),
            archive_format=self.schedule.archive_format,
        )
        finding = self._obstacle(run)
        if finding is None:
            self.runs.append(run)
            return
        self._tell_skipped(self._skip(arrears.run, finding), arrears.run, finding)

    def _obstacle(self, run: Run) -> Finding | None:
        """Why this slot cannot have a run; an untaken run of an earlier slot makes room."""
        earlier = self.around.unfinished.get(self.schedule.id)
        if earlier is not None:
            job = self.around.waiting.get(earlier.id)
            if job is None:
                return Finding(
                    "still_running", "The run of an earlier slot was still going on.", earlier.id
                )
            self._end(job)
        try:
            _ = run.directory
        except HoldfastError as error:
            return Finding("source_refused", error.message, self.source.path)
        return self.around.refusal(self.tx, self.schedule.account_id)

    def _end(self, job: Job) -> None:
        """The next slot is here, and nobody works on the run of this one."""
        who = system(job.account_id)
        if job.attempt:
            # It was tried and failed, and waited for its next attempt.
            code, message = job.error_code or "error", job.error_message or "No reason was given."
            job_end.fail(self.tx, job, who, code, message, now=self.now)
            return
        message = (
            f"The agent of {self.host.name} did not take it up before the next slot came. Check "
            "that the machine and its agent run, and that it is not busy with other jobs."
        )
        job_end.fail(self.tx, job, who, job_end.NOT_TAKEN, message, now=self.now)

    def _skip(self, slot: datetime, finding: Finding) -> str:
        snapshot_id = str(uuid4())
        self.skipped.append(
            {
                "id": snapshot_id,
                "account_id": self.schedule.account_id,
                "source_id": self.source.id,
                "schedule_id": self.schedule.id,
                "host_id": self.host.id,
                "repository_id": self.repository.id,
                "kind": self.source.kind,
                "status": "SKIPPED",
                "trigger": SCHEDULED,
                "slot_at": slot,
                "created_at": self.now,
                "finished_at": self.now,
                "archive_format": self.schedule.archive_format,
                "findings": [finding.as_dict()],
            }
        )
        return snapshot_id

    def _tell_missed(self, missed: Sequence[datetime], arrears: Arrears) -> None:
        number = "1 slot" if len(missed) == 1 else f"{len(missed)} slots"
        then = " One run makes up for it." if arrears.run else ""
        events.emit(
            self.tx,
            self.schedule.account_id,
            "snapshot.missed",
            "schedule",
            self.schedule.id,
            f"{number} of the backup of {self.source.path} passed without a run.{then}",
            now=self.now,
            data={
                "slots": len(missed),
                "first_slot_at": missed[0].isoformat(),
                "last_slot_at": missed[-1].isoformat(),
            },
        )

    def _tell_skipped(self, snapshot_id: str, slot: datetime, finding: Finding) -> None:
        events.emit(
            self.tx,
            self.schedule.account_id,
            "snapshot.skipped",
            "snapshot",
            snapshot_id,
            f"A backup of {self.source.path} was skipped. {finding.message}",
            now=self.now,
            data={
                "code": finding.code,
                "schedule_id": self.schedule.id,
                "slot_at": slot.isoformat(),
            },
        )


def _without_run(arrears: Arrears) -> Arrears:
    """The same slots, all of them missed."""
    missed = arrears.missed
    if arrears.run is not None and arrears.run not in missed:
        missed = (*missed, arrears.run)
    return replace(arrears, run=None, not_before=None, missed=missed)


def _reason_to_stop(schedule: Schedule, host: Host) -> str | None:
    """Why this schedule can have no slots any more, until a person changes something."""
    if host.revoked_at is not None:
        return f"the host {host.name} was revoked"
    try:
        schedule_of(schedule)
    except HoldfastError as error:
        return f"its timing cannot be read ({error.message})"
    return None


def _pause(tx: Tx, schedule: Schedule, reason: str, *, now: datetime) -> None:
    schedule.paused = True
    schedule.due_at = None
    schedule.settled_until = schedule.updated_at = now
    events.emit(
        tx,
        schedule.account_id,
        "schedule.paused",
        "schedule",
        schedule.id,
        f"The schedule {schedule.name or schedule.id} was paused, because {reason}. "
        "Resume it when that has changed, or remove it.",
        now=now,
    )
