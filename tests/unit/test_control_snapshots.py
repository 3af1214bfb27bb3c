from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import select

from holdfast.control import schedules, snapshots
from holdfast.control.principal import Right
from holdfast.control.tables import AuditEntry, Host, Job, Snapshot, Source
from holdfast.errors import (
    CreditExhausted,
    Forbidden,
    NameTaken,
    NotFound,
    NotReady,
    PathOutsideRoots,
    QuotaExceeded,
    UsageError,
)


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host()


@pytest.fixture
def source(world: World, host: Host) -> Source:
    return world.add_source(host)


def request(world: World, source: Source, **fields: Any) -> Snapshot:
    fields.setdefault("who", world.principal())
    who = fields.pop("who")
    with world.database.write() as tx:
        return snapshots.request(
            tx, who, source_id=source.id, now=world.now, keys=world.keys, **fields
        )


def listed(world: World, **filters: Any) -> list[str]:
    with world.database.read() as tx:
        return [each.name for each in snapshots.snapshots(tx, world.principal(), **filters).items]


def test_back_up_now(world: World, host: Host, source: Source) -> None:
    """B5 B6"""
    row = request(
        world, source, name="before the update", description="v2 → v3", labels={"team": "vision"}
    )
    assert (row.status, row.trigger, row.slot_at) == ("PENDING", "manual", None)
    agent = CatalogAgent(world, host)
    job = agent.claim()
    assert job is not None
    assert job.id == row.job_id
    assert (job.spec["name"], job.spec["trigger"]) == ("before the update", "manual")
    assert world.again(row).status == "RUNNING"
    agent.succeed(job)
    done = world.again(row)
    assert (done.status, done.description, done.labels) == (
        "COMPLETED",
        "v2 → v3",
        {"team": "vision"},
    )
    assert done.manifest_id is not None
    with world.database.read() as tx:
        entry = tx.scalars(select(AuditEntry).where(AuditEntry.action == "snapshot.request")).one()
    assert (entry.subject_id, entry.request_id) == (row.id, "request")


def test_statuses_are_the_words_of_the_history() -> None:
    """B6"""
    assert snapshots.STATUSES == (
        "PENDING",
        "RUNNING",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "SKIPPED",
        "EXPIRED",
        "DELETED",
    )


def test_a_run_that_waits_is_cancelled_at_once(world: World, source: Source) -> None:
    """B5"""
    row = request(world, source)
    who = world.principal()
    with world.database.write() as tx:
        assert snapshots.cancel(tx, who, row.id, now=world.now).status == "CANCELLED"
    with world.database.write() as tx:
        assert snapshots.cancel(tx, who, row.id, now=world.now).status == "CANCELLED"
        assert tx.get_one(Job, row.job_id).state == "cancelled"


def test_a_run_that_goes_on_is_cancelled_when_its_agent_hears(
    world: World, host: Host, source: Source
) -> None:
    """B5"""
    row = request(world, source)
    job = CatalogAgent(world, host).claim()
    assert job is not None
    with world.database.write() as tx:
        assert snapshots.cancel(tx, world.principal(), row.id, now=world.now).status == "RUNNING"
        assert tx.get_one(Job, job.id).cancel_requested_at == world.now


def test_what_has_ended_cannot_be_cancelled(world: World, host: Host, source: Source) -> None:
    """B5"""
    row = request(world, source)
    CatalogAgent(world, host).work()
    with pytest.raises(NotReady), world.database.write() as tx:
        snapshots.cancel(tx, world.principal(), row.id, now=world.now)


def test_a_name_is_there_once(world: World, host: Host, source: Source) -> None:
    """V5"""
    first = request(world, source, name="golden")
    with pytest.raises(NameTaken, match=first.id):
        request(world, source, name="golden")
    request(world, source, name="Golden")
    request(world, source)
    request(world, source)
    other = world.add_account("Other")
    request(
        world,
        world.add_source(world.add_host(other)),
        name="golden",
        who=world.principal(other),
    )
    who = world.principal()
    with world.database.write() as tx:
        assert not snapshots.is_name_free(tx, who, "golden")
        snapshots.cancel(tx, who, first.id, now=world.now)
    with world.database.read() as tx:
        assert snapshots.is_name_free(tx, who, "golden")
    request(world, source, name="golden")


