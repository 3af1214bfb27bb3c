from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import select

from holdfast.control import recycle, snapshots, upkeep
from holdfast.control.tables import Job, Repository, Source


@pytest.fixture
def repository(world: World) -> Repository:
    return world.set(world.add_repository(), created_in_store_at=world.now)


@pytest.fixture
def keeper(world: World) -> CatalogAgent:
    return CatalogAgent(world, world.add_host(world.operator_account, keeper=True, max_jobs=9))


def plan(world: World) -> int:
    return upkeep.plan(world.database, now=world.now)


def kinds(world: World) -> Counter[str]:
    with world.database.read() as tx:
        return Counter(tx.scalars(select(Job.kind)))


def test_a_repository_that_is_not_made_yet_needs_nothing(world: World) -> None:
    world.add_repository()
    assert plan(world) == 0


def test_every_byte_is_read_in_thirty_days(
    world: World, repository: Repository, keeper: CatalogAgent
) -> None:
    """S5"""
    read = []
    for day in range(30):
        if day not in (5, 17):  # two days without a keeper
            plan(world)
            read += [job.spec["share"] for job in keeper.work() if job.kind == "verify"]
        world.advance(days=1)
    assert [each["number"] for each in read] == list(range(1, 29))
    assert {each["of"] for each in read} == {28}
    assert world.again(repository).verify_share["number"] == 28
    plan(world)
    assert [job.spec["share"]["number"] for job in keeper.work() if job.kind == "verify"] == [1]


def test_a_day_has_one_check_and_one_comparison(
    world: World, repository: Repository, keeper: CatalogAgent
) -> None:
    """S5"""
    for _ in range(24 * 6):
        plan(world)
        keeper.work()
        world.advance(minutes=10)
    found = kinds(world)
    assert (found["verify"], found["reconcile"]) == (2, 2), "begun at 10:00, and at about 8:00"


def test_without_a_keeper_jobs_do_not_pile_up(world: World, repository: Repository) -> None:
    for _ in range(10):
        plan(world)
        world.advance(days=1)
    assert kinds(world) == Counter(verify=1, reconcile=1)


def test_pruning_follows_removals(
    world: World, repository: Repository, keeper: CatalogAgent
) -> None:
    """S4"""
    source = world.add_source(world.add_host())
    row = world.add_snapshot(source, repository)
    plan(world)
    keeper.work()
    assert kinds(world)["prune"] == 0
    with world.database.write() as tx:
        snapshots.delete(tx, world.principal(), row.id, now=world.now)
    world.advance(days=8)
    recycle.purge_due(world.database, now=world.now)
    keeper.work()
    assert plan(world) > 0
    assert [job.kind for job in keeper.work()].count("prune") == 1
    world.advance(days=3)
    plan(world)
    keeper.work()
    assert kinds(world)["prune"] == 1
    world.advance(days=40)
    plan(world)
    assert kinds(world)["prune"] == 2, "failed runs leave blobs, too"


def test_measuring_follows_changes_at_most_hourly(
    world: World, repository: Repository, keeper: CatalogAgent
) -> None:
    """S1"""
    source: Source = world.add_source(world.add_host())
    measured = []
    for hour in range(6):
        if hour in (1, 2, 4):
            world.add_snapshot(source, repository)
        for _ in range(3):
            plan(world)
            measured += [hour for job in keeper.work() if job.kind == "measure"]
            world.advance(minutes=20)
    assert measured == [1, 2, 4]


def test_the_comparison_leaves_alone_what_may_still_get_a_row(
    world: World, repository: Repository
) -> None:
    source = world.add_source(world.add_host())
    done = world.add_snapshot(source, repository)
    world.add_snapshot(source, repository, status="DELETED", manifest_id="d" * 64)
    world.add_snapshot(source, repository, manifest_id="e" * 64, purged_at=world.now)
    with world.database.write() as tx:
        snapshots.request(
            tx, world.principal(), source_id=source.id, now=world.now, keys=world.keys
        )
    begun = world.now
    world.advance(hours=10)
    plan(world)
    with world.database.read() as tx:
        job = tx.scalars(select(Job).where(Job.kind == "reconcile")).one()
    assert job.spec["known"] == sorted([done.manifest_id or "", "d" * 64])
    assert datetime.fromisoformat(job.spec["older_than"]) == begun - timedelta(days=1)
    assert job.lock_key == f"repository:{repository.id}"
    assert job.host_id is None
    assert datetime.fromisoformat(job.spec["older_than"]).tzinfo == UTC


def test_planning_twice_makes_each_job_once(world: World, repository: Repository) -> None:
    assert plan(world) == 2
    assert plan(world) == 0
    with world.database.read() as tx:
        keys = list(tx.scalars(select(Job.idempotency_key)))
    assert len(set(keys)) == 2
    assert all(repository.id in (key or "") for key in keys)


def test_many_repositories_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH_REPOSITORIES", 2)
    for number in range(5):
        row = world.add_repository(world.add_account(f"Account {number}"))
        world.set(row, created_in_store_at=world.now)
    assert plan(world) == 10
    assert plan(world) == 0
