"""Copies of snapshots in another region: asking for one, its end, and what it costs (S6)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from control_copies import MB, Regions
from control_money import book, give_credit, lines, set_price, store
from control_world import START, World
from sqlalchemy import select

from holdfast.control import (
    copies,
    credit,
    estimates,
    holds,
    hosts,
    jobs,
    quotas,
    snapshots,
    statements,
)
from holdfast.control.principal import Principal, Right
from holdfast.control.quotas import usage
from holdfast.control.tables import (
    Account,
    Host,
    Job,
    LedgerEntry,
    Meter,
    Repository,
    Snapshot,
    Source,
)
from holdfast.errors import (
    CreditExhausted,
    Forbidden,
    InUse,
    NotFound,
    NotReady,
    QuotaExceeded,
    UsageError,
)


@pytest.fixture
def regions(world: World) -> Regions:
    return Regions(world)


def test_a_copy_is_a_snapshot_of_its_own_made_by_a_keeper_there(regions: Regions) -> None:
    """S6"""
    world = regions.world
    row = regions.add(
        name="before the move", description="all of it", labels={"run": "7"}, stored_bytes=2 * MB
    )
    copy = regions.copy(row)
    there = regions.repository_there()
    assert there is not None
    assert (copy.status, copy.trigger, copy.copy_of_id) == ("PENDING", "copy", row.id)
    assert (copy.repository_id, copy.kind, copy.source_id) == (there.id, row.kind, row.source_id)
    assert (copy.name, copy.description, copy.labels) == ("", "", {"run": "7"})
    assert (copy.captured_at, copy.files, copy.logical_bytes) == (
        world.again(row).captured_at,
        3,
        3 * MB,
    )
    assert (copy.schedule_id, copy.slot_at, copy.task_snapshot_id) == (None, None, None)
    job = regions.job(copy)
    assert (job.kind, job.subject_kind, job.subject_id) == ("copy", "snapshot", copy.id)
    assert (job.region_id, job.repository_id, job.host_id) == (regions.there.id, there.id, None)
    assert (job.lock_key, job.give_up_at) == (f"copy:{there.id}", world.now + timedelta(days=1))
    assert job.spec == {
        "snapshot_id": copy.id,
        "copy_of_id": row.id,
        "manifest_id": row.manifest_id,
        "source_repository_id": regions.repository.id,
        "source_region_id": regions.here.id,
    }
    assert regions.keeper_here.claim() is None, "its own region's keeper does not do it"
    world.advance(minutes=1)
    claimed = regions.keeper.claim()
    assert claimed is not None
    assert regions.statuses(copy) == ["RUNNING"]
    world.advance(minutes=1)
    regions.keeper.succeed(claimed, stored_bytes=MB, bytes_read=2 * MB)
    done = world.again(copy)
    assert (done.status, done.started_at) == ("COMPLETED", world.now - timedelta(minutes=1))
    assert (done.finished_at, done.manifest_id) != (None, row.manifest_id)
    assert (done.stored_bytes, done.share_bytes, done.freed_bytes) == (MB, MB, MB)
    assert done.read_bytes == 2 * MB
    filled = regions.repository_there()
    assert filled is not None
    assert (filled.stored_bytes, filled.created_in_store_at) == (MB, world.now)
    assert world.again(regions.source).protected_at is None, "a copy is no capture"
    assert [kind for kind, _ in regions.events(copy)] == ["snapshot.copied"]
    assert regions.audited(copy) == [("snapshot.copy", "user"), ("copy.succeeded", "system")]
    with world.database.read() as tx:
        assert [each.id for each in copies.copies_of(tx, world.principal(), row.id)] == [copy.id]


def test_a_copy_that_fails_says_so(regions: Regions) -> None:
    row = regions.add()
    copy = regions.copy(row)
    job = regions.keeper.claim()
    assert job is not None
    regions.keeper.fail(job, retryable=True)
    waiting = regions.world.again(copy)
    assert (waiting.status, waiting.error_code) == ("PENDING", "store_unavailable")
    regions.world.advance(minutes=1)
    job = regions.keeper.claim()
    assert job is not None
    regions.keeper.fail(job)
    failed = regions.world.again(copy)
    assert (failed.status, failed.finished_at) == ("FAILED", regions.world.now)
    assert failed.error_message == "The store did not answer."
    [(kind, message)] = regions.events(copy)
    assert kind == "snapshot.copy_failed"
    assert row.id[:8] in message
    assert "did not answer" in message
    assert regions.copy(row).status == "PENDING", "after a failure it can be asked for again"


def test_a_copy_is_cancelled_like_any_run(regions: Regions) -> None:
    """Neither the right to administer nor the task's own job is needed."""
    world = regions.world
    row = regions.add(kind="task")
    copy = regions.copy(row)
    member = world.principal(rights=[Right.CREATE, Right.READ])
    with world.database.write() as tx:
        assert snapshots.cancel(tx, member, copy.id, now=world.now).status == "CANCELLED"
    assert world.again(copy).error_code is None
    assert [kind for kind, _ in regions.events(copy)] == ["snapshot.cancelled"]
    with world.database.write() as tx, pytest.raises(Forbidden):
        jobs.request_cancel(
            tx, world.principal(rights=[Right.READ]), regions.job(copy).id, now=world.now
        )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"status": "PENDING"}, "PENDING"),
        ({"status": "RUNNING"}, "RUNNING"),
        ({"status": "FAILED"}, "FAILED"),
        ({"status": "DELETED", "manifest_id": "f" * 64}, "DELETED"),
        ({"manifest_id": None}, "cannot be copied"),
        ({"archive_format": "zip"}, "zip"),
    ],
)
def test_only_what_is_complete_and_in_the_repository_is_copied(
    regions: Regions, fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(NotReady, match=what):
        regions.copy(regions.add(**fields))
    assert regions.repository_there() is None, "a refused wish leaves nothing"


def test_the_region_must_be_another_one_that_there_is(regions: Regions) -> None:
    row = regions.add()
    with pytest.raises(UsageError, match="in which it lies already"):
        regions.copy(row, region_id=regions.here.id)
    with pytest.raises(UsageError, match="list the regions"):
        regions.copy(row, region_id="0" * 36)


def test_one_copy_of_a_snapshot_in_a_region(regions: Regions) -> None:
    row = regions.add()
    copy = regions.copy(row)
    with pytest.raises(InUse, match=f"{copy.id} to that region is PENDING"):
        regions.copy(row)
    regions.keeper.work()
    with pytest.raises(InUse, match=f"already, as {copy.id}"):
        regions.copy(row)
    regions.delete(copy)
    with pytest.raises(InUse, match="recover that one"):
        regions.copy(row)
    regions.world.set(copy, purged_at=regions.world.now)
    assert regions.copy(row).id != copy.id


def test_of_two_requests_at_once_one_makes_the_copy(regions: Regions) -> None:
    row = regions.add()
    regions.copied(regions.add())  # so that there is a repository
    gate = threading.Barrier(3)
    done: list[str] = []

    def ask() -> None:
        gate.wait()
        try:
            regions.copy(row)
        except InUse:
            done.append("refused")
        else:
            done.append("made")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["made", "refused", "refused"]
    assert len(regions.copies_of(row)) == 1


def test_a_copy_of_a_copy_is_one_of_the_original(regions: Regions) -> None:
    world = regions.world
    third = world.add_region("third", "/srv/third")
    row = regions.add()
    copy = regions.copied(row)
    again = regions.copy(copy, region_id=third.id)
    assert again.copy_of_id == row.id
    spec = regions.job(again).spec
    assert (spec["manifest_id"], spec["source_region_id"]) == (copy.manifest_id, regions.there.id)
    with pytest.raises(InUse, match=f"already, as {row.id}"):
        regions.copy(copy, region_id=regions.here.id)


def test_what_has_no_original_any_more_gets_no_copies(regions: Regions) -> None:
    world = regions.world
    third = world.add_region("third", "/srv/third")
    row = regions.add()
    copy = regions.copied(row)
    hold(regions, copy)
    regions.delete(row)
    with pytest.raises(NotReady, match=f"{row.id}, is DELETED"):
        regions.copy(copy, region_id=third.id)


def test_who_may_ask_for_a_copy(regions: Regions) -> None:
    """A4"""
    world = regions.world
    row = regions.add(regions.add_schedule())
    other = world.add_account("Other")
    with pytest.raises(NotFound):
        regions.copy(row, world.principal(other))
    with pytest.raises(Forbidden):
        regions.copy(row, world.principal(rights=[Right.READ, Right.RESTORE]))
    with pytest.raises(NotFound):
        regions.copy(row, world.principal(resources=frozenset({world.add_host().id})))
    with pytest.raises(Forbidden, match="extends to one schedule"):
        regions.copy(row, world.principal(resources=frozenset({row.schedule_id or ""})))
    narrow = world.principal(resources=frozenset({row.id}), rights=[Right.CREATE, Right.READ])
    copy = regions.copy(row, narrow)
    with world.database.read() as tx:
        assert snapshots.get(tx, narrow, copy.id).id == copy.id
        assert [each.id for each in jobs.jobs(tx, narrow).items] == [copy.job_id]
        shown = snapshots.snapshots(tx, narrow, copies=True).items
        assert {each.id for each in shown} == {row.id, copy.id}
        with pytest.raises(NotFound):
            copies.copies_of(tx, world.principal(other), row.id)


def test_copies_need_credit_and_room_but_no_place_among_snapshots(regions: Regions) -> None:
    """A1 M4"""
    world = regions.world
    row = regions.add()
    world.set(world.account, quota_snapshots=1)
    copy = regions.copied(row)
    assert copy.status == "COMPLETED"
    with world.database.read() as tx:
        assert usage(tx, world.principal()).snapshots == 1
    with world.database.write() as tx, pytest.raises(QuotaExceeded):
        quotas.check(tx, tx.get_one(Account, world.account.id))
    world.set(world.account, quota_snapshots=None, quota_stored_bytes=2 * MB)
    second = regions.add()
    with pytest.raises(QuotaExceeded, match="stores"):
        regions.copy(second)
    world.set(world.account, quota_stored_bytes=None, prepaid=True)
    with pytest.raises(CreditExhausted):
        regions.copy(second)


def test_lists_show_copies_where_they_are_asked_for(regions: Regions) -> None:
    world = regions.world
    rows = [regions.add(), regions.add()]
    made = [regions.copied(row).id for row in rows]
    who = world.principal()

    def listed(**wishes: Any) -> set[str]:
        with world.database.read() as tx:
            return {each.id for each in snapshots.snapshots(tx, who, **wishes).items}

    originals = {row.id for row in rows}
    assert listed() == originals
    assert listed(source_id=regions.source.id) == originals
    assert listed(status="COMPLETED", order="status") == originals
    assert listed(copies=True) == originals | set(made)
    assert listed(copy_of=rows[0].id) == {made[0]}
    assert listed(copy_of=rows[0].id, status="FAILED") == set()
    assert listed(copy_of=made[0]) == set()


def test_a_report_that_makes_no_sense_changes_nothing(regions: Regions) -> None:
    first, second = regions.add(), regions.add()
    known = regions.copied(first)
    copy = regions.copy(second)
    job = regions.keeper.claim()
    assert job is not None
    for wrong in (
        {"manifest_id": "no id"},
        {"manifest_id": known.manifest_id},
        {"stored_bytes": -1},
        {"bytes_read": None},
    ):
        with pytest.raises(UsageError):
            regions.keeper.succeed(job, **wrong)
    assert regions.statuses(copy) == ["RUNNING"]
    assert ledger_of(regions, copy) == {}


def hold(regions: Regions, row: Snapshot, reason: str = "an audit") -> str:
    world = regions.world
    with world.database.write() as tx:
        return holds.place(tx, world.principal(), row.id, reason=reason, now=world.now).id


def release(regions: Regions, hold_id: str) -> None:
    world = regions.world
    with world.database.write() as tx:
        holds.release(tx, world.principal(), hold_id, now=world.now)


def ledger_of(regions: Regions, row: Snapshot) -> dict[tuple[str, str], int]:
    """The transfers that were booked for it: by what and region, the femto."""
    with regions.world.database.read() as tx:
        found = select(LedgerEntry).where(LedgerEntry.resource_id == row.id)
        return {
            (each.what or "", each.region_id or ""): each.amount_femto for each in tx.scalars(found)
        }


def test_both_regions_are_paid_for_exactly(regions: Regions) -> None:
    """M1 M2: an independent calculation over two regions agrees to the last digit."""
    world = regions.world
    here, there = regions.here.id, regions.there.id
    femto = 10**15
    rates = {
        ("stored", here): "0.0000315",
        ("stored", there): "0.000047",
        ("downloaded", here): "0.09",
        ("uploaded", there): "0.013",
        ("uploaded", here): "0.01",
        ("downloaded", there): "7",
    }
    for (what, region_id), rate in rates.items():
        unit = "GB-hour" if what == "stored" else "GB"
        set_price(world, rate, what=what, unit=unit, region_id=region_id)
    per_mb = {key: int(float(rate) * 10**9) * femto // 10**12 for key, rate in rates.items()}
    row = regions.add(stored_bytes=700 * MB, share_bytes=700 * MB)
    store(world, regions.source, 700 * MB)
    stored_at = world.now
    world.advance(hours=2, minutes=30)
    copy = regions.copied(row, stored_bytes=650 * MB, bytes_read=660 * MB)
    world.advance(hours=3)
    book(world)
    regions.delete(copy)
    world.advance(days=7, minutes=2)
    assert regions.purge() == 1
    world.advance(minutes=1)
    regions.keeper.work()
    world.advance(hours=5)
    book(world)
    stored: Counter[str | None] = Counter()
    for each in lines(world):
        if each.kind == "hourly":
            stored[each.region_id] += each.quantity_mb
    purged_at = world.again(copy).purged_at
    assert purged_at is not None
    # An hour costs what is there when it begins.
    begun = [
        START + timedelta(hours=number)
        for number in range(24 * 30)
        if START + timedelta(hours=number + 1) <= world.now
    ]
    assert stored[here] == 700 * sum(stored_at <= hour for hour in begun)
    assert stored[there] == 650 * sum(regions.finished(copy) <= hour < purged_at for hour in begun)
    expected = -(
        stored[here] * per_mb["stored", here]
        + stored[there] * per_mb["stored", there]
        + 660 * per_mb["downloaded", here]
        + 650 * per_mb["uploaded", there]
    )
    assert sum(each.amount_femto for each in lines(world)) == expected
    assert ledger_of(regions, copy) == {
        ("downloaded", here): -660 * per_mb["downloaded", here],
        ("uploaded", there): -650 * per_mb["uploaded", there],
    }
    assert {each.labels["team"] for each in lines(world)} == {"red"}
    with world.database.read() as tx:
        assert [
            (each.region_id, each.quantity_bytes)
            for each in tx.scalars(select(Meter).where(Meter.until.is_(None)))
        ] == [(here, 700 * MB)]


def test_a_copy_is_booked_once_however_often_its_end_is_told(regions: Regions) -> None:
    for region in (regions.here, regions.there):
        for what in ("uploaded", "downloaded"):
            set_price(regions.world, "0.01", what=what, unit="GB", region_id=region.id)
    copy = regions.copied(regions.add())
    first = ledger_of(regions, copy)
    assert len(first) == 2
    with regions.world.database.read() as tx:
        job = tx.get_one(Job, copy.job_id)
    regions.keeper.succeed(job)
    assert ledger_of(regions, copy) == first


def test_statements_split_each_region_among_what_lies_there(regions: Regions) -> None:
    """M2: what a copy costs is its original's schedule's, and is by snapshot the copy's."""
    world = regions.world
    for region, rate in ((regions.here, "1"), (regions.there, "10")):
        set_price(world, rate, what="stored", unit="GB-hour", region_id=region.id)
    schedule = regions.add_schedule(name="nightly", copy_region_id=None)
    row = regions.add(schedule, stored_bytes=100 * MB, share_bytes=100 * MB)
    store(world, regions.source, 100 * MB)
    copy = regions.copied(row, stored_bytes=40 * MB)
    world.advance(hours=10)
    book(world)

    def costs(group_by: str) -> dict[str, str]:
        with world.database.read() as tx:
            found = statements.statement(
                tx, world.principal(), year=2026, month=11, group_by=group_by
            )
        assert sum(line.cost_femto for line in found.lines) == -sum(
            each.amount_femto for each in lines(world)
        )
        return {
            line.group: str(line.as_dict()["cost"]) for line in found.lines if line.what == "stored"
        }

    # 10 hours of 100 MB at 0.001 a MB here, 9 hours beginning after it of 40 MB at 0.01 there.
    by_snapshot = costs("snapshot")
    assert by_snapshot.keys() == {row.id, copy.id}
    assert float(by_snapshot[row.id]) == pytest.approx(0.001 * 100 * 9)
    assert float(by_snapshot[copy.id]) == pytest.approx(0.01 * 40 * 9)
    assert costs("schedule").keys() == {schedule.id}
    assert costs("resource").keys() == {regions.source.id}


def test_the_cost_of_a_copy_can_be_estimated_and_compared(regions: Regions) -> None:
    """M3"""
    world = regions.world
    here, there = regions.here.id, regions.there.id
    set_price(world, "0.09", what="downloaded", unit="GB", region_id=here)
    set_price(world, "0.02", what="uploaded", unit="GB", region_id=there)
    set_price(world, "0.000047", what="stored", unit="GB-hour", region_id=there)
    row = regions.add(stored_bytes=2 * MB, share_bytes=2 * MB, logical_bytes=30 * MB)
    with world.database.read() as tx:
        first = estimates.estimate_copy(
            tx, world.principal(), row.id, region_id=there, now=world.now
        )
        with pytest.raises(UsageError):
            estimates.estimate_copy(tx, world.principal(), row.id, region_id=here, now=world.now)
    assert [(each.what, each.region_id, each.per, each.quantity_bytes) for each in first.costs] == [
        ("downloaded", here, "once", 2 * MB),
        ("uploaded", there, "once", 2 * MB),
        ("stored", there, "month", 2 * MB),
    ]
    assert first.as_dict()["once"] == "0.00022"
    assert any("no snapshot of the source" in each for each in first.assumptions)
    copy = regions.copy(row)
    world.advance(minutes=1)
    regions.keeper.work()
    later = regions.add(stored_bytes=MB, share_bytes=MB)
    with world.database.read() as tx:
        second = estimates.estimate_copy(
            tx, world.principal(), later.id, region_id=there, now=world.now
        )
        actual = estimates.actual_of(tx, world.principal(), copy.id)
    assert {each.quantity_bytes for each in second.costs} == {MB}
    assert actual.estimate == first
    assert (actual.uploaded_bytes, actual.uploaded_femto) == (2 * MB, 2 * 2 * 10**10)


def test_the_history_of_a_source_knows_no_copies(regions: Regions) -> None:
    """M3: a copy is no run, so neither an estimate nor a later run is made from it."""
    world = regions.world
    row = regions.add(stored_bytes=10 * MB, share_bytes=10 * MB)
    before = estimate(regions)
    regions.copied(row, stored_bytes=500 * MB)
    assert estimate(regions) == before
    world.advance(minutes=1)
    schedule = regions.add_schedule(copy_region_id=None)
    assert regions.run(schedule).parent_id == row.id


def estimate(regions: Regions) -> list[int | None]:
    world = regions.world
    with world.database.read() as tx:
        found = estimates.estimate_snapshot(tx, world.principal(), regions.source.id, now=world.now)
    return [each.quantity_bytes for each in found.costs]


def test_copies_go_with_their_original_and_come_back_with_it(regions: Regions) -> None:
    """S4"""
    world = regions.world
    row = regions.add()
    copy = regions.copied(row)
    alone = regions.add()
    kept = regions.copied(alone)
    gone = regions.delete(row)
    went = world.again(copy)
    assert (went.status, went.removed_at, went.purge_at) == ("DELETED", world.now, gone.purge_at)
    assert went.removed_because == f"went with its original: {gone.removed_because}"
    assert regions.statuses(kept) == ["COMPLETED"]
    assert regions.events(copy)[-1][0] == "snapshot.deleted"
    assert regions.audited(copy)[-1] == ("snapshot.delete", "user")
    world.advance(days=3)
    assert regions.recover(row).status == "COMPLETED"
    back = world.again(copy)
    assert (back.status, back.removed_at, back.removed_because, back.purge_at) == (
        "COMPLETED",
        None,
        None,
        None,
    )
    assert regions.events(copy)[-1][0] == "snapshot.recovered"
    assert regions.follow() == 0


def test_a_copy_that_was_deleted_alone_stays_deleted(regions: Regions) -> None:
    row = regions.add()
    copy = regions.copied(row)
    regions.delete(copy)
    assert regions.statuses(row, copy) == ["COMPLETED", "DELETED"]
    regions.delete(row)
    regions.recover(row)
    assert regions.statuses(row, copy) == ["COMPLETED", "DELETED"]
    assert regions.recover(copy).status == "COMPLETED"
    assert holds_of(regions, copy) == []


def holds_of(regions: Regions, row: Snapshot) -> list[str]:
    with regions.world.database.read() as tx:
        found = holds.holds(tx, regions.world.principal(), row.id)
    return [each.reason for each in found if each.released_at is None]


def test_a_hold_keeps_the_copies_too(regions: Regions) -> None:
    """S4"""
    row = regions.add()
    copy = regions.copied(row)
    placed = hold(regions, row)
    with pytest.raises(InUse, match=f"copy of {row.id}, which is under a hold"):
        regions.delete(copy)
    with pytest.raises(InUse):
        regions.delete(row)
    release(regions, placed)
    assert regions.delete(copy).status == "DELETED"


def test_a_held_copy_outlives_its_original_until_the_hold_is_released(regions: Regions) -> None:
    """S4"""
    world = regions.world
    row = regions.add()
    copy = regions.copied(row)
    placed = hold(regions, copy)
    with pytest.raises(InUse, match="release its holds first"):
        regions.delete(copy)
    regions.delete(row)
    assert regions.follow() == 0
    assert regions.statuses(row, copy) == ["DELETED", "COMPLETED"]
    world.advance(days=30)
    release(regions, placed)
    gone = world.again(copy)
    assert (gone.status, gone.purge_at) == ("DELETED", world.now + timedelta(days=7))
    assert regions.audited(copy)[-1] == ("snapshot.delete", "system")


def test_a_copy_that_is_recovered_alone_is_held(regions: Regions) -> None:
    row = regions.add()
    copy = regions.copied(row)
    regions.delete(row)
    assert regions.recover(copy).status == "COMPLETED"
    assert holds_of(regions, copy) == ["recovered while its original is removed"]
    assert regions.follow() == 0
    assert regions.statuses(row, copy) == ["DELETED", "COMPLETED"]


def test_copies_expire_with_their_original(regions: Regions) -> None:
    """S3 S4"""
    world = regions.world
    schedule = regions.add_schedule(retention={"keep_last": 1}, copy_region_id=None)
    row = regions.add(schedule)
    copy = regions.copied(row)
    world.advance(days=1)
    newer = regions.run(schedule)
    old, went = world.again(row), world.again(copy)
    assert (old.status, went.status) == ("EXPIRED", "EXPIRED")
    assert went.purge_at == old.purge_at
    assert went.removed_because == f"went with its original: {old.removed_because}"
    assert regions.events(copy)[-1][0] == "snapshot.expired"
    assert regions.statuses(newer) == ["COMPLETED"]
    regions.recover(row)
    assert regions.statuses(row, copy) == ["COMPLETED", "COMPLETED"]
    assert holds_of(regions, copy) == [], "the original's hold keeps it"


def test_an_unfinished_copy_is_cancelled_after_its_original_went(regions: Regions) -> None:
    waiting, begun = regions.add(), regions.add()
    running = regions.copy(begun)
    job = regions.keeper.claim()
    assert job is not None
    pending = regions.copy(waiting)
    for row in (waiting, begun):
        regions.delete(row)
    assert regions.statuses(pending, running) == ["PENDING", "RUNNING"]
    assert regions.follow() == 2
    assert regions.follow() == 0, "it was told once"
    assert regions.statuses(pending) == ["CANCELLED"]
    assert regions.world.again(pending).error_code == "original_removed"
    assert regions.world.again(job).cancel_requested_at is not None
    # The keeper had done it before it heard: what it made goes along.
    regions.keeper.succeed(job)
    assert regions.statuses(running) == ["COMPLETED"]
    assert regions.follow() == 1
    assert regions.statuses(running) == ["DELETED"]


def test_what_is_being_copied_is_not_purged(regions: Regions) -> None:
    """S4"""
    world = regions.world
    third = world.add_region("third", "/srv/third")
    row = regions.add()
    between = regions.copied(row)
    copy = regions.copy(between, region_id=third.id)
    regions.delete(row)
    world.advance(days=8)
    assert regions.purge() == 0, "the copy may be read from either of them"
    regions.follow()
    assert regions.statuses(copy) == ["CANCELLED"]
    assert regions.purge() == 2
    regions.keeper.work()
    regions.keeper_here.work()
    purged = [world.again(each).purged_at for each in (row, between)]
    assert purged == [world.now, world.now]
    with world.database.read() as tx:
        removals = tx.scalars(select(Job).where(Job.kind == "remove")).all()
        homes = {tx.get_one(Repository, each.repository_id).region_id for each in removals}
    assert homes == {regions.here.id, regions.there.id}, "each in its own repository"


def test_names_are_the_originals(regions: Regions) -> None:
    """V5: a copy takes no name, and a person may give it one."""
    world = regions.world
    row = regions.add(name="the good one")
    copy = regions.copied(row)
    assert copy.name == ""
    with world.database.write() as tx:
        snapshots.edit(tx, world.principal(), copy.id, name="the copy", now=world.now)
    assert world.again(copy).name == "the copy"


def test_removing_a_source_cancels_its_copies(regions: Regions) -> None:
    from holdfast.control import sources

    world = regions.world
    copy = regions.copy(regions.add())
    with world.database.write() as tx:
        member = world.principal(rights=[Right.CREATE, Right.READ])
        sources.remove(tx, member, regions.source.id, now=world.now)
    assert regions.statuses(copy) == ["CANCELLED"]
    with world.database.read() as tx:
        assert tx.get_one(Source, regions.source.id).removed_at is not None


def test_a_keeper_is_invited_for_a_region(regions: Regions) -> None:
    """A3 S6: operators place keepers where copies go; other hosts are where their account is."""
    world = regions.world

    def invited(who: Principal, **wishes: Any) -> Host:
        with world.database.write() as tx:
            _, secret = hosts.invite(tx, who, now=world.now, **wishes)
            host, _ = hosts.enrol(
                tx,
                secret,
                name="machine",
                version="1",
                roots=[{"path": "/root", "directory": "/root"}],
                inventory={},
                address="192.0.2.9",
                now=world.now,
            )
        return host

    operator, there = world.operator(), regions.there.id
    keeper = invited(operator, keeper=True, region_id=there)
    assert (keeper.region_id, keeper.keeper) == (there, True)
    assert invited(operator, keeper=True).region_id == regions.here.id
    assert invited(world.principal()).region_id == regions.here.id
    with pytest.raises(UsageError, match="Only a keeper"):
        invited(operator, region_id=there)
    with pytest.raises(UsageError, match="list the regions"):
        invited(operator, keeper=True, region_id="nowhere")
    with pytest.raises(Forbidden):
        invited(world.principal(), keeper=True, region_id=there)


def test_without_credit_copies_go_and_come_back_like_the_rest(regions: Regions) -> None:
    """M4"""
    world = regions.world
    for region in (regions.here, regions.there):
        set_price(world, "0", what="stored", unit="GB-hour", region_id=region.id)
    row, held = regions.add(), regions.add()
    copies_made = [regions.copied(row), regions.copied(held)]
    hold(regions, held)
    world.set(world.account, prepaid=True)

    def look() -> None:
        for _ in range(3):
            with world.database.write() as tx:
                credit.update_states(tx, now=world.now)
            regions.follow()

    for _ in range(16):
        look()
        world.advance(days=1)
    everything = (row, *copies_made, held)
    assert regions.statuses(*everything) == ["DELETED", "DELETED", "COMPLETED", "COMPLETED"]
    assert world.again(copies_made[0]).removed_because == credit.REASON
    give_credit(world, "10")
    look()
    assert regions.statuses(*everything) == ["COMPLETED"] * 4


def test_whoever_is_first_nothing_is_left_of_a_removed_snapshot(regions: Regions) -> None:
    """S4: deleting, completing, asking for a copy and the clockwork, all at once."""
    world = regions.world
    third = world.add_region("third", "/srv/third")
    regions.copied(regions.add())
    failed: list[BaseException] = []
    for _ in range(5):
        row = regions.add()
        copy = regions.copy(row)
        job = regions.keeper.claim()
        assert job is not None
        gate = threading.Barrier(4)

        def at_once(act: Callable[[], object], gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                act()
            except (NotReady, InUse):
                pass  # it came too late
            except BaseException as error:  # so that it is seen outside of the thread
                failed.append(error)

        acts: list[Callable[[], object]] = [
            partial(regions.delete, row),
            partial(regions.keeper.succeed, job),
            partial(regions.copy, row, region_id=third.id),
            regions.follow,
        ]
        threads = [threading.Thread(target=at_once, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        world.advance(minutes=1)
        regions.follow()
        assert regions.statuses(row, copy) == ["DELETED", "DELETED"]
        assert {each.status for each in regions.copies_of(row)} <= {"DELETED", "CANCELLED"}
