"""Prices are rows, valid from a time; the past keeps its prices (M1, B10)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from control_world import World

from holdfast.control import audit, prices
from holdfast.control.principal import Principal
from holdfast.control.tables import Price
from holdfast.errors import Conflict, Forbidden, NotFound, UsageError

DOCUMENT = {"format": prices.DOCUMENT_FORMAT}


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "what": "stored",
        "region": "*",
        "currency": "EUR",
        "rate": "0.02",
        "unit": "GB-month",
    } | changes


def refresh(world: World, *entries: dict[str, Any], **options: Any) -> int:
    with world.database.write() as tx:
        document = {**DOCUMENT, "prices": list(entries)}
        return prices.refresh(tx, document, origin="test", now=world.now, **options)


def rates(world: World, what: str = "stored", currency: str = "EUR") -> list[tuple[str, Any]]:
    with world.database.read() as tx:
        found = prices.prices(tx, world.principal())
    return [
        (each.rate, each.valid_from)
        for each in found
        if (each.what, each.currency, each.region_id) == (what, currency, world.region.id)
    ]


@pytest.mark.parametrize(
    ("what", "rate", "unit", "femto"),
    [
        ("stored", "0.023", "GB-month", 31_506_849),
        ("stored", "1", "GB-hour", 10**12),
        ("stored", "0.000000000001", "GB-hour", 1),
        ("stored", "24", "TB-day", 10**9),
        ("stored", "1.024", "GiB-hour", 953_674_316_406),
        ("uploaded", "0.09", "GB", 9 * 10**10),
        ("downloaded", "0", "GB", 0),
        ("downloaded", "1", "MB", 10**15),
    ],
)
def test_published_rates_become_femto(what: str, rate: str, unit: str, femto: int) -> None:
    assert prices.rate_femto(what, Decimal(rate), unit) == femto


@pytest.mark.parametrize(
    ("what", "rate", "unit"),
    [
        ("stored", "1", "GB"),
        ("uploaded", "1", "GB-month"),
        ("stored", "1", "GB-year"),
        ("stored", "1", "iB-month"),
        ("stored", "1", "gigabyte"),
        ("stored", "-1", "GB-month"),
        ("stored", "NaN", "GB-month"),
        ("uploaded", "10.1", "MB"),
        ("stored", "1e-14", "GB-hour"),
        ("stored", "1e40", "GB-hour"),
    ],
)
def test_rates_that_cannot_be_billed_are_refused(what: str, rate: str, unit: str) -> None:
    with pytest.raises(UsageError):
        prices.rate_femto(what, Decimal(rate), unit)


def test_a_price_holds_until_the_next_one(world: World) -> None:
    def at(hours: float) -> str | None:
        with world.database.read() as tx:
            moment = world.now + timedelta(hours=hours)
            price = prices.price_at(tx, "stored", world.region.id, "EUR", moment)
            return price.rate if price else None

    for hours, rate in ((5, "2"), (0, "1"), (9, "3")):
        with world.database.write() as tx:
            prices.set_price(
                tx,
                what="stored",
                region_id=world.region.id,
                currency="EUR",
                rate=Decimal(rate),
                unit="GB-hour",
                valid_from=world.now + timedelta(hours=hours),
                origin="test",
                now=world.now,
            )
    assert [at(-1), at(0), at(4.9), at(5), at(8), at(9), at(900)] == [
        *(None, "1", "1", "2", "2", "3", "3"),
    ]


def test_a_price_that_was_valid_is_not_changed(world: World) -> None:
    def put(rate: str, hours: int) -> Price:
        with world.database.write() as tx:
            return prices.set_price(
                tx,
                what="uploaded",
                region_id=world.region.id,
                currency="EUR",
                rate=Decimal(rate),
                unit="GB",
                valid_from=start + timedelta(hours=hours),
                origin="test",
                now=world.now,
            )

    start = world.now
    first, coming = put("1", 0), put("5", 24)
    world.advance(hours=1)
    assert put("1", 0).id == first.id, "the same again is no change"
    with pytest.raises(Conflict, match="later time"):
        put("2", 0)
    assert put("6", 24).id == coming.id, "what nobody was billed for can be corrected"
    assert [each[0] for each in rates(world, "uploaded")] == ["1", "6"]


def test_an_operator_who_sets_a_price_is_in_the_audit(world: World) -> None:
    """A5: who set which price; and nobody else may."""

    def put(who: Principal) -> None:
        with world.database.write() as tx:
            prices.set_price(
                tx,
                what="uploaded",
                region_id=world.region.id,
                currency="EUR",
                rate=Decimal("0.5"),
                unit="GB",
                valid_from=world.now,
                origin="test",
                now=world.now,
                who=who,
            )

    with pytest.raises(Forbidden):
        put(world.principal())
    put(world.operator())
    with world.database.read() as tx:
        [entry] = audit.entries(tx, world.operator(), cursor=None, limit=5).items
    assert (entry.action, entry.actor_id) == ("price.set", world.operator().id)
    assert entry.after is not None
    assert (entry.after["rate"], entry.after["unit"]) == ("0.5", "GB")


def test_an_unknown_region_is_told(world: World) -> None:
    with pytest.raises(NotFound, match="nowhere"), world.database.write() as tx:
        prices.set_price(
            tx,
            what="stored",
            region_id="nowhere",
            currency="EUR",
            rate=Decimal(1),
            unit="GB-hour",
            valid_from=world.now,
            origin="test",
            now=world.now,
        )


def test_a_list_adds_what_differs_and_nothing_else(world: World) -> None:
    assert refresh(world, entry(), entry(what="uploaded", rate="0", unit="GB")) == 2
    first = world.now
    world.advance(hours=1)
    assert refresh(world, entry(), entry(what="uploaded", rate="0", unit="GB")) == 0
    later = world.advance(hours=1)
    assert refresh(world, entry(rate="0.03"), entry(what="uploaded", rate="0", unit="GB")) == 1
    assert rates(world) == [("0.02", first), ("0.03", later)]


def test_a_list_does_not_reach_into_the_past(world: World) -> None:
    """M1: hours that passed keep the price that was known then."""
    refresh(world, entry(rate="0.02"))
    first = world.now
    world.advance(days=3)
    old = (world.now - timedelta(days=2)).isoformat()
    older = (world.now - timedelta(days=2, hours=1)).isoformat()
    listed = [entry(rate="0.05", valid_from=old), entry(rate="0.04", valid_from=older)]
    assert refresh(world, *listed) == 1
    assert rates(world) == [("0.02", first), ("0.05", world.now)]


def test_a_list_may_announce_prices_and_correct_what_it_announced(world: World) -> None:
    ahead = world.now + timedelta(days=30)
    listed = entry(rate="0.05", valid_from=ahead.isoformat())
    assert refresh(world, entry(), listed) == 2
    world.advance(hours=1)
    assert refresh(world, entry(), listed) == 0
    assert refresh(world, entry(), listed | {"rate": "0.04"}) == 1
    assert rates(world)[-1] == ("0.04", ahead)


def test_a_region_that_is_named_wins_over_all_regions(world: World) -> None:
    other = world.add_region("there")
    named = entry(region="here", rate="0.01")
    foreign = entry(region="not one of ours", rate="9")
    assert refresh(world, named, entry(), foreign) == 2
    assert [each[0] for each in rates(world)] == ["0.01"]
    with world.database.read() as tx:
        price = prices.price_at(tx, "stored", other.id, "EUR", world.now)
    assert price is not None
    assert price.rate == "0.02"


def test_built_in_prices_are_for_regions_without_any(world: World) -> None:
    refresh(world, entry(currency="USD", rate="7"))
    world.add_region("there")
    assert refresh(world, *prices.DEFAULT_PRICES["prices"], only_missing=True) == 9
    assert refresh(world, *prices.DEFAULT_PRICES["prices"], only_missing=True) == 0
    assert rates(world) == []
    assert [each[0] for each in rates(world, currency="USD")] == ["7"]


BROKEN: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("not an object", lambda good: "0.02"),
    ("unit", lambda good: good | {"unit": None}),
    ("no unit", lambda good: good | {"unit": "GB-fortnight"}),
    ("float", lambda good: good | {"rate": 0.02}),
    ("text", lambda good: good | {"rate": "cheap"}),
    ("True", lambda good: good | {"rate": True}),
    ("currency", lambda good: good | {"currency": "euro"}),
    ("no price for", lambda good: good | {"what": "sunshine"}),
    ("time zone", lambda good: good | {"valid_from": "2026-12-01T00:00:00"}),
    ("no time", lambda good: good | {"valid_from": "soon"}),
]


@pytest.mark.parametrize("broken", [each[1] for each in BROKEN], ids=[each[0] for each in BROKEN])
def test_one_bad_entry_leaves_everything_as_it_was(
    world: World, broken: Callable[[dict[str, Any]], Any]
) -> None:
    with pytest.raises(UsageError, match="Entry 2 "):
        refresh(world, entry(rate="0.5"), broken(entry()))
    assert rates(world) == []


def test_what_is_no_list_is_refused(world: World) -> None:
    for document in ({}, {"format": "other", "prices": []}, {**DOCUMENT, "prices": {}}):
        with pytest.raises(UsageError, match="no price list"), world.database.write() as tx:
            prices.refresh(tx, document, origin="test", now=world.now)


def test_prices_can_be_asked_for_as_they_stand(world: World) -> None:
    refresh(world, entry(rate="1"))
    world.advance(days=1)
    ahead = (world.now + timedelta(days=1)).isoformat()
    refresh(world, entry(rate="2"), entry(rate="3", valid_from=ahead))
    with world.database.read() as tx:
        found = prices.prices(tx, world.principal(rights=["read"]), at=world.now)
    assert [each.rate for each in found] == ["2", "3"]
