"""The ledger against a calculation of its own: fractions, one hour and thing at a time (M1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from itertools import count

import pytest
from control_money import book, give_credit, lines, set_price, store, transfer
from control_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.control import ledger, metering

RESOURCES = ("a", "b", "c")
UNITS = {"GB-hour": (1000, 1), "GB-month": (1000, 730), "TB-day": (1_000_000, 24)}
HOUR = timedelta(hours=1)
numbers = count()


@dataclass
class Books:
    """What should be booked, by its own arithmetic."""

    quantities: dict[str, list[tuple[datetime, int]]] = field(default_factory=dict)
    rates: dict[datetime, Fraction] = field(default_factory=dict)
    others: Fraction = Fraction()

    def rate(self, at: datetime) -> Fraction:
        valid = [since for since in self.rates if since <= at]
        return self.rates[max(valid)] if valid else Fraction()

    def expected(self, begin: datetime, end: datetime) -> dict[tuple[str, datetime], Fraction]:
        found = {}
        for resource, changes in self.quantities.items():
            hour = begin
            while hour < end:
                there = [quantity for at, quantity in changes if at <= hour]
                if there and there[-1]:
                    mb = Fraction(there[-1], 10**6) + Fraction(1, 2)
                    found[resource, hour] = -(mb.numerator // mb.denominator) * self.rate(hour)
                hour += HOUR
        return found


def published(rate: str, unit: str) -> Fraction:
    """The documented conversion: for each MB and hour, to 1e-15, half to even."""
    mb, hours = UNITS[unit]
    with localcontext() as context:
        context.prec = 80
        exact = Decimal(rate) / mb / hours
        return Fraction(exact.quantize(Decimal("1e-15"), ROUND_HALF_EVEN))


sizes = st.one_of(st.just(0), st.integers(1, 3_000_000), st.integers(10**9, 5 * 10**15))
rates = st.decimals("0.001", "500", places=12).map(str)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 400)),
        st.tuples(st.just("pass"), st.sampled_from([60, 120])),
        st.tuples(st.just("store"), st.sampled_from(RESOURCES), sizes),
        st.tuples(st.just("price"), rates, st.sampled_from(list(UNITS)), st.integers(0, 300)),
        st.tuples(st.just("book"), st.integers(1, 5)),
        st.tuples(st.just("fail"), st.sampled_from(RESOURCES), sizes),
        st.tuples(st.just("transfer"), sizes),
        st.tuples(st.just("credit"), st.decimals("-50000", "50000", places=15)),
    ),
    max_size=40,
)


class FailedError(Exception):
    """A transaction that ends before its time."""


def fail(world: World, resource_id: str, quantity_bytes: int) -> None:
    with world.database.write() as tx:
        metering.set_quantity(
            tx,
            account_id=world.account.id,
            region_id=world.region.id,
            what="stored",
            resource_kind="source",
            resource_id=resource_id,
            quantity_bytes=quantity_bytes,
            now=world.now,
        )
        metering.book_hours(tx, now=world.now)
        raise FailedError


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps, offset=st.sampled_from([0, 0, 17]))
def test_any_history_is_booked_exactly(world: World, steps: list[tuple], offset: int) -> None:  # type: ignore[type-arg]
    # Each history has a region and an account of its own.
    world.region = world.add_region(f"region {next(numbers)}")
    world.account = world.add_account("Customer")
    world.now = world.now.replace(minute=offset)
    begin = world.now.replace(minute=0)
    ids = {each: f"{each} {world.account.id[:30]}" for each in RESOURCES}
    books, transfers = Books(), Fraction()
    for number, (act, *values) in enumerate(steps):
        match act:
            case "pass":
                world.advance(minutes=values[0])
            case "store":
                store(world, ids[values[0]], values[1])
                books.quantities.setdefault(ids[values[0]], []).append((world.now, values[1]))
            case "price":
                rate, unit, ahead = values
                since = world.now + timedelta(minutes=ahead)
                set_price(world, rate, unit=unit, valid_from=since)
                books.rates[since] = published(rate, unit)
                if not ahead:
                    # Transfers have a price of their own.
                    set_price(world, rate, what="uploaded", unit="GB")
                    transfers = published(rate, "GB-hour")
            case "book":
                with world.database.write() as tx:
                    metering.book_hours(tx, now=world.now, limit_hours=values[0])
            case "fail":
                with pytest.raises(FailedError):
                    fail(world, ids[values[0]], values[1])
            case "transfer":
                for _ in range(2):
                    transfer(world, "snapshot", f"{number} {world.account.id[:30]}", values[0])
                mb = (2 * values[0] + 10**6) // (2 * 10**6)
                books.others -= mb * transfers
            case "credit":
                if values[0]:
                    give_credit(world, str(values[0]))
                    books.others += Fraction(values[0])
    world.now = world.now.replace(minute=0) + 2 * HOUR
    book(world, limit_hours=3)
    assert book(world) == 0
    rows = lines(world)
    hourly = [each for each in rows if each.kind == ledger.HOURLY]
    booked = {(each.resource_id, each.hour): Fraction(each.amount_femto, 10**15) for each in hourly}
    assert len(booked) == len(hourly), "an hour is booked twice"
    expected = books.expected(begin, world.now)
    assert booked == expected
    with world.database.read() as tx:
        balance = ledger.sum_femto(tx, world.account.id)
    assert Fraction(balance, 10**15) == sum(expected.values()) + books.others
