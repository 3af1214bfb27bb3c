"""Raw export: write a disk to an image file, a block device, or a stream.

Takes the disk as (offset, bytes) in increasing order, where whatever is missing is zero.
Never changes an existing file or device unless told to; an image file appears under its
name only when it is complete. Does not read from a repository: the caller brings bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import TargetError, TargetNotEmpty, UsageError
from holdfast.model.finding import Finding
from holdfast.sources.disk.target import TargetFile, translated, write_all
from holdfast.sources.disk.zeroes import ZEROES, nonzero_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.sources.disk.zeroes import Buffer

HOLE_BYTES = 64 << 10
"""Zeroes inside a chunk become a hole where they fill an aligned block of this size."""

_BLKZEROOUT = 0x127F
_ZEROOUT_ALIGNMENT = 4096
_ZEROOUT_PIECE = 1 << 30  # the ioctl cannot be interrupted: about a second at most
_ZEROOUT_REFUSED = (errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.EBUSY)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export did: the disk's size, the bytes of data written (zeroes not counted)."""

    size_bytes: int
    data_bytes: int
    findings: tuple[Finding, ...] = ()


def in_order(
    size_bytes: int, chunks: Iterable[tuple[int, Buffer]]
) -> Iterator[tuple[int, memoryview]]:
    """Yield the chunks as views of bytes; raise `UsageError` if they are not in order."""
    behind = 0
    for offset, data in chunks:
        view = memoryview(data).cast("B")
        if offset < behind or offset + len(view) > size_bytes:
            raise UsageError(
                f"{len(view)} bytes for position {offset} came after position {behind} of a "
                f"disk of {size_bytes} bytes was reached; chunks must come in disk order."
            )
        behind = offset + len(view)
        yield offset, view


def write_raw(
    target: str | os.PathLike[str] | int,
    size_bytes: int,
    chunks: Iterable[tuple[int, Buffer]],
    *,
    overwrite: bool = False,
    fsync: bool = True,
) -> ExportResult:
    """Write a disk of `size_bytes` as it is.

    - A path becomes a sparse file; an existing one needs `overwrite`.
    - A path to a block device needs `overwrite` and a device that is large enough and
      that nothing uses. Missing ranges are zeroed by the device itself where it can
      (BLKZEROOUT, which unlike a discard is sure to read as zero), else by writing.
      Bytes behind the disk's end stay, with a finding.
    - A descriptor is written in place, from its beginning, and stays open; a regular file
      must be empty or `overwrite` given. A pipe receives every zero.

    Raises `TargetFull`, `TargetNotEmpty`, `TargetError`; `UsageError` for bad chunks. What
    `chunks` raises passes through after the target is cleaned up.
    """
    if size_bytes < 0:
        raise UsageError(f"A disk cannot have {size_bytes} bytes.")
    ordered = in_order(size_bytes, chunks)
    if isinstance(target, int):
        return _write_descriptor(target, size_bytes, ordered, overwrite=overwrite, fsync=fsync)
    path = os.fspath(target)
    if is_device(path):
        return _write_device_path(path, size_bytes, ordered, overwrite=overwrite, fsync=fsync)
    with TargetFile(path, overwrite=overwrite, fsync=fsync) as file:
        return ExportResult(size_bytes, _write_sparse(file.fd, file.path, size_bytes, ordered))


