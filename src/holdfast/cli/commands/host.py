"""``holdfast host ...``: machines with an agent."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.choose import host_id, host_of, region_id
from holdfast.cli.parser import value_of
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
)
from holdfast.errors import UsageError
from holdfast.model.quantity import parse_duration

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_HOST = argument("host", metavar="HOST", help="a machine's name or id")
_ROOT = argument(
    "--root",
    metavar="PATH[=DIRECTORY]",
    action="append",
    help="a path that may be protected, and where it really lies if that is elsewhere",
)
_ROOTS = Column("roots", lambda host: ", ".join(map(_root_text, host.roots)))
_DETAILS = (
    column("id"),
    column("name"),
    column("status"),
    column("version"),
    _ROOTS,
    column("labels"),
    column("put only"),
    column("keeper"),
    column("jobs at once", "max_jobs"),
    column("enrolled", "enrolled_at"),
    column("last seen", "seen_at"),
    column("silent since"),
    column("revoked", "revoked_at"),
    Column("reports", lambda host: _inventory(host.inventory)),
)


def _root_text(root: Any) -> str:
    return root.path if root.directory in ("", root.path) else f"{root.path} (= {root.directory})"


def _inventory(inventory: dict[str, Any]) -> str:
    plain = {
        name: value
        for name, value in inventory.items()
        if isinstance(value, (str, int)) and value != ""
    }
    return shown(plain)


def _roots(texts: list[str] | None) -> list[dict[str, str]] | None:
    if texts is None:
        return None
    found = []
    for each in texts:
        path, equals, directory = each.partition("=")
        if not path.startswith("/") or (equals and not directory.startswith("/")):
            raise UsageError(f"{each!r} is no root; write /root, or /root=/srv/pods/7/root")
        found.append({"path": path, "directory": directory or path})
    return found


def _invite(client: Client, arguments: Namespace) -> Any:
    return client.hosts.invite(
        name=arguments.name,
        roots=_roots(arguments.root),
        put_only=arguments.put_only,
        keeper=arguments.keeper,
        region_id=region_id(client, arguments.region) if arguments.region else "",
        expires_in_seconds=int(arguments.valid),
    )


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = given(
        name=arguments.name,
        labels=labels(arguments.label) if arguments.label is not None else None,
        max_jobs=arguments.max_jobs,
        roots=_roots(arguments.root),
    )
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast host edit --help`")
    return client.hosts.edit(host_id(client, arguments.host), **changes)


VERBS = {
    "list": Listing(
        "host",
        lambda client, arguments: client.hosts.list(search=arguments.search),
        (
            column("name"),
            column("status"),
            _ROOTS,
            column("version"),
            column("last seen", "seen_at"),
            column("id"),
        ),
        (
            argument(
                "--search", metavar="TEXT", default="", help="only those with this in their name"
            ),
        ),
    ),
    "show": Showing(
        "host", lambda client, arguments: host_of(client, arguments.host), _DETAILS, (_HOST,)
    ),
    "invite": Doing(
        "invitation",
        _invite,
        lambda invitation, _arguments: (
            f"Run `{invitation.command}` on that machine; the token works once"
            + (f", until {shown(invitation.expires_at)}" if invitation.expires_at else "")
        ),
        (
            argument("--name", metavar="NAME", default="", help="what the machine will be called"),
            _ROOT,
            argument(
                "--put-only",
                action="store_true",
                help="it may add snapshots, and neither read nor remove any",
            ),
            argument(
                "--keeper",
                action="store_true",
                help="it verifies and cleans the region's repositories (operators)",
            ),
            argument(
                "--region", metavar="REGION", default="", help="the region of --keeper (operators)"
            ),
            argument(
                "--valid",
                metavar="DURATION",
                type=value_of(parse_duration),
                default=3600,
                help="how long the token can be used (default: 1h)",
            ),
        ),
        shows=(column("token", "secret"), column("id")),
    ),
    "edit": Doing(
        "host",
        _edit,
        lambda host, _arguments: f"changed {host.name}",
        (
            _HOST,
            argument("--name", metavar="NAME", help="what to call it"),
            argument(
                "--label", metavar="KEY=VALUE", action="append", help="its labels from now on"
            ),
            argument("--max-jobs", metavar="N", type=int, help="how much it does at once"),
            _ROOT,
        ),
    ),
    "revoke": Doing(
        "host",
        lambda client, arguments: client.hosts.revoke(host_id(client, arguments.host)),
        lambda host, _arguments: f"{host.name} is no host any more; its snapshots stay",
        (_HOST,),
        asks=lambda arguments: f"take {arguments.host}'s credential away?",
    ),
}
