"""The consistency ladder: the steadiest view of a path that can be had, and its grade.

From the top: a read-only btrfs snapshot of the subvolume (one moment of what is on the
disk), a reflink copy (one moment per file, only on request), the live path (the reader
checks each file). The live path is never changed, but for a hidden directory entry while a
view is open; its directory keeps its modification time. That entry is removed at the end;
one that a killed process left is recognised by its name, its age and its lock, which the
kernel frees with the process, and removed by the next view of that path.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from holdfast.errors import SourceError, SourceVanished
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.sources.path import btrfs
from holdfast.sources.path.confine import ConfinedTree
from holdfast.sources.path.mounts import mount_of, read_mounts
from holdfast.sources.path.reflink import ReflinkCopy
from holdfast.sources.path.tally import FindingTally, printable

VIEW_PREFIX = b".holdfast-view-"
"""How the hidden entries begin; every reader of a live tree must leave them out."""

_STALE_SECONDS = 86_400
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Wish(StrEnum):
    """Which rung is wanted. `AUTO` takes a snapshot where it can, else reads live."""

    AUTO = "auto"
    SNAPSHOT = "snapshot"
    REFLINK = "reflink"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class StableView:
    """Where to read instead of the path, while the view is open.

    `grade` is what the view itself gives: a reader that finds a file changing in a
    `PER_FILE` view must lower the grade to torn. Device numbers differ from the live path's.
    `source` is what the view shows: the path with every symbolic link resolved.
    """

    path: bytes
    grade: Consistency
    findings: tuple[Finding, ...] = ()
    source: bytes = b""


@contextmanager
def stable_view(
    path: bytes | str,
    wish: Wish = Wish.AUTO,
    *,
    max_reflink_files: int = 20_000,
    now: Callable[[], float] = time.time,
) -> Iterator[StableView]:
    """Open the best view of an existing path that the wish allows.

    An explicit wish that cannot be met raises SourceError (UsageError when there are too
    many files to clone); `AUTO` falls back, with a finding `snapshot_refused` when a btrfs
    snapshot should have been possible. A view that cannot be removed raises at the end.
    """
    real = os.path.realpath(os.fsencode(path))
    if not os.path.lexists(real):
        raise SourceVanished(f"{printable(real)} does not exist; check the path")
    tally = FindingTally()
    base = real if os.path.isdir(real) else os.path.dirname(real)
    _remove_stale(base, now(), tally)
    if wish is Wish.REFLINK:
        status = os.stat(base)
        with _staging(base, now(), status) as staging:
            only = None if base == real else os.path.basename(real)
            ReflinkCopy(base, status, staging, tally, max_reflink_files).run(
                leave_out=VIEW_PREFIX, only=only
            )
            copy = staging if only is None else os.path.join(staging, only)
            yield StableView(copy, Consistency.PER_FILE, tally.findings(), real)
        return
    name = subvolume = before = None
    if wish is not Wish.LIVE:
        subvolume, reason = _snapshotable(base)
        if subvolume is not None:
            _remove_stale(subvolume, now(), tally)
            name = _view_name(now())
            before = os.stat(subvolume)
            try:
                btrfs.create_snapshot(subvolume, name)
            except OSError as error:
                reason, name = f"btrfs refused a snapshot: {error.strerror}", None
        if name is None and wish is Wish.SNAPSHOT:
            why = reason or "it does not lie on btrfs"
            raise SourceError(f"no snapshot of {printable(real)}: {why}; wish for auto or live")
        if name is None and reason:
            tally.add("snapshot_refused", f"{reason}; it is read live", real)
    if subvolume is None or name is None or before is None:
        yield StableView(real, Consistency.PER_FILE, tally.findings(), real)
        return
    with _snapshot(subvolume, name, before) as root:
        _note_missing(subvolume, real, tally)
        view = os.path.normpath(os.path.join(root, os.path.relpath(real, subvolume)))
        yield StableView(view, Consistency.ATOMIC, tally.findings(), real)


def _snapshotable(base: bytes) -> tuple[bytes | None, str]:
    """The subvolume to snapshot; or None, and why not if the path is on btrfs."""
    mounts = read_mounts()
    mount = mount_of(base, mounts)
    if mount is None or mount.kind != "btrfs":
        return None, ""
    try:
        subvolume = btrfs.subvolume_root(base)
    except OSError as error:
        return None, f"its subvolume cannot be examined: {error.strerror}"
    if subvolume is None:
        return None, "the root of its subvolume is not mounted here"
    mount = mount_of(subvolume, mounts)
    removable = mount is not None and "user_subvol_rm_allowed" in mount.options
    if os.geteuid() != 0 and not removable:
        return None, (
            "only root could remove the snapshot again; run as root or mount the file system"
            " with user_subvol_rm_allowed"
        )
    return subvolume, ""


def _view_name(now: float) -> bytes:
    return VIEW_PREFIX + b"%d-" % now + secrets.token_hex(6).encode()


@contextmanager
def _snapshot(subvolume: bytes, name: bytes, before: os.stat_result) -> Iterator[bytes]:
    """Holds a snapshot that has just been made, and destroys it."""
    root = os.path.join(subvolume, name)
    remove = _keeping_time(before, subvolume, lambda: btrfs.destroy_snapshot(subvolume, name))
    with _removed(root, remove), _locked(root):
        yield root


@contextmanager
def _staging(base: bytes, now: float, before: os.stat_result) -> Iterator[bytes]:
    """An empty directory inside `base`, which is sure to be on the same file system."""
    name = _view_name(now)
    staging = os.path.join(base, name)
    try:
        os.mkdir(staging, 0o700)
    except OSError as error:
        raise SourceError(
            f"no clones can be made inside {printable(base)}: {error.strerror}; wish for live"
        ) from error
    remove = _keeping_time(before, base, lambda: _remove_tree(base, name))
    with _removed(staging, remove), _locked(staging):
        yield staging


def _keeping_time(
    before: os.stat_result, directory: bytes, remove: Callable[[], None]
) -> Callable[[], None]:
    """`remove`, and then the directory's old modification time if only we have changed it."""
    made = os.stat(directory).st_mtime_ns

    def remove_and_mend() -> None:
        ours_alone = os.stat(directory).st_mtime_ns == made
        remove()
        if ours_alone:
            with suppress(OSError):  # only the owner may, and it harms nobody
                os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))

    return remove_and_mend


