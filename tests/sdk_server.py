"""A real API on a free port, for tests of what speaks to it: fixtures `sdk_server`, `client`."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.agent.client import ClaimedJob, ControlClient
from holdfast.control.price_source import refresh_due
from holdfast.errors import NotSignedIn
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in
from holdfast.sdk.task_snapshots import TaskSnapshot
from holdfast.serve.app import OneApp, Surface
from holdfast.serve.control_parts import ControlParts
from holdfast.serve.settings import Settings
from holdfast.serve.web_server import WebServer, listen


@dataclass
class SdkServer:
    """A server with its first owner and no agent; `calls` are the requests that it got."""

    url: str
    parts: ControlParts
    password: str
    calls: list[tuple[str, str]]

    def sign_in(self, name: str = "test") -> Client:
        issued = sign_in(self.url, "admin@localhost", self.password, token_name=name)
        return Client(self.url, issued.secret)


@contextmanager
def running_api(directory: Path) -> Iterator[SdkServer]:
    """The API of a new installation in `directory`."""
    settings = Settings(
        data_directory=str(directory),
        token_requests_per_second=10_000,
        address_requests_per_second=10_000,
        request_burst=10_000,
    )
    directory.mkdir(mode=0o700, exist_ok=True)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    parts = ControlParts.open(settings, replica_id="test")
    calls: list[tuple[str, str]] = []
    deployment = parts.deployment(url)
    api = parts.api(deployment)

    @api.middleware("http")
    async def note(request, call_next):  # type: ignore[no-untyped-def]
        answer = await call_next(request)
        route = request.scope.get("route")
        if route is not None:
            calls.append((request.method, route.path))
        return answer

    web = WebServer(OneApp([Surface(api)]), listener)
    web.start()
    try:
        refresh_due(parts.database, None, now=datetime.now(UTC))
        password = Path(parts.first.password_file).read_text().strip()
        yield SdkServer(url, parts, password, calls)
    finally:
        deployment.wakeups.close()
        web.stop()
        listener.close()
        parts.close()


class TinyTask:
    """An instance of a task that computes nothing: it says what a test has it say."""

    def __init__(self, client: ControlClient, job: ClaimedJob) -> None:
        self._client, self._job, self._written = client, job, 0
        self.say(type="state", state="executing", at=_now(), runner="local", reference="1")

    def say(self, **message: Any) -> dict[str, Any]:
        """Report a message; returns the orders."""
        heard = self._client.progress(
            self._job.id,
            attempt=self._job.attempt,
            stage="executing",
            progress={},
            lines=[],
            messages=[message],
        )
        return heard.orders or {}

    def write(self, data: bytes) -> None:
        shown = base64.b64encode(data).decode()
        self.say(type="output", stream="stdout", offset=self._written, data=shown)
        self._written += len(data)

    def fail(self, snapshot: TaskSnapshot) -> None:
        self.say(
            type="snapshot",
            task_snapshot_id=snapshot.id,
            snapshot_id=snapshot.parts[0].id,
            trigger="manual",
            slot_at=None,
            triggered_at=_now(),
            status="failure",
            bytes_total=0,
            bytes_done=0,
            result=None,
            findings=[],
            error={"code": "target_full", "message": "There is no room."},
        )

    def answer(self, answer: dict[str, Any]) -> None:
        """What the filters that were asked about would take."""
        (preview,) = self.say(type="state", state="executing", at=_now())["previews"]
        self.say(type="preview", preview_id=preview["preview_id"], answer=answer)

    def end(self) -> None:
        result = {
            "outcome": "cancelled",
            "exit_code": -15,
            "error": None,
            "started_at": _now(),
            "ended_at": _now(),
            "frozen_seconds": 0.0,
            "snapshots_taken": 0,
            "results": None,
        }
        self._client.finish(
            self._job.id,
            {
                "attempt": self._job.attempt,
                "outcome": "succeeded",
                "result": result,
                "findings": [],
                "error": None,
                "lines": [],
                "messages": [],
            },
        )


def _now() -> str:
    return datetime.now(UTC).isoformat()


class TinyAgent:
    """An agent that claims over HTTP and ends every job at once, storing nothing."""

    def __init__(self, url: str, token: str, name: str) -> None:
        enrolling = ControlClient(url, None)
        self.host_id, secret = enrolling.enrol(
            token, name=name, roots=[{"path": "/root", "directory": "/root"}], inventory={}
        )
        enrolling.close()
        self._client = ControlClient(url, secret)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._client.heartbeat("tiny", inventory={}, running=[])
        self.hold = threading.Event()
        """While it is set, a job is reported as being under way and does not end."""
        self._thread.start()

    def take_task(self) -> TinyTask:
        """Offer a place for a task, and begin the one that comes."""
        inventory = {"task_slots": 1, "tasks_running": 0, "runners": {"local": {}}}
        self._client.heartbeat("tiny", inventory=inventory, running=[])
        for _ in range(200):
            job = self._client.claim("tiny", 1, {"jobs": 0, "tasks": 1})
            if job is not None:
                return TinyTask(self._client, job)
        raise AssertionError("no task came")

    def stop(self) -> None:
        self._stopping.set()
        self.hold.clear()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._client.claim("tiny", 1, {"jobs": 1, "tasks": 0})
            except NotSignedIn:
                return  # revoked
            if job is None:
                continue
            cancelled = False
            while True:
                heard = self._client.progress(
                    job.id,
                    attempt=job.attempt,
                    stage="reading",
                    progress={"files_done": 1, "bytes_done": 10, "bytes_total": 20},
                    lines=[{"at": "2026-11-02T10:00:00Z", "level": "info", "text": "reading"}],
                )
                cancelled = heard.cancel
                if cancelled or not self.hold.is_set():
                    break
                time.sleep(0.02)
            self._client.finish(job.id, _end(job, cancelled=cancelled))


def _end(job: ClaimedJob, *, cancelled: bool) -> dict[str, object]:
    results: dict[str, dict[str, object]] = {
        "backup": {
            "manifest_id": "ab" * 32,
            "consistency": "per_file",
            "captured_at": "2026-11-02T10:00:00Z",
            "files": 3,
            "logical_bytes": 100,
            "read_bytes": 100,
            "stored_bytes": 50,
            "verified": True,
        },
        "restore": {"files": 3, "restored_bytes": 100},
        "drill": {
            "files": 3,
            "directories": 1,
            "restored_bytes": 100,
            "compared_bytes": 90,
            "restore_milliseconds": 1500,
            "passed": "damaged" not in job.spec.get("paths", ()),
        },
    }
    return {
        "attempt": job.attempt,
        "outcome": "cancelled" if cancelled else "succeeded",
        "result": None if cancelled else results.get(job.kind, {}),
        "findings": [],
        "error": {"code": "interrupted", "message": "stopped", "retryable": False}
        if cancelled
        else None,
        "lines": [],
    }


@pytest.fixture(scope="module")
def sdk_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SdkServer]:
    with running_api(tmp_path_factory.mktemp("sdk") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(sdk_server: SdkServer) -> Iterator[Client]:
    with sdk_server.sign_in() as signed_in:
        yield signed_in


@pytest.fixture(scope="module")
def agent(sdk_server: SdkServer, client: Client) -> Iterator[TinyAgent]:
    made = TinyAgent(sdk_server.url, client.hosts.invite(name="gpu-1").secret, "gpu-1")
    yield made
    made.stop()


__all__ = ["SdkServer", "TinyAgent", "agent", "client", "sdk_server"]
