"""Which runner a profile means, and which of them work on this host.

It only chooses; what a runner can do, it says itself. A runner's module is loaded when it is
asked for, so that a host which runs local commands never loads the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from holdfast.errors import UsageError
from holdfast.runners.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What a host's settings say about its runners.

    `podman` is the podman command with its global options. `podman_run` are more options of
    ``podman create``, such as ``--device``.
    """

    podman: tuple[str, ...] = ("podman",)
    podman_run: tuple[str, ...] = ()


DEFAULTS: Final = RunnerOptions()


def _local(_: RunnerOptions) -> Runner:
    from holdfast.runners.local import LocalRunner

    return LocalRunner()


def _podman(options: RunnerOptions) -> Runner:
    from holdfast.runners.podman import PodmanRunner

    return PodmanRunner(options.podman, run_options=options.podman_run)


def _slurm(_: RunnerOptions) -> Runner:
    from holdfast.runners.slurm import SlurmRunner

    return SlurmRunner()


_MAKERS: Final[dict[str, Callable[[RunnerOptions], Runner]]] = {
    "local": _local,
    "podman": _podman,
    "slurm": _slurm,
}
NAMES: Final = tuple(_MAKERS)


def runner_for(name: str, options: RunnerOptions = DEFAULTS) -> Runner:
    """The runner of that name; raises `UsageError` where there is none."""
    make = _MAKERS.get(name)
    if make is None:
        raise UsageError(
            f"There is no runner {name!r}; this version of the agent knows {', '.join(NAMES)}. "
            "A newer agent may know it."
        )
    return make(options)


def available(options: RunnerOptions = DEFAULTS) -> dict[str, dict[str, Any]]:
    """What works on this host, for its inventory."""
    found = {name: runner_for(name, options).inventory() for name in NAMES}
    return {name: said for name, said in found.items() if said is not None}
