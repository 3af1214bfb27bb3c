"""Estimates list their assumptions; what it did cost stands beside them later (M3, B10)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from control_money import book, set_price, store, transfer
from control_world import World

from holdfast.control import amounts, estimates
from holdfast.control.tables import Snapshot, Source
from holdfast.errors import Forbidden, NotFound
from holdfast.model.retention import RetentionPolicy
from holdfast.model.schedule import Schedule

MB = 1_000_000


@pytest.fixture
def source(world: World) -> Source:
    set_price(world, "0.73", unit="GB-month")
    set_price(world, "0.5", what="uploaded", unit="GB")
    set_price(world, "0.25", what="downloaded", unit="GB")
    return world.add_source(world.add_host())


def run(world: World, source: Source, added_mb: int, **fields: Any) -> Snapshot:
    repository = getattr(world, "repository", None) or world.add_repository()
    world.repository = repository  # type: ignore[attr-defined]
    world.advance(hours=1)
    fields = {"stored_bytes": added_mb * MB, "share_bytes": added_mb * MB} | fields
    return world.add_snapshot(source, repository, **fields)


def sums(found: estimates.Estimate) -> list[str | None]:
    return [found.as_dict()["once"], found.as_dict()["per_month"]]


def test_a_first_snapshot_is_unknown_unless_its_size_is_told(world: World, source: Source) -> None:
    who = world.principal(rights=["read"])
    with world.database.read() as tx:
        unknown = estimates.estimate_snapshot(tx, who, source.id, now=world.now)
        told = estimates.estimate_snapshot(
            tx, who, source.id, now=world.now, expected_bytes=2000 * MB
        )
    assert sums(unknown) == [None, None]
    assert "not known" in " ".join(unknown.assumptions)
    assert sums(told) == ["1", "1.46"]
    assert told.currency == "EUR"
    assert "deduplication saves anything" in " ".join(told.assumptions)


def test_the_next_snapshot_is_taken_to_add_what_the_last_ones_did(
    world: World, source: Source
) -> None:
    who = world.principal()

    def estimate() -> estimates.Estimate:
        with world.database.read() as tx:
            return estimates.estimate_snapshot(tx, who, source.id, now=world.now)

    run(world, source, 8000)
    assert sums(estimate()) == ["0.4", "0.584"], "a tenth of the only one"
    for size in (100, 200, 300):
        run(world, source, size)
    run(world, source, 0, status="FAILED", manifest_id=None)
    assert sums(estimate()) == ["0.1", "0.146"], "the first one does not count"
    for _ in range(5):
        run(world, source, 1000)
    found = estimate()
    assert sums(found) == ["0.5", "0.73"]
    assert "mean of the last 5" in " ".join(found.assumptions)


def test_a_schedule_costs_by_its_runs_and_what_retention_keeps(
    world: World, source: Source
) -> None:
    run(world, source, 8000)
    run(world, source, 1000)
    with world.database.read() as tx:
        found = estimates.estimate_schedule(
            tx,
            world.principal(),
            source.id,
            schedule=Schedule.every(hours=73),
            policy=RetentionPolicy(keep_last=3),
            now=world.now,
        )
    # Ten runs upload 1 GB each; 8 GB and two later runs stay.
    assert sums(found) == ["0", amounts.exact(5 * 10**15 + 73 * 10**14)]
    text = " ".join(found.assumptions)
    assert "runs 10 times" in text
    assert "keeps 3 snapshots" in text
    assert {(cost.what, cost.quantity_bytes) for cost in found.costs} == {
        ("uploaded", 10_000 * MB),
        ("stored", 10_000 * MB),
    }


def test_a_schedule_of_an_unknown_source_is_open(world: World, source: Source) -> None:
    with world.database.read() as tx:
        found = estimates.estimate_schedule(
            tx,
            world.principal(),
            source.id,
            schedule=Schedule.preset("daily"),
            policy=RetentionPolicy.for_days(7),
            now=world.now,
        )
    assert found.as_dict()["per_month"] is None
    assert "keeps 7 snapshots" in " ".join(found.assumptions)


def test_a_restore_costs_what_it_downloads(world: World, source: Source) -> None:
    snapshot = run(world, source, 100, logical_bytes=4000 * MB)
    with world.database.read() as tx:
        who = world.principal()
        whole = estimates.estimate_restore(tx, who, snapshot.id, now=world.now)
        part = estimates.estimate_restore(
            tx, who, snapshot.id, now=world.now, restored_bytes=1000 * MB
        )
    assert sums(whole) == ["1", "0"]
    assert sums(part) == ["0.25", "0"]
    assert "everything" in whole.assumptions[0]


def test_what_has_no_price_costs_nothing_and_says_so(world: World, source: Source) -> None:
    world.set(world.account, profile={"currency": "INR"})
    run(world, source, 100)
    with world.database.read() as tx:
        found = estimates.estimate_snapshot(tx, world.principal(), source.id, now=world.now)
    assert sums(found) == ["0", "0"]
    assert "there is no price for stored in INR" in " ".join(found.assumptions)


def test_actual_costs_stand_beside_the_estimate(world: World, source: Source) -> None:
    run(world, source, 8000)
    run(world, source, 1000)
    created_at = world.now
    store(world, source, 9000 * MB)
    with world.database.read() as tx:
        before = estimates.estimate_snapshot(tx, world.principal(), source.id, now=world.now)
    snapshot = run(world, source, 3000, created_at=created_at)
    transfer(world, "snapshot", snapshot.id, 3000 * MB)
    store(world, source, 12_000 * MB)
    world.set(snapshot, share_bytes=2000 * MB)
    world.advance(hours=10)
    set_price(world, "7.3", unit="GB-month")
    world.advance(hours=5)
    book(world)
    with world.database.read() as tx:
        actual = estimates.actual_of(tx, world.principal(rights=["read"]), snapshot.id)
    assert actual.estimate == before
    assert (actual.uploaded_bytes, actual.share_bytes) == (3000 * MB, 2000 * MB)
    assert actual.uploaded_femto == 15 * 10**14
    assert actual.stored_hours == 15
    # 2 GB at 0.001 for ten hours, at 0.01 for five.
    assert actual.stored_femto == 12 * 10**13
    assert json.loads(json.dumps(actual.as_dict()))["stored"] == "0.12"


def test_without_prices_actual_costs_are_nothing(world: World, source: Source) -> None:
    world.set(world.account, profile={"currency": "INR"})
    snapshot = run(world, source, 100)
    with world.database.read() as tx:
        actual = estimates.actual_of(tx, world.principal(), snapshot.id)
    assert actual.stored_femto == 0


def test_a_run_that_has_not_ended_has_no_actual_costs_yet(world: World, source: Source) -> None:
    snapshot = run(world, source, 0, status="RUNNING", stored_bytes=None, share_bytes=None)
    with world.database.read() as tx:
        actual = estimates.actual_of(tx, world.principal(), snapshot.id)
    assert (actual.uploaded_femto, actual.stored_femto, actual.stored_hours) == (None, None, 0)


def test_estimates_are_scoped(world: World, source: Source) -> None:
    """A4: another account's source is not found."""
    snapshot = run(world, source, 100)
    stranger = world.principal(world.add_account("Other"))
    with world.database.read() as tx:
        with pytest.raises(NotFound):
            estimates.estimate_snapshot(tx, stranger, source.id, now=world.now)
        with pytest.raises(NotFound):
            estimates.estimate_restore(tx, stranger, snapshot.id, now=world.now)
        with pytest.raises(NotFound):
            estimates.actual_of(tx, stranger, snapshot.id)
        with pytest.raises(Forbidden):
            estimates.actual_of(tx, world.principal(rights=["create"]), snapshot.id)
