"""The options by which a command finds the settings of the agent on this machine."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli.invocation import Invocation
from holdfast.cli.parser import Parser

if TYPE_CHECKING:
    from holdfast.agent.settings import AgentSettings


def add_agent_settings(parser: Parser) -> None:
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help="a TOML file of settings (default: /etc/holdfast/agent.toml, if it is there)",
    )
    parser.add_argument(
        "--state-directory", metavar="DIRECTORY", help="where the credential and reports are kept"
    )


def agent_settings_of(
    arguments: Namespace, invocation: Invocation, **more: object
) -> AgentSettings:
    """The settings that the options, the environment and the file name together."""
    from holdfast.agent.settings import load

    given = {"state_directory": arguments.state_directory, **more}
    return load(arguments.settings, invocation.environment, given)
