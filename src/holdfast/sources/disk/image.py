"""Disk images: raw image files and block devices as a `DiskReader`.

Never writes, never interprets what lies on the disk, and never takes a container format
(qcow2, VMDK and the like) for a raw disk. Reading leaves the page cache about as it was:
what was read is dropped behind the reader, so that 1 TB read evicts nobody's files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Self

from holdfast.errors import SourceError, SourceVanished
from holdfast.model.extent import Extent
from holdfast.model.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW_BYTES = 32 << 20
"""Pages are dropped in pieces of this size; chunk by chunk costs a tenth of the speed."""

_CONTAINERS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)
"""Offset, magic bytes and qemu's name of the formats that hold a disk inside a file."""

_RACY_NS = 20_000_000
"""Two changes of a file within one tick of the kernel's clock may carry the same time."""

_GONE = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ESTALE)
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class ImageReader:
    """A raw image file or block device, whose size is the one it had when opened.

    A file that is written to meanwhile is read as torn as it is and leaves a finding;
    one that shrinks is an error. For a consistent disk, capture a frozen copy.
    `accept_containers` reads a qcow2 or other container as the plain bytes that it is,
    for disks whose guest has written such a header itself.
    """

    def __init__(self, path: str | os.PathLike[str], *, accept_containers: bool = False) -> None:
        self._path = os.fspath(path)
        try:
            # Without O_NONBLOCK a named pipe would hang here for ever.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._translated(error, "opened") from error
        try:
            self._opened = os.fstat(self._fd)
            self._is_device = stat.S_ISBLK(self._opened.st_mode)
            if not self._is_device and not stat.S_ISREG(self._opened.st_mode):
                raise SourceError(
                    f"{self._path} is neither a file nor a block device, so it is no disk."
                )
            self._size_bytes = self._current_size()
            if not accept_containers:
                self._refuse_containers()
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._writes_before = self._writes() if self._is_device else None
        except OSError as error:
            os.close(self._fd)
            raise self._translated(error, "opened") from error
        except BaseException:
            os.close(self._fd)
            raise
        self._lock = threading.Lock()
        self._holes_unknown = False
        self._closed = False
        # The range that was read and whose pages are still in the page cache.
        self._cached_start = self._cached_end = 0
        if not self._is_device and time.time_ns() - self._opened.st_mtime_ns < _RACY_NS:
            # A write in the same tick as the last one before would leave no trace. What is
            # written while we wait here is read as it then is.
            time.sleep(_RACY_NS / 1e9)

    @property
    def size_bytes(self) -> int:
        """The size in bytes when the image was opened."""
        return self._size_bytes

    def extents(self) -> Iterator[Extent]:
        """Yield data and holes as the file system knows them; a device is all data."""
        size = self._size_bytes
        position = 0
        while position < size:
            if self._is_device:
                data, hole = position, size
            else:
                data, hole = self._next_data(position)
            if data > position:
                yield Extent(position, data - position, zero=True)
            if hole > data:
                yield Extent(data, hole - data)
            position = hole

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; raises `SourceError` rather than read less."""
        wanted = len(buffer)
        if offset < 0 or offset + wanted > self._size_bytes:
            raise SourceError(
                f"{wanted} bytes at {offset} of {self._path} were asked for, which has "
                f"{self._size_bytes} bytes."
            )
        done = 0
        while done < wanted:
            try:
                count = os.preadv(self._fd, [buffer[done:] if done else buffer], offset + done)
            except OSError as error:
                raise self._translated(error, f"read at {offset + done}") from error
            if not count:
                raise self._shrunk()
            done += count
        self._drop_behind(offset, wanted)

    def findings(self) -> tuple[Finding, ...]:
        """Say whether the image changed since it was opened, and whether holes were known."""
        found: list[Finding] = []
        if self._holes_unknown:
            found.append(
                Finding(
                    "holes_unknown",
                    f"The file system does not say where the holes of {self._path} are; all "
                    f"of its {self._size_bytes} bytes were read.",
                    self._path,
                )
            )
        changed = self._change()
        if self._is_device and self._writes_before is None:
            found.append(
                Finding(
                    "changes_unknown",
                    f"The kernel does not count the writes to {self._path}, so whether it was "
                    "written to while it was read is not known. Capture a snapshot of it that "
                    "nothing writes to.",
                    self._path,
                )
            )
        if changed:
            found.append(
                Finding(
                    "disk_changed",
                    f"{self._path} {changed} while it was read; what was captured may be a mix "
                    "of old and new. Stop what uses it, or capture a frozen copy.",
                    self._path,
                )
            )
        return tuple(found)

    def close(self) -> None:
        """Drop what is left in the page cache and close the file; twice is once."""
        if self._closed:
            return
        self._closed = True
        self._drop(self._cached_start, self._cached_end)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_data(self, position: int) -> tuple[int, int]:
        """The next data at or behind `position`: where it begins, and where it ends."""
        size = self._size_bytes
        try:
            data = os.lseek(self._fd, position, os.SEEK_DATA)
            hole = os.lseek(self._fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # "No more data", also behind the end of a file that has shrunk.
                self._refuse_shrunk()
                return size, size
            if error.errno in _NO_HOLES:
                self._holes_unknown = True
                return position, size
            raise self._translated(error, f"searched for holes at {position}") from error
        if position == data == 0 and hole >= size and self._opened.st_blocks * 1024 < size:
            # The kernel's answer for file systems that do not know: one piece of data. A
            # file that takes less than half its size has holes, or is compressed.
            self._holes_unknown = True
        # If the file ended at `hole`, the search from there says so.
        return min(data, size), min(hole, size)

    def _current_size(self) -> int:
        # The end of a block device is where BLKGETSIZE64 says, and the number of that
        # ioctl is not the same on all machines.
        if self._is_device:
            return os.lseek(self._fd, 0, os.SEEK_END)
        return os.fstat(self._fd).st_size

    def _refuse_shrunk(self) -> None:
        if self._current_size() < self._size_bytes:
            raise self._shrunk()

    def _refuse_containers(self) -> None:
        head = os.pread(self._fd, 512, 0)
        for offset, magic, name in _CONTAINERS:
            if head[offset : offset + len(magic)] == magic:
                raise SourceError(
                    f"{self._path} is not a raw disk but a {name} image. Convert it with "
                    f"`qemu-img convert -f {name} -O raw`, or serve it as a block device with "
                    f"`qemu-nbd --read-only -f {name} --connect /dev/nbd0` and capture that."
                )

    def _change(self) -> str:
        """What happened to the image since it was opened; empty if nothing is known of."""
        try:
            size = self._current_size()
            if size != self._size_bytes:
                return f"changed its size from {self._size_bytes} to {size} bytes"
            there = os.stat(self._path)
        except OSError as error:
            return "was removed" if error.errno in _GONE else "became unreadable"
        if self._is_device:
            if there.st_rdev != self._opened.st_rdev:
                return "was replaced"
            return "" if self._writes() == self._writes_before else "was written to"
        if (there.st_dev, there.st_ino) != (self._opened.st_dev, self._opened.st_ino):
            return "was replaced"
        return "" if there.st_mtime_ns == self._opened.st_mtime_ns else "was written to"

    def _writes(self) -> tuple[str, str] | None:
        """The sectors written to the device and discarded from it, None if nobody counts.

        Source: the kernel's ``Documentation/block/stat.rst``.
        """
        # What others wrote into the page cache is counted only on its way to the medium.
        os.fsync(self._fd)
        number = self._opened.st_rdev
        try:
            with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat") as file:
                fields = file.read().split()
        except OSError:
            return None
        # Sectors and not requests, as the flush above is a write request without sectors.
        return (fields[6], fields[13] if len(fields) > 13 else "")

    def _drop_behind(self, offset: int, length: int) -> None:
        """Note what was read, and drop what lies more than a window behind it."""
        with self._lock:
            start, end = self._cached_start, self._cached_end
            near = start - _WINDOW_BYTES <= offset <= end + _WINDOW_BYTES
            if near and start < end:
                start, end = min(start, offset), max(end, offset + length)
                drop_start, drop_end = start, end - _WINDOW_BYTES
                if drop_end - drop_start < _WINDOW_BYTES:
                    drop_end = drop_start
                start = drop_end
            else:
                drop_start, drop_end = start, end
                start, end = offset, offset + length
            self._cached_start, self._cached_end = start, end
        self._drop(drop_start, drop_end)

    def _drop(self, start: int, end: int) -> None:
        if end > start:
            with contextlib.suppress(OSError):  # only advice
                os.posix_fadvise(self._fd, start, end - start, os.POSIX_FADV_DONTNEED)

    def _shrunk(self) -> SourceError:
        return SourceError(
            f"{self._path} had {self._size_bytes} bytes when it was opened and became shorter "
            "while it was read. Capture it again when nothing resizes it."
        )

    def _translated(self, error: OSError, act: str) -> SourceError:
        reason = error.strerror or str(error)
        if error.errno in _GONE:
            return SourceVanished(f"The disk {self._path} cannot be {act}: {reason}.")
        if error.errno in (errno.EACCES, errno.EPERM):
            return SourceError(
                f"The disk {self._path} cannot be {act}: {reason}. Run as a user who may read it."
            )
        if error.errno == errno.EIO:
            return SourceError(
                f"The disk {self._path} cannot be {act}: {reason}. The medium is failing or its "
                "server is away; look at the kernel's messages."
            )
        return SourceError(f"The disk {self._path} cannot be {act}: {reason}.")
