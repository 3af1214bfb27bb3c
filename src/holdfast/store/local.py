"""A store in a local directory, laid out exactly as restic lays out a local repository.

An object is one file; its key is its path below the root. A file appears under its final
name only when it is whole and synced: it is written under ``<name>-tmp-<digits>`` in the
same directory (restic's own scheme, and a name that no key can have), synced, linked to
its final name, which fails where that name is taken, and the directory is synced before
`create` returns. Nothing is ever opened for writing under its final name, replaced or
renamed over.

A crash leaves at most a temporary file, which no listing shows, and which
`LocalStore.remove_stale_temporaries` removes when it is a day old.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterable, Iterator

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from holdfast.store.key import check_key, check_prefix, check_range, is_segment, is_temporary
from holdfast.store.protocol import Buffer, ObjectInfo

STALE_SECONDS = 24 * 60 * 60

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# A network file system whose server went away; EIO is not among them: after a failed
# sync the kernel may have dropped the data, and a failing disk does not heal by retrying.
_PASSING = frozenset(
    {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
     errno.ECONNRESET, errno.ENOTCONN, errno.EAGAIN}
)  # fmt: skip
# What file systems without hard links answer to link(2): FAT and many FUSE ones say EPERM.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


class LocalStore:
    """An `ObjectStore` in a directory; shareable, fork-safe, no state but a small cache.

    The root is made by the first `create`. As with restic, directories are for the owner
    only and files are read-only, unless the ``config`` file lets the group read.

    `on_step` is called with a word after every change that this store makes on disk, and
    before the first of each call, from whichever thread and process makes it. Crash tests
    end the process there; nothing else sets it.
    """

    shareable = True
    fork_safe = True

    def __init__(self, path: str, *, on_step: Callable[[str], None] | None = None) -> None:
        self._root = os.path.abspath(path)
        self._on_step = on_step
        self._file_mode, self._directory_mode = self._modes()
        # Directories that exist and whose own entry is known to be on disk.
        self._settled: set[str] = set()

    @property
    def location(self) -> str:
        return self._root

    def create(self, key: str, data: Buffer) -> None:
        self.create_stream(key, (data,))

    def create_stream(
        self,
        key: str,
        chunks: Iterable[Buffer],
        *,
        size_bytes: int | None = None,  # noqa: ARG002 - a file needs no plan
    ) -> int:
        """As `StreamingStore` says; of two writers of one name exactly one returns."""
        check_key(key)
        final = self._path(key)
        directory, name = os.path.split(final)
        try:
            self._step("create")
            self._settle(directory)
            return self._write(directory, name, final, chunks)
        except FileExistsError:
            raise ObjectExists(f"{key} exists already in {self._root}.") from None
        except OSError as error:
            # Whoever removed a directory, the next call makes it again.
            self._settled.clear()
            raise self._translated(error, f"write {key}") from error

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(offset, length)
        try:
            file = os.open(self._path(key), os.O_RDONLY)
            try:
                wanted = length
                if wanted is None:
                    wanted = max(0, os.fstat(file).st_size - offset)
                return _read(file, offset, wanted)
            finally:
                os.close(file)
        except OSError as error:
            raise self._missing_or(error, key, f"read {key}") from error

    def size(self, key: str) -> int:
        check_key(key)
        try:
            found = os.stat(self._path(key))
        except OSError as error:
            raise self._missing_or(error, key, f"look at {key}") from error
        if not stat.S_ISREG(found.st_mode):
            raise self._not_found(key)
        return found.st_size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        start = self._path(prefix.rstrip("/")) if prefix else self._root
        for path, found in self._files(start, temporaries=False):
            yield ObjectInfo(os.path.relpath(path, self._root), found.st_size)

    def delete(self, key: str) -> None:
        check_key(key)
        path = self._path(key)
        try:
            self._step("delete")
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                # An earlier attempt may have removed the file and died before the sync,
                # so the directory is synced all the same, where there is one.
                if not os.path.isdir(os.path.dirname(path)):
                    return
            except IsADirectoryError:
                return
            self._step("deleted")
            _sync_directory(os.path.dirname(path))
            self._step("deletion synced")
        except OSError as error:
            raise self._translated(error, f"delete {key}") from error

    def close(self) -> None:
        """Nothing to give back: no file stays open between calls."""

    def remove_stale_temporaries(
        self, older_than_seconds: float = STALE_SECONDS, now: Callable[[], float] = time.time
    ) -> int:
        """Remove what interrupted writers left, ours and restic's; return how many files.

        A temporary younger than `older_than_seconds` may belong to a writer at work.
        """
        removed = 0
        limit = now() - older_than_seconds
        try:
            for path, found in self._files(self._root, temporaries=True):
                if found.st_mtime < limit:
                    try:
                        os.unlink(path)
                    except FileNotFoundError:
                        continue  # somebody else tidies up, too
                    self._step("stale temporary removed")
                    removed += 1
        except OSError as error:
            raise self._translated(error, "remove old temporary files") from error
        return removed

    def _step(self, name: str) -> None:
        if self._on_step is not None:
            self._on_step(name)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _modes(self) -> tuple[int, int]:
        try:
            group = os.stat(self._path("config")).st_mode & stat.S_IRGRP
        except OSError:
            group = 0
        return (0o440, 0o750) if group else (0o400, 0o700)

    def _settle(self, directory: str) -> None:
        """Make `directory` and what is above it, and put their entries on disk.

        An existing one is synced too, once: its maker may not have come to that yet.
        """
        if directory in self._settled:
            return
        above = os.path.dirname(directory)
        if directory == self._root:
            _make_with_parents(directory, self._directory_mode)
        else:
            self._settle(above)
            _make_directory(directory, self._directory_mode)
            self._step("directory made")
            _sync_directory(above)
        self._settled.add(directory)

    def _write(self, directory: str, name: str, final: str, chunks: Iterable[Buffer]) -> int:
        temporary, file = self._open_temporary(directory, name)
        total = 0
        try:
            try:
                self._step("temporary opened")
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    written = 0
                    while written < len(view):
                        written += os.write(file, view[written:])
                    total += written
                self._step("temporary written")
                os.fsync(file)
            finally:
                os.close(file)
            self._step("temporary synced")
            moved = _link_or_move(temporary, final)
            self._step("named")
        except BaseException:
            _unlink_quietly(temporary)
            raise
        if not moved:
            os.unlink(temporary)
            self._step("temporary removed")
        _sync_directory(directory)
        self._step("name synced")
        return total

    def _open_temporary(self, directory: str, name: str) -> tuple[str, int]:
        while True:
            # Not the seeded generator: forked children would all draw the same numbers.
            digits = random.SystemRandom().randrange(10**9, 10**10)
            path = f"{directory}/{name}-tmp-{digits}"
            try:
                return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._file_mode)
            except FileExistsError:
                continue

    def _files(self, start: str, *, temporaries: bool) -> Iterator[tuple[str, os.stat_result]]:
        """Every regular file below `start`: the objects, or else the temporaries."""
        waiting = [start]
        while waiting:
            directory = waiting.pop()
            try:
                # Read to the end at once: the caller may delete while it iterates.
                with os.scandir(directory) as scan:
                    entries = list(scan)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not os.path.isdir(self._root):
                    raise self._translated(error, "list objects") from error
                continue
            except OSError as error:
                raise self._translated(error, "list objects") from error
            for entry in entries:
                # Skips "lost+found" and the like, which no key can name.
                if not is_segment(entry.name):
                    continue
                try:
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif is_temporary(entry.name) == temporaries:
                        found = entry.stat()
                        if stat.S_ISREG(found.st_mode):
                            yield entry.path, found
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise self._translated(error, "list objects") from error

    def _not_found(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self._root} holds no object {key}.")

    def _missing_or(self, error: OSError, key: str, act: str) -> HoldfastError:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return self._not_found(key)
        return self._translated(error, act)

    def _translated(self, error: OSError, act: str) -> HoldfastError:
        """The error of our tree for one of the operating system."""
        failed = f"Cannot {act} in {self._root}: {os.strerror(error.errno or 0)}."
        if error.errno in _FULL:
            return StoreFull(f"{failed} Free some space or raise the quota, then run it again.")
        if error.errno == errno.EROFS:
            return StoreDenied(f"{failed} The file system is mounted read-only; remount it.")
        if error.errno in _DENIED:
            return StoreDenied(
                f"{failed} Run as the user who owns the directory, or correct its permissions "
                "and attributes (an immutable file cannot be removed)."
            )
        if error.errno in _PASSING:
            return StoreUnavailable(f"{failed} The file server does not answer; it may come back.")
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            return StoreError(
                f"{failed} There is no such directory; is the disk mounted and the path right?"
            )
        if error.errno == errno.EIO:
            return StoreError(f"{failed} The disk may be failing; look at the kernel's log.")
        return StoreError(failed)


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    if len(data) == length or not data:
        return data
    # A signal, or a read beyond 2 GiB, may return less than there is.
    parts = [data]
    done = len(data)
    while done < length:
        data = os.pread(file, length - done, offset + done)
        if not data:
            break
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def _make_with_parents(path: str, mode: int) -> None:
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        _make_directory(directory, mode)
        _sync_directory(os.path.dirname(directory))


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems sync directories by themselves and refuse to be asked.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(directory)


def _unlink_quietly(path: str) -> None:
    # The error that led here is the one to report; a leftover is removed a day later.
    try:
        os.unlink(path)
    except OSError:
        return


def _link_or_move(temporary: str, final: str) -> bool:
    """Give the file its final name unless that is taken; tell whether it was moved there."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move_without_replacing(temporary, final)
        return True
    return False


def _move_without_replacing(temporary: str, final: str) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which also FAT and most FUSE file systems know."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        number = errno.ENOSYS
    else:
        old, new = os.fsencode(temporary), os.fsencode(final)
        if rename(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise StoreError(
            f"The file system of {os.path.dirname(final)} can neither make hard links nor "
            "rename without replacing, so two writers could destroy each other's files. "
            "Put the repository on another file system."
        )
    raise OSError(number, os.strerror(number), final)
