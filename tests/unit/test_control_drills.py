"""Drills: who may ask for one, who does it, and what its end proves (S5)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from catalog_agent import CatalogAgent
from control_money import lines, set_price
from control_runs import STAYS, Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import drills, hosts, jobs, recycle
from holdfast.control.job_report import JobError
from holdfast.control.principal import Principal, Right
from holdfast.control.statements import statement
from holdfast.control.tables import (
    AuditEntry,
    Drill,
    Event,
    Host,
    Job,
    Repository,
    Snapshot,
    Source,
)
from holdfast.errors import Forbidden, InUse, NotFound, NotReady, PathMalformed, UsageError

GOOD = {
    "files": 5,
    "directories": 2,
    "restored_bytes": 7_000_000,
    "compared_bytes": 6_500_000,
    "restore_milliseconds": 2250,
    "passed": True,
}
DIFFERS = {"code": "drill_content", "message": "It has other bytes.", "subject": "a"}


class Bench:
    """A snapshot of one host, and a keeper of its region."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host = world.add_host()
        self.keeper = world.add_host(world.operator_account, keeper=True)
        self.repository: Repository = world.add_repository()
        self.runs = Runs(world, repository=self.repository)
        self.source: Source = world.add_source(self.host, labels={"team": "blue"})
        self.snapshot = world.add_snapshot(self.source, self.repository)

    def ask(self, snapshot: Snapshot | None = None, **fields: Any) -> Drill:
        who = fields.pop("who", None) or self.world.principal()
        wanted = (snapshot or self.snapshot).id
        with self.world.database.write() as tx:
            return drills.request(tx, who, snapshot_id=wanted, now=self.world.now, **fields)

    def job(self, row: Drill) -> Job:
        with self.world.database.read() as tx:
            return tx.get_one(Job, row.job_id)

    def end(self, row: Drill, host: Host | None = None, **said: Any) -> Drill:
        """Have a host, else the keeper, take it and say how it ended."""
        host = host or self.keeper
        job = self.runs.claim(host)
        assert job is not None
        assert job.id == row.job_id
        self.runs.finish(host, job, **({"result": GOOD} | said))
        return self.world.again(row)

    def cancel(self, row: Drill, who: Principal | None = None) -> Drill:
        with self.world.database.write() as tx:
            return drills.cancel(tx, who or self.world.principal(), row.id, now=self.world.now)

    def listed(self, who: Principal | None = None, **filters: Any) -> list[str]:
        with self.world.database.read() as tx:
            found = drills.drills(tx, who or self.world.principal(), **filters)
        return [each.id for each in found.items]

    def events(self, row: Drill) -> list[Event]:
        with self.world.database.read() as tx:
            found = select(Event).where(Event.subject_id == row.id).order_by(Event.id)
            return list(tx.scalars(found))

    def codes(self) -> list[str]:
        return [each["code"] for each in self.world.again(self.snapshot).findings]


@pytest.fixture
def bench(world: World) -> Bench:
    return Bench(world)


def test_s5_any_keeper_of_the_region_does_it(world: World, bench: Bench) -> None:
    elsewhere = world.add_region("elsewhere")
    stranger = world.add_host(world.operator_account, keeper=True)
    world.set(stranger, region_id=elsewhere.id)
    row = bench.ask()
    assert (row.status, row.host_id, row.trigger, row.paths) == ("PENDING", None, "manual", [])
    job = bench.job(row)
    assert (job.kind, job.subject_kind, job.subject_id) == ("drill", "drill", row.id)
    assert (job.host_id, job.region_id, job.repository_id) == (
        None,
        world.region.id,
        bench.repository.id,
    )
    assert (job.lock_key, job.priority) == (f"drill:{row.id}", 20)
    assert (job.give_up_at, job.correlation_id) == (world.now + timedelta(days=1), "request")
    assert job.spec == {
        "drill_id": row.id,
        "snapshot_id": bench.snapshot.id,
        "manifest_id": bench.snapshot.manifest_id,
        "captured_path": "/root/models",
        "paths": [],
    }
    assert bench.runs.claim(stranger) is None
    assert bench.runs.claim(bench.host) is None, "the account's own host is no keeper"
    assert bench.runs.claim(bench.keeper) is not None
    assert world.again(row).status == "RUNNING"


def test_s5_a_chosen_host_does_it(world: World, bench: Bench) -> None:
    other = world.add_host()
    row = bench.ask(host_id=other.id, paths=["b//c", "./a", "a"])
    assert (row.host_id, row.paths) == (other.id, ["a", "b/c"])
    assert bench.job(row).spec["paths"] == ["a", "b/c"]
    for host in (bench.keeper, bench.host):
        assert bench.runs.claim(host) is None
    assert bench.end(row, other).passed is True


