"""Holding a Slurm job still for a while, and letting it go on whatever happens.

Slurm's STOP reaches the batch script's process group and its steps; a step of our own on the
node stops what is left, looks until everything stands, and says so. CONT by Slurm reaches the
batch script, which continues the rest on its node. So letting go needs nothing but scancel,
and four times somebody does: the freezer when it is done; a helper process when the freezer
died or took too long; `thaw_forgotten` when both of them died, with this host for example;
Slurm itself when it ends or requeues the job.

It never stops a job that somebody else has stopped, because it would have to let that go on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from holdfast.errors import NotFreezable, RunnerError
from holdfast.runners.runner import Frozen, Place
from holdfast.runners.slurm_client import SlurmClient
from holdfast.runners.slurm_helper import Thaw
from holdfast.runners.slurm_job import SlurmJob
from holdfast.runners.slurm_run import noted
from holdfast.runners.slurm_script import MEMBERS

_LOOK_SECONDS: Final = 8.0
_THAW_SECONDS: Final = 60.0

_LOOK: Final = (
    MEMBERS
    + r"""
until=$(($(date +%s) + 5))
while [ "$(date +%s)" -lt "$until" ]; do
    standing= moving=
    # This step is the job's as well.
    own=$(grep -lsz "^SLURM_STEP_ID=$SLURM_STEP_ID\$" /proc/[0-9]*/environ | cut -d / -f 3)
    for each in $(members | grep -vxF "$own"); do
        case $(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$each/status" 2>/dev/null) in
            T | t) standing=1 ;;
            '' | Z | X) ;;
            *) moving="$moving $each" ;;
        esac
    done
    [ -n "$standing" ] && [ -z "$moving" ] && exit 0
    {act}
done
exit 1
"""
)
_STOP: Final = _LOOK.replace("{act}", '[ -z "$moving" ] || kill -STOP $moving; sleep 0.05')
_STANDS: Final = _LOOK.replace("{act}", "exit 1")


@contextmanager
def frozen(
    client: SlurmClient, place: Place, job_id: int, at_most_seconds: float
) -> Iterator[Frozen]:
    """Hold the job still; raises `NotFreezable`."""
    job = _running(client, place, job_id)
    marker = place.control / "frozen"
    with _lock(place) as lock:
        if lock is None:
            raise NotFreezable(f"Job {job_id} is being frozen already; try again later.")
        # Before the signal: whoever finds the marker and no holder thaws.
        marker.touch()
        thaw = Thaw(
            job_id, at_most_seconds, marker=marker, lock=lock, environment=client.environment
        )
        try:
            _stop(client, job, thaw)
            yield Frozen(
                "slurm",
                lambda: thaw.waits and _goes_on(place) and bool(_look(client, job, _STANDS)),
            )
        finally:
            # Somebody killed it, or Slurm is away: then `status` does it, or the helper later.
            if not thaw.let_go(_THAW_SECONDS):
                with suppress(RunnerError):
                    client.signal(job_id, "CONT")
                    marker.unlink(missing_ok=True)


def thaw_forgotten(client: SlurmClient, place: Place, job_id: int) -> None:
    """Let go on what was frozen by somebody who is no more."""
    marker = place.control / "frozen"
    if not marker.exists():
        return
    with _lock(place) as lock:
        if lock is not None and marker.exists():
            client.signal(job_id, "CONT")
            marker.unlink(missing_ok=True)


def _running(client: SlurmClient, place: Place, job_id: int) -> SlurmJob:
    if not _goes_on(place):
        raise NotFreezable(f"No command of job {job_id} runs: it waits, or has ended.")
    try:
        job = next(iter(client.jobs(job_id=job_id)), None)
    except RunnerError as error:
        raise NotFreezable(f"The job cannot be frozen now: {error.message}") from error
    if job is None or not job.running:
        state = "unknown to Slurm" if job is None else job.state
        raise NotFreezable(f"Job {job_id} does not run: it is {state}.")
    if job.stopped and not (place.control / "frozen").exists():
        raise NotFreezable(
            f"Somebody else has stopped job {job_id}; have it go on with "
            f"'scancel --signal=CONT --full {job_id}'."
        )
    return job


def _stop(client: SlurmClient, job: SlurmJob, thaw: Thaw) -> None:
    try:
        client.signal(job.job_id, "STOP")
        still = _look(client, job, _STOP)
        if not still:
            # Slurm's signal may have reached the looking step as well.
            still = _look(client, job, _STOP)
    except RunnerError as error:
        raise NotFreezable(f"The job cannot be frozen now: {error.message}") from error
    if still is not None:
        thaw.settled()
    if not still:
        raise NotFreezable(
            f"It could not be seen on {job.batch_host} that all processes of job {job.job_id} "
            "stand still. A step beside the job has to start there: try 'srun --overlap "
            f"--jobid={job.job_id} true'."
        )


def _look(client: SlurmClient, job: SlurmJob, script: str) -> bool | None:
    """Whether every process of the job stands, seen by a step of its own on the node."""
    return client.in_job(job.job_id, job.batch_host, script, _LOOK_SECONDS)


def _goes_on(place: Place) -> bool:
    notes = noted(place.control)
    return notes.started_at is not None and notes.exit_code is None


@contextmanager
def _lock(place: Place) -> Iterator[int | None]:
    """The descriptor of the lock of freezing; None where another one holds it."""
    lock = os.open(place.control / "freeze.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        except OSError as error:
            raise NotFreezable(
                f"The file system of {place.root} has no locks ({error.strerror}), so its jobs "
                "cannot be frozen safely; mount it with them."
            ) from error
        else:
            yield lock
    finally:
        os.close(lock)
