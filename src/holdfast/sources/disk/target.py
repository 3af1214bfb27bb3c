"""A target file: written under a temporary name, seen under its own only when complete.

The invariant: whatever happens, the name shows either what it showed before or the whole
new file; a failure leaves nothing behind. Never overwrites unless told to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, Self

from holdfast.errors import TargetError, TargetFull, TargetNotEmpty

if TYPE_CHECKING:
    from types import TracebackType

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def translated(error: OSError, target: str) -> TargetError:
    """The error to raise for a failed write to `target`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TargetFull(f"{target} cannot be written: {reason}. Make room and try again.")
    if error.errno == errno.EFBIG:
        return TargetError(
            f"{target} cannot be written: the file system does not hold files of that size. "
            "Choose another target, or qcow2."
        )
    if error.errno == errno.EBUSY:
        return TargetError(f"{target} is in use. Unmount it, or stop what uses it, and try again.")
    return TargetError(f"{target} cannot be written: {reason}.")


def write_all(fd: int, data: memoryview, offset: int, target: str) -> None:
    """Write all of `data` at `offset` of a seekable descriptor of `target`."""
    try:
        while data:
            done = os.pwrite(fd, data, offset)
            offset += done
            data = data[done:]
    except OSError as error:
        raise translated(error, target) from error


class TargetFile:
    """A context that holds an open descriptor `fd`; leaving it without error publishes.

    The file is readable by its owner only: a disk holds secrets. A symbolic link as
    target stays, and what it points to is replaced.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, fsync: bool) -> None:
        self.path = os.path.realpath(path)
        self._overwrite = overwrite
        self._fsync = fsync
        directory, name = os.path.split(self.path)
        self._directory = directory
        # Names end at 255 bytes on nearly every file system.
        short = os.fsdecode(os.fsencode(name)[:200])
        self._partial = os.path.join(directory, f".{short}.{secrets.token_hex(4)}.partial")
        self.fd = -1

    def __enter__(self) -> Self:
        if os.path.isdir(self.path):
            raise TargetError(f"{self.path} is a directory; name a file in it.")
        if not self._overwrite and os.path.lexists(self.path):
            raise self._exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self.fd = os.open(self._partial, flags, 0o600)
        except OSError as error:
            raise translated(error, self.path) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        except OSError as failure:
            raise translated(failure, self.path) from failure
        finally:
            if self.fd >= 0:
                os.close(self.fd)
            with contextlib.suppress(OSError):
                os.unlink(self._partial)  # still there only where publishing did not happen

    def _publish(self) -> None:
        if self._fsync:
            os.fsync(self.fd)
        # Closing may be where a network file system says that there is no room.
        fd, self.fd = self.fd, -1
        os.close(fd)
        if self._overwrite:
            os.replace(self._partial, self.path)
        else:
            self._publish_new()
        if self._fsync:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            except OSError as error:
                if error.errno != errno.EINVAL:  # some file systems cannot, and say so thus
                    raise
            finally:
                os.close(directory)

    def _publish_new(self) -> None:
        # A rename would replace what somebody else put there meanwhile; a link cannot.
        try:
            os.link(self._partial, self.path)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self.path):
                raise self._exists() from None
            os.rename(self._partial, self.path)

    def _exists(self) -> TargetNotEmpty:
        return TargetNotEmpty(
            f"{self.path} exists already. Choose another name, or say that it may be overwritten."
        )
