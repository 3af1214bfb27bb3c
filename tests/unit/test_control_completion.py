"""What the end of each kind of job leaves in the catalog."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from control_runs import STAYS, Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import jobs
from holdfast.control.tables import Event, Host, Job, Meter, Restore, Schedule, Snapshot, Source
from holdfast.errors import UsageError


@pytest.fixture
def runs(world: World) -> Runs:
    return Runs(world)


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host()


@pytest.fixture
def source(world: World, host: Host) -> Source:
    return world.add_source(host)


@pytest.fixture
def keeper(world: World) -> Host:
    return world.add_host(world.operator_account, keeper=True)


def run(runs: Runs, host: Host, source: Source, **result: Any) -> Snapshot:
    """One whole run that goes well."""
    snapshot, _ = runs.add(source)
    job = runs.claim(host)
    assert job is not None
    runs.world.advance(seconds=10)
    runs.finish(host, job, result=runs.result(**result))
    return runs.world.again(snapshot)


def upkeep(runs: Runs, keeper: Host, kind: str, result: dict[str, Any], **spec: Any) -> Job:
    """One whole job of a keeper that goes well."""
    runs.add_upkeep(kind, spec=spec)
    job = runs.claim(keeper)
    assert job is not None
    runs.world.advance(seconds=10)
    return runs.finish(keeper, job, result=result)


def stored(world: World, source: Source) -> int:
    """What the source's open meter says."""
    with world.database.read() as tx:
        meter = tx.scalars(
            select(Meter).where(
                Meter.resource_id == source.id, Meter.what == "stored", Meter.until.is_(None)
            )
        ).one_or_none()
    return meter.quantity_bytes if meter else 0


def test_a_backup_fills_its_snapshot(world: World, runs: Runs, host: Host, source: Source) -> None:
    """S1, B4: what a run was, and that it was verified."""
    captured = world.now - timedelta(seconds=5)
    finding = {"code": "file_torn", "message": "It changed.", "subject": "/root/models/a"}
    snapshot, _ = runs.add(source)
    job = runs.claim(host)
    assert job is not None
    world.advance(seconds=30)
    result = runs.result(captured_at=captured.isoformat(), consistency="torn")
    runs.finish(host, job, result=result, findings=[finding])
    done = world.again(snapshot)
    assert {
        name: getattr(done, name) for name in result if name not in ("verified", "captured_at")
    } == {name: value for name, value in result.items() if name not in ("verified", "captured_at")}
    assert (done.status, done.captured_at, done.finished_at) == ("COMPLETED", captured, world.now)
    assert done.findings == [finding]
    assert done.verified_at == world.now
    assert (done.share_bytes, done.freed_bytes) == (3_000_000, 3_000_000)
    assert world.again(source).protected_at == captured
    repository = world.again(runs.repository)
    assert (repository.stored_bytes, repository.created_in_store_at) == (3_000_000, world.now)
    assert stored(world, source) == 3_000_000
    assert runs.bookings(snapshot.id) == 1
    again = run(runs, host, source, captured_at=(captured - timedelta(days=1)).isoformat())
    assert again.status == "COMPLETED"
    assert world.again(source).protected_at == captured, "it never goes back"
    assert stored(world, source) == 6_000_000


def test_an_unverified_run_is_not_proven(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot = run(runs, host, source, verified=False)
    assert (snapshot.verified_at, snapshot.verification) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"manifest_id": "short"},
        {"manifest_id": None},
        {"files": -1},
        {"files": True},
        {"files": 2**63},
        {"stored_bytes": 1.5},
        {"captured_at": "yesterday"},
        {"captured_at": "2026-11-02T10:00:00"},
        {"consistency": "splendid"},
        {"verified": "yes"},
    ],
)
def test_a_result_that_makes_no_sense_changes_nothing(
    world: World, runs: Runs, host: Host, source: Source, wrong: dict[str, Any]
) -> None:
    snapshot, job = runs.add(source)
    runs.claim(host)
    with pytest.raises(UsageError):
        runs.finish(host, world.again(job), result=runs.result(**wrong))
    assert world.again(job).state == "leased"
    assert world.again(snapshot).status == "RUNNING"


