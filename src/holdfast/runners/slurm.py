"""The runner of a Slurm cluster: every computation is one batch job.

It runs on a login node; the place lies on a file system that the nodes share under the same
path. What it knows of a job stands in the place's ``runner`` directory: ``name`` (the job's
name, made up before anything is submitted, so that a job whose id was not heard is found
again), ``id``, ``end.json`` (how it ended, for good), ``frozen`` and ``ending.json`` (what was
begun and has to be finished), and what `slurm_script` lists. In memory it keeps Slurm's latest
answers for some seconds, nothing else.

It needs no right but those of an ordinary user, and never `scontrol suspend`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.errors import NotFreezable, RunnerUnavailable, StartFailed
from holdfast.model.finding import Finding
from holdfast.runners import records
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
from holdfast.runners.slurm_client import SlurmClient, unreachable
from holdfast.runners.slurm_freeze import frozen, thaw_forgotten
from holdfast.runners.slurm_helper import end_after
from holdfast.runners.slurm_job import SlurmJob
from holdfast.runners.slurm_run import Noted, judge, noted
from holdfast.runners.slurm_script import MOUNT_POINT, batch_script, command_script

NOTICE_SECONDS: Final = 60
"""How long before its time limit a job is told, unless a runner is made otherwise."""

_INVENTORY_SECONDS: Final = 10.0
_OVERDUE_SECONDS: Final = 60.0
_REMOVE_SECONDS: Final = 180.0
_ASK_EVERY_SECONDS: Final = 3.0
_ASK_SHARE: Final = 20
"""Asking may take one part in so many of the time: squeue of a busy cluster takes seconds."""


class SlurmRunner:
    """See `holdfast.runners.runner.Runner`.

    `notice_seconds` is how long before its time limit a job is told, `mount_point` where its
    directory is seen on nodes that have such a directory, `environment` what Slurm's programs get
    beside a few variables of this process.
    """

    name = "slurm"

    def __init__(
        self,
        *,
        patience_seconds: float = 30.0,
        notice_seconds: int = NOTICE_SECONDS,
        mount_point: str = MOUNT_POINT,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = SlurmClient(patience_seconds=patience_seconds, environment=environment)
        self._patience_seconds = patience_seconds
        self._notice_seconds = notice_seconds
        self._mount_point = mount_point
        self._clock = clock
        self._answers: dict[int, tuple[float, SlurmJob | None]] = {}

    def inventory(self) -> dict[str, Any] | None:
        """The version and the partitions, where this host is a client of a cluster."""
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            return None
        partitions = self._client.partitions(_INVENTORY_SECONDS)
        if partitions is None:
            return None
        return {"version": self._client.version(_INVENTORY_SECONDS), "partitions": partitions}

    def start(
        self, place: Place, command: Command, *, report: Callable[[str], None] = no_report
    ) -> str:
        """Submit the job, unless that was done before; the reference is its id."""
        found = self._job_id(place)
        if found is None:
            # Refused before the name is made up: then nothing was ever started here.
            text = command_script(place, command, self._mount_point)
            name = _job_name(place)
            _write_private(place.control / "command", text)
            _write_private(place.control / "batch", batch_script(place))
            found = self._submit(place, name, command)
            report(f"submitted to Slurm as job {found}")
        return str(found)

    def status(self, place: Place) -> RunnerStatus:
        """How the job stands; finishes what a killed agent has begun and left."""
        ended = records.read(str(place.control / "end.json"))
        if ended is not None:
            return _from_record(ended)
        job_id = self._job_id(place)
        if job_id is None:
            return NOTHING
        notes = noted(place.control)
        job = self._job(job_id, fresh=notes.exit_code is not None)
        if notes.exit_code is None and (job is None or job.over):
            # The node wrote first, Slurm said so later: look again in that order.
            notes = noted(place.control)
        now = self._clock()
        status = judge(
            notes,
            job,
            reference=str(job_id),
            unseen_seconds=self._unseen_seconds(place, notes, job, now),
            now=now,
        )
        ending = records.read(str(place.control / "ending.json"))
        if ending is not None:
            status = replace(
                status, notes=tuple(each for each in status.notes if each.code != "slurm_cancelled")
            )
        if status.kind in {"ended", "lost"}:
            records.write(str(place.control / "end.json"), _record(status))
        elif job is not None:
            self._finish(place, job, ending, now)
        return status

    def freeze(
        self, place: Place, *, at_most_seconds: float = FREEZE_SECONDS
    ) -> AbstractContextManager[Frozen]:
        """Stop all processes of the job by a signal, and see that they stand."""
        job_id = self._job_id(place)
        if job_id is None:
            raise NotFreezable("Nothing was started in this place.")
        return frozen(self._client, place, job_id, at_most_seconds)

    def abort(self, place: Place, *, grace_seconds: float = 30.0) -> None:
        """Have the job sent TERM, and cancelled by Slurm after the grace."""
        if records.read(str(place.control / "end.json")) is not None:
            return
        job_id = self._job_id(place)
        if job_id is None:
            return
        deadline = self._clock().timestamp() + grace_seconds
        records.write(str(place.control / "ending.json"), {"deadline": deadline})
        end_after(job_id, grace_seconds, environment=self._client.environment)

    def remove(self, place: Place) -> None:
        """Cancel the job, wait until Slurm has let go of it, delete the place."""
        job_id = self._job_id(place)
        deadline = time.monotonic() + _REMOVE_SECONDS
        while job_id is not None:
            job = self._job(job_id, fresh=True)
            if job is None or job.over:
                self._answers.pop(job_id, None)
                break
            self._client.cancel(job_id)
            if time.monotonic() > deadline:
                raise RunnerUnavailable(
                    f"Slurm has not let go of job {job_id}: it is {job.state} on "
                    f"{job.batch_host or 'no node'}. See to that node, then remove the task again."
                )
            time.sleep(0.5)
        if place.root.exists():
            remove_tree(place.root)

    def _submit(self, place: Place, name: str, command: Command) -> int:
        options = [
            *("--requeue", "--open-mode=append", "--export=ALL", "--nodes=1"),
            f"--job-name={name}",
            f"--chdir={place.job}",
            f"--output={_literal(place.control / 'slurm.log')}",
            f"--error={_literal(place.control / 'slurm.log')}",
            f"--signal=B:USR1@{self._lead_seconds(command)}",
        ]
        if command.name:
            options.append(f"--comment={_printable(command.name)}")
        if command.partition:
            options.append(f"--partition={command.partition}")
        if command.time_limit_seconds is not None:
            # Slurm counts whole minutes.
            minutes = -(-(command.time_limit_seconds + LIMIT_SLACK_SECONDS) // 60)
            options.append(f"--time={minutes}")
        deadline = time.monotonic() + self._patience_seconds
        while True:
            job_id = self._client.submit(place.control / "batch", options)
            if job_id is not None:
                _write_private(place.control / "id", str(job_id))
                return job_id
            job_id = self._job_id(place)
            if job_id is not None:
                return job_id
            if time.monotonic() > deadline:
                raise unreachable("sbatch got no answer")
            time.sleep(1.0)

    def _lead_seconds(self, command: Command) -> int:
        # Slurm's own limit lies behind the task's; the notice is given before the task's.
        slack = 0 if command.time_limit_seconds is None else LIMIT_SLACK_SECONDS
        return self._notice_seconds + slack

    def _job_id(self, place: Place) -> int | None:
        """The id of the place's job; None where nothing was submitted."""
        with suppress(OSError, ValueError):
            return int(os.readlink(place.control / "owner"))
        with suppress(FileNotFoundError, ValueError):
            return int((place.control / "id").read_text())
        try:
            name = (place.control / "name").read_text()
        except FileNotFoundError:
            return None
        found = self._client.jobs(name=name)
        if not found:
            return None
        # Of two, the script lets the first one run that comes to a node.
        job_id = min(found, key=lambda job: (job.over, job.job_id)).job_id
        _write_private(place.control / "id", str(job_id))
        return job_id

    def _job(self, job_id: int, *, fresh: bool) -> SlurmJob | None:
        """What Slurm says of the job, at most some seconds old."""
        until, answer = self._answers.get(job_id, (0.0, None))
        begun = time.monotonic()
        if fresh or begun >= until:
            answer = next(iter(self._client.jobs(job_id=job_id)), None)
            now = time.monotonic()
            until = now + max(_ASK_EVERY_SECONDS, (now - begun) * _ASK_SHARE)
            # Only of a job that goes on an old answer is good enough.
            if answer is not None and not answer.over:
                self._answers[job_id] = (until, answer)
            else:
                self._answers.pop(job_id, None)
        return answer

    def _unseen_seconds(
        self, place: Place, notes: Noted, job: SlurmJob | None, now: datetime
    ) -> float:
        """For how long Slurm has told of an end of which the script has not."""
        path = place.control / "unseen.json"
        if notes.exit_code is not None or (job is not None and not job.over):
            path.unlink(missing_ok=True)
            return 0.0
        since = records.read(str(path))
        if since is None:
            records.write(str(path), {"since": now.timestamp()})
            return 0.0
        return float(now.timestamp() - since["since"])

    def _finish(
        self, place: Place, job: SlurmJob, ending: dict[str, Any] | None, now: datetime
    ) -> None:
        """Thaw what nobody holds frozen any more, end what was to be ended by now."""
        thaw_forgotten(self._client, place, job.job_id)
        if ending is not None and now.timestamp() > ending["deadline"] + _OVERDUE_SECONDS:
            self._client.cancel(job.job_id)
            records.write(str(place.control / "ending.json"), {"deadline": now.timestamp()})


