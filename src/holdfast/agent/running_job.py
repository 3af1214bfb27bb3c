"""One job under way: its child process, its lease, its reports, its end.

A thread of its own starts the child, passes on what it says, and reports its end. Invariants:
the child is ended when the lease can no longer be counted on, when the control plane says
that the attempt is stale, and with this process; an end is on disk before it is reported,
and reported until it is acknowledged or refused. Nothing here knows what the job does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, Final

import structlog

from holdfast.agent.client import ClaimedJob, ControlClient
from holdfast.agent.delivery import deliver
from holdfast.agent.mailbox import CANCELLED, LEAVING
from holdfast.agent.outbox import Outbox
from holdfast.agent.pauses import Pauses
from holdfast.agent.rate import Rate
from holdfast.agent.spool import Spool
from holdfast.errors import (
    Forbidden,
    HoldfastError,
    NotFound,
    StaleAttempt,
    UsageError,
    WorkerLost,
)

REPORT_SECONDS: Final = 2.0
_LONGEST_REPORT_SECONDS: Final = 10.0
_LINES_IN_REPORT: Final = 200
_LINES_AT_END: Final = 400
_MOST_LINES: Final = 2000
_BETWEEN_MESSAGES_SECONDS: Final = 1.0
_RESTING_SECONDS: Final = 0.2
_ERROR_LINES: Final = 20
_LINGER_SECONDS: Final = 5.0

_log = structlog.get_logger("holdfast.agent")


@dataclass(frozen=True, slots=True)
class ChildOrder:
    """What a child is started with besides its job: the host, and the credential."""

    host: Mapping[str, Any]
    credential: str = field(repr=False)
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "holdfast.agent.child")


class RunningJob:
    """Begins with `start`; `on_end` is called once, when nothing is left to be reported."""

    def __init__(
        self,
        job: ClaimedJob,
        *,
        claimed_at: float,
        client: ControlClient,
        spool: Spool,
        order: ChildOrder,
        grace_seconds: float,
        on_end: Callable[[RunningJob], None],
    ) -> None:
        """`claimed_at` is when the claim was sent, by `boot_seconds`."""
        self.job = job
        self._client, self._spool, self._order = client, spool, order
        self._grace_seconds, self._on_end = grace_seconds, on_end
        self._lease_end = claimed_at + job.lease_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._leaving = threading.Event()
        self._stop_reason = ""
        self._stop_at: float | None = None
        self._killed = ""
        self._stage, self._progress = "", dict[str, Any]()
        self._lines: deque[dict[str, str]] = deque()
        self._end: dict[str, Any] | None = None
        self._rate = Rate()
        self._outbox = Outbox()
        self._telling = threading.Lock()
        self._between_messages = _BETWEEN_MESSAGES_SECONDS
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self._thread = threading.Thread(target=self._run, name=f"job-{job.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end; return whether it came."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop it because somebody wants it stopped."""
        self._stop(CANCELLED)

    def leave(self) -> None:
        """Stop it because the agent ends; it is to be done again."""
        self._leaving.set()
        self._stop(LEAVING)

    def _stop(self, reason: str) -> None:
        with self._lock:
            if self._stop_reason:
                return
            self._stop_reason, self._stop_at = reason, time.monotonic()
            process = self._process
        if process is not None:
            # The reason first: a task's computation outlives the agent, and not a cancel.
            self._tell_child({"stop": reason})
            process.terminate()
        self._woken.set()

    # The thread

    def _run(self) -> None:
        log = _log.bind(job_id=self.job.id, kind=self.job.kind, attempt=self.job.attempt)
        try:
            log.info("job begins", correlation_id=self.job.correlation_id)
            try:
                readers = self._launch()
            except OSError as error:
                self._note("error", f"The child process cannot be started: {error.strerror}.")
            else:
                self._attend()
                for reader in readers:
                    reader.join(_LINGER_SECONDS)
            body = self._body()
            log.info("job ends", outcome=body["outcome"], error=body["error"])
            if self._killed == "stale":
                return  # nobody wants to hear of this attempt
            report = self._spool.put(self.job.id, body)
            deliver(report, self._client, self._spool, wait=self._leaving.wait)
        except Exception:
            log.exception("job thread failed")
        finally:
            self._kill()
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.close()
            self._on_end(self)

    def _launch(self) -> list[threading.Thread]:
        process = subprocess.Popen(
            self._order.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with self._lock:
            self._process = process
            reason = self._stop_reason
        readers = [
            threading.Thread(target=self._hear, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._overhear, args=(process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        job = self.job
        self._tell_child(
            {
                "parent": os.getpid(),
                "credential": self._order.credential,
                "host": dict(self._order.host),
                "repository": job.repository,
                "source": job.source,
                "job": {
                    "id": job.id,
                    "kind": job.kind,
                    "attempt": job.attempt,
                    "spec": job.spec,
                    "spec_version": job.spec_version,
                    "lease_seconds": max(0.0, self._lease_end - boot_seconds()),
                },
            }
        )
        if reason:
            self._tell_child({"stop": reason})
            process.terminate()
        return readers

    def _attend(self) -> None:
        """Report and watch until the child has ended."""
        assert self._process is not None
        pauses = Pauses(REPORT_SECONDS, _LONGEST_REPORT_SECONDS)
        due = reported = time.monotonic()
        while self._process.poll() is None:
            now = time.monotonic()
            if self._outbox and pauses.is_fresh:
                # Somebody waits for what a task says; and what it is ordered comes back with it.
                due = min(due, reported + self._between_messages)
            if self._stop_at is not None and now - self._stop_at > self._grace_seconds:
                self._killed = self._killed or "deaf"
                self._kill()
            elif boot_seconds() > self._lease_end:
                self._killed = self._killed or "lease"
                self._kill()
            elif now >= due and not self._killed:
                reported = now
                if self._report():
                    due = now + REPORT_SECONDS
                    pauses.reset()
                else:
                    due = now + pauses.next()
            self._woken.wait(_RESTING_SECONDS)
            self._woken.clear()
        self._process.wait()

    def _report(self) -> bool:
        """Say where the job stands; return whether that was heard."""
        with self._lock:
            stage, progress = self._stage, dict(self._progress)
            lines = [self._lines[n] for n in range(min(len(self._lines), _LINES_IN_REPORT))]
        messages = self._outbox.batch()
        sent_at = boot_seconds()
        try:
            heard = self._client.progress(
                self.job.id,
                attempt=self.job.attempt,
                stage=stage,
                progress=progress,
                lines=lines,
                messages=messages,
            )
        except (StaleAttempt, NotFound, Forbidden) as error:
            # Somebody else may be at it already, or this host is no longer wanted.
            _log.warning("attempt is over", job_id=self.job.id, reason=error.message)
            self._killed = "stale"
            self._kill()
            return True
        except HoldfastError as error:
            _log.warning("progress not heard", job_id=self.job.id, reason=error.message)
            if messages and isinstance(error, UsageError):
                self._refused(messages, error)
                return True
            return False
        with self._lock:
            for _ in lines:
                self._lines.popleft()
        self._lease_end = sent_at + self.job.lease_seconds
        self._outbox.settle(messages)
        # A long queue is not held up; the rest of it follows at once.
        self._between_messages = 0.0 if self._outbox.is_full else _BETWEEN_MESSAGES_SECONDS
        self._tell_child(
            {
                "lease_seconds": max(0.0, self._lease_end - boot_seconds()),
                "heard": self._outbox.heard,
                "orders": heard.orders,
            }
        )
        if heard.cancel:
            self.cancel()
        return True

    def _refused(self, messages: list[dict[str, Any]], error: HoldfastError) -> None:
        """The server cannot mean one of these; without it the others are heard."""
        lost = self._outbox.refuse(messages)
        if lost is not None:
            self._note("error", f"A message of kind {lost.get('type')} is lost: {error.message}")

    def _kill(self) -> None:
        """End the child and all of its workers at once."""
        process = self._process
        if process is None:
            return
        # The child leads a process group of its own, which may outlive it for a moment.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def _tell_child(self, document: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = json.dumps(document).encode() + b"\n"
        # It may have ended, which is noticed elsewhere.
        with self._telling, suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    # What the child says

    def _hear(self, stream: IO[bytes]) -> None:
        with stream:
            for text in stream:
                try:
                    document = json.loads(text)
                except ValueError:
                    continue
                if isinstance(document, dict):
                    self._take(document)
        self._woken.set()

    def _overhear(self, stream: IO[bytes]) -> None:
        with stream:
            for text in stream:
                self._errors.append(text.decode("utf-8", "replace").rstrip())

    def _take(self, document: Mapping[str, Any]) -> None:
        if "message" in document:
            self._outbox.put(document["message"])
            self._woken.set()
            return
        with self._lock:
            if "end" in document:
                self._end = document["end"]
            elif "line" in document:
                self._add_line(document["line"])
            elif "stage" in document:
                if document["stage"] != self._stage:
                    self._rate.forget()
                self._stage = str(document["stage"])
                self._progress = {**document["progress"], **self._rate.of(document["progress"])}

    def _add_line(self, line: Mapping[str, str]) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines.append(dict(line))

    def _note(self, level: str, text: str) -> None:
        with self._lock:
            self._add_line({"at": datetime.now(UTC).isoformat(), "level": level, "text": text})

    # The end

    def _body(self) -> dict[str, Any]:
        """The report of how this attempt ended."""
        end = self._end
        if end is None:
            end = self._end_of_silence()
        elif end["outcome"] == "cancelled" and self._stop_reason != CANCELLED:
            end = _failed("interrupted", "The agent was stopped; the job is done again later.")
        with self._lock:
            lines = list(self._lines)[-_LINES_AT_END:]
        body = {
            "attempt": self.job.attempt,
            "outcome": end["outcome"],
            "result": end.get("result"),
            "findings": end.get("findings") or [],
            "error": end.get("error"),
            "lines": lines,
        }
        if messages := self._outbox.batch():
            body["messages"] = messages
        return body

    def _end_of_silence(self) -> dict[str, Any]:
        """The child ended without a word: killed, by us or by somebody else."""
        if self._killed == "lease":
            return _failed(
                "server_unavailable",
                "The server was out of reach for longer than the job's lease, so the job was "
                "stopped; it is done again.",
            )
        if self._stop_reason == CANCELLED:
            message = "The job did not stop in time and was killed."
            error = {"code": "interrupted", "message": message, "retryable": False}
            return {"outcome": "cancelled", "error": error}
        if self._stop_reason == LEAVING:
            return _failed("interrupted", "The agent was stopped; the job is done again later.")
        status = self._process.returncode if self._process is not None else None
        for text in self._errors:
            self._note("error", text)
        return _failed(
            WorkerLost.code,
            f"The job's process ended with status {status} and without a result; it may have "
            "been killed for want of memory. Nothing acknowledged was lost.",
        )


def boot_seconds() -> float:
    """A time that never steps and runs on while the machine is suspended, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _failed(code: str, message: str) -> dict[str, Any]:
    return {
        "outcome": "failed",
        "error": {"code": code, "message": message, "retryable": True},
    }
