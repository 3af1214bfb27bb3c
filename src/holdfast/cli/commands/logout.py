"""``holdfast logout``: forget the server, and make the token of this login worthless."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.server import forget_login, read_login
from holdfast.errors import HoldfastError


def configure(parser: Parser) -> None:
    del parser  # it takes none


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.sdk.client import Client

    del arguments
    login = read_login(invocation.environment)
    if login is None:
        return Outcome({"logout": {"url": None}}, summary=["there was no login"])
    revoked = False
    if login.token_id:
        try:
            with Client(login.url, login.token, attempts=2) as client:
                client.tokens.revoke(login.token_id)
            revoked = True
        except HoldfastError as error:
            invocation.progress.note(f"the token could not be revoked: {error.message}")
    forget_login(invocation.environment)
    what = "its token is worthless now" if revoked else "its token was not revoked"
    return Outcome(
        {"logout": {"url": login.url, "revoked": revoked}},
        summary=[f"logged out of {login.url}; {what}"],
    )
