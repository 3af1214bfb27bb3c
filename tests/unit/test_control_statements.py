"""Statements: by month, resource, label, schedule and snapshot; rounded once (M2, B10)."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from control_money import book, give_credit, lines, set_price, store, transfer
from control_world import World

from holdfast.control import amounts
from holdfast.control.statements import Statement, StatementTotal, statement
from holdfast.control.tables import Restore, Schedule, Source
from holdfast.errors import Forbidden, UsageError

MB = 1_000_000


def of(world: World, month: int = 11, **options: Any) -> Statement:
    with world.database.read() as tx:
        who = world.principal(rights=["read"])
        return statement(tx, who, year=2026, month=month, **options)


def costs(found: Statement) -> dict[tuple[str, str], str]:
    return {(line.name, line.what): amounts.exact(line.cost_femto) for line in found.lines}


def sources(world: World) -> tuple[Source, Source]:
    host = world.add_host(name="box")
    return (
        world.add_source(host, "/root/a", labels={"team": "blue", "env": "test"}),
        world.add_source(host, "/root/b", labels={"team": "red"}),
    )


def add_schedule(world: World, source: Source, name: str = "") -> Schedule:
    return world.insert(
        Schedule(
            account_id=source.account_id,
            source_id=source.id,
            name=name,
            interval_hours=6,
            created_at=world.now,
            updated_at=world.now,
            settled_until=world.now,
        )
    )


def test_a_month_has_the_hours_that_begin_in_it(world: World) -> None:
    """M2: booked later or not, an hour belongs to the month of its beginning."""
    set_price(world, "1")
    first, _ = sources(world)
    world.now = datetime(2026, 11, 30, 22, tzinfo=UTC)
    store(world, first, 1000 * MB)
    world.now = datetime(2026, 12, 1, 3, tzinfo=UTC)
    assert of(world).booked_until == datetime(2026, 11, 30, 22, tzinfo=UTC)
    book(world)
    november, december = of(world), of(world, 12)
    assert [each.cost for each in november.totals] == ["2.00"]
    assert [each.cost for each in december.totals] == ["3.00"]
    assert november.booked_until is None
    assert december.booked_until == world.now
    assert of(world, 10).as_dict()["lines"] == []


def test_by_resource_runs_belong_to_their_source(world: World) -> None:
    set_price(world, "1")
    set_price(world, "0.5", what="uploaded", unit="GB")
    set_price(world, "0.25", what="downloaded", unit="GB")
    first, second = sources(world)
    snapshot = world.add_snapshot(first, world.add_repository())
    restore = world.insert(
        Restore(
            account_id=world.account.id,
            snapshot_id=snapshot.id,
            host_id=first.host_id,
            target="/root/restored",
            status="COMPLETED",
            created_at=world.now,
            finished_at=world.now,
        )
    )
    transfer(world, "snapshot", snapshot.id, 1000 * MB)
    transfer(world, "restore", restore.id, 2000 * MB, what="downloaded")
    transfer(world, "download", "something else", 4000 * MB, what="downloaded")
    store(world, first, 2000 * MB)
    store(world, second, 3000 * MB)
    give_credit(world, "20.005")
    world.advance(hours=2)
    book(world)
    found = of(world)
    assert costs(found) == {
        ("box:/root/a", "stored"): "4",
        ("box:/root/a", "uploaded"): "0.5",
        ("box:/root/a", "downloaded"): "0.5",
        ("box:/root/b", "stored"): "6",
        ("something else", "downloaded"): "1",
    }
    assert {(line.unit, line.quantity) for line in found.lines if line.what == "stored"} == {
        ("MB-hour", 4000),
        ("MB-hour", 6000),
    }
    assert [each.as_dict() for each in found.totals] == [
        {
            "currency": "EUR",
            "cost": "12.00",
            "cost_exact": "12",
            "credit": "20.00",
            "credit_exact": "20.005",
        }
    ]


def test_rounding_happens_once_on_the_total(world: World) -> None:
    """M1: three times a third of a cent is a cent, not nothing."""
    set_price(world, "0.003335")
    for name in "abc":
        store(world, name, 1000 * MB)
    world.advance(hours=1)
    book(world)
    found = of(world)
    assert [line.as_dict()["cost"] for line in found.lines] == ["0.003335"] * 3
    assert [(each.cost, each.as_dict()["cost_exact"]) for each in found.totals] == [
        ("0.01", "0.010005")
    ]
    assert StatementTotal("EUR", 25 * 10**12, 0).cost == "0.02"
    assert StatementTotal("EUR", 35 * 10**12, 0).cost == "0.04"


def test_by_label(world: World) -> None:
    set_price(world, "1")
    first, second = sources(world)
    for source, quantity in ((first, 1000), (second, 2000), ("plain", 4000)):
        store(world, source, quantity * MB)
    world.advance(hours=1)
    book(world)
    assert costs(of(world, group_by="label", label="team")) == {
        ("blue", "stored"): "1",
        ("red", "stored"): "2",
        ("(none)", "stored"): "4",
    }
    everything = of(world, group_by="label", label="")
    assert everything == of(world, group_by="label")
    assert costs(everything) == {
        ("team=blue", "stored"): "1",
        ("env=test", "stored"): "1",
        ("team=red", "stored"): "2",
        ("(none)", "stored"): "4",
    }
    assert [each.cost for each in everything.totals] == ["7.00"], "the total counts it once"


def test_by_schedule_and_by_snapshot_what_is_stored_is_split(world: World) -> None:
    """B10: shown per backup, per configuration and per month."""
    set_price(world, "1")
    set_price(world, "0.5", what="uploaded", unit="GB")
    first, _ = sources(world)
    repository = world.add_repository()
    nightly = add_schedule(world, first, "nightly")
    hourly = add_schedule(world, first)
    a = world.add_snapshot(
        first, repository, schedule_id=nightly.id, name="one", share_bytes=3000 * MB
    )
    transfer(world, "snapshot", a.id, 1000 * MB)
    store(world, first, 3000 * MB)
    world.advance(hours=2)
    b = world.add_snapshot(first, repository, schedule_id=hourly.id, share_bytes=1000 * MB)
    c = world.add_snapshot(first, repository, name="by hand", share_bytes=2000 * MB)
    store(world, first, 6000 * MB)
    world.advance(hours=2)
    book(world)
    # Hours: 2 of 3 GB and 2 of 6 GB are 18; weights 3 x 4, 1 x 2 and 2 x 2 of 18.
    by_snapshot = of(world, group_by="snapshot")
    assert {(line.group, line.what): line.cost_femto // 10**12 for line in by_snapshot.lines} == {
        (a.id, "stored"): 12_000,
        (a.id, "uploaded"): 500,
        (b.id, "stored"): 2_000,
        (c.id, "stored"): 4_000,
    }
    assert {line.name for line in by_snapshot.lines} == {
        *("one", "by hand", "/root/a 2026-11-02 12:00"),
    }
    assert costs(of(world, group_by="schedule")) == {
        ("nightly", "stored"): "12",
        ("nightly", "uploaded"): "0.5",
        ("box:/root/a", "stored"): "2",
        ("manual", "stored"): "4",
    }


@pytest.mark.parametrize("group_by", ["resource", "label", "schedule", "snapshot"])
def test_lines_add_up_to_the_ledger(world: World, group_by: str) -> None:
    """M2: whatever the groups are, to the last digit."""
    set_price(world, "0.0231", unit="GB-month")
    set_price(world, "0.0907", what="uploaded", unit="GB")
    repository = world.add_repository()
    for number, source in enumerate(sources(world)):
        schedule = add_schedule(world, source)
        for size in (7, 11, 13):
            snapshot = world.add_snapshot(
                source,
                repository,
                schedule_id=schedule.id if size > 7 else None,
                share_bytes=size * MB * (number + 1) // 3,
                stored_bytes=size * MB,
            )
            transfer(world, "snapshot", snapshot.id, size * MB)
            store(world, source, size * 5 * MB)
            world.advance(hours=7, minutes=13)
        world.set(snapshot, purged_at=world.now, share_bytes=0)
    world.advance(hours=1)
    book(world)
    found = of(world, group_by=group_by, label="team")
    total = -sum(each.amount_femto for each in lines(world))
    assert sum(line.cost_femto for line in found.lines) == total
    assert found.totals[0].cost_femto == total
    assert total


def test_as_json_and_as_csv(world: World) -> None:
    set_price(world, "1.0001")
    host = world.add_host(name="=box")
    store(world, world.add_source(host, "/root/ä"), 1000 * MB)
    world.advance(hours=1)
    book(world)
    found = of(world)
    document = json.loads(json.dumps(found.as_dict()))
    assert document["month"] == "2026-11"
    assert document["lines"][0]["cost"] == "1.0001"
    assert document["complete"] is False
    assert sum(Fraction(line["cost"]) for line in document["lines"]) == Fraction(
        document["totals"][0]["cost_exact"]
    )
    rows = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert [(row["name"], row["cost"]) for row in rows] == [
        ("'=box:/root/ä", "1.0001"),
        ("", "1.00"),
    ]
    assert rows[1]["group"] == "total"
    assert Decimal(rows[0]["quantity"]) == 1000


def test_a_statement_is_of_one_account_and_needs_the_right_to_read(world: World) -> None:
    set_price(world, "1")
    store(world, world.add_source(world.add_host(world.add_account("Other"))), 1000 * MB)
    world.advance(hours=1)
    book(world)
    assert of(world).lines == ()
    assert of(world).totals == ()
    with world.database.read() as tx:
        for who in (
            world.principal(rights=["create"]),
            world.principal(rights=["read"], resources=frozenset({"one"})),
        ):
            with pytest.raises(Forbidden):
                statement(tx, who, year=2026, month=11)


@pytest.mark.parametrize("wrong", [{"group_by": "colour"}, {"month": 13}, {"month": 0}])
def test_what_is_no_month_or_grouping_is_refused(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        of(world, **wrong)
