"""One capture of a task's directory under way: from the directory to a snapshot.

In the best case two passes: what changed is stored while the computation runs, and what
changed in the last moment is read while it is held still. What was held in memory is stored
when it runs again. One snapshot is committed at the end, and what it holds becomes what is
remembered; where anything fails before, nothing of that happens.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from holdfast import __version__
from holdfast.errors import HoldfastError, StoreDenied
from holdfast.flows.backup_tasks import Counts, with_subtree
from holdfast.flows.file_content import ContentWriter
from holdfast.flows.read_back import check_stored
from holdfast.flows.restore_point import RestorePoint, manifest_node
from holdfast.flows.task_capture_request import CaptureRequest, CaptureResult, Freeze
from holdfast.flows.task_listing import TaskListing
from holdfast.flows.task_memory import Directory
from holdfast.flows.task_pass import Take, TaskPass, store_trees
from holdfast.flows.task_reading import HELD_BYTES, TaskReader
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.model.manifest import Manifest, SourceKind
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress, Report
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import encode_node, join_nodes
from holdfast.repo.warm_index import WarmIndex
from holdfast.repo.writer import BlobWriter, StoredPack, WriteTotals
from holdfast.sources.path.confine import check_within
from holdfast.sources.path.ladder import StableView, Wish, stable_view
from holdfast.sources.path.mapped import mapped_inodes
from holdfast.sources.path.metadata import OwnerNames
from holdfast.sources.path.mounts import mount_of, read_mounts
from holdfast.sources.path.selection import Selection
from holdfast.sources.path.settling import Settling
from holdfast.sources.path.tally import printable

_REPORT_SECONDS: Final = 0.2
_LOOK_AGAIN_NS: Final = 500_000_000


@dataclass(slots=True)
class Memory:
    """What is kept from one capture to the next. `stored` has every directory by its path."""

    index: WarmIndex
    generation: int = 0
    owners: OwnerNames = field(default_factory=OwnerNames)
    last: Directory | None = None
    stored: dict[bytes, Directory] = field(default_factory=dict)
    parent: Snapshot | None = None
    can_snapshot: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """What is captured, and what it is called in the snapshot."""

    directory: bytes
    stored_as: bytes
    hostname: str
    within: bytes


class CaptureRun:
    """One capture under way."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        place: Place,
        memory: Memory,
        session: WriteSession,
        request: CaptureRequest,
        selection: Selection,
        report: Report,
    ) -> None:
        self._place, self._memory, self._session = place, memory, session
        self._request, self._selection = request, selection
        self._report, self._reported = report, 0.0
        self._writer = BlobWriter(session.setup)
        self._contents = ContentWriter(self._writer)
        self._findings: list[Finding] = []
        self._counts, self._added = Counts(), WriteTotals()
        self._packs: set[bytes] = set()
        self._directories: list[Directory] = []
        self._readers: list[TaskReader] = []
        self._started_ns = self._captured_ns = time.time_ns()
        self._frozen_seconds = 0.0
        self._grade = Consistency.PER_FILE

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._writer.close()

    def run(self, began: float, findings: tuple[Finding, ...]) -> CaptureResult:
        self._findings.extend(findings)
        top = self._take()
        if any(finding.code == "file_torn" for finding in self._findings):
            self._grade = Consistency.TORN
        snapshot = self._commit(top)
        verified = self._request.verify and self._verify(snapshot)
        memory = self._memory
        memory.last, memory.parent = top, snapshot
        memory.stored = {each.path: each for each in self._directories}
        counts = self._counts
        self._tell(done=True)
        return CaptureResult(
            snapshot.id,
            self._grade,
            self._captured_ns,
            counts.files,
            counts.bytes_seen,
            counts.bytes_read,
            self._added.stored_bytes,
            verified,
            self._frozen_seconds,
            time.monotonic() - began,
            tuple(self._findings),
        )

    # From the directory to memory

    def _take(self) -> Directory:
        """Read what changed, in the best way that can be had, and store it."""
        freeze, settling, before = self._request.freeze, self._settling(), self._memory.last
        from_view = settling.kind == "btrfs" and self._memory.can_snapshot
        if freeze is not None and not from_view:
            before, settling = self._first_pass(settling)
            if time.time_ns() - settling.since_ns > _LOOK_AGAIN_NS:
                settling = self._settling(look=True)
        still = self._reader(settling.held_still())
        view: StableView | None = None
        top: Directory | None = None
        with ExitStack() as views:
            with ExitStack() as frozen:
                froze_at = time.monotonic()
                is_frozen = freeze is not None and self._freezes(frozen, freeze)
                self._captured_ns = time.time_ns()
                if from_view:
                    view = self._view(views)
                if is_frozen and view is None:
                    top = self._last_pass(still, before, still.take_still)
            if is_frozen:
                self._frozen_seconds = time.monotonic() - froze_at
                self._grade = Consistency.FROZEN
            if top is not None:
                still.store_held()
                self._include(still)
                return top
            # A write that was under way when the view was made goes on with the times it
            # has, so what is trusted the next time is what is trusted of a running one.
            reader = still if is_frozen else self._reader(settling)
            root = b"" if view is None else view.path
            top = self._last_pass(reader, before, reader.take_running, root)
            self._include(reader)
            if view is not None and not is_frozen:
                self._grade = view.grade
            return top

    def _settling(self, *, look: bool = False) -> Settling:
        """The rule for what begins now; `look` where the computation is about to stand still."""
        mount = mount_of(os.path.realpath(self._place.directory), read_mounts())
        rule = Settling(time.time_ns(), None, "" if mount is None else mount.kind)
        if look or rule.needs_mapped:
            return replace(rule, mapped=mapped_inodes())
        return rule

    def _reader(self, settling: Settling) -> TaskReader:
        reader = TaskReader(
            self._contents,
            self._memory.owners,
            settling,
            held_bytes=HELD_BYTES,
            on_read=lambda _: self._tell(),
        )
        self._readers.append(reader)
        return reader

    def _first_pass(self, settling: Settling) -> tuple[Directory, Settling]:
        """Store what has changed and come to rest, while the computation runs.

        Returns what was seen, and the rule with what was learned on the way.
        """
        reader = self._reader(settling)
        with TaskListing(
            self._place.directory, self._selection, within=self._place.within
        ) as listing:
            before, owners = self._memory.last, self._memory.owners
            first = TaskPass(listing, settling, before, owners, reader.take_settled)
            top = first.run(b"")
            if sum(size for _, _, size in reader.later) > HELD_BYTES:
                reader.store_later(listing.reopen)
        # What else there is to say of it shows in the next pass.
        reader.findings = [each for each in reader.findings if each.code == "xattr_unreadable"]
        self._include(reader)
        return top, reader.settling

    def _last_pass(
        self, reader: TaskReader, before: Directory | None, take: Take, root: bytes = b""
    ) -> Directory:
        """Look at everything; the snapshot will be of this. `root` is a view to read."""
        place = self._place
        within = place.within and (root or place.within)
        with TaskListing(root or place.directory, self._selection, within=within) as listing:
            last = TaskPass(listing, reader.settling, before, self._memory.owners, take)
            top = last.run(os.path.basename(place.stored_as))
        self._directories = last.directories
        self._findings.extend(last.findings)
        return top

    def _freezes(self, stack: ExitStack, freeze: Freeze) -> bool:
        """Hold the computation still until the stack ends; False where that cannot be."""
        try:
            # Collecting garbage among a million entries takes a second.
            stack.enter_context(_no_collecting())
            stack.enter_context(freeze())
        except HoldfastError as error:
            message = (
                f"the computation could not be held still: {error.message} Files were read one "
                "by one while it ran, and may be of different moments"
            )
            self._findings.append(Finding("not_frozen", message, printable(self._place.stored_as)))
            return False
        return True

    def _view(self, views: ExitStack) -> StableView | None:
        """A snapshot of the file system; None where it takes none, now and later."""
        view = views.enter_context(stable_view(self._place.directory, Wish.AUTO))
        if self._place.within:
            check_within(view.source, self._place.within)
        self._findings.extend(view.findings)
        if view.grade is Consistency.PER_FILE:
            self._memory.can_snapshot = False
            return None
        return view

    # From memory to the repository

    def _include(self, reader: TaskReader) -> None:
        """Take in what a reader has found and stored."""
        self._findings.extend(reader.findings)
        self._counts.bytes_read += reader.bytes_read
        self._added.include(self._writer.take_totals())
        self._index(self._writer.take_stored())

    def _index(self, stored: list[StoredPack]) -> None:
        self._session.take(stored)
        self._packs.update(pack.id for pack in stored)

    def _commit(self, top: Directory) -> Snapshot:
        add = self._writer.add
        store_trees(self._directories, self._memory.stored, self._counts, add)
        assert top.tree is not None
        name = os.path.basename(self._place.stored_as)
        texts = [(name, with_subtree(top.text, top.tree))]
        for above in reversed(self._place.stored_as[1:].split(b"/")[:-1]):
            tree = add(BlobType.TREE, join_nodes(text for _, text in texts))
            node = Node(above, NodeType.DIRECTORY, mode=0o755, subtree=tree)
            texts = [(above, encode_node(node))]
        texts.append(manifest_node(self._manifest(), self._captured_ns, add))
        texts.sort()
        root = add(BlobType.TREE, join_nodes(text for _, text in texts))
        self._index(self._writer.flush())
        self._added.include(self._writer.take_totals())
        return self._session.commit(self._point(root).document())

    def _manifest(self) -> Manifest:
        request = self._request
        return Manifest(
            kind=SourceKind.TASK,
            source={"path-0": os.fsdecode(self._place.stored_as)},
            created=datetime.fromtimestamp(self._captured_ns / 1e9, UTC),
            consistency=self._grade,
            configuration={"whitelist": request.whitelist, "blacklist": request.blacklist},
            findings=tuple(self._findings),
            versions={"holdfast": __version__},
        )

    def _point(self, root: bytes) -> RestorePoint:
        return RestorePoint(
            tree=root,
            paths=(self._place.stored_as,),
            hostname=self._place.hostname,
            started_ns=self._started_ns,
            counts=self._counts,
            added=self._added,
            time=datetime.fromtimestamp(self._captured_ns / 1e9).astimezone(),
            parent=self._memory.parent,
            tags=self._request.tags,
        )

    def _verify(self, snapshot: Snapshot) -> bool:
        """Read back what was stored; False, with a finding, where that is not allowed."""
        packs = sorted(self._packs)
        try:
            check_stored(
                self._session.repository, snapshot.id, packs, self._session.indexes, self._report
            )
        except StoreDenied as error:
            message = f"what was stored could not be read back: {error.message}"
            self._findings.append(Finding("not_verified", message, snapshot.id))
            return False
        return True

    def _tell(self, *, done: bool = False) -> None:
        """Report what was read so far; how much there will be is known at the end."""
        now = time.monotonic()
        if done or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            read, files = sum(reader.bytes_read for reader in self._readers), self._counts.files
            files_total, bytes_total = (files, read) if done else (0, 0)
            self._report(Progress("capture", files, files_total, read, bytes_total))


@contextmanager
def _no_collecting() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
