"""Kill -9 of server, agent, job's process or machine at every stage of a job's life.

A stage is a message on its way: claiming, every step at the repository, progress, the end.
One site lives through all of them, because what one kill leaves behind is what the next one
finds. A supervisor starts again whatever died. Spec lines: B6, B11, M1, O3.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from control_aftermath import go_on, look
from control_processes import Machine, eventually
from control_relay import Blow, Message, Phase
from control_site import Refused, Site
from crash_cases import again, share_of_cases
from sqlalchemy import select

from holdfast.control.tables import Restore, Snapshot
from holdfast.flows.reconcile import JOB_TAG

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("control-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""


class Place(Site):
    """A site with one server, machines with a source each, and a keeper.

    The last machine may only add: it cannot take over what an attempt before has stored.
    """

    def furnish(self, plant: str = "") -> None:
        server = self.add_server()
        server.plant = plant
        server.start()
        self.settle_in()
        self.make_repository()
        self.keeper = self.add_machine("keeper", keeper=True)
        self.gpus = [self.add_machine(f"gpu-{number}") for number in (1, 2)]
        self.gpus.append(self.add_machine("gpu-3", put_only=True))
        self.source_ids = [self.add_source(each, "work") for each in self.gpus]
        self.restored: set[str] = set()
        self.targets = 0
        self.blow: Blow | None = None
        for machine in self.machines:
            machine.start()
        self.supervise()

    def victim(self, name: str, machine: Machine) -> Callable[[Message], None]:
        """How somebody is killed; `machine` is the one that does the job."""
        server = self.servers[0]
        acts: dict[str, Callable[[Message], None]] = {
            "server": server.kill,
            "agent": machine.kill,
            "child": machine.kill_children,
            "machine": machine.lose_power,
        }

        def everybody(message: Message) -> None:
            machine.lose_power()
            server.kill()

        return {**acts, "everybody": everybody}[name]

    def try_to_cancel(self, snapshot_id: str) -> None:
        """Cancel a run; it may have ended already."""
        with suppress(Refused):
            self.ask("POST", f"/snapshots/{snapshot_id}/cancel")


@dataclass(frozen=True)
class Kill:
    """At a message, before or after it, of somebody."""

    at: str
    phase: Phase
    victim: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.at.replace(' ', '-').replace('/', '')}-{self.phase}-{self.victim}"


LOST, UNDERWAY = Phase.LOST, Phase.UNDERWAY
UNANSWERED, ANSWERED = Phase.UNANSWERED, Phase.ANSWERED

BACKUPS = (
    Kill("POST /snapshots", UNANSWERED, "server"),
    Kill("POST /claim", UNANSWERED, "server"),
    Kill("POST /claim", UNANSWERED, "agent"),
    Kill("POST /claim", ANSWERED, "everybody"),
    Kill("POST /progress", UNDERWAY, "server"),
    Kill("POST locks", UNANSWERED, "child"),
    Kill("POST data", LOST, "server"),
    Kill("POST data", UNDERWAY, "machine"),
    Kill("POST index", UNANSWERED, "agent"),
    Kill("POST snapshots", LOST, "child"),
    Kill("POST snapshots", UNDERWAY, "server"),
    Kill("POST snapshots", UNANSWERED, "machine"),
    Kill("GET data", UNANSWERED, "child", nth=2),
    Kill("POST /finish", LOST, "agent"),
    Kill("POST /finish", UNDERWAY, "server"),
    Kill("POST /finish", UNANSWERED, "server"),
    Kill("POST /finish", UNANSWERED, "agent"),
    Kill("POST /finish", ANSWERED, "server"),
    Kill("POST /finish", UNANSWERED, "everybody"),
)
RESTORES = (
    Kill("GET data", UNANSWERED, "child", nth=2),
    Kill("GET data", UNDERWAY, "server", nth=2),
    Kill("POST /finish", LOST, "machine"),
    Kill("POST /finish", UNANSWERED, "everybody"),
)
UPKEEP = (
    Kill("DELETE snapshots", UNANSWERED, "child"),
    Kill("DELETE snapshots", LOST, "everybody"),
    Kill("POST /finish", UNANSWERED, "server"),
)
STAGES = tuple(dict.fromkeys(kill.at for kill in BACKUPS))
PHASES = tuple(Phase)
VICTIMS = ("server", "agent", "child", "machine", "everybody")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("control"))
    try:
        made.furnish()
        yield made
    finally:
        made.close()


def back_up_and_kill(place: Place, which: int, kill: Kill) -> str:
    """A backup that is struck once; the snapshot's id, when all is done."""
    machine, source_id = place.gpus[which], place.source_ids[which]
    place.sources[source_id].change()
    strike(place, machine, kill)
    snapshot_id = place.back_up(source_id)
    finish(place, kill)
    return snapshot_id


def strike(place: Place, machine: Machine, kill: Kill) -> None:
    place.blow = place.servers[0].relay.plan(
        lambda message: message.name == kill.at and is_meant(message, machine, kill),
        kill.phase,
        place.victim(kill.victim, machine),
        nth=kill.nth,
    )
    place.note(f"planned: {kill}")


def is_meant(message: Message, machine: Machine, kill: Kill) -> bool:
    """Whether it is that machine's, or a person's, and no claim for which there was no work."""
    if message.name == "POST /claim" and kill.phase in (UNANSWERED, ANSWERED):
        return message.secret == machine.secret and message.status == 200
    return message.secret == machine.secret or message.name == "POST /snapshots"


