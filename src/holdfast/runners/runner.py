"""The protocol of what runs a task's command, and the values that it speaks in.

A runner starts a computation in a place, says how it stands, holds it still for a while, ends
it, and removes it. The obligations, which tests/contract/test_runner.py asks of each one:

- What was started belongs to nobody: it outlives the process that started it, and any later
  process learns of it from the place alone. No runner keeps state in memory.
- A second `start` in the same place begins nothing; it returns the reference of the first.
- The end is final: a status that was `ended` or `lost` once stays so until `remove`.
- A computation that is `ended` or `lost` has no process left.
- A frozen computation is thawed again, also when the process that froze it is killed.
- Output is in the files of the place: all of it as soon as the status is `ended`, and written
  behind what is there already.

Errors are those below `RunnerError`. Nothing here does any I/O but `Place.make`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from holdfast.model.finding import Finding

FREEZE_SECONDS: Final = 60.0
"""How long a computation is held still at most, if nobody says otherwise."""

LIMIT_SLACK_SECONDS: Final = 60
"""How far behind its time limit a runner itself ends a computation.

The limit is kept by whoever started it; this is for the case that nobody is there any more.
"""

Kind = Literal["running", "ended", "lost", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run.

    `argv` may be empty only where an image brings a command of its own. `environment` is
    added to what the runner gives each command; ``HOLDFAST_JOB`` comes from the runner.
    `image` is ``repository:tag``; with `image_digest` (``sha256:...``) no other content than
    that is run. `user` is a name or number, or empty for the runner's own. `workdir` is
    absolute, or relative to the job's directory, which is the default. `name` is for people:
    a batch system shows it. `partition` is a batch system's.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    image_digest: str | None = None
    user: str | None = None
    workdir: str | None = None
    time_limit_seconds: int | None = None
    name: str = ""
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one instance on its host.

    `job` is what the command sees as ``/job``. What a runner notes down about the computation
    is in `control`; nobody else reads or writes there.
    """

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr"

    @property
    def control(self) -> Path:
        return self.root / "runner"

    def make(self) -> None:
        """Make what is missing of it; what is there stays."""
        # Others may pass through, not look: a command of another user has to reach its job.
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.job.mkdir(mode=0o755, exist_ok=True)
        self.control.mkdir(mode=0o700, exist_ok=True)
        for output in (self.stdout, self.stderr):
            os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStatus:
    """How a computation stands.

    `kind`: ``running`` (or about to, or frozen), ``ended`` with `exit_code`, ``lost`` (it ran,
    and how it ended cannot be known), ``none`` (nothing was ever started here). A command that
    a signal ended has the exit code 128 + the signal's number, as shells say it. `notes` are
    what a person should know of the run. `started_at` is None for as long as the command waits
    to begin, in the queue of a batch system; else times are None where they are not known.
    """

    kind: Kind
    exit_code: int | None = None
    reference: str = ""
    notes: tuple[Finding, ...] = ()
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image_digest: str | None = None


NOTHING: Final = RunnerStatus(kind="none")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A computation that is held still.

    `how` names the means (``cgroup``, ``signals``, ``podman pause``, ``slurm``). `holds` tells
    whether it has been still without a gap from the beginning of the freeze until now: the
    time may have run out, or somebody may have ended the computation. Ask it last.
    """

    how: str
    holds: Callable[[], bool]


def no_report(line: str) -> None:
    """For callers of `start` who do not care how it goes."""


class Runner(Protocol):
    """See the obligations in the module's docstring. Every method may take seconds."""

    @property
    def name(self) -> str:
        """What profiles call it: ``local``, ``podman``, ``slurm``."""
        ...

    def inventory(self) -> dict[str, Any] | None:
        """What a host says of it in its inventory, or None where it does not work here."""
        ...

    def start(
        self, place: Place, command: Command, *, report: Callable[[str], None] = no_report
    ) -> str:
        """Start the command in the place, which has been made; return a reference for people.

        `report` gets lines about what takes long, such as the pull of an image. Raises
        `StartFailed`, `ImageMissing`, or `RunnerUnavailable` where another attempt may help;
        then nothing runs.
        """
        ...

    def status(self, place: Place) -> RunnerStatus:
        """How it stands; raises `RunnerUnavailable` where that cannot be told now."""
        ...

    def freeze(
        self, place: Place, *, at_most_seconds: float = FREEZE_SECONDS
    ) -> AbstractContextManager[Frozen]:
        """Hold all of it still for as long as the context lasts, but at most so long.

        Raises `NotFreezable` where that cannot be done, or nothing runs; then nothing is held.
        """
        ...

    def abort(self, place: Place, *, grace_seconds: float = 30.0) -> None:
        """Have it ended: asked first, killed after the grace.

        Returns once that is under way, whether or not the caller lives on; `status` tells when
        it has come about. Thaws what is frozen. Does nothing where nothing runs.
        """
        ...

    def remove(self, place: Place) -> None:
        """End what runs, forget it, and delete the whole place. Nothing there is no error."""
        ...
