"""``holdfast region ...``: where things can be stored."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.verbs import Doing, Listing, argument, column
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client


def _options(file: str | None) -> dict[str, str]:
    """Credentials from a file of ``name = value`` lines; they are no arguments on purpose."""
    if file is None:
        return {}
    try:
        with open(file, encoding="utf-8") as opened:
            lines = [line.strip() for line in opened]
    except OSError as error:
        raise UsageError(f"The options file {file} cannot be read: {error.strerror}.") from None
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if line and not line.startswith("#"):
            if not equals:
                raise UsageError(f"The options file {file} has a line that is not NAME = VALUE.")
            found[name.strip()] = value.strip()
    return found


def _add(client: Client, arguments: Namespace) -> Any:
    return client.regions.create(
        arguments.name, arguments.location, options=_options(arguments.options_file)
    )


VERBS = {
    "list": Listing(
        "region",
        lambda client, _arguments: client.regions.list(),
        (column("name"), column("made", "created_at"), column("id")),
    ),
    "add": Doing(
        "region",
        _add,
        lambda region, _arguments: f"made the region {region.name}; its id is {region.id}",
        (
            argument("name", metavar="NAME", help="what to call it"),
            argument("location", metavar="LOCATION", help="its store: a path, or s3://bucket"),
            argument(
                "--options-file",
                metavar="FILE",
                help="a file with the store's credentials, a line NAME = VALUE for each",
            ),
        ),
    ),
}
