"""Many agents and many reports at the same time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from control_runs import Runs
from control_world import World
from sqlalchemy import func, select

from holdfast.control import events, hosts, jobs
from holdfast.control.tables import Event, Host, Job
from holdfast.errors import NotSignedIn, StaleAttempt

_T = TypeVar("_T")
THREADS = 8


@pytest.fixture
def runs(world: World) -> Runs:
    return Runs(world)


def at_once(acts: Sequence[Callable[[], _T]]) -> list[_T | BaseException]:
    """Run them all from one starting shot."""
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], _T]) -> _T | BaseException:
        start.wait()
        try:
            return act()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(run, acts))


def drain(runs: Runs, host: Host) -> list[str]:
    """Claim until there is nothing more; the ids."""
    world, taken = runs.world, []
    while job := world.database.transact(
        lambda tx: jobs.claim(tx, world.agent(host), instance="agent", now=world.now)
    ):
        taken.append(job.id)
    return taken


def test_no_job_is_leased_twice(world: World, runs: Runs) -> None:
    """Keepers take from one queue, at the same time."""
    keepers = [
        world.add_host(world.operator_account, keeper=True, max_jobs=50, agent_instance="agent")
        for _ in range(THREADS)
    ]
    wanted = {runs.add_upkeep(lock_key=f"repository:{number}").id for number in range(40)}
    taken = at_once([lambda host=each: drain(runs, host) for each in keepers])  # type: ignore[misc]
    counted = Counter(job_id for each in taken for job_id in _listed(each))
    assert set(counted) == wanted
    assert set(counted.values()) == {1}
    with world.database.read() as tx:
        rows = tx.execute(
            select(Job.state, Job.attempt, func.count()).group_by(Job.state, Job.attempt)
        )
        assert [tuple(row) for row in rows] == [("leased", 1, 40)]


def test_one_job_of_a_lock_key_among_many_keepers(world: World, runs: Runs) -> None:
    """Losing the race for a key means taking another job, not an error."""
    keepers = [
        world.add_host(world.operator_account, keeper=True, max_jobs=50, agent_instance="agent")
        for _ in range(THREADS)
    ]
    for _ in range(6):
        for key in range(5):
            runs.add_upkeep(lock_key=f"repository:{key}")
    taken = at_once([lambda host=each: drain(runs, host) for each in keepers])  # type: ignore[misc]
    assert sum(len(_listed(each)) for each in taken) == 5
    with world.database.read() as tx:
        leased = tx.scalars(select(Job.lock_key).where(Job.state == "leased")).all()
    assert sorted(leased) == [f"repository:{key}" for key in range(5)]


def test_a_lease_that_is_not_committed_yet_excludes_too(world: World, runs: Runs) -> None:
    """Who looked before the other one committed loses the key at the index, and goes on."""
    one, two = (world.add_host(world.operator_account, keeper=True) for _ in range(2))
    first, second = runs.add_upkeep(lock_key="a"), runs.add_upkeep(lock_key="a")
    third = runs.add_upkeep(lock_key="b")
    with ThreadPoolExecutor(1) as thread:
        with world.database.write() as tx:
            taken = jobs.claim(tx, world.agent(one), instance="agent", now=world.now)
            assert taken is not None
            assert taken.id == first.id
            waiting = thread.submit(runs.claim, two)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        other = waiting.result()
    assert other is not None
    assert other.id == third.id
    assert (world.again(second).state, world.again(second).attempt) == ("queued", 0)


def test_the_quota_holds_when_hosts_claim_at_once(world: World, runs: Runs) -> None:
    world.set(world.account, quota_running_jobs=3)
    many = [world.add_host(max_jobs=2, agent_instance="agent") for _ in range(THREADS)]
    for each in many:
        for number in range(3):
            runs.add(world.add_source(each, f"/root/{number}"))
    taken = at_once([lambda host=each: drain(runs, host) for each in many])  # type: ignore[misc]
    assert sum(len(_listed(each)) for each in taken) == 3


def test_max_jobs_holds_when_one_agent_claims_at_once(world: World, runs: Runs) -> None:
    host = world.add_host(max_jobs=2, agent_instance="agent")
    for number in range(6):
        runs.add(world.add_source(host, f"/root/{number}"))
    taken = at_once([lambda: drain(runs, host) for _ in range(THREADS)])
    assert sum(len(_listed(each)) for each in taken) == 2


def test_two_finishes_at_once_count_once(world: World, runs: Runs) -> None:
    host = world.add_host()
    snapshot, _ = runs.add(world.add_source(host))
    job = runs.claim(host)
    assert job is not None
    result = runs.result()
    ended = at_once([lambda: runs.finish(host, job, result=result).state for _ in range(THREADS)])
    assert ended == ["succeeded"] * THREADS
    assert runs.events(snapshot.id) == ["snapshot.started", "snapshot.completed"]
    assert runs.bookings(snapshot.id) == 1
    assert world.again(runs.repository).stored_bytes == result["stored_bytes"]


def test_finish_against_expiry_has_one_winner(world: World, runs: Runs) -> None:
    host = world.add_host()
    for round_number in range(5):
        snapshot, _ = runs.add(world.add_source(host, f"/root/{round_number}"), max_attempts=1)
        job = runs.claim(host)
        assert job is not None
        world.advance(seconds=61)
        acts: list[Callable[[], Any]] = [
            lambda job=job: runs.finish(host, job).state,  # type: ignore[misc]
            lambda: runs.expire(),
            lambda: runs.expire(),
        ]
        finished, *_ = at_once(acts)
        runs.expire()
        status = world.again(snapshot).status
        if isinstance(finished, StaleAttempt):
            assert (status, runs.bookings(snapshot.id)) == ("FAILED", 0)
        else:
            assert (finished, status) == ("succeeded", "COMPLETED")
            assert runs.bookings(snapshot.id) == 1


def test_sums_of_a_source_survive_runs_that_end_at_once(world: World, runs: Runs) -> None:
    host = world.add_host(max_jobs=THREADS)
    for number in range(THREADS):
        runs.add(world.add_source(host, f"/root/{number}"))
    taken = [runs.claim(host) for _ in range(THREADS)]
    ended = at_once([lambda job=each: runs.finish(host, job).state for each in taken])  # type: ignore[misc]
    assert ended == ["succeeded"] * THREADS
    assert world.again(runs.repository).stored_bytes == 3_000_000 * THREADS


def test_an_enrolment_token_lets_one_host_in(world: World) -> None:
    """H1: one use only, also when many come at once."""
    with world.database.write() as tx:
        _, secret = hosts.invite(tx, world.principal(), now=world.now)

    def enrol() -> str:
        return world.database.transact(
            lambda tx: (
                hosts.enrol(
                    tx,
                    secret,
                    name="box",
                    version="1",
                    roots=[],
                    inventory={},
                    address="",
                    now=world.now,
                )[0].id
            )
        )

    came = at_once([enrol for _ in range(THREADS)])
    assert len([each for each in came if isinstance(each, str)]) == 1
    assert len([each for each in came if isinstance(each, NotSignedIn)]) == THREADS - 1
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(Host)) == 1


def test_a_reader_of_events_misses_none(world: World, runs: Runs) -> None:
    """S7: numbers are seen in their order, whatever the order of commits."""
    host = world.add_host(max_jobs=THREADS)
    for number in range(24):
        runs.add(world.add_source(host, f"/root/{number}"), priority=-number)
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        last = 0
        while True:
            ending = stop.is_set()
            with world.database.read() as tx:
                found = events.events(tx, world.principal(), after_id=last, limit=500)
            seen.extend(each.id for each in found)
            last = seen[-1] if seen else 0
            if ending:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            taken = [runs.claim(host) for _ in range(THREADS)]
            at_once([lambda job=each: runs.finish(host, job) for each in taken])  # type: ignore[misc]
    finally:
        stop.set()
        reader.join()
    with world.database.read() as tx:
        all_ids = tx.scalars(select(Event.id).order_by(Event.id)).all()
    assert len(all_ids) == 48
    assert seen == list(all_ids)


def _listed(found: list[str] | BaseException) -> list[str]:
    assert isinstance(found, list), found
    return found
