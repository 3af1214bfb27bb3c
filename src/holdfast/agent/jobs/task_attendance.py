"""The attendance of one instance: its output, orders, snapshots, time limit and end.

The computation belongs to its runner and lives on without this; another attempt attends it
again. Invariants: a computation is ended only by an order, its time limit or a cancelled
job; an end that was noted down is reported the same by every later attempt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from holdfast.agent.jobs.context import JobContext, JobEnd, limited
from holdfast.agent.jobs.side_work import Done, SideWork
from holdfast.agent.jobs.task_captures import CapturePlan
from holdfast.agent.jobs.task_capturing import Captured, OpenedCapturer, opened_capturer
from holdfast.agent.jobs.task_command import command_of
from holdfast.agent.jobs.task_directory import TaskDirectory
from holdfast.agent.jobs.task_inputs_renewal import InputsRenewal
from holdfast.agent.jobs.task_notebook import Notebook
from holdfast.agent.jobs.task_output import TaskOutput
from holdfast.agent.jobs.task_previews import TaskPreviews
from holdfast.agent.jobs.task_snapshots import TaskSnapshots
from holdfast.agent.jobs.task_spec import TaskSpec
from holdfast.agent.jobs.task_start import StartRefused, prepare, start
from holdfast.agent.mailbox import CANCELLED, Mailbox
from holdfast.errors import HoldfastError, RunnerError, RunnerUnavailable, UsageError
from holdfast.model.finding import Finding
from holdfast.runners.runner import Runner, RunnerStatus

TIME_LIMIT: Final = "time_limit"
EXECUTING: Final = "executing"
_LIMIT_KEPT: Final = frozenset({"limit_kept_late", "slurm_time_limit"})
"""Codes of runners' notes that they have ended the computation at its time limit."""

_ENDS_SOON: Final = frozenset({"slurm_time_limit_near"})
"""Codes of runners' notes that they will end the computation soon."""

_TURN_SECONDS: Final = 0.25
_LONGEST_LOOK_SECONDS: Final = 5.0
_CANCEL_GRACE_SECONDS: Final = 5.0
_REASON_SECONDS: Final = 2.0


class AbortWanted(Exception):
    """The task is to be aborted, and nothing runs yet."""


