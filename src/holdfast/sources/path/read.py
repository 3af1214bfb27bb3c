"""Reading files that others may be writing: content whose metadata did not move meanwhile.

A read is stable when size, modification time, change time and inode are the same before
and after it, and the last change was over before. One that is not is read again, up to
three times, and then reported as torn: never dropped, never silently kept. A descriptor is
opened without following a link and without blocking on a fifo that took the file's place.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

TRIES = 3
_RACY_NS = 20_000_000
_LOOKS = 3
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOATIME_TRIES_LEFT = [True]


def open_for_reading(name: bytes, dir_fd: int) -> int:
    """Open a file without following it, changing its access time only where we must."""
    if _NOATIME_TRIES_LEFT[0]:
        try:
            return os.open(name, _FLAGS | os.O_NOATIME, dir_fd=dir_fd)
        except PermissionError:
            pass  # only owners may ask for that
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _NOATIME_TRIES_LEFT[0] = False
    return os.open(name, _FLAGS, dir_fd=dir_fd)


class Look(NamedTuple):
    """A file's metadata before it is read. `settled`: no change was under way at that time."""

    status: os.stat_result
    settled: bool


def look(fd: int, sleep: Callable[[float], None] = time.sleep) -> Look:
    """Return the metadata of a file, having waited a moment for a change to be over.

    The times of a file move when a write begins, not when it has ended, and two changes
    within one tick of a coarse clock carry the same time. So a file that was changed in the
    last 20 ms cannot be read in a way that would notice; it is looked at again a little
    later. One that is being changed all the while does not settle. A single write that takes
    longer than that can go unseen; the next backup reads such a file again (`settle_ns`).
    """
    for _ in range(_LOOKS):
        status = os.fstat(fd)
        # Beyond that the clock is another machine's, and says nothing about now.
        if abs(time.time_ns() - status.st_ctime_ns) >= _RACY_NS:
            return Look(status, settled=True)
        sleep(_RACY_NS / 1e9)
    return Look(os.fstat(fd), settled=False)


def same_file(seen: Look, after: os.stat_result) -> bool:
    """Whether certainly nothing changed the content between the look and `after`."""
    before = seen.status
    return (
        seen.settled
        and before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
        and before.st_ino == after.st_ino
    )


def is_regular(st: os.stat_result) -> bool:
    return stat.S_ISREG(st.st_mode)
