"""A task: one instance of a computation, attended for as long as it runs.

The first attempt prepares the directory and starts the command; a later one finds what the
one before it has left: it goes on preparing, attends what runs, or reports the same end
again. Whatever the command does, the job has succeeded when its end could be reported.
"""

from __future__ import annotations

import os

from holdfast.agent.jobs.context import JobContext, JobEnd
from holdfast.agent.jobs.task_attendance import Attendance
from holdfast.agent.jobs.task_command import runner_name
from holdfast.agent.jobs.task_directory import TaskDirectory
from holdfast.agent.jobs.task_spec import task_spec
from holdfast.errors import UsageError
from holdfast.runners.choice import runner_for


def run(context: JobContext) -> JobEnd:
    spec = task_spec(context.spec)
    mailbox = context.mailbox
    if mailbox is None:
        raise UsageError("A task needs a mailbox; it can only be run by an agent.")
    try:
        runner = runner_for(runner_name(spec), context.runners)
    except UsageError as error:
        return _unknown(error)
    above = context.task_directory or os.path.join(context.state_directory, "tasks")
    directory = TaskDirectory(above, spec.instance_id)
    attendance = Attendance(context, spec, directory=directory, runner=runner, mailbox=mailbox)
    try:
        return attendance.run()
    except KeyboardInterrupt:
        attendance.leave()
        raise


def _unknown(error: UsageError) -> JobEnd:
    return JobEnd(
        {
            "outcome": "failure",
            "exit_code": None,
            "error": {"code": "profile_unknown", "message": error.message},
            "started_at": None,
            "ended_at": None,
            "frozen_seconds": 0.0,
            "snapshots_taken": 0,
            "results": None,
        }
    )
