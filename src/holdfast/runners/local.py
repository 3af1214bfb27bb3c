"""Commands as processes of this machine, each under a supervisor of its own.

The supervisor is what outlives the agent; this module starts it, asks it, and reads what it has
written down. Invariant: a computation whose supervisor is gone without a record of the end is
`lost`, and whoever learns of that ends what is left of it first. It needs no root, and nothing
but Python and Linux.
"""

from __future__ import annotations

import functools
import json
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, Any, Final

from holdfast.errors import NotFreezable, RunnerUnavailable, StartFailed
from holdfast.model.finding import Finding
from holdfast.runners import records
from holdfast.runners.leftovers import end_leftovers
from holdfast.runners.removal import remove_tree
from holdfast.runners.runner import (
    FREEZE_SECONDS,
    LIMIT_SLACK_SECONDS,
    NOTHING,
    Command,
    Frozen,
    Place,
    RunnerStatus,
    no_report,
)
from holdfast.runners.watch import (
    START_SECONDS,
    ask,
    connect,
    is_silent,
    is_watched,
    one_starter,
    wait_for_lock,
)

BASE_VARIABLES: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)
"""What a command gets of the agent's own environment; nothing else of it is passed on."""

_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_END_SECONDS: Final = 90.0
_PAUSE_SECONDS: Final = 0.01


