"""Kill -9 of what takes part in a task: the agent, a job's process, supervisor, server, host.

A computation is started once and goes on without whoever died; what it wrote is whole, and
what was said to be stored is there once. Spec lines: T3, T5, T9, B6, B11, M1.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from control_processes import eventually, is_alive, kill
from control_relay import Message, Phase
from crash_cases import again, share_of_cases
from sqlalchemy import select
from task_aftermath import MOST_MISSED, check_runs, check_whole_run, look_at_tasks, steps_in
from task_site import TaskSite, begins_snapshot, said_of

from holdfast.control.completion.task import HOST_AWAY
from holdfast.control.tables import Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("task-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSite]:
    made = TaskSite(tmp_path_factory.mktemp("tasks"))
    try:
        made.furnish()
        yield made
    finally:
        made.close()


@pytest.fixture
def site(shared: TaskSite) -> Iterator[TaskSite]:
    """The same for all; a test that fails leaves no task behind."""
    yield shared
    shared.servers[0].relay.forget_blows()
    shared.end_tasks()


@pytest.fixture
def own_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSite]:
    """One whose clock goes far ahead of the machines'."""
    made = TaskSite(tmp_path_factory.mktemp("tasks-alone"))
    try:
        made.furnish()
        yield made
    finally:
        made.close()


def test_a_killed_agent(site: TaskSite) -> None:
    """(a) The computation goes on, snapshots go on, and nothing is there twice."""
    machine = site.hosts[0]
    task_id = site.submit("agent")
    site.wait_for_snapshots(task_id, 1)
    instance_id = site.instance(task_id).id
    command = machine.command(instance_id)
    machine.kill()
    assert is_alive(command)
    site.wait_for_snapshots(task_id, 2)
    assert site.job_of_task(task_id).attempt == 2
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_killed_child(site: TaskSite) -> None:
    """(b) The job's process alone."""
    machine = site.hosts[0]
    task_id = site.submit("child")
    site.wait_for_snapshots(task_id, 1)
    machine.kill_children()
    # Its agent says what happened, and the next attempt rests for a while.
    site.wait(lambda: site.job_of_task(task_id).state == "queued", "nobody noticed")
    site.wait_for_snapshots(task_id, 2)
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_killed_supervisor(site: TaskSite) -> None:
    """(c) T9: nothing of it lives on; what was snapshotted is where the next one begins."""
    machine = site.hosts[0]
    task_id = site.submit("supervisor", steps=10_000)
    site.wait_for_snapshots(task_id, 2)
    instance_id = site.instance(task_id).id
    assert machine.computations(instance_id)
    os.kill(machine.supervisor(instance_id), signal.SIGKILL)
    assert site.wait_for_end(task_id) == "Failure"
    assert site.instance(task_id).error_code == "runner_lost"
    assert machine.computations(instance_id) == []
    check_runs(site, "supervisor")
    last = site.parts(task_id)[-1]
    begun = steps_in(site, last)
    assert begun > 0
    steps = begun + 10
    again_id = site.submit("restarted", steps=steps, every=0, starts_from=last.task_snapshot_id)
    site.finish(again_id)
    check_whole_run(site, again_id, steps, begun=begun)
    look_at_tasks(site)


WHILE_IT_RUNS: tuple[Callable[[Message], bool], ...] = (
    lambda message: said_of(message, "output"),
    lambda message: said_of(message, "snapshot", status="success"),
)
WHEN_IT_ENDS: tuple[Callable[[Message], bool], ...] = (
    lambda message: said_of(message, "state", state="uploading"),
    lambda message: message.name == "POST /finish",
)


@pytest.mark.parametrize("phase", [Phase.LOST, Phase.UNDERWAY, Phase.UNANSWERED], ids=str)
def test_a_killed_server(site: TaskSite, phase: Phase) -> None:
    """(d) Once at each kind of report: nothing acknowledged is lost, nothing is twice."""
    server = site.servers[0]
    task_id = site.submit(f"server-{phase}")
    for number, at in enumerate(WHILE_IT_RUNS):
        site.wait_for_snapshots(task_id, 1)
        blow = server.relay.plan(at, phase, server.kill)
        site.wait(blow.done.is_set, f"the server was not killed at report {number}")
    blows = [server.relay.plan(at, phase, server.kill) for at in WHEN_IT_ENDS]
    site.finish(task_id)
    for number, blow in enumerate(blows):
        site.wait(blow.done.is_set, f"the server was not killed at end {number}")
        assert blow.failure is None, blow.failure
    check_whole_run(site, task_id)
    look_at_tasks(site)


@dataclass(frozen=True)
class Moment:
    """When an attempt is killed: at a message of its machine, and whether with the agent."""

    name: str
    at: Callable[[Message], bool]
    phase: Phase
    whole_agent: bool = True
    at_the_end: bool = False


