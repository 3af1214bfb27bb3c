"""A site whose machines run tasks; what is killed there is killed by its exact part.

A computation lives on without its agent, so a machine here tells its parts apart: the agent,
the jobs' processes, the supervisor, and the computation. Nothing of a computation outlives the
site: it is looked for by what is in its environment.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import task_computation
from control_processes import Machine, Server, below, eventually, is_alive, kill
from control_relay import Message
from control_site import Refused, Site
from sqlalchemy import select

from holdfast.control.tables import Host, Job, Snapshot, Task, TaskInstance
from holdfast.control.tables import TaskSnapshot as Whole
from holdfast.model.task import TaskState
from holdfast.runners import records

STEPS, PAUSE_SECONDS = 500, 0.1
BUCKET = "results"


class TaskMachine(Machine):
    """A machine that takes tasks. Of what runs below its agent, computations are no children."""

    def __init__(self, site: Site, name: str, server: Server, **settings: Any) -> None:
        super().__init__(site, name, server, **{"task_slots": 3, **settings})
        self.tasks = self.directory / "state" / "tasks"
        self._marks: dict[str, str] = {}
        self._held_by: dict[str, tuple[str, int]] = {}

    @property
    def children(self) -> list[int]:
        """The jobs' processes, with their workers; not a supervisor, nor what it watches."""
        computations = set()
        for pid in (found := below(self.pid) if self.is_up else []):
            if _is_supervisor(pid):
                computations |= {pid, *below(pid)}
        return [pid for pid in found if pid not in computations]

    def supervisor(self, instance_id: str) -> int:
        """The process that watches a computation."""
        return int(self._record(instance_id)["supervisor"])

    def command(self, instance_id: str) -> int:
        return int(self._record(instance_id)["command"])

    def _record(self, instance_id: str) -> dict[str, Any]:
        found = records.read(str(self.tasks / instance_id / "runner" / "state.json"))
        assert found is not None, f"{instance_id} was not started on {self.name}"
        return found

    def is_still(self, instance_id: str) -> bool:
        """Whether a computation is held still now, by its control group or by a signal."""
        group, command = self._held_by.get(instance_id, ("", 0))
        if not command:
            state = self._record(instance_id)
            group, command = str(state["cgroup"] or ""), int(state["command"])
            self._held_by[instance_id] = group, command
        try:
            if group:
                return "frozen 1" in Path(group, "cgroup.events").read_text()
            return Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def computations(self, instance_id: str = "") -> list[int]:
        """Everything that computes here, by the mark that its environment carries."""
        self._remember()
        marks = [self._marks[instance_id]] if instance_id else list(self._marks.values())
        return with_variable("HOLDFAST_RUN", marks)

    def _remember(self) -> None:
        """A directory may be gone while something of its computation lives on."""
        for place in self.tasks.iterdir() if self.tasks.exists() else ():
            state = records.read(str(place / "runner" / "state.json"))
            if state is not None and "token" in state:
                self._marks[place.name] = state["token"]

    def lose_power(self, _message: Message | None = None) -> None:
        """Kill -9 of everything at once, computations too."""
        with self._life:
            if self.process is not None and self.process.poll() is None:
                kill([self.process.pid, *below(self.process.pid)])
                self.process.wait()
            self.end_computations()

    def stop_agent(self) -> None:
        """Kill -9 of the agent, and leave it so; computations go on."""
        with self._life:
            self.wanted = False
            self.kill()

    def end_computations(self) -> None:
        """Kill what watches and what computes, as a machine does that is switched off."""
        self._remember()
        for place in self.tasks.iterdir() if self.tasks.exists() else ():
            state = records.read(str(place / "runner" / "state.json"))
            # A number may be another one's by now.
            if state is not None and _is_supervisor(int(state.get("supervisor", 0))):
                with suppress(ProcessLookupError):
                    os.kill(int(state["supervisor"]), signal.SIGKILL)
        kill(self.computations())


