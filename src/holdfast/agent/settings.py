"""The settings of an agent: a TOML file, and the environment over it.

A variable ``HOLDFAST_AGENT_<NAME>`` wins over the file; roots are written there as
``/root=/srv/pods/7/root,/data``. An unknown name is an error. Values are checked here, once;
nothing here opens or connects to anything, and the credential is not among them.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from holdfast.errors import UsageError
from holdfast.model.guarded_path import Root, canonical_path
from holdfast.model.quantity import parse_rate
from holdfast.runners.choice import DEFAULTS as RUNNER_DEFAULTS
from holdfast.runners.choice import RunnerOptions

SETTINGS_FILE: Final = "/etc/holdfast/agent.toml"
DEFAULT_ROOTS: Final = (Root("/root", "/root"),)
_PREFIX: Final = "HOLDFAST_AGENT_"
_FILE_VARIABLE: Final = "HOLDFAST_AGENT_SETTINGS"
_MOST_JOBS: Final = 64
_MOST_WORKERS: Final = 256
_MOST_TASKS: Final = 1024
_PATHS: Final = frozenset(
    {
        "credential_file",
        "state_directory",
        "cache_directory",
        "task_directory",
        "drill_directory",
        "ca_certificate_file",
    }
)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Every setting; docs/reference/agent.md says what each one means.

    `server`, `name` and `roots` are empty for those of the enrolment; `workers` is 0 for as many as
    there are processors; the rates are bytes per second of each job, or None; `task_slots` is 0
    where no tasks are taken.
    """

    server: str = ""
    name: str = ""
    roots: tuple[Root, ...] = ()
    put_only: bool = False
    max_jobs: int = 2
    workers: int = 0
    state_directory: str = "/var/lib/holdfast/agent"
    credential_file: str = ""
    cache_directory: str = "/var/cache/holdfast/agent"
    ca_certificate_file: str = ""
    limit_upload: float | None = None
    limit_download: float | None = None
    cancel_grace_seconds: int = 30
    task_slots: int = 0
    task_directory: str = ""
    drill_directory: str = ""
    podman: tuple[str, ...] = RUNNER_DEFAULTS.podman
    podman_run: tuple[str, ...] = RUNNER_DEFAULTS.podman_run

    def __post_init__(self) -> None:
        if self.server and not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", self.server):
            raise UsageError(
                f"The setting server is {self.server!r}; give the address of the Holdfast server, "
                "such as https://holdfast.example.org."
            )
        _between("max_jobs", self.max_jobs, 1, _MOST_JOBS)
        _between("workers", self.workers, 0, _MOST_WORKERS)
        _between("task_slots", self.task_slots, 0, _MOST_TASKS)
        _between("cancel_grace_seconds", self.cancel_grace_seconds, 1, 3600)
        if not self.podman:
            raise UsageError("The setting podman is empty; give the command, such as podman.")
        for root in self.roots:
            if not os.path.isabs(root.directory) or ".." in root.directory.split("/"):
                raise UsageError(
                    f"The directory of the root {root.path} is {root.directory!r}; give one that "
                    "begins with /."
                )

    @property
    def shown_name(self) -> str:
        """What the host is called until somebody names it otherwise."""
        return self.name or socket.gethostname()

    @property
    def credential(self) -> str:
        """The path of the credential's file."""
        return self.credential_file or os.path.join(self.state_directory, "credential")

    @property
    def tasks(self) -> str:
        """The directory in which tasks live."""
        return self.task_directory or os.path.join(self.state_directory, "tasks")

    @property
    def drills(self) -> str:
        """The directory in which drills restore."""
        return self.drill_directory or os.path.join(self.state_directory, "drills")

    @property
    def runners(self) -> RunnerOptions:
        """What runners are told."""
        return RunnerOptions(podman=self.podman, podman_run=self.podman_run)


NAMES: Final = tuple(each.name for each in fields(AgentSettings))


