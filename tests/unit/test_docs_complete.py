"""The reference names every command, option, variable, exit status, error and finding.

And nothing else: what is documented exists. Commands are read from their own parsers, the
rest from the source.
"""

from __future__ import annotations

import ast
import re
import shlex
from argparse import SUPPRESS, Action
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast import errors
from holdfast.agent import settings as agent_settings
from holdfast.cli.catalogue import ENTRIES
from holdfast.cli.main import (
    BROKEN_PIPE_STATUS,
    FINDINGS_STATUS,
    UNEXPECTED_STATUS,
    parser_of,
    split,
)
from holdfast.cli.parser import (
    GLOBAL_VALUE_OPTIONS,
    Parser,
    add_global_options,
    add_repository_options,
    add_server_options,
)
from holdfast.edge import problems
from holdfast.errors import HoldfastError
from holdfast.repo import verify as repository_check
from holdfast.serve import settings as server_settings

SOURCE = Path(holdfast.__file__).parent
REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

PASSING = frozenset(
    {
        *("add", "Decision", "_fault", "_find", "_lose", "_note", "_read_whole", "_unreadable"),
        "_whole",
    }
)
"""Functions that make a finding of a code which they are given."""

CODE = re.compile(r"[a-z]+(?:_[a-z0-9]+)+|locked")

FROM_TABLES = frozenset({"data_blobs_unlisted", "tree_blobs_unlisted"}) | {
    code for code, _, _ in repository_check._LEFTOVERS
}
"""Codes that are put together when they are needed, or stand in a table."""

CARRYING = frozenset({"_finding", "findings", "_check_packs", "_check_trees"})
"""Functions that repeat findings which exist already, or take them from a table."""


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """What stands as code in the first column of every table."""
    found = []
    for line in text.splitlines():
        if line.startswith("| `"):
            found.extend(re.findall(r"`([^`]+)`", line.split(" | ")[0]))
    return found


def without_repeats(words: list[str]) -> set[str]:
    repeated = {word for word in words if words.count(word) > 1}
    assert not repeated, f"documented twice: {sorted(repeated)}"
    return set(words)


# Commands and options


def sections() -> dict[str, str]:
    """The text about each command, and about the options of all of them."""
    parts = re.split(r"^## (.+)$", page("cli.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def forms(action: Action) -> list[str]:
    """How an argument is written in the reference: its names, the last with its value."""
    if not action.option_strings:
        return [str(action.metavar)]
    value = (
        ""
        if action.nargs == 0
        else f" {action.metavar or '/'.join(map(str, action.choices or ()))}"
    )
    return [*action.option_strings[:-1], f"{action.option_strings[-1]}{value}"]


def arguments_of(parser: Parser) -> list[str]:
    actions = [action for action in parser._actions if action.dest != "help"]
    assert all(action.help and action.help is not SUPPRESS for action in actions), parser.prog
    return [form for action in actions for form in forms(action)]


SHARED = {
    "Options of every command": add_global_options,
    "Options of every command on a repository": add_repository_options,
    "Options of every command to a server": add_server_options,
}


def shared_arguments(title: str) -> list[str]:
    parser = Parser("holdfast")
    SHARED[title](parser)
    return arguments_of(parser)


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    commands = {title for title in sections() if title.startswith("`holdfast ")}
    assert commands == {f"`holdfast {entry.name}`" for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.name))
def test_every_argument_is_documented_and_every_documented_one_exists(entry: object) -> None:
    name = entry.name  # type: ignore[attr-defined]
    shared = [form for title in SHARED for form in shared_arguments(title)]
    own = [form for form in arguments_of(parser_of(entry)) if form not in shared]  # type: ignore[arg-type]
    assert without_repeats(first_cells(sections()[f"`holdfast {name}`"])) == set(own)


@pytest.mark.parametrize("title", list(SHARED))
def test_options_of_every_command_are_documented(title: str) -> None:
    more = {"-h", "--help", "--version"} if title == "Options of every command" else set()
    assert without_repeats(first_cells(sections()[title])) == {*shared_arguments(title), *more}


def test_options_that_may_precede_the_command_are_known() -> None:
    parser = Parser("holdfast")
    for add in SHARED.values():
        add(parser)
    with_value = {
        name for action in parser._actions if action.nargs != 0 for name in action.option_strings
    }
    assert with_value == GLOBAL_VALUE_OPTIONS


def test_help_of_every_command_can_be_printed() -> None:
    for entry in ENTRIES:
        assert entry.summary[0].upper() + entry.summary[1:] in parser_of(entry).format_help()


# Environment


def test_every_variable_is_documented_and_every_documented_one_is_read() -> None:
    pattern = re.compile(r"\b(?:HOLDFAST|RESTIC|AWS|AZURE|GOOGLE|XDG)_[A-Z0-9_]*[A-Z0-9]\b")
    read = set()
    for path in SOURCE.rglob("*.py"):
        read |= set(pattern.findall(path.read_text("utf-8")))
    # These are put together from a prefix; the names stand in the documentation of the module.
    read |= {
        f"{prefix}_PASSWORD{end}"
        for prefix in ("HOLDFAST", "RESTIC")
        for end in ("", "_FILE", "_COMMAND")
    }
    # Settings have pages of their own, which tests of theirs compare.
    read -= {f"HOLDFAST_SERVER_{name.upper()}" for name in server_settings.NAMES}
    read -= {f"HOLDFAST_AGENT_{name.upper()}" for name in agent_settings.NAMES}
    assert without_repeats(first_cells(page("environment.md"))) == read


# Exit statuses and errors


def error_classes(kind: type[HoldfastError] = HoldfastError) -> Iterator[type[HoldfastError]]:
    for sub in kind.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield sub
        yield from error_classes(sub)


def test_every_exit_status_is_documented() -> None:
    rows = re.findall(r"^\| ([0-9]+) \|", page("exit-codes.md"), flags=re.MULTILINE)
    statuses = {error.exit_status for error in error_classes()}
    statuses |= {0, FINDINGS_STATUS, UNEXPECTED_STATUS, BROKEN_PIPE_STATUS}
    assert without_repeats(rows) == {str(status) for status in statuses}


def test_every_error_is_documented_with_its_statuses() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| ([0-9]+) \| ([0-9]+) \| (yes|no) \| \S",
        page("errors.md"),
        re.MULTILINE,
    )
    without_repeats([code for code, *_ in rows])
    documented = {
        code: (int(http), int(status), again == "yes") for code, http, status, again in rows
    }
    existing = {
        error.code: (error.http_status, error.exit_status, error.retryable)
        for error in error_classes()
    }
    assert documented == existing | {"unexpected": (500, UNEXPECTED_STATUS, False)}