def test_s5_what_passed_is_proven_as_of_its_beginning(world: World, bench: Bench) -> None:
    row = bench.ask()
    begun = world.advance(minutes=5)
    job = bench.runs.claim(bench.keeper)
    assert job is not None
    world.advance(minutes=7)
    owner = {"code": "owner_not_restored", "message": "Not root.", "subject": "a"}
    bench.runs.finish(bench.keeper, job, result=GOOD, findings=[owner])
    done = world.again(row)
    assert (done.status, done.passed, done.finished_at) == ("COMPLETED", True, world.now)
    assert (done.files, done.restored_bytes, done.compared_bytes) == (5, 7_000_000, 6_500_000)
    assert (done.restore_milliseconds, done.findings) == (2250, [owner])
    snapshot = world.again(bench.snapshot)
    assert snapshot.drilled_at is not None
    assert abs(snapshot.drilled_at - begun) < timedelta(seconds=1)
    assert snapshot.drill == {
        "drill_id": row.id,
        "at": snapshot.drilled_at.isoformat(),
        "passed": True,
        "files": 5,
        "bytes": 7_000_000,
        "restore_seconds": 2.25,
        "partial": False,
    }
    assert snapshot.findings == []
    [told] = bench.events(row)
    assert (told.kind, told.subject_kind, told.correlation_id) == (
        "drill.passed",
        "drill",
        "request",
    )
    assert (told.data["snapshot_id"], told.data["passed"]) == (bench.snapshot.id, True)


def test_s5_what_did_not_come_back_is_told_until_a_whole_drill_passes(
    world: World, bench: Bench
) -> None:
    other = {"code": "other", "message": "Something else.", "subject": ""}
    world.set(bench.snapshot, findings=[other])
    row = bench.ask()
    done = bench.end(row, result=GOOD | {"passed": False}, findings=[DIFFERS])
    assert (done.status, done.passed, done.findings) == ("COMPLETED", False, [DIFFERS])
    assert [each.kind for each in bench.events(row)] == ["drill.failed"]
    snapshot = world.again(bench.snapshot)
    assert (snapshot.drilled_at, (snapshot.drill or {})["passed"]) == (None, False)
    assert bench.codes() == ["other", "drill_failed"]
    assert snapshot.findings[1]["subject"] == row.id

    world.advance(hours=1)
    bench.end(bench.ask(), result=GOOD | {"passed": False}, findings=[DIFFERS])
    assert bench.codes() == ["other", "drill_failed"], "one finding, of the last one"
    world.advance(hours=1)
    bench.end(bench.ask(paths=["a"]))
    assert bench.codes() == ["other", "drill_failed"], "a part does not prove the rest"
    world.advance(hours=1)
    bench.end(bench.ask())
    assert bench.codes() == ["other"]


def test_s5_a_part_proves_only_itself(world: World, bench: Bench) -> None:
    bench.end(bench.ask())
    proven = world.again(bench.snapshot).drilled_at
    world.advance(days=1)
    row = bench.end(bench.ask(paths=["a", "b"]))
    assert row.passed is True
    assert "2 chosen paths" in bench.events(row)[0].message
    snapshot = world.again(bench.snapshot)
    assert snapshot.drilled_at == proven
    assert snapshot.drill is not None
    assert (snapshot.drill["partial"], snapshot.drill["drill_id"]) == (True, row.id)
    bench.end(bench.ask(paths=["a"]), result=GOOD | {"passed": False})
    assert bench.codes() == ["drill_failed"]


def test_s5_of_two_at_the_same_time_the_one_that_failed_counts(world: World, bench: Bench) -> None:
    one, two = bench.ask(), bench.ask(host_id=bench.host.id)
    first, second = bench.runs.claim(bench.keeper), bench.runs.claim(bench.host)
    assert first is not None
    assert second is not None
    world.advance(minutes=1)
    bench.runs.finish(bench.host, second, result=GOOD | {"passed": False})
    world.advance(minutes=1)
    bench.runs.finish(bench.keeper, first, result=GOOD)
    assert (world.again(one).passed, world.again(two).passed) == (True, False)
    assert bench.codes() == ["drill_failed"]
    world.advance(minutes=1)
    bench.end(bench.ask())
    assert bench.codes() == []


