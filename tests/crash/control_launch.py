"""A server's process under test: `up` with a clock that the test moves, and planted mistakes.

Run as a program with one argument, a JSON document. Everything else is as `holdfast up` has it.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import struct
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_FORMAT = "=d"


class MovableClock:
    """The time of this machine and so many seconds, which are in a file that others change."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack(_FORMAT, 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), struct.calcsize(_FORMAT))

    @property
    def ahead_seconds(self) -> float:
        (seconds,) = struct.unpack_from(_FORMAT, self._shared)
        assert isinstance(seconds, float)
        return seconds

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)

    def step(self, seconds: float) -> None:
        struct.pack_into(_FORMAT, self._shared, 0, self.ahead_seconds + seconds)


def die_with_parent() -> None:
    """Nothing that a test has started outlives the test's process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _main(order: dict[str, Any]) -> None:
    from holdfast.serve.settings import Settings
    from holdfast.serve.up import Listening, up

    if order["plant"]:
        module, _, name = order["plant"].rpartition(".")
        getattr(import_module(module or "control_plants"), name)(setattr)

    def announce(listening: Listening) -> None:
        os.write(1, json.dumps({"url": listening.url}).encode() + b"\n")

    up(Settings(**order["settings"]), announce=announce, clock=MovableClock(Path(order["clock"])))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
