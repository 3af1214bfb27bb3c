"""``holdfast source ...``: what can be captured."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.choose import host_id, source_id, source_of
from holdfast.cli.verbs import (
    Doing,
    Listing,
    Showing,
    argument,
    column,
    given,
    labels,
)
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_SOURCE = argument("source", metavar="SOURCE", help="an id, a path, or HOST:PATH")
_EXCLUDE = argument(
    "--exclude",
    metavar="PATTERN",
    action="append",
    help="leave out what matches this pattern, written as in .gitignore",
)
_CONSISTENCY = argument(
    "--consistency",
    choices=("auto", "snapshot", "reflink", "live"),
    help="what to read from: a file system's snapshot where there can be one (auto), or only so",
)
_ONE = argument(
    "--one-file-system",
    action="store_const",
    const=True,
    help="stay out of other mounted file systems",
)
_LABEL = argument("--label", metavar="KEY=VALUE", action="append", help="labels")


def _options(arguments: Namespace) -> dict[str, object]:
    return given(
        exclude=arguments.exclude,
        consistency=arguments.consistency,
        one_file_system=arguments.one_file_system,
    )


def _add(client: Client, arguments: Namespace) -> Any:
    return client.sources.create(
        host_id(client, arguments.host),
        arguments.path,
        options=_options(arguments),
        labels=labels(arguments.label or []),
    )


def _edit(client: Client, arguments: Namespace) -> Any:
    found = source_of(client, arguments.source)
    options = _options(arguments)
    changes: dict[str, object] = {}
    if options:
        changes["options"] = {**found.options, **options}
    if arguments.label is not None:
        changes["labels"] = labels(arguments.label)
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast source edit --help`")
    return client.sources.edit(found.id, **changes)


VERBS = {
    "list": Listing(
        "source",
        lambda client, arguments: client.sources.list(
            host_id=host_id(client, arguments.host) if arguments.host else "",
            search=arguments.search,
            removed=arguments.removed,
        ),
        (
            column("path"),
            column("host", "host_id"),
            column("last protected", "protected_at"),
            column("labels"),
            column("id"),
        ),
        (
            argument("--host", metavar="HOST", default="", help="only those of this machine"),
            argument(
                "--search", metavar="TEXT", default="", help="only those with this in their path"
            ),
            argument(
                "--removed", action="store_true", help="also those that are protected no more"
            ),
        ),
    ),
    "show": Showing(
        "source",
        lambda client, arguments: source_of(client, arguments.source),
        (
            column("id"),
            column("path"),
            column("host", "host_id"),
            column("kind"),
            column("options"),
            column("labels"),
            column("made", "created_at"),
            column("last protected", "protected_at"),
            column("removed", "removed_at"),
        ),
        (_SOURCE,),
    ),
    "add": Doing(
        "source",
        _add,
        lambda source, _arguments: f"{source.path} can be protected now; its id is {source.id}",
        (
            argument("host", metavar="HOST", help="a machine's name or id"),
            argument("path", metavar="PATH", help="an absolute path inside a root of the machine"),
            _EXCLUDE,
            _CONSISTENCY,
            _ONE,
            _LABEL,
        ),
    ),
    "edit": Doing(
        "source",
        _edit,
        lambda source, _arguments: f"changed {source.path}",
        (_SOURCE, _EXCLUDE, _CONSISTENCY, _ONE, _LABEL),
    ),
    "remove": Doing(
        "source",
        lambda client, arguments: client.sources.remove(source_id(client, arguments.source)),
        lambda _nothing, arguments: f"{arguments.source} is protected no more; its snapshots stay",
        (_SOURCE,),
        asks=lambda arguments: f"end the schedules of {arguments.source}?",
    ),
}