def load(
    file: str | None = None,
    environment: Mapping[str, str] = os.environ,
    arguments: Mapping[str, Any] | None = None,
) -> AgentSettings:
    """The settings of the file, the environment and the arguments together; the last wins.

    `file` is by default what HOLDFAST_AGENT_SETTINGS names, or `SETTINGS_FILE` where that
    exists. Relative paths in the file are relative to the directory that it lies in.
    """
    named = file or environment.get(_FILE_VARIABLE) or ""
    if not named and os.path.exists(SETTINGS_FILE):
        named = SETTINGS_FILE
    found = _from_file(named) if named else {}
    found |= _from_environment(environment)
    for name, value in (arguments or {}).items():
        if value is not None:
            found[name] = _typed(name, value, "among the arguments")
    return AgentSettings(**found)


def parse_root(text: str) -> Root:
    """``/root`` or ``/root=/srv/pods/7/root``: a path, and where it lies if it is elsewhere."""
    path, _, directory = text.partition("=")
    path = canonical_path(path.strip())
    return Root(path, os.path.normpath(directory.strip()) if directory else path)


def _from_file(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            document = tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The settings file {file} is not TOML: {error}.") from None
    beside = os.path.dirname(os.path.abspath(file))
    found = {}
    for name, value in document.items():
        _check_name(name, f"The settings file {file} holds {name!r}, which")
        found[name] = _typed(name, value, f"in {file}")
        if name in _PATHS and value:
            found[name] = os.path.join(beside, value)
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(_PREFIX) or variable == _FILE_VARIABLE or not text:
            continue
        name = variable.removeprefix(_PREFIX).lower()
        _check_name(name, f"The variable {variable}")
        value: Any = text
        if name == "roots":
            value = [each for each in text.split(",") if each.strip()]
        elif name in _COMMANDS:
            value = _words(variable, text)
        elif name == "put_only" and text.lower() in _TRUE | _FALSE:
            value = text.lower() in _TRUE
        elif name in _NUMBERS and re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
            value = int(text)
        found[name] = _typed(name, value, f"in {variable}")
    return found


_NUMBERS: Final = frozenset({"max_jobs", "workers", "cancel_grace_seconds", "task_slots"})


_COMMANDS: Final = frozenset({"podman", "podman_run"})


def _words(variable: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"The variable {variable} is no command line: {error}.") from None


def _typed(name: str, value: Any, where: str) -> Any:
    _check_name(name, f"{name!r}")
    if name in _COMMANDS:
        return _command(name, value, where)
    if name == "roots":
        return _roots(value, where)
    if name in ("limit_upload", "limit_download"):
        if value is None or isinstance(value, float):
            return value
        if not isinstance(value, str):
            raise UsageError(f"The setting {name} {where} must be a text such as '20 MiB/s'.")
        return float(parse_rate(value))
    kind: type[Any] = str
    words = "a text"
    if name == "put_only":
        kind, words = bool, "true or false"
    elif name in _NUMBERS:
        kind, words = int, "a whole number"
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"The setting {name} {where} is {value!r}; it must be {words}.")
    return value


def _command(name: str, value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise UsageError(f"The setting {name} {where} must be a list of texts, a word in each.")


def _roots(value: Any, where: str) -> tuple[Root, ...]:
    """Roots as a file has them (tables, or texts as in the environment), or ready made."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UsageError(f"The setting roots {where} must be a list.")
    roots = []
    for each in value:
        if isinstance(each, Root):
            roots.append(each)
        elif isinstance(each, str):
            roots.append(parse_root(each))
        elif isinstance(each, Mapping) and set(each) <= {"path", "directory"} and "path" in each:
            path = canonical_path(str(each["path"]))
            roots.append(Root(path, os.path.normpath(str(each.get("directory", path)))))
        else:
            raise UsageError(
                f"The setting roots {where} holds {each!r}; a root has a path and, where it lies "
                "elsewhere on this machine, a directory."
            )
    return tuple(roots)


def _check_name(name: str, subject: str) -> None:
    if name not in NAMES:
        close = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{subject} is no setting.{hint} See docs/reference/agent.md.")


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"The setting {name} is {value}; give {least} to {most}.")
