"""Capturing a live task directory, quickly and again and again.

One `TaskCapturer` serves one running instance and is kept for as long as it runs: it keeps
the repository's index and the last tree in memory, so that a capture costs what changed
since the last one. What changed is read and stored while the computation runs; then the
computation is held still, only for as long as it takes to look at everything once more and
to read what changed in the last moment. Where the file system can take a snapshot, it is
held still for that alone.

A capture commits exactly one snapshot, or none where it fails. It never changes the
directory, and never leaves the computation held still.
"""

from __future__ import annotations

import os
import time

from holdfast.errors import HoldfastError, UsageError
from holdfast.flows.task_capture_request import CaptureRequest, CaptureResult, Freeze, selection_of
from holdfast.flows.task_capture_run import CaptureRun, Memory, Place
from holdfast.flows.task_listing import Preview, preview
from holdfast.flows.task_memory import forget_missing
from holdfast.flows.task_recall import recall
from holdfast.model.finding import Finding
from holdfast.model.progress import Report, ignore_progress
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.warm_index import WarmIndex
from holdfast.sources.path.tally import printable

__all__ = ["CaptureRequest", "CaptureResult", "Freeze", "Preview", "TaskCapturer"]


class TaskCapturer:
    """Captures one directory into one repository; for one thread at a time.

    `within` is a directory, as the kernel names it, that the captured one must lie in, also
    where somebody plants symbolic links meanwhile. `workers` is how many uploads may be
    under way at a time; everything else is done in the calling thread. `parent` is the id of
    a snapshot that another capturer has made of this directory, so that the first capture
    need not read everything.
    """

    def __init__(
        self,
        repository: Repository,
        directory: bytes,
        *,
        stored_as: bytes = b"/job",
        hostname: str,
        within: bytes = b"",
        workers: int = 0,
        wait_for_lock_seconds: float = 60.0,
        parent: str = "",
    ) -> None:
        if not stored_as.startswith(b"/") or os.path.normpath(stored_as) != stored_as:
            raise UsageError(f"{printable(stored_as)} cannot be the name of a path in a snapshot")
        if stored_as in (b"/", b"//"):
            raise UsageError("a task's directory needs a name in the snapshot, such as /job")
        self._repository = repository
        self._place = Place(directory, stored_as, hostname, within)
        self._uploads = max(2, workers)
        self._wait_for_lock_seconds = wait_for_lock_seconds
        self._memory, self._recalled_from = Memory(WarmIndex(repository)), parent

    def capture(self, request: CaptureRequest, report: Report = ignore_progress) -> CaptureResult:
        """Make one snapshot of the directory as it is now.

        Raises `BadPattern`, `SourceVanished`, `PathEscapes`, `RepositoryLocked`, `Damaged`
        where what was stored cannot be read back, or what the store raises. The next capture
        then reads again what this one has read.
        """
        selection = selection_of(request.whitelist, request.blacklist)
        began = time.monotonic()
        memory = self._memory
        with WriteSession(
            self._repository,
            "backup",
            uploads=self._uploads,
            wait_seconds=self._wait_for_lock_seconds,
            warm=memory.index,
        ) as session:
            session.keep_lock()
            findings = self._renew(session)
            capture = CaptureRun(self._place, memory, session, request, selection, report)
            try:
                return capture.run(began, findings)
            finally:
                capture.close()

    def _renew(self, session: WriteSession) -> tuple[Finding, ...]:
        """Bring what is remembered in line with the index, where that was read anew."""
        memory = self._memory
        findings: list[Finding] = []
        if self._recalled_from:
            name, self._recalled_from = self._recalled_from, ""
            try:
                memory.parent = self._repository.snapshot(name)
                reader = BlobReader(self._repository, session.index)
                recalled = recall(reader, memory.parent, self._place.stored_as)
                memory.last, memory.stored = recalled.top, recalled.stored
            except HoldfastError as error:
                message = f"cannot be compared with, so everything is read: {error.message}"
                findings.append(Finding("parent_damaged", message, name))
        if memory.generation != memory.index.generation:
            memory.generation = memory.index.generation
            findings.extend(session.index.findings)
            if memory.last is not None:
                forget_missing(memory.last, session.index.knows)
        return tuple(findings)

    def preview(self, whitelist: str | None, blacklist: str | None, *, limit: int) -> Preview:
        """What `capture` with these filters would take now; `limit` entries are named."""
        selection = selection_of(whitelist, blacklist)
        place = self._place
        return preview(place.directory, selection, within=place.within, limit=limit)
