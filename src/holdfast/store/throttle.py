"""Keeps the bytes that go to and come from a store below a rate.

It wraps any store. All threads of a process and all its worker processes that use one
instance, forked or unpickled, share its two rates: how far each is paid stands in shared
memory. Requests themselves, listings and deletions are not counted. An object is paid for
as a whole and then moves at the speed of the line: the rate holds over seconds, not
within one object.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable

from holdfast.errors import UsageError
from holdfast.store.protocol import Buffer, ObjectStore
from holdfast.store.wrapped import WrappedStore

BURST_SECONDS = 1.0
_MOMENT = struct.Struct("=d")


class TokenBucket:
    """Says how long to wait before so many bytes may pass, at `bytes_per_second`.

    What was not used is saved for `BURST_SECONDS` at most. None means no limit. `clock` must
    be the same for all processes, as `time.monotonic` is. Pickling shares the bucket, while
    the process that made it lives.
    """

    def __init__(
        self,
        bytes_per_second: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        path: str | None = None,
    ) -> None:
        """`path` is where another process has put the moment up to which it is paid."""
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise UsageError("A rate limit must be above 0 bytes per second; leave it out instead.")
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._fd = -1
        if path is not None:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        elif bytes_per_second is not None:
            self._fd = os.memfd_create("holdfast-paid-until", os.MFD_CLOEXEC)
            os.write(self._fd, _MOMENT.pack(float("-inf")))

    def __reduce__(self) -> tuple[object, ...]:
        path = None if self._fd < 0 else f"/proc/{os.getpid()}/fd/{self._fd}"
        return TokenBucket, (self._bytes_per_second, self._clock, self._sleep, path)

    def take(self, count_bytes: int) -> None:
        """Wait until `count_bytes` are paid for."""
        if self._bytes_per_second is None or count_bytes == 0:
            return
        if self._process != os.getpid():
            # The lock may have been held by a thread that does not exist in this child.
            self._lock = threading.Lock()
            self._process = os.getpid()
        # A lock on the file keeps processes apart, but not the threads of one. The kernel
        # gives it back when a process is killed.
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                now = self._clock()
                (paid_until,) = _MOMENT.unpack(os.pread(self._fd, _MOMENT.size, 0))
                begin = max(paid_until, now - BURST_SECONDS)
                paid_until = begin + count_bytes / self._bytes_per_second
                os.pwrite(self._fd, _MOMENT.pack(paid_until), 0)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
        if paid_until > now:
            self._sleep(paid_until - now)

    def close(self) -> None:
        """Give the shared memory back; other processes keep theirs."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ThrottledStore(WrappedStore):
    """An `ObjectStore` that reads and writes no faster than told; None is no limit.

    It can be pickled where the inner store, `clock` and `sleep` can.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        read_bytes_per_second: float | None = None,
        write_bytes_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(inner)
        self._reads = TokenBucket(read_bytes_per_second, clock, sleep)
        self._writes = TokenBucket(write_bytes_per_second, clock, sleep)

    def create(self, key: str, data: Buffer) -> None:
        self._writes.take(memoryview(data).nbytes)
        self._inner.create(key, data)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._inner.read(key, offset, length)
        # Paid afterwards, when the number of bytes is known; the next one waits for it.
        self._reads.take(len(data))
        return data

    def close(self) -> None:
        super().close()
        self._reads.close()
        self._writes.close()
