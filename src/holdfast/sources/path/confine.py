"""A directory tree that can be walked and cleared but never left.

Every directory is opened name by name from its parent's descriptor, with O_NOFOLLOW, so a
symbolic link in the tree, restored earlier or planted by somebody in this very moment,
is never passed through. Only the root itself is resolved by the system, once: it is what
the caller named. Descriptors are O_PATH, so that a directory without read permission
can be entered as far as the kernel allows; the most recently used ones are kept.

One instance serves one thread; after a fork each process may go on with its own copy.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from holdfast.errors import PathEscapes
from holdfast.sources.path.tally import printable

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_name(name: bytes) -> None:
    """Refuse what is not the name of an entry in its directory."""
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        message = (
            f"{printable(name)!r} is not the name of a file; the snapshot is damaged or was made"
            " to write outside the target. Nothing was written for it"
        )
        raise PathEscapes(message)


def check_within(path: bytes, directory: bytes) -> None:
    """Raise PathEscapes unless a path without links is `directory` or lies in it."""
    if path != directory and not path.startswith(directory.rstrip(b"/") + b"/"):
        message = (
            f"{printable(path)} lies outside {printable(directory)}, which a symbolic link on"
            " the way leads to; name a path that stays inside"
        )
        raise PathEscapes(message)


def join(parent: bytes, name: bytes) -> bytes:
    """The path of an entry relative to the root; the root itself is ``b""``."""
    return parent + b"/" + name if parent else name


def via_proc(fd: int, name: bytes = b"") -> bytes:
    """A path for calls that take no directory descriptor; exactly what `fd` refers to."""
    return b"/proc/self/fd/%d/%s" % (fd, name) if name else b"/proc/self/fd/%d" % fd


class ConfinedTree:
    """Descriptors of directories at or below a root; paths are relative, bytes, no ``..``."""

    def __init__(self, root: bytes, keep_open: int = 256, *, within: bytes = b"") -> None:
        """Open `root`; raises OSError when it is not a directory. Keeps few files open.

        `within`: a directory, as the kernel names it, that the root must be or lie in, also
        where somebody plants symbolic links meanwhile; otherwise PathEscapes.
        """
        self.root = root
        self._keep_open = max(keep_open, 2)
        self._open: dict[bytes, int] = {}
        self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if within:
            try:
                check_within(os.readlink(via_proc(self._root_fd)), within)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def __del__(self) -> None:
        # A worker that does its tasks inside the parent ends with nobody to close its trees.
        if getattr(self, "_root_fd", -1) >= 0:
            self.close()

    def directory(self, path: bytes) -> int:
        """An O_PATH descriptor of a directory, good until the next call of this object.

        Raises PathEscapes when a part of the path is a symbolic link or not a name, and
        OSError when there is no such directory.
        """
        if not path:
            return self._root_fd
        fd = self._open.pop(path, None)
        if fd is not None:
            self._open[path] = fd  # the dict is in order of use: the first is the oldest
            return fd
        known, parts = path, []
        while known:
            known, slash, name = known.rpartition(b"/")
            check_name(name if known or not slash else b"")  # no leading slash either
            parts.append(name)
            if known in self._open:
                break
        fd = self._open[known] if known else self._root_fd
        for name in reversed(parts):
            fd = self._enter(fd, known, name)
            known = join(known, name)
        return fd

    def _enter(self, parent_fd: int, parent: bytes, name: bytes) -> int:
        try:
            fd = os.open(name, _WALK, dir_fd=parent_fd)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP) and self._is_link(parent_fd, name):
                path = printable(join(parent, name))
                message = (
                    f"{path!r} below the target is a symbolic link where a directory belongs;"
                    " nothing is written through it. Remove the link and run the restore again"
                )
                raise PathEscapes(message) from error
            raise
        if len(self._open) >= self._keep_open:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        self._open[join(parent, name)] = fd
        return fd

    @staticmethod
    def _is_link(parent_fd: int, name: bytes) -> bool:
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def forget(self, path: bytes) -> None:
        """Drop what is known of a directory that is about to be replaced, and below it."""
        below = path + b"/"
        for known in [known for known in self._open if known == path or known.startswith(below)]:
            os.close(self._open.pop(known))

    def lstat(self, parent: bytes, name: bytes) -> os.stat_result | None:
        """What stands at a path; None when nothing does, nor can because of its parents."""
        try:
            return os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, in no order."""
        fd = os.open(b".", _LIST, dir_fd=self.directory(path))
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def below(self, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Everything below a directory with its ``lstat``, children before their parent.

        Does not descend into other file systems; a mount point is given as an entry.
        """
        device = os.fstat(self.directory(path)).st_dev
        pending: list[tuple[bytes, os.stat_result | None, bool]] = [(path, None, False)]
        while pending:
            here, status, entered = pending.pop()
            if entered or (status is not None and not self._may_enter(status, device)):
                assert status is not None
                yield here, status
                continue
            if status is not None:
                pending.append((here, status, True))
            for name in self.names(here):
                child = self.lstat(here, name)
                if child is not None:
                    pending.append((join(here, name), child, False))

    @staticmethod
    def _may_enter(status: os.stat_result, device: int) -> bool:
        return stat.S_ISDIR(status.st_mode) and status.st_dev == device

    def remove(self, path: bytes, *, directory: bool) -> None:
        """Remove one file, or one directory that is empty. Raises OSError."""
        parent, _, name = path.rpartition(b"/")
        check_name(name)
        parent_fd = self.directory(parent)
        if directory:
            self.forget(path)
            os.rmdir(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
