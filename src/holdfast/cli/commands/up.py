"""``holdfast up``: run a server."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli import output
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.server_settings import add_settings, settings_of

if TYPE_CHECKING:
    from holdfast.serve.up import Listening


def configure(parser: Parser) -> None:
    add_settings(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="the address to listen on")
    parser.add_argument("--port", metavar="PORT", type=int, help="the port; 0 takes a free one")
    parser.add_argument(
        "--only",
        choices=("api", "gateway", "clockwork"),
        help="this part alone; the others run elsewhere",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.serve.up import Part, up

    settings = settings_of(arguments, invocation, host=arguments.host, port=arguments.port)

    def announce(listening: Listening) -> None:
        if invocation.json:
            output.write_document(_document(listening))
        elif not arguments.quiet:
            output.write_lines(_lines(listening))
        output.flush()

    up(settings, only=Part(arguments.only) if arguments.only else None, announce=announce)
    return Outcome()


def _document(listening: Listening) -> dict[str, object]:
    return {
        "url": listening.url,
        "parts": list(listening.parts),
        "owner_email": listening.owner_email,
        "password_file": listening.password_file,
        "first_start": listening.first,
    }


def _lines(listening: Listening) -> list[str]:
    parts = ", ".join(listening.parts)
    if not listening.url:
        return [f"Holdfast is up ({parts})."]
    lines = [f"Holdfast is up at {listening.url} ({parts})."]
    if listening.first:
        lines += [
            "",
            f"The first person is {listening.owner_email}; the password is in",
            f"    {listening.password_file}",
        ]
        if sys.stdout.isatty():
            # A log must not have it; a person who sits there may as well see it at once.
            lines.append(f"    {_password(listening.password_file)}")
        lines += [
            "",
            "Sign in from another terminal:",
            (
                f"    holdfast login --url {listening.url} --email {listening.owner_email} "
                f"--account-password-file {listening.password_file}"
            ),
        ]
    return [*lines, ""]


def _password(path: str) -> str:
    from holdfast.serve.first_start import read_secret

    return read_secret(path)
