"""The options by which a command finds the settings of the server on this machine."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from holdfast.cli.invocation import Invocation
from holdfast.cli.parser import Parser

if TYPE_CHECKING:
    from holdfast.serve.settings import Settings

SETTINGS_FILE = "/etc/holdfast/server.toml"


def add_settings(parser: Parser) -> None:
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help=f"a TOML file of settings (default: {SETTINGS_FILE}, if it is there)",
    )
    parser.add_argument(
        "--data-directory", metavar="DIRECTORY", help="where the server keeps everything"
    )


def settings_of(arguments: Namespace, invocation: Invocation, **more: object) -> Settings:
    """The settings that the options, the environment and the file name together."""
    from holdfast.serve.settings import load

    file = arguments.settings
    if file is None and os.path.exists(SETTINGS_FILE):
        file = SETTINGS_FILE
    given = {"data_directory": arguments.data_directory, **more}
    return load(file, invocation.environment, given)
