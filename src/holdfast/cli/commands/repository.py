"""``holdfast repository ...``: the account's repositories, and the way to them by restic."""

from __future__ import annotations

from holdfast.cli.choose import repository_id
from holdfast.cli.verbs import Doing, Listing, argument, column, size

_WHICH = argument(
    "repository_id",
    metavar="REPOSITORY",
    nargs="?",
    default="",
    help="its id; not needed where there is one only",
)

VERBS = {
    "list": Listing(
        "repository",
        lambda client, _arguments: client.repositories.list(),
        (
            column("address", "url"),
            size("stored", "stored_bytes"),
            column("verified", "verified_at"),
            column("pruned", "pruned_at"),
            column("id"),
        ),
        plural="repositories",
    ),
    "password": Doing(
        "access",
        lambda client, arguments: client.repositories.access(
            repository_id(client, arguments.repository_id)
        ),
        lambda _access, _arguments: (
            "put a token that may restore in place of TOKEN; that the password was shown is in "
            "the audit log"
        ),
        (_WHICH,),
        asks=lambda _arguments: "show the password that opens everything in this repository?",
        shows=(column("address", "url"), column("password"), column("try", "command")),
    ),
    "lost": Doing(
        "repository",
        lambda client, arguments: client.repositories.declare_lost(
            repository_id(client, arguments.repository_id)
        ),
        lambda _repository, _arguments: (
            "its snapshots are marked as missing; the next backup makes the repository anew"
        ),
        (_WHICH,),
        asks=lambda _arguments: "has the store lost this repository for good?",
    ),
}
