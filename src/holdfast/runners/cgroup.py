"""A control group of our own for one computation, where this user may make one.

Control groups of version 2 freeze and kill everything in them at once, whatever it forks.
The group is made below the one that we are in, so that whatever limits us limits it too.
Imported by the supervisor, which is to stay small.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

_PAUSE_SECONDS = 0.005


class Cgroup:
    """A group's directory below /sys/fs/cgroup; it may have gone."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def make(cls, name: str) -> Cgroup | None:
        """A new group of that name, or None where that is not possible."""
        above = _own_directory()
        if above is None:
            return None
        group = cls(os.path.join(above, name))
        try:
            os.mkdir(group.path)
        except OSError:
            return None
        if os.access(os.path.join(group.path, "cgroup.freeze"), os.W_OK):
            return group
        group.remove()
        return None

    def take(self, pid: int) -> None:
        """Move a process into it; raises `OSError`."""
        self._write("cgroup.procs", str(pid))

    def freeze(self, deadline: float) -> bool:
        """Hold everything in it still; False, and thawed, where that took too long."""
        self._write("cgroup.freeze", "1")
        while not self._is_frozen():
            if time.monotonic() > deadline:
                self.thaw()
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def thaw(self) -> None:
        with suppress(FileNotFoundError):
            self._write("cgroup.freeze", "0")

    def kill(self) -> None:
        """Kill what is in it, frozen or not."""
        try:
            self._write("cgroup.kill", "1")
        except FileNotFoundError:
            # Linux before 5.14.
            for pid in self.members():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def members(self) -> list[int]:
        """The processes that are in it or in a group below."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.path):
            with suppress(OSError), open(os.path.join(directory, "cgroup.procs")) as file:
                found.extend(int(line) for line in file)
        return found

    def remove(self) -> None:
        """Remove it with the groups below; one that is not empty stays."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)

    def _is_frozen(self) -> bool:
        with open(os.path.join(self.path, "cgroup.events")) as file:
            return "frozen 1" in file.read()

    def _write(self, name: str, text: str) -> None:
        descriptor = os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _own_directory() -> str | None:
    """The directory of the version 2 group that this process is in."""
    with open("/proc/self/cgroup") as file:
        own = [line[3:].rstrip("\n") for line in file if line.startswith("0::")]
    if not own:
        return None
    with open("/proc/self/mountinfo") as file:
        for line in file:
            mount, _, kind = line.partition(" - ")
            if not kind.startswith("cgroup2 "):
                continue
            top, point = mount.split()[3:5]
            below = os.path.relpath(own[0], top)
            if below.split("/")[0] != "..":
                return os.path.normpath(os.path.join(point, below))
    return None
