"""Tasks for tests of the control plane: submitted, given to hosts, and their agents' words."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from control_runs import Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import jobs, task_place, tasks
from holdfast.control.tables import (
    Account,
    Host,
    Job,
    Repository,
    Snapshot,
    Task,
    TaskInstance,
    TaskSnapshot,
)
from holdfast.model.task import instance_snapshot_id, periodic_snapshot_id

BATCH = ("COMMAND", "echo done")


class Tasks:
    """Submits tasks in a world and plays the agents of its hosts."""

    def __init__(
        self,
        world: World,
        *,
        repository: Repository | None = None,
        account: Account | None = None,
    ) -> None:
        self.world = world
        self.account = account or world.account
        self.runs = Runs(world, repository=repository)

    def host(self, *, slots: int = 4, runners: tuple[str, ...] = ("local",), **fields: Any) -> Host:
        """An online host that offers so many slots."""
        inventory = {"task_slots": slots, "runners": {each: {} for each in runners}}
        account = fields.pop("account", self.account)
        return self.world.add_host(account, inventory=inventory, **fields)

    def submit(self, **members: Any) -> Task:
        wish = {"name": "train", "profile": "batch", "constants": (BATCH,)} | members
        world = self.world
        with world.database.write() as tx:
            return tasks.submit(
                tx,
                world.principal(self.account),
                tasks.NewTask(**wish),
                now=world.now,
                keys=world.keys,
            )

    def place(self) -> int:
        with self.world.database.write() as tx:
            return task_place.place_waiting(tx, now=self.world.now)

    def claim(self, host: Host, instance: str = "agent-1") -> Job:
        job = self.runs.claim(host, instance)
        assert job is not None
        assert job.kind == "task"
        return job

    def running(self, host: Host, **members: Any) -> tuple[Task, Job]:
        """A task whose one instance executes on `host`."""
        task = self.submit(**members)
        job = self.claim(host)
        self.say(host, job, {"type": "state", "state": "executing", "at": self.at()})
        return self.world.again(task), job

    def say(self, host: Host, job: Job, *messages: dict[str, Any]) -> dict[str, Any]:
        """Report messages; the orders that come back."""
        world = self.world
        with world.database.write() as tx:
            _, _, orders = jobs.report(
                tx,
                world.agent(host),
                job.id,
                attempt=job.attempt,
                stage="",
                progress={},
                messages=list(messages),
                now=world.now,
            )
        assert orders is not None
        return orders

    def finish(self, host: Host, job: Job, outcome: str = "success", **members: Any) -> Job:
        result = {"outcome": outcome, "exit_code": 0 if outcome == "success" else 1}
        messages = members.pop("messages", [])
        return self.runs.finish(host, job, result=result | members, messages=messages)

    def at(self) -> str:
        return self.world.now.isoformat()

    def output(self, data: bytes, offset: int = 0, stream: str = "stdout") -> dict[str, Any]:
        encoded = base64.b64encode(data).decode()
        return {"type": "output", "stream": stream, "offset": offset, "data": encoded}

    def snapshot_said(
        self, whole: TaskSnapshot, status: str, number: int = 0, **members: Any
    ) -> dict[str, Any]:
        """What the host of an instance says of its part of a manual snapshot."""
        said = {
            "type": "snapshot",
            "task_snapshot_id": whole.id,
            "snapshot_id": instance_snapshot_id(whole.id, number),
            "trigger": "manual",
            "slot_at": None,
            "status": status,
            "bytes_total": 0,
            "bytes_done": 0,
        }
        return self._with_result(said, status) | members

    def slot_said(
        self, task: Task, slot: datetime, status: str, number: int = 0, **members: Any
    ) -> dict[str, Any]:
        """The same of a periodic one, which nobody has heard of before."""
        whole_id = periodic_snapshot_id(task.id, slot)
        said = {
            "type": "snapshot",
            "task_snapshot_id": whole_id,
            "snapshot_id": instance_snapshot_id(whole_id, number),
            "trigger": "periodic",
            "slot_at": slot.isoformat(),
            "triggered_at": slot.isoformat(),
            "directory_at": slot.isoformat(),
            "status": status,
            "bytes_total": 0,
            "bytes_done": 0,
        }
        return self._with_result(said, status) | members

    def _with_result(self, said: dict[str, Any], status: str) -> dict[str, Any]:
        if status == "success":
            said["result"] = self.runs.result(capture_seconds=0.1)
        return said

    def instances(self, task: Task) -> list[TaskInstance]:
        with self.world.database.read() as tx:
            found = select(TaskInstance).where(TaskInstance.task_id == task.id)
            return list(tx.scalars(found.order_by(TaskInstance.number)))

    def parts(self, task: Task) -> list[Snapshot]:
        """All snapshots of the task's instances, final results too."""
        sources = [each.source_id for each in self.instances(task)]
        with self.world.database.read() as tx:
            found = select(Snapshot).where(Snapshot.source_id.in_(sources))
            return list(tx.scalars(found.order_by(Snapshot.created_at, Snapshot.id)))

    def wholes(self, task: Task) -> list[TaskSnapshot]:
        with self.world.database.read() as tx:
            found = select(TaskSnapshot).where(TaskSnapshot.task_id == task.id)
            return list(tx.scalars(found.order_by(TaskSnapshot.triggered_at, TaskSnapshot.id)))
