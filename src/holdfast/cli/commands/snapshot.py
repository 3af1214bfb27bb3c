"""``holdfast snapshot ...``: the runs and restore points of a server."""

from __future__ import annotations

from argparse import Namespace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from holdfast.cli import text, values
from holdfast.cli.choose import (
    host_id,
    region_id,
    schedule_id,
    snapshot_id,
    snapshot_of,
    source_id,
)
from holdfast.cli.contents import Browse, Compare, Download
from holdfast.cli.logs import LogOf
from holdfast.cli.parser import value_of
from holdfast.cli.runs import Starting, restore_said, snapshot_said
from holdfast.cli.verbs import (
    Column,
    Doing,
    Listing,
    Showing,
    argument,
    column,
    given,
    labels,
    shown,
    size,
)
from holdfast.errors import NotFound, UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.snapshots import Snapshot

_SNAPSHOT = argument("snapshot", metavar="SNAPSHOT", help="an id, a name, or `latest`")
_STATUSES = (
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "SKIPPED",
    "EXPIRED",
    "DELETED",
)


def _last_drill(snapshot: Snapshot) -> str:
    drill = snapshot.drill
    if not drill:
        return ""
    outcome = "passed" if drill.get("passed") else "NOT PASSED"
    part = " (chosen paths only)" if drill.get("partial") else ""
    began = shown(datetime.fromisoformat(str(drill["at"])))
    return f"{outcome}{part}, {began}, restored in {text.duration(drill['restore_seconds'])}"


_DETAILS = (
    column("id"),
    column("name"),
    column("description"),
    column("labels"),
    column("status"),
    column("error", "error_message"),
    column("trigger"),
    column("slot", "slot_at"),
    column("source", "source_id"),
    column("schedule", "schedule_id"),
    column("machine", "host_id"),
    column("region", "region_id"),
    column("copy of", "copy_of_id"),
    column("captured", "captured_at"),
    column("finished", "finished_at"),
    column("consistency"),
    column("files"),
    size("size", "logical_bytes"),
    size("read", "read_bytes"),
    size("stored anew", "stored_bytes"),
    size("share of what is stored", "share_bytes"),
    size("freed if deleted", "freed_bytes"),
    column("verified", "verified_at"),
    Column("last drill", _last_drill),
    column("proven", "proven_at"),
    column("kept because", "kept_because"),
    column("removed", "removed_at"),
    column("removed because", "removed_because"),
    column("data goes", "purge_at"),
    column("data gone", "purged_at"),
    column("in the repository", "manifest_id"),
    Column("findings", lambda each: "; ".join(finding.message for finding in each.findings)),
)


