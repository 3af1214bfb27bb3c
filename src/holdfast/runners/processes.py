"""What /proc says of processes: whose children they are, whether they stand still.

It reads and never signals. A process is named by its number and its start time together, since
numbers are used again. Processes that end while they are read are left out. The supervisor
imports this, so it stays small.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple


class Process(NamedTuple):
    """One line of /proc/<pid>/stat; `started` is in clock ticks since the boot."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def is_dead(self) -> bool:
        """It has ended, though its parent may not have asked how."""
        return self.state in "ZXx"


def process(pid: int) -> Process | None:
    """The process of that number, or None."""
    return _read(f"/proc/{pid}/stat", pid)


def processes() -> Iterator[Process]:
    """All of them that this process can see."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := process(int(name))) is not None:
            yield found


def descendants(ancestor: int) -> list[Process]:
    """The living children of a process, their children, and so on; not itself.

    Complete for a subreaper, to which a process falls whose parent has ended; what is forked
    during the call may be missing.
    """
    children: dict[int, list[Process]] = {}
    for each in processes():
        children.setdefault(each.parent, []).append(each)
    found: list[Process] = []
    waiting = [ancestor]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child.pid)
            if not child.is_dead:
                found.append(child)
    return found


def stands_still(pid: int) -> bool:
    """Whether every thread of it is stopped, or gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    found = (_read(f"/proc/{pid}/task/{thread}/stat", pid) for thread in threads)
    return all(each is None or each.is_dead or each.state in "Tt" for each in found)


def environment_holds(pid: int, entry: bytes) -> bool:
    """Whether the environment that a process was started with has this ``NAME=value``."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False


def boot_id() -> str:
    """What tells this run of the machine from every other."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _read(path: str, pid: int) -> Process | None:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name before may hold spaces and brackets: only the last bracket is certain.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid,
        fields[0].decode(),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[19]),
    )
