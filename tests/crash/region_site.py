"""A site with two regions, each with a store and keepers of its own, and one machine.

What the machine backs up lies in the first region and is copied to the second one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_processes import Machine, eventually, kill
from control_relay import Blow, Message, Phase
from sqlalchemy import select
from test_control_kill import Kill, Place

from holdfast.control.tables import Drill, Job, Snapshot

_UNTOUCHED = ("status", "manifest_id", "captured_at", "stored_bytes", "findings", "removed_at")


class TwoRegions(Place):
    """One server; a keeper in the first region and two in the second, one of them in reserve."""

    def furnish(self, plant: str = "") -> None:
        server = self.add_server()
        server.plant = plant
        server.start()
        self.settle_in()
        self.make_repository()
        self.second_id = self.add_region("second")
        self.make_repository(self.second_id)
        # Long enough to look at what a stopped job holds up.
        patient: dict[str, Any] = {"cancel_grace_seconds": 60}
        self.keeper = self.add_machine("keeper", keeper=True, **patient)
        self.copier = self.add_machine("copier", keeper=True, region_id=self.second_id, **patient)
        self.reserve = self.add_machine("reserve", keeper=True, region_id=self.second_id)
        self.gpus = [self.add_machine("gpu")]
        self.source_ids = [self.add_source(self.gpus[0], "work")]
        self.restored: set[str] = set()
        for machine in (self.keeper, self.copier, self.gpus[0]):
            machine.start()
        self.supervise()

    # What people do

    def back_up_anew(self) -> str:
        """A snapshot of a new content; its id, when it is complete and all is quiet."""
        self.sources[self.source_ids[0]].change()
        snapshot_id = self.back_up(self.source_ids[0])
        self.run_dry()
        assert self.snapshot(snapshot_id).status == "COMPLETED", self.describe("no backup")
        return snapshot_id

    def copy(self, snapshot_id: str) -> str:
        """Ask for a copy in the second region; its id."""
        body = {"region_id": self.second_id}
        copy_id: str = self.ask("POST", f"/snapshots/{snapshot_id}/copies", body)["id"]
        return copy_id

    def start_drill(self, snapshot_id: str, **more: Any) -> str:
        """Ask a keeper, or the host in `more`, to drill it; the drill's id."""
        drill_id: str = self.ask("POST", "/drills", {"snapshot_id": snapshot_id, **more})["id"]
        return drill_id

    # What there is

    def snapshot(self, snapshot_id: str) -> Snapshot:
        with self.database.read() as tx:
            return tx.get_one(Snapshot, snapshot_id)

    def drill(self, drill_id: str) -> Drill:
        with self.database.read() as tx:
            return tx.get_one(Drill, drill_id)

    def originals(self) -> list[str]:
        """What was backed up and is not deleted, the oldest first."""
        with self.database.read() as tx:
            completed = (Snapshot.status == "COMPLETED", Snapshot.copy_of_id.is_(None))
            found = select(Snapshot.id).where(*completed).order_by(Snapshot.created_at)
            return list(tx.scalars(found))

    def copies_of(self, snapshot_id: str) -> list[Snapshot]:
        with self.database.read() as tx:
            return list(tx.scalars(select(Snapshot).where(Snapshot.copy_of_id == snapshot_id)))

    def drills_of(self, schedule_id: str) -> list[Drill]:
        with self.database.read() as tx:
            return list(tx.scalars(select(Drill).where(Drill.schedule_id == schedule_id)))

    def manifests_of(self, snapshot_id: str, region_id: str) -> list[str]:
        """The restore points in a region's repository that were made of a snapshot."""
        original = self.snapshot(snapshot_id).manifest_id
        listed = self.repository(region_id).snapshots()[0]
        return [each.id for each in listed if original in (each.id, each.original)]

    @contextmanager
    def untouched(self, snapshot_id: str) -> Iterator[None]:
        """What is done meanwhile changes nothing of a snapshot, nor of its repository."""
        before = self._state_of(snapshot_id)
        yield
        assert self._state_of(snapshot_id) == before, "the original is not what it was"

    def _state_of(self, snapshot_id: str) -> tuple[dict[str, Any], set[Path]]:
        row = self.snapshot(snapshot_id)
        place = self.objects / "repositories" / row.repository_id
        files = {each for each in place.rglob("*") if each.parent.name != "locks"}
        return {name: getattr(row, name) for name in _UNTOUCHED}, files

    # How somebody is struck

    def strike_at(self, machine: Machine, kind: str, kill: Kill) -> Blow:
        """Kill somebody at a step of the next job of a kind that this machine does."""
        self.note(f"planned: {kill} in a {kind}")
        strike = self.victim(kill.victim, machine)
        return self._plan(machine, kind, kill.at, kill.phase, strike)

    def stop_at(self, machine: Machine, kind: str, at: str, *, agent: bool) -> Callable[[], Asleep]:
        """Stop a machine's jobs, or `agent` too, at a step; what is returned waits for that."""
        found: list[Asleep] = []

        def strike(_message: Message) -> None:
            asleep = Asleep(machine.children, machine.pid if agent else None)
            asleep.stop()
            self.note(f"{machine.name} is stopped: {asleep}")
            found.append(asleep)

        blow = self._plan(machine, kind, at, Phase.LOST, strike)

        def wait() -> Asleep:
            eventually(blow.done.is_set, lambda: self.describe("nobody came to it"))
            assert blow.failure is None, blow.failure
            return found[0]

        return wait

    def _plan(
        self, machine: Machine, kind: str, at: str, phase: Phase, strike: Callable[[Message], None]
    ) -> Blow:
        def meant(message: Message) -> bool:
            its = (message.name, message.secret) == (at, machine.secret)
            return its and self._is_of(message, kind)

        return self.servers[0].relay.plan(meant, phase, strike)

    def _is_of(self, message: Message, kind: str) -> bool:
        """Whether it is about a job of that kind; a copy reads from the first region."""
        if message.name == "POST /claim":
            return message.status == 200 and message.answer["job"]["kind"] == kind
        if message.name == "POST /finish":
            with self.database.read() as tx:
                return tx.get_one(Job, message.path.split("/")[-2]).kind == kind
        if kind == "copy" and message.name == "GET data":
            return f"/{self.repository_row().id}/" in message.path
        return True

    def done(self, *blows: Blow) -> None:
        """Wait until all were struck, and then until all is quiet."""
        for blow in blows:
            eventually(blow.done.is_set, lambda: self.describe("nobody came to it"))
            assert blow.failure is None, blow.failure
        self.run_dry()


@dataclass(frozen=True)
class Asleep:
    """Processes that were stopped: jobs with their workers, and their agent or not."""

    children: list[int]
    agent: int | None

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self, *, agent: bool = True) -> None:
        self._signal(signal.SIGCONT, agent=agent)

    def end_jobs(self) -> None:
        kill(self.children)

    def _signal(self, number: signal.Signals, *, agent: bool = True) -> None:
        for pid in [*([self.agent] if self.agent and agent else []), *self.children]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