def _job_name(place: Place) -> str:
    """The name that the place's job has, or is to have."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", place.root.name)
    path = place.control / "name"
    with suppress(FileExistsError):
        fresh = path.with_name(f"name.{os.getpid()}.new")
        _write_private(fresh, f"holdfast-{readable}-{secrets.token_hex(4)}")
        try:
            os.link(fresh, path)
        finally:
            fresh.unlink()
    return path.read_text()


def _write_private(path: os.PathLike[str], text: str) -> None:
    """Write a file whole, for its owner alone."""
    fresh = f"{os.fspath(path)}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        try:
            file.write(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise StartFailed("The command or its environment is no text.") from None
        file.flush()
        os.fsync(descriptor)
    os.rename(fresh, path)


def _literal(path: os.PathLike[str]) -> str:
    """A path for sbatch, which replaces what follows a per cent sign otherwise."""
    return os.fspath(path).replace("%", "%%")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:200]


def _record(status: RunnerStatus) -> dict[str, Any]:
    return {
        "kind": status.kind,
        "exit_code": status.exit_code,
        "reference": status.reference,
        "notes": [note.as_dict() for note in status.notes],
        "started_at": status.started_at.isoformat() if status.started_at else None,
        "ended_at": status.ended_at.isoformat() if status.ended_at else None,
    }


def _finding(note: dict[str, str]) -> Finding:
    return Finding(note["code"], note["message"], note["subject"])


def _from_record(record: dict[str, Any]) -> RunnerStatus:
    def time_of(name: str) -> datetime | None:
        return datetime.fromisoformat(record[name]) if record[name] else None

    return RunnerStatus(
        kind=record["kind"],
        exit_code=record["exit_code"],
        reference=record["reference"],
        notes=tuple(_finding(note) for note in record["notes"]),
        started_at=time_of("started_at"),
        ended_at=time_of("ended_at"),
    )
