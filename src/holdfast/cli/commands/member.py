"""``holdfast member ...``: the people of the account."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.choose import member_id
from holdfast.cli.password import find_password
from holdfast.cli.verbs import Doing, Listing, argument, column

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_MEMBER = argument("member", metavar="MEMBER", help="an e-mail address, or a person's id")
_ROLE = argument(
    "--role",
    choices=("owner", "admin", "member", "viewer"),
    default="member",
    help="what the person may do (default: member)",
)


def _add(client: Client, arguments: Namespace) -> Any:
    file = arguments.account_password_file
    password = None if file is None else find_password(file, None, {}, None)
    return client.members.add(arguments.email, arguments.role, password=password)


VERBS = {
    "list": Listing(
        "member",
        lambda client, _arguments: client.members.list(),
        (column("email"), column("role"), column("since", "created_at"), column("id")),
    ),
    "add": Doing(
        "member",
        _add,
        lambda member, _arguments: f"{member.email} is {member.role} now",
        (
            argument("email", metavar="ADDRESS", help="the person's e-mail address"),
            _ROLE,
            argument(
                "--account-password-file",
                metavar="FILE",
                help="a file with the first password of a person who is new here",
            ),
        ),
    ),
    "edit": Doing(
        "member",
        lambda client, arguments: client.members.set_role(
            member_id(client, arguments.member), arguments.role
        ),
        lambda member, _arguments: f"{member.email} is {member.role} now",
        (_MEMBER, _ROLE),
    ),
    "remove": Doing(
        "member",
        lambda client, arguments: client.members.remove(member_id(client, arguments.member)),
        lambda _nothing, arguments: f"{arguments.member} belongs to the account no more",
        (_MEMBER,),
        asks=lambda arguments: f"take {arguments.member} out of the account?",
    ),
}
