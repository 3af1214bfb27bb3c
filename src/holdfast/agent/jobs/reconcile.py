"""A reconciliation: which snapshots the catalog and the repository do not have in common."""

from __future__ import annotations

from datetime import datetime

from holdfast.agent.jobs.context import JobContext, JobEnd, limited
from holdfast.errors import UsageError
from holdfast.flows.reconcile import compare, job_of


def run(context: JobContext) -> JobEnd:
    with context.opened_repository() as repository:
        context.stage("comparing")
        found = compare(repository, context.texts("known"), older_than=_moment(context))
    for snapshot in found.orphans:
        context.say(
            "warning",
            f"Snapshot {snapshot.short_id} of {snapshot.time:%Y-%m-%d %H:%M:%S} belongs to no "
            "run that counted.",
        )
    context.say(
        "info",
        f"{len(found.missing)} snapshots are missing, {len(found.orphans)} are unknown, "
        f"{len(found.young)} unknown ones are too young to judge.",
    )
    orphans = {snapshot.id: job_of(snapshot) for snapshot in found.orphans}
    return JobEnd(
        {"missing": list(found.missing), "orphans": orphans, "young": list(found.young)},
        limited(found.findings),
    )


def _moment(context: JobContext) -> datetime:
    try:
        moment = datetime.fromisoformat(context.text("older_than"))
    except ValueError:
        raise UsageError("older_than is no time; is the server of another version?") from None
    if moment.tzinfo is None:
        raise UsageError("older_than has no time zone; is the server of another version?")
    return moment
