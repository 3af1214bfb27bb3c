"""What has to hold in the whole after crashes: what was acknowledged is there, and once.

`look` may be called whenever nothing is left to be done; it changes nothing. `go_on` lets
more than a day pass first, so that everything that upkeep has to mend has been mended, and
then leaves no excuse: no orphan, no lock, no hour that is not booked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from aftermath import HARMLESS
from control_books import check_books
from control_processes import PROGRAM, eventually
from control_site import Site
from region_aftermath import check_copies, check_purged_in_time
from sqlalchemy import select
from tree_compare import Entry, describe_tree, differences

from holdfast.control.database import Database
from holdfast.control.schedule_row import schedule_of
from holdfast.control.tables import (
    AuditEntry,
    Drill,
    Event,
    Job,
    Meter,
    Restore,
    Schedule,
    Snapshot,
    Source,
)
from holdfast.control.tables import Repository as RepositoryRow
from holdfast.flows.reconcile import job_of
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.snapshot import Snapshot as Manifest
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.local import LocalStore

WITH_DATA = frozenset({"COMPLETED", "EXPIRED", "DELETED"})
ENDED = frozenset({"succeeded", "failed", "cancelled"})
TOLD = {
    "COMPLETED": "snapshot.completed",
    "FAILED": "snapshot.failed",
    "CANCELLED": "snapshot.cancelled",
}
COPY_TOLD = {**TOLD, "COMPLETED": "snapshot.copied", "FAILED": "snapshot.copy_failed"}
DRILL_TOLD = {
    "COMPLETED": "drill.passed",
    "FAILED": "drill.not_done",
    "CANCELLED": "drill.cancelled",
}


def look(site: Site, *, restored: set[str] | None = None) -> None:
    """Fail unless all that was acknowledged is there, and nothing twice.

    What is in `restored` is not restored again; what was restored is added to it.
    """
    check_database(site.database, now=site.clock())
    check_acknowledged(site)
    check_repository(site, restored=restored)
    check_restores(site)


def check_database(database: Database, *, now: datetime, clock_went_back: bool = False) -> None:
    """What the database alone can tell."""
    check_catalog(database, now=now)
    check_slots(database)
    check_told(database)
    check_copies(database)
    check_purged_in_time(database)
    check_books(database, clock_went_back=clock_went_back)


def go_on(site: Site, *, restored: set[str] | None = None) -> None:
    """Let a day pass with all that it brings, then look, and look for what is left over."""
    site.settle_slots()
    pause_schedules(site)
    site.settle()
    site.pass_time(hours=26)
    began = site.clock()
    eventually(lambda: _is_reconciled(site, began), lambda: site.describe("no reconciliation"))
    site.settle()
    eventually(lambda: _is_booked(site), "hours are not booked")
    check_nothing_left_over(site)
    look(site, restored=restored)
    check_with_the_command_line(site)


def pause_schedules(site: Site) -> None:
    with site.database.read() as tx:
        running = tx.scalars(
            select(Schedule.id).where(Schedule.removed_at.is_(None), Schedule.paused.is_(False))
        ).all()
    for schedule_id in running:
        site.ask("POST", f"/schedules/{schedule_id}/pause")


def _is_reconciled(site: Site, since: datetime) -> bool:
    with site.database.read() as tx:
        rows = tx.scalars(
            select(RepositoryRow).where(
                RepositoryRow.account_id == site.account_id,
                RepositoryRow.created_in_store_at.is_not(None),
            )
        ).all()
    if all(row.reconciled_at is not None and row.reconciled_at >= since for row in rows):
        return True
    if site.open_jobs():
        site.settle()
    return False


def _is_booked(site: Site) -> bool:
    hour = site.clock().replace(minute=0, second=0, microsecond=0)
    with site.database.read() as tx:
        behind = select(Meter.id).where(Meter.until.is_(None), Meter.booked_until < hour)
        return tx.scalars(behind).first() is None


# The database


def check_catalog(database: Database, *, now: datetime) -> None:
    """No run without a job that is alive, no job beyond its lease, no end without an end."""
    with database.read() as tx:
        jobs = {job.id: job for job in tx.scalars(select(Job))}
        snapshots = tx.scalars(select(Snapshot)).all()
        restores = tx.scalars(select(Restore)).all()
        drills = tx.scalars(select(Drill)).all()
    runs: list[Snapshot | Restore | Drill] = [*snapshots, *restores, *drills]
    for job in jobs.values():
        if job.state == "leased":
            assert job.lease_until is not None
            assert job.lease_until > now, f"{job.kind} {job.id} is leased beyond its lease"
        assert job.attempt <= job.max_attempts, f"{job.kind} {job.id} was tried too often"
    for row in runs:
        job_of_row = jobs.get(row.job_id or "")
        if row.status in ("PENDING", "RUNNING"):
            assert job_of_row is not None, f"{row.id} is {row.status} without a job"
            assert job_of_row.state not in ENDED, f"{row.id} is {row.status}, its job has ended"
        elif job_of_row is not None:
            assert job_of_row.state in ENDED, f"{row.id} is {row.status}, its job has not ended"
    for snapshot in snapshots:
        if snapshot.status in WITH_DATA and snapshot.manifest_id:
            job = jobs[snapshot.job_id or ""]
            assert job.state == "succeeded", f"{snapshot.id} has data, its job is {job.state}"
            assert (job.result or {})["manifest_id"] == snapshot.manifest_id
        if snapshot.status == "COMPLETED":
            assert snapshot.manifest_id, f"{snapshot.id} is COMPLETED without a manifest"
            assert not [f for f in snapshot.findings if f["code"] == "manifest_missing"]
    taken = Counter(each.manifest_id for each in snapshots if each.manifest_id)
    assert not [each for each, times in taken.items() if times > 1], "a manifest is in two rows"


def check_acknowledged(site: Site) -> None:
    """What agents and people were told to be done is done, and in the audit log."""
    with site.database.read() as tx:
        jobs = {job.id: job for job in tx.scalars(select(Job))}
        audited = set(tx.scalars(select(AuditEntry.request_id)))
        known = {
            table.__tablename__: set(tx.scalars(select(table.id)))
            for table in (Snapshot, Restore, Drill, Source, Schedule)
        }
    claims: Counter[tuple[str, int]] = Counter()
    for each in site.acknowledged:
        path = each.message.path.partition("?")[0]
        if path.endswith("/agent/claim"):
            if each.message.answer:
                job = each.message.answer["job"]
                claims[job["id"], job["attempt"]] += 1
                assert jobs[job["id"]].attempt >= job["attempt"], f"{job['id']} was never given out"
        elif path.endswith("/finish"):
            job_id, state = path.split("/")[-2], each.message.answer["state"]
            row, attempt = jobs[job_id], each.message.body["attempt"]
            if state in ENDED:
                assert (row.state, row.attempt) == (state, attempt), (
                    f"{row.kind} {job_id} was acknowledged as {state} in attempt {attempt} and is "
                    f"{row.state} in attempt {row.attempt}"
                )
            else:
                assert row.attempt > attempt or row.state != "leased", f"{job_id} went back"
        elif "/agent/" not in path and "/gateway/" not in path:
            parts = path.removeprefix("/api/v1/").split("/")
            if len(parts) == 1 and parts[0] in known:
                assert each.message.answer["id"] in known[parts[0]], (
                    f"{path} {each.message.answer['id']} is gone"
                )
            if not each.replayed and not path.endswith("/preview"):
                assert each.request_id in audited, f"{each.message.method} {path} is not audited"
    twice = [each for each, times in claims.items() if times > 1]
    assert not twice, f"given out twice in the same attempt: {twice}"


def check_slots(database: Database) -> None:
    """Each slot of each schedule has its one row, and each that was missed was reported."""
    with database.read() as tx:
        schedules = tx.scalars(select(Schedule)).all()
        snapshots = tx.scalars(select(Snapshot).where(Snapshot.slot_at.is_not(None))).all()
        events = tx.scalars(select(Event)).all()
    for schedule in schedules:
        rows = [each for each in snapshots if each.schedule_id == schedule.id]
        found = Counter(each.slot_at for each in rows if each.slot_at)
        begin = schedule.created_at.replace(microsecond=0) + timedelta(seconds=1)
        end = schedule.settled_until.replace(microsecond=0) + timedelta(seconds=1)
        expected = Counter(schedule_of(schedule).due_between(begin, end))
        assert found == expected, f"slots of {schedule.id}: {found - expected} {expected - found}"
        completed = Counter(each.slot_at for each in rows if each.status in WITH_DATA)
        assert all(times == 1 for times in completed.values()), "two runs for one slot"
        skipped = [each for each in rows if each.status == "SKIPPED"]
        assert all(each.findings for each in skipped), "a slot was skipped without a reason"
        reported = sum(
            int(each.data["slots"])
            for each in events
            if (each.kind, each.subject_id) == ("snapshot.missed", schedule.id)
        ) + sum(
            1
            for each in events
            if each.kind in ("snapshot.missed", "snapshot.skipped")
            and each.subject_id in {row.id for row in skipped}
        )
        assert reported == len(skipped), f"{len(skipped)} slots were skipped, {reported} reported"


def check_told(database: Database) -> None:
    """Each end of a job is in the audit log once, and each end of a run is an event once."""
    with database.read() as tx:
        jobs = tx.scalars(select(Job).where(Job.state.in_(ENDED))).all()
        snapshots = tx.scalars(select(Snapshot)).all()
        drills = tx.scalars(select(Drill)).all()
        entries = tx.scalars(select(AuditEntry)).all()
        events = Counter(
            (kind, subject) for kind, subject in tx.execute(select(Event.kind, Event.subject_id))
        )
    ends = Counter(
        (entry.action, entry.after["job_id"])
        for entry in entries
        if entry.after and "job_id" in entry.after and entry.action.rpartition(".")[2] in ENDED
    )
    had = Counter((f"{job.kind}.{job.state}", job.id) for job in jobs)
    assert ends == had, f"not in the audit log: {had - ends}, or without reason: {ends - had}"
    for snapshot in snapshots:
        status = "COMPLETED" if snapshot.status in WITH_DATA else snapshot.status
        told = TOLD if snapshot.copy_of_id is None else COPY_TOLD
        if status in told:
            times = events[told[status], snapshot.id]
            assert times == 1, f"{snapshot.id} is {status}, and that was told {times} times"
    for drill in drills:
        if drill.status in DRILL_TOLD:
            kind = "drill.failed" if drill.passed is False else DRILL_TOLD[drill.status]
            times = events[kind, drill.id]
            assert times == 1, f"drill {drill.id} is {drill.status}, told {times} times"


# The repository


def check_repository(site: Site, *, restored: set[str] | None = None) -> None:
    """In every region: it is whole, has what the catalog says, and gives back what there was."""
    done = set() if restored is None else restored
    for region_id in site.stores:
        rows = _with_data(site, region_id)
        with site.copy_of_repository(region_id) as copy:
            repository = Repository.open(LocalStore(str(copy)), site.password(region_id))
            found = verify(repository, VerifyRequest(read_data=True, workers=0))
            assert found.clean, (found.findings, found.damaged)
            codes = {note.code for note in found.notes}
            assert codes <= HARMLESS, found.notes
            listed = {each.id: each for each in repository.snapshots()[0]}
            for row in rows:
                assert row.manifest_id in listed, f"the manifest of {row.id}, {row.status}, is gone"
                manifest = listed[row.manifest_id]
                assert job_of(manifest) == row.job_id, f"{row.id} has another's manifest"
                if row.manifest_id not in done:
                    assert row.captured_at is not None
                    content = site.sources[row.source_id].content_at(row.captured_at)
                    assert_restores(site, repository, manifest, content)
                    done.add(row.manifest_id)


def _with_data(site: Site, region_id: str) -> Sequence[Snapshot]:
    """Those whose data has to be in a region's repository."""
    repository_id = site.repository_row(region_id).id
    with site.database.read() as tx:
        return tx.scalars(
            select(Snapshot).where(
                Snapshot.repository_id == repository_id,
                Snapshot.manifest_id.is_not(None),
                Snapshot.purged_at.is_(None),
            )
        ).all()


