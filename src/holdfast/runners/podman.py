"""Commands in containers, by the ``podman`` command.

The command and not its REST service: a service has to run, and its socket to be found, for
each user, while the command works wherever podman is installed, with root and without. What
outlives the agent is podman's own monitor (conmon), one small process for each container.

The output goes straight into the files of the place: with the log driver ``passthrough``
podman hands its own output on to the container. Nothing is written twice, nothing has to read
along, and bytes stay bytes. Podman prints the container's name into the same file when it
makes the monitor (``podman init``), before the command runs; that is cut off again.

Invariants: an image is looked up once, and what runs is that very content, whose digest is
noted down; a container is noted down before it is made, so none is made twice or forgotten.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from holdfast.errors import NotFreezable, StartFailed
from holdfast.model.finding import Finding
from holdfast.runners import records
from holdfast.runners.guard import guarded, thaw_stale
from holdfast.runners.podman_command import PodmanCommand
from holdfast.runners.podman_image import Image, find_image
from holdfast.runners.processes import boot_id, process
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
from holdfast.runners.watch import one_starter

JOB: Final = "/job"
# Succeeds where the container is not paused, or is no more; arguments: its name, podman.
_UNPAUSE: Final = """
name=$1; shift
"$@" unpause "$name" && exit 0
if said=$("$@" container inspect --format '{{.State.Status}}' "$name" 2>&1); then
    [ "$said" != paused ]
else
    case $said in *'no such container'*) exit 0 ;; *) exit 1 ;; esac
