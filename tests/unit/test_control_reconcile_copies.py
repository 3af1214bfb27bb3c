"""Comparing a repository that copies are pulled into with the catalog.

A copy has the time of what it is a copy of, so its age says nothing: its own job decides.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from control_runs import Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import upkeep
from holdfast.control.tables import Event, Host, Job, Repository, Snapshot, Source

STORED = "a" * 64


class Copies:
    """A completed snapshot here, the account's repository there, and a keeper there."""

    def __init__(self, world: World) -> None:
        self.world = world
        there = world.add_region("there")
        self.repository = world.set(world.add_repository(), region_id=there.id)
        self.source: Source = world.add_source(world.add_host())
        self.original = world.add_snapshot(self.source, world.add_repository())
        self.keeper: Host = world.set(
            world.add_host(world.operator_account, keeper=True), region_id=there.id
        )
        self.runs = Runs(world, repository=self.repository)

    def add(self, state: str = "queued", status: str = "PENDING", **columns: Any) -> Job:
        """A copy's row with its job, as they stand."""
        world = self.world
        row = world.add_snapshot(
            self.source,
            self.repository,
            status=status,
            trigger="copy",
            copy_of_id=self.original.id,
            **columns,
        )
        job = self.runs.add_upkeep(
            "copy",
            subject_kind="snapshot",
            subject_id=row.id,
            lock_key=f"copy:{self.repository.id}",
            spec={"snapshot_id": row.id, "copy_of_id": self.original.id},
            not_before=world.now + timedelta(days=1),
        )
        world.set(row, job_id=job.id)
        ended = state not in ("queued", "leased")
        return world.set(job, state=state, finished_at=world.now if ended else None)

    def compare(self, orphans: dict[str, str | None], **known: Any) -> dict[str, list[str]]:
        """A comparison that found these; what was told of it, or nothing."""
        result = {"missing": [], "orphans": orphans}
        self.runs.add_upkeep("reconcile", spec={"known": [], **known})
        job = self.runs.claim(self.keeper)
        assert job is not None
        self.runs.finish(self.keeper, job, result=result)
        with self.world.database.read() as tx:
            told = tx.scalars(select(Event).where(Event.kind == "repository.reconciled")).all()
        return told[-1].data if told else {}

    def removals(self) -> list[str]:
        with self.world.database.read() as tx:
            found = tx.scalars(select(Job).where(Job.kind == "remove"))
            return [each["manifest_id"] for job in found for each in job.spec["snapshots"]]


@pytest.fixture
def copies(world: World) -> Copies:
    return Copies(world)


@pytest.mark.parametrize("state", ["queued", "leased"])
def test_a_copy_whose_job_has_not_reported_stays(copies: Copies, state: str) -> None:
    """However old what it is a copy of may be; nor is it told as something unknown."""
    job = copies.add(state)
    assert copies.compare({STORED: job.id}) == {}
    assert copies.removals() == []


@pytest.mark.parametrize("state", ["failed", "cancelled", "succeeded"])
def test_what_an_ended_job_left_is_removed(copies: Copies, state: str) -> None:
    job = copies.add(state, status="COMPLETED" if state == "succeeded" else "FAILED")
    assert copies.compare({STORED: job.id})["removed"] == [STORED]
    assert copies.removals() == [STORED]


def test_a_job_that_ended_meanwhile_has_its_row(copies: Copies) -> None:
    """The repository was listed before the copy was reported."""
    job = copies.add("succeeded", status="COMPLETED", manifest_id=STORED)
    assert copies.compare({STORED: job.id}) == {}
    assert copies.removals() == []


def test_a_new_attempt_by_another_job_does_not_save_what_the_old_one_left(copies: Copies) -> None:
    """Each job's record is its own, so the new one does not count on it."""
    failed, again = copies.add("failed", status="FAILED"), copies.add("leased")
    told = copies.compare({STORED: failed.id, "b" * 64: again.id})
    assert told["removed"] == [STORED]
    assert copies.removals() == [STORED]


def test_what_somebody_copied_by_hand_stays(copies: Copies) -> None:
    """It carries the tag of the run that made the original, which is of another repository."""
    backup = Runs(copies.world, repository=_of(copies.original, copies.world)).add_upkeep("backup")
    copies.world.set(backup, state="succeeded", finished_at=copies.world.now)
    copies.add("failed", status="FAILED")
    told = copies.compare({STORED: backup.id, "b" * 64: None})
    assert told["unknown"] == sorted([STORED, "b" * 64])
    assert copies.removals() == []


def _of(snapshot: Snapshot, world: World) -> Repository:
    with world.database.read() as tx:
        return tx.get_one(Repository, snapshot.repository_id)


def test_a_comparison_knows_the_copies_of_a_repository(copies: Copies) -> None:
    world = copies.world
    copies.add("succeeded", status="COMPLETED", manifest_id=STORED)
    copies.add("succeeded", status="DELETED", manifest_id="b" * 64)
    copies.add("succeeded", status="DELETED", manifest_id="c" * 64, purged_at=world.now)
    world.set(copies.repository, created_in_store_at=world.now)
    upkeep.plan(world.database, now=world.advance(days=2))
    with world.database.read() as tx:
        job = tx.scalars(
            select(Job).where(Job.kind == "reconcile", Job.subject_id == copies.repository.id)
        ).one()
    assert job.spec["known"] == [STORED, "b" * 64]
