"""``holdfast token ...``: what programs use in place of a password."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from holdfast.cli.parser import value_of
from holdfast.cli.verbs import Column, Doing, Listing, argument, column
from holdfast.model.quantity import parse_duration

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.tokens import Token

_RIGHTS = ("create", "read", "restore", "delete", "administer")


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.purpose == "enrolment" and token.used_at is not None:
        return "used"
    if token.expires_at is not None and token.expires_at <= datetime.now(UTC):
        return "expired"
    return "valid"


def _create(client: Client, arguments: Namespace) -> Any:
    valid = arguments.valid
    return client.tokens.create(
        arguments.name,
        arguments.right,
        kinds=arguments.kind,
        resources=arguments.resource,
        expires_at=None if valid is None else datetime.now(UTC) + timedelta(seconds=valid),
    )


VERBS = {
    "list": Listing(
        "token",
        lambda client, _arguments: client.tokens.list(),
        (
            column("name"),
            column("purpose"),
            column("begins", "hint"),
            column("rights"),
            Column("state", _state),
            column("last used", "used_at"),
            column("from", "used_from"),
            column("id"),
        ),
    ),
    "create": Doing(
        "issued",
        _create,
        lambda issued, _arguments: f"made the token {issued.token.name!r}; it is not shown again",
        (
            argument("name", metavar="NAME", help="what to call it"),
            argument(
                "--right",
                choices=_RIGHTS,
                action="append",
                required=True,
                help="something that it may do; given again, one more",
            ),
            argument(
                "--kind",
                metavar="KIND",
                action="append",
                default=[],
                help="only with sources of this kind, such as path",
            ),
            argument(
                "--resource",
                metavar="ID",
                action="append",
                default=[],
                help="only with this host, source or schedule",
            ),
            argument(
                "--valid",
                metavar="DURATION",
                type=value_of(parse_duration),
                help="how long it can be used, such as 90d; by default until it is revoked",
            ),
        ),
        shows=(
            column("token", "secret"),
            Column("id", lambda issued: str(issued.token.id)),
        ),
    ),
    "revoke": Doing(
        "token",
        lambda client, arguments: client.tokens.revoke(arguments.token),
        lambda _nothing, _arguments: "the token is worthless within five seconds",
        (argument("token", metavar="TOKEN", help="its id"),),
        asks=lambda arguments: f"revoke the token {arguments.token}?",
    ),
}
