"""Each hour of each billable thing is booked exactly once (M1)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from control_money import book, hours, lines, set_price, store, transfer
from control_world import World
from sqlalchemy import insert, select

from holdfast.control import ledger, metering
from holdfast.control.amounts import LARGEST_QUANTITY_BYTES
from holdfast.control.tables import Account, Meter
from holdfast.errors import UsageError

MB = 1_000_000


def test_hours_are_booked_when_they_have_ended(world: World) -> None:
    set_price(world, "1")
    store(world, "a", 5 * MB)
    world.advance(minutes=59)
    assert book(world) == 0
    world.advance(minutes=1)
    assert book(world) == 1
    world.advance(minutes=30)
    assert book(world) == 0
    world.advance(hours=2)
    assert book(world) == 2
    assert hours(world) == [(0, 5), (1, 5), (2, 5)]


def test_an_hour_costs_what_was_there_at_its_beginning(world: World) -> None:
    set_price(world, "1")
    world.advance(minutes=10)
    store(world, "a", 5 * MB)  # counts from hour 1
    world.advance(hours=2, minutes=10)
    store(world, "a", 7 * MB)  # in hour 2, counts from hour 3
    world.advance(minutes=10)
    store(world, "a", 8 * MB)  # and so does this instead
    world.advance(minutes=30)
    store(world, "a", 9 * MB)  # at the beginning of hour 3 exactly
    world.advance(hours=1, minutes=30)
    store(world, "a", 0)  # in hour 4, which is paid for
    world.advance(hours=9)
    store(world, "a", 1 * MB)  # in hour 13
    world.advance(hours=1)
    book(world)
    assert hours(world) == [(1, 5), (2, 5), (3, 9), (4, 9)]
    world.advance(hours=1)
    book(world)
    assert hours(world) == [(1, 5), (2, 5), (3, 9), (4, 9), (14, 1)]


def test_after_a_gap_all_hours_are_booked_some_at_a_time(world: World) -> None:
    set_price(world, "1")
    store(world, "a", MB)
    world.advance(hours=10)
    store(world, "b", 2 * MB)
    world.advance(hours=90)
    with world.database.write() as tx:
        assert metering.book_hours(tx, now=world.now, limit_hours=7) == 7
        assert tx.scalars(select(Meter.booked_until).order_by(Meter.since)).first() == (
            world.now - timedelta(hours=93)
        )
    assert book(world, limit_hours=7) == 100 - 7 + 90
    assert sorted(hours(world)) == sorted(
        [*((each, 1) for each in range(100)), *((each, 2) for each in range(10, 100))]
    )


def test_the_price_is_the_one_at_the_beginning_of_the_hour(world: World) -> None:
    set_price(world, "1")
    store(world, "a", 1000 * MB)
    set_price(world, "2", valid_from=world.now + timedelta(hours=2))
    set_price(world, "3", valid_from=world.now + timedelta(hours=3, minutes=1))
    world.advance(hours=6)
    book(world)
    assert [each.amount_femto for each in lines(world)] == [
        -price * 10**15 for price in (1, 1, 2, 2, 3, 3)
    ]


def test_an_hour_without_a_price_is_booked_as_nothing(world: World) -> None:
    store(world, "a", 1000 * MB)
    world.advance(hours=2)
    set_price(world, "1", currency="USD")
    set_price(world, "1", what="uploaded", unit="GB")
    world.advance(hours=2)
    assert book(world) == 4
    set_price(world, "1")
    world.advance(hours=1)
    book(world)
    rows = lines(world)
    assert [each.amount_femto for each in rows] == [0, 0, 0, 0, -(10**15)]
    assert [each.price_id is None for each in rows] == [True] * 4 + [False]
    assert {each.currency for each in rows} == {"EUR"}


def test_an_account_without_a_currency_is_billed_in_dollars(world: World) -> None:
    world.set(world.account, profile={})
    set_price(world, "1", currency="USD")
    set_price(world, "1", what="uploaded", unit="GB", currency="USD")
    store(world, "a", 1000 * MB)
    transfer(world, "snapshot", "s", 1000 * MB)
    world.advance(hours=1)
    book(world)
    rows = lines(world)
    assert {each.currency for each in rows} == {"USD"}
    assert [each.amount_femto for each in rows] == [-(10**15)] * 2


def test_the_largest_quantity_at_the_largest_rate_is_exact(world: World) -> None:
    set_price(world, "9.999999999999999", unit="MB-hour")
    set_price(world, "9.999999999999999", what="uploaded", unit="MB")
    store(world, "a", LARGEST_QUANTITY_BYTES)
    transfer(world, "snapshot", "s", LARGEST_QUANTITY_BYTES)
    world.advance(hours=2)
    book(world)
    amounts = [each.amount_femto for each in lines(world)]
    assert amounts == [-(10**16 - 1) * 9 * 10**9] * 3
    with pytest.raises(UsageError, match="cannot be billed"):
        store(world, "a", LARGEST_QUANTITY_BYTES + 1)
    with pytest.raises(UsageError, match="cannot be billed"):
        transfer(world, "snapshot", "t", -1)


def test_the_labels_of_the_source_are_kept_with_the_line(world: World) -> None:
    source = world.add_source(world.add_host(), labels={"team": "blue"})
    snapshot = world.add_snapshot(source, world.add_repository())
    store(world, source, MB)
    transfer(world, "snapshot", snapshot.id, MB)
    world.advance(hours=1)
    book(world)
    world.set(source, labels={"team": "red"})
    world.advance(hours=1)
    book(world)
    assert [each.labels for each in lines(world)] == [
        *({"team": "blue"}, {"team": "blue"}, {"team": "red"})
    ]


def test_a_transfer_is_booked_once_for_each_run(world: World) -> None:
    """M1: a repeated report of the same run books nothing more."""
    set_price(world, "0.09", what="uploaded", unit="GB")
    first = transfer(world, "snapshot", "s", 1500 * MB)
    assert first is not None
    assert first.amount_femto == -135 * 10**12
    world.advance(days=1)
    set_price(world, "5", what="uploaded", unit="GB")
    again = transfer(world, "snapshot", "s", 1500 * MB)
    assert again is not None
    assert again.id == first.id
    assert transfer(world, "snapshot", "t", 0) is None
    transfer(world, "snapshot", "s", MB, what="downloaded")
    transfer(world, "snapshot", "u", 1000 * MB)
    assert [(each.what, each.amount_femto) for each in lines(world)] == [
        ("uploaded", -135 * 10**12),
        ("downloaded", 0),
        ("uploaded", -5 * 10**15),
    ]


def test_a_transaction_that_fails_books_nothing(world: World) -> None:
    """M1: what a killed process had begun is done again as if it had never been."""
    set_price(world, "1")
    store(world, "a", 5 * MB)
    world.advance(hours=3, minutes=5)

    class KilledError(Exception):
        pass

    def book_and_die() -> None:
        with world.database.write() as tx:
            assert metering.book_hours(tx, now=world.now) == 3
            raise KilledError

    with pytest.raises(KilledError):
        book_and_die()
    assert lines(world) == []
    assert book(world) == 3
    assert hours(world) == [(0, 5), (1, 5), (2, 5)]


def test_a_clock_that_goes_back_books_no_hour_twice(world: World) -> None:
    set_price(world, "1")
    store(world, "a", 5 * MB)
    world.advance(hours=3)
    book(world)
    world.advance(hours=-2)
    store(world, "a", 7 * MB)
    assert book(world) == 0
    store(world, "a", 0)
    world.advance(minutes=-1)
    store(world, "a", 9 * MB)
    world.advance(hours=6)
    book(world)
    assert hours(world) == [(0, 5), (1, 5), (2, 5), (3, 9), (4, 9), (5, 9)]


def test_even_meters_that_overlap_by_mistake_book_an_hour_once(world: World) -> None:
    """M1: the ledger itself refuses an hour that is booked; the rest goes on."""
    set_price(world, "1")
    store(world, "a", 5 * MB)
    world.advance(hours=3)
    book(world)
    with world.database.write() as tx:
        meter = tx.scalars(select(Meter)).one()
        meter.booked_until = world.now - timedelta(hours=2)
    world.advance(hours=1)
    assert book(world) == 1
    assert [hour for hour, _ in hours(world)] == [0, 1, 2, 3]


def test_accounts_are_charged_for_their_own(world: World) -> None:
    set_price(world, "1")
    other = world.add_account("Other")
    store(world, world.add_source(world.add_host()), 1000 * MB)
    store(world, world.add_source(world.add_host(other)), 3000 * MB)
    world.advance(hours=2)
    assert book(world) == 4
    assert [each.amount_femto for each in lines(world)] == [-(10**15)] * 2
    assert [each.amount_femto for each in lines(world, other)] == [-3 * 10**15] * 2


def test_what_is_loaded_already_shows_the_new_balance(world: World) -> None:
    set_price(world, "1")
    store(world, "a", 1000 * MB)
    world.advance(hours=1)
    with world.database.write() as tx:
        account = tx.get_one(Account, world.account.id)
        metering.book_hours(tx, now=world.now)
        assert ledger.balance(account) == Decimal(-1)
        account.name = "renamed"
    assert world.again(world.account).name == "renamed"
    assert len(lines(world)) == 1


def test_a_thing_has_one_open_meter(world: World) -> None:
    for quantity in (1, 2, 3, 3, 0, 4):
        store(world, "a", quantity * MB)
    with world.database.read() as tx:
        meters = tx.scalars(select(Meter).where(Meter.until.is_(None))).all()
    assert [each.quantity_bytes for each in meters] == [4 * MB]
    assert hours(world) == []


def test_a_thousand_accounts_are_booked_together(world: World) -> None:
    set_price(world, "1")
    accounts = [
        {
            "id": f"account {number:04}",
            "name": "many",
            "created_at": world.now,
            "region_id": world.region.id,
            "profile": {"currency": "EUR"},
        }
        for number in range(1000)
    ]
    meters = [
        {
            "account_id": each["id"],
            "region_id": world.region.id,
            "what": "stored",
            "resource_kind": "source",
            "resource_id": each["id"],
            "quantity_bytes": 1000 * MB,
            "since": world.now,
            "booked_until": world.now,
        }
        for each in accounts
    ]
    with world.database.write() as tx:
        tx.execute(insert(Account), accounts)
        tx.execute(insert(Meter), meters)
    world.advance(hours=2)
    assert book(world) == 2000
    with world.database.read() as tx:
        balances = tx.scalars(select(Account.balance_micro).where(Account.name == "many"))
        assert set(balances) == {-2_000_000}
