"""Comparing file trees: everything that a restore has to bring back, entry by entry.

`describe_tree` gives a value; `assert_same_tree` says which entry differs in what. Content
is compared by hash, holes by what SEEK_DATA tells, hard links by which names share an inode.
Access and change times are left out: reading changes the one, nothing can set the other.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Container
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Entry:
    """One entry. `names` are all paths that share its inode, in order."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    linktarget: bytes = b""
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    names: tuple[bytes, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def describe_tree(
    root: bytes | str | os.PathLike[str], *, holes: bool = False, root_entry: bool = False
) -> dict[bytes, Entry]:
    """Every entry below `root` by its relative path; with `root_entry` the root as ``b""``."""
    top = os.fsencode(root)
    found: dict[bytes, Entry] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    pending = [b""]
    while pending:
        here = pending.pop()
        full = top + b"/" + here if here else top
        st = os.lstat(full)
        if here or root_entry:
            found[here] = _describe(full, st, holes)
            if not stat.S_ISDIR(st.st_mode):
                inodes.setdefault((st.st_dev, st.st_ino), []).append(here)
        if stat.S_ISDIR(st.st_mode):
            pending.extend(here + b"/" + n if here else n for n in os.listdir(full))
    for names in inodes.values():
        for name in names:
            found[name] = replace(found[name], names=tuple(sorted(names)))
    return found


def _describe(path: bytes, st: os.stat_result, holes: bool) -> Entry:
    regular = stat.S_ISREG(st.st_mode)
    link = stat.S_ISLNK(st.st_mode)
    special = stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode)
    return Entry(
        kind=_KINDS[stat.S_IFMT(st.st_mode)],
        mode=stat.S_IMODE(st.st_mode),
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if regular else 0,
        sha256=_sha256(path) if regular else "",
        linktarget=os.readlink(path) if link else b"",
        device=st.st_rdev if special else 0,
        xattrs=_xattrs(path),
        holes=_holes(path, st.st_size) if regular and holes else (),
    )


def _sha256(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def _holes(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of every hole."""
    found = []
    at = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while at < size:
            start = os.lseek(fd, at, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                at = os.lseek(fd, start, os.SEEK_DATA)
            except OSError:
                at = size
            found.append((start, at))
    finally:
        os.close(fd)
    return tuple(found)


def differences(
    one: dict[bytes, Entry], other: dict[bytes, Entry], ignore: Container[str] = ()
) -> list[str]:
    """One line for each entry that is missing, extra, or differs in a field."""
    lines = []
    for path in sorted(one.keys() | other.keys()):
        if path not in other:
            lines.append(f"{path!r} is only in the first")
        elif path not in one:
            lines.append(f"{path!r} is only in the second")
        else:
            for field in Entry.__dataclass_fields__:
                first, second = getattr(one[path], field), getattr(other[path], field)
                if field not in ignore and first != second:
                    lines.append(f"{path!r}: {field} is {first!r} and {second!r}")
    return lines


def assert_same_tree(
    one: bytes | str | os.PathLike[str],
    other: bytes | str | os.PathLike[str],
    *,
    ignore: Container[str] = (),
    holes: bool = False,
    root_entry: bool = False,
) -> None:
    """Fail with every difference between two trees; `ignore` names fields of `Entry`."""
    first = describe_tree(one, holes=holes, root_entry=root_entry)
    second = describe_tree(other, holes=holes, root_entry=root_entry)
    assert first, f"{os.fsdecode(one)} is empty, so comparing it proves nothing"
    found = differences(first, second, ignore)
    assert not found, "\n".join(found[:50])
