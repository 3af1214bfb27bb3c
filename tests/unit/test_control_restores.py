from __future__ import annotations

from typing import Any

import pytest
from catalog_agent import CatalogAgent
from control_world import World

from holdfast.control import restores, snapshots
from holdfast.control.principal import Right
from holdfast.control.tables import Host, Job, Restore, Snapshot
from holdfast.errors import (
    Forbidden,
    InUse,
    NotFound,
    NotReady,
    PathMalformed,
    PathOutsideRoots,
)


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host()


@pytest.fixture
def snapshot(world: World, host: Host) -> Snapshot:
    return world.add_snapshot(world.add_source(host), world.add_repository())


def request(world: World, snapshot: Snapshot, **fields: Any) -> Restore:
    who = fields.pop("who", None) or world.principal()
    with world.database.write() as tx:
        return restores.request(tx, who, snapshot_id=snapshot.id, now=world.now, **fields)


def job_of(world: World, row: Restore) -> Job:
    with world.database.read() as tx:
        return tx.get_one(Job, row.job_id)


def test_a_restore_goes_into_a_directory_of_its_own(
    world: World, host: Host, snapshot: Snapshot
) -> None:
    """B7"""
    row = request(world, snapshot)
    assert (row.status, row.target, row.paths) == ("PENDING", "/root/restored", [])
    job = job_of(world, row)
    assert (job.host_id, job.kind, job.correlation_id) == (host.id, "restore", "request")
    assert job.spec == {
        "restore_id": row.id,
        "snapshot_id": snapshot.id,
        "manifest_id": snapshot.manifest_id,
        "captured_path": "/root/models",
        "target": "/root/restored",
        "directory": "/root/restored",
        "paths": [],
    }
    CatalogAgent(world, host).work()
    done = world.again(row)
    assert (done.status, done.files, done.restored_bytes) == ("COMPLETED", 3, 3_000_000)


def test_another_host_with_roots_of_its_own(world: World, snapshot: Snapshot) -> None:
    """B7"""
    other = world.add_host(roots=[{"path": "/data", "directory": "/srv/pods/7"}])
    row = request(
        world, snapshot, host_id=other.id, target="/data/back/", paths=["b//c", "./a", "a"]
    )
    assert (row.host_id, row.target, row.paths) == (other.id, "/data/back", ["a", "b/c"])
    spec = job_of(world, row).spec
    assert (spec["directory"], spec["captured_path"]) == ("/srv/pods/7/back", "/root/models")
    assert request(world, snapshot, host_id=other.id).target == "/data/restored"


def test_targets_and_selections_stay_inside(world: World, snapshot: Snapshot) -> None:
    """B2 B7"""
    with pytest.raises(PathOutsideRoots):
        request(world, snapshot, target="/etc")
    with pytest.raises(PathMalformed):
        request(world, snapshot, paths=["/root/models/a"])
    with world.database.read() as tx:
        assert restores.restores(tx, world.principal()).items == []


def test_hosts_that_cannot_be_restored_onto(world: World, snapshot: Snapshot) -> None:
    """B7 H2"""
    for fields in ({"revoked_at": world.now}, {"put_only": True}):
        with pytest.raises(NotReady):
            request(world, snapshot, host_id=world.add_host(**fields).id)
    theirs = world.add_host(world.add_account("Other"))
    with pytest.raises(NotFound):
        request(world, snapshot, host_id=theirs.id)


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "FAILED", "CANCELLED", "SKIPPED"])
def test_only_what_has_data_is_restored(world: World, snapshot: Snapshot, status: str) -> None:
    """B7"""
    world.set(snapshot, status=status, manifest_id=None)
    with pytest.raises(NotReady):
        request(world, snapshot)


def test_what_was_removed_is_restored_while_it_can_be_recovered(
    world: World, snapshot: Snapshot
) -> None:
    """B7 S4"""
    with world.database.write() as tx:
        snapshots.delete(tx, world.principal(), snapshot.id, now=world.now)
    world.advance(days=6)
    assert request(world, snapshot).status == "PENDING"
    world.advance(days=2)
    with pytest.raises(NotReady):
        request(world, snapshot, target="/root/again")


def test_one_restore_at_a_time_into_a_directory(
    world: World, host: Host, snapshot: Snapshot
) -> None:
    """B7"""
    first = request(world, snapshot)
    with pytest.raises(InUse, match=first.id):
        request(world, snapshot, target="/root/restored/")
    request(world, snapshot, target="/root/elsewhere")
    with world.database.write() as tx:
        restores.cancel(tx, world.principal(), first.id, now=world.now)
    assert world.again(first).status == "CANCELLED"
    request(world, snapshot)


def test_a_long_target_has_a_job(world: World, snapshot: Snapshot) -> None:
    """B7"""
    target = "/root" + "/directory" * 300
    assert job_of(world, request(world, snapshot, target=target)).spec["target"] == target


def test_cancelling_and_listing(world: World, host: Host, snapshot: Snapshot) -> None:
    """B7"""
    rows = []
    for number in range(3):
        world.advance(minutes=1)
        rows.append(request(world, snapshot, target=f"/root/r{number}"))
    who = world.principal()
    with world.database.write() as tx:
        restores.cancel(tx, who, rows[1].id, now=world.now)
        restores.cancel(tx, who, rows[1].id, now=world.now)
    CatalogAgent(world, host).work()
    with pytest.raises(NotReady), world.database.write() as tx:
        restores.cancel(tx, who, rows[0].id, now=world.now)
    with world.database.read() as tx:
        found = restores.restores(tx, who, snapshot_id=snapshot.id, host_id=host.id)
        cancelled = restores.restores(tx, who, status="CANCELLED")
    assert [each.id for each in found.items] == [row.id for row in reversed(rows)]
    assert [each.id for each in cancelled.items] == [rows[1].id]


def test_rights_accounts_and_narrowed_tokens(world: World, snapshot: Snapshot) -> None:
    """A2 A4"""
    row = request(world, snapshot)
    stranger = world.principal(world.add_account("Other"))
    narrow = world.principal(resources=frozenset({"another"}))
    with world.database.write() as tx:
        for who in (stranger, narrow):
            assert restores.restores(tx, who).items == []
            with pytest.raises(NotFound):
                restores.get(tx, who, row.id)
            with pytest.raises(NotFound):
                restores.cancel(tx, who, row.id, now=world.now)
    with pytest.raises(NotFound):
        request(world, snapshot, who=stranger)
    with pytest.raises(Forbidden):
        request(world, snapshot, who=world.principal(rights=[Right.CREATE, Right.READ]))
