"""Jobs: what agents are doing, did, and said meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/jobs"
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. `progress` is the agent's last report."""

    id: str
    kind: str
    state: str
    subject_kind: str = ""
    subject_id: str = ""
    host_id: str | None = None
    stage: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    max_attempts: int = 0
    not_before: datetime | None = None
    lease_until: datetime | None = None
    cancel_requested_at: datetime | None = None
    findings: tuple[Finding, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    correlation_id: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def as_progress(self) -> Progress:
        """Where it stands, for a screen."""

        def number(name: str) -> int:
            value = self.progress.get(name)
            return value if isinstance(value, int) else 0

        return Progress(
            step=self.stage or self.state,
            files_done=number("files_done"),
            files_total=number("files_total"),
            bytes_done=number("bytes_done"),
            bytes_total=number("bytes_total"),
            current=str(self.progress.get("current") or ""),
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log."""

    id: int
    at: datetime
    text: str
    level: str = "info"
    attempt: int = 0


class JobsResource:
    """The account's jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, state: str = "", kind: str = "", subject_id: str = "") -> Iterator[Job]:
        """All jobs, newest first."""
        query = {"state": state, "kind": kind, "subject_id": subject_id}
        return pages(self._transport, _PATH, Job, query)

    def get(self, job_id: str) -> Job:
        return from_json(Job, self._transport.get(f"{_PATH}/{job_id}"))

    def cancel(self, job_id: str) -> Job:
        """Stop it: at once while it waits, else as soon as its host hears of it."""
        return from_json(Job, self._transport.post(f"{_PATH}/{job_id}/cancel"))

    def log(self, job_id: str, *, after_id: int | None = None) -> Iterator[Line]:
        """What it said so far, oldest line first."""
        return log_lines(self._transport, f"{_PATH}/{job_id}/log", after_id)


def log_lines(transport: Transport, path: str, after_id: int | None = None) -> Iterator[Line]:
    """The lines of the log at `path`."""
    return pages(transport, path, Line, {"after_id": after_id}, cursor_name="after_id")


class Run(Protocol):
    """What a job does, as a person sees it: a snapshot, a restore, a drill."""

    @property
    def job_id(self) -> str | None: ...

    @property
    def is_under_way(self) -> bool: ...


R = TypeVar("R", bound=Run)


def wait_for_run(
    transport: Transport, get: Callable[[], R], report: Report, pause: Callable[[], None]
) -> R:
    """Look again and again until a run has ended, in whatever way; `report` gets its progress."""
    while True:
        found = get()
        if not found.is_under_way:
            return found
        _show_progress(transport, found.job_id, report)
        pause()


def _show_progress(transport: Transport, job_id: str | None, report: Report) -> None:
    """Report where a job stands, if there is one yet and somebody looks."""
    if job_id is not None and report is not ignore_progress:
        report(from_json(Job, transport.get(f"{_PATH}/{job_id}")).as_progress)
