"""Several replicas book at once, while quantities change: no hour twice, none lost (M1)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from control_money import book, lines, set_price, store
from control_world import World
from sqlalchemy import event, select

from holdfast.control import metering
from holdfast.control.database import Database
from holdfast.control.tables import Account, LedgerEntry, Source

MB = 1_000_000
REPLICAS = 3


def at_once(*acts: Callable[[], None]) -> None:
    """Run all in threads; the first failure is this test's."""
    failures: list[BaseException] = []

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def sources(world: World) -> list[Source]:
    set_price(world, "1")
    accounts = [world.account, world.add_account("Second"), world.add_account("Third")]
    hosts = [world.add_host(account) for account in accounts]
    return [world.add_source(hosts[number % 3], f"/root/{number}") for number in range(12)]


def test_replicas_that_book_at_once_book_each_hour_once(
    world: World, sources: list[Source]
) -> None:
    for source in sources:
        store(world, source, 1000 * MB)
    world.advance(hours=60)
    gate = threading.Barrier(REPLICAS)
    booked: list[int] = []

    def replica() -> None:
        database = Database(world.database.url)
        try:
            gate.wait()
            done = 1
            while done:
                done = database.transact(
                    lambda tx: metering.book_hours(tx, now=world.now, limit_hours=5)
                )
                booked.append(done)
        finally:
            database.close()

    at_once(*[replica] * REPLICAS)
    assert sum(booked) == 12 * 60
    for account in {source.account_id for source in sources}:
        with world.database.read() as tx:
            rows = lines(world, tx.get_one(Account, account))
        assert len({(row.resource_id, row.hour) for row in rows}) == len(rows) == 4 * 60


def test_quantities_that_change_while_replicas_book(world: World, sources: list[Source]) -> None:
    """Each hour has what was there at its beginning, whoever books it and when."""
    changes: dict[str, list[tuple[int, int]]] = {source.id: [] for source in sources}
    begin = world.now
    clock = [begin]
    done = threading.Event()

    def replica() -> None:
        database = Database(world.database.url)
        try:
            while not done.is_set():
                database.transact(lambda tx: metering.book_hours(tx, now=clock[0], limit_hours=3))
                time.sleep(0.001)
        finally:
            database.close()

    def change() -> None:
        chance = random.Random(7)
        database = Database(world.database.url)
        try:
            for minutes in range(0, 600, 20):
                now = clock[0] = begin + timedelta(minutes=minutes)
                for source in chance.sample(sources, 4):
                    quantity = chance.choice([0, 1000, 2000, 3000])

                    def put(tx: object, source: Source = source, quantity: int = quantity) -> None:
                        metering.set_quantity(
                            tx,  # type: ignore[arg-type]
                            account_id=source.account_id,
                            region_id=world.region.id,
                            what="stored",
                            resource_kind="source",
                            resource_id=source.id,
                            quantity_bytes=quantity * MB,
                            now=now,  # noqa: B023
                        )

                    database.transact(put)
                    changes[source.id].append((minutes, quantity))
        finally:
            done.set()
            database.close()

    at_once(change, *[replica] * REPLICAS)
    world.now = begin + timedelta(minutes=600)
    book(world)
    expected = {}
    for source_id, history in changes.items():
        for hour in range(10):
            there = [quantity for minutes, quantity in history if minutes <= hour * 60]
            if there and there[-1]:
                expected[source_id, begin + timedelta(hours=hour)] = there[-1]
    with world.database.read() as tx:
        rows = tx.scalars(select(LedgerEntry)).all()
        accounts = tx.scalars(select(Account)).all()
    assert {(row.resource_id, row.hour): row.quantity_mb for row in rows} == expected
    assert len(rows) == len(expected) > 50
    for account in accounts:
        lines(world, account)


def test_booking_a_thousand_meters_takes_no_more_statements_than_one(world: World) -> None:
    """So that an installation that was away for days is soon up to date."""
    set_price(world, "1")
    with world.database.write() as tx:
        for number in range(1000):
            metering.set_quantity(
                tx,
                account_id=world.account.id,
                region_id=world.region.id,
                what="stored",
                resource_kind="source",
                resource_id=f"source {number}",
                quantity_bytes=(number + 1) * MB,
                now=world.now,
            )
    world.advance(hours=48)
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(world.database.engine, "before_cursor_execute", count)
    assert book(world) == 48_000
    event.remove(world.database.engine, "before_cursor_execute", count)
    assert 0 < statements < 30
