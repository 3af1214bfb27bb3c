from __future__ import annotations

from datetime import timedelta

import pytest
from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import func, select

from holdfast.control import holds, recycle, restores, snapshots
from holdfast.control.principal import Right
from holdfast.control.tables import Event, Host, Job, Repository, Snapshot, Source
from holdfast.errors import Forbidden, InUse, NotFound, NotReady, UsageError


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host()


@pytest.fixture
def source(world: World, host: Host) -> Source:
    return world.add_source(host)


@pytest.fixture
def repository(world: World) -> Repository:
    return world.add_repository()


@pytest.fixture
def keeper(world: World) -> CatalogAgent:
    return CatalogAgent(world, world.add_host(world.operator_account, keeper=True))


def delete(world: World, row: Snapshot) -> Snapshot:
    with world.database.write() as tx:
        return snapshots.delete(tx, world.principal(), row.id, now=world.now)


def recover(world: World, row: Snapshot) -> Snapshot:
    with world.database.write() as tx:
        return snapshots.recover(tx, world.principal(), row.id, now=world.now)


def purge(world: World) -> int:
    return recycle.purge_due(world.database, now=world.now)


def test_a_deleted_snapshot_can_be_recovered_for_a_week(
    world: World, source: Source, repository: Repository
) -> None:
    """S4 B5"""
    row = world.add_snapshot(source, repository)
    deleted = delete(world, row)
    assert (deleted.status, deleted.removed_at) == ("DELETED", world.now)
    assert deleted.purge_at == world.now + timedelta(days=7)
    assert "someone of Customer" in (deleted.removed_because or "")
    world.advance(days=6, hours=23)
    assert purge(world) == 0
    back = recover(world, row)
    assert (back.status, back.removed_at, back.purge_at) == ("COMPLETED", None, None)
    assert back.manifest_id == row.manifest_id
    world.advance(days=2)
    assert purge(world) == 0
    with world.database.read() as tx:
        kinds = list(tx.scalars(select(Event.kind).order_by(Event.id)))
        assert holds.holds(tx, world.principal(), row.id) == []
    assert kinds == ["snapshot.deleted", "snapshot.recovered"]


def test_the_account_says_for_how_long(
    world: World, source: Source, repository: Repository
) -> None:
    """S4"""
    world.set(world.account, recycle_days=30)
    row = world.add_snapshot(source, repository)
    assert delete(world, row).purge_at == world.now + timedelta(days=30)


def test_then_a_keeper_removes_the_data(
    world: World, source: Source, repository: Repository, keeper: CatalogAgent
) -> None:
    """S4"""
    rows = [world.add_snapshot(source, repository) for _ in range(3)]
    kept = world.add_snapshot(source, repository)
    for row in rows:
        delete(world, row)
    world.advance(days=7, minutes=2)
    assert purge(world) == 3
    with pytest.raises(NotReady):
        recover(world, rows[0])
    assert purge(world) == 0, "one job for each repository at a time"
    [job] = keeper.work()
    assert (job.kind, job.lock_key) == ("remove", f"repository:{repository.id}")
    assert {each["snapshot_id"] for each in job.spec["snapshots"]} == {row.id for row in rows}
    assert {each["manifest_id"] for each in job.spec["snapshots"]} == {
        row.manifest_id for row in rows
    }
    assert [world.again(row).purged_at for row in rows] == [world.now] * 3
    assert world.again(kept).purged_at is None
    assert purge(world) == 0


def test_a_job_takes_so_many_and_the_next_one_the_rest(
    world: World,
    source: Source,
    repository: Repository,
    keeper: CatalogAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recycle, "MAX_PER_JOB", 2)
    for _ in range(3):
        delete(world, world.add_snapshot(source, repository))
    world.advance(days=8)
    assert purge(world) == 2
    keeper.work()
    assert purge(world) == 1
    keeper.work()
    with world.database.read() as tx:
        left = select(func.count()).where(Snapshot.purged_at.is_(None))
        assert tx.scalar(left) == 0


def test_after_a_failed_removal_another_waits(
    world: World, source: Source, repository: Repository, keeper: CatalogAgent
) -> None:
    delete(world, world.add_snapshot(source, repository))
    world.advance(days=8)
    assert purge(world) == 1
    job = keeper.claim()
    assert job is not None
    keeper.fail(job)
    assert purge(world) == 0
    world.advance(hours=2)
    assert purge(world) == 1


