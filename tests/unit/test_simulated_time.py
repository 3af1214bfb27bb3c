"""Ninety days of a thousand sources, by a clock that jumps from one due time to the next.

Two clouds' worth of machines come and go, schedules pass changes of clocks in four zones,
the control plane is away for a day and a half, a host is silent for a week, an account runs out of
credit. At the end every slot has its row, every snapshot that should be there is there, and
the ledger is what another way of counting gives.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from catalog_agent import CatalogAgent
from control_database import make_tables
from control_money import set_price
from control_world import World
from sqlalchemy import func, select, update

from holdfast.control import (
    credit,
    due,
    holds,
    ledger,
    metering,
    recycle,
    retention,
    schedules,
    snapshots,
    sources,
)
from holdfast.control.completion import stored
from holdfast.control.database import Database
from holdfast.control.tables import (
    Account,
    Event,
    Host,
    Job,
    LedgerEntry,
    Repository,
    Schedule,
    Snapshot,
    Source,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 90
END = START + timedelta(days=DAYS)
AWAY = (START + timedelta(days=50, hours=14), START + timedelta(days=52))
"""When no control plane runs."""
SILENT = (START + timedelta(days=20), START + timedelta(days=27))
"""When the agent of the silent host does."""
HOUR = timedelta(hours=1)
IN_TIME = timedelta(minutes=9)
"""How late a slot may be looked at without having been missed."""

PODS_PER_DAY = 6
LEFT_OVER = 450
WEEKLY = ("0 0 * * 0", "52 12 * * 1,4", "52 2 * * 0")

RATE_FEMTO = 31_506_849
"""Per MB and hour: 0.023 per GB and month of 730 hours."""
MB = 1_000_000

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney")


@pytest.fixture
def world() -> Iterator[World]:
    """A world in a file in memory; what is tested here is arithmetic, on one database."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="holdfast-time-", dir=shared))
    try:
        make_tables(f"sqlite:///{directory}/control.db")
        database = Database(f"sqlite:///{directory}/control.db")
        yield World(database, now=START)
        database.close()
    finally:
        shutil.rmtree(directory)


@dataclass(frozen=True)
class Cron:
    """A schedule at a wall-clock time of each day."""

    schedule: Schedule
    zone: ZoneInfo
    at: time