def finish(place: Place, kill: Kill) -> None:
    assert place.blow is not None
    eventually(place.blow.done.is_set, lambda: place.describe(f"nobody came to {kill}"))
    assert place.blow.failure is None, place.blow.failure
    place.run_dry()


def status_of(place: Place, snapshot_id: str) -> str:
    with place.database.read() as tx:
        return tx.get_one(Snapshot, snapshot_id).status


@pytest.mark.parametrize("kill", BACKUPS, ids=str)
def test_a_kill_in_a_backup(place: Place, kill: Kill) -> None:
    """B6 B11: whoever dies when, the run is completed, once, with what there was."""
    snapshot_id = back_up_and_kill(place, 0, kill)
    assert status_of(place, snapshot_id) == "COMPLETED", place.describe("not completed")
    look(place, restored=place.restored)


def test_a_kill_of_one_that_may_only_add(place: Place) -> None:
    """It stores the same again, and what it had stored before goes with a reconciliation."""
    kill = Kill("POST snapshots", UNANSWERED, "child")
    snapshot_id = back_up_and_kill(place, 2, kill)
    assert status_of(place, snapshot_id) == "COMPLETED", place.describe("not completed")
    look(place, restored=place.restored)
    of_jobs = place.repository().snapshots()[0]
    tag = f"{JOB_TAG}{place.job_of(snapshot_id).id}"
    assert sum(tag in each.tags for each in of_jobs) == 2, "there is no orphan to be removed"


@pytest.mark.parametrize("kill", RESTORES, ids=str)
def test_a_kill_in_a_restore(place: Place, kill: Kill) -> None:
    """B9: what is restored is what there was, whoever dies when, and is booked once."""
    snapshot_id = completed(place)
    machine = place.gpus[1]
    strike(place, machine, kill)
    place.targets += 1
    restore_id = place.restore(snapshot_id, machine, f"/root/back-{place.targets}")
    finish(place, kill)
    with place.database.read() as tx:
        assert tx.get_one(Restore, restore_id).status == "COMPLETED"
    look(place, restored=place.restored)


@pytest.mark.parametrize("kill", UPKEEP, ids=str)
def test_a_kill_of_the_keeper(place: Place, kill: Kill) -> None:
    """B4 B10: what was deleted goes, what was not stays, and the repository is looked after."""
    snapshot_id = completed(place)
    place.ask("DELETE", f"/snapshots/{snapshot_id}")
    place.pass_time(days=8)
    strike(place, place.keeper, kill)
    finish(place, kill)
    assert purged(place, snapshot_id), place.describe("it is not removed")
    look(place, restored=place.restored)


def completed(place: Place) -> str:
    """A new backup of the first machine that nobody disturbs."""
    place.run_dry()
    place.sources[place.source_ids[0]].change()
    snapshot_id = place.back_up(place.source_ids[0])
    place.run_dry()
    assert status_of(place, snapshot_id) == "COMPLETED", place.describe("not completed")
    return snapshot_id


def purged(place: Place, snapshot_id: str) -> bool:
    with place.database.read() as tx:
        return tx.get_one(Snapshot, snapshot_id).purged_at is not None


@share_of_cases(0.01)
def test_kills_somewhere(place: Place, seed: int) -> None:
    """Several kills by chance, while two machines back up, restore and are cancelled."""
    again("test_kills_somewhere", seed)
    chance = random.Random(f"control {seed}")
    for source_id in place.source_ids:
        place.sources[source_id].change()
    for _ in range(chance.randrange(1, 4)):
        plan_by_chance(place, chance)
    asked = [place.back_up(source_id) for source_id in place.source_ids]
    if chance.random() < 0.3:
        place.targets += 1
        place.restore(a_completed(place, chance), place.gpus[0], f"/root/back-{place.targets}")
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 3))
        place.try_to_cancel(asked[0])
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 3))
        victim = chance.choice(VICTIMS)
        place.note(f"out of nothing: {victim}")
        place.victim(victim, chance.choice(place.gpus))(Message("", ""))
    place.run_dry()
    place.servers[0].relay.forget_blows()
    place.run_dry()
    assert {status_of(place, each) for each in asked} <= {"COMPLETED", "CANCELLED"}
    look(place, restored=place.restored)


def plan_by_chance(place: Place, chance: random.Random) -> None:
    machine = chance.choice([*place.gpus, place.keeper])
    kill = Kill(
        chance.choice(STAGES),
        chance.choice(PHASES),
        chance.choice(VICTIMS),
        chance.choice((1, 1, 2)),
    )
    act = place.victim(kill.victim, machine)
    pause = chance.choice((0, chance.uniform(0, 0.03)))

    def strike_late(message: Message) -> None:
        time.sleep(pause)
        act(message)

    place.note(f"planned: {kill} number {kill.nth} of {machine.name} after {pause:.3f}")
    place.servers[0].relay.plan(
        lambda message: message.name == kill.at and is_meant(message, machine, kill),
        kill.phase,
        strike_late,
        nth=kill.nth,
    )


def a_completed(place: Place, chance: random.Random) -> str:
    with place.database.read() as tx:
        found = tx.scalars(
            select(Snapshot.id).where(Snapshot.status == "COMPLETED").order_by(Snapshot.created_at)
        ).all()
    return chance.choice(found)


def test_a_day_later_nothing_is_left_over(place: Place) -> None:
    """M1 S4: no orphan, no lock, no hour that is not booked, and all of it restores."""
    go_on(place)
