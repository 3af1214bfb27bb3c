"""Jobs under random claims, reports, failures, cancels and clocks, against a model.

The model says for each job who holds it and what may come next; the database has to agree
after every step. What it proves: a lock key is held once, the word of a stale attempt
changes nothing, and what a finish means for the catalog happens at most once.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from control_runs import PASSES, STAYS, Runs
from control_world import World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from holdfast.control.database import Database
from holdfast.control.job_end import pause_after
from holdfast.control.tables import Host, Job, LedgerEntry, Snapshot, Source
from holdfast.errors import NotReady, StaleAttempt

LEASE = timedelta(seconds=60)
MAX_ATTEMPTS = 2
MAX_JOBS = 2
QUOTA = 4
SOURCES = 6
ENDED = ("succeeded", "failed", "cancelled")
STATUS = {
    "queued": "PENDING",
    "leased": "RUNNING",
    "succeeded": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
}


@dataclass
class Expected:
    """What the model believes about one job."""

    number: int
    host: int
    source: int
    priority: int
    give_up_at: datetime | None
    not_before: datetime
    state: str = "queued"
    attempt: int = 0
    lease_until: datetime | None = None
    cancel: bool = False
    told: bool = False
    """The current attempt was ended by its own report."""

    def again_or_fail(self, now: datetime, *, told: bool) -> None:
        self.told = told
        self.lease_until = None
        if self.cancel:
            self.state = "cancelled"
            return
        again = now + pause_after(self.attempt)
        late = self.give_up_at is not None and again >= self.give_up_at
        if self.attempt >= MAX_ATTEMPTS or late:
            self.state = "failed"
        else:
            self.state, self.not_before = "queued", again


class JobMachine(RuleBasedStateMachine):
    """Two hosts with three sources each, all with a run that waits, and whatever comes."""

    fresh: Callable[[], contextlib.AbstractContextManager[Database]]

    def __init__(self) -> None:
        super().__init__()
        self.closing = contextlib.ExitStack()
        self.world = World(self.closing.enter_context(type(self).fresh()))
        self.world.set(self.world.account, quota_running_jobs=QUOTA)
        self.runs = Runs(self.world)
        self.hosts: list[Host] = [self.world.add_host(max_jobs=MAX_JOBS) for _ in range(2)]
        self.instances = [0, 0]
        self.seen_instance: list[int | None] = [None, None]
        self.sources: list[Source] = [
            self.world.add_source(self.hosts[number % 2], f"/root/{number}")
            for number in range(SOURCES)
        ]
        self.jobs: list[Job] = []
        self.snapshots: list[Snapshot] = []
        self.model: list[Expected] = []

    def teardown(self) -> None:
        self.closing.close()

    @initialize()
    def begin(self) -> None:
        for source in range(SOURCES):
            self.add(source, 0, None)

    @rule(
        source=st.integers(0, SOURCES - 1),
        priority=st.sampled_from([0, 0, 10]),
        lasts=st.sampled_from([None, 70, 100, 2000]),
    )
    def add(self, source: int, priority: int, lasts: int | None) -> None:
        now = self.world.advance(milliseconds=1)
        end = None if lasts is None else now + timedelta(seconds=lasts)
        snapshot, job = self.runs.add(
            self.sources[source], priority=priority, give_up_at=end, max_attempts=MAX_ATTEMPTS
        )
        self.model.append(Expected(len(self.jobs), source % 2, source, priority, end, now))
        self.jobs.append(job)
        self.snapshots.append(snapshot)

    @rule(host=st.integers(0, 1), restart=st.sampled_from([False, False, False, True]))
    def claim(self, host: int, restart: bool) -> None:
        now = self.world.now
        if restart:
            self.instances[host] += 1
        if self.seen_instance[host] != self.instances[host]:
            self.seen_instance[host] = self.instances[host]
            for each in self.model:
                if each.state == "leased" and each.host == host:
                    each.again_or_fail(now, told=False)
        leased = [each for each in self.model if each.state == "leased"]
        wanted: Expected | None = None
        if len([each for each in leased if each.host == host]) < MAX_JOBS and len(leased) < QUOTA:
            taken = {each.source for each in leased}
            ready = [
                each
                for each in self.model
                if each.state == "queued"
                and each.host == host
                and each.not_before <= now
                and (each.give_up_at is None or each.give_up_at > now)
                and each.source not in taken
            ]
            wanted = min(ready, key=lambda each: (-each.priority, each.number), default=None)
        got = self.runs.claim(self.hosts[host], str(self.instances[host]))
        assert (got.id if got else None) == (self.jobs[wanted.number].id if wanted else None)
        if wanted is not None:
            wanted.state, wanted.told = "leased", False
            wanted.attempt += 1
            wanted.lease_until = now + LEASE

    @precondition(lambda self: self.model)
    @rule(data=st.data(), back=st.sampled_from([0, 0, 0, 1]))
    def report(self, data: st.DataObject, back: int) -> None:
        each = data.draw(st.sampled_from(self._likely()), "job")
        host, job = self.hosts[each.host], self.jobs[each.number]
        if each.state != "leased" or back:
            with pytest.raises(StaleAttempt):
                self.runs.report(host, job, each.attempt - back)
            return
        assert self.runs.report(host, job, each.attempt) is each.cancel
        each.lease_until = self.world.now + LEASE

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        back=st.sampled_from([0, 0, 0, 0, 1]),
        outcome=st.sampled_from(["succeeded", "succeeded", "passes", "stays", "cancelled"]),
    )
    def finish(self, data: st.DataObject, back: int, outcome: str) -> None:
        each = data.draw(st.sampled_from(self._likely()), "job")
        host, job = self.hosts[each.host], self.jobs[each.number]
        error = {"passes": PASSES, "stays": STAYS}.get(outcome)
        said = "failed" if error else outcome

        def act() -> str:
            return self.runs.finish(host, job, said, attempt=each.attempt - back, error=error).state

        if back or (each.state != "leased" and not each.told):
            with pytest.raises(StaleAttempt):
                act()
            return
        if each.state == "leased":
            self._finished(each, outcome)
        assert act() == each.state

    def _likely(self) -> list[Expected]:
        """Every job; those that somebody holds more often."""
        return [each for each in self.model if each.state == "leased"] * 3 + self.model

    def _finished(self, each: Expected, outcome: str) -> None:
        each.told, each.lease_until = True, None
        if outcome == "succeeded":
            each.state = "succeeded"
        elif each.cancel:
            each.state = "cancelled"
        elif outcome == "stays":
            each.state = "failed"
        else:
            each.again_or_fail(self.world.now, told=True)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.model), "job")
        job = self.jobs[each.number]
        if each.state in ("succeeded", "failed"):
            with pytest.raises(NotReady):
                self.runs.cancel(job)
            return
        if each.state == "queued":
            each.cancel, each.state = True, "cancelled"
        elif each.state == "leased":
            each.cancel = True
            assert each.lease_until is not None
            if each.lease_until <= self.world.now:
                each.state, each.told, each.lease_until = "cancelled", False, None
        assert self.runs.cancel(job).state == each.state

    @rule(seconds=st.sampled_from([1, 30, 61, 61, 500]))
    def wait(self, seconds: int) -> None:
        self.world.advance(seconds=seconds)

    @rule()
    def expire(self) -> None:
        now = self.world.now
        overdue = 0
        for each in self.model:
            if each.state == "leased" and each.lease_until is not None and each.lease_until <= now:
                each.again_or_fail(now, told=False)
                overdue += 1
            elif each.state == "queued" and each.give_up_at is not None and each.give_up_at <= now:
                each.state = "failed"
                overdue += 1
        assert self.runs.expire() == overdue

    @invariant()
    def agrees(self) -> None:
        with self.world.database.read() as tx:
            rows = {row.id: row for row in tx.scalars(select(Job))}
            statuses = {row.id: row.status for row in tx.scalars(select(Snapshot))}
            leased = tx.scalars(select(Job.lock_key).where(Job.state == "leased")).all()
            booked = Counter(tx.scalars(select(LedgerEntry.resource_id)))
        assert len(leased) == len(set(leased)) <= QUOTA
        for each, job, snapshot in zip(self.model, self.jobs, self.snapshots, strict=True):
            row = rows[job.id]
            assert (row.state, row.attempt) == (each.state, each.attempt), each
            assert row.lease_until == each.lease_until, each
            if each.state == "queued":
                assert row.not_before == each.not_before, each
            assert statuses[snapshot.id] == STATUS[each.state], each
            assert booked[snapshot.id] == (each.state == "succeeded"), each
        stored = 3_000_000 * sum(each.state == "succeeded" for each in self.model)
        assert self.world.again(self.runs.repository).stored_bytes == stored


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 20), ("postgresql", 5)])
def test_jobs_do_as_the_model_says(
    kind: str, examples: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    count = 0

    @contextlib.contextmanager
    def fresh() -> Iterator[Database]:
        nonlocal count
        count += 1
        with contextlib.ExitStack() as stack:
            if kind == "sqlite":
                path = tmp_path / f"{count}.db"
                shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
                url = f"sqlite:///{path}"
            else:
                url = stack.enter_context(request.getfixturevalue("postgresql_cluster").fresh())
            database = Database(url)
            stack.callback(database.close)
            yield database

    machine = type("Machine", (JobMachine,), {"fresh": staticmethod(fresh)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