MOMENTS = (
    Moment("claimed", lambda m: m.name == "POST /claim" and bool(m.answer), Phase.UNANSWERED),
    Moment("preparing", lambda m: said_of(m, "state", state="preparing"), Phase.UNANSWERED),
    Moment(
        "executing",
        lambda m: said_of(m, "state", state="executing"),
        Phase.LOST,
        whole_agent=False,
    ),
    Moment("begun", begins_snapshot, Phase.UNANSWERED),
    Moment("stored", lambda m: said_of(m, "snapshot", status="success"), Phase.LOST),
    Moment(
        "heard",
        lambda m: said_of(m, "snapshot", status="success"),
        Phase.UNANSWERED,
        whole_agent=False,
    ),
    Moment(
        "uploading",
        lambda m: said_of(m, "state", state="uploading"),
        Phase.UNANSWERED,
        at_the_end=True,
    ),
    Moment("finishing", lambda m: m.name == "POST /finish", Phase.LOST, at_the_end=True),
    Moment("finished", lambda m: m.name == "POST /finish", Phase.UNANSWERED, at_the_end=True),
)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_an_attempt_killed_at_a_message(site: TaskSite, moment: Moment) -> None:
    """(a) (b) At each stage of an attempt: one run of the command, and one of everything."""
    machine = site.hosts[0]
    act = machine.kill if moment.whole_agent else machine.kill_children
    blow = site.servers[0].relay.plan(moment.at, moment.phase, act)
    task_id = site.submit(f"at-{moment.name}")
    if moment.at_the_end:
        site.wait_for_snapshots(task_id, 1)
        site.hurry(task_id)
    site.wait(blow.done.is_set, "nobody came to it")
    assert blow.failure is None, blow.failure
    if not moment.at_the_end:
        site.wait_for_snapshots(task_id, 1)
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_freezer_killed_while_it_freezes(site: TaskSite) -> None:
    """(e) Whoever holds the computation still dies: it runs on."""
    machine = site.hosts[0]
    # Much to be read anew each time, so that it is held still for longer than a look takes.
    churn = "(while :; do head -c 20000000 /dev/urandom > churn; sleep 0.3; done) &"
    task_id = site.submit("freezer", before=churn)
    instance_id = site.wait_for_steps(machine, task_id, 5)
    struck, until = 0, time.monotonic() + 120
    while struck < 2 and time.monotonic() < until:
        if machine.is_still(instance_id):
            kill(machine.children)
            struck += 1
            eventually(lambda: not machine.is_still(instance_id), "it stands still for ever")
            eventually(lambda: machine.children, "no other attempt")
        time.sleep(0.002)
    assert struck, "it was never seen to stand still"
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


def test_a_host_that_never_comes_back(own_site: TaskSite) -> None:
    """(f) T5: after the grace the task has failed, and what was stored stays."""
    site, machine = own_site, own_site.hosts[0]
    task_id = site.submit("lost", steps=10_000)
    site.wait_for_snapshots(task_id, 2)
    relay = site.servers[0].relay
    relay.plan(
        begins_snapshot,
        Phase.ANSWERED,
        lambda _: machine.stop(),
    )
    site.wait(lambda: not machine.is_up, "the host goes on")
    complete = [each.id for each in site.parts(task_id)]
    site.let_leases_end()
    site.wait(lambda: site.job_of_task(task_id).state == "queued", "its lease does not end")
    site.clock.step(HOST_AWAY.total_seconds() / 2)
    time.sleep(1)
    assert site.task(task_id).ended_at is None
    site.clock.step(HOST_AWAY.total_seconds() / 2 + 1)
    assert site.wait_for_end(task_id) == "Failure"
    assert site.instance(task_id).error_code == "host_lost"
    assert [each.id for each in site.parts(task_id)] == complete
    with site.database.read() as tx:
        failed = tx.scalars(select(Snapshot).where(Snapshot.status == "FAILED")).all()
    assert {each.error_code for each in failed} == {"host_lost"}
    look_at_tasks(site)
    # The host comes back too late: nothing begins anew, and a new task begins there.
    begun = steps_in(site, site.parts(task_id)[-1])
    machine.start()
    again_id = site.submit(
        "found", steps=begun + 5, every=0, starts_from=site.parts(task_id)[-1].task_snapshot_id
    )
    site.finish(again_id)
    check_runs(site, "lost")
    check_whole_run(site, again_id, begun + 5, begun=begun)
    look_at_tasks(site)


def test_a_host_that_comes_back_too_late(own_site: TaskSite) -> None:
    """(f) T5: its computation went on for nobody, and ends as soon as the host is heard."""
    site, machine = own_site, own_site.hosts[0]
    task_id = site.submit("late", steps=10_000)
    site.wait_for_snapshots(task_id, 1)
    instance_id = site.instance(task_id).id
    machine.stop_agent()
    site.let_leases_end()
    site.wait(lambda: site.job_of_task(task_id).state == "queued", "its lease does not end")
    site.clock.step(HOST_AWAY.total_seconds() + 1)
    assert site.wait_for_end(task_id) == "Failure"
    assert machine.computations(instance_id), "it should not know yet"
    machine.start()
    eventually(lambda: not machine.computations(instance_id), "it computes for nobody")
    check_runs(site, "late")
    look_at_tasks(site)