@contextmanager
def _removed(view: bytes, remove: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            remove()
        except OSError as second:
            error.add_note(f"{printable(view)} could not be removed: {second}; remove it by hand")
        raise
    try:
        remove()
    except OSError as error:
        raise SourceError(
            f"{printable(view)} could not be removed: {error.strerror}; remove it by hand"
        ) from error


@contextmanager
def _locked(view: bytes) -> Iterator[None]:
    fd = os.open(view, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _remove_tree(base: bytes, name: bytes) -> None:
    tree = ConfinedTree(base)
    try:
        for path, status in tree.below(name):
            tree.remove(path, directory=stat.S_ISDIR(status.st_mode))
        tree.remove(name, directory=True)
    finally:
        tree.close()


def _remove_stale(directory: bytes, now: float, tally: FindingTally) -> None:
    """Remove views that are old and that no living process holds."""
    with suppress(OSError):  # what cannot be listed holds no views of ours to remove
        names = [os.fsencode(name) for name in os.listdir(directory)]
        for name in names:
            if name.startswith(VIEW_PREFIX) and _age(name, now) > _STALE_SECONDS:
                _remove_if_dead(directory, name, tally)


def _age(name: bytes, now: float) -> float:
    made = name[len(VIEW_PREFIX) :].split(b"-")[0]
    return now - int(made) if made.isdigit() else 0.0


def _remove_if_dead(directory: bytes, name: bytes, tally: FindingTally) -> None:
    view = os.path.join(directory, name)
    try:
        fd = os.open(view, _DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if btrfs.subvolume_root(view) == view:
                btrfs.destroy_snapshot(directory, name)
            else:
                _remove_tree(directory, name)
        finally:
            os.close(fd)
    except BlockingIOError:
        return  # its process lives
    except OSError as error:
        message = f"left by a process that died, and could not be removed: {error.strerror}"
        tally.add("stale_view_kept", message, view)


def _note_missing(subvolume: bytes, real: bytes, tally: FindingTally) -> None:
    """Findings for what the path holds and a snapshot of its subvolume does not."""
    below = real.rstrip(b"/") + b"/"
    try:
        nested = btrfs.nested_subvolumes(subvolume)
    except OSError as error:
        message = f"subvolumes in it could not be listed ({error.strerror}) and are not included"
        tally.add("nested_subvolume", message, real)
        nested = []
    for inner in nested:
        path = os.path.join(subvolume, inner)
        if path.startswith(below) and not os.path.basename(inner).startswith(VIEW_PREFIX):
            message = "a subvolume of its own is not part of the snapshot; back it up by itself"
            tally.add("nested_subvolume", message, path)
    for mount in read_mounts():
        if mount.is_below(real):
            message = "what is mounted here is not part of the snapshot; back it up by itself"
            tally.add("mount_not_captured", message, mount.point)
