"""From a task's profile and constants to the command that a runner starts. Pure.

Constants that a profile does not know are environment variables of the command. Commands go
to a shell, so that variables are expanded in them as people expect.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.agent.jobs.task_spec import TaskSpec
from holdfast.errors import UsageError
from holdfast.model.task import JOB_DIRECTORY
from holdfast.runners.runner import Command

RUNNERS: Final = {"batch": "local", "docker-batch": "podman", "slurm-batch": "slurm"}
"""The runner of each profile."""

_DOCKER: Final = frozenset(
    {"DOCKER_REPO", "DOCKER_TAG", "DOCKER_CMD", "DOCKER_WORKDIR", "DOCKER_USER",
     "DOCKER_IMAGE_DIGEST"}
)  # fmt: skip
_OWN: Final = {
    "batch": frozenset({"COMMAND"}),
    "docker-batch": _DOCKER,
    "slurm-batch": frozenset({"COMMAND", "SLURM_PARTITION", "SLURM_TIME_LIMIT"}),
}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SLURM_TIME: Final = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def runner_name(spec: TaskSpec) -> str:
    """Which runner runs it; raises `UsageError` for a profile that is not known here."""
    name = RUNNERS.get(spec.profile)
    if name is None:
        raise UsageError(
            f"This agent does not know the profile {spec.profile!r}; install the server's version "
            "of Holdfast on this host."
        )
    return name


def command_of(spec: TaskSpec) -> Command:
    """The command of an instance; raises `UsageError` where it cannot be meant."""
    runner = runner_name(spec)
    given = spec.constants
    image = digest = user = workdir = partition = None
    text = given.get("COMMAND", "")
    limit = spec.time_limit_seconds
    if runner == "podman":
        image = f"{_needed(spec, 'DOCKER_REPO')}:{given.get('DOCKER_TAG') or 'latest'}"
        text = given.get("DOCKER_CMD", "")
        digest, user = given.get("DOCKER_IMAGE_DIGEST") or None, given.get("DOCKER_USER") or None
        workdir = given.get("DOCKER_WORKDIR") or JOB_DIRECTORY
    else:
        text = _needed(spec, "COMMAND")
    if runner == "slurm":
        partition = given.get("SLURM_PARTITION") or None
        limit = _shorter(limit, slurm_seconds(given.get("SLURM_TIME_LIMIT", "")))
    return Command(
        argv=("/bin/sh", "-c", text) if text else (),
        environment=_environment(spec),
        image=image,
        image_digest=digest,
        user=user,
        workdir=workdir,
        time_limit_seconds=limit,
        name=spec.name,
        partition=partition,
    )


def slurm_seconds(text: str) -> int | None:
    """A time as Slurm writes it (minutes, minutes:seconds, hours:minutes:seconds, with days
    in front of hours), or None for none; raises `UsageError`."""
    if not text.strip():
        return None
    found = _SLURM_TIME.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"SLURM_TIME_LIMIT is {text!r}; write minutes, or hours:minutes:seconds, or "
            "days-hours:minutes:seconds."
        )
    days, *parts = (None if each is None else int(each) for each in found.groups())
    given = [each for each in parts if each is not None]
    if days is not None:
        hours, minutes, seconds = (*given, 0, 0)[:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:
        hours, (minutes, seconds) = 0, (*given, 0)[:2]
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _environment(spec: TaskSpec) -> dict[str, str]:
    own = _OWN[spec.profile]
    found = {
        name: value
        for name, value in spec.constants.items()
        if name not in own and _VARIABLE.fullmatch(name) and "\0" not in value
    }
    return {
        **found,
        "HOLDFAST_TASK_ID": spec.task_id,
        "HOLDFAST_INSTANCE": str(spec.number),
        "INSTANCE_ID": str(spec.number),
        "INSTANCE_COUNT": str(spec.instances),
    }


def _needed(spec: TaskSpec, name: str) -> str:
    value = spec.constants.get(name, "")
    if not value or "\0" in value:
        raise UsageError(f"The profile {spec.profile} needs the constant {name}; give it a value.")
    return value


def _shorter(one: int | None, other: int | None) -> int | None:
    given = [each for each in (one, other) if each is not None]
    return min(given, default=None)
