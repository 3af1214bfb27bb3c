"""A repository that its store has lost: nothing makes it anew until somebody says so."""

from __future__ import annotations

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import gateway_access, jobs, lost_repository
from holdfast.control.completion import stored
from holdfast.control.completion.reconcile import MISSING
from holdfast.control.principal import ALL_RIGHTS, Principal, Right
from holdfast.control.tables import AuditEntry, Meter, Repository, Snapshot
from holdfast.errors import Forbidden, NotFound


@pytest.fixture
def repository(world: World) -> Repository:
    return world.set(world.add_repository(), created_in_store_at=world.now, stored_bytes=7_000_000)


def declare(world: World, repository_id: str, who: Principal | None = None) -> None:
    with world.database.write() as tx:
        lost_repository.declare_lost(tx, who or world.principal(), repository_id, now=world.now)


def told(world: World, repository: Repository) -> bool:
    """Whether a host that gets a job is told that the repository exists."""
    with world.database.write() as tx:
        job = jobs.enqueue(
            tx,
            account_id=world.account.id,
            region_id=world.region.id,
            repository_id=repository.id,
            host_id=None,
            kind="measure",
            subject_kind="repository",
            subject_id=repository.id,
            lock_key="key",
            spec={},
            now=world.now,
        )
        key = gateway_access.repository_of_job(tx, job, keys=world.keys)
    assert key is not None
    return key.exists


def test_hosts_are_told_what_was_made_already(world: World, repository: Repository) -> None:
    assert told(world, repository)
    declare(world, repository.id)
    assert not told(world, repository)


def test_what_was_in_it_is_missing_and_costs_nothing(world: World, repository: Repository) -> None:
    """M1: what is gone is not billed; and every row stays."""
    source = world.add_source(world.add_host())
    there = world.add_snapshot(source, repository, share_bytes=7_000_000)
    gone = world.add_snapshot(source, repository, share_bytes=0, purged_at=world.now)
    with world.database.write() as tx:
        stored.meter_sources(tx, tx.get_one(Repository, repository.id), [source.id], now=world.now)
    declare(world, repository.id)
    marked = world.again(there)
    assert [each["code"] for each in marked.findings] == [MISSING]
    assert (marked.status, marked.share_bytes) == ("COMPLETED", 0)
    assert world.again(gone).findings == []
    with world.database.read() as tx:
        assert tx.scalars(select(Meter).where(Meter.until.is_(None))).all() == []
        entry = tx.scalars(select(AuditEntry).where(AuditEntry.action == "repository.lost")).one()
        assert len(tx.scalars(select(Snapshot)).all()) == 2
    assert entry.before is not None
    assert entry.before["stored_bytes"] == 7_000_000
    assert entry.after == {"snapshots": 1}


def test_it_is_declared_once(world: World, repository: Repository) -> None:
    declare(world, repository.id)
    declare(world, repository.id)
    with world.database.read() as tx:
        found = select(AuditEntry).where(AuditEntry.action == "repository.lost")
        assert len(tx.scalars(found).all()) == 1


def test_a2_a4_it_takes_two_rights_for_the_whole_account(
    world: World, repository: Repository
) -> None:
    for right in (Right.DELETE, Right.ADMINISTER):
        with pytest.raises(Forbidden):
            declare(world, repository.id, world.principal(rights=ALL_RIGHTS - {right}))
    with pytest.raises(Forbidden):
        declare(world, repository.id, world.principal(resources=frozenset({repository.id})))
    for who in (world.operator(), world.principal(world.add_account("Other"))):
        with pytest.raises(NotFound):
            declare(world, repository.id, who)
    assert told(world, repository)
