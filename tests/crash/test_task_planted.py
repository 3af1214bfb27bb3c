"""Mistakes planted on purpose around tasks and buckets: the crash tests have to find each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bucket_plants
import pytest
import task_plants
from bucket_aftermath import look_at_bucket
from bucket_site import BucketSite, Version
from control_plants import Put
from control_relay import Message, Phase
from task_aftermath import check_whole_run, look_at_tasks
from task_site import TaskSite, begins_snapshot, said_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("task-crash-planted")]

Plant = Callable[[Put], None]


def _name(plant: Plant) -> str:
    return plant.__name__


def says_output(message: Message) -> bool:
    return said_of(message, "output")


def says_success(message: Message) -> bool:
    return said_of(message, "snapshot", status="success")


KILLS: tuple[tuple[Plant, Callable[[Message], bool], Phase], ...] = (
    (task_plants.output_is_kept_in_memory, says_output, Phase.ANSWERED),
    (task_plants.repeated_ends_of_snapshots_count, says_success, Phase.UNANSWERED),
    (task_plants.repeated_output_is_added, says_output, Phase.UNANSWERED),
)


@pytest.mark.parametrize(("plant", "at", "phase"), KILLS, ids=[_name(each[0]) for each in KILLS])
def test_a_killed_server_finds(
    tmp_path: Path, plant: Plant, at: Callable[[Message], bool], phase: Phase
) -> None:
    site = TaskSite(tmp_path)
    try:
        site.furnish(f"task_plants.{plant.__name__}")
        server = site.servers[0]
        task_id = site.submit("planted", every=2)
        site.wait_for_snapshots(task_id, 1)
        blow = server.relay.plan(at, phase, server.kill)
        site.wait(blow.done.is_set, "nobody came to it")
        site.wait_for_snapshots(task_id, 1)
        site.finish(task_id)
        with pytest.raises(AssertionError) as found:
            _look(site, task_id)
        print("found:", str(found.value)[:300])
    finally:
        site.close()


def test_a_lost_host_finds(tmp_path: Path) -> None:
    site = TaskSite(tmp_path)
    try:
        site.furnish("task_plants.unfinished_ones_are_left")
        machine = site.hosts[0]
        task_id = site.submit("planted")
        site.servers[0].relay.plan(
            begins_snapshot,
            Phase.ANSWERED,
            lambda _: machine.stop(),
        )
        site.wait(lambda: not machine.is_up, "the host goes on")
        site.let_leases_end()
        site.wait(lambda: site.job_of_task(task_id).state == "queued", "its lease does not end")
        site.clock.step(400)
        site.wait_for_end(task_id)
        with pytest.raises(AssertionError) as found:
            look_at_tasks(site)
        print("found:", str(found.value)[:300])
    finally:
        site.close()


BUCKETS: tuple[Plant, ...] = (
    bucket_plants.bodies_are_stored_too_late,
    bucket_plants.bodies_in_use_are_removed,
    bucket_plants.replaced_ones_are_counted,
)


@pytest.mark.parametrize("plant", BUCKETS, ids=_name)
def test_a_bucket_finds(tmp_path: Path, plant: Plant) -> None:
    site = BucketSite(tmp_path)
    try:
        site.furnish(f"bucket_plants.{plant.__name__}")
        client = site.client()
        for number in range(1, 4):
            site.put(client, Version("planted", number, 900 - 100 * number))
        site.servers[0].restart()
        with pytest.raises(AssertionError) as found:
            look_at_bucket(site)
        print("found:", str(found.value)[:300])
    finally:
        site.close()


def _look(site: TaskSite, task_id: str) -> None:
    look_at_tasks(site)
    check_whole_run(site, task_id)
