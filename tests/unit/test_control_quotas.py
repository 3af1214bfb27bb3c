"""Quotas: stored bytes, snapshots, running jobs (A1)."""

from __future__ import annotations

import threading

import pytest
from control_money import store
from control_world import World

from holdfast.control import quotas
from holdfast.control.tables import Account, Snapshot
from holdfast.errors import Forbidden, QuotaExceeded

MB = 1_000_000


def check(world: World, **more: int) -> None:
    with world.database.write() as tx:
        quotas.check(tx, tx.get_one(Account, world.account.id), **more)


def test_without_quotas_everything_is_allowed(world: World) -> None:
    check(world, snapshots=10**9, stored_bytes=10**18)


def test_snapshots_that_are_or_will_be_count(world: World) -> None:
    world.set(world.account, quota_snapshots=3)
    source, repository = world.add_source(world.add_host()), world.add_repository()
    for status in ("PENDING", "FAILED", "SKIPPED", "COMPLETED", "DELETED", "EXPIRED"):
        check(world)
        world.add_snapshot(source, repository, status=status)
    check(world)
    with pytest.raises(QuotaExceeded, match="has 2 of 3 snapshots"):
        check(world, snapshots=2)
    world.add_snapshot(source, repository, status="RUNNING")
    with pytest.raises(QuotaExceeded, match="has 3 of 3 snapshots; delete some"):
        check(world)


def test_stored_bytes_are_those_of_the_meters(world: World) -> None:
    world.set(world.account, quota_stored_bytes=10 * MB)
    store(world, "a", 4 * MB)
    store(world, "a", 3 * MB)
    store(world, "b", 2 * MB)
    check(world)
    check(world, stored_bytes=5 * MB)
    with pytest.raises(QuotaExceeded):
        check(world, stored_bytes=5 * MB + 1)
    store(world, "b", 7 * MB)
    with pytest.raises(QuotaExceeded, match="recycle period"):
        check(world)
    store(world, "a", 0)
    check(world)


def test_a_quota_of_nothing_refuses_all(world: World) -> None:
    world.set(world.account, quota_stored_bytes=0)
    with pytest.raises(QuotaExceeded):
        check(world)


def test_usage_is_shown_beside_the_quotas(world: World) -> None:
    world.set(world.account, quota_snapshots=5)
    world.add_snapshot(world.add_source(world.add_host()), world.add_repository())
    store(world, "a", 4 * MB)
    with world.database.read() as tx:
        found = quotas.usage(tx, world.principal(rights=["read"]))
        with pytest.raises(Forbidden):
            quotas.usage(tx, world.principal(rights=["create"]))
    assert found.as_dict() == {
        "stored_bytes": {"used": 4 * MB, "quota": None},
        "snapshots": {"used": 1, "quota": 5},
        "running_jobs": {"used": 0, "quota": None},
    }


def test_two_requests_do_not_both_take_the_last_place(world: World) -> None:
    world.set(world.account, quota_snapshots=1)
    source, repository = world.add_source(world.add_host()), world.add_repository()
    gate = threading.Barrier(4)
    done: list[str] = []

    def request() -> None:
        gate.wait()
        try:
            with world.database.write() as tx:
                quotas.check(tx, tx.get_one(Account, world.account.id))
                tx.add(
                    Snapshot(
                        account_id=world.account.id,
                        source_id=source.id,
                        host_id=source.host_id,
                        repository_id=repository.id,
                        created_at=world.now,
                    )
                )
        except QuotaExceeded:
            done.append("refused")
        else:
            done.append("made")

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["made", "refused", "refused", "refused"]
