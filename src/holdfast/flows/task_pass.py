"""One pass over a task's directory: what is as remembered is kept, the rest is handed on.

A pass lists every directory and looks at every entry, and reads content only through the
`take` that it is given. It stores nothing itself. `store_trees` turns what the last pass
found into trees, from the bottom up, and makes none for a directory that is as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from holdfast.flows.backup_tasks import Counts, with_subtree
from holdfast.flows.task_listing import Listed, TaskListing
from holdfast.flows.task_memory import Directory, Entry, look_of
from holdfast.model.finding import Finding
from holdfast.repo.pack import BlobType
from holdfast.repo.tree import encode_node, join_nodes
from holdfast.sources.path.confine import join, via_proc
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.settling import Settling
from holdfast.sources.path.tally import printable

Take = Callable[[Directory, int, bytes, os.stat_result], None]
"""Takes a changed file: directory, its descriptor, name, status. It puts an entry into the
directory, now or later, or leaves the file out."""


class TaskPass:
    """One pass. `directories` are those that were met, each after the one it lies in."""

    def __init__(
        self,
        listing: TaskListing,
        settling: Settling,
        before: Directory | None,
        owners: OwnerNames,
        take: Take,
    ) -> None:
        self._listing, self._settling, self._before = listing, settling, before
        self._owners, self._take = owners, take
        self._never_trusted = settling.never_trusted
        self.directories: list[Directory] = []
        self.findings = listing.findings

    def run(self, name: bytes) -> Directory:
        """Go through everything; return the directory itself, whose node is called `name`."""
        fd = self._listing.root_fd
        st = os.fstat(fd)
        xattrs = read_xattrs(via_proc(fd), follow=True, on_finding=self.findings.append)
        top = Directory(b"", look_of(st), text=self._directory_text(name, st, xattrs))
        pending: list[tuple[Directory, Directory | None]] = [(top, self._before)]
        while pending:
            directory, before = pending.pop()
            self.directories.append(directory)
            listed = self._listing.open(directory.path)
            if listed is None:
                continue
            try:
                pending.extend(self._enter(directory, before or _NOTHING, listed))
            finally:
                os.close(listed.fd)
        return top

    def _enter(
        self, directory: Directory, before: Directory, listed: Listed
    ) -> list[tuple[Directory, Directory | None]]:
        fd, taken, left = listed
        below: list[tuple[Directory, Directory | None]] = []
        names, entries = directory.names, directory.entries
        old_entries, aside = before.entries, before.aside_entries
        never_trusted = self._never_trusted
        for name, st in taken:
            kind = stat.S_IFMT(st.st_mode)
            if kind == stat.S_IFDIR:
                old = before.directory(name)
                sub = self._subdirectory(directory, fd, name, st, old)
                directory.directories[name] = sub
                names.append(name)
                below.append((sub, old))
                continue
            if kind == stat.S_IFSOCK:
                continue  # a socket is nothing without the process that listens on it
            names.append(name)
            entry = old_entries.get(name) or aside.get(name)
            if (
                entry is not None
                and entry.settled
                and entry.look == (st.st_ino, kind, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
                and st.st_ino not in never_trusted
            ):
                entries[name] = entry
            elif kind == stat.S_IFREG:
                self._take(directory, fd, name, st)
            else:
                self._special(directory, fd, name, st)
        for name in left:
            # Another capture may want it; whether it is still the same is looked at then.
            kept = before.entry(name)
            if kept is not None:
                directory.aside_entries[name] = kept
            sub_kept = before.directory(name)
            if sub_kept is not None:
                directory.aside_directories[name] = sub_kept
        return below

    def _subdirectory(
        self, above: Directory, fd: int, name: bytes, st: os.stat_result, old: Directory | None
    ) -> Directory:
        path, look = join(above.path, name), look_of(st)
        if old is not None and old.settled and old.look == look:
            return Directory(path, look, settled=True, text=old.text)
        xattrs = read_xattrs(via_proc(fd, name), on_finding=self.findings.append, subject=path)
        text = self._directory_text(name, st, xattrs)
        return Directory(path, look, self._settling.is_settled(st), text)

    def _directory_text(
        self, name: bytes, st: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...]
    ) -> str:
        return encode_node(node_from_stat(name, st, self._owners, xattrs=xattrs))[:-1]

    def _special(self, directory: Directory, fd: int, name: bytes, st: os.stat_result) -> None:
        path, target = join(directory.path, name), b""
        if stat.S_ISLNK(st.st_mode):
            try:
                target = os.readlink(name, dir_fd=fd)
            except FileNotFoundError:
                return
            except OSError as error:
                message = f"could not be read: {error.strerror}; it is not in the snapshot"
                self.findings.append(Finding("link_unreadable", message, printable(path)))
                return
        xattrs = read_xattrs(via_proc(fd, name), on_finding=self.findings.append, subject=path)
        node = node_from_stat(name, st, self._owners, linktarget=target, xattrs=xattrs)
        settled = self._settling.is_settled(st)
        directory.entries[name] = Entry(look_of(st), settled, encode_node(node))


_NOTHING = Directory(b"")


def store_trees(
    directories: list[Directory],
    stored: Mapping[bytes, Directory],
    counts: Counts,
    add: Callable[[BlobType, bytes], bytes],
) -> None:
    """Store the tree of every directory that is not as in `stored`, by path; count all."""
    for here in reversed(directories):
        old = stored.get(here.path)
        if len(here.names) != len(here.entries) + len(here.directories):
            # Some went away before they could be read, or cannot be read.
            here.names = [
                name for name in here.names if name in here.entries or name in here.directories
            ]
        same = _count_entries(here, old or _NOTHING, counts)
        if old is None:
            counts.dirs_new += 1
        elif same and old.tree is not None and _same_below(here, old) and here.names == old.names:
            here.tree = old.tree
            counts.dirs_unmodified += 1
            continue
        else:
            counts.dirs_changed += 1
        here.tree = add(BlobType.TREE, join_nodes(_texts(here)))


def _count_entries(here: Directory, old: Directory, counts: Counts) -> bool:
    """Count the files; return whether every entry has the node that it had."""
    same, before = True, old.entries
    unmodified = seen = 0
    for name, entry in here.entries.items():
        was = before.get(name)
        regular = entry.look[1] == stat.S_IFREG
        seen += entry.size
        if was is entry or (was is not None and was.text == entry.text):
            unmodified += regular
            continue
        same = False
        if regular and was is None:
            counts.files_new += 1
        elif regular:
            counts.files_changed += 1
    counts.files_unmodified += unmodified
    counts.bytes_seen += seen
    return same


def _same_below(here: Directory, old: Directory) -> bool:
    for name, sub in here.directories.items():
        was = old.directories.get(name)
        if was is None or was.tree != sub.tree or was.text != sub.text:
            return False
    return True


def _texts(here: Directory) -> list[str]:
    texts = []
    for name in here.names:
        sub = here.directories.get(name)
        if sub is None:
            texts.append(here.entries[name].text)
        else:
            assert sub.tree is not None
            texts.append(with_subtree(sub.text, sub.tree))
    return texts
