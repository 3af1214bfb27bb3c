"""The life of an agent: killed, stopped, cut off and told to stop, with real processes.

Spec lines: B6 (cancel, retries), H1 (heartbeat, inventory), and the fencing of attempts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import Site, is_alive, site, wait_until_gone, with_workers
from control_server import KeptJob
from sample_repository import contents, expected, fill

from holdfast.repo.repository import FileKind

SLOW = 200_000.0
"""Bytes per second at which a megabyte takes long enough to interfere."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        made.make_repository()
        yield made


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Site]:
    """With leases that run out in a test's time."""
    with site(tmp_path, lease_seconds=4.0) as made:
        made.make_repository()
        yield made


def begun(place: Site, job: KeptJob) -> None:
    """Wait until the job's flow is at work, and not only its process."""
    place.control.wait(lambda: "reading" in job.stages)


def slow_backup(place: Site) -> KeptJob:
    """Three packs and more; the first alone takes minutes at that rate."""
    fill(place.root, {"large": 60 << 20})
    return place.add_backup()


def test_a_backup_from_claim_to_end(place: Site) -> None:
    """H1, B6: heartbeats tell of the host and of what runs; progress and the end are reported."""
    fill(place.root, {"a": 300_000, "models/b": 1000})
    agent = place.start()
    job = place.add_backup()
    end = place.control.wait_for_end(job)
    assert (end["outcome"], end["error"], end["attempt"]) == ("succeeded", None, 1)
    repository = place.repository()
    (snapshot,), _ = repository.snapshots()
    assert snapshot.id == end["result"]["manifest_id"]
    assert contents(repository, snapshot) == expected(place.root)
    assert any("Read back" in line["text"] for line in _lines(job))
    beat = place.control.heartbeats[-1]
    assert beat["inventory"]["kinds"] == ["path"]
    assert beat["inventory"]["roots"][0]["path"] == "/root"
    assert beat["inventory"]["roots"][0]["free_bytes"] > 0
    assert len({each["instance"] for each in place.control.claims}) == 1
    agent.terminate()
    assert agent.wait(60) == 0
    assert os.listdir(place.state / "spool") == [], "it was given the time to hear the answer"


def _lines(job: KeptJob) -> list[dict[str, str]]:
    return [line for body in (*job.reports, *job.finishes) for line in body["lines"]]


def test_cancelled_in_the_middle(place: Site) -> None:
    """B6: the flow unwinds; nothing is left running, locked or restorable."""
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW)
    begun(place, job)
    processes = with_workers(place.wait_for_child(agent))
    job.cancel = True
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "cancelled"
    assert end["error"]["code"] == "interrupted"
    wait_until_gone(processes)
    repository = place.repository()
    assert repository.ids(FileKind.SNAPSHOT) == []
    assert repository.ids(FileKind.LOCK) == []
    assert agent.poll() is None


def test_a_heartbeat_may_say_stop_too(place: Site) -> None:
    job = slow_backup(place)
    place.start(limit_upload=SLOW)
    begun(place, job)
    place.control.wait(
        lambda: any(
            {"job_id": job.id, "attempt": 1} in beat["running"] for beat in place.control.heartbeats
        )
    )
    place.control.stop = [job.id]
    assert place.control.wait_for_end(job)["outcome"] == "cancelled"


def test_a_job_that_does_not_listen_is_killed(place: Site) -> None:
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW, cancel_grace_seconds=1)
    begun(place, job)
    child = place.wait_for_child(agent)
    os.kill(child, signal.SIGSTOP)
    job.cancel = True
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "cancelled"
    wait_until_gone([child])


def test_a_killed_child_is_a_failure_that_may_pass(place: Site) -> None:
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW)
    begun(place, job)
    processes = with_workers(place.wait_for_child(agent))
    place.control.most_attempts = 1
    os.kill(processes[0], signal.SIGKILL)
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "failed"
    assert end["error"]["code"] == "worker_lost"
    assert end["error"]["retryable"] is True
    wait_until_gone(processes)


