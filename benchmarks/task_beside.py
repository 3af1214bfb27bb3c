"""What runs beside the computation of `task_snapshots.py`.

Called with ``capture`` or ``copy``, the job's directory, where to store, the interval in
seconds, the computation's process, and its own niceness. It says ``ready``, waits for a line
on stdin, and then takes a snapshot at each interval until it gets SIGTERM; one that is still
being taken when the next is due takes its place. It prints a JSON document about them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.flows.task_capture import CaptureRequest, TaskCapturer
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

PASSWORD = "benchmark"
_FREE_SHARE = 0.1

Snap = Callable[[int], dict[str, Any]]


class _Stop(Exception):
    pass


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Hold a process still; returns when it is."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
            time.sleep(0.0005)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def capturing(job: str, store: str, pid: int) -> Snap:
    repository = Repository.create(
        LocalStore(f"{store}/repository"), PASSWORD, cache_directory=f"{store}/cache"
    )
    capturer = TaskCapturer(repository, os.fsencode(job), hostname="benchmark")

    def snap(_number: int) -> dict[str, Any]:
        result = capturer.capture(CaptureRequest(freeze=lambda: _stopped(pid)))
        return {
            "stored": result.stored_bytes,
            "frozen": result.frozen_seconds,
            "seconds": result.capture_seconds,
        }

    return snap


def copying(job: str, store: str) -> Snap:
    """The whole directory, each time: what services do that have no other way."""

    def snap(number: int) -> dict[str, Any]:
        usage = shutil.disk_usage(store)
        if usage.free < usage.total * _FREE_SHARE:
            raise SystemExit(f"{store} has too little room for copies; use less data or rounds")
        began = time.monotonic()
        target = Path(store, f"{number:06d}")
        shutil.copytree(job, target)
        stored = sum(path.stat().st_size for path in target.iterdir())
        return {"stored": stored, "frozen": 0.0, "seconds": time.monotonic() - began}

    return snap


def main(snap: Snap, every_seconds: float, niceness: int) -> None:
    os.nice(niceness)
    taken: list[dict[str, Any]] = []
    skipped = 0

    def stop(*_: object) -> None:
        raise _Stop

    print("ready", flush=True)
    sys.stdin.readline()
    signal.signal(signal.SIGTERM, stop)
    due = time.monotonic()
    try:
        while True:
            due += every_seconds
            while due < time.monotonic():
                due += every_seconds
                skipped += 1
            time.sleep(due - time.monotonic())
            taken.append(snap(len(taken)))
    except (_Stop, ProcessLookupError):
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    later = taken[1:] or taken
    print(
        json.dumps(
            {
                "taken": len(taken),
                "skipped": skipped,
                "stored_bytes": sum(each["stored"] for each in taken),
                "first_bytes": taken[0]["stored"] if taken else 0,
                "frozen_seconds": sum(each["frozen"] for each in taken),
                "longest_frozen_seconds": max((each["frozen"] for each in taken), default=0.0),
                "seconds": statistics.median(each["seconds"] for each in later) if later else 0.0,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    _way, _job, _store, _every, _pid, _niceness = sys.argv[1:]
    main(
        capturing(_job, _store, int(_pid)) if _way == "capture" else copying(_job, _store),
        float(_every),
        int(_niceness),
    )
