"""The life of a job: queued, leased, ended; who may take it, and whose word counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from control_runs import PASSES, STAYS, Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import hosts, jobs
from holdfast.control.job_end import RETRY_PAUSES_SECONDS, pause_after
from holdfast.control.job_report import MAX_LINES_PER_REPORT, JobError, LogLine
from holdfast.control.tables import AuditEntry, Host, Job, Snapshot, Source
from holdfast.errors import Forbidden, NotFound, NotReady, StaleAttempt, UsageError


@pytest.fixture
def runs(world: World) -> Runs:
    return Runs(world)


@pytest.fixture
def host(world: World) -> Host:
    return world.add_host(max_jobs=3)


@pytest.fixture
def source(world: World, host: Host) -> Source:
    return world.add_source(host)


def claimed(runs: Runs, host: Host, instance: str = "agent-1") -> Job:
    job = runs.claim(host, instance)
    assert job is not None
    return job


def test_a_claim_leases_and_starts(world: World, runs: Runs, host: Host, source: Source) -> None:
    """B6: the run is RUNNING from the claim on, once."""
    snapshot, job = runs.add(source)
    assert world.again(snapshot).status == "PENDING"
    taken = claimed(runs, host)
    assert (taken.id, taken.state, taken.attempt, taken.leased_to) == (job.id, "leased", 1, host.id)
    assert taken.lease_until == world.now + timedelta(seconds=jobs.LEASE_SECONDS)
    assert world.again(snapshot).status == "RUNNING"
    assert world.again(snapshot).started_at == world.now
    assert runs.events(snapshot.id) == ["snapshot.started"]
    assert runs.claim(host) is None


def test_order_is_priority_then_age(world: World, runs: Runs, host: Host) -> None:
    made = []
    for number, priority in enumerate((0, 10, 0, 10)):
        source = world.add_source(host, f"/root/{number}")
        made.append(runs.add(source, priority=priority)[1].id)
        world.advance(seconds=1)
    world.set(host, max_jobs=10)
    taken = [claimed(runs, host).id for _ in made]
    assert taken == [made[1], made[3], made[0], made[2]]


def test_looking_for_work_finds_all_that_claiming_would(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    who = world.agent(host)

    def worth(instance: str) -> bool:
        with world.database.read() as tx:
            return jobs.is_worth_claiming(tx, who, instance=instance, now=world.now)

    assert worth("first"), "a new instance returns what the one before it had"
    assert runs.claim(host, "first") is None
    assert not worth("first")
    _, job = runs.add(source)
    assert worth("first")
    assert claimed(runs, host, "first").id == job.id
    assert not worth("first"), "another run of the source has to wait for this one"
    assert worth("second")
    world.set(host, revoked_at=world.now)
    with pytest.raises(Forbidden):
        worth("first")


def test_not_before_and_give_up_are_waited_for(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    later = world.now + timedelta(seconds=30)
    runs.add(source, not_before=later, give_up_at=later + timedelta(seconds=30))
    assert runs.claim(host) is None
    world.advance(seconds=30)
    with world.database.read() as tx:
        assert jobs.waiting_hosts(tx, now=world.now) == {host.id}
    world.advance(seconds=30)
    assert runs.claim(host) is None, "there is no time left for it"
    with world.database.read() as tx:
        assert jobs.waiting_hosts(tx, now=world.now) == set()


def test_one_job_of_a_lock_key_at_a_time(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    _, first = runs.add(source)
    _, second = runs.add(source)
    other = runs.add(world.add_source(host, "/root/other"))[1]
    assert claimed(runs, host).id == first.id
    assert claimed(runs, host).id == other.id
    assert runs.claim(host) is None
    with world.database.read() as tx:
        assert jobs.waiting_hosts(tx, now=world.now) == set()
    runs.finish(host, world.again(first))
    assert claimed(runs, host).id == second.id


def test_limits_of_host_and_account(world: World, runs: Runs) -> None:
    """A1: a host has its number of jobs, and an account's hosts together theirs."""
    one, two = world.add_host(max_jobs=2), world.add_host(max_jobs=9)
    for each in (one, two):
        for number in range(4):
            runs.add(world.add_source(each, f"/root/{number}"))
    taken = [claimed(runs, one), claimed(runs, one)]
    assert runs.claim(one) is None
    world.set(world.account, quota_running_jobs=3)
    taken.append(claimed(runs, two))
    assert runs.claim(two) is None
    runs.finish(one, taken[0])
    assert runs.claim(two) is not None
    assert runs.claim(one) is None


