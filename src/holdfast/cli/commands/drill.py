"""``holdfast drill ...``: restoring snapshots to scratch, as a test of whether they come back."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli import text
from holdfast.cli.choose import host_id, schedule_id, snapshot_id
from holdfast.cli.logs import LogOf
from holdfast.cli.runs import Starting
from holdfast.cli.verbs import Column, Doing, Listing, Showing, argument, column, size
from holdfast.errors import Damaged
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.model.finding import Finding
    from holdfast.sdk.client import Client
    from holdfast.sdk.drills import Drill

_DRILL = argument("drill", metavar="DRILL", help="an id")
_STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")


def _start(client: Client, arguments: Namespace) -> Any:
    return client.drills.create(
        snapshot_id(client, arguments.snapshot),
        host_id=host_id(client, arguments.on) if arguments.on else None,
        paths=arguments.path,
    )


def _wait(client: Client, drill: Drill, report: Any) -> Drill:
    """Wait for its end; `Damaged` where not everything came back as it was captured."""
    ended = client.drills.wait(drill, report=report)
    if ended.passed is False:
        first = next(map(_finding, ended.findings), ended.error_message or "")
        raise Damaged(
            f"the drill {ended.id} did not pass: not everything of the snapshot came back as it "
            f"was captured. {first} `holdfast drill show {ended.id}` has all findings"
        )
    return ended


def _finding(finding: Finding) -> str:
    """With the file that it is about."""
    subject = f"{text.name(finding.subject)}: " if finding.subject else ""
    return f"{subject}{finding.message}"


def result(drill: Drill) -> str:
    """Its status, or what came of it."""
    if drill.passed is None:
        return drill.status
    return "passed" if drill.passed else "NOT PASSED"


def _said(drill: Drill) -> str:
    if drill.passed is None:
        return f"drill {drill.id} is {drill.status}; `drill show` follows it"
    return (
        f"drill {drill.id} {result(drill)}: {text.count(drill.files or 0, 'file')} "
        f"({print_bytes(drill.compared_bytes or 0)}) compared, restored in {_seconds(drill)}"
    )


def _seconds(drill: Drill) -> str:
    if drill.restore_milliseconds is None:
        return ""
    return text.duration(drill.restore_milliseconds / 1000)


VERBS = {
    "start": Starting(
        "drill",
        _start,
        _wait,
        _said,
        (
            argument("snapshot", metavar="SNAPSHOT", help="an id, a name, or `latest`"),
            argument(
                "--on",
                metavar="HOST",
                default="",
                help="the machine to do it on (default: a keeper of the snapshot's region)",
            ),
            argument(
                "--path",
                metavar="PATH",
                action="append",
                default=[],
                help="only this, relative to the captured path; given again, more",
            ),
        ),
    ),
    "list": Listing(
        "drill",
        lambda client, arguments: client.drills.list(
            snapshot_id=snapshot_id(client, arguments.snapshot) if arguments.snapshot else "",
            schedule_id=schedule_id(client, arguments.schedule) if arguments.schedule else "",
            status=arguments.status or "",
        ),
        (
            Column("result", result),
            column("made", "created_at"),
            column("trigger"),
            column("files", right=True),
            size("size", "restored_bytes"),
            Column("restored in", _seconds),
            column("snapshot", "snapshot_id"),
            column("id"),
        ),
        (
            argument("--snapshot", metavar="SNAPSHOT", default="", help="only of this snapshot"),
            argument("--schedule", metavar="SCHEDULE", default="", help="only those of this one"),
            argument("--status", choices=_STATUSES, help="only those with this status"),
        ),
    ),
    "show": Showing(
        "drill",
        lambda client, arguments: client.drills.get(arguments.drill),
        (
            column("id"),
            Column("result", result),
            column("error", "error_message"),
            column("snapshot", "snapshot_id"),
            column("schedule", "schedule_id"),
            Column("machine", lambda each: each.host_id or "a keeper"),
            column("paths"),
            column("files"),
            size("restored", "restored_bytes"),
            size("compared", "compared_bytes"),
            Column("restored in", _seconds),
            column("made", "created_at"),
            column("started", "started_at"),
            column("finished", "finished_at"),
            Column("findings", lambda each: "; ".join(map(_finding, each.findings))),
        ),
        (_DRILL,),
    ),
    "cancel": Doing(
        "drill",
        lambda client, arguments: client.drills.cancel(arguments.drill),
        lambda drill, _arguments: (
            f"the drill is {drill.status}"
            + ("" if drill.status == "CANCELLED" else "; its machine will be told")
        ),
        (_DRILL,),
    ),
    "log": LogOf(_DRILL, lambda client, arguments: client.drills.log(arguments.drill)),
}
