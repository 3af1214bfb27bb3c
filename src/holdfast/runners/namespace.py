"""A mount namespace in which a directory is seen as ``/job``. Linux only, by system calls.

Where the machine has an empty ``/job``, the directory is mounted on it. Elsewhere ``/`` may
not be writable, and is not touched: a new root is made in memory, every entry of the old one
is bound into it, and ``/job`` added. Root needs no more; anybody else gets a user namespace
too, in which they stay who they are. Nothing outside the calling process changes, and there
is nothing to undo: the namespace goes with its last process.

It is imported by the supervisor, which is to stay small. Run as a program, it tries whether
all of this works here: ``python -m holdfast.runners.namespace``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import tempfile
from typing import Final

JOB: Final = "/job"

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_RDONLY: Final = 0x1
_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_MS_REMOUNT: Final = 0x20
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_UNBINDABLE: Final = 0x20000
_MS_PRIVATE: Final = 0x40000
_MS_SLAVE: Final = 0x80000
_MNT_DETACH: Final = 0x2
# The only system call used here that the C library has no function for, by machine.
_SYS_PIVOT_ROOT: Final = {
    "x86_64": 155,
    "aarch64": 41,
    "riscv64": 41,
    "loongarch64": 41,
    "ppc64le": 203,
    "s390x": 217,
}

_libc = ctypes.CDLL(None, use_errno=True)


def enter(job: str, scratch: str) -> None:
    """Let the calling process, which must have one thread only, see `job` as ``/job``.

    `scratch` is an existing directory that the new root is mounted on; nothing is written to
    it. The working directory is ``/job`` afterwards. Raises `OSError`; then the process is in
    a state that no command may be run in, and has to end.
    """
    unshare()
    # What the machine mounts later still comes in; nothing goes out.
    _mount(None, "/", _MS_REC | _MS_SLAVE)
    if os.path.isdir(JOB) and not os.path.islink(JOB):
        _mount(job, JOB, _MS_BIND | _MS_REC)
    else:
        _new_root(job, scratch)
    os.chdir(JOB)


def unshare() -> None:
    """Leave the mount namespace; whoever may not do that alone takes a user namespace along."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWNS) == 0:
        return
    _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
    # Without this, the kernel lets no unprivileged process map its group.
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _new_root(job: str, scratch: str) -> None:
    _mount("tmpfs", scratch, _MS_NOSUID | _MS_NODEV, kind="tmpfs", data="mode=755,size=1m")
    # Else the binds below would bring the new root, which lies below the old one, into itself.
    _mount(None, scratch, _MS_UNBINDABLE)
    for entry in os.scandir("/"):
        if entry.path != JOB:  # a link or a file
            _bring(entry, scratch + entry.path)
    os.mkdir(scratch + JOB, 0o755)
    _mount(job, scratch + JOB, _MS_BIND | _MS_REC)
    os.chdir(scratch)
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root is not known for {os.uname().machine}")
    # Onto itself: the old root then lies over the new one, and is taken off.
    _checked(_libc.syscall(number, b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    # Files made in / would be in memory and in nobody's snapshot: better an error.
    _mount(None, "/", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _mount(None, "/", _MS_PRIVATE)


def _bring(entry: os.DirEntry[str], target: str) -> None:
    """Let an entry of the old root be seen in the new one."""
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    try:
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(target, 0o755)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        _mount(entry.path, target, _MS_BIND | _MS_REC)
    except PermissionError:
        # A mount that this user may not even look at, such as another user's FUSE.
        return


def _mount(source: str | None, target: str, flags: int, *, kind: str = "", data: str = "") -> None:
    _checked(
        _libc.mount(
            None if source is None else os.fsencode(source),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        f"mount on {target}",
    )


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _probe() -> int:
    """Enter a namespace with a directory of its own; 0 where that works."""
    with tempfile.TemporaryDirectory() as directory:
        scratch, job = os.path.join(directory, "scratch"), os.path.join(directory, "job")
        os.mkdir(scratch)
        os.mkdir(job)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                enter(job, scratch)
                os.mkdir(os.path.join(JOB, "seen"))
                status = 0
            except OSError as error:
                sys.stderr.write(f"{error}\n")
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        seen = os.path.isdir(os.path.join(job, "seen"))
        return 0 if ended == 0 and seen else 1


if __name__ == "__main__":
    sys.exit(_probe())
