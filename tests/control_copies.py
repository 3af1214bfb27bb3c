"""Two regions and what is copied between them, for tests of copies.

`Regions` has a source with a schedule in the world's own region, a second region, and a
keeper in each. It acts through the services, as the first account's owner unless told
otherwise.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from catalog_agent import CatalogAgent
from control_world import World
from sqlalchemy import select

from holdfast.control import copies, copy_follow, copy_policy, recycle, schedules, snapshots
from holdfast.control.copy_lag import CopyLag, lag
from holdfast.control.principal import Principal
from holdfast.control.tables import (
    AuditEntry,
    Event,
    Host,
    Job,
    Region,
    Repository,
    Schedule,
    Snapshot,
)

MB = 1_000_000


class Regions:
    """The world's own region, called here, and another one, called there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.here, self.there = world.region, world.add_region("there", "/srv/there")
        self.repository = world.add_repository()
        self.host = world.add_host()
        self.source = world.add_source(self.host, labels={"team": "red"})
        self.keeper_here = CatalogAgent(world, self.add_keeper(self.here))
        self.keeper = CatalogAgent(world, self.add_keeper(self.there))

    def add_keeper(self, region: Region) -> Host:
        world = self.world
        host = world.add_host(world.operator_account, keeper=True)
        return world.set(host, region_id=region.id)

    def add_schedule(self, **wishes: Any) -> Schedule:
        """A daily schedule of the source that is copied there."""
        wishes = {
            "retention": {"keep_last": -1},
            "preset": "daily",
            "copy_region_id": self.there.id,
        } | wishes
        with self.world.database.write() as tx:
            return schedules.create(
                tx,
                self.world.principal(),
                source_id=self.source.id,
                now=self.world.now,
                **wishes,
            )

    def the_schedule(self) -> Schedule:
        """The only one that there is."""
        with self.world.database.read() as tx:
            return tx.scalars(select(Schedule)).one()

    def edit(self, schedule: Schedule, **changes: Any) -> Schedule:
        with self.world.database.write() as tx:
            return schedules.edit(
                tx, self.world.principal(), schedule.id, now=self.world.now, **changes
            )

    def add(self, schedule: Schedule | None = None, **fields: Any) -> Snapshot:
        """A completed snapshot of the source, of that schedule."""
        row = self.world.add_snapshot(
            self.source,
            self.repository,
            schedule_id=None if schedule is None else schedule.id,
            **fields,
        )
        self.world.advance(milliseconds=1)
        return row

    def copy(
        self, row: Snapshot, who: Principal | None = None, *, region_id: str | None = None
    ) -> Snapshot:
        """Ask for a copy there."""
        with self.world.database.write() as tx:
            return copies.request(
                tx,
                who or self.world.principal(),
                row.id,
                region_id=region_id or self.there.id,
                now=self.world.now,
                keys=self.world.keys,
            )

    def copied(self, row: Snapshot, **result: Any) -> Snapshot:
        """A copy there that is complete."""
        copy = self.copy(row)
        job = self.keeper.claim()
        assert job is not None
        assert job.subject_id == copy.id
        self.keeper.succeed(job, **result)
        return self.world.again(copy)

    def run(self, schedule: Schedule) -> Snapshot:
        """A run of the schedule by hand that its host completes at once."""
        with self.world.database.write() as tx:
            row = snapshots.request(
                tx,
                self.world.principal(),
                source_id=self.source.id,
                schedule_id=schedule.id,
                now=self.world.now,
                keys=self.world.keys,
            )
        CatalogAgent(self.world, self.host).work()
        return self.world.again(row)

    def delete(self, row: Snapshot) -> Snapshot:
        with self.world.database.write() as tx:
            recycle.remove(tx, self.world.principal(), row.id, now=self.world.now)
        return self.world.again(row)

    def recover(self, row: Snapshot) -> Snapshot:
        with self.world.database.write() as tx:
            recycle.recover(tx, self.world.principal(), row.id, now=self.world.now)
        return self.world.again(row)

    def plan(self) -> int:
        return copy_policy.plan_missing(self.world.database, self.world.keys, now=self.world.now)

    def follow(self) -> int:
        return copy_follow.follow(self.world.database, now=self.world.now)

    def purge(self) -> int:
        return recycle.purge_due(self.world.database, now=self.world.now)

    def lag(self, schedule: Schedule) -> CopyLag | None:
        with self.world.database.read() as tx:
            found = lag(tx, [tx.get_one(Schedule, schedule.id)], now=self.world.now)
        return found.get(schedule.id)

    def copies_of(self, row: Snapshot) -> list[Snapshot]:
        with self.world.database.read() as tx:
            found = select(Snapshot).where(Snapshot.copy_of_id == row.id)
            return list(tx.scalars(found.order_by(Snapshot.created_at, Snapshot.id)))

    def statuses(self, *rows: Snapshot) -> list[str]:
        return [self.world.again(each).status for each in rows]

    def repository_there(self) -> Repository | None:
        with self.world.database.read() as tx:
            found = select(Repository).where(
                Repository.account_id == self.world.account.id,
                Repository.region_id == self.there.id,
            )
            return tx.scalar(found)

    def job(self, copy: Snapshot) -> Job:
        with self.world.database.read() as tx:
            return tx.get_one(Job, copy.job_id)

    def events(self, row: Snapshot) -> list[tuple[str, str]]:
        """Kind and message of what was told of it."""
        with self.world.database.read() as tx:
            found = select(Event.kind, Event.message).where(Event.subject_id == row.id)
            return [(kind, message) for kind, message in tx.execute(found.order_by(Event.id))]

    def audited(self, row: Snapshot) -> list[tuple[str, str]]:
        """Action and the kind of who did it."""
        with self.world.database.read() as tx:
            found = select(AuditEntry.action, AuditEntry.actor_kind)
            found = found.where(AuditEntry.subject_id == row.id).order_by(AuditEntry.id)
            return [(action, kind) for action, kind in tx.execute(found)]

    def finished(self, row: Snapshot) -> datetime:
        at = self.world.again(row).finished_at
        assert at is not None
        return at
