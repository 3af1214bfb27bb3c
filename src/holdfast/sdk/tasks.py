"""Tasks: computations on hosts, each with a directory ``/job`` that is captured as it runs."""

from __future__ import annotations

import time
from base64 import b64decode
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from holdfast.model.finding import Finding
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/tasks"
_ENDED: Final = frozenset({"Success", "Failure", "Cancelled"})


@dataclass(frozen=True, slots=True)
class TaskInput:
    """A bucket, or the keys of it with a prefix, that is copied into ``/job``."""

    bucket: str
    prefix: str = ""
    strip_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant that a task was given."""

    key: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A computation. `state` is a word of `model.task.TaskState`."""

    id: str
    name: str
    state: str
    profile: str = ""
    short_name: str | None = None
    constants: tuple[Constant, ...] = ()
    inputs: tuple[TaskInput, ...] = ()
    result_bucket: str | None = None
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    instance_count: int = 1
    runs_on: str | None = None
    snapshot_whitelist: str | None = None
    snapshot_blacklist: str | None = None
    results_whitelist: str | None = None
    results_blacklist: str | None = None
    results_on_cancel: bool = False
    starts_from: str | None = None
    time_limit_seconds: int | None = None
    periodic_seconds: int | None = None
    periodic_since: datetime | None = None
    periodic_options: Mapping[str, Any] = field(default_factory=dict)
    previous_state: str | None = None
    state_since: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    delete_requested_at: datetime | None = None
    results_count: int = 0
    findings: tuple[Finding, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


@dataclass(frozen=True, slots=True)
class Instance:
    """One run of a task's command."""

    id: str
    number: int
    state: str
    host_id: str | None = None
    job_id: str | None = None
    source_id: str | None = None
    runner: str = ""
    reference: str = ""
    exit_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    frozen_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a task wrote; `last` is where the next piece is asked for from.

    `data` are the bytes as they were written, `text` what can be read of them.
    """

    text: str
    last: int
    data_base64: str | None = None

    @property
    def data(self) -> bytes:
        return self.text.encode() if self.data_base64 is None else b64decode(self.data_base64)


@dataclass(frozen=True, slots=True)
class PreviewEntry:
    """A file that filters would take."""

    path: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class PreviewAnswer:
    """How much filters would take; `cut` where not every file is listed."""

    files: int = 0
    bytes: int = 0
    entries: tuple[PreviewEntry, ...] = ()
    cut: bool = False
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What was asked about filters, and the host's answer once it has one."""

    id: str
    task_id: str
    instance_id: str = ""
    whitelist: str | None = None
    blacklist: str | None = None
    asked_at: datetime | None = None
    answered_at: datetime | None = None
    answer: PreviewAnswer | None = None


@dataclass(frozen=True, slots=True)
class ProfileConstant:
    """A constant that a profile knows, with its value where none is given."""

    name: str
    default: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to run a task."""

    name: str
    runner: str = ""
    what: str = ""
    constants: tuple[ProfileConstant, ...] = ()
    required: tuple[str, ...] = ()


class TasksResource:
    """The account's tasks."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def profiles(self) -> Iterator[Profile]:
        """The ways in which tasks can be run."""
        return pages(self._transport, "/api/v1/task-profiles", Profile)

    def list(
        self, *, state: str = "", tag: str = "", label: str = "", search: str = ""
    ) -> Iterator[Task]:
        """All tasks, newest first."""
        query = {"state": state, "tag": tag, "label": label, "search": search}
        return pages(self._transport, _PATH, Task, query)

    def get(self, task_id: str) -> Task:
        """A task by its id."""
        return from_json(Task, self._transport.get(f"{_PATH}/{task_id}"))

    def submit(
        self,
        name: str,
        profile: str = "batch",
        constants: Mapping[str, str] | None = None,
        **members: object,
    ) -> Task:
        """Have a task run; `members` are the fields of `Task`, and `periodic` as `set_periodic`."""
        listed = [{"key": key, "value": value} for key, value in (constants or {}).items()]
        body = {"name": name, "profile": profile, "constants": listed, **members}
        return from_json(Task, self._transport.post(_PATH, body))

    def edit(self, task_id: str, **changes: object) -> Task:
        """Change `name`, `tags` or `labels`."""
        return from_json(Task, self._transport.patch(f"{_PATH}/{task_id}", changes))

    def abort(self, task_id: str) -> Task:
        """End it; results are kept only if that was wished for."""
        return from_json(Task, self._transport.post(f"{_PATH}/{task_id}/abort"))

    def renew_inputs(self, task_id: str) -> Task:
        """Have new and replaced objects of its input buckets copied while it runs.

        Its hosts do it soon after; nothing is deleted there.
        """
        return from_json(Task, self._transport.post(f"{_PATH}/{task_id}/renew-inputs"))

    def delete(self, task_id: str) -> None:
        """Remove it, ending it first; its snapshots stay."""
        self._transport.delete(f"{_PATH}/{task_id}")

    def instances(self, task_id: str) -> Iterator[Instance]:
        """Its instances, in the order of their numbers."""
        return pages(self._transport, f"{_PATH}/{task_id}/instances", Instance)

    def output(
        self,
        task_id: str,
        stream: str = "stdout",
        *,
        instance: int | None = None,
        after: int = 0,
    ) -> Iterator[Output]:
        """What it has written from a place on, piece by piece, up to now."""
        decoder = getincrementaldecoder("utf-8")("replace")
        while True:
            query = {"stream": stream, "instance": instance, "after": after, "encoding": "base64"}
            document = self._transport.get(f"{_PATH}/{task_id}/output", query)
            piece = from_json(Output, document)
            if piece.last <= after:
                return
            # A character may begin in one piece and end in the next.
            yield replace(piece, text=decoder.decode(piece.data))
            after = piece.last

    def whole_output(
        self, task_id: str, stream: str = "stdout", *, instance: int | None = None
    ) -> Iterator[bytes]:
        """All that it has written so far, as bytes, without holding them in memory."""
        path = f"{_PATH}/{task_id}/output/{stream}"
        with self._transport.stream(path, {"instance": instance}) as answer:
            yield from answer.iter_bytes()

    def set_periodic(self, task_id: str, seconds: int, **place: object) -> Task:
        """A snapshot every so many seconds; `whitelist`, `blacklist`, `bucket`, `bucket_prefix`."""
        body = {"seconds": seconds, **place}
        return from_json(Task, self._transport.put(f"{_PATH}/{task_id}/periodic", body))

    def stop_periodic(self, task_id: str) -> None:
        self._transport.delete(f"{_PATH}/{task_id}/periodic")

    def preview(
        self,
        task_id: str,
        *,
        whitelist: str | None = None,
        blacklist: str | None = None,
        instance: int = 0,
        wait_seconds: float = 60.0,
    ) -> Preview:
        """What filters would take of a running instance now; waits for its host to look."""
        body = {"whitelist": whitelist, "blacklist": blacklist, "instance": instance}
        found = from_json(Preview, self._transport.post(f"{_PATH}/{task_id}/previews", body))
        waited = 0.0
        while found.answer is None and waited < wait_seconds:
            self._pause(0.5)
            waited += 0.5
            found = from_json(Preview, self._transport.get(f"/api/v1/task-previews/{found.id}"))
        return found

    def wait(
        self,
        task_id: str,
        *,
        report: Callable[[Task], None] = lambda _task: None,
        poll_seconds: float = 1.0,
    ) -> Task:
        """Wait until a task has ended; `report` is told of it after each look."""
        while True:
            found = self.get(task_id)
            report(found)
            if found.has_ended:
                return found
            self._pause(poll_seconds)
