"""The process that does one job: the job on stdin, what comes of it as JSON lines on stdout.

    in   {"parent": pid, "job": {...}, "host": {...}}      once
         {"lease_seconds": 60, "heard": 7, "orders": {}}   whenever the lease was renewed
         {"stop": "cancelled"}                             before SIGTERM, with the reason
    out  {"stage": "reading", "progress": {...}}
         {"line": {"at": ..., "level": "info", "text": ...}}
         {"message": {"seq": 1, "type": ..., ...}}         what only tasks say
         {"end": {"outcome": ..., "result": ..., "findings": [...], "error": ...}}   last

SIGTERM cancels: the flow unwinds and gives its lock back. The process never outlives the
agent, nor the lease: a thread kills it, with all of its workers, when nobody has renewed
it in time, so that an agent that was frozen cannot have work going on in its name. It
speaks to the gateway and never to the control plane.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

from holdfast.agent.mailbox import Mailbox
from holdfast.errors import HoldfastError, Interrupted
from holdfast.model.guarded_path import Root
from holdfast.model.progress import Progress

_PR_SET_PDEATHSIG: Final = 1
_LONGEST_TEXT: Final = 4000
_MOST_INPUT_BYTES: Final = 64 << 20


class Voice:
    """Writes JSON lines; from any thread, each line whole."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def say(self, document: Mapping[str, Any]) -> None:
        # ASCII only: names may hold what is no character, and it is made visible first.
        data = json.dumps(_shown(document), ensure_ascii=True).encode("ascii") + b"\n"
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def line(self, level: str, text: str) -> None:
        at = datetime.now(UTC).isoformat()
        self.say({"line": {"at": at, "level": level, "text": text[:_LONGEST_TEXT]}})

    def progress(self, stage: str, progress: Progress) -> None:
        document = {
            "files_done": progress.files_done,
            "files_total": progress.files_total,
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
            "current": progress.current[:_LONGEST_TEXT],
        }
        self.say({"stage": stage, "progress": document})


class Leash:
    """Kills this process and its workers when the lease or the agent is gone."""

    def __init__(self, lines: Lines, lease_seconds: float, mailbox: Mailbox) -> None:
        self._lines, self._mailbox = lines, mailbox
        self._deadline = _now() + lease_seconds

    def hold(self) -> None:
        threading.Thread(target=self._watch, name="leash", daemon=True).start()

    def _watch(self) -> None:
        while (left := self._deadline - _now()) > 0:
            try:
                document = self._lines.next(min(left, 1.0))
                if document is None:
                    continue
                if "lease_seconds" in document:
                    self._deadline = _now() + float(document["lease_seconds"])
                self._mailbox.take(document)
            except (EOFError, ValueError, KeyError, TypeError):
                break
        os.killpg(os.getpgid(0), signal.SIGKILL)


class Lines:
    """JSON lines from a descriptor, one at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._held = descriptor, b""

    def next(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next one, or None where none came in that time; raises EOFError at the end."""
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self._held:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                return None
            data = os.read(self._descriptor, 1 << 16)
            if not data or len(self._held) > _MOST_INPUT_BYTES:
                raise EOFError("nobody gives work any more")
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document


def main() -> int:
    """Do the one job; return the exit status, which nobody needs."""
    voice = Voice(_take_stdout())
    lines = Lines(sys.stdin.fileno())
    try:
        order = lines.next(60.0)
    except (EOFError, ValueError):
        return 1
    if order is None or not _tied_to(int(order["parent"])):
        return 1
    _become_interruptible()
    mailbox = Mailbox(voice.say)
    Leash(lines, float(order["job"]["lease_seconds"]), mailbox).hold()
    end = _done(order, voice, mailbox)
    # From here on the work is done, and a wish to stop comes too late.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    voice.say({"end": end})
    return 0


def _done(order: Mapping[str, Any], voice: Voice, mailbox: Mailbox) -> dict[str, Any]:
    """How the job ended."""
    from holdfast.agent import jobs

    try:
        end = jobs.run(_context(order, voice, mailbox), int(order["job"]["spec_version"]))
    except KeyboardInterrupt:
        message = "the job was stopped; what is complete in the repository stays complete"
        return _failure(Interrupted(message), outcome="cancelled")
    except HoldfastError as error:
        return _failure(error)
    except MemoryError:
        message = "There is not enough memory; use fewer workers, or do less at the same time."
        return {
            "outcome": "failed",
            "error": {"code": "worker_lost", "message": message, "retryable": True},
        }
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        message = (
            f"unexpected {type(error).__name__}: {error}. This is a defect of Holdfast; please "
            "report it with what the agent's log has about this job"
        )
        return {
            "outcome": "failed",
            "error": {"code": "unexpected", "message": message, "retryable": False},
        }
    if end.error is not None:
        return _failure(end.error) | {"findings": [each.as_dict() for each in end.findings]}
    return {
        "outcome": "succeeded",
        "result": end.result,
        "findings": [finding.as_dict() for finding in end.findings],
    }


def _failure(error: HoldfastError, outcome: str = "failed") -> dict[str, Any]:
    return {
        "outcome": outcome,
        "error": {"code": error.code, "message": error.message, "retryable": error.retryable},
    }


def _context(order: Mapping[str, Any], voice: Voice, mailbox: Mailbox) -> Any:
    from holdfast.agent.jobs.context import JobContext
    from holdfast.runners.choice import DEFAULTS, RunnerOptions

    job, host = order["job"], order["host"]
    return JobContext(
        job_id=str(job["id"]),
        kind=str(job["kind"]),
        attempt=int(job["attempt"]),
        spec=dict(job["spec"]),
        repository=dict(order["repository"] or {}),
        source=dict(order["source"]) if order.get("source") else None,
        credential=str(order["credential"]),
        host_name=str(host["name"]),
        roots=tuple(Root(each["path"], each["directory"]) for each in host["roots"]),
        put_only=bool(host["put_only"]),
        workers=int(host["workers"]),
        state_directory=str(host["state_directory"]),
        cache_directory=str(host["cache_directory"]),
        ca_certificate=host["ca_certificate"],
        limit_upload=host["limit_upload"],
        limit_download=host["limit_download"],
        task_directory=str(host.get("task_directory", "")),
        drill_directory=str(host.get("drill_directory", "")),
        runners=RunnerOptions(
            podman=tuple(host.get("podman") or DEFAULTS.podman),
            podman_run=tuple(host.get("podman_run") or ()),
        ),
        mailbox=mailbox,
        report=voice.progress,
        say=voice.line,
    )


def _take_stdout() -> int:
    """Keep stdout for ourselves; what workers or libraries print goes to stderr.

    The descriptor is not inherited, so the agent sees its end when this process ends.
    """
    own = os.dup(sys.stdout.fileno())
    os.set_inheritable(own, False)  # noqa: FBT003 - the function's own form
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _tied_to(parent: int) -> bool:
    """Have the kernel end this process with the agent; False where that is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def _become_interruptible() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # Once: while the flow unwinds, another signal would cut its tidying up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # No error of the tree: those are passed over in places where this must not be.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # A terminal sends it to everybody at once; the agent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _shown(value: Any) -> Any:
    """The same with every text such that JSON and UTF-8 can carry it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_shown(str(name)): _shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return value


def _now() -> float:
    # It runs on while the machine is suspended, and so does the lease.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())
