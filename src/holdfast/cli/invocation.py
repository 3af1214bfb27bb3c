"""One run of one command: what it was given, and what it has to show at the end.

It opens the repository when a command first asks for it, so that bad arguments are
reported before any password is needed. Commands return an `Outcome` and print nothing
themselves, but for streams that are too long to hold.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.cli.password import ask_twice, find_password, terminal_prompt
from holdfast.cli.progress import ProgressScreen
from holdfast.errors import UsageError
from holdfast.model.finding import Finding

if TYPE_CHECKING:
    from holdfast.repo.repository import Repository
    from holdfast.sdk.client import Client
    from holdfast.store.protocol import ObjectStore
    from holdfast.store.retry import Retry


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found or did.

    `document` is printed under ``--json``, with the findings added; without one the findings
    end the JSON lines that the command has printed. `answer` is what the command was asked
    for, `summary` what a person may want to know besides.
    """

    document: Mapping[str, object] | None = None
    answer: Iterable[str] = ()
    summary: Iterable[str] = ()
    findings: Sequence[Finding] = ()
    raw: bool = False
    """Standard output carries bytes of a file, so findings go to stderr in any case."""


@dataclass
class Invocation:
    """The options of all commands, and the repository that they name."""

    options: Namespace
    progress: ProgressScreen
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    findings: list[Finding] = field(default_factory=list)
    _password: str | None = None

    @property
    def json(self) -> bool:
        return bool(self.options.json)

    @property
    def wait_seconds(self) -> float:
        return float(self.options.wait_for_lock)

    @property
    def location(self) -> str:
        location = self.options.repository or _first(
            self.environment, "HOLDFAST_REPOSITORY", "RESTIC_REPOSITORY"
        )
        if not location:
            raise UsageError("no repository is named: set HOLDFAST_REPOSITORY, or give -r LOCATION")
        return str(location)

    @property
    def cache_directory(self) -> str | None:
        """Where indexes are cached; None for nowhere."""
        if self.options.no_cache:
            return None
        named = self.options.cache_dir or self.environment.get("HOLDFAST_CACHE_DIR")
        if named:
            return os.path.abspath(named)
        base = self.environment.get("XDG_CACHE_HOME") or ""
        if not os.path.isabs(base):
            home = os.path.expanduser("~")
            if not os.path.isabs(home):
                return None
            base = os.path.join(home, ".cache")
        return os.path.join(base, "holdfast")

    @property
    def with_lock(self) -> bool:
        return not self.options.no_lock

    @property
    def workers(self) -> int:
        """How many worker processes to use; limited rates are those of all together."""
        wanted: int | None = getattr(self.options, "workers", None)
        return processors() if wanted is None else wanted

    def client(self) -> Client:
        """The server that this run is about."""
        from holdfast.cli.server import find_server
        from holdfast.sdk.client import Client

        login = find_server(self.options.url, self.options.token_file, self.environment)
        return Client(login.url, login.token)

    def open_store(self, location: str | None = None) -> ObjectStore:
        """The store at `location`, or of the repository that this run is about."""
        from holdfast.store.location import open_store

        store = open_store(
            location or self.location,
            report_retry=report_retry,
            report_finding=self.findings.append,
            environment=self.environment,
        )
        if self.options.limit_upload is not None or self.options.limit_download is not None:
            from holdfast.store.throttle import ThrottledStore

            store = ThrottledStore(
                store,
                read_bytes_per_second=self.options.limit_download,
                write_bytes_per_second=self.options.limit_upload,
            )
        return store

    def open_repository(self) -> Repository:
        from holdfast.repo.repository import Repository

        store = self.open_store()
        return Repository.open(store, self.password(), cache_directory=self.cache_directory)

    def open_other(self, location: str, file: str | None, command: str | None) -> Repository:
        """Another repository; its password is this one's unless it is given."""
        from holdfast.repo.repository import Repository

        given = file is not None or command is not None
        password = find_password(file, command, {}, None) if given else self.password()
        return Repository.open(
            self.open_store(location), password, cache_directory=self.cache_directory
        )

    def password(self, *, new: bool = False) -> str:
        """The repository's password; a `new` one is asked for twice."""
        if self._password is not None:
            return self._password
        prompt = terminal_prompt()
        if new and prompt is not None:
            asked = prompt

            def twice(_question: str) -> str:
                return ask_twice(asked)

            prompt = twice
        options = self.options
        self._password = find_password(
            options.password_file, options.password_command, self.environment, prompt
        )
        return self._password

    def confirm(self, question: str, plan: Iterable[str]) -> None:
        """Go on only if a person agrees, or ``--yes`` was given; otherwise raise `UsageError`."""
        if self.options.yes:
            return
        if self.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            look = "look at --dry-run, then " if hasattr(self.options, "dry_run") else ""
            raise UsageError(
                f"this removes something, and nobody is there to be asked: {look}give --yes"
            )
        self.progress.clear()
        for line in plan:
            sys.stderr.write(f"{line}\n")
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("not confirmed; nothing was changed")


def report_retry(retry: Retry) -> None:
    """Say on stderr that the store is tried again; also in worker processes."""
    if sys.stderr.isatty():
        sys.stderr.write(
            f"\r\x1b[K{retry.error.message} Next attempt in {retry.pause_seconds:.0f} s.\n"
        )
        sys.stderr.flush()


def processors() -> int:
    """How many processors this process may use: its affinity, and its control group's quota."""
    number = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            number = min(number, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control groups of version 2, or not seen from here
    return min(number, 16)


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")
