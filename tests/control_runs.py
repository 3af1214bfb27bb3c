"""Backup runs for tests of jobs: a source, its snapshot and its job, and an agent's words."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from control_world import World
from sqlalchemy import func, select

from holdfast.control import jobs
from holdfast.control.job_report import JobError
from holdfast.control.tables import Event, Host, Job, LedgerEntry, Repository, Snapshot, Source

INSTANCE = "agent-1"
PASSES = JobError("store_unavailable", "The store did not answer.", retryable=True)
STAYS = JobError("source_vanished", "The path is not there.")


class Runs:
    """Makes backup jobs in a world and plays the agents of its hosts."""

    def __init__(self, world: World, *, repository: Repository | None = None) -> None:
        self.world = world
        self.repository: Repository = repository or world.add_repository()
        self._count = itertools.count(1)

    def add(
        self, source: Source, *, slot_at: datetime | None = None, **columns: Any
    ) -> tuple[Snapshot, Job]:
        """A PENDING snapshot of `source` and its queued job; `columns` go to `enqueue`."""
        world = self.world
        snapshot = world.add_snapshot(source, self.repository, status="PENDING", slot_at=slot_at)
        wanted: dict[str, Any] = {
            "account_id": source.account_id,
            "region_id": self.repository.region_id,
            "repository_id": self.repository.id,
            "host_id": source.host_id,
            "kind": "backup",
            "subject_kind": "snapshot",
            "subject_id": snapshot.id,
            "lock_key": f"source:{source.id}",
            "spec": {"snapshot_id": snapshot.id},
            "now": world.now,
        }
        with world.database.write() as tx:
            job = jobs.enqueue(tx, **(wanted | columns))
            tx.get_one(Snapshot, snapshot.id).job_id = job.id
        world.advance(milliseconds=1)  # no two jobs are of the same age
        return snapshot, job

    def add_upkeep(self, kind: str = "prune", **columns: Any) -> Job:
        """A queued job for any keeper."""
        wanted: dict[str, Any] = {
            "account_id": self.repository.account_id,
            "region_id": self.repository.region_id,
            "repository_id": self.repository.id,
            "host_id": None,
            "kind": kind,
            "subject_kind": "repository",
            "subject_id": self.repository.id,
            "lock_key": f"repository:{self.repository.id}",
            "spec": {},
            "now": self.world.now,
        }
        with self.world.database.write() as tx:
            job = jobs.enqueue(tx, **(wanted | columns))
        self.world.advance(milliseconds=1)
        return job

    def claim(self, host: Host, instance: str = INSTANCE) -> Job | None:
        """As the server does it, which first looks whether there is anything to claim."""
        world = self.world
        who = world.agent(host)
        with world.database.read() as tx:
            if not jobs.is_worth_claiming(tx, who, instance=instance, now=world.now):
                return None
        with world.database.write() as tx:
            return jobs.claim(tx, who, instance=instance, now=world.now)

    def report(self, host: Host, job: Job, attempt: int | None = None, **said: Any) -> bool:
        """Report progress; whether the job should be cancelled."""
        world = self.world
        with world.database.write() as tx:
            _, cancel, _ = jobs.report(
                tx,
                world.agent(host),
                job.id,
                attempt=job.attempt if attempt is None else attempt,
                stage=said.pop("stage", "reading"),
                progress=said.pop("progress", {"bytes_done": 1}),
                now=world.now,
                **said,
            )
        return cancel

    def finish(
        self,
        host: Host,
        job: Job,
        outcome: str = "succeeded",
        attempt: int | None = None,
        **said: Any,
    ) -> Job:
        world = self.world
        if outcome == "succeeded":
            said.setdefault("result", self.result())
        with world.database.write() as tx:
            return jobs.finish(
                tx,
                world.agent(host),
                job.id,
                attempt=job.attempt if attempt is None else attempt,
                outcome=outcome,
                now=world.now,
                keys=world.keys,
                **said,
            )

    def expire(self) -> int:
        with self.world.database.write() as tx:
            return jobs.expire_leases(tx, now=self.world.now)

    def cancel(self, job: Job) -> Job:
        with self.world.database.write() as tx:
            return jobs.request_cancel(tx, self.world.principal(), job.id, now=self.world.now)

    def result(self, **members: Any) -> dict[str, Any]:
        """What an agent reports of a run that went well."""
        said = {
            "manifest_id": f"{next(self._count):064x}",
            "consistency": "per_file",
            "captured_at": self.world.now.isoformat(),
            "files": 3,
            "logical_bytes": 5_000_000,
            "read_bytes": 4_000_000,
            "stored_bytes": 3_000_000,
            "verified": True,
        }
        return said | members

    def events(self, subject_id: str | None = None) -> list[str]:
        """The kinds of the events so far, oldest first."""
        statement = select(Event.kind).order_by(Event.id)
        if subject_id is not None:
            statement = statement.where(Event.subject_id == subject_id)
        with self.world.database.read() as tx:
            return list(tx.scalars(statement))

    def bookings(self, resource_id: str) -> int:
        """How often a transfer of this run was booked."""
        with self.world.database.read() as tx:
            return (
                tx.scalar(select(func.count()).where(LedgerEntry.resource_id == resource_id)) or 0
            )