def test_a_killed_worker_is_a_failure_that_may_pass(place: Site) -> None:
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW)
    begun(place, job)
    child = place.wait_for_child(agent)
    place.control.most_attempts = 1
    deadline = time.monotonic() + 60
    while len(workers := with_workers(child)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(workers[-1], signal.SIGKILL)
    assert place.control.wait_for_end(job)["error"]["code"] == "worker_lost"


def test_a_frozen_agent_that_wakes_up_changes_nothing(brief: Site) -> None:
    """Its child dies with the lease, its reports are stale, and it goes on with new work."""
    job = slow_backup(brief)
    agent = brief.start(limit_upload=SLOW)
    begun(brief, job)
    processes = with_workers(brief.wait_for_child(agent))
    agent.send_signal(signal.SIGSTOP)
    wait_until_gone(processes)  # although nobody could tell them
    time.sleep(1.0)
    brief.control.wait(lambda: job.lease_until < time.monotonic())
    with brief.control.changed:
        job.state, job.attempt = "leased", 7  # somebody else has it now
        job.lease_until = time.monotonic() + 1000
    agent.send_signal(signal.SIGCONT)
    brief.control.wait(lambda: job.stale)
    assert job.finishes == []
    assert brief.repository().ids(FileKind.SNAPSHOT) == []
    (brief.root / "large").unlink()
    fill(brief.root, {"small": 100})
    assert brief.control.wait_for_end(brief.add_backup())["outcome"] == "succeeded"
    brief.control.wait(lambda: not os.listdir(brief.state / "spool"))


def test_a_lease_that_runs_out_unheard_ends_the_job(brief: Site) -> None:
    job = slow_backup(brief)
    agent = brief.start(limit_upload=SLOW)
    begun(brief, job)
    processes = with_workers(brief.wait_for_child(agent))
    brief.control.away = True
    wait_until_gone(processes)
    (brief.root / "large").unlink()
    fill(brief.root, {"small": 100})
    brief.control.away = False
    brief.control.wait(lambda: any(end["outcome"] == "succeeded" for end in job.finishes))
    assert job.attempt >= 2
    for end in job.finishes[:-1]:
        assert end["error"]["retryable"]


def test_the_server_may_be_away_for_a_while(place: Site) -> None:
    """Before there is work, and while a job runs: neither ends the agent or the job."""
    place.control.away = True
    agent = place.start(limit_upload=2_000_000.0)
    time.sleep(1.5)
    assert agent.poll() is None
    fill(place.root, {"a": 6 << 20})
    job = place.add_backup()
    place.control.away = False
    begun(place, job)
    place.control.away = True
    time.sleep(3)
    place.control.away = False
    end = place.control.wait_for_end(job)
    assert (end["outcome"], end["attempt"]) == ("succeeded", 1)
    assert len(job.finishes) == 1


def test_a_finish_whose_answer_was_lost_is_repeated(place: Site) -> None:
    fill(place.root, {"a": 100})
    place.control.drop_answers_of = {"finish"}
    place.start()
    job = place.add_backup()
    place.control.wait_for_end(job)
    spool = place.state / "spool"
    assert len(os.listdir(spool)) == 1
    place.control.drop_answers_of = set()
    place.control.wait(lambda: not os.listdir(spool))
    assert len(job.finishes) == 1
    assert job.state == "succeeded"


def test_a_finish_survives_the_agent(place: Site) -> None:
    """kill -9 between the end of a job and its report: the next agent reports it first."""
    fill(place.root, {"a": 100})
    place.control.deaf_to = {"finish"}
    agent = place.start()
    job = place.add_backup()
    spool = place.state / "spool"
    place.control.wait(lambda: list(spool.glob("*.json")))  # written whole
    agent.kill()
    agent.wait()
    assert job.finishes == []
    place.control.deaf_to = set()
    claims = len(place.control.claims)
    place.start()
    end = place.control.wait_for_end(job)
    assert (end["outcome"], end["attempt"], job.attempt) == ("succeeded", 1, 1)
    place.control.wait(lambda: len(place.control.claims) > claims)
    place.control.wait(lambda: not os.listdir(spool))


def test_a_finish_that_comes_too_late_is_dropped(brief: Site) -> None:
    fill(brief.root, {"a": 100})
    brief.control.deaf_to = {"finish"}
    agent = brief.start()
    job = brief.add_backup()
    spool = brief.state / "spool"
    brief.control.wait(lambda: list(spool.glob("*.json")))
    agent.kill()
    agent.wait()
    with brief.control.changed:
        job.state, job.attempt = "succeeded", 2
    brief.control.deaf_to = set()
    brief.start()
    brief.control.wait(lambda: job.stale)
    brief.control.wait(lambda: not os.listdir(spool))
    assert job.finishes == []


def test_killed_agents_take_their_children_along_and_the_work_is_done_again(place: Site) -> None:
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW)
    begun(place, job)
    processes = with_workers(place.wait_for_child(agent))
    agent.kill()
    agent.wait()
    wait_until_gone(processes)
    (place.root / "large").unlink()
    fill(place.root, {"small": 100})
    place.start()
    end = place.control.wait_for_end(job)
    assert (end["outcome"], end["attempt"]) == ("succeeded", 2)


