"""The mount table of this process, as far as capturing a path needs it. Reads only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""

    point: bytes
    kind: str
    options: frozenset[str]  # of the mount and of the file system

    def is_below(self, path: bytes) -> bool:
        return self.point.startswith(path.rstrip(b"/") + b"/") and self.point != path


def parse_mounts(table: bytes) -> list[Mount]:
    """The mounts of a mountinfo document, in its order: a later one covers earlier ones."""
    mounts = []
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        fields, system = before.split(b" "), after.split(b" ")
        options = (fields[5] + b"," + system[2]).decode("utf-8", "backslashreplace")
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        mounts.append(Mount(point, system[0].decode(), frozenset(options.split(","))))
    return mounts


def read_mounts() -> list[Mount]:
    with open("/proc/self/mountinfo", "rb") as table:
        return parse_mounts(table.read())


def mount_of(path: bytes, mounts: list[Mount]) -> Mount | None:
    """The mount that an absolute path without links lies on."""
    found = None
    for mount in mounts:
        at_or_below = mount.point == path or path.startswith(mount.point.rstrip(b"/") + b"/")
        if at_or_below and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found
