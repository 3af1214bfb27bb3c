"""The program ``holdfast``: from arguments to an exit status.

The one place where errors become messages, and signals an orderly end. Under ``--json``
stdout holds one document (or JSON lines), and an error is one JSON object on stderr.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from holdfast import __version__
from holdfast.cli import output, text
from holdfast.cli.catalogue import COMMANDS, ENTRIES, Entry, Speaks, verbs_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import (
    GLOBAL_VALUE_OPTIONS,
    Parser,
    add_global_options,
    add_repository_options,
    add_server_options,
)
from holdfast.cli.progress import ProgressScreen, Style
from holdfast.errors import HoldfastError, Interrupted, UsageError
from holdfast.model.finding import Finding

FINDINGS_STATUS = 3
UNEXPECTED_STATUS = 1
BROKEN_PIPE_STATUS = 141


def main() -> NoReturn:
    """Run the command that the arguments name, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names may hold bytes that no encoding has; showing them must not fail.
            stream.reconfigure(errors="backslashreplace")
    _catch_signals()
    as_json = "--json" in arguments
    try:
        status = _dispatch(list(arguments))
    except BrokenPipeError:
        output.silence()  # whoever read us has seen enough
        return BROKEN_PIPE_STATUS
    except HoldfastError as error:
        return _report(error, as_json)
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted; what is complete in the repository stays complete")
        return _report(stopped, as_json)
    except Exception as error:
        if os.environ.get("HOLDFAST_DEBUG"):
            traceback.print_exc()
        return _report_unexpected(error, as_json)
    return status


def parser_of(entry: Entry) -> Parser:
    """The complete parser of one command."""
    parser = Parser(f"holdfast {entry.name}", f"{entry.summary[0].upper()}{entry.summary[1:]}.")
    entry.load().configure(parser)
    if entry.speaks is Speaks.REPOSITORY:
        add_repository_options(parser)
    elif entry.speaks is Speaks.SERVER:
        add_server_options(parser)
    add_global_options(parser)
    return parser


def split(arguments: list[str]) -> tuple[Entry | None, list[str]]:
    """Find the command among the arguments; options of every command may precede it."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in GLOBAL_VALUE_OPTIONS else 1
    if at >= len(arguments):
        return None, arguments
    word = arguments[at]
    rest = arguments[:at] + arguments[at + 1 :]
    if word in COMMANDS:
        return COMMANDS[word], rest
    verbs = verbs_of(word)
    if not verbs:
        raise UsageError(f"there is no command {word!r}; see `holdfast --help`")
    # The verb is the next word that is no option; so `key --json list` works, too.
    verb, rest = _take_word(rest, at)
    if f"{word} {verb}" in COMMANDS:
        return COMMANDS[f"{word} {verb}"], rest
    known = ", ".join(entry.name for entry in verbs)
    if verb in ("", "help"):
        raise UsageError(f"{word} needs a word more: {known}")
    raise UsageError(f"there is no command '{word} {verb}'; there are {known}")


def _take_word(arguments: list[str], at: int) -> tuple[str, list[str]]:
    if at < len(arguments) and not arguments[at].startswith("-"):
        return arguments[at], arguments[:at] + arguments[at + 1 :]
    return "", arguments


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    entry, rest = split(arguments)
    if entry is None:
        return _without_command(rest)
    command = entry.load()
    options = parser_of(entry).parse_intermixed_args(rest)
    screen = ProgressScreen(sys.stderr, _style(options))
    invocation = Invocation(options, screen)
    try:
        outcome = command.run(options, invocation)
    finally:
        screen.clear()
    findings = (*invocation.findings, *outcome.findings)
    _print(outcome, options, findings)
    return FINDINGS_STATUS if findings else 0


def _without_command(arguments: list[str]) -> int:
    if "--version" in arguments:
        output.write_lines([f"holdfast {__version__}"])
        output.flush()
        return 0
    if "--help" in arguments or "-h" in arguments:
        output.write_lines([overview()])
        output.flush()
        return 0
    raise UsageError("no command is named; see `holdfast --help`")


def overview() -> str:
    """The text of ``holdfast --help``."""
    lines = ["usage: holdfast [OPTIONS] COMMAND [ARGUMENTS]", ""]
    lines.append("Snapshots and backups in encrypted repositories of restic's format.")
    group = ""
    for entry in ENTRIES:
        if entry.group != group:
            group = entry.group
            lines += ["", f"{group}:"]
        lines.append(f"  {entry.name:21}{entry.summary}")
    lines += [
        "",
        "`holdfast COMMAND --help` has the options of a command, `holdfast --version` the version.",
        "HOLDFAST_REPOSITORY names the repository and HOLDFAST_PASSWORD_FILE its password;",
        "HOLDFAST_URL and HOLDFAST_TOKEN, or `holdfast login`, name the server.",
    ]
    return "\n".join(lines)


def _style(options: Namespace) -> Style:
    if options.json:
        return Style.JSON if options.progress else Style.NONE
    if options.quiet:
        return Style.NONE
    if sys.stderr.isatty():
        return Style.LIVE
    return Style.LINES if options.progress else Style.NONE


def _print(outcome: Outcome, options: Namespace, findings: Sequence[Finding]) -> None:
    if options.json and outcome.raw:
        for finding in findings:
            sys.stderr.write(json.dumps({"finding": finding.as_dict()}) + "\n")
        return
    if options.json:
        if outcome.document is not None:
            listed = [finding.as_dict() for finding in findings]
            output.write_document({**outcome.document, "findings": listed})
        else:
            for finding in findings:
                output.write_finding(finding)
        output.flush()
        return
    output.write_lines(outcome.answer)
    if not options.quiet:
        output.write_lines(outcome.summary)
    output.flush()
    for each in findings:
        subject = f"{text.name(each.subject)}: " if each.subject else ""
        sys.stderr.write(f"{subject}{text.name(each.message)} [{each.code}]\n")


def _report(error: HoldfastError, as_json: bool) -> int:
    if as_json:
        sys.stderr.write(json.dumps(error.as_dict()) + "\n")
    else:
        sys.stderr.write(f"holdfast: {text.name(error.message)}\n")
    return error.exit_status


def _report_unexpected(error: Exception, as_json: bool) -> int:
    message = (
        f"unexpected {type(error).__name__}: {error}. This is a defect of Holdfast: please report "
        "it with what the same command prints when HOLDFAST_DEBUG=1 is set"
    )
    if as_json:
        document = {"error": "unexpected", "message": message, "retryable": False}
        sys.stderr.write(json.dumps(document) + "\n")
    else:
        sys.stderr.write(f"holdfast: {text.name(message)}\n")
    return UNEXPECTED_STATUS


def _catch_signals() -> None:
    """Let a request to end unwind the program, so that workers, locks and views go too."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