fi
"""
_ALIVE: Final = frozenset({"running", "paused", "stopping", "removing"})


class PodmanRunner:
    """`program` is the podman command with its global options.

    `run_options` are more options for every container, such as ``--device``.
    """

    name = "podman"

    def __init__(
        self,
        program: Sequence[str] = ("podman",),
        *,
        run_options: Sequence[str] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._podman = PodmanCommand(tuple(program), environment)
        self._environment = environment
        self._run_options = tuple(run_options)

    def inventory(self) -> dict[str, Any] | None:
        """Podman's version."""
        version = self._podman.version()
        return None if version is None else {"version": version}

    def start(
        self, place: Place, command: Command, *, report: Callable[[str], None] = no_report
    ) -> str:
        if not command.image:
            raise StartFailed("There is no container image; name one.")
        with one_starter(place):
            record = _record(place)
            if record is not None and record["began"] is None:
                # Whoever began with it was killed on the way.
                if self._adopt(place, record):
                    return str(record["name"])
                self._discard(record["name"])
                record = None
            if record is not None:
                return str(record["name"])
            image = find_image(self._podman, command.image, command.image_digest, report)
            record = {
                "name": f"holdfast-{uuid.uuid4()}",
                "image_id": image.id,
                "image_digest": image.digest,
                "limit_seconds": _limit(command),
                "began": None,
            }
            _note(place, record)
            try:
                self._create(place, command, image, record["name"])
                self._begin(place, record)
            except StartFailed:
                self._discard(record["name"])
                _record_path(place).unlink()
                raise
            return str(record["name"])

    def status(self, place: Place) -> RunnerStatus:
        record = _record(place)
        if record is None:
            return NOTHING
        end = records.read(os.fspath(place.control / "end.json"))
        if end is not None:
            return _ended(record, end)
        thaw_stale(self._thaw(record), lock=place.control / "frozen", environment=self._environment)
        found = self._podman.container(record["name"])
        if record["began"] is None:
            if found is None or found["Status"] not in (*_ALIVE, "exited", "stopped"):
                return NOTHING
            return _running(record, found)
        if found is not None and found["Status"] in _ALIVE and not _is_watched(record):
            # It may have ended between the two looks.
            found = self._podman.container(record["name"])
            if found is not None and found["Status"] in _ALIVE:
                self._discard(record["name"])
                found = None
        if found is not None and found["Status"] in _ALIVE:
            return _running(record, found)
        end = _end(found, record["limit_seconds"])
        for output in (place.stdout, place.stderr):
            with output.open("rb") as file:
                os.fsync(file.fileno())
        records.write(os.fspath(place.control / "end.json"), end)
        return _ended(record, end)

    def freeze(
        self, place: Place, *, at_most_seconds: float = FREEZE_SECONDS
    ) -> AbstractContextManager[Frozen]:
        return self._freeze(place, at_most_seconds)

    @contextmanager
    def _freeze(self, place: Place, seconds: float) -> Iterator[Frozen]:
        record = _record(place)
        if record is None or self.status(place).kind != "running":
            raise NotFreezable("Nothing runs here that could be held still.")
        with guarded(
            self._podman.line("pause", record["name"]),
            self._thaw(record),
            lock=place.control / "frozen",
            how="podman pause",
            at_most_seconds=seconds,
            environment=self._environment,
        ) as frozen:

            def holds() -> bool:
                found = self._podman.container(record["name"])
                return found is not None and found["Status"] == "paused" and frozen.holds()

            yield Frozen(how=frozen.how, holds=holds)

    def abort(self, place: Place, *, grace_seconds: float = 30.0) -> None:
        record = _record(place)
        if record is None or self.status(place).kind != "running":
            return
        self._podman.run("unpause", record["name"], check=False)
        seconds = str(max(0, round(grace_seconds)))
        # It lasts as long as the grace, which this process need not live through.
        self._podman.detached("stop", "--time", seconds, record["name"])

    def remove(self, place: Place) -> None:
        if not place.root.exists():
            return
        record = _record(place)
        if record is not None:
            self._discard(record["name"])
        try:
            remove_tree(place.root)
        except PermissionError:
            # Without root, files of the container's users belong to none of ours.
            self._podman.run("unshare", "rm", "-rf", "--", os.fspath(place.root))

    # Steps

    def _create(self, place: Place, command: Command, image: Image, name: str) -> None:
        if "," in os.fspath(place.job):
            raise StartFailed(f"{place.job} has a comma in it, which podman cannot mount.")
        environment = place.control / "environment"
        plain = {**command.environment, "HOLDFAST_JOB": JOB}
        lines = {n: value for n, value in plain.items() if value.splitlines() not in ([value], [])}
        # A file, since arguments are shown to everybody on the machine.
        environment.touch(mode=0o600)
        environment.write_text("".join(f"{k}={v}\n" for k, v in plain.items() if k not in lines))
        mount = f"type=bind,src={place.job.absolute()},dst={JOB},relabel=private"
        if command.user:
            # Who that is, only the image knows.
            mount += ",chown=true"
        options = [
            *("--name", name, "--pull", "never", "--log-driver", "passthrough"),
            *("--mount", mount),
            *("--workdir", os.path.join(JOB, command.workdir or "")),
            *("--env-file", os.fspath(environment)),
        ]
        for key, value in lines.items():
            options += ["--env", f"{key}={value}"]
        if command.user:
            options += ["--user", command.user]
        limit_seconds = _limit(command)
        if limit_seconds is not None:
            options += ["--timeout", str(limit_seconds)]
        try:
            self._podman.run(
                "create", *options, *self._run_options, image.id, *command.argv, error=StartFailed
            )
        finally:
            environment.unlink()

    def _begin(self, place: Place, record: dict[str, Any]) -> None:
        """Make the monitor with the files of the place as its output, then let it go."""
        outputs = (place.stdout, place.stderr)
        sizes = [output.stat().st_size for output in outputs]
        with place.stdout.open("ab") as stdout, place.stderr.open("ab") as stderr:
            status = self._podman.attached("init", record["name"], stdout=stdout, stderr=stderr)
        said = _cut(place.stderr, sizes[1])
        _cut(place.stdout, sizes[0])
        if status != 0:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else f"podman init ended with status {status}"
            raise StartFailed(f"The container cannot be started: {reason}")
        self._podman.run("start", record["name"], error=StartFailed)
        self._adopt(place, record)

    def _adopt(self, place: Place, record: dict[str, Any]) -> bool:
        """Note that the container runs or has run; False where it did not get so far."""
        found = self._podman.container(record["name"])
        if found is None or found["Status"] not in (*_ALIVE, "exited", "stopped"):
            return False
        monitor = process(int(found.get("ConmonPid") or 0))
        record["began"] = found["StartedAt"]
        record["boot"] = boot_id()
        record["monitor"] = None if monitor is None else [monitor.pid, monitor.started]
        _note(place, record)
        return True

    def _discard(self, name: str) -> None:
        self._podman.run("unpause", name, check=False)
        self._podman.run("rm", "--force", "--time", "0", "--ignore", "--volumes", name)

    def _thaw(self, record: Mapping[str, Any]) -> list[str]:
        return ["/bin/sh", "-c", _UNPAUSE, "sh", record["name"], *self._podman.line()]


