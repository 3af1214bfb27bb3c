"""``holdfast login``: sign in to a server, and stay signed in.

The password makes a token, which is kept in a file that only this user can read; the
password itself is kept nowhere.
"""

from __future__ import annotations

import socket
import sys
from argparse import Namespace

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.password import find_password, terminal_prompt
from holdfast.cli.server import Login, keep_login, read_login, token_in
from holdfast.errors import UsageError


def configure(parser: Parser) -> None:
    parser.add_argument("--email", metavar="ADDRESS", help="who signs in; asked for otherwise")
    parser.add_argument(
        "--account-password-file",
        metavar="FILE",
        help="a file with the password; asked for otherwise",
    )
    parser.add_argument(
        "--account", metavar="ID", help="the account, for a person who is in several"
    )
    parser.add_argument(
        "--name", metavar="NAME", default="", help="what to call the token of this login"
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.sdk.client import Client
    from holdfast.sdk.sign_in import sign_in
    from holdfast.sdk.transport import checked_url

    stored = read_login(invocation.environment)
    url = arguments.url or invocation.environment.get("HOLDFAST_URL") or (stored and stored.url)
    if not url:
        raise UsageError("Which server? Give --url, such as --url http://127.0.0.1:8420.")
    url = checked_url(url)
    if arguments.token_file is not None:
        login = Login(url, token_in(arguments.token_file))
    else:
        issued = sign_in(
            url,
            arguments.email or _asked("e-mail address: "),
            _password(arguments.account_password_file),
            token_name=arguments.name or f"login on {socket.gethostname()}"[:100],
            account_id=arguments.account,
        )
        login = Login(url, issued.secret, issued.token.id)
    with Client(login.url, login.token) as client:
        me = client.me.get()
    path = keep_login(invocation.environment, login)
    return Outcome(
        {"login": {"url": url, "account_id": me.account_id, "rights": list(me.rights)}},
        summary=[f"signed in to {url}; the token is kept in {path}"],
    )


def _password(file: str | None) -> str:
    if file is not None:
        return find_password(file, None, {}, None)
    prompt = terminal_prompt()
    if prompt is None:
        raise UsageError(
            "Nobody is there to be asked for a password: give --account-password-file, or "
            "--token-file with a token."
        )
    return prompt("password: ")


def _asked(question: str) -> str:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("Nobody is there to be asked who signs in: give --email.")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