class TaskSite(Site):
    """One server, machines that take tasks, and what people do with them."""

    def furnish(self, plant: str = "", *, replicas: int = 1) -> None:
        """As many servers, and a machine at each."""
        for _ in range(replicas):
            server = self.add_server()
            server.plant = plant
            server.start()
        self.settle_in()
        self.make_repository()
        self.hosts = [
            self.add_task_machine(f"gpu-{number + 1}", server)
            for number, server in enumerate(self.servers)
        ]
        for machine in self.hosts:
            machine.start()
        eventually(lambda: all(map(self._offers_tasks, self.hosts)), "no host takes tasks")
        self.supervise()

    def add_task_machine(self, name: str, server: Server) -> TaskMachine:
        machine = TaskMachine(self, name, server)
        body = {"name": name, "keeper": False, "put_only": False}
        machine.enrol(self.ask("POST", "/hosts/invitations", body)["secret"])
        self.machines.append(machine)
        return machine

    def _offers_tasks(self, machine: TaskMachine) -> bool:
        with self.database.read() as tx:
            return bool(tx.get_one(Host, machine.host_id).inventory.get("task_slots"))

    def close(self) -> None:
        try:
            super().close()
        finally:
            for machine in self.machines:
                if isinstance(machine, TaskMachine):
                    machine.end_computations()

    # What people do

    def runs_file(self, name: str) -> Path:
        """Every start of a task's command adds a line to it; it is no part of a snapshot."""
        return self.base / f"runs-{name}"

    def submit(
        self, name: str, *, steps: int = STEPS, pause: float = PAUSE_SECONDS, every: int = 1,
        before: str = "", **more: Any,
    ) -> str:  # fmt: skip
        """A task with the computation, and a snapshot each second or so; its id."""
        program = shlex.join(
            [
                *(sys.executable, "-I", task_computation.__file__, str(steps), str(pause)),
                str(self.base / f"hurry-{name}"),
            ]
        )
        command = f"echo run >> {shlex.quote(str(self.runs_file(name)))}; {before} exec {program}"
        body: dict[str, Any] = {
            "name": name,
            "profile": "batch",
            "constants": [{"key": "COMMAND", "value": command}],
            "result_bucket": BUCKET,
            **more,
        }
        if every:
            body["periodic"] = {"seconds": every}
        task_id: str = self.ask("POST", "/tasks", body)["id"]
        return task_id

    def hurry(self, task_id: str) -> None:
        """Let its computation come to its end without a rest."""
        (self.base / f"hurry-{self.task(task_id).name}").touch()

    def snapshot_now(self, task_id: str) -> str:
        taken: str = self.ask("POST", f"/tasks/{task_id}/snapshots", {})["id"]
        return taken

    # What there is

    def task(self, task_id: str) -> Task:
        with self.database.read() as tx:
            return tx.get_one(Task, task_id)

    def instance(self, task_id: str) -> TaskInstance:
        """Its only one."""
        with self.database.read() as tx:
            return tx.scalars(select(TaskInstance).where(TaskInstance.task_id == task_id)).one()

    def job_of_task(self, task_id: str) -> Job:
        """The job of its one instance, the latest."""
        with self.database.read() as tx:
            of_it = select(Job).where(Job.subject_id == task_id).order_by(Job.created_at)
            return tx.scalars(of_it).all()[-1]

    def parts(self, task_id: str, status: str = "COMPLETED") -> list[Snapshot]:
        """Its instances' parts of its snapshots, in the order of their slots."""
        with self.database.read() as tx:
            of_it = (
                select(Snapshot)
                .join(Whole, Whole.id == Snapshot.task_snapshot_id)
                .where(Whole.task_id == task_id, Snapshot.status == status)
                .order_by(Snapshot.captured_at, Snapshot.created_at)
            )
            return list(tx.scalars(of_it))

    def output(self, task_id: str) -> str:
        text: str = self.ask_text(f"/tasks/{task_id}/output/stdout")
        return text

    def ask_text(self, path: str) -> str:
        """A text, asked for until it is given."""
        headers = {"Authorization": f"Bearer {self._secret}"}
        url = f"{self.servers[0].relay.url}/api/v1{path}"
        given: list[str] = []

        def ask() -> bool:
            with suppress(httpx.HTTPError):
                response = self._person.get(url, headers=headers)
                assert response.is_success, response.text
                given.append(response.text)
            return bool(given)

        self.wait(ask, f"{path} is not answered")
        return given[0]

    # How time passes

    def wait(self, what: Callable[[], object], words: str, seconds: float = 120.0) -> None:
        eventually(what, lambda: self.describe(words), seconds)

    def wait_for_snapshots(self, task_id: str, count: int) -> None:
        """Until so many more are complete."""
        had = len(self.parts(task_id))
        self.wait(
            lambda: len(self.parts(task_id)) >= had + count,
            f"{count} snapshots more than {had} do not come",
        )

    def wait_for_steps(self, machine: TaskMachine, task_id: str, steps: int) -> str:
        """Until it has done so many; the instance's id."""
        self.wait(lambda: self.instance(task_id).host_id, "the task is not placed")
        instance_id = self.instance(task_id).id
        counter = machine.tasks / instance_id / "job" / task_computation.COUNTER

        def far_enough() -> bool:
            with suppress(OSError, ValueError):
                return int(counter.read_text()) >= steps
            return False

        self.wait(far_enough, f"{task_id} does not get to step {steps}")
        return instance_id

    def finish(self, task_id: str) -> str:
        """Let it come to its end, and wait for that."""
        self.hurry(task_id)
        return self.wait_for_end(task_id)

    def wait_for_end(self, task_id: str, seconds: float = 120.0) -> str:
        self.wait(
            lambda: TaskState(self.task(task_id).state).has_ended,
            f"{task_id} does not end",
            seconds,
        )
        return self.task(task_id).state

    def let_leases_end(self, seconds: float = 70.0) -> None:
        """So that whoever is silent is taken for dead; who lives has time to be heard."""
        self.clock.step(seconds)

    def end_tasks(self) -> None:
        """Abort what has not ended, and let nothing but time pass until it has."""
        with self.database.read() as tx:
            left = tx.scalars(select(Task.id).where(Task.ended_at.is_(None))).all()
        for machine in self.hosts:
            if not machine.wanted:
                machine.start()
        for task_id in left:
            with suppress(Refused):
                self.ask("POST", f"/tasks/{task_id}/abort")
        for task_id in left:
            self.wait_for_end(task_id)

    def describe(self, what: str) -> str:
        with self.database.read() as tx:
            tasks = [
                f"task {each.name} {each.id} {each.state} {each.findings}"
                for each in tx.scalars(select(Task))
            ]
            instances = [
                f"instance {each.id} {each.state} {each.error_code} {each.error_message}"
                for each in tx.scalars(select(TaskInstance))
            ]
            parts = [
                f"part {each.slot_at} {each.status} {each.error_code} {each.error_message}"
                for each in tx.scalars(select(Snapshot).order_by(Snapshot.created_at))
            ][-12:]
        return "\n".join([super().describe(what), *tasks, *instances, *parts])


