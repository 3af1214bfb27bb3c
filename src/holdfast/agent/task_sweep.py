"""The sweep over tasks' directories: ended ones are removed, forsaken computations are ended.

A computation outlives its agent, so somebody has to end the one whose job the control plane
gave up on, and free the room of the ones whose end was heard. The control plane says so where
it knows that the job has ended. Otherwise only a job that was not handed out again counts,
through half an hour in which the control plane could be asked: much longer than the pauses
between a task's attempts. Invariant: nothing that a later attempt could still need is touched.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import structlog

from holdfast.agent.jobs.task_directory import TaskDirectory, task_directories
from holdfast.errors import HoldfastError
from holdfast.runners.choice import RunnerOptions, runner_for
from holdfast.runners.removal import remove_tree
from holdfast.runners.runner import Runner

FORSAKEN_AFTER: Final = timedelta(minutes=30)
_GRACE_SECONDS: Final = 30.0

_log = structlog.get_logger("holdfast.agent")


class TaskSweep:
    """Sweeps one host's directories. Used by one thread."""

    def __init__(self, above: str, options: RunnerOptions) -> None:
        self._above, self._options = above, options
        self._alone_since: dict[str, datetime] = {}

    def end(self, job_ids: Collection[str]) -> None:
        """End the computations of jobs that have ended; their directories stay for `sweep`."""
        for directory in task_directories(self._above):
            identity = directory.identity()
            if identity is None or identity.job_id not in job_ids:
                continue
            try:
                self._abort(directory, runner_for(identity.runner, self._options))
            except (HoldfastError, OSError) as error:
                name = directory.place.root.name
                _log.warning("computation not ended", directory=name, reason=str(error))

    def sweep(
        self, now: datetime, *, running: Collection[str], heard_since: datetime | None
    ) -> None:
        """Look at every directory once.

        `running` are the ids of jobs that are attended or still to be reported; `heard_since`
        is since when every heartbeat was heard, or None.
        """
        there: set[str] = set()
        for directory in task_directories(self._above):
            name = directory.place.root.name
            there.add(name)
            identity = directory.identity()
            if heard_since is None or (identity is not None and identity.job_id in running):
                self._alone_since.pop(name, None)
                continue
            alone_since = max(self._alone_since.setdefault(name, now), heard_since)
            if now - alone_since < FORSAKEN_AFTER:
                continue
            try:
                self._clear(directory, None if identity is None else identity.runner)
            except (HoldfastError, OSError) as error:
                _log.warning("task not swept", directory=name, reason=str(error))
            self._alone_since[name] = now
        for name in set(self._alone_since) - there:
            del self._alone_since[name]

    def _clear(self, directory: TaskDirectory, runner_name: str | None) -> None:
        name = directory.place.root.name
        if runner_name is None:
            # Never made whole, so nothing was started in it.
            remove_tree(directory.place.root)
            return
        runner = runner_for(runner_name, self._options)
        if self._abort(directory, runner):
            return
        _log.info("removing the directory of a task", directory=name)
        runner.remove(directory.place)

    def _abort(self, directory: TaskDirectory, runner: Runner) -> bool:
        """End what goes on there; whether there was something."""
        if directory.finished() is not None or runner.status(directory.place).kind != "running":
            return False
        name = directory.place.root.name
        _log.warning("ending a computation that no job asks for", directory=name)
        runner.abort(directory.place, grace_seconds=_GRACE_SECONDS)
        return True


def unfinished_computations(above: str) -> list[str]:
    """The jobs whose computations were begun on this host and are not known to have ended."""
    found = []
    for directory in task_directories(above):
        identity = directory.identity()
        if identity is not None and directory.started_at and directory.finished() is None:
            found.append(identity.job_id)
    return sorted(found)
