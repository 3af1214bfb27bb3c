"""Profiles: the kinds of computation that a task can be, each with a runner and its constants.

A fixed list. A constant that a profile does not know becomes an environment variable of
the command, so its name must be one. It never looks at hosts: whether one of them offers a
runner is decided where instances are placed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.control.principal import Principal, Right
from holdfast.errors import UsageError
from holdfast.model.caption import check_text

MAX_CONSTANTS: Final = 200
MAX_VALUE_LENGTH: Final = 32 * 1024
MAX_VALUES_LENGTH: Final = 256 * 1024
OWN_VARIABLES: Final = "HOLDFAST_"
"""What the variables begin with that Holdfast itself gives to every command."""

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant of a profile: what it is without a wish, and what it is for."""

    name: str
    default: str
    what: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of computation. Without the `required` constants there is nothing to run."""

    name: str
    runner: str
    what: str
    constants: tuple[Constant, ...]
    required: tuple[str, ...]


PROFILES: Final = (
    Profile(
        "batch",
        "local",
        "A shell command, as a process of the host.",
        (Constant("COMMAND", "", "The command, for /bin/sh."),),
        ("COMMAND",),
    ),
    Profile(
        "docker-batch",
        "podman",
        "A command in a container.",
        (
            Constant("DOCKER_REPO", "", "The image, such as library/python."),
            Constant("DOCKER_TAG", "latest", "The image's tag."),
            Constant("DOCKER_CMD", "", "The command; without one, the image's own."),
            Constant("DOCKER_WORKDIR", "/job", "The directory in which it runs."),
            Constant("DOCKER_USER", "", "The user in the container; without one, the image's own."),
            Constant("DOCKER_IMAGE_DIGEST", "", "What the image must be: sha256:..."),
        ),
        ("DOCKER_REPO",),
    ),
    Profile(
        "slurm-batch",
        "slurm",
        "A shell command, as a job of a Slurm cluster.",
        (
            Constant("COMMAND", "", "The command, for /bin/sh."),
            Constant("SLURM_PARTITION", "", "The partition; without one, the cluster's own."),
            Constant("SLURM_TIME_LIMIT", "", "The longest time, as Slurm writes it: 1-12:00:00."),
        ),
        ("COMMAND",),
    ),
)
_BY_NAME: Final = {each.name: each for each in PROFILES}


def profiles(who: Principal) -> tuple[Profile, ...]:
    """All of them, for somebody who may see what there is."""
    who.require(Right.READ)
    return PROFILES


def profile_named(name: str) -> Profile:
    """The profile of that name; `UsageError` that lists them where there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UsageError(
            f"There is no profile {name[:100]!r}; there are {', '.join(sorted(_BY_NAME))}."
        )
    return found


def checked_constants(
    profile: Profile, constants: Sequence[tuple[str, str]]
) -> list[dict[str, str]]:
    """The constants as a task keeps them, in their order; of one name the last one counts."""
    given: dict[str, str] = {}
    for name, value in constants:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name[:100]!r} cannot be a constant: it becomes an environment variable, whose "
                "name has A to Z, 0 to 9 and _, and begins with no digit."
            )
        if name.startswith(OWN_VARIABLES):
            raise UsageError(
                f"The constant {name} begins with {OWN_VARIABLES}, as what Holdfast itself tells "
                "the command; choose another name."
            )
        given[name] = check_text(value, f"constant {name}", longest=MAX_VALUE_LENGTH)
    if len(given) > MAX_CONSTANTS:
        raise UsageError(f"There are {len(given)} constants; at most {MAX_CONSTANTS} are possible.")
    if sum(map(len, given.values())) > MAX_VALUES_LENGTH:
        raise UsageError(
            f"The constants have more than {MAX_VALUES_LENGTH:,} characters in all; put what is "
            "long into a bucket and name that as an input."
        )
    for name in profile.required:
        if not given.get(name, "").strip():
            raise UsageError(
                f"A task of the profile {profile.name} needs the constant {name}, or there is "
                "nothing to run."
            )
    return [{"key": name, "value": value} for name, value in given.items()]


def in_full(profile: Profile, constants: Sequence[dict[str, str]]) -> dict[str, str]:
    """A task's constants with the profile's own for those that were not given."""
    whole = {each.name: each.default for each in profile.constants}
    return whole | {each["key"]: each["value"] for each in constants}