def test_every_refusal_of_the_api_is_documented_with_its_status() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| ([0-9]+) \| (yes|no) \| \S", page("errors.md"), flags=re.MULTILINE
    )
    refusals = {refusal.code: status for status, refusal in problems.REFUSALS.items()}
    refusals[problems.INVALID.code] = 422
    shared = {error.code for error in error_classes()} | {"unexpected"}
    assert {code: int(http) for code, http, _ in rows} == {
        code: status for code, status in refusals.items() if code not in shared
    }


# Findings


def called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def named_texts(tree: ast.Module) -> dict[str, str]:
    """The texts that a module gives names to."""
    return {
        node.target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def constants(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """Texts that an argument can be: itself, a name for one, or one of two of a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in names:
        yield names[node.id]
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body, names)
        yield from constants(node.orelse, names)


def finding_codes() -> set[str]:
    codes = set(FROM_TABLES)
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        names = named_texts(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (
                called(node) in PASSING or called(node) == "Finding"
            ):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                found = [text for argument in given for text in constants(argument, names)]
                codes |= {text for text in found if CODE.fullmatch(text)}
    return codes


def test_findings_with_a_code_from_elsewhere_come_through_known_functions() -> None:
    """Otherwise the next test would not see their codes."""
    unknown = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = named_texts(tree)
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Call)
                    and called(node) == "Finding"
                    and not any(CODE.fullmatch(text) for text in constants(node.args[0], names))
                    and function.name not in PASSING | CARRYING
                ):
                    unknown.append(f"{path.relative_to(SOURCE)}:{node.lineno} {function.name}")
    assert unknown == []


def test_every_finding_is_documented_and_every_documented_one_can_occur() -> None:
    assert without_repeats(first_cells(page("findings.md"))) == finding_codes()


# Examples


def examples() -> Iterator[tuple[str, str]]:
    """Every command line in the documentation that begins with ``holdfast``."""
    root = REFERENCE.parents[1]
    for path in sorted([root / "README.md", *(root / "docs").rglob("*.md")]):
        for block in re.findall(r"```sh\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL):
            for line in block.splitlines():
                if line.startswith("holdfast "):
                    yield str(path.relative_to(root)), line


@pytest.mark.parametrize(("place", "line"), list(examples()))
def test_examples_are_commands_that_exist(place: str, line: str) -> None:
    words = shlex.split(re.split(r" (?:[>|#]) ?|\s#", line)[0])[1:]
    entry, arguments = split(words)
    assert entry is not None, place
    parser_of(entry).parse_intermixed_args(arguments)