class Simulation:
    """The control plane's own steps and a fleet that does what it is told, at a chosen time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.database = world.database
        self.quiet_hosts: set[str] = set()
        self.honest: set[str] = set()
        """Sources whose runs go through claiming and finishing like real ones."""
        self.runs = 0

    def protect(self, account: Account, host: Host, *paths: str, **fields: Any) -> list[Schedule]:
        """Sources with a schedule each, whose slots are in the last minutes of an hour."""
        world = self.world
        fields.setdefault("retention", {"max_age_days": 30})
        who = world.principal(account)
        made = []
        with self.database.write() as tx:
            for path in paths:
                source = Source(
                    account_id=account.id, host_id=host.id, path=path, created_at=world.now
                )
                tx.add(source)
                tx.flush()
                row = schedules.create(tx, who, source_id=source.id, now=world.now, **fields)
                if "cron" not in fields:
                    # Otherwise the clock would have to stop for each schedule alone.
                    row.offset_seconds = 53 * 60 + row.offset_seconds % 240
                    row.due_at = schedules.schedule_of(row).next_due(world.now)
                made.append(row)
        return made

    def leave(self, host: Host, repository: Repository, number: int) -> list[Snapshot]:
        """Sources without a schedule that have one snapshot each."""
        now = self.world.now
        left = []
        with self.database.write() as tx:
            for each in range(number):
                source = Source(
                    id=str(uuid4()),
                    account_id=host.account_id,
                    host_id=host.id,
                    path=f"/root/left/{each}",
                    created_at=now,
                )
                snapshot_id = str(uuid4())
                left.append(
                    Snapshot(
                        id=snapshot_id,
                        account_id=host.account_id,
                        host_id=host.id,
                        source_id=source.id,
                        repository_id=repository.id,
                        status="COMPLETED",
                        created_at=now,
                        captured_at=now,
                        finished_at=now,
                        manifest_id=hashlib.sha256(snapshot_id.encode()).hexdigest(),
                        share_bytes=share_of(snapshot_id),
                    )
                )
                tx.add(source)
            tx.flush()
            tx.add_all(left)
            tx.flush()
            stored.meter_sources(tx, repository, [each.source_id for each in left], now=now)
        return left

    def step(self) -> None:
        """What clockwork does at a slot, and the fleet right after it."""
        with self.database.write() as tx:
            metering.book_hours(tx, now=self.world.now)
        due.settle_due(self.database, self.world.keys, now=self.world.now)
        self._complete()

    def daily(self) -> None:
        """What clockwork does all the time, once a day."""
        now = self.world.now
        retention.apply_due(self.database, now=now)
        recycle.purge_due(self.database, now=now)
        with self.database.write() as tx:
            metering.book_hours(tx, now=now)
            credit.update_states(tx, now=now)

    def next_due(self) -> datetime | None:
        with self.database.read() as tx:
            return tx.scalar(select(func.min(Schedule.due_at)))

    def run_until(self, end: datetime) -> None:
        """Jump from due time to due time."""
        while (at := self.next_due()) is not None:
            full = START - (START - at) // HOUR * HOUR
            then = full if full - at <= IN_TIME else at + IN_TIME
            if then > end:
                break
            self.world.now = max(then, self.world.now)
            self.step()
        self.world.now = end

    def _complete(self) -> None:
        """End all runs that agents would take, together: what each agent's report does."""
        now = self.world.now
        with self.database.write() as tx:
            pending = [
                row
                for row in tx.execute(
                    select(
                        Snapshot.id,
                        Snapshot.job_id,
                        Snapshot.source_id,
                        Snapshot.schedule_id,
                        Snapshot.repository_id,
                        Snapshot.host_id,
                    ).where(
                        Snapshot.account_id.in_(select(Account.id)), Snapshot.status == "PENDING"
                    )
                )
                if row.host_id not in self.quiet_hosts and row.source_id not in self.honest
            ]
            if pending:
                tx.execute(
                    update(Job),
                    [
                        {
                            "id": row.job_id,
                            "state": "succeeded",
                            "attempt": 1,
                            "finished_at": now,
                        }
                        for row in pending
                    ],
                )
                tx.execute(
                    update(Snapshot),
                    [
                        {
                            "id": row.id,
                            "status": "COMPLETED",
                            "started_at": now,
                            "captured_at": now,
                            "finished_at": now,
                            "manifest_id": hashlib.sha256(row.id.encode()).hexdigest(),
                            "share_bytes": share_of(row.id),
                        }
                        for row in pending
                    ],
                )
            self.runs += len(pending)
            for repository_id, rows in itertools.groupby(
                sorted(pending, key=lambda row: row.repository_id),
                key=lambda row: row.repository_id,
            ):
                repository = tx.get_one(Repository, repository_id)
                stored.meter_sources(tx, repository, [row.source_id for row in rows], now=now)
            retention.apply_all(
                tx, {row.schedule_id for row in pending if row.schedule_id}, now=now
            )


def share_of(snapshot_id: str) -> int:
    """1 to 4 MB and some bytes, the same for the same id."""
    return 1_000_003 + int.from_bytes(hashlib.sha256(snapshot_id.encode()).digest()[:4]) % 3_000_000


