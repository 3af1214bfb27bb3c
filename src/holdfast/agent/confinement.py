"""From a guarded path to the place on this machine that it really leads to.

The text of a path was checked by the control plane; here symbolic links are followed, and
the end must lie in the root's directory. What is returned has no links left in it, together
with the directory that it must stay in, which is checked again on the open descriptor: a
link that is planted in between leads nowhere. The agent's own roots decide, not the server.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import (
    PathEscapesRoot,
    PathOutsideRoots,
    SourceVanished,
    TargetError,
    UsageError,
)
from holdfast.model.guarded_path import Root, canonical_path, check_path, directory_of

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ConfinedPlace:
    """`path` as people write it, `real` where that is, and `within`, where it must stay.

    `real` and `within` hold no symbolic links; `made` says that `real` was made just now.
    """

    path: str
    real: bytes
    within: bytes
    made: bool = False


def source_place(path: str, roots: Sequence[Root], directory: str = "") -> ConfinedPlace:
    """Where to read a source from.

    `directory` is where the control plane thinks that it lies; this machine's roots must
    agree. Raises `PathRefused` where the path leads out of its root, `SourceVanished` where
    it does not exist, `UsageError` for a link to a file.
    """
    path = canonical_path(path)
    mapped, within = _mapped(path, roots, directory)
    real = os.path.realpath(mapped)
    _refuse_outside(path, real, within)
    if not os.path.lexists(real):
        raise SourceVanished(f"{path} does not exist on this machine; nothing was stored.")
    if os.path.islink(mapped) and not os.path.isdir(real):
        raise UsageError(
            f"{path} is a symbolic link to a file; name the file that it points to instead."
        )
    return ConfinedPlace(path, real, within)


def target_place(path: str, roots: Sequence[Root], directory: str = "") -> ConfinedPlace:
    """Where to restore to; what is missing of it is made, without following any link.

    Raises `PathRefused` where it leads out of its root, `TargetError` where it is no
    directory or cannot be made.
    """
    path = canonical_path(path)
    mapped, within = _mapped(path, roots, directory)
    real = os.path.realpath(mapped)
    _refuse_outside(path, real, within)
    if not os.path.isdir(within):
        raise TargetError(
            f"The root of {path} is not there on this machine; is its file system mounted?"
        )
    made = _make_below(path, within, os.path.relpath(real, within))
    return ConfinedPlace(path, real, within, made)


def remove_if_empty(place: ConfinedPlace) -> None:
    """Take back a directory that was made for nothing."""
    if not place.made:
        return
    try:
        os.rmdir(place.real)
    except OSError:
        return  # it holds something by now, or is gone: then it is not ours to take back


def _mapped(path: str, roots: Sequence[Root], directory: str) -> tuple[bytes, bytes]:
    """The path on this machine, and its root's directory without links."""
    check_path(path, roots)
    wanted = os.path.normpath(directory) if directory else ""
    for root in sorted(roots, key=lambda root: -len(canonical_path(root.path))):
        try:
            mapped = directory_of(path, [root])
        except PathOutsideRoots:
            continue
        if not wanted or os.path.normpath(mapped) == wanted:
            return os.fsencode(mapped), os.path.realpath(os.fsencode(root.directory))
    raise PathOutsideRoots(
        f"The server maps {path} onto {directory}, and this agent's settings do not; correct "
        "the roots of one of the two."
    )


def _refuse_outside(path: str, real: bytes, within: bytes) -> None:
    if real != within and not real.startswith(within.rstrip(b"/") + b"/"):
        raise PathEscapesRoot(
            f"{path} leads out of its root through a symbolic link on this machine; name a path "
            "that stays inside."
        )


def _make_below(path: str, within: bytes, relative: bytes) -> bool:
    """Make a directory and those above it; return whether it is new."""
    names = [name for name in relative.split(b"/") if name not in (b"", b".")]
    made = False
    here = os.open(within, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            try:
                os.mkdir(name, 0o700 if name == names[-1] else 0o755, dir_fd=here)
                made = True
            except FileExistsError:
                made = False
            below = _enter(path, name, here)
            os.close(here)
            here = below
    except OSError as error:
        raise TargetError(f"{path} cannot be made: {error.strerror}.") from error
    finally:
        os.close(here)
    return made


def _enter(path: str, name: bytes, above: int) -> int:
    try:
        return os.open(name, _WALK, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise PathEscapesRoot(
                f"{path} became a symbolic link while it was looked at; nothing was written."
            ) from None
        raise TargetError(f"{path} is not a directory; choose another target.") from None
