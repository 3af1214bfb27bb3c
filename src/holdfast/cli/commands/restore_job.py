"""``holdfast restore-job ...``: restores that a server has its machines do."""

from __future__ import annotations

from holdfast.cli.choose import host_id, snapshot_id
from holdfast.cli.logs import LogOf
from holdfast.cli.verbs import Doing, Listing, Showing, argument, column, size

_RESTORE = argument("restore", metavar="RESTORE", help="an id")

VERBS = {
    "list": Listing(
        "restore",
        lambda client, arguments: client.restores.list(
            snapshot_id=snapshot_id(client, arguments.snapshot) if arguments.snapshot else "",
            host_id=host_id(client, arguments.host) if arguments.host else "",
        ),
        (
            column("status"),
            column("made", "created_at"),
            column("target"),
            column("files", right=True),
            size("size", "restored_bytes"),
            column("snapshot", "snapshot_id"),
            column("id"),
        ),
        (
            argument("--snapshot", metavar="SNAPSHOT", default="", help="only of this snapshot"),
            argument("--host", metavar="HOST", default="", help="only onto this machine"),
        ),
    ),
    "show": Showing(
        "restore",
        lambda client, arguments: client.restores.get(arguments.restore),
        (
            column("id"),
            column("status"),
            column("error", "error_message"),
            column("snapshot", "snapshot_id"),
            column("machine", "host_id"),
            column("target"),
            column("paths"),
            column("files"),
            size("size", "restored_bytes"),
            column("made", "created_at"),
            column("started", "started_at"),
            column("finished", "finished_at"),
        ),
        (_RESTORE,),
    ),
    "cancel": Doing(
        "restore",
        lambda client, arguments: client.restores.cancel(arguments.restore),
        lambda restore, _arguments: (
            f"the restore is {restore.status}"
            + ("" if restore.status == "CANCELLED" else "; its machine will be told")
        ),
        (_RESTORE,),
    ),
    "log": LogOf(_RESTORE, lambda client, arguments: client.restores.log(arguments.restore)),
}
