"""Ending what is left of a computation whose supervisor was killed.

What was forked by a command cannot be told by parentage any more: it has fallen to the first
process of the machine. It is known by its control group, by its session, and by the variable
that its environment has carried since the start. Nothing is signalled that a restart of the
machine, or a number used again, may have put in its place.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from holdfast.errors import RunnerUnavailable
from holdfast.runners.cgroup import Cgroup
from holdfast.runners.processes import boot_id, environment_holds, process, processes

_END_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.01


def end_leftovers(state: Mapping[str, Any]) -> None:
    """Kill what is left, and see it gone; `state` is what the supervisor noted at the start.

    Raises `RunnerUnavailable` where something does not end.
    """
    if state["boot"] != boot_id():
        return
    deadline = time.monotonic() + _END_SECONDS
    cgroup = Cgroup(state["cgroup"]) if state["cgroup"] else None
    while found := _leftovers(state, cgroup):
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RunnerUnavailable(
                f"Processes of a lost computation do not end: {sorted(found)}. They hang in the "
                "kernel, or belong to another user; end them, or restart the machine."
            )
        time.sleep(_PAUSE_SECONDS)
    if cgroup is not None:
        cgroup.remove()


def _leftovers(state: Mapping[str, Any], cgroup: Cgroup | None) -> set[int]:
    command, token = state["command"], f"HOLDFAST_RUN={state['token']}".encode()
    leader = process(command)
    # No number is given out anew while a session of that number has members: only where the
    # leader is another process than it was may the members be strangers.
    ours = leader is None or leader.started == state["started"]
    found = {
        each.pid
        for each in processes()
        if not each.is_dead
        and each.started >= state["started"]
        and ((ours and command in (each.session, each.group)) or environment_holds(each.pid, token))
    }
    if cgroup is not None:
        found.update(cgroup.members())
    return found - {os.getpid()}
