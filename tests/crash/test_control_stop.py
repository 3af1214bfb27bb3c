"""SIGSTOP of agents past their leases, and their waking: others go on, and they notice.

One agent is stopped alone while its job goes on, one machine is stopped whole in the middle
of an upload, and one keeper in the middle of its work, for which there is another. Leases
are short here and run out by themselves, on the machines as well. Spec lines: B6, H1.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from control_aftermath import go_on, look
from control_processes import Machine, eventually, is_alive
from control_relay import Message, Phase
from control_site import Site
from sqlalchemy import select

from holdfast.control.tables import Job, Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("control-crash")]
pytest_plugins = ("crash_fixtures",)

LEASE_SECONDS = 8


@dataclass
class Sleep:
    """Who sleeps, with which jobs; `children` are stopped as well, or none."""

    machine: Machine
    job_ids: list[str]
    children: list[int]
    since: float = field(default_factory=time.monotonic)

    def wake(self) -> None:
        for pid in [*self.children, self.machine.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Sleepers(Site):
    """Two machines and two keepers, of which the second one comes later."""

    def furnish(self, plant: str = "") -> None:
        server = self.add_server(lease_seconds=LEASE_SECONDS)
        server.plant = plant
        server.start()
        self.settle_in()
        self.make_repository()
        self.gpus = [self.add_machine(f"gpu-{number}") for number in (1, 2)]
        self.keepers = [self.add_machine(f"keeper-{n}", keeper=True) for n in (1, 2)]
        self.source_ids = [self.add_source(each, "work") for each in self.gpus]
        for machine in (*self.gpus, self.keepers[0]):
            machine.start()

    def put_to_sleep(self, machine: Machine, at: str, *, children: bool) -> Callable[[], Sleep]:
        """Stop it at its next message of that name; what is returned waits for that."""
        asleep: list[Sleep] = []

        def strike(_message: Message) -> None:
            pids = machine.children if children else []
            machine.signal(signal.SIGSTOP, children=children)
            self.note(f"{machine.name} sleeps, with {len(pids)} children")
            asleep.append(Sleep(machine, self.jobs_of(machine), pids))

        self.servers[0].relay.plan(
            lambda message: message.name == at and message.secret == machine.secret,
            Phase.LOST,
            strike,
        )

        def wait() -> Sleep:
            eventually(lambda: asleep, lambda: self.describe(f"{machine.name} does not sleep"))
            return asleep[0]

        return wait

    def jobs_of(self, machine: Machine) -> list[str]:
        with self.database.read() as tx:
            leased = (Job.state == "leased", Job.leased_to == machine.host_id)
            return list(tx.scalars(select(Job.id).where(*leased)))

    def job(self, job_id: str) -> Job:
        with self.database.read() as tx:
            return tx.get_one(Job, job_id)

    def wait_for_loss(self, sleep: Sleep) -> None:
        """Until the lease is over: for the server, and on the machine itself."""
        eventually(
            lambda: all(self.job(each).state != "leased" for each in sleep.job_ids),
            lambda: self.describe(f"{sleep.machine.name} keeps its lease"),
        )
        time.sleep(max(0.0, sleep.since + LEASE_SECONDS + 0.5 - time.monotonic()))

    def refusals(self, machine: Machine) -> int:
        """How often that machine was told that its attempt is over."""
        return sum(
            1
            for message in self.servers[0].relay.refused
            if message.secret == machine.secret and message.status == 409
        )


@pytest.fixture
def sleepers(directory: Path) -> Iterator[Sleepers]:
    made = Sleepers(directory)
    try:
        made.furnish()
        yield made
    finally:
        made.close()


def test_agents_that_sleep_past_their_leases(sleepers: Sleepers) -> None:
    sleep_and_wake(sleepers)
    go_on(sleepers)


def sleep_and_wake(sleepers: Sleepers) -> None:
    """All the sleeps at once; everything is done at the end."""
    first, second = sleepers.keepers
    sleepers.back_up(sleepers.source_ids[0])
    sleepers.settle()
    keeper_sleeps = sleepers.put_to_sleep(first, "DELETE locks", children=False)
    sleepers.clock.step(61)  # upkeep plans once a minute
    keeper = keeper_sleeps()
    for source_id in sleepers.source_ids:
        sleepers.sources[source_id].change()
    one = sleepers.put_to_sleep(sleepers.gpus[0], "POST index", children=False)
    other = sleepers.put_to_sleep(sleepers.gpus[1], "POST data", children=True)
    asked = [sleepers.back_up(source_id) for source_id in sleepers.source_ids]
    asleep = [one(), other(), keeper]
    for each in asleep:
        sleepers.wait_for_loss(each)
    take_over(sleepers, keeper, second)
    for each in asleep[:2]:
        each.wake()
        eventually(
            lambda pids=each.children: not any(is_alive(pid) for pid in pids),  # type: ignore[misc]
            "a job goes on after its lease",
        )
    sleepers.run_dry()
    with sleepers.database.read() as tx:
        assert {tx.get_one(Snapshot, each).status for each in asked} == {"COMPLETED"}
    look(sleepers)


def take_over(sleepers: Sleepers, asleep: Sleep, successor: Machine) -> None:
    """Another keeper is at work when the first one wakes and reports its end."""
    busy = sleepers.put_to_sleep(successor, "POST locks", children=True)
    sleepers.clock.step(31)  # the pause after a failed attempt
    successor.start()
    taken = busy()
    shared = set(taken.job_ids) & set(asleep.job_ids)
    assert shared, sleepers.describe("the other keeper has taken something else")
    asleep.wake()
    eventually(
        lambda: sleepers.refusals(asleep.machine),
        lambda: sleepers.describe("a stale end is not refused"),
    )
    taken.wake()