def test_of_two_requests_at_once_one_gets_the_name(world: World, source: Source) -> None:
    """V5"""
    world.add_repository()

    def ask() -> str:
        try:
            return request(world, source, name="golden").status
        except NameTaken:
            return "taken"

    with ThreadPoolExecutor(4) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert sorted(answers) == ["PENDING", "taken", "taken", "taken"]


def test_a_removed_snapshot_keeps_its_name_until_it_is_purged(world: World, source: Source) -> None:
    """V5"""
    row = world.add_snapshot(source, world.add_repository(), name="golden")
    who = world.principal()
    with world.database.write() as tx:
        snapshots.delete(tx, who, row.id, now=world.now)
    with pytest.raises(NameTaken):
        request(world, source, name="golden")
    world.set(row, purged_at=world.now)
    request(world, source, name="golden")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"name": "x" * 51},
        {"description": "x" * 2001},
        {"description": "a\0"},
        {"labels": {"a": 1}},
        {"schedule_id": "schedule"},
    ],
)
def test_what_cannot_be_meant_is_refused(
    world: World, source: Source, wrong: dict[str, Any]
) -> None:
    """V5"""
    if "schedule_id" in wrong:
        other = world.add_source(world.add_host())
        with world.database.write() as tx:
            schedule = schedules.create(
                tx,
                world.principal(),
                source_id=other.id,
                preset="daily",
                retention={"keep_last": 1},
                now=world.now,
            )
        wrong = {"schedule_id": schedule.id}
    with pytest.raises(UsageError):
        request(world, source, **wrong)


def test_no_run_without_credit_room_or_a_host(world: World, host: Host, source: Source) -> None:
    """A1 M4"""
    world.set(world.account, prepaid=True)
    with pytest.raises(CreditExhausted):
        request(world, source)
    world.set(world.account, prepaid=False, quota_snapshots=0)
    with pytest.raises(QuotaExceeded):
        request(world, source)
    world.set(world.account, quota_snapshots=None)
    world.set(host, roots=[])
    with pytest.raises(PathOutsideRoots):
        request(world, source)
    world.set(host, revoked_at=world.now)
    with pytest.raises(NotReady, match="revoked"):
        request(world, source)


def test_edit_changes_what_is_given(world: World, source: Source) -> None:
    row = world.add_snapshot(source, world.add_repository(), name="old", description="kept")
    who = world.principal()
    with world.database.write() as tx:
        snapshots.edit(tx, who, row.id, name="new", labels={"a": "b"}, now=world.now)
    again = world.again(row)
    assert (again.name, again.description, again.labels) == ("new", "kept", {"a": "b"})
    with world.database.write() as tx:
        snapshots.edit(tx, who, row.id, name="new", now=world.now)
        snapshots.edit(tx, who, row.id, name="", now=world.now)
    assert world.again(row).name == ""


def test_filters_and_orders(world: World, source: Source, host: Host) -> None:
    """S2"""
    repository = world.add_repository()
    other = world.add_source(world.add_host(), "/root/other")
    for name, of, status, fields in (
        ("a", source, "COMPLETED", {"labels": {"team": "vision", "stage": "1"}}),
        ("c", source, "FAILED", {"labels": {"team": "audio"}}),
        ("b", other, "COMPLETED", {"schedule_id": "s" * 36}),
    ):
        world.advance(hours=1)
        world.add_snapshot(of, repository, name=name, status=status, **fields)
    assert listed(world) == ["b", "c", "a"]
    assert listed(world, order="oldest") == ["a", "c", "b"]
    assert listed(world, order="name") == ["a", "b", "c"]
    assert listed(world, order="-name") == ["c", "b", "a"]
    assert listed(world, order="status") == ["a", "b", "c"]
    assert listed(world, source_id=source.id) == ["c", "a"]
    assert listed(world, host_id=host.id) == ["c", "a"]
    assert listed(world, schedule_id="s" * 36) == ["b"]
    assert listed(world, status="FAILED") == ["c"]
    assert listed(world, status=["FAILED", "COMPLETED"]) == ["b", "c", "a"]
    assert listed(world, kind="path") == ["b", "c", "a"]
    assert listed(world, kind="vm") == []
    assert listed(world, label="team") == ["c", "a"]
    assert listed(world, label="team=vision") == ["a"]
    assert listed(world, label="vision") == []
    assert listed(world, since=world.now) == ["b"]
    assert listed(world, until=world.now) == ["c", "a"]
    with pytest.raises(UsageError, match="newest"):
        listed(world, order="size")


