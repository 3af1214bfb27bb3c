"""``holdfast agent enrol``: make this machine one of the server's."""

from __future__ import annotations

import sys
from argparse import Namespace

from holdfast.cli.agent_settings import add_agent_settings, agent_settings_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.server import token_in
from holdfast.errors import UsageError


def configure(parser: Parser) -> None:
    parser.add_argument("server", metavar="URL", nargs="?", help="the address of the server")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token",
        metavar="TOKEN",
        help="the token of `holdfast host invite`; it works once, so it may stand here",
    )
    token.add_argument(
        "--enrolment-token-file", metavar="FILE", help="a file with that token, or - for stdin"
    )
    parser.add_argument("--name", metavar="NAME", help="what to call this machine")
    parser.add_argument(
        "--root",
        metavar="PATH[=DIRECTORY]",
        action="append",
        help="a path that may be protected, and where it really lies (default: /root)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="give up the enrolment that is there already"
    )
    add_agent_settings(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.agent.enrolment import enrol

    settings = agent_settings_of(
        arguments, invocation, server=arguments.server, name=arguments.name, roots=arguments.root
    )
    credential = enrol(settings, _token(arguments), replace=arguments.replace)
    return Outcome(
        {"host_id": credential.host_id, "credential_file": settings.credential},
        summary=[
            f"enrolled as host {credential.host_id}; the credential is in {settings.credential}",
            "`holdfast agent run` with the same settings does what the server has for it",
        ],
    )


def _token(arguments: Namespace) -> str:
    if arguments.token:
        return str(arguments.token)
    if arguments.enrolment_token_file == "-":  # noqa: S105 a name for standard input
        return sys.stdin.readline().strip()
    if arguments.enrolment_token_file:
        return token_in(arguments.enrolment_token_file)
    raise UsageError(
        "Enrolling needs a token: make one with `holdfast host invite` where you are signed in, "
        "and give --token or --enrolment-token-file."
    )