def _write_device_path(
    path: str,
    size_bytes: int,
    chunks: Iterator[tuple[int, memoryview]],
    *,
    overwrite: bool,
    fsync: bool,
) -> ExportResult:
    fd = open_device(path, size_bytes, overwrite=overwrite)
    try:
        return _write_device(fd, path, size_bytes, chunks, fsync=fsync)
    finally:
        os.close(fd)


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether there is a block device under that name."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def open_device(path: str, size_bytes: int, *, overwrite: bool) -> int:
    """Open a block device to be overwritten by a disk of `size_bytes`; return its descriptor.

    Raises `TargetNotEmpty` without `overwrite`, `TargetError` where it is in use or too small.
    """
    if not overwrite:
        raise TargetNotEmpty(
            f"{path} is a block device, whose content would be lost. Say that it may be "
            "overwritten if that is meant."
        )
    try:
        # On a block device O_EXCL asks the kernel that nothing else, such as a mount, holds it.
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise translated(error, path) from error
    try:
        _require_room(fd, path, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def larger_device_findings(fd: int, name: str, size_bytes: int) -> tuple[Finding, ...]:
    """Say that a block device goes on behind the end of the disk, where it does."""
    behind = os.lseek(fd, 0, os.SEEK_END) - size_bytes
    if not behind:
        return ()
    return (
        Finding(
            "device_larger",
            f"{name} is {behind} bytes larger than the disk; what lay behind the disk's end "
            "was left there.",
            name,
        ),
    )


def _require_room(fd: int, name: str, size_bytes: int) -> None:
    device_bytes = os.lseek(fd, 0, os.SEEK_END)
    if device_bytes < size_bytes:
        raise TargetError(
            f"{name} has {device_bytes} bytes, the disk {size_bytes}. Choose a larger device."
        )


def _write_descriptor(
    fd: int,
    size_bytes: int,
    chunks: Iterator[tuple[int, memoryview]],
    *,
    overwrite: bool,
    fsync: bool,
) -> ExportResult:
    name = f"descriptor {fd}"
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise translated(error, name) from error
    if stat.S_ISBLK(status.st_mode):
        if not overwrite:
            raise TargetNotEmpty(
                f"{name} is a block device, whose content would be lost. Say that it may "
                "be overwritten if that is meant."
            )
        return _write_device(fd, name, size_bytes, chunks, fsync=fsync)
    if not stat.S_ISREG(status.st_mode):
        return ExportResult(size_bytes, _write_stream(fd, name, size_bytes, chunks))
    if status.st_size and not overwrite:
        raise TargetNotEmpty(f"{name} is a file that is not empty. Give an empty one.")
    data_bytes = _write_sparse(fd, name, size_bytes, chunks)
    if fsync:
        flush(fd, name)
    return ExportResult(size_bytes, data_bytes)


def _write_sparse(
    fd: int, name: str, size_bytes: int, chunks: Iterator[tuple[int, memoryview]]
) -> int:
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)
    except OSError as error:
        raise translated(error, name) from error
    data_bytes = 0
    for offset, view in chunks:
        for start, part in nonzero_runs(offset, view, HOLE_BYTES):
            write_all(fd, part, start, name)
            data_bytes += len(part)
    return data_bytes


def _write_device(
    fd: int, name: str, size_bytes: int, chunks: Iterator[tuple[int, memoryview]], *, fsync: bool
) -> ExportResult:
    _require_room(fd, name, size_bytes)
    position = data_bytes = 0
    for offset, view in chunks:
        for start, part in nonzero_runs(offset, view, HOLE_BYTES):
            zero_device(fd, name, position, start)
            write_all(fd, part, start, name)
            data_bytes += len(part)
            position = start + len(part)
    zero_device(fd, name, position, size_bytes)
    if fsync:
        flush(fd, name)
    return ExportResult(size_bytes, data_bytes, larger_device_findings(fd, name, size_bytes))


def zero_device(fd: int, name: str, start: int, end: int) -> None:
    """Make `start` to `end` of a block device read as zero."""
    while start < end:
        to_border = _ZEROOUT_ALIGNMENT - start % _ZEROOUT_ALIGNMENT
        length = min(end - start, to_border)
        if to_border == length == _ZEROOUT_ALIGNMENT:
            length = min(end - start, _ZEROOUT_PIECE)
            length -= length % _ZEROOUT_ALIGNMENT
            if not _zero_out(fd, name, start, length):
                length = min(length, len(ZEROES))
                write_all(fd, memoryview(ZEROES)[:length], start, name)
        else:
            write_all(fd, memoryview(ZEROES)[:length], start, name)
        start += length


def _zero_out(fd: int, name: str, start: int, length: int) -> bool:
    """Have the device zero a range; False if it does not offer that."""
    try:
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", start, length))
    except OSError as error:
        if error.errno in _ZEROOUT_REFUSED:
            return False
        raise translated(error, name) from error
    return True


def flush(fd: int, name: str) -> None:
    """Make everything written to `fd` durable."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise translated(error, name) from error


def _write_stream(
    fd: int, name: str, size_bytes: int, chunks: Iterator[tuple[int, memoryview]]
) -> int:
    position = data_bytes = 0
    for offset, view in chunks:
        _stream_zeroes(fd, name, offset - position)
        _stream(fd, name, view)
        data_bytes += len(view)
        position = offset + len(view)
    _stream_zeroes(fd, name, size_bytes - position)
    return data_bytes


def _stream_zeroes(fd: int, name: str, length: int) -> None:
    while length:
        piece = min(length, len(ZEROES))
        _stream(fd, name, memoryview(ZEROES)[:piece])
        length -= piece


def _stream(fd: int, name: str, data: memoryview) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise translated(error, name) from error