def test_repositories_are_apart(world: World, source: Source, repository: Repository) -> None:
    other = world.add_account("Other")
    theirs = world.add_source(world.add_host(other))
    delete(world, world.add_snapshot(source, repository))
    mine = world.add_snapshot(theirs, world.add_repository(other))
    with world.database.write() as tx:
        snapshots.delete(tx, world.principal(other), mine.id, now=world.now)
    world.advance(days=8)
    assert purge(world) == 2
    with world.database.read() as tx:
        assert set(tx.scalars(select(Job.account_id))) == {world.account.id, other.id}


def test_a_run_without_data_is_purged_at_once(
    world: World, source: Source, repository: Repository
) -> None:
    """B5"""
    row = world.add_snapshot(source, repository, status="FAILED")
    assert delete(world, row).status == "DELETED"
    with pytest.raises(NotReady):
        recover(world, row)
    world.advance(minutes=2)
    assert purge(world) == 1
    assert world.again(row).purged_at == world.now
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_must_end_before_it_is_deleted(
    world: World, source: Source, repository: Repository, status: str
) -> None:
    row = world.add_snapshot(source, repository, status=status)
    with pytest.raises(NotReady, match="cancel"):
        delete(world, row)


def test_deleting_again_changes_nothing(
    world: World, source: Source, repository: Repository
) -> None:
    row = world.add_snapshot(source, repository)
    first = delete(world, row)
    world.advance(days=1)
    assert delete(world, row).purge_at == first.purge_at
    assert recover(world, row).status == recover(world, row).status == "COMPLETED"


def test_a_held_snapshot_is_not_deleted(
    world: World, source: Source, repository: Repository
) -> None:
    """S4"""
    row = world.add_snapshot(source, repository)
    who = world.principal()
    with world.database.write() as tx:
        first = holds.place(tx, who, row.id, reason="audit 2026", now=world.now)
        second = holds.place(tx, who, row.id, reason="a court", now=world.now)
    with pytest.raises(InUse, match="hold"):
        delete(world, row)
    without_right = world.principal(rights=[Right.CREATE, Right.READ])
    with pytest.raises(Forbidden), world.database.write() as tx:
        holds.release(tx, without_right, first.id, now=world.now)
    with world.database.write() as tx:
        holds.release(tx, who, first.id, now=world.now)
        holds.release(tx, who, first.id, now=world.now)
    with pytest.raises(InUse):
        delete(world, row)
    with world.database.write() as tx:
        holds.release(tx, who, second.id, now=world.now)
    assert delete(world, row).status == "DELETED"
    with world.database.read() as tx:
        found = holds.holds(tx, who, row.id)
    assert {each.reason for each in found} == {"audit 2026", "a court"}
    assert [each.released_at for each in found] == [world.now] * 2


def test_only_what_is_there_can_be_held(
    world: World, source: Source, repository: Repository
) -> None:
    """S4"""
    row = world.add_snapshot(source, repository)
    who = world.principal()
    with pytest.raises(UsageError), world.database.write() as tx:
        holds.place(tx, who, row.id, reason=" ", now=world.now)
    delete(world, row)
    with pytest.raises(NotReady), world.database.write() as tx:
        holds.place(tx, who, row.id, reason="too late", now=world.now)


def test_others_holds_are_not_found(world: World, source: Source, repository: Repository) -> None:
    """A4"""
    row = world.add_snapshot(source, repository)
    stranger = world.principal(world.add_account("Other"))
    with world.database.write() as tx:
        hold = holds.place(tx, world.principal(), row.id, reason="mine", now=world.now)
    with world.database.write() as tx:
        with pytest.raises(NotFound):
            holds.place(tx, stranger, row.id, reason="theirs", now=world.now)
        with pytest.raises(NotFound):
            holds.release(tx, stranger, hold.id, now=world.now)
        with pytest.raises(NotFound):
            holds.holds(tx, stranger, row.id)


def test_what_is_being_restored_is_not_purged(
    world: World, source: Source, repository: Repository, host: Host
) -> None:
    """B7"""
    row = world.add_snapshot(source, repository)
    delete(world, row)
    world.advance(days=6)
    with world.database.write() as tx:
        restore = restores.request(tx, world.principal(), snapshot_id=row.id, now=world.now)
    world.advance(days=2)
    assert purge(world) == 0
    with world.database.write() as tx:
        restores.cancel(tx, world.principal(), restore.id, now=world.now)
    assert purge(world) == 1
