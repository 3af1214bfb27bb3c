"""What a person does with tasks over HTTP, and the machine whose agent runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from running_server import PROGRAM, RunningServer

from holdfast.sdk.sign_in import sign_in

ENDS = ("Success", "Failure", "Cancelled")


class Tasks:
    """The first owner of a server, with a token."""

    def __init__(self, server: RunningServer) -> None:
        password = next(server.data.rglob("*password*")).read_text().strip()
        issued = sign_in(server.url, "admin@localhost", password, token_name="test")
        self._headers = {"Authorization": f"Bearer {issued.secret}"}
        self._url = f"{server.url}/api/v1"
        self._data = f"{server.url}/data/v1"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(
            method, f"{self._url}{path}", json=body or None, headers=self._headers, timeout=60
        )
        assert answer.is_success, answer.text
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    def wait(self, what: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, self.ask("GET", "/tasks")
            time.sleep(0.1)
        return found

    # Buckets

    def put(self, bucket: str, key: str, content: bytes) -> None:
        url = f"{self._data}/buckets/{bucket}/objects/{key}"
        httpx.put(url, content=content, headers=self._headers).raise_for_status()

    def contents(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """What lies in a bucket below a prefix, without it."""
        url = f"{self._data}/buckets/{bucket}/objects"
        listed = httpx.get(url, params={"prefix": prefix}, headers=self._headers)
        listed.raise_for_status()
        keys = [str(each["key"]) for each in listed.json()["objects"]]
        found = {}
        for key in keys:
            answer = httpx.get(f"{url}/{key}", headers=self._headers)
            answer.raise_for_status()
            found[key.removeprefix(prefix)] = answer.content
        return found

    def appears(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """The same once there is something: gateways look for new snapshots every 5 s."""
        found: dict[str, bytes] = self.wait(lambda: self.contents(bucket, prefix))
        return found

    # Tasks

    def submit(self, command: str, **more: Any) -> str:
        return self.submit_as("batch", {"COMMAND": command}, **more)

    def submit_as(self, profile: str, constants: Mapping[str, str], **more: Any) -> str:
        listed = [{"key": key, "value": value} for key, value in constants.items()]
        body = {"name": "train", "profile": profile, "constants": listed, **more}
        return str(self.ask("POST", "/tasks", **body)["id"])

    def get(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/tasks/{task_id}")
        return found

    def instance(self, task_id: str) -> dict[str, Any]:
        """Its only one."""
        (found,) = self.ask("GET", f"/tasks/{task_id}/instances")["items"]
        assert isinstance(found, dict)
        return found

    def codes(self, task_id: str) -> set[str]:
        """What there is to be known of it."""
        return {str(each["code"]) for each in self.get(task_id)["findings"]}

    def output(self, task_id: str) -> str:
        return str(self.ask("GET", f"/tasks/{task_id}/output/stdout"))

    def end(self, task_id: str) -> dict[str, Any]:
        def ended() -> Any:
            found = self.get(task_id)
            return found if found["state"] in ENDS else None

        found: dict[str, Any] = self.wait(ended)
        return found

    # Snapshots

    def snapshot(self, task_id: str, **wish: Any) -> dict[str, Any]:
        """Ask for a snapshot, and wait until it was taken."""
        wish = {"label": "by hand", **wish}
        asked = self.ask("POST", f"/tasks/{task_id}/snapshots", **wish)
        path = f"/task-snapshots/{asked['id']}"

        def done() -> Any:
            found = self.ask("GET", path)
            return found if found["status"] in ("success", "failure") else None

        found: dict[str, Any] = self.wait(done)
        assert found["status"] == "success", found
        return found

    def snapshots(self, task_id: str) -> list[dict[str, Any]]:
        """Those that were taken, newest first."""
        listed = self.ask("GET", f"/tasks/{task_id}/snapshots")["items"]
        return [each for each in listed if each["status"] == "success"]


class TaskMachine:
    """A machine of its own, with an agent that takes tasks."""

    def __init__(self, server: RunningServer, name: str, variables: Mapping[str, str]) -> None:
        self._server = server
        self.directory = server.directory / name
        (self.directory / "root").mkdir(parents=True)
        self._variables = {
            "HOLDFAST_AGENT_STATE_DIRECTORY": str(self.directory / "state"),
            "HOLDFAST_AGENT_CACHE_DIRECTORY": str(self.directory / "cache"),
            "HOLDFAST_AGENT_ROOTS": f"/root={self.directory}/root",
            "HOLDFAST_AGENT_NAME": name,
            "HOLDFAST_AGENT_TASK_SLOTS": "2",
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tasks(self) -> str:
        """The directory in which its tasks live."""
        return str(self.directory / "state/tasks")

    def enrol(self, secret: str) -> None:
        self._server.run(
            *("agent", "enrol", self._server.url, "--token", secret), variables=self._variables
        )

    def start(self) -> None:
        with (self.directory / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "agent", "run", "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**self._server.environment, **self._variables},
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the agent and its children; the computations are nobody's children."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
