"""The capture of an instance's directory, with a repository that is kept open for it.

Opening costs more than most captures. Invariant: a snapshot that an attempt before has stored
is taken over, and not made a second time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from holdfast.agent.jobs.adoption import adopted, stored_by
from holdfast.agent.jobs.backup import SNAPSHOT_TAG
from holdfast.agent.jobs.context import JobContext, limited
from holdfast.agent.jobs.task_spec import Filters, TaskSpec
from holdfast.errors import Interrupted
from holdfast.flows.reconcile import JOB_TAG
from holdfast.flows.task_capture import CaptureRequest, CaptureResult, Freeze, TaskCapturer
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress
from holdfast.model.snapshot import Snapshot
from holdfast.model.task import JOB_DIRECTORY
from holdfast.repo.repository import Repository


@dataclass(frozen=True, slots=True)
class Captured:
    """A snapshot that was made: what the control plane is told, and what should be known."""

    result: dict[str, Any]
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class OpenedCapturer:
    """What is kept open: the repository, and what attempts before have stored in it."""

    context: JobContext
    spec: TaskSpec
    repository: Repository
    capturer: TaskCapturer
    stored: Mapping[str, Snapshot] = field(default_factory=dict)

    def capture(
        self,
        snapshot_id: str,
        filters: Filters,
        *,
        freeze: Freeze | None,
        only_adopt: bool = False,
        report: Callable[[Progress], None],
    ) -> Captured:
        """Make the snapshot of that id, or take over what an attempt before has stored.

        With `only_adopt` it raises `Interrupted` where nothing was.
        """
        before = self.stored.get(f"{SNAPSHOT_TAG}{snapshot_id}")
        if before is not None:
            end = adopted(self.context, self.repository, before)
            result = {**end.result, "frozen_seconds": 0.0, "capture_seconds": 0.0}
            return Captured(result, end.findings)
        if only_adopt:
            raise Interrupted("the agent ended while the snapshot was being taken")
        request = CaptureRequest(
            whitelist=filters.whitelist,
            blacklist=filters.blacklist,
            tags=self._tags(snapshot_id),
            freeze=freeze,
            verify=not self.context.put_only,
        )
        return _captured(self.capturer.capture(request, report))

    def _tags(self, snapshot_id: str) -> tuple[str, ...]:
        tags = [f"{JOB_TAG}{self.context.job_id}", f"{SNAPSHOT_TAG}{snapshot_id}"]
        if self.spec.source_id:
            tags.append(f"holdfast-source={self.spec.source_id}")
        return (*tags, f"holdfast-task={self.spec.task_id}")


@contextmanager
def opened_capturer(
    context: JobContext, spec: TaskSpec, directory: bytes, *, within: bytes
) -> Iterator[OpenedCapturer]:
    """Open the job's repository for captures of a directory; it is made where there is none.

    `within` is where the directory must lie, as the kernel names it. After an attempt that
    has stored a snapshot, the first capture reads only what that one cannot vouch for.
    """
    with context.opened_repository(make=True) as repository:
        stored: dict[str, Snapshot] = {}
        job_tag = f"{JOB_TAG}{context.job_id}"
        if context.attempt > 1 and not context.put_only:
            stored = stored_by(repository, job_tag)
        capturer = TaskCapturer(
            repository,
            directory,
            stored_as=os.fsencode(JOB_DIRECTORY),
            hostname=context.host_name,
            within=within,
            workers=context.workers,
            # All the snapshots of the job are of this directory; by this tag it is the newest.
            parent=stored[job_tag].id if job_tag in stored else "",
        )
        yield OpenedCapturer(context, spec, repository, capturer, stored)


def _captured(result: CaptureResult) -> Captured:
    at = datetime.fromtimestamp(result.captured_ns / 1e9, UTC)
    return Captured(
        {
            "manifest_id": result.manifest_id,
            "consistency": result.consistency.value,
            "captured_at": at.isoformat(),
            "files": result.files,
            "logical_bytes": result.logical_bytes,
            "read_bytes": result.read_bytes,
            "stored_bytes": result.stored_bytes,
            "verified": result.verified,
            "frozen_seconds": result.frozen_seconds,
            "capture_seconds": result.capture_seconds,
        },
        limited(result.findings),
    )
