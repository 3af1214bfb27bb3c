"""The beginning of an instance: its directory, the state it starts from, its inputs, its start.

An attempt that finds a beginning that was not finished makes it anew. Invariants: the start
is noted down before it is asked for, so that no attempt can start a second computation
without knowing of the first; nothing runs before everything was copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext
from holdfast.agent.jobs.task_command import command_of
from holdfast.agent.jobs.task_directory import Identity, TaskDirectory
from holdfast.agent.jobs.task_inputs import fetch_inputs
from holdfast.agent.jobs.task_spec import Beginning, TaskSpec
from holdfast.errors import HoldfastError, NotFound, TargetFull, UsageError
from holdfast.flows.locate import normal_path
from holdfast.flows.restore import plan_restore, restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report
from holdfast.model.task import JOB_DIRECTORY
from holdfast.runners.runner import Runner
from holdfast.sources.path.restore_plan import RestoreOptions


class StartRefused(Exception):
    """An instance that cannot begin, with the code and the words that its task shows."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def prepare(
    context: JobContext,
    spec: TaskSpec,
    directory: TaskDirectory,
    runner: Runner,
    *,
    check: Callable[[], None],
) -> tuple[Finding, ...]:
    """Make the directory and fill it; `check` is called often, and may raise to stop.

    Raises `StartRefused` where that is final, other errors where another attempt may help.
    """
    if directory.is_prepared:
        return ()
    identity = Identity(context.job_id, spec.instance_id, spec.task_id, runner.name)
    try:
        directory.make(identity)
        target = os.fsencode(directory.place.job)
        if spec.starts_from is not None:
            _restore(context, spec.starts_from, target, check)
        findings: tuple[Finding, ...] = ()
        if spec.inputs:
            aside = directory.incoming
            fetched = fetch_inputs(context, spec.inputs, target, aside=aside, check=check)
            context.say("info", f"Copied {fetched.objects} objects, {fetched.copied_bytes} bytes.")
            findings = fetched.findings
    except NotFound as error:
        raise StartRefused("input_missing", error.message) from error
    except HoldfastError as error:
        if error.retryable:
            raise
        raise StartRefused(error.code, error.message) from error
    except OSError as error:
        raise StartRefused(
            "start_failed",
            f"The directory for the task cannot be made on the host: {error.strerror}.",
        ) from error
    directory.set_prepared()
    return findings


def start(
    context: JobContext,
    spec: TaskSpec,
    directory: TaskDirectory,
    runner: Runner,
    *,
    now: datetime,
) -> str:
    """Have the command started; return what the runner calls it. Raises as `prepare` does."""
    try:
        command = command_of(spec)
    except UsageError as error:
        raise StartRefused("start_failed", error.message) from error
    try:
        if directory.started_at is None:
            directory.set_started(now)
        return runner.start(directory.place, command, report=lambda line: context.say("info", line))
    except HoldfastError as error:
        if error.retryable:
            raise
        raise StartRefused(error.code, error.message) from error
    except OSError as error:
        raise StartRefused(
            "start_failed", f"The start cannot be noted down on the host: {error.strerror}."
        ) from error


def _restore(
    context: JobContext, beginning: Beginning, target: bytes, check: Callable[[], None]
) -> None:
    with context.opened_repository() as repository:
        request = RestoreRequest(
            snapshot=beginning.manifest_id,
            target=target,
            path=normal_path(os.fsencode(beginning.path or "/")),
            options=RestoreOptions(within=target),
            root_metadata=False,
            sync=True,
            workers=context.workers,
            wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
        )
        plan = plan_restore(repository, request)
        if not plan.fits:
            raise TargetFull(
                f"The host has {plan.free_bytes} bytes free for tasks and the snapshot needs "
                f"{plan.plan.needed_bytes}; free some there, or start from a smaller one."
            )
        result = restore(repository, request, _checked(context.stage("restoring"), check), plan)
    context.say(
        "info",
        f"Restored {result.counts.files} files, {result.counts.bytes_written} bytes to "
        f"{JOB_DIRECTORY}.",
    )


def _checked(report: Report, check: Callable[[], None]) -> Report:
    def checking(progress: Progress) -> None:
        check()
        report(progress)

    return checking