def expected_ledger(world: World, account: Account, until: datetime) -> int:
    """What an account owes in femto, from what its snapshots' rows say, hour by hour."""
    hours = int((until - START) / timedelta(hours=1))
    change: dict[str, np.ndarray[Any, Any]] = defaultdict(
        lambda: np.zeros(hours + 2, dtype=np.int64)
    )

    def hour(at: datetime) -> int:
        # A change in the middle of an hour counts from the next one on.
        return min(-((START - at) // timedelta(hours=1)), hours + 1)

    with world.database.read() as tx:
        for row in tx.scalars(
            select(Snapshot).where(
                Snapshot.account_id == account.id, Snapshot.manifest_id.is_not(None)
            )
        ):
            assert row.finished_at is not None
            share_bytes = row.stored_bytes or share_of(row.id)
            change[row.source_id][hour(row.finished_at)] += share_bytes
            if row.purged_at is not None:
                change[row.source_id][hour(row.purged_at)] -= share_bytes
    owed = 0
    for each in change.values():
        stored_mb = (np.cumsum(each)[:hours] + MB // 2) // MB
        owed += int(stored_mb.sum()) * RATE_FEMTO
    return owed


@pytest.mark.slow
def test_ninety_days_of_a_thousand_sources(world: World) -> None:
    """B3 B4 B6 B9 S3 S4 M1 M2 M4"""
    set_price(world, "0.000031506849", valid_from=START)
    simulation = Simulation(world)
    operator = world.operator()
    lab = world.account
    world.set(lab, recycle_days=7)
    pods = world.add_account("Pods", recycle_days=1)
    poor = world.add_account("Poor", prepaid=True, recycle_days=3, low_credit_micro=100)
    repositories = {each.id: world.add_repository(each) for each in (lab, pods, poor)}
    for repository in repositories.values():
        world.set(repository, created_in_store_at=START)
    with world.database.write() as tx:
        ledger.credit(tx, operator, poor.id, Decimal("0.002"), note="prepaid", now=world.now)
    keeper = CatalogAgent(world, world.add_host(world.operator_account, keeper=True))
    machine = world.add_host(max_jobs=1000)
    silent = world.add_host(max_jobs=1000)

    # A laboratory: every preset, and cron through changes of clocks in three zones.
    crons: list[Cron] = []
    for zone, at, days in (
        ("UTC", time(18, 52), "*"),
        ("Europe/Berlin", time(2, 52), "*"),
        ("America/New_York", time(2, 52), "*"),
        ("Australia/Sydney", time(2, 52), "0"),
    ):
        [row] = simulation.protect(
            lab,
            machine,
            f"/root/cron/{zone}",
            cron=f"{at.minute} {at.hour} * * {days}",
            timezone=zone,
            retention={"keep_last": 3, "keep_weekly": 4, "keep_monthly": 2},
        )
        crons.append(Cron(row, ZoneInfo(zone), at))
    [often] = simulation.protect(
        lab, machine, "/root/6h", preset="6h", retention={"max_age_days": 7}
    )
    [half] = simulation.protect(lab, machine, "/root/12h", preset="12h", retention={"keep_last": 5})
    [quiet] = simulation.protect(
        lab, silent, "/root/quiet", preset="12h", retention={"max_age_days": 90}
    )
    [real] = simulation.protect(lab, machine, "/root/real", cron="52 12 * * 1,4")
    simulation.honest.add(real.source_id)
    agent = CatalogAgent(world, machine)
    rows = [often, half, quiet, real, *(each.schedule for each in crons)]
    rows += simulation.protect(lab, machine, "/root/daily", preset="daily")
    for zone in ZONES:
        weekly = [f"/root/weekly/{zone}/{number}" for number in range(10)]
        rows += simulation.protect(lab, machine, *weekly, preset="weekly", timezone=zone)
    # Somebody who pays in advance, too little.
    poor_rows = simulation.protect(
        poor,
        world.add_host(poor),
        *(f"/root/{number}" for number in range(5)),
        cron="52 6 * * *",
        retention={"max_age_days": 60},
    )
    rows += poor_rows
    # Pods that live for a day each, and what earlier ones have left, which is tidied away.
    pod_host = world.add_host(pods)
    alive: list[Schedule] = []
    left_over = simulation.leave(pod_host, repositories[pods.id], LEFT_OVER)
    held: Snapshot | None = None

    for day in range(DAYS):
        today = START + timedelta(days=day)
        if AWAY[0] <= today < AWAY[1]:
            continue
        world.now = max(world.now, today)
        with world.database.write() as tx:
            for pod in alive:
                sources.remove(tx, world.principal(pods), pod.source_id, now=world.now)
            for snapshot in left_over[day * 50 : day * 50 + 50]:
                snapshots.delete(tx, world.principal(pods), snapshot.id, now=world.now)
        alive = simulation.protect(
            pods,
            pod_host,
            *(f"/root/pod{day}-{number}" for number in range(PODS_PER_DAY)),
            cron="52 18 * * *",
            retention={"max_age_days": 1},
        )
        rows += alive
        simulation.quiet_hosts = {silent.id} if SILENT[0] <= today < SILENT[1] else set()
        simulation.run_until(today + timedelta(hours=13))
        simulation.daily()
        if day % 2:
            keeper.work()
        world.advance(minutes=20)
        agent.work()
        tomorrow = today + timedelta(days=1)
        simulation.run_until(AWAY[0] if today < AWAY[0] < tomorrow else tomorrow)
        if day == 5:
            with world.database.write() as tx:
                held = tx.scalars(
                    select(Snapshot)
                    .where(Snapshot.schedule_id == often.id, Snapshot.status == "COMPLETED")
                    .order_by(Snapshot.slot_at)
                ).first()
                assert held is not None
                holds.place(tx, world.principal(), held.id, reason="a paper", now=world.now)
    simulation.daily()
    with world.database.read() as tx:
        assert len(tx.scalars(select(Source.id)).all()) >= 1000
    assert simulation.runs > 2000

    check_slots(world, rows)
    check_clock_changes(world, crons)
    check_history(world, often, quiet, real)
    assert held is not None
    check_retention(world, often, half, held)
    check_pods(world, pods)
    check_credit(world, poor, poor_rows)
    for account in (lab, pods, poor):
        check_books(world, account, paid=2_000_000_000_000 if account is poor else 0)
    check_hours(world)


def check_slots(world: World, rows: list[Schedule]) -> None:
    """Every slot of every schedule has exactly one row, and there are no others."""
    with world.database.read() as tx:
        found: dict[str | None, list[datetime | None]] = defaultdict(list)
        for schedule_id, slot in tx.execute(
            select(Snapshot.schedule_id, Snapshot.slot_at)
            .where(Snapshot.schedule_id.is_not(None))
            .order_by(Snapshot.slot_at)
        ):
            found[schedule_id].append(slot)
        for each in rows:
            row = tx.get_one(Schedule, each.id)
            timing = schedules.schedule_of(row)
            settled = row.removed_at or row.settled_until
            expected = timing.due_between(
                row.created_at + timedelta(seconds=1), settled + timedelta(microseconds=1)
            )
            assert found[row.id] == expected, (row.cron, row.interval_hours, row.timezone)
            if row.created_at == START and row.removed_at is None:
                assert len(expected) >= (12 if row.cron in WEEKLY else 80)


def check_clock_changes(world: World, crons: list[Cron]) -> None:
    """Each local day has one slot at its wall-clock time, or where a skipped hour ends."""
    skipped = 0
    with world.database.read() as tx:
        for cron in crons:
            slots = [
                slot.astimezone(cron.zone)
                for slot in tx.scalars(
                    select(Snapshot.slot_at)
                    .where(Snapshot.schedule_id == cron.schedule.id)
                    .order_by(Snapshot.slot_at)
                )
                if slot is not None
            ]
            days: Counter[date] = Counter(slot.date() for slot in slots)
            first, last = slots[0].date(), slots[-1].date()
            apart = 7 if cron.zone.key == "Australia/Sydney" else 1
            assert set(days.values()) == {1}
            assert len(days) == (last - first).days // apart + 1 >= 89 // apart
            for slot in slots:
                minutes = slot.hour * 60 + slot.minute - cron.at.hour * 60 - cron.at.minute
                if not 0 <= minutes < 5:
                    # Half past two is not there on that day: at three instead.
                    assert (slot.hour, cron.at.hour) == (3, 2), slot
                    assert 0 <= slot.minute < 5
                    skipped += 1
    assert skipped == 2, "in Berlin and in New York clocks went forward"


def check_history(world: World, often: Schedule, quiet: Schedule, real: Schedule) -> None:
    """What was missed says so, and was made up for once."""
    with world.database.read() as tx:
        found = list(
            tx.scalars(
                select(Snapshot).where(Snapshot.schedule_id == often.id).order_by(Snapshot.slot_at)
            )
        )
        away = [each for each in found if AWAY[0] < (each.slot_at or START) < AWAY[1]]
        assert [each.status for each in away].count("SKIPPED") == len(away) - 1 == 4
        assert [each.trigger for each in found].count("catch-up") == 1
        assert {each.findings[0]["code"] for each in away if each.status == "SKIPPED"} == {
            "slot_missed"
        }
        during = tx.scalars(
            select(Snapshot).where(
                Snapshot.schedule_id == quiet.id,
                Snapshot.slot_at > SILENT[0],
                Snapshot.slot_at < SILENT[1],
            )
        ).all()
        assert len(during) == 14
        codes = Counter(each.findings[0]["code"] for each in during if each.findings)
        assert codes == {"host_silent": 14}
        done = tx.scalar(
            select(func.count()).where(Snapshot.schedule_id == real.id, Snapshot.kept_because != [])
        )
        assert done


def check_retention(world: World, often: Schedule, half: Schedule, held: Snapshot) -> None:
    """What is there at the end is what the rules say, and what is held."""
    with world.database.read() as tx:
        left = tx.scalars(
            select(Snapshot).where(Snapshot.schedule_id == often.id, Snapshot.status == "COMPLETED")
        ).all()
        week = END - timedelta(days=7, hours=12)
        assert len(left) in range(28, 32)
        assert [each.id for each in left if (each.captured_at or START) < week] == [held.id]
        assert tx.get_one(Snapshot, held.id).kept_because[0] == "held"
        counted = tx.scalar(
            select(func.count()).where(
                Snapshot.schedule_id == half.id, Snapshot.status == "COMPLETED"
            )
        )
        assert counted == 5
        for row in tx.scalars(select(Snapshot).where(Snapshot.status == "EXPIRED")):
            assert row.removed_because in (
                "not kept by any rule",
                *(f"older than {days} days" for days in (7, 30, 60, 90)),
                "older than 1 day",
            )
            assert row.removed_at is not None
            if row.purged_at is not None:
                assert row.purge_at is not None
                assert row.purge_at <= row.purged_at <= row.purge_at + timedelta(days=5)


def check_pods(world: World, pods: Account) -> None:
    """What machines left when they went is gone in the end, and costs nothing any more."""
    with world.database.read() as tx:
        statuses: Counter[str] = Counter(
            tx.scalars(
                select(Snapshot.status).where(
                    Snapshot.account_id == pods.id, Snapshot.created_at < END - timedelta(days=8)
                )
            )
        )
        assert set(statuses) <= {"EXPIRED", "SKIPPED", "CANCELLED", "DELETED"}
        assert statuses["EXPIRED"] > 400
        assert statuses["DELETED"] == LEFT_OVER
        unpurged = tx.scalar(
            select(func.count()).where(
                Snapshot.account_id == pods.id,
                Snapshot.created_at < END - timedelta(days=8),
                Snapshot.status.in_(("EXPIRED", "DELETED")),
                Snapshot.purged_at.is_(None),
            )
        )
        assert unpurged == 0


def check_credit(world: World, poor: Account, rows: list[Schedule]) -> None:
    """Without credit nothing new is taken; after the period of grace the bin takes the rest."""
    with world.database.read() as tx:
        first = (
            select(Event.kind, func.min(Event.at))
            .where(Event.account_id == poor.id)
            .group_by(Event.kind)
        )
        kinds: dict[str, datetime] = dict(tx.execute(first).all())
        exhausted = kinds["credit.exhausted"]
        assert START + timedelta(days=5) < exhausted < START + timedelta(days=60)
        found = tx.scalars(select(Snapshot).where(Snapshot.account_id == poor.id)).all()
        later = [each for each in found if each.created_at > exhausted]
        assert {each.status for each in later} == {"SKIPPED"}
        assert {each.findings[0]["code"] for each in later} <= {"paused_for_credit", "slot_missed"}
        assert len(later) > 100
        removed = [each for each in found if each.status == "DELETED"]
        assert len(removed) >= 10 * len(rows) / 2
        assert min(each.removed_at or START for each in removed) >= exhausted + timedelta(days=14)
        assert {each.purged_at is not None for each in removed} == {True}
        announced = tx.scalar(
            select(func.count()).where(Event.account_id == poor.id, Event.kind == "deletion.ahead")
        )
        assert announced == 4


def check_books(world: World, account: Account, *, paid: int) -> None:
    """The balance is the ledger's sum, and the ledger is what was stored, hour by hour."""
    booked_until = END if world.now >= END else world.now
    owed = expected_ledger(world, account, booked_until)
    with world.database.read() as tx:
        row = tx.get_one(Account, account.id)
        assert ledger.balance_femto(row) == ledger.sum_femto(tx, account.id)
        assert ledger.balance_femto(row) == paid - owed
        assert owed > 0


def check_hours(world: World) -> None:
    """No hour of a thing is booked twice."""
    with world.database.read() as tx:
        lines = tx.scalar(select(func.count()).where(LedgerEntry.kind == ledger.HOURLY))
        distinct = tx.scalar(
            select(func.count()).select_from(
                select(LedgerEntry.resource_id, LedgerEntry.hour)
                .where(LedgerEntry.kind == ledger.HOURLY)
                .distinct()
                .subquery()
            )
        )
    assert lines == distinct