def _list(client: Client, arguments: Namespace) -> Any:
    return client.snapshots.list(
        source_id=source_id(client, arguments.source) if arguments.source else "",
        host_id=host_id(client, arguments.host) if arguments.host else "",
        schedule_id=schedule_id(client, arguments.schedule) if arguments.schedule else "",
        copy_of=snapshot_id(client, arguments.copy_of) if arguments.copy_of else "",
        copies=arguments.copies,
        status=arguments.status or "",
        search=arguments.search,
        label=arguments.label,
        since=arguments.since,
        until=arguments.until,
    )


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = given(name=arguments.name, description=arguments.description)
    if arguments.label is not None:
        changes["labels"] = labels(arguments.label)
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast snapshot edit --help`")
    return client.snapshots.edit(snapshot_id(client, arguments.snapshot), **changes)


def _release(client: Client, arguments: Namespace) -> Any:
    chosen = snapshot_id(client, arguments.snapshot)
    standing = [each for each in client.snapshots.holds(chosen) if each.released_at is None]
    if arguments.hold:
        standing = [each for each in standing if each.id == arguments.hold]
    if not standing:
        raise NotFound("There is no such hold on this snapshot, or it was released already.")
    if len(standing) > 1 and not arguments.all:
        listed = "; ".join(f"{each.id}: {each.reason}" for each in standing)
        raise UsageError(f"There are several holds; give --hold ID or --all. {listed}")
    for each in standing:
        client.snapshots.release(chosen, each.id)
    return client.snapshots.get(chosen)


def _restore(client: Client, arguments: Namespace) -> Any:
    chosen = snapshot_of(client, arguments.snapshot)
    return client.restores.create(
        chosen.id,
        host_id(client, arguments.to) if arguments.to else chosen.host_id,
        target=arguments.target,
        paths=arguments.path,
    )


VERBS = {
    "list": Listing(
        "snapshot",
        _list,
        (
            column("status"),
            Column("time", lambda each: shown(each.captured_at or each.slot_at or each.created_at)),
            column("trigger"),
            column("name"),
            column("files", right=True),
            size("size", "logical_bytes"),
            size("stored", "stored_bytes"),
            column("verified", "verified_at"),
            column("id"),
        ),
        (
            argument("--source", metavar="SOURCE", default="", help="only those of this source"),
            argument("--host", metavar="HOST", default="", help="only those of this machine"),
            argument("--schedule", metavar="SCHEDULE", default="", help="only those of this one"),
            argument(
                "--copy-of", metavar="SNAPSHOT", default="", help="the copies of this snapshot"
            ),
            argument("--copies", action="store_true", help="also copies in other regions"),
            argument("--status", choices=_STATUSES, help="only those with this status"),
            argument(
                "--search",
                metavar="TEXT",
                default="",
                help="only those with this in name, description or labels",
            ),
            argument(
                "--label", metavar="KEY[=VALUE]", default="", help="only those with this label"
            ),
            argument(
                "--since", metavar="TIME", type=value_of(values.moment), help="made then or later"
            ),
            argument(
                "--until", metavar="TIME", type=value_of(values.moment), help="made before then"
            ),
        ),
    ),
    "show": Showing(
        "snapshot",
        lambda client, arguments: snapshot_of(client, arguments.snapshot),
        _DETAILS,
        (_SNAPSHOT,),
    ),
    "edit": Doing(
        "snapshot",
        _edit,
        lambda snapshot, _arguments: f"changed {snapshot.name or snapshot.id}",
        (
            _SNAPSHOT,
            argument("--name", metavar="NAME", help="what to call it"),
            argument("--description", metavar="TEXT", help="what is to be known about it"),
            argument(
                "--label", metavar="KEY=VALUE", action="append", help="its labels from now on"
            ),
        ),
    ),
    "delete": Doing(
        "snapshot",
        lambda client, arguments: client.snapshots.delete(snapshot_id(client, arguments.snapshot)),
        lambda snapshot, _arguments: (
            f"deleted; until {shown(snapshot.purge_at)} `snapshot recover` takes it back"
        ),
        (_SNAPSHOT,),
        asks=lambda arguments: f"delete the snapshot {arguments.snapshot}?",
    ),
    "recover": Doing(
        "snapshot",
        lambda client, arguments: client.snapshots.recover(snapshot_id(client, arguments.snapshot)),
        lambda snapshot, _arguments: f"recovered: it is {snapshot.status} again",
        (_SNAPSHOT,),
    ),
    "hold": Doing(
        "hold",
        lambda client, arguments: client.snapshots.hold(
            snapshot_id(client, arguments.snapshot), arguments.reason
        ),
        lambda hold, _arguments: f"held by {hold.id} until that is released",
        (_SNAPSHOT, argument("reason", metavar="REASON", help="why it must stay")),
    ),
    "release": Doing(
        "snapshot",
        _release,
        lambda _snapshot, _arguments: "released; retention decides about it again",
        (
            _SNAPSHOT,
            argument("--hold", metavar="ID", default="", help="this one of several holds"),
            argument("--all", action="store_true", help="all of them"),
        ),
        asks=lambda arguments: f"let the snapshot {arguments.snapshot} go as retention says?",
    ),
    "cancel": Doing(
        "snapshot",
        lambda client, arguments: client.snapshots.cancel(snapshot_id(client, arguments.snapshot)),
        lambda snapshot, _arguments: (
            f"the run is {snapshot.status}"
            + ("" if snapshot.status == "CANCELLED" else "; its machine will be told")
        ),
        (_SNAPSHOT,),
    ),
    "log": LogOf(
        _SNAPSHOT,
        lambda client, arguments: client.snapshots.log(snapshot_id(client, arguments.snapshot)),
    ),
    "copy": Starting(
        "snapshot",
        lambda client, arguments: client.snapshots.copy(
            snapshot_id(client, arguments.snapshot), region_id(client, arguments.to)
        ),
        lambda client, snapshot, report: client.snapshots.wait(snapshot, report=report),
        snapshot_said,
        (
            _SNAPSHOT,
            argument("--to", metavar="REGION", required=True, help="an id or a name"),
        ),
    ),
    "browse": Browse(),
    "download": Download(),
    "diff": Compare(),
    "restore": Starting(
        "restore",
        _restore,
        lambda client, restore, report: client.restores.wait(restore, report=report),
        restore_said,
        (
            _SNAPSHOT,
            argument("--to", metavar="HOST", default="", help="the machine (default: its own)"),
            argument(
                "--target",
                metavar="DIRECTORY",
                help="a new or empty directory in a root there (default: restored/ below it)",
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
}
