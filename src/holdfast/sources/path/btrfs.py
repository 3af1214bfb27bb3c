"""Btrfs subvolumes by ioctl: find, snapshot read-only, destroy, list the nested ones.

Uses the kernel's interface (``linux/btrfs.h``), so the btrfs tool need not be installed.
Never changes a subvolume but those named to `destroy_snapshot`. All functions raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_MAGIC = 0x94
_ROOT_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: every subvolume's root directory
_READ_ONLY = 1 << 1  # BTRFS_SUBVOL_RDONLY
_ARGS = 4096  # the size of the argument structures below
_NAMES = struct.Struct("=q4088s")  # btrfs_ioctl_vol_args
_NAMES_V2 = struct.Struct("=qQQ32s4040s")  # btrfs_ioctl_vol_args_v2
_REFERENCES = 255  # entries of btrfs_ioctl_get_subvol_rootref_args


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | _MAGIC << 8 | number


_SYNC = _request(0, 8, 0)
_DESTROY = _request(1, 15, _ARGS)
_SNAPSHOT = _request(1, 23, _ARGS)
_GET_FLAGS = _request(2, 25, 8)
_SET_FLAGS = _request(1, 26, 8)
_ROOT_REFERENCES = _request(3, 61, _ARGS)
_LOOKUP_USER = _request(3, 62, _ARGS)


def subvolume_root(path: bytes) -> bytes | None:
    """The root directory of the subvolume that holds an absolute path; None: not on btrfs."""
    here = path
    while True:
        st = os.stat(here)
        if st.st_ino == _ROOT_INODE:
            break
        parent = os.path.dirname(here)
        if parent == here or os.stat(parent).st_dev != st.st_dev:
            return None
        here = parent
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, bytes(8))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ENOTSUP):
            return None
        raise
    finally:
        os.close(fd)
    return here


def create_snapshot(subvolume: bytes, name: bytes) -> None:
    """A read-only snapshot of a subvolume, as an entry of its own root directory.

    It is of one moment of the disk, as after a power cut: programs that sync what must be
    in order find it in order. Data not yet synced is flushed file by file while writers go
    on, so two such files may be milliseconds apart; a sync before keeps that short.
    Nested subvolumes come out as empty directories.
    """
    fd = os.open(subvolume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SYNC)
        request = _NAMES_V2.pack(fd, 0, _READ_ONLY, bytes(32), name)
        fcntl.ioctl(fd, _SNAPSHOT, bytearray(request))  # bytes may not exceed 1024
    finally:
        os.close(fd)


def destroy_snapshot(subvolume: bytes, name: bytes) -> None:
    """Remove a snapshot made by `create_snapshot`; space comes back in the background."""
    fd = os.open(subvolume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        request = bytearray(_NAMES.pack(0, name))
        try:
            fcntl.ioctl(fd, _DESTROY, request)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            # An owner without CAP_SYS_ADMIN may destroy only what is writable.
            _make_writable(fd, name)
            fcntl.ioctl(fd, _DESTROY, request)
    finally:
        os.close(fd)


def _make_writable(parent_fd: int, name: bytes) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        value = struct.unpack("=Q", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0]
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=Q", value & ~_READ_ONLY))
    finally:
        os.close(fd)


def nested_subvolumes(subvolume: bytes) -> list[bytes]:
    """Paths, relative to a subvolume's root, of the subvolumes that lie directly in it."""
    fd = os.open(subvolume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found: list[bytes] = []
        smallest = 0
        while True:
            argument = bytearray(_ARGS)
            struct.pack_into("=Q", argument, 0, smallest)
            more = False
            try:
                fcntl.ioctl(fd, _ROOT_REFERENCES, argument)
            except OSError as error:
                if error.errno != errno.EOVERFLOW:  # the array is full and there are more
                    raise
                more = True
            count = argument[8 + 16 * _REFERENCES]
            for position in range(count):
                tree, directory = struct.unpack_from("=QQ", argument, 8 + 16 * position)
                found.append(_path_of(fd, tree, directory))
                smallest = tree + 1
            if not more:
                return found
    finally:
        os.close(fd)


def _path_of(fd: int, tree: int, directory: int) -> bytes:
    argument = bytearray(_ARGS)
    struct.pack_into("=QQ", argument, 0, directory, tree)
    fcntl.ioctl(fd, _LOOKUP_USER, argument)
    name = bytes(argument[16:272]).split(b"\0", 1)[0]
    parent = bytes(argument[272:]).split(b"\0", 1)[0]
    return parent + name  # the kernel ends a parent that is not the root with a slash
