"""Tasks on two replicas with PostgreSQL, while each of all these is killed in turn.

Spec lines: T3, T5, B6, H1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_database import Cluster
from crash_cases import again, share_of_cases
from task_aftermath import check_whole_run, look_at_tasks
from task_site import TaskSite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("task-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""


@pytest.fixture
def site(postgresql_cluster: Cluster, tmp_path: Path) -> Iterator[TaskSite]:
    with postgresql_cluster.fresh("template0") as url:
        # Elsewhere the cluster promises nothing, to be quick.
        name = url.partition("?")[0].rpartition("/")[2]
        postgresql_cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit TO on")
        made = TaskSite(tmp_path, url)
        try:
            made.furnish(replicas=2)
            yield made
        finally:
            made.close()


@share_of_cases(0.006)
def test_everything_is_killed_in_turn(
    site: TaskSite, postgresql_cluster: Cluster, seed: int
) -> None:
    again("test_everything_is_killed_in_turn", seed)
    chance = random.Random(f"replicas {seed}")
    task_ids = [site.submit(f"task-{number}", every=1 + number) for number in range(3)]
    for task_id in task_ids:
        site.wait_for_snapshots(task_id, 1)
    assert {site.instance(each).host_id for each in task_ids} == {
        each.host_id for each in site.hosts
    }
    acts: list[Callable[[], None]] = [
        *(machine.kill for machine in site.hosts),
        *(machine.kill_children for machine in site.hosts),
        *(server.kill for server in site.servers),
        postgresql_cluster.restart,
    ]
    chance.shuffle(acts)
    for act in acts:
        time.sleep(chance.uniform(0, 1.5))
        site.note(f"{act}")
        act()
    for task_id in task_ids:
        site.wait_for_snapshots(task_id, 1)
        site.finish(task_id)
    for task_id in task_ids:
        check_whole_run(site, task_id)
    look_at_tasks(site)
