"""Steps of the clock: days forward, an hour back, again and again.

The clockwork is told the time, so this process has it; an agent of the test takes and ends
runs in between. Spec lines: B6, M1, O3.
"""

from __future__ import annotations

import random
from contextlib import suppress
from decimal import Decimal

import pytest
from catalog_agent import CatalogAgent
from control_aftermath import check_database
from control_world import World
from crash_cases import again, share_of_cases
from sqlalchemy import select

from holdfast.control import prices, schedules, snapshots
from holdfast.control.clockwork import Clockwork
from holdfast.control.tables import Host, Leadership, LedgerEntry, Snapshot, Source
from holdfast.errors import StaleAttempt

pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Watched:
    """A world with a schedule and an agent, whose clock makes steps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host: Host = world.add_host()
        self.source: Source = world.add_source(self.host)
        self.agent = CatalogAgent(world, self.host, stored_bytes=7_000_000)
        self.went_back = False
        self.replica("a")
        with world.database.write() as tx:
            prices.set_price(
                tx, what="stored", region_id=world.region.id, currency="EUR",
                rate=Decimal("7.31"), unit="GB-month", valid_from=world.now, origin="test",
                now=world.now,
            )  # fmt: skip
            self.schedule = schedules.create(
                tx, world.principal(), source_id=self.source.id, interval_hours=1,
                retention={"keep_last": 3}, now=world.now,
            )  # fmt: skip

    def replica(self, name: str) -> None:
        """Another process is the clockwork from now on; the one before it was killed."""
        self.clockwork = Clockwork(self.world.database, self.world.keys, replica_id=name)

    def live(self, seconds: float, *, works: bool = True) -> None:
        """So much time passes as it does, a tick and a look for work every 20 minutes."""
        while seconds > 0:
            self.world.advance(seconds=min(seconds, 20 * MINUTE))
            seconds -= 20 * MINUTE
            self.clockwork.tick(self.world.now)
            if works:
                self.agent.work()

    def step(self, seconds: float) -> None:
        self.went_back |= seconds < 0
        self.world.advance(seconds=seconds)
        self.clockwork.tick(self.world.now)

    def check(self) -> None:
        """Bring the present to its end and look."""
        self.live(2 * HOUR)
        self.agent.work()
        check_database(self.world.database, now=self.world.now, clock_went_back=self.went_back)

    def by_status(self) -> dict[str, int]:
        with self.world.database.read() as tx:
            found = tx.scalars(select(Snapshot.status).where(Snapshot.slot_at.is_not(None))).all()
        return {status: found.count(status) for status in set(found)}


@pytest.fixture
def watched(world: World) -> Watched:
    return Watched(world)


def test_two_days_forward(watched: Watched) -> None:
    """B6: every slot that was jumped over is reported, and one run makes up for all of them."""
    watched.live(3 * HOUR)
    before = watched.by_status()
    watched.step(2 * DAY)
    after = watched.by_status()
    assert after["SKIPPED"] - before.get("SKIPPED", 0) in (46, 47, 48)
    assert after["PENDING"] == 1
    watched.check()
    with watched.world.database.read() as tx:
        hours = tx.scalars(select(LedgerEntry.hour).where(LedgerEntry.kind == "hourly")).all()
    assert len(hours) >= 48, "hours that were jumped over stood there all the same"


def test_an_hour_back(watched: Watched) -> None:
    """No slot has a second run and no hour a second line, when both come again."""
    watched.live(5 * HOUR)
    runs, lines = watched.by_status(), booked(watched)
    watched.step(-HOUR)
    watched.live(50 * MINUTE)
    assert (watched.by_status(), booked(watched)) == (runs, lines)
    watched.check()
    assert sum(watched.by_status().values()) > sum(runs.values()), "it did not go on"


def booked(watched: Watched) -> int:
    with watched.world.database.read() as tx:
        return len(tx.scalars(select(LedgerEntry.id).where(LedgerEntry.kind == "hourly")).all())


def test_a_leader_with_a_clock_that_was_wrong_is_not_waited_for(watched: Watched) -> None:
    """Killed while its clock was an hour ahead, it leads no longer than any other."""
    watched.live(HOUR)
    watched.step(HOUR)
    watched.replica("b")
    watched.step(-HOUR)
    watched.live(10 * MINUTE)
    with watched.world.database.read() as tx:
        assert tx.scalars(select(Leadership.holder)).one() == "b"
    watched.check()


def test_a_run_that_is_under_way_when_the_clock_steps(watched: Watched) -> None:
    """It loses its lease or not, and is done once either way."""
    watched.live(HOUR)
    for seconds in (-HOUR, 2 * DAY, -HOUR, HOUR):
        watched.live(HOUR, works=False)
        job = watched.agent.claim()
        watched.step(seconds)
        if job is not None:
            with suppress(StaleAttempt):
                watched.agent.succeed(job)
        watched.live(30 * MINUTE)
    watched.check()


@share_of_cases(0.003)
def test_any_steps(watched: Watched, seed: int) -> None:
    again("test_any_steps", seed)
    chance = random.Random(f"clock {seed}")
    world = watched.world
    for number in range(6):
        watched.live(chance.uniform(0, 4 * HOUR), works=chance.random() < 0.7)
        if chance.random() < 0.3:
            watched.replica(f"replica-{number}")
        if chance.random() < 0.4:
            with world.database.write() as tx:
                snapshots.request(
                    tx, world.principal(), source_id=watched.source.id, now=world.now,
                    keys=world.keys,
                )  # fmt: skip
        watched.step(chance.choice((-HOUR, -chance.uniform(0, HOUR), chance.uniform(0, 2 * DAY))))
    watched.check()
