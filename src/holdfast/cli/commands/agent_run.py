"""``holdfast agent run``: do what the server has for this machine."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.agent_settings import add_agent_settings, agent_settings_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser


def configure(parser: Parser) -> None:
    add_agent_settings(parser)
    parser.add_argument(
        "--log-format",
        choices=("auto", "json", "console"),
        default="auto",
        help="how to write logs on stderr; auto is for people on a terminal, else JSON",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what to write there (default: info)",
    )
    parser.add_argument(
        "--parent", metavar="PID", type=int, help="end when this process, our parent, ends"
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.agent import service
    from holdfast.serve import logs

    logs.set_up(style=arguments.log_format, level=arguments.log_level)
    settings = agent_settings_of(arguments, invocation)
    service.run(settings, parent_pid=arguments.parent)
    return Outcome()
