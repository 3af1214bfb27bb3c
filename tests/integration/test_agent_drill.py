"""S5: drills by real agents: done, cancelled and killed; the scratch is gone in every case."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import Site, site, wait_until_gone, with_workers
from control_server import KeptJob
from sample_repository import fill, save

from holdfast.repo.repository import FileKind

SLOW = 1_000_000.0
"""Bytes per second at which what is drilled takes long enough to interfere."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        made.make_repository()
        yield made


@pytest.fixture
def drills(place: Site) -> Path:
    return place.state / "drills"


def add_drill(place: Site, size: int) -> KeptJob:
    fill(place.root, {"large": size, "small": 10})
    snapshot = save(place.repository(), place.root)
    captured = {"captured_path": str(place.root), "paths": []}
    return place.add("drill", manifest_id=snapshot.id, **captured)


def begun(place: Site, job: KeptJob, drills: Path) -> None:
    place.control.wait(lambda: "restoring" in job.stages)
    place.control.wait((drills / job.id / "restored").exists)


def test_a_drill_from_claim_to_end(place: Site, drills: Path) -> None:
    job = add_drill(place, 3 << 20)
    place.start()
    end = place.control.wait_for_end(job)
    assert end["outcome"] == "succeeded"
    assert end["findings"] == []
    assert end["result"]["passed"] is True
    assert end["result"]["compared_bytes"] == (3 << 20) + 10
    assert os.listdir(drills) == []


def test_a_cancelled_drill_leaves_nothing(place: Site, drills: Path) -> None:
    job = add_drill(place, 20 << 20)
    agent = place.start(limit_download=SLOW)
    begun(place, job, drills)
    processes = with_workers(place.wait_for_child(agent))
    job.cancel = True
    assert place.control.wait_for_end(job)["outcome"] == "cancelled"
    wait_until_gone(processes)
    assert os.listdir(drills) == []
    assert place.repository().ids(FileKind.LOCK) == []


def test_what_a_killed_drill_leaves_is_removed_at_once(place: Site, drills: Path) -> None:
    job = add_drill(place, 20 << 20)
    agent = place.start(limit_download=SLOW, cancel_grace_seconds=1)
    begun(place, job, drills)
    child = place.wait_for_child(agent)
    os.kill(child, signal.SIGSTOP)
    job.cancel = True
    assert place.control.wait_for_end(job)["outcome"] == "cancelled"
    place.control.wait(lambda: os.listdir(drills) == [])


def test_the_attempt_after_a_kill_begins_anew(place: Site, drills: Path) -> None:
    job = add_drill(place, 20 << 20)
    agent = place.start(limit_download=SLOW)
    begun(place, job, drills)
    agent.kill()
    wait_until_gone([agent.pid])
    assert (drills / job.id / "restored").exists()
    place.start()
    end = place.control.wait_for_end(job)
    assert (end["outcome"], end["attempt"]) == ("succeeded", 2)
    assert end["result"]["passed"] is True
    assert os.listdir(drills) == []


def test_an_agent_that_starts_removes_what_was_left(place: Site, drills: Path) -> None:
    """Also where the control plane does not ask for that drill any more."""
    job = add_drill(place, 20 << 20)
    agent = place.start(limit_download=SLOW)
    begun(place, job, drills)
    child = place.wait_for_child(agent)
    os.kill(child, signal.SIGSTOP)
    agent.kill()
    wait_until_gone([agent.pid, *with_workers(child)])
    with place.control.changed:
        job.state = "cancelled"
    assert (drills / job.id).exists()
    place.start()
    place.control.wait(lambda: os.listdir(drills) == [])