class Attendance:
    """One attempt at one instance. `run` returns its end; then nothing is left to be told."""

    def __init__(
        self,
        context: JobContext,
        spec: TaskSpec,
        *,
        directory: TaskDirectory,
        runner: Runner,
        mailbox: Mailbox,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._context, self._spec, self._directory = context, spec, directory
        self._runner, self._mailbox, self._clock = runner, mailbox, clock
        self._notebook = Notebook(directory, mailbox)
        place = directory.place
        self._outputs = [
            TaskOutput(mailbox, stream, file, self._notebook.heard.get(stream, 0))
            for stream, file in (("stdout", place.stdout), ("stderr", place.stderr))
        ]
        job, within = os.fsencode(place.job), directory.within
        self._capturing: SideWork[OpenedCapturer] = SideWork(
            "captures", lambda: opened_capturer(context, spec, job, within=within)
        )
        self._previews = TaskPreviews(mailbox, job, within=within)
        self._renewal = InputsRenewal(
            context, spec, self._notebook, job, aside=directory.incoming, find=self._find
        )
        self._findings: dict[tuple[str, str], Finding] = {}
        self._aborted = False
        self._status = RunnerStatus(kind="running")
        self._look_at = 0.0
        self._told = ""
        self._last_ones_for: set[str] = set()

    def run(self) -> JobEnd:
        self._notebook.tell_again()
        finished = self._directory.finished()
        if finished is None:
            try:
                self._begin()
            except StartRefused as refused:
                error = {"code": refused.code, "message": refused.message}
                finished = self._finish(self._result("failure", error=error))
            except AbortWanted:
                finished = self._finish(self._result("cancelled"))
            else:
                finished = self._attend()
        self._say_the_rest()
        return JobEnd(dict(finished["result"]), limited(map(_finding, finished["findings"])))

    def leave(self) -> None:
        """Stop attending; where the job itself was cancelled, end the computation, too."""
        self._renewal.stop(wait_seconds=_REASON_SECONDS)
        self._capturing.stop()
        until = time.monotonic() + _REASON_SECONDS
        while not self._mailbox.stop and time.monotonic() < until:
            self._mailbox.wait(0.05)
        if self._mailbox.stop == CANCELLED and self._directory.finished() is None:
            if self._directory.started_at is not None:
                self._runner.abort(self._directory.place, grace_seconds=_CANCEL_GRACE_SECONDS)
            self._finish(self._result("cancelled"))
        else:
            self._notebook.save()

    # The beginning

    def _begin(self) -> None:
        """Start the computation, or find the one that an attempt before has started."""
        place = self._directory.place
        started = self._directory.started_at is not None
        status = self._runner.status(place) if started else None
        if status is None or status.kind == "none":
            self._say_state("preparing", self._clock())
            self._context.stage("preparing")
            for finding in prepare(
                self._context, self._spec, self._directory, self._runner, check=self._check
            ):
                self._find(finding)
            self._check()
            start(self._context, self._spec, self._directory, self._runner, now=self._clock())
        else:
            self._context.say("info", "The computation was started before; attending it again.")

    def _check(self) -> None:
        if self._mailbox.orders().get("abort"):
            raise AbortWanted

    # Attending

    def _attend(self) -> dict[str, Any]:
        began = self._directory.started_at or self._clock()
        plan = CapturePlan(
            self._spec.task_id,
            self._spec.number,
            begins_at=began,
            last_slot=self._notebook.last_slot,
            done=self._notebook.done,
        )
        snapshots = TaskSnapshots(
            self._context,
            self._mailbox,
            self._notebook,
            plan,
            self._capturing,
            freeze=self._frozen,
        )
        while not self._has_ended():
            orders, now = self._mailbox.orders(), self._clock()
            self._turn(snapshots, orders, now)
            self._obey(snapshots, orders, now)
            self._mailbox.wait(_TURN_SECONDS)
        self._renewal.stop()
        self._say_state("uploading", self._clock())
        snapshots.computation_ended()
        self._say_the_rest(snapshots)
        return self._finish(*self._end(snapshots))

    def _turn(
        self, snapshots: TaskSnapshots | None, orders: Mapping[str, Any], now: datetime
    ) -> bool:
        """Pass on what is new; return whether output waits for its turn."""
        behind = [output.send() for output in self._outputs]
        for output in self._outputs:
            self._notebook.heard[output.stream] = output.heard_bytes
            if output.is_cut:
                self._find(output.finding)
        if snapshots is not None:
            snapshots.act(orders, now, runs_since=self._status.started_at)
            self._previews.act(orders)
            self._renewal.act(orders)
        self._notebook.settle()
        if self._notebook.trouble is not None:
            self._find(self._notebook.trouble)
        return any(behind)

    def _obey(
        self,
        snapshots: TaskSnapshots,
        orders: Mapping[str, Any],
        now: datetime,
    ) -> None:
        if self._notebook.ending or orders.get("abort"):
            self._abort(self._notebook.ending or CANCELLED)
            return
        late = self._is_late(now)
        soon = {note.code for note in self._status.notes} & _ENDS_SOON
        reasons = soon | {TIME_LIMIT} if late else soon
        if not reasons <= self._last_ones_for:
            # What was still computed is in a snapshot, whatever the results' filters say. A
            # notice may come long before the limit, so at the limit it is taken once more.
            snapshots.last_ones(orders, now)
        elif late and snapshots.is_idle:
            self._abort(TIME_LIMIT)
        # Of a job that was begun again each counts anew. A notice may come before the orders.
        if late or orders.get("periodic") or not reasons:
            self._last_ones_for = reasons

    def _is_late(self, now: datetime) -> bool:
        """Whether the time limit has passed; waiting in a batch system's queue costs no time."""
        limit, began = _limit(self._spec), self._status.started_at
        return limit is not None and began is not None and now >= began + timedelta(seconds=limit)

    def _abort(self, why: str) -> None:
        if self._aborted:
            return
        self._notebook.ending = why
        self._notebook.save()
        try:
            self._runner.abort(self._directory.place, grace_seconds=self._spec.grace_seconds)
        except RunnerError as error:
            if not error.retryable:
                raise
            self._context.say("warning", error.message)
            return  # the next turn tries again
        self._aborted = True

    def _has_ended(self) -> bool:
        """Look how the computation stands; rarely where looking takes long."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        try:
            self._status = self._runner.status(self._directory.place)
        except RunnerUnavailable as error:
            self._find(Finding("runner_silent", error.message, self._runner.name))
            self._look_at = now + _LONGEST_LOOK_SECONDS
            return False
        took = time.monotonic() - now
        self._look_at = now + min(10 * took, _LONGEST_LOOK_SECONDS)
        for note in self._status.notes:
            self._find(note)
        self._say_where_it_stands()
        return self._status.kind != "running"

    def _frozen(self) -> AbstractContextManager[object]:
        return self._runner.freeze(self._directory.place)

    # The end

    def _end(self, snapshots: TaskSnapshots) -> tuple[dict[str, Any], list[Finding]]:
        outcome, error = self._outcome()
        found: list[Finding] = []
        results = None
        wanted = self._spec.results
        if wanted.snapshot_id is not None and (outcome != CANCELLED or wanted.on_cancel):
            ended: list[Done] = []
            snapshots.take_results(wanted.snapshot_id, wanted.filters, ended.append)
            while not ended:
                self._capturing.poll()
                self._turn(None, self._mailbox.orders(), self._clock())
                self._mailbox.wait(_TURN_SECONDS)
            try:
                captured = _value(ended[0])
            except HoldfastError as failure:
                if failure.retryable:
                    raise
                outcome = "failure"
                error = error or {"code": failure.code, "message": failure.message}
            else:
                results, found = captured.result, list(captured.findings)
        return self._result(outcome, error=error, results=results), found

    def _outcome(self) -> tuple[str, dict[str, str] | None]:
        status, ending = self._status, self._notebook.ending
        if ending == CANCELLED:
            return "cancelled", None
        if ending == TIME_LIMIT or any(note.code in _LIMIT_KEPT for note in status.notes):
            limit = _limit(self._spec)
            return "failure", _error(
                TIME_LIMIT,
                f"The time limit of {limit} s was reached, and the computation was ended; give "
                "the task more time, or start a new one from its last snapshot.",
            )
        if status.kind != "ended" or status.exit_code is None:
            return "failure", _error(
                "runner_lost",
                "The computation is gone and nobody knows how it ended; the host may have been "
                "restarted. Start a new task from the last snapshot.",
            )
        if status.exit_code == 0:
            return "success", None
        return "failure", _error(
            "command_failed",
            f"The command ended with status {status.exit_code}; its output says why.",
        )

    def _result(
        self,
        outcome: str,
        *,
        error: dict[str, str] | None = None,
        results: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        began = self._status.started_at
        frozen = self._notebook.frozen_seconds + float((results or {}).get("frozen_seconds", 0.0))
        return {
            "outcome": outcome,
            "exit_code": self._status.exit_code if self._status.kind == "ended" else None,
            "error": error,
            "started_at": None if began is None else began.isoformat(),
            "ended_at": (self._status.ended_at or self._clock()).isoformat(),
            "frozen_seconds": frozen,
            "snapshots_taken": self._notebook.snapshots_taken,
            "results": results,
        }

    def _finish(
        self, result: dict[str, Any], findings: list[Finding] | None = None
    ) -> dict[str, Any]:
        """Note the end down; from here on every attempt reports the same."""
        found = [*self._findings.values(), *(findings or ())]
        finished = {"result": result, "findings": [each.as_dict() for each in found]}
        self._notebook.save()
        try:
            self._directory.set_finished(finished)
        except OSError as error:
            self._context.say("warning", f"The end cannot be noted down: {error.strerror}.")
        return finished

    # What is said

    def _say_the_rest(self, snapshots: TaskSnapshots | None = None) -> None:
        """Wait until all output and every message was heard, and all captures are done.

        Without an end of its own: an attempt that nobody hears ends with its lease.
        """
        while True:
            orders, now = self._mailbox.orders(), self._clock()
            behind = self._turn(snapshots, orders, now)
            idle = snapshots is None or snapshots.is_idle
            if idle and not behind and self._mailbox.wait_until_heard(_TURN_SECONDS):
                # What was ordered while the last words were on their way is done, too.
                self._turn(snapshots, self._mailbox.orders(), self._clock())
                if (snapshots is None or snapshots.is_idle) and not self._mailbox.unheard():
                    return
                continue
            self._mailbox.wait(_TURN_SECONDS)

    def _say_where_it_stands(self) -> None:
        """Say once that the command executes, and until then, where it waits."""
        status = self._status
        state = EXECUTING if status.started_at is not None else "preparing"
        if self._told in {state, EXECUTING}:
            return
        self._told = state
        if status.started_at is not None:
            self._context.stage(state)
        self._say_state(state, status.started_at or self._clock(), status.reference)

    def _say_state(self, state: str, at: datetime, reference: str | None = None) -> None:
        message = {"type": "state", "state": state, "at": at.isoformat()}
        message["runner"] = self._runner.name
        if reference is not None:
            message["reference"] = reference
        self._mailbox.send(message)

    def _find(self, finding: Finding) -> None:
        """Tell a finding, once."""
        key = (finding.code, finding.subject)
        if key not in self._findings:
            self._findings[key] = finding
            self._mailbox.send({"type": "finding", "finding": finding.as_dict()})


def _limit(spec: TaskSpec) -> int | None:
    try:
        return command_of(spec).time_limit_seconds
    except UsageError:
        return spec.time_limit_seconds


def _finding(noted: Mapping[str, str]) -> Finding:
    return Finding(noted["code"], noted["message"], noted["subject"])


def _value(done: Done) -> Captured:
    if done.error is not None:
        raise done.error
    assert isinstance(done.value, Captured)
    return done.value


def _error(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