def _limit(command: Command) -> int | None:
    """After how long podman itself ends the container."""
    limit = command.time_limit_seconds
    return None if not limit else limit + LIMIT_SLACK_SECONDS


def _record_path(place: Place) -> Path:
    return place.control / "container.json"


def _record(place: Place) -> dict[str, Any] | None:
    return records.read(os.fspath(_record_path(place)))


def _note(place: Place, record: dict[str, Any]) -> None:
    records.write(os.fspath(_record_path(place)), record)


def _cut(output: Path, size: int) -> bytes:
    """Cut an output to what it was before podman wrote to it; return what podman wrote."""
    with output.open("r+b") as file:
        file.seek(size)
        said = file.read()
        file.truncate(size)
    return said


def _is_watched(record: Mapping[str, Any]) -> bool:
    """Whether the container's monitor lives; without it nobody learns how it ends."""
    if record["boot"] != boot_id():
        return False
    if record["monitor"] is None:
        return True  # podman did not name it, so podman alone can tell
    pid, started = record["monitor"]
    found = process(pid)
    return found is not None and found.started == started and not found.is_dead


def _end(found: Mapping[str, Any] | None, limit_seconds: int | None) -> dict[str, Any]:
    """How a container ended, as it is noted down; it may be lost."""
    ended = None if found is None else _time(found["FinishedAt"])
    if found is None or found["Status"] not in ("exited", "stopped") or ended is None:
        return {"lost": True, "exit_code": None, "ended_at": None, "notes": []}
    code, notes = int(found["ExitCode"]), []
    if code < 0:
        # What its monitor says where it has killed the container itself.
        began = _time(found["StartedAt"])
        if (
            limit_seconds is None
            or began is None
            or (ended - began).total_seconds() < limit_seconds - 1
        ):
            return {"lost": True, "exit_code": None, "ended_at": None, "notes": []}
        code = 128 + signal.SIGKILL
        message = "The time limit was kept by the runner, and so later."
        notes.append(Finding("limit_kept_late", message).as_dict())
    if found.get("OOMKilled"):
        message = "The container needed more memory than it may have, and was killed."
        notes.append(Finding("memory_exhausted", message).as_dict())
    return {
        "lost": False,
        "exit_code": code,
        "ended_at": found["FinishedAt"],
        "notes": notes,
    }


def _running(record: Mapping[str, Any], found: Mapping[str, Any]) -> RunnerStatus:
    return RunnerStatus(
        kind="running",
        reference=record["name"],
        started_at=_time(found["StartedAt"]),
        image_digest=record["image_digest"],
    )


def _ended(record: Mapping[str, Any], end: Mapping[str, Any]) -> RunnerStatus:
    notes = [_finding(each) for each in end["notes"]]
    if end["lost"]:
        notes.append(
            Finding(
                "monitor_lost",
                "The container was removed, its monitor killed, or the machine restarted; how "
                "the command ended cannot be known.",
            )
        )
    began, ended = _time(record["began"]), _time(end["ended_at"])
    if began is not None and ended is not None:
        # Podman notes the start of a short command after its end.
        began = min(began, ended)
    return RunnerStatus(
        kind="lost" if end["lost"] else "ended",
        exit_code=end["exit_code"],
        reference=record["name"],
        notes=tuple(notes),
        started_at=began,
        ended_at=ended,
        image_digest=record["image_digest"],
    )


def _finding(noted: Mapping[str, str]) -> Finding:
    return Finding(noted["code"], noted["message"], noted["subject"])


def _time(text: str | None) -> datetime | None:
    """Podman's times have nine digits behind the point, and the year 1 for never."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)
