"""The target of a restore: a directory in which every kind of entry can be put back.

Nothing is ever created, changed or deleted outside the root: names are checked, parents are
walked by descriptor (`ConfinedTree`), metadata is set on the very inode that was made, and
an inode that has other names is replaced, never changed. What stands at a place is replaced
by rename, so until the new entry is whole the old one is there.

What would happen is planned by `TargetSurvey`. The order of a restore: `prepare`, `delete`,
`make_directory` from the top down, everything else, `link`, and `finish`, which gives
directories their metadata, deepest first. An entry that cannot be restored is a finding in
`tally` and the method returns False; only what dooms the whole restore is raised
(`TargetFull`, `TargetError`, `PathEscapes`).

One instance serves one thread. A worker process makes its own on the same root; only the
one that made the directories calls `finish`. A crash may leave names that begin with
``.holdfast-partial-``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from holdfast.errors import PathEscapes, TargetError, TargetFull, UsageError
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.attributes import AttributeWriter
from holdfast.sources.path.confine import ConfinedTree, check_name, join, via_proc
from holdfast.sources.path.metadata import node_type
from holdfast.sources.path.restore_plan import (
    Action,
    Deletion,
    Overwrite,
    RestoreOptions,
    decide,
)
from holdfast.sources.path.survey import open_root, refuse_entries
from holdfast.sources.path.tally import FindingTally, printable

PARTIAL_PREFIX = b".holdfast-partial-"

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_HOPELESS = frozenset((errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE))
_REFUSED = (OSError, OverflowError, ValueError)  # numbers and targets no system call takes
_NO_LINKS = frozenset((errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS))


class PendingFile(NamedTuple):
    """A file that is being written; small and picklable, so that workers can open it.

    `written_as` is its name until it is finished: its own, or a partial name beside the
    entry that it will replace. `device` and `inode` prove that it is still that file.
    """

    parent: bytes
    name: bytes
    written_as: bytes
    device: int
    inode: int

    @property
    def path(self) -> bytes:
        return join(self.parent, self.name)


class MadeDirectory(NamedTuple):
    """A directory whose metadata is still to be set; `clean`: it may carry attributes that
    the node has not."""

    path: bytes
    node: Node
    clean: bool


class RestoreTarget:
    """See the module. Paths are relative to the root, bytes; the root itself is ``b""``."""

    def __init__(self, root: bytes | str, options: RestoreOptions | None = None) -> None:
        """Open the root if it exists; writes nothing. A worker starts with this alone."""
        self.root = os.path.realpath(os.fsencode(root))
        self.options = options or RestoreOptions()
        self.tally = FindingTally()
        self._attributes = AttributeWriter(
            self.tally, owner=self.options.owner, xattrs=self.options.xattrs
        )
        self._directories: list[MadeDirectory] = []
        self._inheriting: tuple[bytes | None, bool] = (None, False)
        self._folds_case: dict[int, bool] = {}
        self._tree: ConfinedTree | None = None
        if os.path.lexists(self.root):
            self._tree = open_root(self.root, self.options.within)

    def close(self) -> None:
        if self._tree is not None:
            self._tree.close()

    def __enter__(self) -> RestoreTarget:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def tree(self) -> ConfinedTree:
        if self._tree is None:
            raise TargetError(f"{printable(self.root)} was not prepared for a restore")
        return self._tree

    def prepare(self, needed_bytes: int = 0, needed_entries: int = 0) -> None:
        """Make the root, and raise TargetFull unless it has the room.

        Raises TargetNotEmpty when it holds entries and the restore is not in place.
        """
        if self._tree is None:
            try:
                os.makedirs(self.root, exist_ok=True)
            except OSError as error:
                raise TargetError(
                    f"{printable(self.root)} cannot be made: {error.strerror}"
                ) from error
            self._tree = open_root(self.root, self.options.within)
        elif not self.options.in_place:
            refuse_entries(self.tree)
        room = os.statvfs(self.root)
        blocks = room.f_bfree if os.geteuid() == 0 else room.f_bavail
        free = blocks * room.f_frsize
        where = printable(self.root)
        if needed_bytes > free:
            raise TargetFull(
                f"{where} has {free} bytes free and {needed_bytes} are needed; free"
                f" {needed_bytes - free} bytes or restore less"
            )
        if room.f_files and needed_entries > room.f_ffree:
            raise TargetFull(
                f"{where} has room for {room.f_ffree} more files and {needed_entries} are"
                " needed; use a file system with more inodes or restore less"
            )

    def delete(self, deletions: Iterable[Deletion]) -> int:
        """Delete what a plan listed, in its order; returns how many entries are gone.

        A directory that has gained entries since stays, with a finding.
        """
        if not self.options.delete_extra:
            raise UsageError("this restore was not allowed to delete extra entries")
        deleted = 0
        for path, directory, _ in deletions:
            try:
                self.tree.remove(path, directory=directory)
                deleted += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                message = f"it is not in the snapshot but could not be deleted: {error.strerror}"
                self.tally.add("not_deleted", message, path)
        return deleted

    def claim_root(self, node: Node) -> None:
        """Let `finish` give the root itself this node's metadata; call it first."""
        self._directories.append(MadeDirectory(b"", node, clean=True))

    def make_directory(self, parent: bytes, node: Node) -> bool:
        """Make a directory or take over the one there; False: leave out all below it."""
        name = node.name
        check_name(name)
        path = join(parent, name)
        try:
            fd = self.tree.directory(parent)
            clean = self._inherits_acl(parent, fd)
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                existing = self.tree.lstat(parent, name)
                if self._collides(parent, name, existing):
                    return False
                if existing is not None and stat.S_ISDIR(existing.st_mode):
                    return self._take_over(path, node, existing)
                if not self._may_replace(path, node, existing):
                    return False
                self.tree.remove(path, directory=False)
                os.mkdir(name, 0o700, dir_fd=self.tree.directory(parent))
        except OSError as error:
            return self._failed(error, path)
        self._directories.append(MadeDirectory(path, node, clean))
        return True

    def _take_over(self, path: bytes, node: Node, existing: os.stat_result) -> bool:
        if self.options.overwrite is Overwrite.NEVER:
            return True
        mode = stat.S_IMODE(existing.st_mode)
        if os.geteuid() == existing.st_uid != 0 and mode & 0o700 != 0o700:
            # Its owner must get in; `finish` sets the mode that the node has.
            os.chmod(via_proc(self.tree.directory(path)), mode | 0o700)
        self._directories.append(MadeDirectory(path, node, clean=True))
        return True

    def write_file(
        self, parent: bytes, node: Node, pieces: Iterable[bytes | memoryview | int]
    ) -> bool:
        """A whole regular file at once, with its metadata; the quick way for small files.

        A piece that is a number is a hole of so many bytes.
        """
        name = node.name
        check_name(name)
        mode = 0o600 if node.xattrs else node.mode & 0o777
        try:
            fd, written_as, clean = self._create(parent, node, mode)
            if fd < 0:
                return False
            try:
                hole = False
                for piece in pieces:
                    hole = isinstance(piece, int)
                    if isinstance(piece, int):
                        os.lseek(fd, piece, os.SEEK_CUR)
                    else:
                        _write_all(fd, piece)
                if hole:
                    os.truncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
                self._attributes.apply(fd, node, join(parent, name), clean=clean)
                if written_as is not name:
                    self._rename(parent, written_as, name)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(written_as, dir_fd=self.tree.directory(parent))
                raise
            finally:
                os.close(fd)
        except OSError as error:
            return self._failed(error, join(parent, name))
        return True

    def begin_file(self, parent: bytes, node: Node) -> PendingFile | None:
        """A file of the node's size that is one hole, to be filled by `open_pending`.

        None when it cannot be made. End it with `finish_file` or `abandon_file`.
        """
        check_name(node.name)
        try:
            fd, written_as, _ = self._create(parent, node, 0o600)
            if fd < 0:
                return None
            try:
                os.truncate(fd, node.size)
                st = os.fstat(fd)
            except BaseException:
                os.unlink(written_as, dir_fd=self.tree.directory(parent))
                raise
            finally:
                os.close(fd)
        except _REFUSED as error:
            self._failed(error, join(parent, node.name))
            return None
        return PendingFile(parent, node.name, written_as, st.st_dev, st.st_ino)

    def open_pending(self, pending: PendingFile) -> int:
        """A descriptor for ``os.pwrite``, in any process; close it yourself.

        Translate OSErrors of writing with `writing_failed`.
        """
        check_name(pending.written_as)
        fd = os.open(pending.written_as, _WRITE, dir_fd=self.tree.directory(pending.parent))
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (pending.device, pending.inode):
            os.close(fd)
            message = (
                f"{printable(pending.path)!r} below the target was exchanged while it was being"
                " restored; keep other programs out of the target and run the restore again"
            )
            raise PathEscapes(message)
        return fd

    def finish_file(self, pending: PendingFile, node: Node) -> bool:
        """Metadata, then its own name, replacing what stands there in one step."""
        try:
            fd = self.open_pending(pending)
            try:
                self._attributes.apply(fd, node, pending.path, clean=True)
            finally:
                os.close(fd)
            if pending.written_as != pending.name:
                self._rename(pending.parent, pending.written_as, pending.name)
        except OSError as error:
            return self._failed(error, pending.path)
        return True

    def abandon_file(self, pending: PendingFile) -> None:
        """Remove a file that will not become whole; what it was to replace stays."""
        try:
            self.tree.remove(join(pending.parent, pending.written_as), directory=False)
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed(error, pending.path)

    def writing_failed(self, error: OSError, path: bytes) -> bool:
        """Raise what dooms the restore (a full target); else note a finding: False."""
        return self._failed(error, path)

    def make_other(self, parent: bytes, node: Node) -> bool:
        """A symbolic link, fifo or device; a socket is skipped with a finding."""
        name = node.name
        check_name(name)
        path = join(parent, name)
        skipped = decide(node, None, self.options.overwrite)
        if skipped.action is Action.SKIP:
            self.tally.add(skipped.code, skipped.reason, path)
            return False
        try:
            try:
                self._make_node(node, name, self.tree.directory(parent))
                written_as = name
            except FileExistsError:
                if not self._make_way(parent, node):
                    return False
                written_as = _partial_name()
                self._make_node(node, written_as, self.tree.directory(parent))
            fd = self._pin(parent, written_as, node)
            if fd < 0:
                return False
            try:
                inherits = self._inherits_acl(parent, self.tree.directory(parent))
                clean = inherits and node.type is not NodeType.SYMLINK
                self._attributes.apply(via_proc(fd), node, path, clean=clean)
            finally:
                os.close(fd)
            if written_as is not name:
                self._rename(parent, written_as, name)
        except _REFUSED as error:
            return self._failed(error, path)
        return True

    @staticmethod
    def _make_node(node: Node, name: bytes, fd: int) -> None:
        if node.type is NodeType.SYMLINK:
            os.symlink(node.linktarget, name, dir_fd=fd)
        elif node.type is NodeType.FIFO:
            os.mkfifo(name, 0o600, dir_fd=fd)
        else:
            character = node.type is NodeType.CHARACTER_DEVICE
            kind = stat.S_IFCHR if character else stat.S_IFBLK
            os.mknod(name, 0o600 | kind, node.device, dir_fd=fd)

    def _pin(self, parent: bytes, name: bytes, node: Node) -> int:
        """An O_PATH descriptor of an entry that has no other names; -1 with a finding."""
        fd = os.open(name, _PIN, dir_fd=self.tree.directory(parent))
        st = os.fstat(fd)
        if node_type(st.st_mode) is node.type and (
            st.st_nlink == 1 or node.type is NodeType.DIRECTORY
        ):
            return fd
        os.close(fd)
        message = "it was exchanged, or has names elsewhere, so its metadata was not touched"
        self.tally.add("entry_not_restored", message, join(parent, name))
        return -1

    def link(self, parent: bytes, node: Node, first: bytes) -> bool:
        """A further name of the entry that was restored at `first`.

        Where the file system has no hard links, a copy and a finding.
        """
        name = node.name
        check_name(name)
        path = join(parent, name)
        first_parent, _, first_name = first.rpartition(b"/")
        check_name(first_name)
        source = -1
        try:
            source = os.dup(self.tree.directory(first_parent))
            fd = self.tree.directory(parent)
            try:
                _link(source, first_name, fd, name)
            except FileExistsError:
                one = os.stat(first_name, dir_fd=source, follow_symlinks=False)
                existing = self.tree.lstat(parent, name)
                if existing is not None and os.path.samestat(one, existing):
                    return True
                if not self._make_way(parent, node):
                    return False
                partial = _partial_name()
                _link(source, first_name, self.tree.directory(parent), partial)
                self._rename(parent, partial, name)
        except OSError as error:
            if error.errno not in _NO_LINKS or source < 0:
                return self._failed(error, path)
            return self._copy(source, first_name, parent, node, error)
        finally:
            if source >= 0:
                os.close(source)
        return True

    def _copy(
        self, source: int, first_name: bytes, parent: bytes, node: Node, cause: OSError
    ) -> bool:
        path = join(parent, node.name)
        message = f"no hard link could be made ({cause.strerror}); it is a copy of its own"
        self.tally.add("hard_link_copied", message, path)
        if node.type is not NodeType.FILE:
            return self.make_other(parent, node)
        try:
            fd = os.open(first_name, _READ, dir_fd=source)
        except OSError as error:
            return self._failed(error, path)
        try:
            return self.write_file(parent, node, iter(lambda: os.read(fd, 1 << 20), b""))
        finally:
            os.close(fd)

    def update(self, parent: bytes, node: Node) -> bool:
        """Only the metadata, of an entry that exists and keeps its content."""
        check_name(node.name)
        path = join(parent, node.name)
        try:
            fd = self._pin(parent, node.name, node)
            if fd < 0:
                return False
            try:
                self._attributes.apply(via_proc(fd), node, path, clean=True)
            finally:
                os.close(fd)
        except OSError as error:
            return self._failed(error, path)
        return True

    def finish(self) -> None:
        """Give directories their metadata, deepest first. Nothing may be written after."""
        while self._directories:
            self.finish_directory(self._directories.pop())

    def take_directories(self) -> list[MadeDirectory]:
        """The directories made since the last call, for somebody else to finish."""
        made, self._directories = self._directories, []
        return made

    def finish_directory(self, made: MadeDirectory) -> None:
        """Give one directory its metadata, when all that is below it is restored."""
        path, node, clean = made
        try:
            where = via_proc(self.tree.directory(path))
            self._attributes.apply(where, node, path, clean=clean)
        except OSError as error:
            self._failed(error, path)

    def sync(self) -> None:
        """Wait until everything restored is on the disk. Raises TargetFull, TargetError."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise self._doom(OSError(code, os.strerror(code)), self.root)
        finally:
            os.close(fd)

    # What stands in the way

    def _create(self, parent: bytes, node: Node, mode: int) -> tuple[int, bytes, bool]:
        """A new file: descriptor (-1: a finding says why not), its name, may it inherit."""
        fd = self.tree.directory(parent)
        clean = self._inherits_acl(parent, fd)
        try:
            return os.open(node.name, _CREATE, mode, dir_fd=fd), node.name, clean
        except FileExistsError:
            if not self._make_way(parent, node):
                return -1, b"", False
            name = _partial_name()
            return os.open(name, _CREATE, mode, dir_fd=self.tree.directory(parent)), name, clean

    def _make_way(self, parent: bytes, node: Node) -> bool:
        """May what stands at the node's place be replaced by a rename? Else a finding."""
        existing = self.tree.lstat(parent, node.name)
        if self._collides(parent, node.name, existing):
            return False
        path = join(parent, node.name)
        if not self._may_replace(path, node, existing):
            return False
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            self.tree.remove(path, directory=True)  # the plan's deletions have emptied it
        return True

    def _may_replace(self, path: bytes, node: Node, existing: os.stat_result | None) -> bool:
        if existing is None:
            return True
        if not self.options.in_place:
            message = "another entry of the same name was restored before; this one is left out"
            self.tally.add("entry_exists", message, path)
            return False
        decision = decide(
            node,
            existing,
            self.options.overwrite,
            delete_extra=self.options.delete_extra,
        )
        if decision.action is Action.SKIP:
            self.tally.add(decision.code, decision.reason, path)
            return False
        if self.options.overwrite is Overwrite.NEVER:
            self.tally.add("entry_exists", "it exists and nothing may be overwritten", path)
            return False
        return True

    def _collides(self, parent: bytes, name: bytes, existing: os.stat_result | None) -> bool:
        """On file systems that fold case: does another name occupy this one's place?"""
        if existing is None:
            return False
        folds = self._folds_case.get(existing.st_dev)
        if folds is None:
            folds = self._probe_case(parent)
            self._folds_case[existing.st_dev] = folds
        if not folds or name in self.tree.names(parent):
            return False
        message = (
            "the target's file system takes this name and another one in the snapshot for the"
            " same; only the other one was restored. Restore to a case-sensitive file system"
        )
        self.tally.add("name_collision", message, join(parent, name))
        return True

    def _probe_case(self, parent: bytes) -> bool:
        name = _partial_name()
        fd = self.tree.directory(parent)
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except OSError:
            return False
        try:
            return self.tree.lstat(parent, name.upper()) is not None
        finally:
            os.rmdir(name, dir_fd=fd)

    def _inherits_acl(self, parent: bytes, fd: int) -> bool:
        """Do new entries of this directory get an ACL that their node may not have?"""
        if self._inheriting[0] == parent:
            return self._inheriting[1]
        inherits = False
        if self.options.xattrs:
            try:
                inherits = bool(os.getxattr(via_proc(fd), b"system.posix_acl_default"))
            except OSError:
                inherits = False
        self._inheriting = (parent, inherits)
        return inherits

    def _rename(self, parent: bytes, old: bytes, new: bytes) -> None:
        fd = self.tree.directory(parent)
        try:
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(old, dir_fd=fd)
            raise

    def _failed(self, error: Exception, path: bytes) -> bool:
        """Raise what dooms the whole restore; anything else is this entry's finding."""
        if isinstance(error, OSError) and error.errno in _FULL | _HOPELESS:
            raise self._doom(error, path) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        code = "entry_not_restored"
        self.tally.add(code, f"it could not be restored: {reason}", path)
        return False

    def _doom(self, error: OSError, path: bytes) -> TargetError:
        name = printable(path)
        if error.errno in _FULL:
            return TargetFull(
                f"{printable(self.root)} became full at {name!r}; free space there, then run the"
                " restore again in place to go on"
            )
        return TargetError(f"{name!r} could not be written: {error.strerror}; mend the target")


def _link(source: int, first_name: bytes, fd: int, name: bytes) -> None:
    os.link(first_name, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)


def _partial_name() -> bytes:
    return PARTIAL_PREFIX + secrets.token_hex(8).encode()


def _write_all(fd: int, piece: bytes | memoryview) -> None:
    written = os.write(fd, piece)
    if written < len(piece):
        rest = memoryview(piece)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
