"""A task that loses its machine: a real solver, snapshots every two seconds, a restart.

The solver is run once without an accident, for comparison, and once as a task whose machine
is taken away in the middle. A new task starts from the last snapshot on another machine; the
results must be the same to the last bit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from holdfast.cli import text
from holdfast.demo.installation import enrolled
from holdfast.demo.narration import Differs, expect, say, step, write
from holdfast.demo.processes import Machine, Server, environment
from holdfast.model.quantity import print_bytes
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in
from holdfast.sdk.task_snapshots import TaskSnapshot
from holdfast.sdk.tasks import Task

_STEPS = 400
_PAUSE_SECONDS = 0.03
_EVERY_SECONDS = 2
_SNAPSHOTS_BEFORE = 3
_PATIENCE_SECONDS = 120.0
_BUCKET = "plate-results"
_TASK_SLOTS = {"HOLDFAST_AGENT_TASK_SLOTS": "1"}
_TOKEN_NAME = "demonstration"  # noqa: S105 no secret


@dataclass
class TaskDemonstration:
    """All steps, in a directory of its own."""

    directory: Path

    def run(self) -> None:
        with step("For comparison: the solver without an accident"):
            expected = self._undisturbed()
            say(f"{_STEPS} steps; the last field has the digest {expected[:16]}...")
        with ExitStack() as stack:
            server = Server(self.directory / "server")
            stack.callback(server.stop)
            with step("A server, and a rented machine that takes tasks"):
                server.start()
                issued = sign_in(server.url, server.email, server.password, token_name=_TOKEN_NAME)
                client = stack.enter_context(Client(server.url, issued.secret))
                first = Machine(self.directory / "machine-1", "gpu-1", _TASK_SLOTS)
                stack.callback(first.stop)
                host_id = enrolled(client, server.url, first)
                say(f"{server.url}; gpu-1 is online")
            with step(f"The same solver as a task, with a snapshot every {_EVERY_SECONDS} seconds"):
                task = self._submit(client, host_id)
                last = self._followed(client, task)
            with step("Disaster: the machine is gone, with its disk, in the middle of the run"):
                first.vanish()
                client.tasks.abort(task.id)
                say(f"{first.directory} does not exist any more; the snapshots do")
            with step("Another machine: a new task whose /job begins with the last snapshot"):
                second = Machine(self.directory / "machine-2", "gpu-2", _TASK_SLOTS)
                stack.callback(second.stop)
                host_id = enrolled(client, server.url, second)
                again = self._submit(client, host_id, starts_from=last.id)
                done = client.tasks.wait(again.id, poll_seconds=0.5)
                output = "".join(each.text for each in client.tasks.output(again.id))
                expect(done.state == "Success", f"the second run is {done.state}: {output}")
                begun = output.splitlines()[0]
                expect("from step 0 " not in begun, f"it began anew: {begun}")
                say(begun)
            with step("The result"):
                self._compare(client, expected)
        write(_NEXT)

    def _undisturbed(self) -> str:
        directory = self.directory / "undisturbed"
        directory.mkdir()
        subprocess.run(
            [sys.executable, "-m", "holdfast.demo.solver", str(_STEPS)],
            env=environment(HOLDFAST_JOB=str(directory)),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return (directory / "result.txt").read_text().strip()

    def _submit(self, client: Client, host_id: str, **members: object) -> Task:
        command = f"{sys.executable} -m holdfast.demo.solver {_STEPS} {_PAUSE_SECONDS}"
        return client.tasks.submit(
            "plate",
            "batch",
            {"COMMAND": command},
            runs_on=host_id,
            result_bucket=_BUCKET,
            periodic={"seconds": _EVERY_SECONDS},
            **members,
        )

    def _followed(self, client: Client, task: Task) -> TaskSnapshot:
        """Watch until there are some snapshots; returns the last one that is complete."""
        shown: set[str] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            complete = [
                each for each in client.task_snapshots.list(task.id) if each.status == "success"
            ]
            for each in reversed(complete):
                if each.id not in shown:
                    shown.add(each.id)
                    self._tell(each)
            if len(complete) >= _SNAPSHOTS_BEFORE:
                return complete[0]
            found = client.tasks.get(task.id)
            expect(not found.has_ended, f"the task ended before it was time: {found.state}")
            time.sleep(0.5)
        raise Differs("the snapshots did not come")

    def _tell(self, snapshot: TaskSnapshot) -> None:
        part = snapshot.parts[0]
        say(
            f"{_BUCKET}/{snapshot.directory}  {text.count(part.files or 0, 'file')}, "
            f"{print_bytes(part.logical_bytes or 0)}; {print_bytes(part.stored_bytes or 0)} "
            f"stored, {part.consistency}"
        )

    def _compare(self, client: Client, expected: str) -> None:
        found = client.buckets.read(_BUCKET, "result.txt").decode().strip()
        expect(found == expected, f"the result is {found}, and {expected} without the accident")
        say("the last field is the same, to the last bit, as without the accident")
        keys = list(client.buckets.objects(_BUCKET))
        seen = sum(each.size_bytes for each in keys)
        stored = sum(each.stored_bytes or 0 for each in client.snapshots.list(kind="task"))
        say(
            f"the bucket shows {text.count(len(keys), 'file')}, {print_bytes(seen)}; "
            f"{print_bytes(stored)} are stored for them"
        )


_NEXT = """
In earnest: docs/how-to/tasks.md, and docs/how-to/qarnot.md for those who have scripts with
Qarnot's SDK. `./dev demo` shows scheduled backups in the same way."""