def test_a_keeper_does_the_regions_work_beside_the_quota(world: World, runs: Runs) -> None:
    keeper = world.add_host(world.operator_account, keeper=True)
    plain = world.add_host(world.operator_account)
    elsewhere = world.add_host(world.operator_account, keeper=True)
    world.set(elsewhere, region_id=world.add_region("there").id)
    world.set(world.account, quota_running_jobs=0)
    job = runs.add_upkeep()
    with world.database.read() as tx:
        assert jobs.waiting_hosts(tx, now=world.now) == {None}
    assert runs.claim(plain) is None
    assert runs.claim(elsewhere) is None
    assert claimed(runs, keeper).id == job.id
    done = runs.finish(
        keeper, claimed_job(world, job), result={"freed_bytes": 5, "stored_bytes": 7}
    )
    assert done.state == "succeeded"
    with world.database.read() as tx:
        entry = tx.scalars(select(AuditEntry).where(AuditEntry.action == "prune.succeeded")).one()
    assert (entry.account_id, entry.actor_kind) == (world.account.id, "system")


def claimed_job(world: World, job: Job) -> Job:
    return world.again(job)


def test_nothing_for_a_revoked_host(world: World, runs: Runs, host: Host, source: Source) -> None:
    runs.add(source)
    world.set(host, revoked_at=world.now)
    with pytest.raises(Forbidden, match="revoked"):
        runs.claim(host)


