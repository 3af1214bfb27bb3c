"""One job as Slurm tells of it, read from the JSON of any version since 22.05.

Only what the runner decides by is read; the rest of a document may look as it likes. The
forms differ: 22.05 says ``"job_state": "RUNNING"``, plain integers and raw wait statuses,
later versions say ``["RUNNING", "STOPPED"]``, ``{"set": ..., "infinite": ..., "number": ...}``
and spell the exit status out. A state that is not known here counts as active: a job that
Slurm still tells of must not be taken for ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

TERMINAL: Final = frozenset(
    {
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED", "LAUNCH_FAILED"),
    }
)
"""States after which a job does nothing more, unless another word stands beside."""

_STILL_AT_IT: Final = frozenset(
    {"COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "STAGE_OUT"}
)


_NO_SUCH_JOB: Final = "invalid job id"


class NotAnswered(Exception):
    """The document says that Slurm could not be asked; nothing follows about any job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """A job in Slurm's queue, or one that lately was.

    `states` are Slurm's words, base state and flags together. `exit_code` is as shells say it
    (128 + the number of a signal), or None where Slurm says none. `batch_host` is the node of
    the batch script, empty while there is none.
    """

    job_id: int
    name: str = ""
    states: frozenset[str] = frozenset()
    reason: str = ""
    exit_code: int | None = None
    restarts: int = 0
    batch_host: str = ""
    directory: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing of it runs or will run."""
        return bool(self.states & TERMINAL) and not self.states & _STILL_AT_IT

    @property
    def waiting(self) -> bool:
        """Whether it waits for its turn, the first or another one."""
        return "PENDING" in self.states and not self.states & {"COMPLETING"}

    @property
    def running(self) -> bool:
        """Whether its processes exist and are not on their way out."""
        return bool(self.states & {"RUNNING", "STOPPED"}) and not self.states & _STILL_AT_IT

    @property
    def stopped(self) -> bool:
        """Whether somebody sent it the signal STOP, and none CONT since."""
        return "STOPPED" in self.states

    @property
    def state(self) -> str:
        """Its state in one word, for people."""
        return next(iter(sorted(self.states & TERMINAL) or sorted(self.states)), "UNKNOWN")


def parse_jobs(text: str) -> list[SlurmJob]:
    """The jobs in what ``squeue --json`` or ``scontrol --json show job`` printed.

    Raises `NotAnswered` where the controller was not reached: 22.05 prints an empty list then
    and exits with 0. Raises `ValueError` where it is no such document.
    """
    document = json.loads(text)
    jobs = document.get("jobs") if isinstance(document, dict) else None
    if not isinstance(jobs, list):
        raise ValueError("there is no list of jobs in it")  # noqa: TRY004
    for error in document.get("errors") or ():
        said = " ".join(str(error.get(name) or "") for name in ("description", "error"))
        if _NO_SUCH_JOB not in said.lower():
            raise NotAnswered(said.strip())
    return [_job(each) for each in jobs if isinstance(each, dict) and _number(each.get("job_id"))]


def _job(fields: dict[str, Any]) -> SlurmJob:
    states = _words(fields.get("job_state"))
    return SlurmJob(
        job_id=_number(fields.get("job_id")) or 0,
        name=str(fields.get("name") or ""),
        states=states,
        reason=str(fields.get("state_reason") or ""),
        exit_code=_exit_code(fields.get("exit_code")),
        restarts=_number(fields.get("restart_cnt")) or 0,
        batch_host=str(fields.get("batch_host") or ""),
        directory=str(fields.get("current_working_directory") or ""),
    )


def _words(value: object) -> frozenset[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list):
        return frozenset()
    return frozenset(str(each).upper() for each in found if each)


def _number(value: object) -> int | None:
    """An integer in either form; None where it is not set, or infinite."""
    if isinstance(value, dict):
        if value.get("set") is False or value.get("infinite"):
            return None
        value = value.get("number")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _exit_code(value: object) -> int | None:
    if isinstance(value, dict) and "number" not in value:
        return _spelt_exit_code(value)
    raw = _number(value)
    if raw is None:
        return None
    # The raw form is what wait(2) gives: the signal below, the status above it.
    return 128 + (raw & 0x7F) if raw & 0x7F else (raw >> 8) & 0xFF


def _spelt_exit_code(value: dict[str, Any]) -> int | None:
    signal = value.get("signal")
    if isinstance(signal, dict):
        # 23.02 calls it signal_id, later versions id.
        number = _number(signal.get("id", signal.get("signal_id")))
        if number:
            return 128 + number
    return _number(value.get("return_code"))