def test_s5_the_proven_date_never_goes_back(world: World, bench: Bench) -> None:
    slow = bench.ask(host_id=bench.host.id)
    long_ago = bench.runs.claim(bench.host)
    assert long_ago is not None
    world.advance(seconds=30)
    bench.end(bench.ask())
    proven = world.again(bench.snapshot).drilled_at
    bench.runs.finish(bench.host, long_ago, result=GOOD)
    assert world.again(slow).passed is True
    assert world.again(bench.snapshot).drilled_at == proven


@pytest.mark.parametrize("leave_out", sorted(set(GOOD) - {"directories", "passed"}))
def test_a_report_that_says_too_little_changes_nothing(
    world: World, bench: Bench, leave_out: str
) -> None:
    row = bench.ask()
    job = bench.runs.claim(bench.keeper)
    assert job is not None
    with pytest.raises(UsageError, match=leave_out):
        bench.runs.finish(
            bench.keeper, job, result={name: GOOD[name] for name in GOOD if name != leave_out}
        )
    assert world.again(row).status == "RUNNING"


def test_who_does_not_say_that_it_passed_has_not_passed(world: World, bench: Bench) -> None:
    said = {name: value for name, value in GOOD.items() if name != "passed"}
    assert bench.end(bench.ask(), result=said).passed is False


def test_s5_what_could_not_be_done_says_nothing_of_the_snapshot(world: World, bench: Bench) -> None:
    row = bench.ask()
    done = bench.end(row, outcome="failed", error=STAYS, result={})
    assert (done.status, done.passed, done.error_code) == ("FAILED", None, "source_vanished")
    [told] = bench.events(row)
    assert told.kind == "drill.not_done"
    assert "is not there" in told.message
    snapshot = world.again(bench.snapshot)
    assert (snapshot.drilled_at, snapshot.drill, snapshot.findings) == (None, None, [])


def test_s5_a_snapshot_that_cannot_be_read_at_all_has_not_passed(
    world: World, bench: Bench
) -> None:
    unreadable = JobError("damaged", "The snapshot's record cannot be read.")
    row = bench.end(bench.ask(), outcome="failed", error=unreadable, result={})
    assert (row.status, row.passed, row.error_code) == ("COMPLETED", False, "damaged")
    assert (row.files, row.restored_bytes) == (0, 0)
    assert [each.kind for each in bench.events(row)] == ["drill.failed"]
    [finding] = world.again(bench.snapshot).findings
    assert finding["code"] == "drill_failed"
    assert "record cannot be read" in finding["message"]
    world.advance(hours=1)
    bench.end(bench.ask())
    assert bench.codes() == []


def test_s5_nobody_took_it(world: World, bench: Bench) -> None:
    row = bench.ask()
    world.advance(days=1, minutes=1)
    with world.database.write() as tx:
        assert jobs.expire_leases(tx, now=world.now) == 1
    gone = world.again(row)
    assert (gone.status, gone.error_code) == ("FAILED", "not_taken")
    assert [each.kind for each in bench.events(row)] == ["drill.not_done"]


def test_a_host_that_is_revoked_meanwhile(world: World, bench: Bench) -> None:
    row = bench.ask(host_id=bench.host.id)
    with world.database.write() as tx:
        hosts.revoke(tx, world.principal(), bench.host.id, now=world.now)
    gone = world.again(row)
    assert (gone.status, gone.error_code) == ("FAILED", "host_revoked")


def test_an_attempt_that_is_lost_is_made_again(world: World, bench: Bench) -> None:
    row = bench.ask()
    assert bench.runs.claim(bench.keeper) is not None
    begun = world.again(row).started_at
    world.advance(minutes=2)
    with world.database.write() as tx:
        jobs.expire_leases(tx, now=world.now)
    again = world.again(row)
    assert (again.status, again.error_code) == ("PENDING", "lease_lost")
    world.advance(minutes=2)
    done = bench.end(row)
    assert (done.status, done.started_at, done.error_code) == ("COMPLETED", begun, None)
    proven = world.again(bench.snapshot).drilled_at
    assert proven == begun, "the first attempt may have read what was compared"


def test_s5_cancelling(world: World, bench: Bench) -> None:
    waiting = bench.ask()
    who = world.principal(rights=[Right.RESTORE, Right.READ])
    assert bench.cancel(waiting, who).status == "CANCELLED"
    assert bench.cancel(waiting, who).status == "CANCELLED"
    running = bench.ask()
    job = bench.runs.claim(bench.keeper)
    assert job is not None
    assert bench.cancel(running, who).status == "RUNNING"
    assert bench.runs.report(bench.keeper, job) is True, "the keeper is told"
    bench.runs.finish(bench.keeper, job, outcome="cancelled", result={})
    assert world.again(running).status == "CANCELLED"
    assert [each.kind for each in bench.events(running)] == ["drill.cancelled"]
    assert world.again(bench.snapshot).drill is None
    over = bench.end(bench.ask())
    with pytest.raises(NotReady, match="COMPLETED"):
        bench.cancel(over)
    with pytest.raises(Forbidden):
        bench.cancel(over, world.principal(rights=[Right.CREATE, Right.ADMINISTER, Right.READ]))


