"""A task's directory, a repository, a capturer, and a computation that can be held still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sample_repository import PASSWORD, contents, fill, make

from holdfast.flows.browse import BrowseRequest, browse
from holdfast.flows.task_capture import CaptureRequest, CaptureResult, Freeze, TaskCapturer
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.repo.repository import Repository
from holdfast.store.protocol import ObjectStore


class Task:
    """A directory that is captured as /job; `again` where both exist already."""

    def __init__(
        self, base: Path, store: ObjectStore | None = None, *, again: bool = False
    ) -> None:
        if again:
            assert store is not None
            self.repository = Repository.open(store, PASSWORD)
        else:
            self.repository = make(store)
        self.job = base / "work"
        self.job.mkdir(exist_ok=again)
        self.capturer = self.new_capturer()

    def new_capturer(self) -> TaskCapturer:
        return TaskCapturer(self.repository, os.fsencode(self.job), hostname="node-1")

    def fill(self, files: dict[str, int | bytes], seed: int = 0) -> None:
        fill(self.job, files, seed)

    def capture(
        self,
        freeze: Freeze | None = None,
        *,
        whitelist: str | None = None,
        blacklist: str | None = None,
    ) -> CaptureResult:
        return self.capturer.capture(
            CaptureRequest(whitelist, blacklist, ("holdfast-job=1",), freeze)
        )

    def contents(self, result: CaptureResult) -> dict[str, bytes]:
        """Every file's bytes by its name."""
        return contents(self.repository, self.repository.snapshot(result.manifest_id))

    def nodes(self, result: CaptureResult) -> dict[str, Node]:
        """Every entry by its path below /job."""
        found: list[Finding] = []
        request = BrowseRequest(result.manifest_id, recursive=True)
        entries = {e.path: e.node for e in browse(self.repository, request, found.append)}
        assert not found
        return {
            os.fsdecode(path[4:]): node
            for path, node in entries.items()
            if path.startswith(b"job/")
        }

    def assert_whole(self) -> None:
        assert verify(self.repository, VerifyRequest(read_data=True, workers=0)).clean


@contextmanager
def nothing_runs() -> Iterator[None]:
    """The freeze of a computation that does nothing."""
    yield


class Computation:
    """A Python program in the task's directory, which can be stopped by a signal."""

    def __init__(self, program: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", program], cwd=directory, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.lines = self._process.stdout

    def __enter__(self) -> Computation:
        if self.lines.readline() != b"ready\n":
            self.__exit__()
            raise AssertionError("the program ended before it was ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.lines.close()

    @contextmanager
    def freeze(self) -> Iterator[None]:
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal and wait for the line that answers it."""
        os.kill(self._process.pid, number)
        assert self.lines.readline()

    @property
    def state(self) -> str:
        """One letter, as in proc_pid_stat(5): T where it is stopped."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]
