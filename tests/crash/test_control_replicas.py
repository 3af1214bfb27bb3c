"""Two replicas on PostgreSQL with four agents, under load, while everything is killed in turn.

Every hour has its slots; people ask for backups, restores and removals at both replicas.
Meanwhile PostgreSQL is stopped at once and started, replicas, agents and jobs are killed, a
machine sleeps, and one is away for some slots. Spec lines: B6, B11, H1, M1, O3.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from control_aftermath import go_on, look
from control_database import Cluster
from control_processes import Machine, eventually
from control_relay import Message, Phase
from control_site import Refused, Site
from crash_cases import again, share_of_cases
from sqlalchemy import select

from holdfast.control.tables import Snapshot
from holdfast.errors import DatabaseUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("control-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""

STAGES = (
    *("POST /claim", "POST /progress", "POST /finish", "POST locks", "POST data"),
    *("POST index", "POST snapshots", "GET data", "DELETE locks", "DELETE snapshots"),
)
ROUNDS = 2


class Fleet(Site):
    """Two replicas; two machines and a keeper at the first, a machine at the second."""

    def furnish(self, cluster: Cluster, plant: str = "") -> None:
        self.cluster = cluster
        for server in (self.add_server(), self.add_server()):
            server.plant = plant
            server.start()
        self.settle_in()
        self.make_repository()
        one, other = self.servers
        self.gpus = [
            self.add_machine("gpu-1", server=one),
            self.add_machine("gpu-2", server=other),
            self.add_machine("gpu-3", server=one),
        ]
        self.keeper = self.add_machine("keeper", keeper=True, server=other)
        self.source_ids = [self.add_source(each, "work") for each in self.gpus]
        self.schedule_ids = [
            self.ask(
                "POST",
                "/schedules",
                {"source_id": each, "interval_hours": 1, "retention": {"keep_last": 4}},
            )["id"]
            for each in self.source_ids
        ]
        self.restored: set[str] = set()
        self.targets = 0
        for machine in self.machines:
            machine.start()
        self.supervise()

    def victims(self, machine: Machine) -> dict[str, Callable[[Message], None]]:
        one, other = self.servers
        return {
            "server 0": one.kill,
            "server 1": other.kill,
            "agent": machine.kill,
            "child": machine.kill_children,
            "machine": machine.lose_power,
        }


@pytest.fixture
def fleet(directory: Path, postgresql_cluster: Cluster) -> Iterator[Fleet]:
    with postgresql_cluster.fresh("template0") as url:
        # Elsewhere the cluster promises nothing, to be quick.
        name = url.partition("?")[0].rpartition("/")[2]
        postgresql_cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit TO on")
        made = Fleet(directory, url)
        try:
            made.furnish(postgresql_cluster)
            yield made
        finally:
            made.close()


@share_of_cases(0.003)
def test_replicas_agents_and_the_database_die_under_load(fleet: Fleet, seed: int) -> None:
    again("test_replicas_agents", seed)
    chance = random.Random(f"fleet {seed}")
    for number in range(ROUNDS):
        for source_id in fleet.source_ids:
            fleet.sources[source_id].change()
        rage(fleet, chance)
        if number == 0:
            away_for_slots(fleet)
        look(fleet, restored=fleet.restored)
    go_on(fleet, restored=fleet.restored)


def rage(fleet: Fleet, chance: random.Random) -> None:
    """An hour begins, people ask for things, and everybody is killed in between."""
    for _ in range(3):
        plan_by_chance(fleet, chance)
    fleet.clock.step(chance.choice((1.0, 1.0, 3.0)) * 3600)
    asking = threading.Thread(target=ask_for_things, args=(fleet, chance.randrange(10**6)))
    asking.start()
    sleeper = chance.choice(fleet.gpus)
    for act in chance.sample(("database", "sleep", "leader", "database"), 3):
        time.sleep(chance.uniform(0.3, 1.5))
        fleet.note(act)
        if act == "database":
            fleet.cluster.restart(chance.uniform(0, 0.5))
        elif act == "sleep":
            send(sleeper, signal.SIGSTOP)
            time.sleep(0.5)
            send(sleeper, signal.SIGCONT)
        else:
            fleet.servers[chance.randrange(2)].kill()
    asking.join()
    fleet.settle_slots()
    fleet.run_dry()
    for server in fleet.servers:
        server.relay.forget_blows()
    fleet.run_dry()


def send(machine: Machine, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        machine.signal(number, children=True)


def plan_by_chance(fleet: Fleet, chance: random.Random) -> None:
    machine = chance.choice(fleet.machines)
    at, phase = chance.choice(STAGES), chance.choice(tuple(Phase))
    victim = chance.choice(("server 0", "server 1", "agent", "child", "machine"))
    act, pause = fleet.victims(machine)[victim], chance.choice((0.0, chance.uniform(0, 0.03)))
    idle = phase in (Phase.UNANSWERED, Phase.ANSWERED) and at == "POST /claim"

    def strike(message: Message) -> None:
        time.sleep(pause)
        fleet.note(f"{victim} of {machine.name} dies: {at} {phase}")
        act(message)

    machine.server.relay.plan(
        lambda message: (
            message.name == at
            and message.secret == machine.secret
            and (not idle or message.status == 200)
        ),
        phase,
        strike,
    )


def ask_for_things(fleet: Fleet, seed: int) -> None:
    """Backups, restores, holds and removals, at either replica."""
    chance = random.Random(seed)
    for _ in range(6):
        server = chance.choice(fleet.servers)
        points = completed(fleet)
        act = chance.choice(("backup", "backup", "restore", "delete", "hold", "cancel"))
        with suppress(Refused):  # it may have gone meanwhile, or be needed
            if act == "backup" or not points:
                body = {"source_id": chance.choice(fleet.source_ids)}
                fleet.ask("POST", "/snapshots", body, server=server)
            elif act == "restore":
                fleet.targets += 1
                machine, target = chance.choice(fleet.gpus), f"/root/back-{fleet.targets}"
                body = {"snapshot_id": chance.choice(points), "host_id": machine.host_id}
                fleet.ask("POST", "/restores", {**body, "target": target}, server=server)
            elif act == "delete":
                fleet.ask("DELETE", f"/snapshots/{chance.choice(points)}", server=server)
            elif act == "hold":
                path = f"/snapshots/{chance.choice(points)}/holds"
                fleet.ask("POST", path, {"reason": "kept"}, server=server)
            else:
                path = f"/snapshots/{chance.choice(unfinished(fleet) or points)}/cancel"
                fleet.ask("POST", path, server=server)
        time.sleep(chance.uniform(0, 0.4))


def completed(fleet: Fleet) -> list[str]:
    return by_status(fleet, "COMPLETED")


def unfinished(fleet: Fleet) -> list[str]:
    return by_status(fleet, "PENDING", "RUNNING")


def by_status(fleet: Fleet, *statuses: str) -> list[str]:
    while True:
        with suppress(DatabaseUnavailable), fleet.database.read() as tx:
            found = select(Snapshot.id).where(Snapshot.status.in_(statuses))
            return list(tx.scalars(found.order_by(Snapshot.created_at, Snapshot.id)))
        time.sleep(0.05)


def away_for_slots(fleet: Fleet) -> None:
    """A machine is away for two slots: the first one is a missed run, and that is reported."""
    machine = fleet.gpus[2]
    machine.stop()
    for _ in range(2):
        fleet.clock.step(3600)
        fleet.settle_slots()
        others = [each.host_id for each in fleet.gpus[:2]]
        eventually(
            lambda: not [job for job in fleet.open_jobs() if job.host_id in others],  # noqa: B023
            lambda: fleet.describe("the others do not go on"),
        )
    machine.start()
    fleet.run_dry()
    with fleet.database.read() as tx:
        skipped = tx.scalars(
            select(Snapshot).where(
                Snapshot.status == "SKIPPED", Snapshot.host_id == machine.host_id
            )
        ).all()
    codes = [finding["code"] for each in skipped for finding in each.findings]
    assert "host_silent" in codes, fleet.describe(f"a missed run is not reported: {codes}")
