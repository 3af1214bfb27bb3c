"""How one run of a Slurm job stands, judged from what its script noted and what Slurm says.

`noted` reads what the batch script wrote; `judge` decides and does no I/O. Invariant: nothing
counts as ended while Slurm may still run any of it, and what cannot be known is ``lost``, never
guessed to have succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.model.finding import Finding
from holdfast.runners.runner import Kind, RunnerStatus
from holdfast.runners.slurm_job import SlurmJob

GRACE_SECONDS: Final = 60.0
"""For how long a shared file system may hide from this host what a node has written."""

COMPLETING_SECONDS: Final = 300.0
"""How long after its end a job may be completing before its status counts nevertheless.

A node that went away holds a job in that state for as long as it is away.
"""

_KILLED: Final = 137
_NEVER_STARTED: Final = 143

_ENDED_BY_SLURM: Final = frozenset(
    {"TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE"}
)
_LOST: Final = frozenset({"NODE_FAIL", "BOOT_FAIL", "REVOKED", "LAUNCH_FAILED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What the batch script wrote down of its latest run.

    `asked` tells that the job had been asked to end when the command ended.
    """

    starts: int = 0
    started_at: datetime | None = None
    node: str = ""
    exit_code: int | None = None
    asked: bool = False
    ended_at: datetime | None = None
    time_limit_near: bool = False


def noted(control: Path) -> Noted:
    """Read the notes of a runner's directory; the latest run alone counts.

    An earlier one counts where its command had ended by itself.
    """
    starts, ends = _numbered(control, "start"), _numbered(control, "exit")
    runs = sorted(starts | ends)
    for run in runs:
        code, asked, ended_at = _read_exit(control, run)
        if run == runs[-1] or (code is not None and not asked):
            started_at, node = _read_start(control, run)
            return Noted(
                starts=len([each for each in starts if each <= run]),
                started_at=started_at,
                node=node,
                exit_code=code,
                asked=asked,
                ended_at=ended_at,
                time_limit_near=(control / "time_limit_near").exists(),
            )
    return Noted()


def _numbered(control: Path, what: str) -> set[int]:
    try:
        names = [entry.name.split(".") for entry in control.iterdir()]
    except FileNotFoundError:
        return set()
    return {int(name[1]) for name in names if name[0] == what and name[1:] and len(name) == 2
            and name[1].isdigit()}  # fmt: skip


def _read_start(control: Path, run: int) -> tuple[datetime | None, str]:
    words = _words(control / f"start.{run}")
    return (_time(words[0]), words[1]) if len(words) == 2 else (None, "")


def _read_exit(control: Path, run: int) -> tuple[int | None, bool, datetime | None]:
    words = _words(control / f"exit.{run}")
    if len(words) != 3:
        return None, False, None
    return int(words[0]), words[1] != "0", _time(words[2])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []


def _time(epoch_seconds: str) -> datetime:
    return datetime.fromtimestamp(int(epoch_seconds), UTC)


def judge(
    notes: Noted, job: SlurmJob | None, *, reference: str, unseen_seconds: float, now: datetime
) -> RunnerStatus:
    """The status.

    `job` is None where Slurm knows it no more. `unseen_seconds` is for how long what Slurm says
    (that the job is over or unknown) has stood against the script's silence.
    """
    remarks = _remarks(notes, job, reference)

    def status(kind: Kind, exit_code: int | None = None) -> RunnerStatus:
        over = kind in {"ended", "lost"}
        return RunnerStatus(
            kind=kind,
            exit_code=exit_code if kind == "ended" else None,
            reference=reference,
            notes=remarks,
            started_at=notes.started_at,
            ended_at=(notes.ended_at or now) if over else None,
        )

    if job is not None and not job.over:
        stale = (
            notes.ended_at is not None
            and (now - notes.ended_at).total_seconds() > COMPLETING_SECONDS
            and "COMPLETING" in job.states
        )
        # A job that was requeued after its command had ended does nothing in its next turn.
        idle = job.waiting and notes.exit_code is not None and not notes.asked
        return status("ended", notes.exit_code) if stale or idle else status("running")
    if notes.exit_code is not None:
        return status("ended", notes.exit_code)
    if job is not None and job.states & _ENDED_BY_SLURM:
        if notes.started_at is None:
            return status("ended", _NEVER_STARTED)
        return status("ended", job.exit_code or _KILLED)
    if unseen_seconds < GRACE_SECONDS and not (job is not None and job.states & _LOST):
        return status("running")
    # The script hands the command's exit status on, for the case that it could not write.
    if job is not None and notes.started_at is not None and not job.states & _LOST:
        if "COMPLETED" in job.states:
            return status("ended", 0)
        if "FAILED" in job.states and job.exit_code:
            return status("ended", job.exit_code)
    return status("lost")


def _remarks(notes: Noted, job: SlurmJob | None, reference: str) -> tuple[Finding, ...]:
    found = []
    restarts = max(notes.starts - 1, job.restarts if job is not None else 0)
    if restarts > 0:
        found.append(
            Finding(
                "slurm_requeued",
                f"Slurm requeued the job: it was begun again {restarts} times, from its start, in "
                "the directory as it was.",
                reference,
            )
        )
    if notes.time_limit_near:
        found.append(
            Finding("slurm_time_limit_near", "Slurm will soon end the job at its limit.", reference)
        )
    if job is None or not job.over:
        return tuple(found)
    if "TIMEOUT" in job.states or "DEADLINE" in job.states:
        found.append(
            Finding("limit_kept_late", "Slurm ended the job at its time limit.", reference)
        )
    elif "OUT_OF_MEMORY" in job.states:
        found.append(
            Finding(
                "memory_exhausted",
                "Slurm ended the job because it used more memory than it was given.",
                reference,
            )
        )
    elif "PREEMPTED" in job.states:
        found.append(
            Finding("slurm_preempted", "Slurm ended the job in favour of another.", reference)
        )
    elif "CANCELLED" in job.states:
        found.append(Finding("slurm_cancelled", "The job was cancelled in Slurm.", reference))
    elif job.states & _LOST or job.reason == "JobLaunchFailure":
        found.append(
            Finding(
                "slurm_node_failed",
                f"Slurm could not keep the job running: {job.state}, {job.reason}.",
                reference,
            )
        )
    return tuple(found)