def test_an_abort_of_a_task_whose_host_never_comes_back(own_site: TaskSite) -> None:
    """(f) (g) It waits for as long as the computation could still be ended, and no longer."""
    site, machine = own_site, own_site.hosts[0]
    task_id = site.submit("given-up", steps=10_000)
    site.wait_for_snapshots(task_id, 1)
    machine.stop()
    site.ask("POST", f"/tasks/{task_id}/abort")
    assert site.task(task_id).state == "PendingCancel"
    site.let_leases_end()
    site.wait(lambda: site.job_of_task(task_id).state == "queued", "its lease does not end")
    site.clock.step(HOST_AWAY.total_seconds() + 1)
    assert site.wait_for_end(task_id) == "Cancelled"
    assert site.parts(task_id)
    look_at_tasks(site)


def test_a_machine_that_loses_power(site: TaskSite) -> None:
    """(c) (f) It is switched on again: the computation is not, and is said to be lost."""
    machine = site.hosts[0]
    task_id = site.submit("power", steps=10_000)
    site.wait_for_snapshots(task_id, 2)
    machine.lose_power()
    complete = {each.id for each in site.parts(task_id)}
    assert site.wait_for_end(task_id) == "Failure"
    assert site.instance(task_id).error_code == "runner_lost"
    assert complete <= {each.id for each in site.parts(task_id)}
    check_runs(site, "power")
    look_at_tasks(site)


def test_an_agent_that_slept_past_its_lease(own_site: TaskSite) -> None:
    """(f) It wakes, and neither computes nor captures anything twice."""
    site, machine = own_site, own_site.hosts[0]
    task_id = site.submit("asleep")
    site.wait_for_snapshots(task_id, 2)
    machine.signal(signal.SIGSTOP, children=True)
    try:
        site.let_leases_end()
        site.wait(lambda: site.job_of_task(task_id).state == "queued", "its lease does not end")
        time.sleep(2)
    finally:
        machine.signal(signal.SIGCONT, children=True)
    site.wait_for_snapshots(task_id, 1)
    assert site.job_of_task(task_id).attempt == 2
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


@pytest.mark.parametrize("deleted", [False, True], ids=["abort", "delete"])
def test_an_abort_while_the_agent_is_away(site: TaskSite, *, deleted: bool) -> None:
    """(g) Nobody hears it at first; then the computation is ended, and the task."""
    machine = site.hosts[0]
    name = "deleted" if deleted else "aborted"
    task_id = site.submit(name, steps=10_000)
    site.wait_for_snapshots(task_id, 1)
    instance_id = site.instance(task_id).id
    machine.stop_agent()
    if deleted:
        site.ask("DELETE", f"/tasks/{task_id}")
    else:
        site.ask("POST", f"/tasks/{task_id}/abort")
    assert machine.computations(instance_id), "it should not know yet"
    machine.start()
    assert site.wait_for_end(task_id) == "Cancelled"
    eventually(lambda: not machine.computations(instance_id), "it computes for nobody")
    assert (site.task(task_id).removed_at is not None) == deleted
    assert site.parts(task_id)
    check_runs(site, name)
    look_at_tasks(site)


def test_an_agent_that_is_away_for_long(site: TaskSite) -> None:
    """(a) T8: of the slots that passed the last ones are recorded as skipped, and none is made."""
    machine = site.hosts[0]
    task_id = site.submit("away")
    site.wait_for_snapshots(task_id, 1)
    machine.stop_agent()
    had = len(site.parts(task_id))
    time.sleep(MOST_MISSED + 5)  # the agent's clock is the machine's
    assert len(site.parts(task_id)) == had
    machine.start()
    site.wait_for_snapshots(task_id, 1)
    assert len(site.parts(task_id, "SKIPPED")) >= MOST_MISSED
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)


@share_of_cases(0.01)
def test_kills_somewhere_in_a_task(site: TaskSite, seed: int) -> None:
    """Several kills by chance, of whoever the computation outlives."""
    again("test_kills_somewhere_in_a_task", seed)
    chance = random.Random(f"task {seed}")
    machine = site.hosts[0]
    task_id = site.submit(f"chance-{seed}")
    site.wait_for_steps(machine, task_id, 3)
    victims: dict[str, Callable[[], None]] = {
        "agent": machine.kill,
        "child": machine.kill_children,
        "server": site.servers[0].kill,
    }
    for _ in range(chance.randrange(2, 5)):
        time.sleep(chance.uniform(0, 2.5))
        name = chance.choice(list(victims))
        site.note(f"out of nothing: {name}")
        victims[name]()
        # The pauses between attempts grow, and here the server's clock alone may go ahead.
        if chance.random() < 0.5:
            site.snapshot_now(task_id)
    site.finish(task_id)
    check_whole_run(site, task_id)
    look_at_tasks(site)
