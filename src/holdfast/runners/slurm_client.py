"""Slurm's own programs, asked with patience: sbatch, squeue, scancel, srun, sinfo.

A controller that restarts or is overloaded is asked again for a while; then
`RunnerUnavailable` says what Slurm said. Nothing waits without an end. Slurm's programs get a
chosen few variables of this process's environment, because sbatch hands all of its own on to
the job: no credential of the agent may get there.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from holdfast.errors import RunnerError, RunnerUnavailable, StartFailed
from holdfast.runners.slurm_job import NotAnswered, SlurmJob, parse_jobs

CALL_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 1.0

_HANDED_ON: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("SLURM_CONF", "SLURM_CONF_SERVER", "LD_LIBRARY_PATH", "MODULEPATH", "MODULESHOME"),
)
_PASSING: Final = (
    *("unable to contact slurm controller", "connection refused", "socket timed out"),
    *("connection timed out", "zero bytes were transmitted", "transport endpoint"),
    *("communication connection failure", "connection failure", "unexpected message received"),
    *("unable to establish configuration source", "dns srv lookup failed", "broken pipe"),
    *("slurm backup controller in standby", "controller not responding"),
    *("resource temporarily unavailable", "slurmdbd", "name or service not known"),
    *("message send failure", "message receive failure", "munge", "authentication"),
)
"""What Slurm's programs say when a controller is away, restarts, or has too much to do."""

_GONE: Final = ("invalid job id", "already complet", "can not be altered now")
"""What they say of a job that is over, or has not begun."""


class SlurmClient:
    """Asks the cluster that this host is a client of.

    `patience_seconds` is for how long a controller that does not answer is asked again;
    `environment` is put over what Slurm's programs get of this process's.
    """

    def __init__(
        self, *, patience_seconds: float = 30.0, environment: Mapping[str, str] | None = None
    ) -> None:
        self._patience_seconds = patience_seconds
        self._more = dict(environment or {})

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's programs find in their environment."""
        kept = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        return kept | self._more

    def submit(self, script: Path, options: Sequence[str]) -> int | None:
        """Submit once and return the job's id, or None where no answer came.

        Then the job may exist or not: look for it by its name. Raises `StartFailed` where
        Slurm refuses.
        """
        try:
            done = self._run(["sbatch", "--parsable", *options, str(script)])
        except subprocess.TimeoutExpired:
            return None
        if done.returncode == 0:
            answer = done.stdout.strip().rpartition("\n")[2].partition(";")[0]
            if answer.isdigit():
                return int(answer)
            raise StartFailed(f"sbatch answered {done.stdout.strip()!r} instead of a job's id.")
        if _passing(done.stderr):
            return None
        raise StartFailed(
            f"Slurm refused the task: {_last_line(done.stderr)}. Change what it complains about, "
            "or ask who runs the cluster."
        )

    def jobs(self, *, name: str = "", job_id: int | None = None) -> list[SlurmJob]:
        """Jobs of that name or id that Slurm still knows, ended ones too.

        Raises `RunnerUnavailable`.
        """
        wanted = [f"--name={name}"] if name else []
        if job_id is not None:
            wanted.append(f"--jobs={job_id}")
        deadline = time.monotonic() + self._patience_seconds
        try:
            while True:
                text = self.ask("squeue", "--json", "--states=all", *wanted)
                try:
                    found = parse_jobs(text) if text else []
                    break
                except NotAnswered as error:
                    if time.monotonic() >= deadline:
                        raise unreachable(str(error)) from None
                time.sleep(_PAUSE_SECONDS)
        except ValueError as error:
            raise RunnerUnavailable(
                f"squeue --json printed what cannot be read: {error}. Slurm 22.05 or later is "
                "needed, with its JSON plugin."
            ) from error
        # 22.05 prints every job, whatever it was asked for.
        return [
            job
            for job in found
            if name in {"", job.name} and job_id in {None, job.job_id}
        ]  # fmt: skip

    def partitions(self, timeout_seconds: float) -> list[str] | None:
        """The names of the cluster's partitions; None where it does not answer in time."""
        try:
            done = self._run(["sinfo", "--noheader", "--format=%R"], timeout_seconds)
        except (subprocess.TimeoutExpired, RunnerUnavailable):
            return None
        return sorted(set(done.stdout.split())) if done.returncode == 0 else None

    def version(self, timeout_seconds: float) -> str:
        """The version of Slurm's programs here, such as 22.05.8."""
        try:
            done = self._run(["sinfo", "--version"], timeout_seconds)
        except (subprocess.TimeoutExpired, RunnerUnavailable):
            return ""
        return done.stdout.strip().rpartition(" ")[2]

    def signal(self, job_id: int, signal: str) -> None:
        """Send all processes of a job a signal; none to one that is over."""
        self.ask("scancel", f"--signal={signal}", "--full", str(job_id))

    def cancel(self, job_id: int) -> None:
        """Have Slurm end a job: TERM, and KILL after the cluster's KillWait."""
        self.ask("scancel", str(job_id))

    def ask(self, *command: str) -> str:
        """What a program printed, empty where it knows no such job.

        Asks again while nobody answers. Raises `RunnerUnavailable`, and `RunnerError` for what
        asking again cannot mend.
        """
        deadline = time.monotonic() + self._patience_seconds
        while True:
            said = "it did not answer in time"
            try:
                done = self._run(command)
            except subprocess.TimeoutExpired:
                pass
            else:
                said = _last_line(done.stderr)
                if done.returncode == 0 and "error:" not in done.stderr.lower():
                    return done.stdout
                if any(words in done.stderr.lower() for words in _GONE):
                    return ""
                if done.returncode == 0 and done.stdout and not _passing(done.stderr):
                    return done.stdout
                if not _passing(done.stderr):
                    raise RunnerError(f"{command[0]} failed: {said}.")
            if time.monotonic() >= deadline:
                raise unreachable(said)
            time.sleep(_PAUSE_SECONDS)

    def in_job(self, job_id: int, node: str, script: str, timeout_seconds: float) -> bool | None:
        """Run a shell script as a step beside the job's own on a node; whether it succeeded.

        None where that took too long; then the step may go on by itself.
        """
        where = [f"--nodelist={node}"] if node else []
        try:
            done = self._run(
                [
                    *("srun", "--overlap", "--quiet", f"--jobid={job_id}", *where),
                    *("--nodes=1", "--ntasks=1", "--input=none", "/bin/sh", "-c", script),
                ],
                timeout_seconds,
            )
        except subprocess.TimeoutExpired:
            return None
        return done.returncode == 0

    def _run(
        self, command: Sequence[str], timeout_seconds: float = CALL_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.environment,
                # Not the agent's: a directory that the job's node lacks.
                cwd="/",
                timeout=timeout_seconds,
                check=False,
            )
        except FileNotFoundError:
            raise RunnerUnavailable(
                f"There is no {command[0]} on this host; install Slurm's client programs."
            ) from None


def unreachable(said: str) -> RunnerUnavailable:
    """The error for a controller that did not answer; `said` is what came instead."""
    return RunnerUnavailable(
        f"Slurm is not reachable: {said}. See that slurmctld and munge run, and that this host is "
        "a client of the cluster; its jobs go on meanwhile."
    )


def _passing(said: str) -> bool:
    lowered = said.lower()
    return any(words in lowered for words in _PASSING)


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it failed without a word"
