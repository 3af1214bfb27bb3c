"""One server for each data directory: a lock that the kernel takes back when it ends.

The lock is a flock on a file in the directory, so no crash leaves it behind. The file holds
the process id of its holder, for the message to whoever comes second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import InUse


@contextmanager
def only_instance(directory: str) -> Iterator[None]:
    """Hold the directory for the length of the block, or raise `InUse`."""
    path = os.path.join(directory, "lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise InUse(
                f"A Holdfast server (process {holder or 'unknown'}) uses {directory} already. Stop "
                "it first, or give this one another --data-directory."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
