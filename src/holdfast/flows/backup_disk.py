"""Back up disks: one snapshot of some image files or block devices.

Every snapshot is complete: with a parent and a list of what changed only that is read,
the rest is the parent's, chunk by chunk, and the parent may be removed at any time. A
doubtful list or parent leads to a whole read and a finding. The snapshot is committed
last; an interrupted run leaves blobs that the next one finds, and no restore point.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from holdfast import __version__
from holdfast.errors import Damaged, NewerVersion, NotFound, UsageError
from holdfast.flows.backup_tasks import Counts, Flush, StoreBlob
from holdfast.flows.disk_capture import DiskCapture
from holdfast.flows.disk_tasks import CloseDisks, DiskAnswer, DiskSetup, OpenDisk, OpenImage
from holdfast.flows.disk_tree import (
    directory_node,
    disk_directory,
    disk_tree,
    load_manifest,
    load_segment_trees,
)
from holdfast.flows.restore_point import RestorePoint, manifest_node, recorded
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.model.manifest import DiskManifest, Manifest, SourceKind, to_json
from holdfast.model.name import check_name
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.pool import Pool
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import join_nodes
from holdfast.repo.writer import Compression, WriteTotals
from holdfast.sources.disk.dirty import ReadDecision, decide_read
from holdfast.sources.disk.reader import DiskReader
from holdfast.sources.disk.segments import (
    DEFAULT_CHUNK_BYTES,
    DiskLayout,
    choose_segment_bytes,
)

DISK_TAG = "holdfast:disk"
"""Marks snapshots of disks, so that a list can be made without opening trees."""

_CHUNKS_FROM_BYTES = 4 << 10
_CHUNKS_UP_TO_BYTES = 8 << 20
_TASKS_PER_WORKER = 3
_REPORT_SECONDS = 0.2
_TORN = ("disk_changed", "changes_unknown")

DirtyList = Sequence[tuple[int, int]] | str | os.PathLike[str]
"""(start, length) in bytes of what changed, or the path of a JSON file that says so."""


@dataclass(frozen=True, slots=True)
class DiskBackupRequest:
    """Which disks to back up and how.

    `disks` maps a name, such as ``vda``, to an image file, a block device, or a picklable
    function that opens a `DiskReader`. `parent` is a snapshot id, ``""`` for the newest of
    the same host and disks, or None to read everything. `dirty` says per disk what changed
    since exactly that parent, and is believed: what it leaves out is not read.

    `consistency` is what the caller knows of how the disks were held still; without it a
    disk that did not change while it was read is atomic. `source` names the thing that the
    disks belong to, `configuration` is any JSON. `workers` is 0 to work in this process.
    """

    disks: Mapping[str, str | os.PathLike[str] | OpenDisk]
    parent: str | None = ""
    dirty: Mapping[str, DirtyList] = field(default_factory=dict)
    chunk_size_bytes: int = DEFAULT_CHUNK_BYTES
    kind: SourceKind = SourceKind.DISK
    source: Mapping[str, str] | None = None
    configuration: object = None
    consistency: Consistency | None = None
    findings: tuple[Finding, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    hostname: str = ""
    time: datetime | None = None
    workers: int = 2
    compression: Compression = Compression.FAST
    wait_for_lock_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DiskCount:
    """Bytes of one disk: its size, and of it what was read, reused, and zero besides."""

    name: str
    size_bytes: int
    zero_bytes: int
    read_bytes: int
    reused_bytes: int
    whole_read_reason: str | None


@dataclass(frozen=True, slots=True)
class DiskBackupResult:
    """What a backup of disks made."""

    snapshot: Snapshot
    disks: tuple[DiskCount, ...]
    added: WriteTotals
    consistency: Consistency
    findings: tuple[Finding, ...]
    parent: str | None
    seconds: float


def backup_disk(
    repository: Repository, request: DiskBackupRequest, report: Report = ignore_progress
) -> DiskBackupResult:
    """Make one snapshot of `request.disks` and return what it holds.

    Raises `UsageError` for a request that cannot be meant, `SourceVanished` or `SourceError`
    where a disk cannot be read; then there is no snapshot.
    """
    _check(request)
    started_ns = time.time_ns()
    with WriteSession(
        repository,
        "backup",
        compression=request.compression,
        uploads=1 if repository.store.fork_safe else 3,
        wait_seconds=request.wait_for_lock_seconds,
    ) as session:
        return _Run(repository, session, request, started_ns, report).execute()


def _check(request: DiskBackupRequest) -> None:
    if not request.disks:
        raise UsageError("name at least one disk to back up")
    for name in request.disks:
        check_name(name)
    unknown = sorted(request.dirty.keys() - request.disks.keys())
    if unknown:
        raise UsageError(f"there is a list of changed ranges for {unknown[0]!r}, but no such disk")
    size = request.chunk_size_bytes
    if not _CHUNKS_FROM_BYTES <= size <= _CHUNKS_UP_TO_BYTES or size & (size - 1):
        raise UsageError(
            f"chunks of {size} bytes cannot be had; give a power of two, from 256 KiB to 4 MiB"
        )
    # What could not be written is found out before the disks are read, not after.
    to_json(_manifest(request, datetime.now(UTC), Consistency.TORN, (), ()))


def _manifest(
    request: DiskBackupRequest,
    created: datetime,
    consistency: Consistency,
    disks: tuple[DiskManifest, ...],
    findings: tuple[Finding, ...],
) -> Manifest:
    source = request.source
    if source is None:
        source = {
            name: os.path.abspath(os.fspath(disk))
            for name, disk in request.disks.items()
            if isinstance(disk, str | os.PathLike)
        }
    return Manifest(
        kind=request.kind,
        source=source,
        created=created,
        consistency=consistency,
        configuration=request.configuration,
        disks=disks,
        findings=findings,
        versions={"holdfast": __version__, **request.versions},
    )


class _Run:
    """One backup of disks under way."""

    def __init__(
        self,
        repository: Repository,
        session: WriteSession,
        request: DiskBackupRequest,
        started_ns: int,
        report: Report,
    ) -> None:
        self._repository, self._session, self._request = repository, session, request
        self._started_ns, self._report, self._reported = started_ns, report, 0.0
        self._hostname = request.hostname or socket.gethostname()
        self._findings = [*request.findings, *session.index.findings]
        self._added = WriteTotals()
        self._reader = BlobReader(repository, session.index)
        self._parent: Snapshot | None = None
        self._captures: list[DiskCapture] = []

    def execute(self) -> DiskBackupResult:
        request = self._request
        self._parent = self._choose_parent()
        known = self._parent_disks()
        opened = {name: _opener(disk) for name, disk in request.disks.items()}
        with ExitStack() as stack:
            readers = []
            for number, (name, open_disk) in enumerate(opened.items()):
                readers.append(reader := open_disk())
                stack.callback(reader.close)
                self._captures.append(self._plan(number, name, reader, known.get(name)))
            setup = DiskSetup(
                self._repository,
                self._session.setup,
                tuple(
                    (open_disk, capture.layout)
                    for open_disk, capture in zip(opened.values(), self._captures, strict=True)
                ),
            )
            workers = request.workers if self._repository.store.shareable else 0
            with Pool(workers, setup, fork=self._repository.store.fork_safe) as pool:
                self._session.keep_lock()
                self._work(pool)
                self._findings.extend(f for capture in self._captures for f in capture.findings)
                seen = [f for answer in pool.broadcast(CloseDisks()) for f in self._take(answer)]
                seen.extend(f for reader in readers for f in reader.findings())
                # Every worker has a reader of its own, and most of them see the same.
                self._findings.extend(dict.fromkeys(seen))
                grade = self._grade()
                tree = self._store_root(pool, grade)
                for answer in pool.broadcast(Flush()):
                    self._take(answer)
        snapshot = self._session.commit(self._document(tree))
        self._tell(done=True)
        return DiskBackupResult(
            snapshot,
            tuple(
                DiskCount(
                    capture.name,
                    capture.layout.size_bytes,
                    capture.tally.zero_bytes,
                    capture.tally.read_bytes,
                    capture.tally.reused_bytes,
                    capture.decision.whole_read_reason,
                )
                for capture in self._captures
            ),
            self._added,
            grade,
            tuple(self._findings),
            self._parent.id if self._parent else None,
            (time.time_ns() - self._started_ns) / 1e9,
        )

    # The parent

    def _choose_parent(self) -> Snapshot | None:
        wish = self._request.parent
        if wish is None:
            return None
        if wish:
            return self._repository.find_snapshot(wish)
        wanted = tuple(map(recorded, _paths(self._request)))
        snapshots, _ = self._repository.snapshots()
        for snapshot in reversed(snapshots):
            if (
                snapshot.hostname == self._hostname
                and DISK_TAG in snapshot.tags
                and tuple(sorted(snapshot.paths)) == wanted
            ):
                return snapshot
        return None

    def _parent_disks(self) -> dict[str, DiskManifest]:
        if self._parent is None:
            return {}
        try:
            manifest = load_manifest(self._reader, bytes.fromhex(self._parent.tree))
        except (Damaged, NotFound, NewerVersion) as error:
            self._findings.append(
                Finding(
                    "parent_unusable",
                    f"the parent snapshot is not used: {error.message}. The disks are read whole",
                    self._parent.id,
                )
            )
            self._parent = None
            return {}
        return {disk.name: disk for disk in manifest.disks}

    def _plan(
        self, number: int, name: str, reader: DiskReader, parent: DiskManifest | None
    ) -> DiskCapture:
        """Decide how a disk is read, and load what that takes of the parent."""
        size_bytes, chunk_bytes = reader.size_bytes, self._request.chunk_size_bytes
        decision = self._decide(name, size_bytes, parent)
        segment_bytes = choose_segment_bytes(size_bytes, chunk_bytes)
        trees: list[bytes] = []
        if decision.ranges is not None:
            assert self._parent is not None
            assert parent is not None
            try:
                trees = load_segment_trees(self._reader, bytes.fromhex(self._parent.tree), parent)
                segment_bytes = parent.segment_size_bytes
            except (Damaged, NotFound) as error:
                decision = _whole("parent_damaged", name, f"{error.message}.")
        layout = DiskLayout(size_bytes, chunk_bytes, segment_bytes)
        return DiskCapture(
            number,
            name,
            reader,
            layout=layout,
            decision=decision,
            parent_trees=trees,
            index=self._session.index,
        )

    def _decide(self, name: str, size_bytes: int, parent: DiskManifest | None) -> ReadDecision:
        changed = self._request.dirty.get(name)
        if changed is not None and parent is None:
            return _whole("no_parent", name, "There is no parent snapshot of this disk.")
        listed: Sequence[tuple[int, int]] | bytes | None
        if isinstance(changed, str | os.PathLike):
            try:
                with open(changed, "rb") as file:
                    listed = file.read()
            except OSError as error:
                reason = f"{os.fspath(changed)} cannot be read: {error.strerror}."
                return _whole("dirty_list_unusable", name, reason)
        else:
            listed = changed
        return decide_read(name, size_bytes, self._request.chunk_size_bytes, parent, listed)

    # The loop

    def _work(self, pool: Pool) -> None:
        most = _TASKS_PER_WORKER * pool.workers
        while True:
            while pool.outstanding < most:
                work = next(filter(None, (c.next_work() for c in self._captures)), None)
                if work is None:
                    break
                pool.submit(*work)
            if not pool.outstanding:
                return
            for receive, answer in pool.results():
                receive(self._take(answer))
            self._tell()

    def _take(self, answer: DiskAnswer) -> Any:
        self._session.take(answer.stored)
        self._added.include(answer.totals)
        return answer.value

    def _grade(self) -> Consistency:
        if any(finding.code in _TORN for finding in self._findings):
            return Consistency.TORN
        return self._request.consistency or Consistency.ATOMIC

    # The end

    def _store_root(self, pool: Pool, grade: Consistency) -> bytes:
        """Store the disks' directories and the manifest; return the id of the root."""

        def store(kind: BlobType, content: bytes) -> bytes:
            pool.submit(None, StoreBlob(kind, content))
            ((_, answer),) = pool.results()
            blob_id: bytes = self._take(answer)
            return blob_id

        nodes: list[tuple[bytes, str]] = []
        for capture in self._captures:
            name = disk_directory(capture.name).encode()
            tree = store(BlobType.TREE, disk_tree(capture.layout, capture.trees))
            nodes.append((name, directory_node(name, tree)))
        manifest = _manifest(
            self._request,
            datetime.fromtimestamp(self._started_ns / 1e9, UTC),
            grade,
            tuple(self._disk_manifest(capture) for capture in self._captures),
            tuple(self._findings),
        )
        nodes.append(manifest_node(manifest, self._started_ns, store))
        nodes.sort()
        return store(BlobType.TREE, join_nodes(text for _, text in nodes))

    def _disk_manifest(self, capture: DiskCapture) -> DiskManifest:
        by_ranges = capture.decision.ranges is not None
        return DiskManifest(
            name=capture.name,
            size_bytes=capture.layout.size_bytes,
            chunk_size_bytes=capture.layout.chunk_size_bytes,
            segment_size_bytes=capture.layout.segment_size_bytes,
            directory=disk_directory(capture.name),
            parent=self._parent.id if self._parent and by_ranges else None,
            whole_read_reason=capture.decision.whole_read_reason,
        )

    def _document(self, tree: bytes) -> dict[str, object]:
        """The record; a segment counts as a file, changed or not."""
        request = self._request
        tallies = [capture.tally for capture in self._captures]
        changed = sum(tally.segments_changed for tally in tallies)
        return RestorePoint(
            tree=tree,
            paths=_paths(request),
            hostname=self._hostname,
            started_ns=self._started_ns,
            counts=Counts(
                files_new=0 if self._parent else changed,
                files_changed=changed if self._parent else 0,
                files_unmodified=sum(tally.segments_reused for tally in tallies),
                bytes_seen=sum(capture.layout.size_bytes for capture in self._captures),
            ),
            added=self._added,
            time=request.time,
            parent=self._parent,
            tags=tuple(dict.fromkeys((DISK_TAG, *request.tags))),
        ).document()

    def _tell(self, *, done: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        behind = [c for c in self._captures if c.tally.done_bytes < c.layout.size_bytes]
        self._report(
            Progress(
                "backup",
                files_done=len(self._captures) - len(behind),
                files_total=len(self._captures),
                bytes_done=sum(capture.tally.done_bytes for capture in self._captures),
                bytes_total=sum(capture.layout.size_bytes for capture in self._captures),
                current=behind[0].name if behind else "",
            )
        )


def _opener(disk: str | os.PathLike[str] | OpenDisk) -> OpenDisk:
    if isinstance(disk, str | os.PathLike):
        return OpenImage(os.path.abspath(os.fspath(disk)))
    return disk


def _paths(request: DiskBackupRequest) -> list[bytes]:
    """The paths of the snapshot are those in its tree: an image's own may be a passing one."""
    return sorted(os.fsencode(f"/{disk_directory(name)}") for name in request.disks)


def _whole(code: str, disk: str, reason: str) -> ReadDecision:
    return ReadDecision(None, reason, (Finding(code, f"{reason} The disk is read whole.", disk),))
