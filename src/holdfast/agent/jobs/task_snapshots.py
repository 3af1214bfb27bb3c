"""The snapshots of a running instance: which one now, how it goes, how it ended.

It decides with the plan, has the capturing thread do it, and tells the control plane through
the notebook. Used by one thread. Invariants: every snapshot that was begun is reported to
have ended, in this attempt or the next; a failed one costs the computation nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from holdfast.agent.jobs.context import JobContext
from holdfast.agent.jobs.side_work import Done, SideWork
from holdfast.agent.jobs.task_captures import PERIODIC, CapturePlan, WantedCapture
from holdfast.agent.jobs.task_capturing import Captured, OpenedCapturer
from holdfast.agent.jobs.task_notebook import Notebook
from holdfast.agent.jobs.task_spec import Filters
from holdfast.agent.mailbox import Mailbox
from holdfast.errors import HoldfastError
from holdfast.flows.task_capture import Freeze
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress

_PROGRESS_SECONDS: Final = 1.0
_FINDINGS_BYTES: Final = 128 << 10


class TaskSnapshots:
    """One instance's. `freeze` holds the computation still; it is not asked once it has ended."""

    def __init__(
        self,
        context: JobContext,
        mailbox: Mailbox,
        notebook: Notebook,
        plan: CapturePlan,
        capturing: SideWork[OpenedCapturer],
        *,
        freeze: Freeze,
    ) -> None:
        self._context, self._mailbox, self._notebook = context, mailbox, notebook
        self._plan, self._capturing = plan, capturing
        self._freeze: Freeze | None = freeze
        self._next: deque[WantedCapture] = deque()
        self._busy_since: datetime | None = None
        self._adopting = notebook.under_way()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing has been put in front."""
        return not self._capturing.is_busy and not self._next and self._adopting is None

    def computation_ended(self) -> None:
        """From now on nothing needs to be held still, and no slot comes any more."""
        self._freeze = None

    def act(self, orders: Mapping[str, Any], now: datetime, *, runs_since: datetime | None) -> None:
        """Tell of what has ended, and begin what is due.

        `runs_since` is None while the command waits to begin. Then nothing changes, and only
        who asks for a snapshot gets one.
        """
        if runs_since is None:
            orders = {**orders, "periodic": None}
        else:
            self._plan.begin(runs_since)
        self._capturing.poll()
        if not self._capturing.is_busy:
            self._begin_what_waits(now)
        if self._freeze is not None:
            decision = self._plan.decide(orders, now, busy_since=self._busy_since)
            for skipped in decision.skipped:
                self._notebook.ended(
                    skipped.wanted,
                    skipped.wanted.message("skipped", findings=[skipped.finding.as_dict()]),
                )
            self._notebook.last_slot = self._plan.last_slot
            if decision.begin is not None:
                self._begin(decision.begin, now)
        elif not self._capturing.is_busy:
            wanted = next(self._plan.manual(orders), None)
            if wanted is not None:
                self._begin(wanted, now)

    def _begin_what_waits(self, now: datetime) -> None:
        if self._adopting is not None:
            wanted, self._adopting = self._adopting, None
            self._begin(wanted, now, only_adopt=wanted.trigger == PERIODIC)
        elif self._next:
            self._begin(self._next.popleft(), now)

    def last_ones(self, orders: Mapping[str, Any], now: datetime) -> None:
        """Put in front what is to be taken before the computation is ended."""
        self._next.extend(self._plan.manual(orders))
        periodic = self._plan.last(orders, now)
        if periodic is not None:
            self._next.append(periodic)
        self._notebook.last_slot = self._plan.last_slot
        # They are not to be decided upon a second time.
        self._plan.done.update(each.snapshot_id for each in self._next)

    def take_results(
        self, snapshot_id: str, filters: Filters, then: Callable[[Done], None]
    ) -> None:
        """Capture the final results; `then` is told how that ended. Only where all is idle."""
        report = self._context.stage("uploading")
        act = partial(
            OpenedCapturer.capture,
            snapshot_id=snapshot_id,
            filters=filters,
            freeze=None,
            report=self._capturing.checked(report),
        )
        self._capturing.begin(act, then)

    # One capture

    def _begin(self, wanted: WantedCapture, now: datetime, *, only_adopt: bool = False) -> None:
        self._busy_since = now
        self._plan.done.add(wanted.snapshot_id)
        self._notebook.begins(wanted)
        number = self._mailbox.send(wanted.message("inProgress"))
        act = partial(
            OpenedCapturer.capture,
            snapshot_id=wanted.snapshot_id,
            filters=wanted.filters,
            freeze=self._freeze,
            only_adopt=only_adopt,
            report=self._capturing.checked(_ProgressMessages(self._mailbox, wanted, number)),
        )
        self._capturing.begin(act, partial(self._end, wanted))

    def _end(self, wanted: WantedCapture, done: Done) -> None:
        self._busy_since = None
        error = done.error
        if error is not None:
            if isinstance(error, HoldfastError):
                code, words = error.code, error.message
            else:
                code, words = "unexpected", f"unexpected {type(error).__name__}: {error}"
            self._context.say("error", f"A snapshot failed: {words}")
            self._notebook.ended(
                wanted, wanted.message("failure", error={"code": code, "message": words})
            )
            return
        captured: Captured = done.value
        self._notebook.frozen_seconds += float(captured.result["frozen_seconds"])
        self._notebook.snapshots_taken += 1
        size = int(captured.result["logical_bytes"])
        self._notebook.ended(
            wanted,
            wanted.message(
                "success",
                bytes_total=size,
                bytes_done=size,
                result=captured.result,
                findings=_told(captured.findings),
            ),
        )


def _told(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """As many findings as one message can carry; one more says how many were left out."""
    told: list[dict[str, str]] = []
    room = _FINDINGS_BYTES
    for each in findings:
        room -= len(each.message) + len(each.subject) + len(each.code)
        if room < 0:
            message = f"{len(findings) - len(told)} more findings are in the snapshot"
            return [*told, Finding("findings_omitted", message).as_dict()]
        told.append(each.as_dict())
    return told


class _ProgressMessages:
    """Tells how a capture goes: once a second at most, and not while the last was not heard."""

    def __init__(self, mailbox: Mailbox, wanted: WantedCapture, number: int) -> None:
        self._mailbox, self._wanted, self._number = mailbox, wanted, number
        self._at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._at < _PROGRESS_SECONDS or not self._mailbox.is_heard(self._number):
            return
        self._at = now
        self._number = self._mailbox.send(
            self._wanted.message(
                "inProgress", bytes_total=progress.bytes_total, bytes_done=progress.bytes_done
            )
        )
