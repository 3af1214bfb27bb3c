"""What happens to a job, carried into the catalog: one module for each kind of job.

Called by `job_end` and `job_claim` in the transaction that changes the job's state, and by
nothing else; so each consequence happens exactly once. The modules are loaded when they are
needed, because the catalog services that they call make jobs themselves.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from holdfast.control.completion.report import Report
from holdfast.control.database import Tx
from holdfast.control.tables import Job

KINDS: Final = (
    "backup",
    "restore",
    "drill",
    "copy",
    "task",
    "verify",
    "remove",
    "prune",
    "measure",
    "reconcile",
)


class Consequences(Protocol):
    """What a kind's module has. The job's new state is in its row already."""

    def complete(self, tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
        """The job succeeded. `UsageError` where its result says too little."""

    def abandon(self, tx: Tx, job: Job, *, now: datetime) -> None:
        """The job failed for good or was cancelled."""


class Run(Consequences, Protocol):
    """A kind that people watch as it runs."""

    def started(self, tx: Tx, job: Job, *, now: datetime) -> None:
        """A host has taken it; also called for each later attempt."""

    def requeued(self, tx: Tx, job: Job, *, now: datetime) -> None:
        """An attempt came to nothing and another one will be made."""


def lock_ahead(tx: Tx, job: Job) -> None:
    """Lock what has to be locked before the job itself, when it is about to succeed.

    Everything locks in the order host, schedule, job, task, repository, snapshots, sources,
    account, and then what is in buckets (see `buckets`); who keeps to it can wait for others
    but never in a circle.
    """
    if job.kind == "backup":
        from holdfast.control.completion import backup

        backup.lock_ahead(tx, job)


def lock_behind(tx: Tx, job: Job) -> None:
    """Lock what comes behind the locked job, for one who goes on to lock the account."""
    if job.kind == "task":
        from holdfast.control.completion import task

        task.lock_behind(tx, job)


def complete(tx: Tx, job: Job, report: Report, *, now: datetime) -> None:
    _consequences(job.kind).complete(tx, job, report, now=now)


def abandon(tx: Tx, job: Job, *, now: datetime) -> None:
    _consequences(job.kind).abandon(tx, job, now=now)


def started(tx: Tx, job: Job, *, now: datetime) -> None:
    if run := _run(job.kind):
        run.started(tx, job, now=now)


def requeued(tx: Tx, job: Job, *, now: datetime) -> None:
    if run := _run(job.kind):
        run.requeued(tx, job, now=now)


def _run(kind: str) -> Run | None:
    from holdfast.control.completion import backup, copy, drill, restore, task

    runs: dict[str, Run] = {
        "backup": backup,
        "restore": restore,
        "drill": drill,
        "copy": copy,
        "task": task,
    }
    return runs.get(kind)


def _consequences(kind: str) -> Consequences:
    from holdfast.control.completion import measure, prune, reconcile, remove, verify

    if run := _run(kind):
        return run
    upkeep: dict[str, Consequences] = {
        "verify": verify,
        "remove": remove,
        "prune": prune,
        "measure": measure,
        "reconcile": reconcile,
    }
    return upkeep[kind]