def said_output(message: Message) -> list[dict[str, Any]]:
    """The pieces of output that a report carries, decoded."""
    body = message.body if isinstance(message.body, dict) else {}
    return [
        {**each, "data": base64.b64decode(each["data"])}
        for each in body.get("messages") or ()
        if each["type"] == "output"
    ]


def said_of(message: Message, kind: str, **members: Any) -> bool:
    """Whether a report carries a message of that kind with these members."""
    body = message.body if isinstance(message.body, dict) else {}
    return any(
        each["type"] == kind and all(each.get(name) == value for name, value in members.items())
        for each in body.get("messages") or ()
    )


def begins_snapshot(message: Message) -> bool:
    """Whether a report says that a snapshot was begun, and not yet that it has ended."""
    body = message.body if isinstance(message.body, dict) else {}
    said = [each["status"] for each in body.get("messages") or () if each["type"] == "snapshot"]
    return bool(said) and said[-1] == "inProgress"


def with_variable(name: str, values: Collection[str]) -> list[int]:
    """All processes that have one of these in their environment; the dead do not count."""
    wanted = {f"{name}={each}".encode() for each in values}
    found = []
    for pid in [each for each in os.listdir("/proc") if each.isdigit()] if wanted else ():
        with suppress(OSError):
            has = wanted & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            if has and is_alive(int(pid)):
                found.append(int(pid))
    return found


def _is_supervisor(pid: int) -> bool:
    try:
        return b"holdfast.runners.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