class LocalRunner:
    """`namespace` and `cgroup` may be switched off, as they are where the machine lacks them."""

    name = "local"

    def __init__(
        self,
        *,
        namespace: bool = True,
        cgroup: bool = True,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._namespace, self._cgroup = namespace, cgroup
        self._environment = environment

    def inventory(self) -> dict[str, Any] | None:
        """Whether commands see their directory as ``/job``; local commands always work."""
        return {"namespace": self._namespace and namespace_works()}

    def start(
        self, place: Place, command: Command, *, report: Callable[[str], None] = no_report
    ) -> str:
        del report  # nothing of it takes long
        if not command.argv:
            raise StartFailed("There is no command; give one.")
        with one_starter(place):
            known = self.status(place)
            if known.kind != "none":
                return known.reference
            return self._supervise(place, command)

    def _supervise(self, place: Place, command: Command) -> str:
        limit = command.time_limit_seconds
        order = {
            "place": os.fspath(place.root.absolute()),
            "argv": list(command.argv),
            "base": self._base(),
            "environment": dict(command.environment),
            "user": command.user or None,
            "workdir": command.workdir or None,
            "limit_seconds": limit + LIMIT_SLACK_SECONDS if limit else None,
            "namespace": self._namespace,
            "cgroup": self._cgroup,
            "token": uuid.uuid4().hex,
        }
        # What the new root is mounted on; it stays empty.
        (place.control / "root").mkdir(exist_ok=True)
        hear, ready = os.pipe()
        with os.fdopen(hear, "rb") as answer, (place.control / "log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "holdfast.runners.supervisor",
                        str(ready),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=(ready,),
                    start_new_session=True,
                    cwd="/",
                    env={**self._base(), **_python_variables(self._environment)},
                )
            except OSError as error:
                raise StartFailed(f"No supervisor can be started: {error.strerror}.") from error
            finally:
                os.close(ready)
            try:
                process.communicate(json.dumps(order).encode(), timeout=START_SECONDS)
                said = _answer(answer)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise RunnerUnavailable(
                    "The supervisor of the command did not start in time; try again later."
                ) from None
        if not said:
            raise StartFailed(
                f"The supervisor of the command failed; {place.control}/log says why."
            )
        document = json.loads(said)
        if "reference" in document:
            return str(document["reference"])
        if "taken" in document:
            # Whoever began with it was killed, and its supervisor lives.
            return self.status(place).reference
        raise StartFailed(_start_message(command, document))

    def _base(self) -> dict[str, str]:
        names = [*BASE_VARIABLES, *(n for n in self._environment if n.startswith("LC_"))]
        found = {name: self._environment[name] for name in names if name in self._environment}
        return {"PATH": _DEFAULT_PATH, **found}

    def status(self, place: Place) -> RunnerStatus:
        watched = is_watched(place)
        # Read after the lock was looked at: a supervisor writes it, then gives the lock back.
        state = records.read(os.fspath(place.control / "state.json")) or {}
        end = records.read(os.fspath(place.control / "end.json"))
        if end is not None:
            return _status("lost" if end.get("lost") else "ended", state, end)
        if watched:
            return _status("running", state)
        if not state:
            return NOTHING
        end_leftovers(state)
        end = {"lost": True, "ended_at": None, "notes": state["notes"]}
        records.write(os.fspath(place.control / "end.json"), end)
        return _status("lost", state, end)

    @contextmanager
    def freeze(self, place: Place, *, at_most_seconds: float = FREEZE_SECONDS) -> Iterator[Frozen]:
        connection = connect(place)
        if connection is None:
            raise NotFreezable("Nothing runs here that could be held still.")
        # Closing it thaws, whoever closes it: this process, or the kernel when it is killed.
        with closing(connection):
            answer = ask(connection, {"do": "freeze", "seconds": at_most_seconds})
            if "frozen" not in answer:
                raise NotFreezable(
                    f"The computation cannot be held still: {answer.get('refused')}. "
                    "Try again, or read it while it goes on."
                )
            try:
                yield Frozen(how=answer["frozen"], holds=functools.partial(is_silent, connection))
            finally:
                # Said too, since a process that was forked in between has the connection open.
                with suppress(RunnerUnavailable):
                    ask(connection, {"do": "thaw"})

    def abort(self, place: Place, *, grace_seconds: float = 30.0) -> None:
        connection = connect(place)
        if connection is None:
            return
        with closing(connection):
            ask(connection, {"do": "abort", "grace": grace_seconds})

    def remove(self, place: Place) -> None:
        if not place.root.exists():
            return
        if place.control.exists():
            deadline = time.monotonic() + _END_SECONDS
            while self.status(place).kind == "running":
                self.abort(place, grace_seconds=0)
                if time.monotonic() > deadline:
                    raise RunnerUnavailable(
                        f"The computation in {place.root} does not end; try again later."
                    )
                time.sleep(_PAUSE_SECONDS)
            wait_for_lock(place, deadline)
        remove_tree(place.root)


@functools.cache
def namespace_works() -> bool:
    """Whether this process may mount a directory as ``/job``; tried once, then known."""
    tried = subprocess.run(
        [sys.executable, "-P", "-m", "holdfast.runners.namespace"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        cwd="/",
    )
    return tried.returncode == 0


def _start_message(command: Command, failure: Mapping[str, str]) -> str:
    reason = failure["message"]
    match failure["stage"]:
        case "user":
            return f"The command cannot run as {command.user}: {reason}."
        case "workdir":
            return f"The working directory {command.workdir} cannot be used: {reason}."
        case _:
            return f"{command.argv[0]} cannot be started: {reason}."


def _answer(pipe: IO[bytes]) -> bytes:
    """What a supervisor says of the start; empty where it died."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(START_SECONDS * 1000):
        raise RunnerUnavailable(
            "The supervisor does not say whether the command has started; ask for the status."
        )
    # Not until its end: a process that this one has forked may have the pipe open too.
    return os.read(pipe.fileno(), select.PIPE_BUF)


def _python_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the supervisor's Python needs to find this package; the command does not get it."""
    return {name: environment[name] for name in ("PYTHONPATH",) if name in environment}


def _status(
    kind: Any, state: Mapping[str, Any], end: Mapping[str, Any] | None = None
) -> RunnerStatus:
    end = end or {}
    notes = [_finding(each) for each in end.get("notes", state.get("notes", []))]
    if kind == "lost":
        notes.append(
            Finding(
                "supervisor_lost",
                "The process that watched the computation was killed, or the machine was "
                "restarted; what was left of the computation was ended.",
            )
        )
    return RunnerStatus(
        kind=kind,
        exit_code=end.get("exit_code"),
        reference=str(state.get("command", "")),
        notes=tuple(notes),
        started_at=_time(state.get("started_at")),
        ended_at=_time(end.get("ended_at")),
    )


def _finding(noted: Mapping[str, str]) -> Finding:
    return Finding(noted["code"], noted["message"], noted["subject"])


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
