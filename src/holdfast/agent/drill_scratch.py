"""The scratch directory of one drill, and the sweep over those that nobody uses any more.

    <above>/<job id>              0700, what is restored
    <above>/<job id>.drill-lock   held by the process of the drill as long as it lives

The lock file is there before the directory is, and goes after it: so a directory beside one
that nobody holds was left by a process that was killed, and a directory without one is not
ours. Invariants: only such directories are removed, no link is followed, no other file
system is entered, and what a living process holds stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from holdfast.errors import (
    HoldfastError,
    InUse,
    PathEscapes,
    TargetError,
    TargetNotEmpty,
    UsageError,
)
from holdfast.sources.path.confine import ConfinedTree, via_proc

DRILL_KIND: Final = "drill"
SWEEP_SECONDS: Final = 3600.0
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_LOCK_SUFFIX: Final = ".drill-lock"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WAIT_SECONDS: Final = 600.0
_LOOK_SECONDS: Final = 0.2

_log = structlog.get_logger("holdfast.agent")


class Scratch:
    """One drill's directory, as long as its lock is held."""

    def __init__(self, above: str, above_fd: int, job_id: str) -> None:
        self._above_fd, self._name = above_fd, job_id
        self.path = os.path.join(os.fsencode(above), os.fsencode(job_id))

    def refuse_others(self) -> None:
        """Raise where something stands in its place, and no lock says that a drill left it.

        To be called before there is a lock, which would make it the sweep's.
        """
        if _lstat(self._name + _LOCK_SUFFIX, self._above_fd) is not None:
            return
        if _lstat(self._name, self._above_fd) is not None:
            raise TargetNotEmpty(
                f"{os.fsdecode(self.path)} is there, and no drill has left it. Remove it, or set "
                "drill_directory to a directory that is only for drills."
            )

    def make(self) -> None:
        """Make it, empty; what an attempt before has left is removed."""
        try:
            self.remove()
            os.mkdir(self._name, 0o700, dir_fd=self._above_fd)
        except OSError as error:
            raise TargetError(
                f"{os.fsdecode(self.path)} cannot be made: {error.strerror or error}; see the "
                "setting drill_directory."
            ) from error

    def remove(self) -> None:
        """Remove it with everything in it; nothing else.

        Raises OSError for what cannot be removed, and PathEscapes where something else stands
        in its place.
        """
        status = _lstat(self._name, self._above_fd)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise PathEscapes(
                f"{os.fsdecode(self.path)} is not the directory of a drill; remove it, and see "
                "who else writes into drill_directory. Nothing was written."
            )
        # Opened by its name; should that lead elsewhere by now, it is not gone into.
        tree = ConfinedTree(self.path, within=self.path)
        try:
            _empty(tree)
        finally:
            tree.close()
        os.rmdir(self._name, dir_fd=self._above_fd)


@contextmanager
def scratch(above: str, job_id: str, *, on_left: Callable[[str], None]) -> Iterator[Scratch]:
    """The directory of a job's drill below `above`, made anew, and removed at the end.

    `on_left` is told why it could not be removed; then the sweep tries again. Raises `InUse`
    where another process still works in it, `TargetNotEmpty` and `PathEscapes` where something
    else stands in its place, `UsageError` for what is no id, `TargetError` where it cannot be
    made.
    """
    if _ID.fullmatch(job_id) is None:
        raise UsageError(f"The server calls a job {job_id!r}, which is no id.")
    real, above_fd = _opened(above)
    try:
        place = Scratch(real, above_fd, job_id)
        place.refuse_others()
        lock = _locked(job_id, above_fd, real)
        try:
            place.make()
            yield place
        finally:
            _clear(place, job_id, above_fd, on_left)
            os.close(lock)
    finally:
        os.close(above_fd)


def _clear(place: Scratch, job_id: str, above_fd: int, on_left: Callable[[str], None]) -> None:
    # Where that fails the lock file stays, and with it the sweep's right to try again.
    try:
        try:
            place.remove()
        except KeyboardInterrupt:
            # A wish to stop comes once; what was begun before it is brought to its end.
            place.remove()
            raise
        finally:
            _forget(job_id, above_fd)
    except (HoldfastError, OSError) as error:
        on_left(f"{os.fsdecode(place.path)} could not be removed: {error}")