def assert_restores(
    site: Site, repository: Repository, manifest: Manifest, content: dict[bytes, Entry]
) -> None:
    target = site.base / "restored"
    path = os.fsencode(manifest.paths[0]).lstrip(b"/")
    request = RestoreRequest(manifest.id, os.fsencode(target), path=path, workers=0)
    result = restore(repository, request)
    assert not result.findings, result.findings
    try:
        assert_content(target, content, manifest.short_id)
    finally:
        shutil.rmtree(target)


def assert_content(target: Path, content: dict[bytes, Entry], what: str) -> None:
    found = differences(describe_tree(target), content)
    assert not found, f"{what} is not what there was:\n" + "\n".join(found[:20])


def check_restores(site: Site) -> None:
    """What was restored for people is what was there when it was captured."""
    with site.database.read() as tx:
        rows = tx.execute(
            select(Restore, Snapshot)
            .join(Snapshot, Snapshot.id == Restore.snapshot_id)
            .where(Restore.status == "COMPLETED")
        ).all()
    for row, snapshot in rows:
        machine = next(each for each in site.machines if each.host_id == row.host_id)
        target = machine.root / row.target.removeprefix("/root/")
        assert snapshot.captured_at is not None
        content = site.sources[snapshot.source_id].content_at(snapshot.captured_at)
        assert_content(target, content, f"restore {row.id}")


def check_nothing_left_over(site: Site) -> None:
    """After a reconciliation: one manifest for each run that counts, and no lock."""
    for region_id in site.stores:
        known = {row.manifest_id for row in _with_data(site, region_id)}
        repository = site.repository(region_id)
        of_jobs = {each.id for each in repository.snapshots()[0] if job_of(each) is not None}
        unknown = of_jobs - known
        assert not unknown, f"restore points that the catalog does not know: {sorted(unknown)}"
        locks = repository.ids(FileKind.LOCK)
        assert not locks, f"locks are left: {locks}"
    left = [each for machine in site.machines for each in machine.scratch()]
    assert not left, f"drills have left something behind: {left}"


def check_with_the_command_line(site: Site) -> None:
    """A person who verifies the repositories finds nothing either."""
    for region_id in site.stores:
        with site.copy_of_repository(region_id) as copy:
            done = subprocess.run(
                [PROGRAM, "verify", "--read-data", "--workers", "0", "--no-cache", "-r", copy],
                env={**site.environment, "HOLDFAST_PASSWORD": site.password(region_id)},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
