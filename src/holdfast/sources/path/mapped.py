"""Files that running programs have mapped into their memory for writing.

A store through such a mapping moves a file's times only when a page is touched for the
first time since it was last written back; the stores after it leave no trace. So times say
little about such a file. Reads ``/proc`` only; programs that this user may not look into
are passed over.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

_SHARED = re.compile(rb"^\S+ .w.s \S+ \S+ (\d+)", re.MULTILINE)


def mapped_inodes(proc: str = "/proc") -> frozenset[int]:
    """Inode numbers of all files that are mapped shared and writable at this moment.

    Numbers alone, because a file of a layered file system shows the device of its layer:
    another file with the same number may be among them.
    """
    found: set[int] = set()
    own = str(os.getpid())
    for name in os.listdir(proc):
        if not name.isdigit() or name == own:
            continue
        # It ended meanwhile, or is somebody else's.
        with suppress(OSError):
            fd = os.open(f"{proc}/{name}/maps", os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = _whole(fd)
            finally:
                os.close(fd)
            if b"s " in text:
                found.update(map(int, _SHARED.findall(text)))
    found.discard(0)
    return frozenset(found)


def _whole(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 18):
        parts.append(part)
    return b"".join(parts)
