"""Starting is quick: a command imports what it needs, and help imports no command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    *("numpy", "typer", "rich", "obstore", "cryptography", "re2", "zstandard", "mfusepy"),
    *("httpx", "uvicorn", "fastapi", "pydantic", "sqlalchemy", "structlog"),
)


def imported(code: str) -> set[str]:
    program = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    modules = imported("from holdfast.cli.main import run\nassert run(['--help']) == 0")
    assert "holdfast.cli.main" in modules
    assert modules & set(HEAVY) == set()
    commands = [name for name in modules if name.startswith("holdfast.cli.commands.")]
    assert commands == []


@pytest.mark.parametrize("command", ["backup", "restore", "snapshots", "forget"])
def test_help_of_a_command_imports_no_engine(command: str) -> None:
    modules = imported(
        "from holdfast.cli.main import run\n"
        f"try: run(['{command}', '--help'])\n"
        "except SystemExit: pass"
    )
    assert f"holdfast.cli.commands.{command}" in modules
    assert modules & set(HEAVY) == set()
    assert not [name for name in modules if name.startswith(("holdfast.repo", "holdfast.flows"))]


@pytest.mark.parametrize("words", [["up"], ["host", "list"], ["agent", "run"], ["login"]])
def test_help_of_a_command_of_a_server_imports_no_server(words: list[str]) -> None:
    modules = imported(
        f"from holdfast.cli.main import run\ntry: run([*{words!r}, '--help'])\n"
        "except SystemExit: pass"
    )
    assert "holdfast.cli.parser" in modules
    assert modules & set(HEAVY) == set()
    assert not [name for name in modules if name.startswith(("holdfast.sdk.", "holdfast.serve."))]


def test_listing_snapshots_needs_no_numbers_and_no_cloud() -> None:
    modules = imported(
        "from holdfast.cli.main import run\n"
        "run(['-r', '/nowhere', '--password-command', 'echo x', 'snapshots'])"
    )
    assert "holdfast.repo.repository" in modules
    assert modules & {"numpy", "typer", "rich", "obstore", "re2", "mfusepy"} == set()