def test_an_agent_gets_its_own_hosts_work_only(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """A4: another account's host sees nothing, and its word on a job is not heard."""
    job = runs.add(source)[1]
    stranger = world.add_host(world.add_account("Stranger"))
    neighbour = world.add_host()
    assert runs.claim(stranger) is None
    assert runs.claim(neighbour) is None
    taken = claimed(runs, host)
    for other in (stranger, neighbour):
        with pytest.raises(NotFound):
            runs.report(other, taken)
        with pytest.raises(NotFound):
            runs.finish(other, taken)
    with world.database.read() as tx, pytest.raises(Forbidden):
        jobs.claim(tx, world.principal(), instance="x", now=world.now)
    assert world.again(job).state == "leased"


def test_progress_renews_the_lease(world: World, runs: Runs, host: Host, source: Source) -> None:
    runs.add(source)
    job = claimed(runs, host)
    for _ in range(5):
        world.advance(seconds=50)
        assert runs.report(host, job, progress={"bytes_done": 7}) is False
        assert runs.expire() == 0
    known = world.again(job)
    assert (known.stage, known.progress) == ("reading", {"bytes_done": 7})
    assert known.lease_until == world.now + timedelta(seconds=60)


def test_log_lines_survive_what_they_hold(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    runs.add(source)
    job = claimed(runs, host)
    lines = [
        LogLine(world.now, "info", "reading a\udcff.bin"),
        LogLine(world.now, "loud", "nul \x00 and \U0001f600"),
        LogLine(world.now, "error", "x" * 100_000),
    ]
    runs.report(host, job, lines=lines, progress={"current": "a\udcff\x00"})
    with world.database.read() as tx:
        kept = jobs.lines(tx, world.principal(), job.id)
        assert [each.text for each in kept[:2]] == ["reading a�.bin", "nul � and \U0001f600"]
        assert [each.level for each in kept] == ["info", "info", "error"]
        assert len(kept[2].text) == 4000
        after = jobs.lines(tx, world.principal(), job.id, after_id=kept[1].id)
        assert [each.id for each in after] == [kept[2].id]
    assert world.again(job).progress == {"current": "a��"}
    with pytest.raises(UsageError):
        runs.report(host, job, lines=lines[:1] * (MAX_LINES_PER_REPORT + 1))
    with pytest.raises(UsageError):
        runs.report(host, job, progress={"current": "x" * 100_000})


def test_success_is_applied_once(world: World, runs: Runs, host: Host, source: Source) -> None:
    """B4, M1: the finish of a run counts once, however often it is said."""
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    result = runs.result()
    first = runs.finish(host, job, result=result)
    again = runs.finish(host, job, result=result)
    other = runs.finish(host, job, "failed", error=STAYS)
    assert {each.state for each in (first, again, other)} == {"succeeded"}
    assert again.finished_at == first.finished_at
    assert world.again(snapshot).status == "COMPLETED"
    assert world.again(snapshot).manifest_id == result["manifest_id"]
    assert runs.events(snapshot.id) == ["snapshot.started", "snapshot.completed"]
    assert runs.bookings(snapshot.id) == 1
    with pytest.raises(StaleAttempt):
        runs.report(host, job)


def test_a_lost_lease_is_tried_again_with_growing_pauses(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """B6: retried with growing pauses; then it has failed, and says of what."""
    snapshot, job = runs.add(source, max_attempts=3)
    for attempt in (1, 2, 3):
        assert claimed(runs, host).attempt == attempt
        world.advance(seconds=59)
        assert runs.expire() == 0
        world.advance(seconds=1)
        assert runs.expire() == 1
        if attempt < 3:
            waiting = world.again(job)
            assert waiting.state == "queued"
            assert waiting.not_before == world.now + pause_after(attempt)
            assert world.again(snapshot).status == "PENDING"
            assert runs.claim(host) is None
            world.advance(seconds=RETRY_PAUSES_SECONDS[attempt - 1])
    ended = world.again(job)
    assert (ended.state, ended.error_code, ended.attempt) == ("failed", "lease_lost", 3)
    failed = world.again(snapshot)
    assert (failed.status, failed.error_code) == ("FAILED", "lease_lost")
    assert runs.events(snapshot.id) == ["snapshot.started", "snapshot.failed"]
    assert list(RETRY_PAUSES_SECONDS) == sorted(set(RETRY_PAUSES_SECONDS))
    assert pause_after(99) == timedelta(seconds=RETRY_PAUSES_SECONDS[-1])


def test_there_is_no_attempt_after_its_time(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """B6: retries stay inside the slot."""
    end = world.now + timedelta(seconds=75)
    snapshot, job = runs.add(source, give_up_at=end)
    claimed(runs, host)
    world.advance(seconds=60)
    assert runs.expire() == 1
    assert world.again(job).state == "failed"
    assert world.again(job).error_code == "lease_lost"
    assert world.again(snapshot).status == "FAILED"


def test_a_frozen_agent_that_wakes_up_changes_nothing(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, job = runs.add(source)
    old = claimed(runs, host)
    world.advance(seconds=61)
    runs.expire()
    for act in (runs.report, runs.finish):
        with pytest.raises(StaleAttempt):
            act(host, old)
    world.advance(seconds=30)
    new = claimed(runs, host)
    assert new.attempt == 2
    before = world.again(job)
    for attempt in (1, 3, 0, -1):
        with pytest.raises(StaleAttempt):
            runs.report(host, new, attempt)
        for outcome in ("succeeded", "failed", "cancelled"):
            with pytest.raises(StaleAttempt):
                runs.finish(host, new, outcome, attempt)
    after = world.again(job)
    assert (after.state, after.lease_until, after.progress) == (
        before.state,
        before.lease_until,
        before.progress,
    )
    assert runs.finish(host, new).state == "succeeded"
    with pytest.raises(StaleAttempt):
        runs.finish(host, old)
    assert runs.bookings(snapshot.id) == 1


def test_a_late_report_counts_until_the_lease_is_taken_away(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    runs.add(source)
    job = claimed(runs, host)
    world.advance(hours=1)
    runs.report(host, job)
    assert runs.expire() == 0
    assert runs.finish(host, job).state == "succeeded"


def test_a_failure_that_may_pass_is_queued_again(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    first = runs.finish(host, job, "failed", error=PASSES)
    assert (first.state, first.not_before) == ("queued", world.now + pause_after(1))
    again = runs.finish(host, job, "failed", error=PASSES)
    assert (again.state, again.not_before) == ("queued", first.not_before)
    pending = world.again(snapshot)
    assert (pending.status, pending.error_code) == ("PENDING", "store_unavailable")
    world.advance(seconds=30)
    new = claimed(runs, host)
    assert new.attempt == 2
    with pytest.raises(StaleAttempt):
        runs.finish(host, job, "failed", error=PASSES)
    assert runs.finish(host, new).error_code is None
    assert world.again(snapshot).error_code is None
    assert runs.events(snapshot.id) == ["snapshot.started", "snapshot.completed"]


def test_a_failure_that_stays_is_the_end(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    lines = [LogLine(world.now, "error", "gone")]
    findings = [{"code": "file_torn", "message": "It changed.", "subject": "/root/a\udc80"}]
    for _ in range(2):
        ended = runs.finish(host, job, "failed", error=STAYS, lines=lines, findings=findings)
        assert (ended.state, ended.error_code) == ("failed", "source_vanished")
    failed = world.again(snapshot)
    assert (failed.status, failed.error_message) == ("FAILED", "The path is not there.")
    assert failed.findings[0]["subject"] == "/root/a�"
    with world.database.read() as tx:
        assert len(jobs.lines(tx, world.principal(), job.id)) == 1
    assert runs.events(snapshot.id) == ["snapshot.started", "snapshot.failed"]


def test_cancelling_what_waits_is_at_once(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """B5: cancel."""
    snapshot, job = runs.add(source)
    assert runs.cancel(job).state == "cancelled"
    assert runs.cancel(job).state == "cancelled"
    assert world.again(snapshot).status == "CANCELLED"
    assert runs.claim(host) is None
    assert runs.events(snapshot.id) == ["snapshot.cancelled"]
    assert world.again(job).cancelled_by == f"user:{world.principal().id}"


def test_cancelling_what_runs_asks_its_host(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    assert runs.cancel(job).state == "leased"
    assert runs.report(host, job) is True
    assert world.again(snapshot).status == "RUNNING"
    assert runs.finish(host, job, "cancelled").state == "cancelled"
    assert world.again(snapshot).status == "CANCELLED"
    assert world.again(snapshot).error_code is None
    assert runs.finish(host, job, "cancelled").state == "cancelled"


def test_cancelling_what_nobody_holds_any_more_is_at_once(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    world.advance(seconds=60)
    assert runs.cancel(job).state == "cancelled"
    assert world.again(snapshot).status == "CANCELLED"
    with pytest.raises(StaleAttempt):
        runs.finish(host, job)


def test_a_host_that_dies_after_the_wish_ends_it_too(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    runs.cancel(job)
    world.advance(seconds=61)
    assert runs.expire() == 1
    assert world.again(job).state == "cancelled"
    assert world.again(snapshot).status == "CANCELLED"


@pytest.mark.parametrize("error", [PASSES, STAYS, None])
def test_a_failure_after_the_wish_is_a_cancellation(
    world: World, runs: Runs, host: Host, source: Source, error: JobError | None
) -> None:
    runs.add(source)
    job = claimed(runs, host)
    runs.cancel(job)
    assert runs.finish(host, job, "failed", error=error).state == "cancelled"


def test_success_after_the_wish_is_success(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    runs.add(source)
    job = claimed(runs, host)
    runs.cancel(job)
    assert runs.finish(host, job).state == "succeeded"
    with pytest.raises(NotReady):
        runs.cancel(job)


def test_a_cancellation_that_nobody_wanted_is_tried_again(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    again = runs.finish(host, job, "cancelled")
    assert (again.state, again.error_code) == ("queued", "interrupted")
    assert world.again(snapshot).status == "PENDING"


def test_a_new_instance_returns_what_the_old_one_had(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    snapshot, _ = runs.add(source)
    other = runs.add(world.add_source(host, "/root/other"))[1]
    job = claimed(runs, host, "first")
    taken = claimed(runs, host, "second")
    assert taken.id == other.id
    returned = world.again(job)
    assert (returned.state, returned.leased_to) == ("queued", None)
    assert returned.not_before == world.now + pause_after(1)
    assert world.again(snapshot).status == "PENDING"
    with pytest.raises(StaleAttempt):
        runs.report(host, job)
    world.advance(seconds=30)
    assert claimed(runs, host, "second").attempt == 2


def test_a_new_instance_of_a_last_attempt_fails_it(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    _, job = runs.add(source, max_attempts=1)
    claimed(runs, host, "first")
    assert runs.claim(host, "second") is None
    assert (world.again(job).state, world.again(job).error_code) == ("failed", "lease_lost")


def test_revoking_a_host_ends_its_work(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """H1: a revoked host can do nothing."""
    running, _ = runs.add(source)
    waiting, _ = runs.add(world.add_source(host, "/root/other"), slot_at=world.now)
    job = claimed(runs, host)
    with world.database.write() as tx:
        hosts.revoke(tx, world.principal(), host.id, now=world.now)
    assert (world.again(job).state, world.again(job).error_code) == ("failed", "host_revoked")
    assert world.again(running).status == "FAILED"
    skipped = world.again(waiting)
    assert (skipped.status, skipped.findings[0]["code"]) == ("SKIPPED", "host_silent")
    for act in (runs.report, runs.finish):
        with pytest.raises(Forbidden):
            act(host, job)


def test_revoking_a_keeper_gives_its_work_to_another(world: World, runs: Runs) -> None:
    one, two = (world.add_host(world.operator_account, keeper=True) for _ in range(2))
    job = runs.add_upkeep()
    assert claimed(runs, one).id == job.id
    with world.database.write() as tx:
        hosts.revoke(tx, world.operator(), one.id, now=world.now)
    world.advance(seconds=30)
    assert claimed(runs, two).attempt == 2


def test_a_run_that_nobody_took_is_a_missed_slot(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    """B6, H1: due work of a silent host is missed, not fine."""
    end = world.now + timedelta(hours=1)
    scheduled, _ = runs.add(source, slot_at=world.now, give_up_at=end)
    manual, _ = runs.add(source, give_up_at=end)
    world.advance(hours=1)
    assert runs.expire() == 2
    missed = world.again(scheduled)
    assert (missed.status, missed.error_code) == ("SKIPPED", "not_taken")
    assert missed.findings[0]["code"] == "host_silent"
    assert runs.events(scheduled.id) == ["snapshot.missed"]
    assert world.again(manual).status == "FAILED"


def test_one_job_whose_end_fails_does_not_stop_the_others(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    end = world.now + timedelta(seconds=1)
    broken = runs.add(source, give_up_at=end, subject_id="no such snapshot")[1]
    sound = runs.add(world.add_source(host, "/root/other"), give_up_at=end)[1]
    world.advance(seconds=1)
    assert runs.expire() == 1
    assert world.again(sound).state == "failed"
    assert world.again(broken).state == "queued"


def test_an_idempotency_key_makes_one_job(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    first = runs.add_upkeep(idempotency_key="prune today")
    again = runs.add_upkeep(idempotency_key="prune today")
    other = runs.add_upkeep(idempotency_key="prune tomorrow")
    assert first.id == again.id != other.id
    with pytest.raises(UsageError):
        runs.add_upkeep("dance")


def test_a_long_lock_key_still_excludes(world: World, runs: Runs) -> None:
    keeper = world.add_host(world.operator_account, keeper=True)
    key = "restore:" + "a" * 300
    for last in ("x", "x", "y"):
        runs.add_upkeep(lock_key=key + last)
    assert runs.claim(keeper) is not None
    assert runs.claim(keeper) is not None
    assert runs.claim(keeper) is None


def test_jobs_are_listed_within_what_one_may_see(world: World, runs: Runs) -> None:
    """A2, A4: another account sees nothing; a narrowed token its own part."""
    one, two = world.add_host(), world.add_host()
    first = world.add_source(one)
    job, other = runs.add(first)[1], runs.add(world.add_source(two))[1]
    upkeep = runs.add_upkeep()
    stranger = world.principal(world.add_account("Stranger"))

    def listed(**fields: object) -> set[str]:
        with world.database.read() as tx:
            page = jobs.jobs(tx, world.principal(**fields))  # type: ignore[arg-type]
        return {each.id for each in page.items}

    assert listed() == {job.id, other.id, upkeep.id}
    assert listed(resources=frozenset({first.id})) == {job.id}
    assert listed(resources=frozenset({two.id})) == {other.id}
    assert listed(kinds=frozenset({"path"})) == {job.id, other.id}
    assert listed(kinds=frozenset({"vm"})) == set()
    with world.database.read() as tx:
        assert jobs.jobs(tx, stranger).items == []
        for each in (job.id, "\x00", "no such job"):
            with pytest.raises(NotFound):
                jobs.get(tx, stranger, each)
        narrow = world.principal(resources=frozenset({first.id}))
        assert jobs.get(tx, narrow, job.id).id == job.id
        for each in (other.id, upkeep.id):
            with pytest.raises(NotFound):
                jobs.get(tx, narrow, each)
    with world.database.write() as tx:
        with pytest.raises(NotFound):
            jobs.request_cancel(tx, stranger, job.id, now=world.now)
        with pytest.raises(Forbidden):
            jobs.request_cancel(tx, world.principal(rights=["read"]), job.id, now=world.now)
        with pytest.raises(Forbidden):
            jobs.request_cancel(tx, world.principal(rights=["create"]), upkeep.id, now=world.now)


def test_ends_are_audited(world: World, runs: Runs, host: Host, source: Source) -> None:
    """A5."""
    snapshot, _ = runs.add(source)
    job = claimed(runs, host)
    runs.cancel(job)
    runs.finish(host, job, "cancelled")
    with world.database.read() as tx:
        kept = tx.scalars(
            select(AuditEntry).where(AuditEntry.subject_id == snapshot.id).order_by(AuditEntry.id)
        ).all()
    assert [(each.actor_kind, each.action) for each in kept] == [
        ("user", "backup.cancel_requested"),
        ("agent", "backup.cancelled"),
    ]


def test_an_outcome_that_is_none_is_refused(
    world: World, runs: Runs, host: Host, source: Source
) -> None:
    runs.add(source)
    job = claimed(runs, host)
    with pytest.raises(UsageError):
        runs.finish(host, job, "queued")
    with pytest.raises(UsageError):
        runs.claim(host, "x" * 37)
    assert world.again(job).state == "leased"


def test_times_are_those_of_the_caller(world: World, runs: Runs, source: Source) -> None:
    job = runs.add(source)[1]
    assert world.again(job).created_at == datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
    with world.database.read() as tx:
        assert tx.get_one(Snapshot, job.subject_id).job_id == job.id
