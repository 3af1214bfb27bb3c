"""The installed command ``holdfast``, run as a person or a script runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.repo.keyfile import Scrypt
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

PROGRAM = str(Path(sys.executable).with_name("holdfast"))
PASSWORD = "correct horse"
_KEPT = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")


@dataclass
class CommandLine:
    """A repository, and an environment in which every command finds it."""

    directory: Path
    repository: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def with_repository(cls, directory: Path) -> CommandLine:
        """Make a repository whose key is quick to derive."""
        line = cls.without_repository(directory)
        store = LocalStore(str(line.repository))
        Repository.create(store, PASSWORD, scrypt=Scrypt(n=16), cache_directory=None)
        return line

    @classmethod
    def without_repository(cls, directory: Path) -> CommandLine:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {
            "HOME": str(directory),
            "HOLDFAST_REPOSITORY": str(directory / "repository"),
            "HOLDFAST_PASSWORD": PASSWORD,
            "HOLDFAST_CACHE_DIR": str(directory / "cache"),
            "HOLDFAST_DEBUG": "1",
        }
        return cls(directory, directory / "repository", environment)

    def command(self, *arguments: str | Path) -> list[str]:
        return [PROGRAM, *map(str, arguments)]

    def __call__(
        self,
        *arguments: str | Path,
        status: int | None = 0,
        input: str = "",  # noqa: A002
        **environment: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in `directory`; its exit status must be `status`."""
        chosen = {**self.environment, **environment}
        done = subprocess.run(
            self.command(*arguments),
            input=input,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            cwd=self.directory,
            env={name: value for name, value in chosen.items() if value is not None},
        )
        if status is not None:
            assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str | Path, status: int = 0) -> Any:
        """The one document that a command prints; nothing but progress may be on stderr."""
        done = self(*arguments, "--json", status=status)
        assert done.stderr == "", done.stderr
        return json.loads(done.stdout)

    def error(self, *arguments: str | Path, status: int) -> dict[str, Any]:
        """The one object on stderr of a command that fails."""
        done = self(*arguments, "--json", status=status)
        assert done.stdout == "", done.stdout
        document: dict[str, Any] = json.loads(done.stderr)
        assert set(document) == {"error", "message", "retryable"}
        return document

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self.environment,
        )


def make_tree(root: Path) -> Path:
    """A small tree of real files: names, links, an empty file and one of several chunks."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "notes.txt").write_text("learning rate 3e-4\n")
    (root / "sub" / "empty").touch()
    (root / "sub" / "deep" / "data.bin").write_bytes(os.urandom(1_500_000))
    (root / "sub" / "deep" / "data.log").write_text("line\n" * 100)
    (root / "link").symlink_to("notes.txt")
    (root / "naïve ☂.txt").write_text("umbrella\n")
    return root


def on_terminal(
    command: list[str], environment: dict[str, str], typed: bytes = b""
) -> tuple[str, int]:
    """Run a command on a terminal of its own; return what it showed, and its exit status."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(command[0], command, {"TERM": "xterm", **environment})
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        shown += piece
        if typed and piece.rstrip().endswith((b":", b"]")):
            line, _, typed = typed.partition(b"\n")
            os.write(terminal, line + b"\n")
    _, ended = os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(ended)
