"""Runners for tests, each with a place; run as a program, it uses one in another process.

A case can be written down and made again elsewhere, so that a test can kill whoever started,
froze or aborted a computation: ``python runner_cases.py CASE ACTION``, where the action is
``start`` or ``freeze``, prints one line when it is done and then waits to be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import NotFreezable
from holdfast.runners.local import LocalRunner
from holdfast.runners.podman import PodmanRunner
from holdfast.runners.runner import Command, Frozen, Place, Runner, RunnerStatus
from holdfast.runners.slurm import SlurmRunner

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class RunnerCase:
    """A runner of that `kind` made with `options`, and the root of a place."""

    kind: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    image: str | None = None

    @property
    def place(self) -> Place:
        return Place(Path(self.root))

    def runner(self) -> Runner:
        if self.kind == "podman":
            return PodmanRunner(self.options["program"], environment=self.options["environment"])
        if self.kind == "slurm":
            return SlurmRunner(**self.options)
        return LocalRunner(**self.options)

    def shell(self, script: str, **more: Any) -> Command:
        """A command that runs a script with /bin/sh."""
        return Command(argv=("/bin/sh", "-c", script), image=self.image, **more)

    def start(self, script: str, **more: Any) -> str:
        self.place.make()
        return self.runner().start(self.place, self.shell(script, **more))

    def ended(self) -> RunnerStatus:
        """Wait until it runs no more."""
        wait_until(lambda: self.runner().status(self.place).kind != "running")
        return self.runner().status(self.place)

    @contextmanager
    def frozen(self, **more: Any) -> Iterator[Frozen]:
        """Held still; asked for again while the machine is too busy to show it in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with ExitStack() as stack:
            held = None
            while held is None:
                try:
                    held = stack.enter_context(self.runner().freeze(self.place, **more))
                except NotFreezable as error:
                    if "could not be seen" not in error.message or time.monotonic() > deadline:
                        raise
            yield held

    @contextmanager
    def elsewhere(self, action: str, script: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Another process that has done the action, and waits."""
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(self)), action, script],
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, and fail where it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def _use(case: RunnerCase, action: str, script: str) -> None:
    if action == "start":
        case.start(script)
        _done()
    else:
        with case.frozen():
            _leave_worker(case)
            _done()


def _leave_worker(case: RunnerCase) -> None:
    """Fork what has everything open that this process has, as the workers of a capture do."""
    if os.fork() == 0:
        while os.path.exists(case.root):
            time.sleep(0.05)
        os._exit(0)


def _done() -> None:
    sys.stdout.write("done\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    _use(RunnerCase(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3])
