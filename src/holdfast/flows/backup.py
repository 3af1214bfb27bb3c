"""Back up file trees: one snapshot of some paths, by workers that share the directories.

The parent process keeps the shape of the tree and hands out work; workers read, store and
write the text of nodes (`backup_tasks.py`). A directory's tree is stored when all that is
below it is. The snapshot is committed last; an interrupted run leaves blobs that the next
one finds, and no restore point.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from holdfast import __version__
from holdfast.errors import Damaged, SourceVanished, UsageError
from holdfast.flows.backup_tasks import (
    SLICE_ENTRIES,
    Answer,
    BackupSetup,
    Counts,
    Flush,
    ScanDirectory,
    ScanNames,
    Scanned,
    StoreBlob,
    with_subtree,
)
from holdfast.flows.large_file import LargeFileReader
from holdfast.flows.locate import MANIFEST_DIRECTORY
from holdfast.flows.restore_point import RestorePoint, manifest_node, recorded
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.model.manifest import Manifest, SourceKind
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo import rfc3339
from holdfast.repo.pack import BlobType
from holdfast.repo.pool import Pool
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import (
    decode_documents,
    decode_node,
    document_name,
    encode_node,
    join_nodes,
)
from holdfast.repo.writer import Compression, WriteSetup, WriteTotals
from holdfast.sources.path.confine import ConfinedTree, check_within
from holdfast.sources.path.ladder import StableView, Wish, stable_view
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.selection import Selection
from holdfast.sources.path.tally import printable
from holdfast.store.discard import DiscardingStore

SETTLE_NS = 60 * 1_000_000_000
_LARGE_FILES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up and how.

    `paths` are absolute or relative; `parent` is a snapshot id, ``""`` to choose the
    newest of the same host and paths, or None to read everything. `workers` is 0 to work
    inside this process.

    `stored_as` is what a single path is called in the snapshot, where it is not what it is
    called here. `within` is a directory, as the kernel names it, that everything which is
    read must lie in, also where somebody plants symbolic links meanwhile.
    """

    paths: tuple[bytes, ...]
    stored_as: bytes = b""
    within: bytes = b""
    selection: Selection = field(default_factory=Selection)
    tags: tuple[str, ...] = ()
    hostname: str = ""
    time: datetime | None = None
    parent: str | None = ""
    wish: Wish = Wish.LIVE
    one_file_system: bool = False
    with_atime: bool = False
    ignore_inode: bool = False
    workers: int = 2
    compression: Compression = Compression.FAST
    settle_ns: int = SETTLE_NS
    dry_run: bool = False
    wait_for_lock_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup made. `snapshot` is None for a dry run.

    `packs` and `indexes` are the ids of the packs and index files that this run wrote,
    `captured_ns` is when it began to read.
    """

    snapshot: Snapshot | None
    counts: Counts
    added: WriteTotals
    findings: tuple[Finding, ...]
    parent: str | None
    seconds: float
    consistency: Consistency
    packs: tuple[bytes, ...] = ()
    indexes: tuple[str, ...] = ()
    captured_ns: int = 0


@dataclass(slots=True)
class _Directory:
    """A directory whose tree is not complete."""

    root: int
    path: bytes
    above: _Directory | None
    name: bytes = b""
    text: str = ""
    parent_tree: bytes | None = None
    same_metadata: bool = False
    pending: int = 0
    unchanged: bool = False
    texts: list[tuple[bytes, str]] = field(default_factory=list)
    children: dict[bytes, bytes] = field(default_factory=dict)


def backup(
    repository: Repository, request: BackupRequest, report: Report = ignore_progress
) -> BackupResult:
    """Make one snapshot of `request.paths` and return what it holds.

    Raises `SourceVanished` where a path is not there, and `PathEscapes` where it leads
    outside `within`; a file that cannot be read is a finding and the snapshot is made
    without it.
    """
    paths = _absolute(request.paths)
    names = (_stored_name(request),) if request.stored_as else paths
    started_ns = time.time_ns()
    with WriteSession(
        repository,
        "backup",
        compression=request.compression,
        uploads=1 if repository.store.fork_safe else 3,
        wait_seconds=request.wait_for_lock_seconds,
    ) as session:
        hostname = request.hostname or socket.gethostname()
        parent = _choose_parent(repository, request.parent, hostname, names)
        run = _Run(
            repository,
            session,
            request,
            paths=paths,
            names=names,
            parent=parent,
            started_ns=started_ns,
            report=report,
        )
        return run.execute(hostname)


def _absolute(paths: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not paths:
        raise UsageError("name at least one path to back up")
    absolute = sorted({os.path.abspath(path) for path in paths})
    for path in absolute:
        if not os.path.lexists(path):
            raise SourceVanished(f"{printable(path)} does not exist; nothing was stored")
        if os.path.islink(path) and _inside(path, absolute):
            raise UsageError(
                f"{printable(path)} is a symbolic link and stored as one, so nothing can be "
                "stored inside it; name what it points to instead"
            )
    # A path inside another one is part of it already.
    inner = {path for other in absolute for path in _inside(other, absolute)}
    return tuple(path for path in absolute if path not in inner)


def _stored_name(request: BackupRequest) -> bytes:
    name = request.stored_as
    if len(request.paths) != 1:
        raise UsageError("only a single path can be stored under another name")
    if not name.startswith(b"/") or os.path.normpath(name) != name or name.startswith(b"//"):
        raise UsageError(f"{printable(name)} cannot be the name of a path in a snapshot")
    return name


def _inside(path: bytes, others: Iterable[bytes]) -> list[bytes]:
    """Those of `others` that lie below `path`."""
    beginning = path.rstrip(b"/") + b"/"
    return [other for other in others if other != path and other.startswith(beginning)]


def _choose_parent(
    repository: Repository, wish: str | None, hostname: str, paths: tuple[bytes, ...]
) -> Snapshot | None:
    if wish is None:
        return None
    if wish:
        return repository.find_snapshot(wish)
    wanted = tuple(sorted(map(recorded, paths)))
    snapshots, _ = repository.snapshots()
    for snapshot in reversed(snapshots):
        if snapshot.hostname == hostname and tuple(sorted(snapshot.paths)) == wanted:
            return snapshot
    return None


def _view_of_link(path: bytes) -> StableView:
    """A link that a person named is stored as the link it is, which is read in one go."""
    above, name = os.path.split(path)
    link = os.path.join(os.path.realpath(above), name)
    return StableView(link, Consistency.PER_FILE, (), link)


class _Run:
    """One backup under way."""

    def __init__(
        self,
        repository: Repository,
        session: WriteSession,
        request: BackupRequest,
        *,
        paths: tuple[bytes, ...],
        names: tuple[bytes, ...],
        parent: Snapshot | None,
        started_ns: int,
        report: Report,
    ) -> None:
        self._repository, self._session, self._request = repository, session, request
        self._paths, self._parent, self._started_ns = paths, parent, started_ns
        self._names, self._packs, self._grade = names, set[bytes](), Consistency.FROZEN
        self._report, self._reported = report, 0.0
        self._counts, self._added = Counts(), WriteTotals()
        self._findings: list[Finding] = list(session.index.findings)
        self._scans: list[tuple[_Directory, Any]] = []
        self._trees: deque[tuple[_Directory, StoreBlob]] = deque()
        self._waiting_files: deque[tuple[_Directory, int, bytes, bool]] = deque()
        self._large: list[tuple[_Directory, LargeFileReader]] = []
        self._root_texts: list[tuple[bytes, str]] | None = None
        self._views: list[StableView] = []
        self._reader = BlobReader(repository, session.index)
        self._owners = OwnerNames()
        self._current = ""

    def execute(self, hostname: str) -> BackupResult:
        request = self._request
        with ExitStack() as stack:
            for path in self._paths:
                # Who confines the run has followed links already; one here is a trap.
                if os.path.islink(path) and not request.within:
                    view = _view_of_link(path)
                else:
                    view = stack.enter_context(stable_view(path, request.wish))
                if request.within:
                    check_within(view.source, request.within)
                self._views.append(view)
                self._findings.extend(view.findings)
            roots, devices = self._roots()
            within = self._within(roots)
            settled = 0
            if self._parent is not None:
                begin = self._parent.summary.get("backup_start")
                settled = (
                    rfc3339.to_ns(str(begin)) if begin else int(self._parent.time.timestamp() * 1e9)
                ) - request.settle_ns
            setup = BackupSetup(
                repository=self._repository,
                write=self._write_setup(),
                roots=roots,
                devices=devices,
                selection=request.selection,
                settled_before_ns=settled,
                one_file_system=request.one_file_system,
                with_atime=request.with_atime,
                ignore_inode=request.ignore_inode,
                within=within,
            )
            self._confined = [
                ConfinedTree(root, within=limit) for root, limit in zip(roots, within, strict=True)
            ]
            workers = request.workers if self._repository.store.shareable else 0
            pool = Pool(workers, setup, fork=self._repository.store.fork_safe)
            with pool:
                self._session.keep_lock()
                self._plan_shape()
                self._work(pool)
                tree = self._store_manifest(pool)
                for answer in pool.broadcast(Flush()):
                    self._take(answer)
        seconds = (time.time_ns() - self._started_ns) / 1e9
        snapshot = self._commit(tree, hostname)
        self._tell(done=True)
        return BackupResult(
            snapshot,
            self._counts,
            self._added,
            tuple(self._findings),
            self._parent.id if self._parent else None,
            seconds,
            self._grade,
            tuple(sorted(self._packs)),
            tuple(self._session.indexes),
            self._started_ns,
        )

    def _write_setup(self) -> WriteSetup:
        setup = self._session.setup
        if not self._request.dry_run:
            return setup
        return replace(setup, store=DiscardingStore(setup.store))

    # The shape of the tree above the paths

    def _roots(self) -> tuple[tuple[bytes, ...], tuple[frozenset[int], ...]]:
        """For each path, the directory that its tasks are confined to, and its devices.

        A path that was named and lies inside another one, on a file system of its own, is
        wanted although one file system is not to be left.
        """
        named = [os.path.abspath(path) for path in self._request.paths]
        roots, devices = [], []
        for path, view in zip(self._paths, self._views, strict=True):
            read_from = os.fsencode(view.path)
            roots.append(read_from if self._is_root(view) else os.path.dirname(read_from))
            devices.append(
                frozenset(os.lstat(each).st_dev for each in (read_from, *_inside(path, named)))
            )
        return tuple(roots), tuple(devices)

    def _within(self, roots: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The directory that each root must lie in; a view elsewhere must be just itself."""
        limit = self._request.within
        return tuple(
            b"" if not limit else limit if view.path == view.source else root
            for root, view in zip(roots, self._views, strict=True)
        )

    @staticmethod
    def _is_root(view: StableView) -> bool:
        path = os.fsencode(view.path)
        return os.path.isdir(path) and not os.path.islink(path)

    def _plan_shape(self) -> None:
        """Make the directories that lead to the paths, and a first task for each path."""
        top = _Directory(0, b"/", None, parent_tree=self._parent_root())
        known = {b"/": top}
        for number, (path, view) in enumerate(zip(self._names, self._views, strict=True)):
            above = os.path.dirname(path)
            if path == b"/":
                self._add_scan(top, ScanDirectory(number, b"", top.parent_tree, topmost=True))
                continue
            directory = self._virtual(above, known)
            name = os.path.basename(path)
            if self._is_root(view):
                self._add_root(directory, number, name)
            else:
                task = ScanNames(number, b"", [name], directory.parent_tree, chosen=True)
                self._add_scan(directory, task)

    def _parent_root(self) -> bytes | None:
        return None if self._parent is None else bytes.fromhex(self._parent.tree)

    def _virtual(self, path: bytes, known: dict[bytes, _Directory]) -> _Directory:
        if path in known:
            return known[path]
        above = self._virtual(os.path.dirname(path), known)
        name = os.path.basename(path)
        if self._names == self._paths:
            text = self._directory_text(name, path, path)
        else:
            # What has that name on this machine, if anything, has nothing to do with it.
            text = encode_node(Node(name, NodeType.DIRECTORY, mode=0o755))[:-1]
        directory = _Directory(
            0, path, above, name, text, parent_tree=self._old_subtree(above.parent_tree, name)
        )
        above.pending += 1
        known[path] = directory
        return directory

    def _old_subtree(self, tree: bytes | None, name: bytes) -> bytes | None:
        if tree is None:
            return None
        try:
            nodes = decode_documents(self._reader.load(BlobType.TREE, tree), "a parent's tree")
        except Damaged as error:
            self._findings.append(Finding("parent_damaged", error.message, tree.hex()))
            return None
        for node in nodes:
            if document_name(node) == name and node.get("subtree"):
                return bytes.fromhex(node["subtree"])
        return None

    def _add_root(self, above: _Directory, number: int, name: bytes) -> None:
        old = self._old_subtree(above.parent_tree, name)
        read_from = os.fsencode(self._views[number].path)
        text = self._directory_text(name, read_from, self._names[number])
        directory = _Directory(number, b"", above, name, text, parent_tree=old)
        above.pending += 1
        self._add_scan(directory, ScanDirectory(number, b"", old))

    def _directory_text(self, name: bytes, read_from: bytes, path: bytes) -> str:
        """The node of a directory that a path names or leads through, without its tree."""
        xattrs = read_xattrs(read_from, follow=True, on_finding=self._findings.append, subject=path)
        node = node_from_stat(
            name,
            os.stat(read_from),
            self._owners,
            xattrs=xattrs,
            with_atime=self._request.with_atime,
        )
        return encode_node(node)[:-1]

    def _add_scan(self, directory: _Directory, task: Any) -> None:
        directory.pending += 1
        self._scans.append((directory, task))

    # The loop

    def _work(self, pool: Pool) -> None:
        while self._root_texts is None:
            while pool.room > 0 and self._submit_next(pool):
                pass
            assert pool.outstanding or self._root_texts is not None
            for tag, answer in pool.results():
                self._take(answer)
                tag(answer.value)
            self._tell()

    def _submit_next(self, pool: Pool) -> bool:
        """Take one step; return False where there is nothing to do until a result comes."""
        if self._trees:
            directory, store = self._trees.popleft()
            pool.submit(lambda tree: self._complete(directory, tree), store)
            return True
        if self._waiting_files and len(self._large) < _LARGE_FILES_AT_ONCE:
            self._open_large(*self._waiting_files.popleft())
            return True
        for directory, reader in list(self._large):
            task = reader.next_task()
            if task is not None:
                pool.submit(self._chunk_receiver(directory, reader), task)
                return True
            if self._settle_large(directory, reader):
                return True
        if self._scans:
            directory, task = self._scans.pop()
            self._current = os.fsdecode(task.path)
            pool.submit(lambda scanned: self._scanned(directory, task, scanned), task)
            return True
        return False

    def _take(self, answer: Answer) -> None:
        if not self._request.dry_run:
            self._session.take(answer.stored)
            self._packs.update(pack.id for pack in answer.stored)
        self._added.include(answer.totals)
        self._counts.include(answer.counts)
        self._findings.extend(answer.findings)

    def _scanned(self, directory: _Directory, task: Any, scanned: Scanned) -> None:
        directory.pending -= 1
        if scanned.tree is not None:
            self._complete(directory, scanned.tree)
            return
        if scanned.more is not None:
            names = scanned.more
            for first in range(0, len(names), SLICE_ENTRIES):
                part = names[first : first + SLICE_ENTRIES]
                self._add_scan(
                    directory, ScanNames(directory.root, task.path, part, task.parent_tree)
                )
            return
        directory.unchanged = scanned.unchanged
        directory.texts.extend(scanned.texts)
        for sub in scanned.subdirectories:
            path = task.path + b"/" + sub.name if task.path else sub.name
            child = _Directory(
                directory.root,
                path,
                directory,
                sub.name,
                sub.text,
                sub.parent_tree,
                sub.same_metadata,
            )
            directory.pending += 1
            self._add_scan(child, ScanDirectory(directory.root, path, sub.parent_tree))
        for large in scanned.large_files:
            directory.pending += 1
            path = task.path + b"/" + large.name if task.path else large.name
            self._waiting_files.append((directory, task.root, path, large.existed))
        self._finish_if_ready(directory)

    def _finish_if_ready(self, directory: _Directory) -> None:
        if directory.pending:
            return
        texts = directory.texts
        if directory.above is None:
            self._root_texts = texts
            return
        if directory.unchanged:
            if self._is_as_before(directory):
                assert directory.parent_tree is not None
                self._complete(directory, directory.parent_tree)
                return
            # Only directories below changed: every other node stands in the parent's tree.
            texts = self._texts_of_parent(directory)
        texts.sort()
        directory.texts, directory.children = [], {}
        self._trees.append(
            (directory, StoreBlob(BlobType.TREE, join_nodes(text for _, text in texts)))
        )

    def _texts_of_parent(self, directory: _Directory) -> list[tuple[bytes, str]]:
        assert directory.parent_tree is not None
        tree = self._reader.load(BlobType.TREE, directory.parent_tree)
        changed = {name for name, _ in directory.texts}
        texts = directory.texts
        for document in decode_documents(tree, "a parent's tree"):
            name = document_name(document)
            if name not in changed:
                texts.append((name, encode_node(decode_node(document))))
        return texts

    def _complete(self, directory: _Directory, tree: bytes) -> None:
        """Take a stored tree into the directory above, and so on while that makes one complete."""
        # A loop, because a chain of unchanged directories may be longer than Python's stack.
        completed: _Directory | None = directory
        while completed is not None:
            above = self._into_above(completed, tree)
            completed = None
            if not above.pending and above.above is not None and self._is_as_before(above):
                assert above.parent_tree is not None
                completed, tree = above, above.parent_tree
            else:
                self._finish_if_ready(above)

    @staticmethod
    def _is_as_before(directory: _Directory) -> bool:
        return directory.unchanged and not directory.children

    def _into_above(self, directory: _Directory, tree: bytes) -> _Directory:
        above = directory.above
        if directory.above is not None:
            old = directory.parent_tree
            if old is None:
                self._counts.dirs_new += 1
            elif old == tree and directory.same_metadata:
                self._counts.dirs_unmodified += 1
            else:
                self._counts.dirs_changed += 1
        assert above is not None
        if not (directory.same_metadata and tree == directory.parent_tree and above.unchanged):
            above.children[directory.name] = tree
            above.texts.append((directory.name, with_subtree(directory.text, tree)))
        above.pending -= 1
        return above

    # Large files

    def _open_large(self, directory: _Directory, root: int, path: bytes, existed: bool) -> None:
        reader = LargeFileReader(
            self._confined[root],
            path,
            self._owners,
            self._findings.append,
            existed=existed,
            with_atime=self._request.with_atime,
        )
        if reader.gone:
            directory.pending -= 1
            self._finish_if_ready(directory)
            return
        self._large.append((directory, reader))

    def _chunk_receiver(
        self, directory: _Directory, reader: LargeFileReader
    ) -> Callable[[Any], None]:
        number = reader.last_task_number

        def receive(chunks: list[tuple[bytes, int]]) -> None:
            reader.receive(number, chunks)
            self._settle_large(directory, reader)

        return receive

    def _settle_large(self, directory: _Directory, reader: LargeFileReader) -> bool:
        """Take a large file's node into its directory once all of it is stored.

        Returns False while parts of it are under way.
        """
        if reader.waits:
            return False
        if not reader.finished():
            return True
        self._large = [item for item in self._large if item[1] is not reader]
        text = reader.node_text()
        if text is not None:
            directory.texts.append((reader.name, text))
            if reader.existed:
                self._counts.files_changed += 1
            else:
                self._counts.files_new += 1
            self._counts.bytes_seen += reader.size
        directory.pending -= 1
        self._finish_if_ready(directory)
        return True

    # The end

    def _store_manifest(self, pool: Pool) -> bytes:
        """Add our own document to the root of the tree; return the id of the root."""
        assert self._root_texts is not None
        texts = [(name, text) for name, text in self._root_texts if name != MANIFEST_DIRECTORY]
        if len(texts) != len(self._root_texts):
            self._findings.append(
                Finding(
                    "reserved_name",
                    "is a name that snapshots use themselves; it is not in the snapshot",
                    "/" + MANIFEST_DIRECTORY.decode(),
                )
            )
        grade = functools.reduce(Consistency.worst, (view.grade for view in self._views))
        if any(finding.code == "file_torn" for finding in self._findings):
            grade = Consistency.TORN
        self._grade = grade
        manifest = Manifest(
            kind=SourceKind.PATH,
            source={f"path-{n}": os.fsdecode(path) for n, path in enumerate(self._names)},
            created=datetime.fromtimestamp(self._started_ns / 1e9, UTC),
            consistency=grade,
            findings=tuple(self._findings),
            versions={"holdfast": __version__},
        )
        store = functools.partial(self._store_now, pool)
        texts.append(manifest_node(manifest, self._started_ns, store))
        texts.sort()
        return store(BlobType.TREE, join_nodes(text for _, text in texts))

    def _store_now(self, pool: Pool, kind: BlobType, content: bytes) -> bytes:
        pool.submit(None, StoreBlob(kind, content))
        while True:
            for _, answer in pool.results():
                self._take(answer)
                blob_id: bytes = answer.value
                return blob_id

    def _commit(self, tree: bytes, hostname: str) -> Snapshot | None:
        request = self._request
        if request.dry_run:
            return None
        point = RestorePoint(
            tree=tree,
            paths=self._names,
            hostname=hostname,
            started_ns=self._started_ns,
            counts=self._counts,
            added=self._added,
            time=request.time,
            parent=self._parent,
            excludes=request.selection.exclude,
            tags=request.tags,
        )
        return self._session.commit(point.document())

    def _tell(self, *, done: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._reported < 0.2:
            return
        self._reported = now
        summary = self._parent.summary if self._parent else {}
        self._report(
            Progress(
                "backup",
                files_done=self._counts.files,
                files_total=int(summary.get("total_files_processed", 0)),
                bytes_done=self._counts.bytes_seen,
                bytes_total=int(summary.get("total_bytes_processed", 0)),
                current=self._current,
            )
        )
