"""What a child process does: one module for each kind of job, each with a function `run`.

`run` takes a `JobContext` and returns a `JobEnd`; it raises errors of the tree. Modules are
loaded when they are needed. Nothing here talks to the control plane.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from holdfast.agent.jobs.context import JobContext, JobEnd
from holdfast.errors import UsageError

SPEC_VERSION: Final = 1
"""The newest form of a job's spec that is known here."""

_KINDS: Final = frozenset(
    {
        "backup",
        "restore",
        "drill",
        "copy",
        "verify",
        "remove",
        "prune",
        "measure",
        "reconcile",
        "task",
    }
)


def run(context: JobContext, spec_version: int) -> JobEnd:
    """Do a job. `UsageError` for one that this version of the agent does not know."""
    if context.kind not in _KINDS or spec_version > SPEC_VERSION:
        raise UsageError(
            f"This agent does not know jobs of kind {context.kind} in form {spec_version}; "
            "install the server's version of Holdfast on this host."
        )
    module = import_module(f"holdfast.agent.jobs.{context.kind}")
    act: Callable[[JobContext], JobEnd] = module.run
    return act(context)
