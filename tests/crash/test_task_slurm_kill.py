"""Tasks on a real Slurm through a server and an agent: requeued, killed, out of time.

The computation is Slurm's, so neither the agent's death nor Slurm's own second thoughts may
cost what was said to be stored. Spec lines: T3, T5, T11.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from slurm_cluster import Slurm
from task_aftermath import check_runs, check_whole_run, look_at_tasks, steps_in
from task_computation import digest_after
from task_site import STEPS, TaskSite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


@pytest.fixture(scope="module")
def shared(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSite]:
    made = TaskSite(tmp_path_factory.mktemp("slurm-tasks"))
    made.environment |= slurm.environment
    try:
        made.furnish()
        yield made
    finally:
        made.close()


@pytest.fixture
def site(shared: TaskSite) -> Iterator[TaskSite]:
    """The same for all; a test that fails leaves no job in the cluster's queue."""
    yield shared
    shared.servers[0].relay.forget_blows()
    shared.end_tasks()


def test_an_agent_killed_while_its_job_runs(site: TaskSite) -> None:
    """T11: the next attempt attends to the same job; snapshots go on, and output is whole."""
    machine = site.hosts[0]
    task_id = site.submit("slurm-agent", profile="slurm-batch", every=2)
    site.wait_for_snapshots(task_id, 1)
    reference = site.instance(task_id).reference
    assert reference.isdigit()
    machine.kill()
    site.wait_for_snapshots(task_id, 1)
    machine.kill_children()
    site.wait(lambda: site.job_of_task(task_id).attempt == 3, "no other attempt")
    site.finish(task_id)
    assert site.instance(task_id).reference == reference
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_job_that_slurm_requeues(site: TaskSite, slurm: Slurm) -> None:
    """It begins again where its directory stands, which is said, and ends well."""
    machine = site.hosts[0]
    task_id = site.submit("slurm-requeue", profile="slurm-batch", every=2)
    site.wait_for_snapshots(task_id, 1)
    instance_id = site.wait_for_steps(machine, task_id, 10)
    reference = site.instance(task_id).reference
    slurm.ask("scontrol", "requeue", reference)

    def begun_again() -> bool:
        with suppress(RuntimeError):  # it may still be on its way out
            slurm.ask("scontrol", "update", f"JobId={reference}", "StartTime=now")
        return site.runs_file("slurm-requeue").read_text() == "run\nrun\n"

    site.wait(begun_again, "Slurm does not begin it again")
    assert site.task(task_id).ended_at is None
    site.wait_for_snapshots(task_id, 1)
    assert site.finish(task_id) == "Success"
    assert [each["code"] for each in site.task(task_id).findings].count("slurm_requeued") == 1
    written = (machine.tasks / instance_id / "stdout").read_text()
    assert site.output(task_id) == written
    assert written.endswith(f"digest {digest_after(STEPS)}\n")
    check_runs(site, "slurm-requeue", 2)
    look_at_tasks(site)


def test_a_job_that_slurm_will_end_soon(site: TaskSite, slurm: Slurm) -> None:
    """T5: Slurm gives notice; what was computed until then is in a snapshot."""
    machine = site.hosts[0]
    task_id = site.submit("slurm-notice", profile="slurm-batch", every=3600)
    site.wait_for_steps(machine, task_id, 10)
    # What Slurm itself does a while before the limit of a job.
    slurm.ask("scancel", "--signal=USR1", "--batch", site.instance(task_id).reference)
    site.wait_for_snapshots(task_id, 1)
    assert steps_in(site, site.parts(task_id)[-1]) >= 10
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_time_limit(site: TaskSite) -> None:
    """T5: the last snapshot is taken before the computation is ended."""
    task_id = site.submit(
        "slurm-limit", profile="slurm-batch", every=3600, steps=10_000, time_limit_seconds=6
    )
    assert site.wait_for_end(task_id) == "Failure"
    assert site.instance(task_id).error_code == "time_limit"
    (last,) = site.parts(task_id)
    assert steps_in(site, last) > 0
    check_runs(site, "slurm-limit")
    look_at_tasks(site)


def test_a_job_that_is_cancelled_in_slurm(site: TaskSite, slurm: Slurm) -> None:
    task_id = site.submit("slurm-cancel", profile="slurm-batch", steps=10_000, every=2)
    site.wait_for_snapshots(task_id, 1)
    slurm.ask("scancel", site.instance(task_id).reference)
    assert site.wait_for_end(task_id) == "Failure"
    assert "slurm_cancelled" in {each["code"] for each in site.task(task_id).findings}
    assert site.parts(task_id)
    look_at_tasks(site)