def test_no_run_takes_anothers_manifest(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """H2: a hacked machine could have it expire with its own and so erase the past."""
    first = run(runs, host, source)
    _, job = runs.add(source)
    runs.claim(host)
    with pytest.raises(UsageError, match="another snapshot's"):
        runs.finish(host, world.again(job), result=runs.result(manifest_id=first.manifest_id))


def test_retention_follows_a_run(world: World, runs: Runs, host: Host, source: Source) -> None:
    """B4, S3."""
    schedule = world.insert(
        Schedule(
            account_id=source.account_id,
            source_id=source.id,
            interval_hours=1,
            retention={"keep_last": 1},
            created_at=world.now,
            updated_at=world.now,
            settled_until=world.now,
        )
    )
    made = []
    for _ in range(2):
        snapshot, job = runs.add(source)
        world.set(snapshot, schedule_id=schedule.id)
        runs.claim(host)
        world.advance(hours=1)
        runs.finish(host, world.again(job))
        made.append(snapshot)
    assert [world.again(each).status for each in made] == ["EXPIRED", "COMPLETED"]
    assert runs.events(made[0].id)[-1] == "snapshot.expired"
    assert stored(world, source) == 6_000_000, "until it is purged it is stored"


def add_restore(world: World, runs: Runs, snapshot: Snapshot, host: Host) -> tuple[Restore, Job]:
    restore = world.insert(
        Restore(
            account_id=host.account_id,
            snapshot_id=snapshot.id,
            host_id=host.id,
            target="/root/restored",
            created_at=world.now,
        )
    )
    with world.database.write() as tx:
        job = jobs.enqueue(
            tx,
            account_id=host.account_id,
            region_id=host.region_id,
            repository_id=runs.repository.id,
            host_id=host.id,
            kind="restore",
            subject_kind="restore",
            subject_id=restore.id,
            lock_key=f"restore:{host.id}:/root/restored",
            spec={},
            now=world.now,
        )
    return restore, job


def test_a_restore_is_booked_and_told(world: World, runs: Runs, host: Host, source: Source) -> None:
    """B7."""
    snapshot = world.add_snapshot(source, runs.repository)
    restore, job = add_restore(world, runs, snapshot, host)
    runs.claim(host)
    assert world.again(restore).status == "RUNNING"
    finding = {"code": "owner_not_set", "message": "Not root.", "subject": "a"}
    runs.finish(
        host,
        world.again(job),
        result={"files": 4, "restored_bytes": 9_000_000},
        findings=[finding],
    )
    done = world.again(restore)
    assert (done.status, done.files, done.restored_bytes) == ("COMPLETED", 4, 9_000_000)
    assert done.findings == [finding]
    assert runs.bookings(restore.id) == 1
    assert runs.events(restore.id) == ["restore.completed"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_restore_that_comes_to_nothing(
    world: World, runs: Runs, host: Host, source: Source, cancelled: bool
) -> None:
    snapshot = world.add_snapshot(source, runs.repository)
    restore, job = add_restore(world, runs, snapshot, host)
    runs.claim(host)
    if cancelled:
        runs.cancel(job)
        runs.finish(host, world.again(job), "cancelled")
    else:
        runs.finish(host, world.again(job), "failed", error=STAYS)
    word = "cancelled" if cancelled else "failed"
    assert world.again(restore).status == word.upper()
    assert runs.events(restore.id) == [f"restore.{word}"]
    assert runs.bookings(restore.id) == 0


def test_damage_is_marked_where_it_is(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    """S5."""
    hurt, sound = (world.add_snapshot(source, runs.repository) for _ in range(2))
    upkeep(
        runs,
        keeper,
        "verify",
        {
            "packs_read": 5,
            "packs_total": 9,
            "bytes_read": 1,
            "damaged": {hurt.manifest_id: ["a", "b"], "f" * 64: ["x"]},
            "clean": False,
        },
        share={"number": 1, "of": 2},
    )
    found = world.again(hurt)
    assert found.verification is not None
    assert (found.verification["clean"], found.verification["damaged"]) == (False, ["a", "b"])
    assert [each["code"] for each in found.findings] == ["snapshot_damaged"]
    assert found.status == "COMPLETED"
    assert world.again(sound).verification is None
    assert world.again(runs.repository).verified_at == world.now
    with world.database.read() as tx:
        event = tx.scalars(select(Event).where(Event.kind == "verification.damaged")).one()
    assert event.data["damaged_snapshots"] == [hurt.id]


def verify_share(
    runs: Runs, keeper: Host, number: int, of: int, damaged: dict[str, list[str]] | None = None
) -> datetime:
    """One share, a day; returns when it was begun."""
    result = {
        "packs_read": 1,
        "packs_total": 3,
        "bytes_read": 1,
        "damaged": damaged or {},
        "clean": not damaged,
    }
    job = upkeep(runs, keeper, "verify", result, share={"number": number, "of": of})
    runs.world.advance(days=1)
    assert job.started_at is not None
    return job.started_at


def test_a_whole_round_proves_what_was_there_when_it_began(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    """S5: the last proven date is the beginning of a round without a gap."""
    before = world.add_snapshot(source, runs.repository)
    world.advance(hours=1)
    begun = verify_share(runs, keeper, 1, 3)
    during = world.add_snapshot(source, runs.repository)
    verify_share(runs, keeper, 2, 3)
    assert world.again(before).verified_at is None
    verify_share(runs, keeper, 3, 3)
    assert world.again(before).verified_at == begun
    assert world.again(before).verification == {
        "at": begun.isoformat(),
        "clean": True,
        "by": "verify",
    }
    assert world.again(during).verified_at is None
    second, *_ = [verify_share(runs, keeper, number, 3) for number in (1, 2, 3)]
    assert [world.again(each).verified_at for each in (before, during)] == [second, second]


def test_a_round_with_a_gap_proves_nothing(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    snapshot = world.add_snapshot(source, runs.repository)
    world.advance(hours=1)
    for number in (1, 3):
        verify_share(runs, keeper, number, 3)
    assert world.again(snapshot).verified_at is None
    for number in (2, 3):
        verify_share(runs, keeper, number, 3)
    assert world.again(snapshot).verified_at is None


def test_a_damaged_snapshot_is_not_proven_until_a_clean_round(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    hurt, sound = (world.add_snapshot(source, runs.repository) for _ in range(2))
    assert hurt.manifest_id is not None
    world.advance(hours=1)
    begun = verify_share(runs, keeper, 1, 2, {hurt.manifest_id: ["a"]})
    verify_share(runs, keeper, 2, 2)
    assert world.again(hurt).verified_at is None
    assert world.again(hurt).findings
    assert world.again(sound).verified_at == begun
    second, _ = [verify_share(runs, keeper, number, 2) for number in (1, 2)]
    repaired = world.again(hurt)
    assert (repaired.verified_at, repaired.findings) == (second, [])


def test_removal_purges_what_was_asked_and_done(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    """S4: only when it is gone is it no longer stored, and no longer billed."""
    gone, left, other = (
        world.add_snapshot(source, runs.repository, status="COMPLETED") for _ in range(3)
    )
    for each in (gone, left):
        world.set(each, status="EXPIRED", removed_at=world.now, purge_at=world.now)
    asked = [{"snapshot_id": each.id, "manifest_id": each.manifest_id} for each in (gone, left)]
    upkeep(
        runs,
        keeper,
        "remove",
        {"removed": [gone.manifest_id, other.manifest_id]},
        snapshots=asked,
    )
    assert world.again(gone).purged_at == world.now
    assert world.again(gone).share_bytes == 0
    assert world.again(left).purged_at is None
    assert world.again(other).purged_at is None, "nobody asked for this one"
    assert stored(world, source) == 4_000_000
    assert runs.events(gone.id) == ["snapshot.purged"]


def test_pruning_and_measuring_set_sizes(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    """M1, S1: shares and what would be freed."""
    one, two = (world.add_snapshot(source, runs.repository) for _ in range(2))
    neighbour = world.add_source(world.again(world.add_host()), "/root/other")
    three = world.add_snapshot(neighbour, runs.repository)
    upkeep(runs, keeper, "prune", {"freed_bytes": 9, "stored_bytes": 5_000_000})
    repository = world.again(runs.repository)
    assert (repository.stored_bytes, repository.pruned_at) == (5_000_000, world.now)
    measured = upkeep(
        runs,
        keeper,
        "measure",
        {
            "stored_bytes": 4_500_000,
            "shares": {
                one.manifest_id: {"share_bytes": 1_500_000, "freed_bytes": 10},
                three.manifest_id: {"share_bytes": 700_000, "freed_bytes": 20},
                "e" * 64: {"share_bytes": 1, "freed_bytes": 1},
            },
        },
    )
    repository = world.again(runs.repository)
    assert (repository.stored_bytes, repository.measured_at) == (4_500_000, measured.started_at)
    assert (world.again(one).share_bytes, world.again(one).freed_bytes) == (1_500_000, 10)
    assert world.again(two).share_bytes == 2_000_000
    assert stored(world, source) == 3_500_000
    assert stored(world, neighbour) == 700_000


def test_what_is_missing_is_marked_and_not_dropped(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    lost, there = (world.add_snapshot(source, runs.repository) for _ in range(2))
    known = [lost.manifest_id, there.manifest_id]
    result = {"missing": [lost.manifest_id, "d" * 64], "orphans": {}}
    upkeep(runs, keeper, "reconcile", result, known=known)
    marked = world.again(lost)
    assert (marked.status, marked.manifest_id) == ("COMPLETED", lost.manifest_id)
    assert [each["code"] for each in marked.findings] == ["manifest_missing"]
    assert world.again(there).findings == []
    assert world.again(runs.repository).reconciled_at == world.now
    assert runs.events(runs.repository.id) == ["verification.damaged", "repository.reconciled"]
    upkeep(runs, keeper, "reconcile", {"missing": [], "orphans": {}}, known=known)
    found = world.again(lost)
    assert (found.findings, found.verification) == ([], None)
    assert len(runs.events(runs.repository.id)) == 2, "nothing to tell"


def test_only_orphans_of_runs_that_are_known_to_have_ended_are_removed(
    world: World, runs: Runs, source: Source, keeper: Host
) -> None:
    """A database that came back from an old copy must not delete what was stored since."""
    ended = upkeep(runs, keeper, "prune", {"freed_bytes": 0, "stored_bytes": 0})
    waiting = runs.add_upkeep("prune")
    with world.database.write() as tx:
        tx.get_one(Job, waiting.id).not_before = world.now + timedelta(days=1)
    orphans = {"a" * 64: ended.id, "b" * 64: waiting.id, "c" * 64: "never heard of", "d" * 64: None}
    job = upkeep(runs, keeper, "reconcile", {"missing": [], "orphans": orphans}, known=[])
    with world.database.read() as tx:
        removal = tx.scalars(select(Job).where(Job.kind == "remove")).one()
        told = tx.scalars(select(Event).where(Event.kind == "repository.reconciled")).one()
    assert removal.spec == {"snapshots": [{"snapshot_id": "a" * 64, "manifest_id": "a" * 64}]}
    assert removal.idempotency_key == f"orphans:{job.id}"
    assert told.data["removed"] == ["a" * 64]
    assert told.data["unknown"] == ["c" * 64, "d" * 64], "one that goes on may get its row yet"


@pytest.mark.parametrize("kind", ["verify", "remove", "prune", "measure", "reconcile"])
def test_upkeep_that_fails_leaves_the_catalog_alone(
    world: World, runs: Runs, source: Source, keeper: Host, kind: str
) -> None:
    snapshot = world.add_snapshot(source, runs.repository)
    job = runs.add_upkeep(kind)
    runs.claim(keeper)
    runs.finish(keeper, world.again(job), "failed", error=STAYS)
    assert world.again(job).state == "failed"
    assert world.again(snapshot).status == "COMPLETED"
    repository = world.again(runs.repository)
    assert repository.verified_at is None
    assert repository.pruned_at is None
    assert repository.reconciled_at is None
