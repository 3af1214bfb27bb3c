"""Reading restored files back from the disk, and holding them against their blobs' ids.

Several threads read; hashing lets the others run. What the kernel keeps of a file is dropped
first, so that the disk answers and not the memory that the file was just written to. Nothing
is written, and the repository is not asked: an id is the hash of what it stands for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple

_RUN_BYTES: Final = 64 << 20
_AHEAD: Final = 4


class Piece(NamedTuple):
    """Where in its file a blob stands."""

    offset: int
    length: int
    blob_id: bytes


class _Read(NamedTuple):
    same_bytes: int
    fault: str


@dataclass(slots=True)
class _File:
    fd: int
    path: bytes
    outstanding: int = 0
    is_whole: bool = False
    is_faulty: bool = False


class ContentCheck:
    """Use with ``with``; `check` takes files, and leaving waits for none that is not done.

    `on_fault` is told the path and what is wrong, once for a file, and `on_read` how many
    bytes were the same; both in the thread that calls `check` and `finish`.
    """

    def __init__(
        self,
        threads: int,
        *,
        on_fault: Callable[[bytes, str], None],
        on_read: Callable[[int], None],
    ) -> None:
        """`threads` is 0 to read in the caller's own."""
        self._on_fault, self._on_read = on_fault, on_read
        self._executor = ThreadPoolExecutor(threads, "read-back") if threads else None
        self._most_ahead = _AHEAD * threads
        self._ahead: deque[tuple[_File, Future[_Read]]] = deque()
        self._open: dict[int, _File] = {}
        self._zero_ids: dict[int, bytes] = {}
        self._stop = threading.Event()

    def __enter__(self) -> ContentCheck:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        for fd in self._open:
            os.close(fd)
        self._open.clear()

    def check(self, fd: int, path: bytes, pieces: Sequence[Piece]) -> None:
        """Compare an open file with its blobs; the descriptor is taken over and closed."""
        file = self._open[fd] = _File(fd, path)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for run in _runs(pieces):
            file.outstanding += 1
            if self._executor is None:
                self._take(file, self._read(fd, run))
                continue
            while len(self._ahead) >= self._most_ahead:
                self._take_oldest()
            self._ahead.append((file, self._executor.submit(self._read, fd, run)))
        file.is_whole = True
        self._close_if_done(file)

    def finish(self) -> None:
        """Wait until everything is read."""
        while self._ahead:
            self._take_oldest()

    def _take_oldest(self) -> None:
        file, future = self._ahead.popleft()
        self._take(file, future.result())

    def _take(self, file: _File, read: _Read) -> None:
        file.outstanding -= 1
        if read.fault and not file.is_faulty:
            file.is_faulty = True
            self._on_fault(file.path, read.fault)
        self._on_read(read.same_bytes)
        self._close_if_done(file)

    def _close_if_done(self, file: _File) -> None:
        if file.is_whole and not file.outstanding:
            del self._open[file.fd]
            os.close(file.fd)

    def _read(self, fd: int, run: Sequence[Piece]) -> _Read:
        same = 0
        fault = ""
        for offset, length, blob_id in run:
            if self._stop.is_set():
                break
            try:
                found = self._id_of(fd, offset, length)
            except OSError as error:
                return _Read(same, f"it cannot be read back: {error.strerror}")
            if found == blob_id:
                same += length
            else:
                fault = fault or (
                    f"the {length} bytes at {offset} were read back, and are not what the "
                    "snapshot holds"
                )
        return _Read(same, fault)

    def _id_of(self, fd: int, offset: int, length: int) -> bytes:
        if _is_hole(fd, offset, length):
            known = self._zero_ids.get(length)
            if known is None:
                known = self._zero_ids[length] = hashlib.sha256(bytes(length)).digest()
            return known
        return hashlib.sha256(os.pread(fd, length, offset)).digest()


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    run: list[Piece] = []
    size = 0
    for piece in pieces:
        run.append(piece)
        size += piece.length
        if size >= _RUN_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


def _is_hole(fd: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        # Without any more data it is a hole, as long as the file reaches so far.
        return error.errno == errno.ENXIO and os.fstat(fd).st_size >= offset + length
