"""The clockwork: one leader, every step in its turn, and no step that stops another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from control_runs import Runs
from control_world import World
from sqlalchemy import select
from structlog.testing import capture_logs

from holdfast.control import leadership
from holdfast.control.clockwork import NAME, STEPS, TERM_SECONDS, Clockwork, Shift, Step
from holdfast.control.tables import Leadership


class Counting:
    """Steps that count how often they were taken."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()

    def step(self, name: str, every: float = 5, act: Callable[[Shift], int] | None = None) -> Step:
        def count(shift: Shift) -> int:
            self.taken[name] += 1
            return act(shift) if act else 1

        return Step(name, every, count)


def clockwork(world: World, replica_id: str, *steps: Step) -> Clockwork:
    return Clockwork(
        world.database,
        world.keys,
        replica_id=replica_id,
        steps=steps or STEPS,
        monotonic=lambda: 0.0,
    )


def holder(world: World) -> str:
    with world.database.read() as tx:
        return tx.scalars(select(Leadership.holder)).one()


def test_each_step_comes_in_its_turn(world: World) -> None:
    counting = Counting()
    ticking = clockwork(world, "a", counting.step("often", 5), counting.step("seldom", 60))
    for _ in range(13):
        ticking.tick(world.now)
        world.advance(seconds=5)
    assert counting.taken == {"often": 13, "seldom": 2}


def test_a_step_that_fails_does_not_stop_the_others(world: World) -> None:
    def fail(shift: Shift) -> int:
        def half(tx: object) -> int:
            shift.database  # noqa: B018
            raise RuntimeError("broken")

        return shift.transact(half)

    counting = Counting()
    ticking = clockwork(
        world, "a", counting.step("first"), counting.step("bad", act=fail), counting.step("last")
    )
    with capture_logs() as logs:
        ticking.tick(world.now)
        world.advance(seconds=5)
        ticking.tick(world.now)
    assert counting.taken == {"first": 2, "bad": 2, "last": 2}
    failures = [each for each in logs if each["event"] == "clockwork_step_failed"]
    assert [each["step"] for each in failures] == ["bad", "bad"]
    assert failures[0]["exc_info"]


def test_one_replica_leads_at_a_time(world: World) -> None:
    counting = Counting()
    one = clockwork(world, "a", counting.step("one", 0))
    two = clockwork(world, "b", counting.step("two", 0))
    for _ in range(10):
        one.tick(world.now)
        two.tick(world.now)
        world.advance(seconds=5)
    assert counting.taken == {"one": 10}
    # The first one dies; nobody works before its term is over.
    for _ in range(20):
        two.tick(world.now)
        world.advance(seconds=5)
    assert holder(world) == "b"
    missed = TERM_SECONDS // 5 - 1
    assert counting.taken["two"] == 20 - missed
    one.tick(world.now)
    assert counting.taken["one"] == 10


def test_who_resigns_is_followed_at_once(world: World) -> None:
    counting = Counting()
    one = clockwork(world, "a", counting.step("one"))
    two = clockwork(world, "b", counting.step("two"))
    one.tick(world.now)
    two.resign(world.now)
    two.tick(world.now)
    assert holder(world) == "a"
    one.resign(world.now)
    two.tick(world.now)
    assert holder(world) == "b"
    assert counting.taken == {"one": 1, "two": 1}


def test_losing_the_lead_stops_the_work(world: World) -> None:
    """Another replica took over while a step was away for long."""
    counting = Counting()

    def usurp(shift: Shift) -> int:
        with world.database.write() as tx:
            tx.get_one(Leadership, NAME).holder = "b"
        return 1

    ticking = clockwork(
        world,
        "a",
        counting.step("usurp", act=usurp),
        counting.step("fenced", act=lambda shift: shift.transact(lambda tx: 1)),
    )
    ticking.tick(world.now)
    assert counting.taken == {"usurp": 1}
    assert holder(world) == "b"


def test_a_transaction_is_fenced_too(world: World) -> None:
    """A step that is in the middle when the lead is lost commits nothing more."""

    def usurped(shift: Shift) -> int:
        with world.database.write() as tx:
            tx.get_one(Leadership, NAME).holder = "b"
        return shift.transact(lambda tx: pytest.fail("it does not lead"))

    counting = Counting()
    clockwork(world, "a", counting.step("x", act=usurped)).tick(world.now)
    assert counting.taken == {"x": 1}


def test_a_long_tick_renews_its_term(world: World) -> None:
    spent = iter(range(0, 10_000, 50))
    counting = Counting()
    ticking = Clockwork(
        world.database,
        world.keys,
        replica_id="a",
        steps=[counting.step(name) for name in "abcdef"],
        monotonic=lambda: float(next(spent)),
    )
    ticking.tick(world.now)
    assert len(counting.taken) == 6
    with world.database.read() as tx:
        until = tx.scalars(select(Leadership.until)).one()
    assert (until - world.now).total_seconds() > 5 * TERM_SECONDS


def test_replicas_that_start_at_once_have_one_leader(world: World) -> None:
    def run(number: int) -> bool:
        return world.database.transact(
            lambda tx: leadership.hold(tx, "x", str(number), seconds=60, now=world.now)
        )

    for _ in range(3):
        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(run, range(6))) == 1
        world.advance(seconds=61)


def test_all_steps_run_where_there_is_nothing_to_do(world: World) -> None:
    with capture_logs() as logs:
        ticking = clockwork(world, "a")
        for _ in range(3):
            ticking.tick(world.now)
            world.advance(hours=1)
    assert [each for each in logs if each["event"] == "clockwork_step_failed"] == []


def test_leases_expire_and_silence_is_noted_by_the_tick(world: World) -> None:
    """H1; and a server that was away itself does not call its hosts silent."""
    host, runs = world.add_host(), Runs(world)
    _, job = runs.add(world.add_source(host))
    runs.claim(host)
    world.advance(minutes=10)
    ticking = clockwork(world, "a")
    ticking.tick(world.now)
    assert world.again(job).state == "queued"
    assert world.again(host).silent_since is None
    for _ in range(12):
        world.advance(seconds=5)
        ticking.tick(world.now)
    assert world.again(host).silent_since is not None
    assert runs.events(host.id) == ["host.silent"]