def sweep(above: str) -> None:
    """Remove what drills below `above` have left whose processes are gone."""
    real = os.path.realpath(above)
    try:
        above_fd = os.open(real, _DIRECTORY)
    except OSError:
        return  # no drill was ever here
    try:
        for name in sorted(os.listdir(above_fd)):
            job_id = name.removesuffix(_LOCK_SUFFIX)
            if job_id == name or _ID.fullmatch(job_id) is None:
                continue
            try:
                _sweep_one(real, job_id, above_fd)
            except (HoldfastError, OSError) as error:
                _log.warning("drill not swept", job_id=job_id, reason=str(error))
    finally:
        os.close(above_fd)


def _sweep_one(above: str, job_id: str, above_fd: int) -> None:
    lock = _try_lock(job_id, above_fd, create=False)
    if lock < 0:
        return
    try:
        if _lstat(job_id, above_fd) is not None:
            _log.info("removing what a drill has left", job_id=job_id)
        Scratch(above, above_fd, job_id).remove()
        _forget(job_id, above_fd)
    finally:
        os.close(lock)


def _opened(above: str) -> tuple[str, int]:
    try:
        os.makedirs(above, mode=0o700, exist_ok=True)
        real = os.path.realpath(above)
        return real, os.open(real, _DIRECTORY)
    except OSError as error:
        raise TargetError(
            f"{above} cannot be used for drills: {error.strerror}; see the setting drill_directory."
        ) from error


# The lock


def _locked(job_id: str, above_fd: int, above: str) -> int:
    """A descriptor that holds a job's lock.

    Waits where somebody else does: an attempt before that is about to end, or the sweep, which
    is removing what one has left, and that takes its time.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            lock = _try_lock(job_id, above_fd, create=True)
        except OSError as error:
            raise PathEscapes(
                f"{os.path.join(above, job_id + _LOCK_SUFFIX)} is not the lock of a drill "
                f"({error.strerror}); remove it, and see who else writes into drill_directory."
            ) from error
        if lock >= 0:
            return lock
        if time.monotonic() > deadline:
            raise InUse(
                f"Another process still works in {os.path.join(above, job_id)}; try again when "
                "it has ended."
            )
        time.sleep(_LOOK_SECONDS)


def _try_lock(job_id: str, above_fd: int, *, create: bool) -> int:
    """A descriptor that holds the lock, or -1 where a living process does or it went away."""
    name = job_id + _LOCK_SUFFIX
    try:
        lock = os.open(name, _LOCK | (os.O_CREAT if create else 0), 0o600, dir_fd=above_fd)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed the file: then this is the lock of nothing.
        there = _lstat(name, above_fd)
        if there is not None and os.path.samestat(there, os.fstat(lock)):
            return lock
    except BlockingIOError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return -1


def _forget(job_id: str, above_fd: int) -> None:
    """Remove the lock file, while its lock is held and the directory is gone."""
    if _lstat(job_id, above_fd) is None:
        with suppress(FileNotFoundError):
            os.unlink(job_id + _LOCK_SUFFIX, dir_fd=above_fd)


# Removing


def _empty(tree: ConfinedTree) -> None:
    """Remove everything below the root, also where its owner has no rights on it."""
    device = os.fstat(tree.directory(b"")).st_dev
    pending = [(b"", False)]
    while pending:
        path, entered = pending.pop()
        if entered:
            tree.remove(path, directory=True)
            continue
        directory = tree.directory(path)
        status = os.fstat(directory)
        if status.st_dev != device:
            raise OSError(f"{os.fsdecode(path)} is another file system; unmount it")
        if stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
            os.chmod(via_proc(directory), 0o700)
        if path:
            pending.append((path, True))
        for name in tree.names(path):
            child = tree.lstat(path, name)
            here = path + b"/" + name if path else name
            if child is not None and stat.S_ISDIR(child.st_mode):
                pending.append((here, False))
            elif child is not None:
                tree.remove(here, directory=False)


def _lstat(name: str, above_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=above_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
