"""``holdfast master-key rotate``: seal the server's secrets with a new key."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.server_settings import add_settings, settings_of


def configure(parser: Parser) -> None:
    add_settings(parser)
    parser.add_argument(
        "--retire", action="store_true", help="remove the older keys from the file afterwards"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.serve.master_key import rotate_master_key

    settings = settings_of(arguments, invocation)
    invocation.confirm(
        f"put a new key into {settings.master_key}?",
        ["A copy of the file that was made before opens nothing that is sealed from now on."],
    )
    done = rotate_master_key(settings, retire=arguments.retire)
    return Outcome(
        {"master_key": {"id": done.key_id, "resealed": done.resealed, "keys": done.keys}},
        summary=[
            f"{text.count(done.resealed, 'secret')} sealed with the new key {done.key_id}",
            f"copy {settings.master_key} to a safe place now",
        ],
    )