def test_an_agent_that_is_told_to_end_gives_its_work_back(place: Site) -> None:
    job = slow_backup(place)
    agent = place.start(limit_upload=SLOW)
    begun(place, job)
    processes = with_workers(place.wait_for_child(agent))
    place.control.most_attempts = 1
    agent.terminate()
    assert agent.wait(60) == 0
    assert not any(is_alive(pid) for pid in processes)
    assert job.end["outcome"] == "failed"
    assert job.end["error"]["code"] == "interrupted"
    assert job.end["error"]["retryable"] is True
    assert place.repository().ids(FileKind.LOCK) == []


def test_a_revoked_host_ends_with_a_reason(place: Site) -> None:
    place.control.revoked = True
    agent = place.start()
    assert agent.wait(60) == 21
    assert "enrol" in place.log.read_text()


def test_a_credential_that_is_not_known_ends_with_a_reason(place: Site) -> None:
    place.enrol("another")
    agent = place.start()
    assert agent.wait(60) == 20


def test_roots_and_name_of_the_enrolment_hold_where_nothing_else_is_set(place: Site) -> None:
    fill(place.root, {"a": 100})
    del place.settings["roots"], place.settings["name"], place.settings["server"]
    place.enrol(name="as enrolled", roots=[{"path": "/root", "directory": str(place.root)}])
    place.start()
    assert place.control.wait_for_end(place.add_backup())["outcome"] == "succeeded"
    (snapshot,), _ = place.repository().snapshots()
    assert snapshot.hostname == "as enrolled"


def test_one_agent_on_a_state_directory(place: Site) -> None:
    place.start()
    place.control.wait(lambda: place.control.claims)
    second = place.start()
    assert second.wait(60) == 11


def test_as_many_jobs_at_once_as_were_allowed(place: Site) -> None:
    fill(place.root, {"a/large": 30 << 20, "b/large": 30 << 20, "c/large": 30 << 20})
    jobs = [place.add_backup(f"/root/{name}") for name in "abc"]
    agent = place.start(limit_upload=SLOW, max_jobs=2)
    for job in jobs[:2]:
        begun(place, job)
    time.sleep(1.0)
    assert [job.state for job in jobs] == ["leased", "leased", "queued"]
    assert len(place.children(agent)) == 2
    jobs[0].cancel = True
    begun(place, jobs[2])


def test_a_job_of_a_newer_server_is_refused_with_advice(place: Site) -> None:
    place.start()
    end = place.control.wait_for_end(place.add("defragment"))
    assert end["outcome"] == "failed"
    assert end["error"]["retryable"] is False
    assert "install" in end["error"]["message"]
