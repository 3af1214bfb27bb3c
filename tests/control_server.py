"""The control plane as an agent sees it: its protocol over HTTP, with jobs kept in memory.

It fences attempts, runs leases out, returns those of an instance that is gone, and refuses
what is stale, as the real one does. What the real one makes of a job's end is not its
business. A test may take it away for a while, and look at everything that was said.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDED = frozenset({"succeeded", "failed", "cancelled"})
TOKEN, CREDENTIAL, HOST_ID = "hf_once", "writer", "host-1"


@dataclass
class KeptJob:
    """One job. `repository` is what a claim answers besides, `orders` what a report does.

    `messages` are those of all attempts, as they came.
    """

    id: str
    kind: str
    spec: dict[str, Any]
    repository: dict[str, Any]
    state: str = "queued"
    attempt: int = 0
    lease_until: float = 0.0
    cancel: bool = False
    reports: list[dict[str, Any]] = field(default_factory=list)
    finishes: list[dict[str, Any]] = field(default_factory=list)
    stale: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    orders: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def end(self) -> dict[str, Any]:
        """The finish that counted."""
        return self.finishes[-1]

    @property
    def stages(self) -> list[str]:
        return [report["stage"] for report in self.reports]


class Refusal(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class ControlServer:
    """Answers agents. `lease_seconds` is short in tests that wait for it to run out."""

    def __init__(self, lease_seconds: float = 60.0) -> None:
        self.lease_seconds = lease_seconds
        self.jobs: dict[str, KeptJob] = {}
        self.changed = threading.Condition()
        self.heartbeats: list[dict[str, Any]] = []
        self.enrolments: list[dict[str, Any]] = []
        self.claims: list[dict[str, Any]] = []
        self.instance = ""
        self.token_used = False
        self.revoked = False
        self.away = False
        self.deaf_to: set[str] = set()
        self.drop_answers_of: set[str] = set()
        self.stop: list[str] = []
        self.refused_messages: set[str] = set()
        self.most_attempts = 5
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed in the middle is part of the game."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What a test does

    def add(self, kind: str, spec: dict[str, Any], repository: dict[str, Any]) -> KeptJob:
        job = KeptJob(str(uuid.uuid4()), kind, spec, repository)
        with self.changed:
            self.jobs[job.id] = job
            self.changed.notify_all()
        return job

    def wait(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until something is so; fail where it does not become so."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not what():
                left = deadline - time.monotonic()
                assert left > 0, f"waited in vain; {self.jobs}"
                self.changed.wait(min(left, 0.1))

    def wait_for_end(self, job: KeptJob, seconds: float = 60.0) -> dict[str, Any]:
        self.wait(lambda: job.finishes, seconds)
        return job.end

    # What an agent is answered

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length", 0))
        body = json.loads(request.rfile.read(length) or b"{}")
        path = request.path.removeprefix("/api/v1/agent/")
        act = path.rpartition("/")[2]
        if self.away or act in self.deaf_to:
            request.close_connection = True
            request.connection.close()
            return
        status, answer = 200, dict[str, Any]()
        try:
            answer = self._answer(path, body, request.headers.get("Authorization", ""))
            if not answer:
                status = 204
        except Refusal as refusal:
            status = refusal.status
            answer = {"code": refusal.code, "detail": f"refused: {refusal.code}", "status": status}
        with self.changed:
            self.changed.notify_all()
        if act in self.drop_answers_of:
            request.close_connection = True
            request.connection.close()
            return
        data = b"" if status == 204 else json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, path: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        if path == "enrol":
            return self._enrol(body)
        if authorization != f"Bearer {CREDENTIAL}":
            raise Refusal(401, "not_signed_in")
        if self.revoked:
            raise Refusal(403, "forbidden")
        if path == "heartbeat":
            self.heartbeats.append(body)
            return {"interval_seconds": 1, "stop": self.stop, "forsaken": self._forsaken(body)}
        if path == "claim":
            return self._claim(body)
        _, job_id, act = path.split("/")
        with self.changed:
            self._run_out()
            job = self.jobs.get(job_id)
            if job is None:
                raise Refusal(404, "not_found")
            if act == "finish" and job.state != "leased" and self._is_repeated(job, body):
                return {"state": job.state}
            if job.state != "leased" or job.attempt != body["attempt"]:
                job.stale.append((act, body))
                raise Refusal(409, "stale_attempt")
            if act == "progress":
                self._take_messages(job, body)
                job.reports.append(body)
                job.lease_until = time.monotonic() + self.lease_seconds
                return {
                    "lease_until": "2026-01-01T00:00:00Z",
                    "cancel": job.cancel,
                    "orders": job.orders,
                }
            return self._finish(job, body)

    def _take_messages(self, job: KeptJob, body: dict[str, Any]) -> None:
        messages = body.get("messages", [])
        if any(each.get("type") in self.refused_messages for each in messages):
            raise Refusal(422, "usage")
        job.messages += messages

    def _enrol(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["token"] != TOKEN or self.token_used:
            raise Refusal(401, "not_signed_in")
        self.token_used = True
        self.enrolments.append(body)
        return {"host_id": HOST_ID, "credential": CREDENTIAL}

    def _forsaken(self, body: dict[str, Any]) -> list[str]:
        told = set(body.get("computations", ())) & set(self.jobs)
        return sorted(each for each in told if self.jobs[each].state in ENDED)

    def _claim(self, body: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + min(body["wait_seconds"], 0.5)
        with self.changed:
            self.claims.append(body)
            if body["instance"] != self.instance:
                self.instance = body["instance"]
                for job in self.jobs.values():
                    if job.state == "leased":
                        job.state = "queued"
            while True:
                self._run_out()
                for job in self.jobs.values():
                    kind = "tasks" if job.kind == "task" else "jobs"
                    if job.state == "queued" and body["room"][kind] > 0:
                        return self._lease(job)
                left = deadline - time.monotonic()
                if left <= 0:
                    return {}
                self.changed.wait(left)

    def _lease(self, job: KeptJob) -> dict[str, Any]:
        job.state, job.attempt = "leased", job.attempt + 1
        job.lease_until = time.monotonic() + self.lease_seconds
        return {
            "job": {
                "id": job.id,
                "kind": job.kind,
                "attempt": job.attempt,
                "spec": job.spec,
                "spec_version": 1,
                "lease_seconds": self.lease_seconds,
                "account_id": "account",
                "correlation_id": "correlation",
            },
            "repository": job.repository,
        }

    def _finish(self, job: KeptJob, body: dict[str, Any]) -> dict[str, Any]:
        self._take_messages(job, body)
        job.finishes.append(body)
        again = body["outcome"] == "failed" and body["error"]["retryable"]
        job.state = "queued" if again and job.attempt < self.most_attempts else body["outcome"]
        return {"state": job.state}

    def _is_repeated(self, job: KeptJob, body: dict[str, Any]) -> bool:
        return any(each["attempt"] == body["attempt"] for each in job.finishes)

    def _run_out(self) -> None:
        for job in self.jobs.values():
            if job.state == "leased" and time.monotonic() > job.lease_until:
                job.state = "queued"


@contextmanager
def controlling(lease_seconds: float = 60.0) -> Iterator[ControlServer]:
    """Run one until the end of the block."""
    server = ControlServer(lease_seconds)
    try:
        yield server
    finally:
        server.close()
