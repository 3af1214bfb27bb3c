"""``holdfast key add``: add a password."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.commands.key_list import outcome_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_new_password


def configure(parser: Parser) -> None:
    add_new_password(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.cli.password import new_password, terminal_prompt
    from holdfast.flows.keys import key_add

    repository = invocation.open_repository()
    password = new_password(
        arguments.new_password_file, arguments.new_password_command, terminal_prompt()
    )
    result = key_add(repository, password)
    return outcome_of(result, f"key {result.changed[:8]} opens the repository from now on")
