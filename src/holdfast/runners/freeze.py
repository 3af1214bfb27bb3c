"""Holding a tree of processes still, and letting it go again.

With a control group the kernel does it. Without one, and for what has left it (as containers do
that a command starts), every process of the tree is stopped by a signal, and the tree is read
again until nothing new appears and every thread stands. Invariant:
thawing continues those processes only that we stopped; one that a person stopped stays so.
Imported by the supervisor, which is to stay small.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from holdfast.runners.cgroup import Cgroup
from holdfast.runners.processes import Process, descendants, process, stands_still

_PAUSE_SECONDS = 0.002
_PATIENCE_SECONDS = 1.0


class Freezer:
    """Freezes what descends from `ancestor`, a subreaper, or is in its control group."""

    def __init__(self, ancestor: int, cgroup: Cgroup | None) -> None:
        self._ancestor, self._cgroup = ancestor, cgroup
        self._stopped: set[tuple[int, int]] = set()

    @property
    def how(self) -> str:
        return "signals" if self._cgroup is None else "cgroup"

    def freeze(self, within_seconds: float) -> bool:
        """Return whether all of it stands still now; if not, all of it goes on."""
        deadline = time.monotonic() + within_seconds
        if self._cgroup is not None and not self._cgroup.freeze(deadline):
            return False
        while time.monotonic() < deadline:
            patience = min(deadline, time.monotonic() + _PATIENCE_SECONDS)
            if self._stop_all(patience):
                return True
            # A process that waits in the kernel for a child which we stopped before it could
            # do its part (vfork) never stands; let both go on, and try again.
            self._continue()
            time.sleep(_PAUSE_SECONDS)
        self.thaw()
        return False

    def thaw(self) -> None:
        if self._cgroup is not None:
            self._cgroup.thaw()
        self._continue()

    def _continue(self) -> None:
        for pid, started in self._stopped:
            found = process(pid)
            if found is not None and found.started == started:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._stopped.clear()

    def _stop_all(self, deadline: float) -> bool:
        """Stop what runs until one look at the tree finds nothing that does."""
        while True:
            frozen = set() if self._cgroup is None else set(self._cgroup.members())
            tree = [each for each in descendants(self._ancestor) if each.pid not in frozen]
            fresh = [each for each in tree if self._is_fresh(each)]
            for each in fresh:
                # One that is not ours to stop (it changed its user) never stands: see below.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(each.pid, signal.SIGSTOP)
                    self._stopped.add((each.pid, each.started))
            if not fresh and all(stands_still(each.pid) for each in tree):
                return True
            if time.monotonic() > deadline:
                return False
            if not fresh:
                time.sleep(_PAUSE_SECONDS)

    def _is_fresh(self, each: Process) -> bool:
        return each.state != "T" and (each.pid, each.started) not in self._stopped
