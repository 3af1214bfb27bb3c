"""What this host tells of itself: its name, its size, its GPUs, the room in its roots.

Looks, and changes nothing. What cannot be found out is left out or empty; nothing here
raises, because a host without an answer to one question is still a host.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from holdfast.model.guarded_path import Root
from holdfast.runners.choice import DEFAULTS, RunnerOptions, available

KINDS: Final = ("path",)
"""Kinds of source that this agent can serve."""

_GPU_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,memory.used,driver_version,uuid",
    "--format=csv,noheader,nounits",
)
_GPU_SECONDS: Final = 10.0
_GPU_REMEMBERED_SECONDS: Final = 300.0
_RUNNERS_REMEMBERED_SECONDS: Final = 60.0
_MIB: Final = 1 << 20


class Inventory:
    """Looks around anew each time, but for GPUs and runners, which are remembered for a while."""

    def __init__(
        self,
        roots: Sequence[Root],
        *,
        task_slots: int = 0,
        runners: RunnerOptions = DEFAULTS,
        query: Sequence[str] = _GPU_QUERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Where no tasks are taken, nobody looks for runners."""
        self._roots, self._query, self._clock = tuple(roots), tuple(query), clock
        self._task_slots, self._runner_options = task_slots, runners
        self._runners: dict[str, Any] = {}
        self._runners_at: float | None = None
        self._gpus: list[dict[str, Any]] = []
        self._gpus_at: float | None = None

    def document(self, running_jobs: int, tasks_running: int = 0) -> dict[str, Any]:
        """The report as the control plane keeps it; sizes are bytes."""
        return {
            "hostname": socket.gethostname(),
            "system": platform.system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count() or 0,
            "memory_bytes": _memory_bytes(),
            "kinds": list(KINDS),
            "gpus": self._gpus_now(),
            "roots": [_root(root) for root in self._roots],
            "workloads": {"running_jobs": running_jobs},
            "task_slots": self._task_slots,
            "tasks_running": tasks_running,
            "runners": self._runners_now(),
        }

    def _runners_now(self) -> dict[str, Any]:
        if not self._task_slots:
            return {}
        now = self._clock()
        if self._runners_at is None or now - self._runners_at > _RUNNERS_REMEMBERED_SECONDS:
            self._runners, self._runners_at = available(self._runner_options), now
        return self._runners

    def _gpus_now(self) -> list[dict[str, Any]]:
        now = self._clock()
        if self._gpus_at is None or now - self._gpus_at > _GPU_REMEMBERED_SECONDS:
            self._gpus, self._gpus_at = gpus(self._query), now
        return self._gpus


def gpus(query: Sequence[str] = _GPU_QUERY) -> list[dict[str, Any]]:
    """The GPUs that the driver knows; none where there is no driver."""
    try:
        done = subprocess.run(
            query,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GPU_SECONDS,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    found = []
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 6 or not cells[0].isdigit():
            continue
        found.append(
            {
                "index": int(cells[0]),
                "name": cells[1],
                "memory_bytes": _mebibytes(cells[2]),
                "used_bytes": _mebibytes(cells[3]),
                "driver": cells[4],
                "uuid": cells[5],
            }
        )
    return found


def _mebibytes(text: str) -> int | None:
    return int(text) * _MIB if text.isdigit() else None


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _root(root: Root) -> dict[str, Any]:
    try:
        room = os.statvfs(root.directory)
    except OSError:
        # A root may be a pod's that is not there at the moment.
        return {"path": root.path, "free_bytes": None, "total_bytes": None}
    blocks = room.f_bfree if os.geteuid() == 0 else room.f_bavail
    return {
        "path": root.path,
        "free_bytes": blocks * room.f_frsize,
        "total_bytes": room.f_blocks * room.f_frsize,
    }
