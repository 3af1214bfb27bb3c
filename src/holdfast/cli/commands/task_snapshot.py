"""``holdfast task-snapshot ...``: one snapshot of a task, and what is in it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.choose import task_part_id, task_snapshot_of
from holdfast.cli.contents import Compare, Download
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.task_runs import seen_in
from holdfast.cli.verbs import (
    Column,
    Doing,
    argument,
    column,
    declare,
    details,
    document_of,
    given,
    size,
    table,
)
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_SNAPSHOT = argument("snapshot", metavar="SNAPSHOT", help="its id")
_MEANS = "an id, with #NUMBER for one of several instances"


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = given(label=arguments.label, notes=arguments.notes)
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast task-snapshot edit --help`")
    chosen = task_snapshot_of(client, arguments.snapshot)
    return client.task_snapshots.edit(chosen.id, **changes)


_DETAILS = (
    column("id"),
    column("label"),
    column("notes"),
    column("status"),
    column("trigger"),
    column("slot", "slot_at"),
    column("taken", "triggered_at"),
    column("task", "task_id"),
    column("whitelist"),
    column("blacklist"),
    Column("seen in", seen_in),
    size("size", "bytes_total"),
    size("done", "bytes_done"),
    Column("findings", lambda each: "; ".join(e.message for e in each.findings)),
)
_PARTS = (
    column("instance", right=True),
    column("status"),
    column("captured", "captured_at"),
    column("consistency"),
    column("files", right=True),
    size("size", "logical_bytes"),
    size("stored", "stored_bytes"),
    column("error", "error_message"),
    column("id"),
)


class Show:
    """``task-snapshot show``: the snapshot, and a line for each instance's part of it."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_SNAPSHOT,))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            found = task_snapshot_of(client, arguments.snapshot)
        return Outcome(
            document_of("task-snapshot", found),
            answer=[*details(_DETAILS, found), "", *table(_PARTS, found.parts)],
        )


VERBS = {
    "show": Show(),
    "edit": Doing(
        "task-snapshot",
        _edit,
        lambda snapshot, _arguments: f"changed {snapshot.id}",
        (
            _SNAPSHOT,
            argument("--label", metavar="LABEL", help="a few words to know it by"),
            argument("--notes", metavar="TEXT", help="what is to be known about it"),
        ),
    ),
    "delete": Doing(
        "task-snapshot",
        lambda client, arguments: client.task_snapshots.delete(
            task_snapshot_of(client, arguments.snapshot).id
        ),
        lambda _snapshot, _arguments: (
            "deleted; `snapshot recover` takes its parts back for a while"
        ),
        (_SNAPSHOT,),
        asks=lambda arguments: f"delete the snapshot {arguments.snapshot}?",
    ),
    "download": Download(task_part_id, _MEANS),
    "diff": Compare(task_part_id, _MEANS),
}
