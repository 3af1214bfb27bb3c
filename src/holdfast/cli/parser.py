"""The parser of one command: argparse whose errors are Holdfast's, and the common options.

It never exits by itself but for ``--help``, and reads no environment: an option that was
not given is None, and whoever uses it knows where else to look.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

from holdfast.cli import values
from holdfast.errors import UsageError
from holdfast.model.quantity import parse_duration, parse_rate

T = TypeVar("T")

GLOBAL_VALUE_OPTIONS = frozenset(
    {
        "-r",
        "--repository",
        "--password-file",
        "--password-command",
        "--cache-dir",
        "--wait-for-lock",
        "--limit-upload",
        "--limit-download",
        "--url",
        "--token-file",
    }
)
"""Options of many commands that are followed by a value; they may precede the command."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError` and takes no abbreviations."""

    def __init__(self, prog: str, description: str = "") -> None:
        super().__init__(
            prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def value_of(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A type for `add_argument`: what `parse` refuses is reported with the option's name."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(error.message) from None

    return convert


def add_repository_options(parser: Parser) -> None:
    """Declare what every command takes that opens a repository."""
    group = parser.add_argument_group("options of every command on a repository")
    group.add_argument(
        "-r", "--repository", metavar="LOCATION", help="where the repository is: a path or a URL"
    )
    password = group.add_mutually_exclusive_group()
    password.add_argument("--password-file", metavar="FILE", help="a file with the password")
    password.add_argument(
        "--password-command", metavar="COMMAND", help="a command that prints the password"
    )
    cache = group.add_mutually_exclusive_group()
    cache.add_argument("--cache-dir", metavar="DIRECTORY", help="where to cache the index")
    cache.add_argument("--no-cache", action="store_true", help="cache nothing on disk")
    group.add_argument(
        "--no-lock",
        action="store_true",
        help="read without a lock, where nothing can be written to the repository",
    )
    group.add_argument(
        "--wait-for-lock",
        metavar="DURATION",
        type=value_of(parse_duration),
        default=0,
        help="wait so long for a lock that somebody holds, such as 30s or 5m",
    )
    for direction, words in (("upload", "send to"), ("download", "read from")):
        group.add_argument(
            f"--limit-{direction}",
            metavar="RATE",
            type=value_of(parse_rate),
            help=f"{words} the store no faster than this, such as 10M per second",
        )


def add_server_options(parser: Parser) -> None:
    """Declare what every command takes that speaks to a server."""
    group = parser.add_argument_group("options of every command to a server")
    group.add_argument("--url", metavar="URL", help="the address of the server")
    group.add_argument("--token-file", metavar="FILE", help="a file with the token to use there")


def add_global_options(parser: Parser) -> None:
    """Declare what every command takes."""
    group = parser.add_argument_group("options of every command")
    group.add_argument("--json", action="store_true", help="print JSON, errors on stderr too")
    progress = group.add_mutually_exclusive_group()
    progress.add_argument(
        "-q", "--quiet", action="store_true", help="print no progress and no summary"
    )
    progress.add_argument(
        "--progress", action="store_true", help="print progress where stderr is no terminal, too"
    )


def add_patterns(parser: Parser, title: str) -> argparse._ArgumentGroup:
    """Declare the patterns by which entries are chosen."""
    group = parser.add_argument_group(title)
    for name, words in (
        ("exclude", "leave out what matches this pattern, written as in .gitignore"),
        ("include", "take only what matches such a pattern, and what is below"),
        ("whitelist", "take only files in whose path this RE2 expression is found"),
        ("blacklist", "leave out files in whose path this RE2 expression is found"),
    ):
        group.add_argument(f"--{name}", metavar="PATTERN", action="append", default=[], help=words)
    return group


def add_record(parser: Parser) -> None:
    """Declare what a person may want a new snapshot to say."""
    group = parser.add_argument_group("what the snapshot says")
    group.add_argument(
        "--tag", metavar="TAG[,TAG]", action="append", default=[], help="tags of the snapshot"
    )
    group.add_argument(
        "--host",
        metavar="HOST",
        type=value_of(values.recordable),
        default="",
        help="instead of this machine's name",
    )
    group.add_argument(
        "--time", metavar="TIME", type=value_of(values.moment), help="instead of now"
    )


def add_parent(group: argparse._ArgumentGroup, same: str) -> None:
    """Declare what a new snapshot is compared with."""
    parent = group.add_mutually_exclusive_group()
    parent.add_argument(
        "--parent",
        metavar="SNAPSHOT",
        default="",
        help=f"what to compare with; by default the newest of the same {same}",
    )
    parent.add_argument("--force", action="store_true", help="compare with nothing, read it all")


def add_compression(parser: Parser) -> None:
    parser.add_argument(
        "--compression",
        choices=("off", "fast", "normal", "best"),
        default="fast",
        help="how hard to compress (default: fast)",
    )


def add_confirmation(parser: Parser) -> None:
    """Declare the options of a command that destroys something."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only print what it would do")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def add_other_repository(parser: Parser, name: str, what: str, *, required: bool) -> None:
    """Declare a second repository: ``--to`` or ``--from``, and where its password is."""
    group = parser.add_argument_group("the other repository")
    group.add_argument(f"--{name}", dest="other", metavar="LOCATION", required=required, help=what)
    password = group.add_mutually_exclusive_group()
    password.add_argument(
        f"--{name}-password-file",
        dest="other_password_file",
        metavar="FILE",
        help="a file with its password; by default it is the same",
    )
    password.add_argument(
        f"--{name}-password-command",
        dest="other_password_command",
        metavar="COMMAND",
        help="a command that prints its password",
    )


def add_new_password(parser: Parser) -> None:
    """Declare where a password comes from that does not exist yet."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--new-password-file", metavar="FILE", help="a file with the new password")
    group.add_argument(
        "--new-password-command", metavar="COMMAND", help="a command that prints the new password"
    )


def add_workers(parser: Parser) -> None:
    parser.add_argument(
        "--workers",
        metavar="N",
        type=value_of(values.natural),
        help="worker processes; by default one for each processor; 0 is none",
    )