@pytest.mark.parametrize(
    "status", ["PENDING", "RUNNING", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED", "DELETED"]
)
def test_only_completed_snapshots_are_drilled(world: World, bench: Bench, status: str) -> None:
    world.set(bench.snapshot, status=status)
    with pytest.raises(NotReady, match=status):
        bench.ask()


@pytest.mark.parametrize("fields", [{"manifest_id": None}, {"archive_format": "zip"}])
def test_only_what_is_restored_as_files_is_drilled(
    world: World, bench: Bench, fields: dict[str, Any]
) -> None:
    world.set(bench.snapshot, **fields)
    with pytest.raises(NotReady, match="archive"):
        bench.ask()


def test_s5_a_copy_and_a_snapshot_of_a_task_are_drilled(world: World, bench: Bench) -> None:
    copy = world.add_snapshot(
        bench.source, bench.repository, copy_of_id=bench.snapshot.id, trigger="copy"
    )
    job_source = world.add_source(bench.host, "/job", kind="task")
    part = world.add_snapshot(job_source, bench.repository, kind="task")
    for snapshot in (copy, part):
        bench.end(bench.ask(snapshot))
        assert world.again(snapshot).drilled_at is not None
    assert world.again(bench.snapshot).drilled_at is None, "the original proves itself"


def test_hosts_that_cannot_do_it(world: World, bench: Bench) -> None:
    for fields in ({"revoked_at": world.now}, {"put_only": True}):
        with pytest.raises(NotReady, match="keeper"):
            bench.ask(host_id=world.add_host(**fields).id)
    with pytest.raises(NotFound):
        bench.ask(host_id=world.add_host(world.add_account("Other")).id)
    with pytest.raises(NotFound):
        bench.ask(host_id=bench.keeper.id)


def test_selections_stay_inside(bench: Bench) -> None:
    with pytest.raises(PathMalformed):
        bench.ask(paths=["/root/models/a"])
    with pytest.raises(UsageError, match="1001 paths"):
        bench.ask(paths=[f"p{number}" for number in range(1001)])
    assert bench.listed() == []


def test_s5_one_at_a_time_on_a_host_and_one_by_keepers(world: World, bench: Bench) -> None:
    first = bench.ask()
    with pytest.raises(InUse, match=first.id):
        bench.ask(paths=["a"])
    here = bench.ask(host_id=bench.host.id)
    with pytest.raises(InUse, match=here.id):
        bench.ask(host_id=bench.host.id)
    bench.ask(host_id=world.add_host().id)
    bench.ask(world.add_snapshot(bench.source, bench.repository))
    bench.cancel(first)
    bench.ask()


def test_s5_only_what_a_chosen_host_restores_is_booked(world: World, bench: Bench) -> None:
    set_price(world, "1", what="downloaded", unit="GB")
    bench.end(bench.ask())
    assert lines(world) == []
    row = bench.end(bench.ask(host_id=bench.host.id), bench.host)
    [line] = lines(world)
    assert (line.what, line.resource_kind, line.resource_id) == ("downloaded", "drill", row.id)
    assert (line.quantity_mb, line.labels) == (7, {"team": "blue"})
    with world.database.read() as tx:
        by_source = statement(tx, world.principal(), year=2026, month=11, group_by="resource")
        by_point = statement(tx, world.principal(), year=2026, month=11, group_by="snapshot")
    assert [each.group for each in by_source.lines] == [bench.source.id]
    assert [each.group for each in by_point.lines] == [bench.snapshot.id]


def test_s5_what_is_drilled_is_not_purged(world: World, bench: Bench) -> None:
    row = bench.ask()
    with world.database.write() as tx:
        recycle.remove(tx, world.principal(), bench.snapshot.id, now=world.now)
    assert bench.runs.claim(bench.keeper) is not None
    world.advance(days=8)
    assert recycle.purge_due(world.database, now=world.now) == 0
    world.set(row, status="COMPLETED")
    assert recycle.purge_due(world.database, now=world.now) == 1


def test_lists_and_their_filters(world: World, bench: Bench) -> None:
    another = world.add_snapshot(bench.source, bench.repository)
    rows = []
    for snapshot in (bench.snapshot, another):
        world.advance(minutes=1)
        rows.append(bench.ask(snapshot).id)
    bench.cancel(world.again(rows_of(world, rows[0])))
    world.set(rows_of(world, rows[1]), schedule_id="a schedule")
    assert bench.listed() == [rows[1], rows[0]]
    assert bench.listed(limit=1) == [rows[1]]
    assert bench.listed(snapshot_id=another.id) == [rows[1]]
    assert bench.listed(snapshot_id=another.id, status="CANCELLED") == []
    assert bench.listed(status="CANCELLED") == [rows[0]]
    assert bench.listed(schedule_id="a schedule") == [rows[1]]
    assert bench.listed(schedule_id="a schedule", snapshot_id=bench.snapshot.id) == []


def rows_of(world: World, drill_id: str) -> Drill:
    with world.database.read() as tx:
        return tx.get_one(Drill, drill_id)


def test_a2_other_accounts_and_narrow_tokens_find_nothing(world: World, bench: Bench) -> None:
    row = bench.ask()
    stranger = world.principal(world.add_account("Other"))
    narrow = world.principal(resources=frozenset({"another"}))
    of_tasks = world.principal(kinds=frozenset({"task"}))
    for who in (stranger, narrow, of_tasks):
        assert bench.listed(who) == []
        assert bench.listed(who, snapshot_id=bench.snapshot.id) == []
        with world.database.read() as tx, pytest.raises(NotFound):
            drills.get(tx, who, row.id)
        with pytest.raises(NotFound):
            bench.cancel(row, who)
        with pytest.raises(NotFound):
            bench.ask(who=who)
    with world.database.read() as tx:
        assert jobs.jobs(tx, narrow).items == []
        with pytest.raises(NotFound):
            jobs.get(tx, narrow, bench.job(row).id)


@pytest.mark.parametrize("by", ["snapshot", "source", "host", "schedule", "drill", "drill_host"])
def test_a3_whoever_sees_the_snapshot_sees_its_drills(world: World, bench: Bench, by: str) -> None:
    other = world.add_host()
    world.set(bench.snapshot, schedule_id="a schedule")
    row = bench.ask(host_id=other.id)
    seen = {
        "snapshot": bench.snapshot.id,
        "source": bench.source.id,
        "host": bench.host.id,
        "schedule": "a schedule",
        "drill": row.id,
        "drill_host": other.id,
    }
    who = world.principal(resources=frozenset({seen[by]}))
    assert bench.listed(who) == [row.id]
    with world.database.read() as tx:
        assert drills.get(tx, who, row.id).id == row.id
        assert [each.id for each in jobs.jobs(tx, who).items] == [row.job_id]
        assert jobs.get(tx, who, bench.job(row).id).id == row.job_id


def test_a_narrow_token_does_not_choose_other_hosts(world: World, bench: Bench) -> None:
    who = world.principal(resources=frozenset({bench.host.id}))
    with pytest.raises(NotFound):
        bench.ask(who=who, host_id=world.add_host().id)
    assert bench.ask(who=who).status == "PENDING"


def test_agents_see_the_drills_of_their_own_snapshots(world: World, bench: Bench) -> None:
    other = world.add_host()
    row = bench.ask(host_id=other.id)
    mine, others = world.agent(bench.host), world.agent(other)
    assert (bench.listed(mine), bench.listed(others)) == ([row.id], [])
    with world.database.read() as tx:
        assert drills.get(tx, mine, row.id).id == row.id
        with pytest.raises(NotFound):
            drills.get(tx, others, row.id)


@pytest.mark.parametrize("right", sorted(set(Right) - {Right.RESTORE}))
def test_a2_only_the_right_to_restore_asks_for_drills(bench: Bench, right: Right) -> None:
    with pytest.raises(Forbidden, match="restore"):
        bench.ask(who=bench.world.principal(rights=[right]))


def test_a5_who_asked_is_written_down(world: World, bench: Bench) -> None:
    row = bench.end(bench.ask(paths=["a"]))
    with world.database.read() as tx:
        entries = tx.scalars(
            select(AuditEntry).where(AuditEntry.subject_id == row.id).order_by(AuditEntry.id)
        ).all()
    assert [each.action for each in entries] == ["drill.request", "drill.succeeded"]
    assert entries[0].after == {
        "snapshot_id": bench.snapshot.id,
        "host_id": None,
        "paths": ["a"],
    }


def test_the_catalogs_agent_knows_them(world: World, bench: Bench) -> None:
    row = bench.ask()
    [job] = CatalogAgent(world, bench.keeper).work()
    assert job.kind == "drill"
    assert isinstance(world.again(row).finished_at, datetime)
