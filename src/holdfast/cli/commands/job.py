"""``holdfast job ...``: the work that is done and to do."""

from __future__ import annotations

from holdfast.cli.logs import LogOf
from holdfast.cli.verbs import Doing, Listing, Showing, argument, column

_JOB = argument("job", metavar="JOB", help="an id")

VERBS = {
    "list": Listing(
        "job",
        lambda client, arguments: client.jobs.list(
            state=arguments.state or "", kind=arguments.kind or "", subject_id=arguments.of
        ),
        (
            column("kind"),
            column("state"),
            column("stage"),
            column("attempt", right=True),
            column("made", "created_at"),
            column("for", "subject_id"),
            column("id"),
        ),
        (
            argument(
                "--state",
                choices=("queued", "leased", "succeeded", "failed", "cancelled"),
                help="only those in this state",
            ),
            argument(
                "--kind",
                choices=(
                    "backup",
                    "restore",
                    "drill",
                    "copy",
                    "verify",
                    "remove",
                    "prune",
                    "measure",
                    "reconcile",
                ),
                help="only those of this kind",
            ),
            argument("--of", metavar="ID", default="", help="only those for this snapshot"),
        ),
    ),
    "show": Showing(
        "job",
        lambda client, arguments: client.jobs.get(arguments.job),
        (
            column("id"),
            column("kind"),
            column("state"),
            column("stage"),
            column("progress"),
            column("for", "subject_id"),
            column("machine", "host_id"),
            column("attempt"),
            column("of at most", "max_attempts"),
            column("made", "created_at"),
            column("started", "started_at"),
            column("finished", "finished_at"),
            column("not before"),
            column("to be cancelled since", "cancel_requested_at"),
            column("error", "error_message"),
        ),
        (_JOB,),
    ),
    "cancel": Doing(
        "job",
        lambda client, arguments: client.jobs.cancel(arguments.job),
        lambda job, _arguments: (
            f"the job is {job.state}"
            + ("" if job.state == "cancelled" else "; its machine will be told")
        ),
        (_JOB,),
    ),
    "log": LogOf(_JOB, lambda client, arguments: client.jobs.log(arguments.job)),
}