def test_search_in_names_descriptions_and_labels(world: World, source: Source) -> None:
    """S2"""
    repository = world.add_repository()
    for name, fields in (
        ("Checkpoint 12", {}),
        ("second", {"description": "the checkpoint of Friday"}),
        ("third", {"labels": {"Project": "CheckPoint"}}),
        ("fourth", {"labels": {"note": 'Größe 100% {"a"}'}}),
    ):
        world.advance(hours=1)
        world.add_snapshot(source, repository, name=name, **fields)
    assert listed(world, search="checkPOINT") == ["third", "second", "Checkpoint 12"]
    assert listed(world, search="project") == ["third"]
    assert listed(world, search="Größe 100%") == ["fourth"]
    assert listed(world, search="100_") == []
    assert listed(world, search='": "') == []
    assert listed(world, search="friday") == ["second"]
    with pytest.raises(UsageError):
        listed(world, search="a\0b")


@pytest.mark.parametrize("order", list(snapshots.ORDERS))
def test_pages_show_everything_once(world: World, source: Source, order: str) -> None:
    """S2"""
    repository = world.add_repository()
    for number in range(12):
        world.add_snapshot(
            source,
            repository,
            name="same" if number % 2 else "",
            status=("COMPLETED", "FAILED")[number % 3 == 0],
            created_at=world.now + timedelta(minutes=number // 3),
        )
    seen: list[str] = []
    cursor = None
    with world.database.read() as tx:
        while True:
            page = snapshots.snapshots(
                tx, world.principal(), cursor=cursor, limit=5, order=order, search=""
            )
            seen += [each.id for each in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        whole = snapshots.snapshots(tx, world.principal(), order=order)
    assert len(set(seen)) == len(seen) == 12
    assert seen == [each.id for each in whole.items]


def test_others_snapshots_are_not_found(world: World, source: Source) -> None:
    """A4"""
    row = world.add_snapshot(source, world.add_repository(), name="secret")
    stranger = world.principal(world.add_account("Other"))
    with world.database.write() as tx:
        assert snapshots.snapshots(tx, stranger).items == []
        assert snapshots.snapshots(tx, stranger, source_id=source.id).items == []
        assert snapshots.is_name_free(tx, stranger, "secret")
        with pytest.raises(NotFound):
            snapshots.get(tx, stranger, row.id)
        for act in (snapshots.delete, snapshots.recover, snapshots.cancel, snapshots.edit):
            with pytest.raises(NotFound):
                act(tx, stranger, row.id, now=world.now)


def test_rights_and_narrowed_tokens(world: World, source: Source) -> None:
    """A2"""
    row = world.add_snapshot(source, world.add_repository())
    elsewhere = world.add_source(world.add_host(), "/root/b")
    narrow = world.principal(resources=frozenset({elsewhere.id}))
    with world.database.write() as tx:
        assert snapshots.snapshots(tx, narrow).items == []
        with pytest.raises(NotFound):
            snapshots.get(tx, narrow, row.id)
        for right, act in (
            (Right.READ, snapshots.delete),
            (Right.CREATE, snapshots.delete),
            (Right.DELETE, snapshots.recover),
            (Right.READ, snapshots.edit),
        ):
            with pytest.raises(Forbidden):
                act(tx, world.principal(rights=[right]), row.id, now=world.now)
    with pytest.raises(NotFound):
        request(world, source, who=narrow)
    with pytest.raises(Forbidden):
        request(world, source, who=world.principal(rights=[Right.READ]))
