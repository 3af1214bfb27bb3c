"""Copy snapshots into another repository, with its own key, place and cutting of packs.

Blobs that the destination lacks are fetched pack by pack, checked against their ids, and
sealed under the other key; nothing is written to disk in between. Trees keep their ids. A
snapshot is committed when everything that it needs is there: an interrupted copy goes on
where it was, and a damaged snapshot is not copied, and said so.

A copy that a job makes is the job's own record, and says so (`COPY_NOTE`): only the same job
takes it for its result. Any other record of the same snapshot belongs to somebody else, who
may remove it; the blobs of both are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.errors import Damaged, UsageError
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import COPY_NOTE, Snapshot
from holdfast.repo.lock import PRUNE
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.packlist import PackList
from holdfast.repo.pool import Pool
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.transfer import Flush, Moved, MovePack, Sealing, StoreBlobs, TransferSetup
from holdfast.repo.treestream import stream_trees
from holdfast.repo.writer import Compression, WriteTotals

_BATCH_BYTES = 1 << 30
_SAME = ("tree", "hostname", "username", "uid", "gid")
_SAME_SETS = ("paths", "excludes", "tags")


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """Which snapshots: by full id, or all where `ids` is empty. `workers` 0 is inline.

    `job` is the id of the job that this is done for, if it is; `first` says that nothing of
    that job can be there yet, so that nobody needs to look.
    """

    ids: tuple[str, ...] = ()
    workers: int = 2
    compression: Compression = Compression.FAST
    wait_for_lock_seconds: float = 0.0
    job: str = ""
    first: bool = False


@dataclass(frozen=True, slots=True)
class CopyResult:
    """`copied` are (id at the source, snapshot at the destination); `there` were before."""

    copied: tuple[tuple[str, Snapshot], ...]
    there: tuple[tuple[str, Snapshot], ...]
    added: WriteTotals
    bytes_read: int
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def skipped(self) -> tuple[str, ...]:
        """The ids at the source of what was there before."""
        return tuple(source_id for source_id, _ in self.there)


@dataclass(slots=True)
class _Batch:
    snapshots: list[Snapshot] = field(default_factory=list)
    packs: dict[int, list[PackedBlob]] = field(default_factory=dict)
    bytes: int = 0


def copy(
    source: Repository,
    destination: Repository,
    request: CopyRequest,
    report: Report = ignore_progress,
) -> CopyResult:
    """Copy snapshots from `source` to `destination`, oldest first.

    Raises `UsageError` where both are the same repository.
    """
    if source.config.id == destination.config.id:
        raise UsageError("the source and the destination are the same repository")
    started = time.monotonic()
    with (
        source.lock("copy", tolerates={PRUNE}, wait_seconds=request.wait_for_lock_seconds) as lock,
        WriteSession(
            destination,
            "copy",
            compression=request.compression,
            uploads=1 if destination.store.fork_safe else 3,
            wait_seconds=request.wait_for_lock_seconds,
        ) as session,
    ):
        run = _Copy(source, session, report, request.job)
        wanted = run.choose(request.ids, look=not request.first)
        setup = TransferSetup(source, session.setup, Sealing.RENEWED)
        fork = source.store.fork_safe and destination.store.fork_safe
        shareable = source.store.shareable and destination.store.shareable
        with Pool(request.workers if shareable else 0, setup, fork=fork) as pool:
            lock.keep()
            session.keep_lock()
            for batch in run.batches(wanted):
                run.transfer(batch, pool)
                run.commit(batch)
    return CopyResult(
        tuple(run.copied),
        tuple(run.there),
        run.added,
        run.bytes_read,
        tuple(run.findings),
        time.monotonic() - started,
    )


class _Copy:
    def __init__(
        self, source: Repository, session: WriteSession, report: Report, job: str = ""
    ) -> None:
        self._source, self._session, self._report, self._job = source, session, report, job
        self.copied: list[tuple[str, Snapshot]] = []
        self.there: list[tuple[str, Snapshot]] = []
        self.findings: list[Finding] = []
        self.added = WriteTotals()
        self.bytes_read = 0
        self._bad: set[tuple[BlobType, bytes]] = set()
        self._failed: list[tuple[BlobType, bytes]] = []
        self._bytes_total = 0

    def choose(self, ids: tuple[str, ...], *, look: bool = True) -> list[Snapshot]:
        """Return the snapshots to copy; with `look`, without those that the destination has."""
        if ids:
            snapshots = [self._source.snapshot(snapshot_id) for snapshot_id in ids]
            snapshots.sort(key=lambda snapshot: (snapshot.time, snapshot.id))
        else:
            snapshots, damaged = self._source.snapshots()
            self.findings.extend(damaged)
        there: dict[str, list[Snapshot]] = {}
        for snapshot in self._session.repository.snapshots()[0] if look else ():
            if self._job and snapshot.copy_note.get("job") != self._job:
                continue
            for name in {snapshot.id, snapshot.original or snapshot.id}:
                there.setdefault(name, []).append(snapshot)
        wanted = []
        for snapshot in snapshots:
            origin = snapshot.original or snapshot.id
            copies = [other for other in there.get(origin, ()) if _is_copy(snapshot, other)]
            if copies:
                self.there.append((snapshot.id, copies[0]))
            else:
                wanted.append(snapshot)
        # Opened after the snapshots were listed, so that it has what they need.
        self._packs = PackList(self._source.open_index())
        self._seen = NeededBlobs(self._packs)
        return wanted

    def batches(self, snapshots: list[Snapshot]) -> Iterator[_Batch]:
        """Yield snapshots with the blobs to fetch for them, about a gigabyte at a time.

        What is committed together needs one flush of the packs that are open.
        """
        batch = _Batch()
        for snapshot in snapshots:
            self._gather(snapshot, batch)
            batch.snapshots.append(snapshot)
            if batch.bytes >= _BATCH_BYTES:
                yield batch
                batch = _Batch()
        if batch.snapshots:
            yield batch

    def _gather(self, snapshot: Snapshot, batch: _Batch) -> None:
        def enter(tree_id: bytes) -> bool:
            return self._want(BlobType.TREE, tree_id, batch)

        root = bytes.fromhex(snapshot.tree)
        for tree in stream_trees(self._source, self._packs.index, [root], enter):
            if tree.damage is not None:
                self._bad.add((BlobType.TREE, tree.id))
            for node in tree.nodes:
                for text in node.get("content") or ():
                    self._want(BlobType.DATA, bytes.fromhex(text), batch)

    def _want(self, kind: BlobType, blob_id: bytes, batch: _Batch) -> bool:
        """Take a blob into the batch unless it is there; return whether it is new to this run."""
        new = self._seen.need(kind, blob_id)
        if new is None:
            self._bad.add((kind, blob_id))
            return False
        if new and not self._session.index.knows(kind, blob_id):
            copies = self._packs.copies(kind, blob_id)
            number, table, row = min(copies, key=lambda copy: copy[0] not in batch.packs)
            blob = self._packs.blob(table, row)
            batch.packs.setdefault(number, []).append(blob)
            batch.bytes += blob.length
            self._bytes_total += blob.length
        return new

    def transfer(self, batch: _Batch, pool: Pool) -> None:
        """Fetch and store what a batch lacks."""
        packs = self._packs.packs
        moves = (MovePack(packs[number].id, blobs) for number, blobs in batch.packs.items())
        for moved in pool.unordered(moves):
            self._take(moved)
        batch.packs = {}
        for moved in pool.unordered(self._second_tries()):
            self._take(moved)
        for moved in pool.broadcast(Flush()):
            self._take(moved)

    def _take(self, moved: Moved) -> None:
        self._session.take(moved.stored)
        self.added.include(moved.totals)
        self.bytes_read += moved.bytes_read
        if moved.failed:
            name = moved.pack.hex()
            message = f"{len(moved.failed)} blobs of pack {name[:8]} do not open"
            self.findings.append(Finding("pack_damaged", message, name))
            self._failed.extend((blob.type, blob.id) for blob, _ in moved.failed)
        self._report(Progress("copy", bytes_done=self.bytes_read, bytes_total=self._bytes_total))

    def _second_tries(self) -> Iterator[StoreBlobs]:
        """Yield what other packs of the source have of blobs that did not open."""
        reader = BlobReader(self._source, self._packs.index)
        failed, self._failed = self._failed, []
        for kind, blob_id in failed:
            try:
                yield StoreBlobs([(kind, reader.load(kind, blob_id))])
            except Damaged:
                self._bad.add((kind, blob_id))

    def commit(self, batch: _Batch) -> None:
        """Store the records of the snapshots whose blobs are all there."""
        for snapshot in batch.snapshots:
            missing = self._first_missing(snapshot) if self._bad else None
            if missing is not None:
                self.findings.append(
                    Finding(
                        "snapshot_not_copied",
                        f"snapshot {snapshot.short_id} is damaged at the source: {missing[0].word} "
                        f"blob {missing[1].hex()[:16]} cannot be read; see `holdfast verify`",
                        snapshot.id,
                    )
                )
                continue
            document: dict[str, object] = dict(snapshot.document)
            document.pop("parent", None)  # an id that means nothing at the destination
            document["original"] = snapshot.original or snapshot.id
            document.pop(COPY_NOTE, None)  # of a job that made what is copied now
            if self._job:
                document[COPY_NOTE] = {
                    "job": self._job,
                    "stored_bytes": self.added.stored_bytes,
                    "bytes_read": self.bytes_read,
                }
            self.copied.append((snapshot.id, self._session.commit(document)))

    def _first_missing(self, snapshot: Snapshot) -> tuple[BlobType, bytes] | None:
        """Return a bad blob that the snapshot needs, if any. Only after damage was met."""
        entered: set[bytes] = set()
        bad: list[tuple[BlobType, bytes]] = []

        def enter(tree_id: bytes) -> bool:
            if (BlobType.TREE, tree_id) in self._bad:
                bad.append((BlobType.TREE, tree_id))
            new = tree_id not in entered and not bad
            entered.add(tree_id)
            return new

        root = bytes.fromhex(snapshot.tree)
        for tree in stream_trees(self._source, self._packs.index, [root], enter):
            for node in tree.nodes:
                for text in node.get("content") or ():
                    if (BlobType.DATA, bytes.fromhex(text)) in self._bad:
                        return BlobType.DATA, bytes.fromhex(text)
        return bad[0] if bad else None


def _is_copy(snapshot: Snapshot, other: Snapshot) -> bool:
    """Whether two records differ in nothing but their parent and origin, as restic sees it.

    Fields that are 0 or empty are left out by some programs.
    """
    mine, theirs = snapshot.document, other.document
    return (
        snapshot.time == other.time
        and all((mine.get(name) or None) == (theirs.get(name) or None) for name in _SAME)
        and all(
            sorted(mine.get(name) or ()) == sorted(theirs.get(name) or ()) for name in _SAME_SETS
        )
    )
