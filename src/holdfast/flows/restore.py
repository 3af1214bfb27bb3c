"""Restore file trees: a snapshot, or a part of it, into a directory, by worker processes.

The parent process hands out directories and parts of large files and keeps what is not yet
finished; workers do the rest (`restore_tasks.py`). A directory gets its metadata when all
below it is there. Memory does not grow with the size of the snapshot, except for what is
needed to join hard links.

An interrupted restore leaves whole files only: small ones are finished first, large ones
that are incomplete are removed. After a kill, an incomplete file has a modification time of
its own, by which a restore in place recognises it. Damage in the repository never passes for
success: every file with lost bytes is named in a finding, and the lost bytes are zero.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Damaged, HoldfastError, TargetFull, UsageError, WorkerLost
from holdfast.flows.locate import Place, Trees, has_manifest, locate, normal_path
from holdfast.flows.plan_restore import RestorePlanner, written_bytes
from holdfast.flows.read_session import ReadSession
from holdfast.flows.restore_messages import (
    Answer,
    ChunksDone,
    Finish,
    FurtherName,
    MakeLinks,
    Part,
    PartDone,
    RestoreOne,
    RestoreParts,
    SharedFile,
    VerifyParts,
    damage_finding,
)
from holdfast.flows.restore_request import (
    PlannedRestore,
    RestoreCounts,
    RestoreRequest,
    RestoreResult,
    RestoreScope,
)
from holdfast.flows.restore_tasks import RestoreSetup
from holdfast.flows.shared_file import SharedFileRestore
from holdfast.model.finding import Finding
from holdfast.model.node import Node
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.known import KnownBlobs
from holdfast.repo.pool import Pool
from holdfast.repo.repository import Repository
from holdfast.sources.path.confine import join
from holdfast.sources.path.tally import printable
from holdfast.sources.path.target import MadeDirectory, RestoreTarget

_SHARED_AT_ONCE = 2
_PARTS_IN_TASK = 16
_LINKS_IN_TASK = 256
_REPORT_SECONDS = 0.2
_DRAIN_SECONDS = 30.0


def plan_restore(repository: Repository, request: RestoreRequest) -> PlannedRestore:
    """What `restore` would do, entry by entry; changes nothing.

    Raises `NotFound` for a snapshot or path that is not there, `TargetNotEmpty` where the
    target holds entries and the request is not in place.
    """
    request.check()
    with _session(repository, request) as session:
        return _plan(session, request, *_chosen(session, request))


def restore(
    repository: Repository,
    request: RestoreRequest,
    report: Report = ignore_progress,
    plan: PlannedRestore | None = None,
) -> RestoreResult:
    """Restore what `request` says and return what was done.

    `plan` is one that a person has agreed to: only what it lists is deleted. Without it one
    is made where it matters. Raises `TargetFull` before anything is written where there is
    not enough room, and `PathEscapes` for a snapshot that was made to write elsewhere.
    """
    request.check()
    started = time.monotonic()
    with _session(repository, request) as session:
        snapshot, place, scope = _chosen(session, request)
        if plan is not None and plan.snapshot.id != snapshot.id:
            raise UsageError("the plan is one for another snapshot; make a plan for this one")
        if plan is None and _needs_plan(request, scope):
            plan = _plan(session, request, snapshot, place, scope)
        if request.dry_run:
            plan = plan or _plan(session, request, snapshot, place, scope)
            seconds = time.monotonic() - started
            findings = plan.plan.findings
            return RestoreResult(snapshot, plan, RestoreCounts(), 0, findings, seconds)
        if plan is None and request.check_space and not _surely_fits(request, snapshot):
            plan = _plan(session, request, snapshot, place, scope)
        run = _Run(session, request, report, snapshot=snapshot, place=place, scope=scope, plan=plan)
        run.execute()
        seconds = time.monotonic() - started
        return RestoreResult(snapshot, plan, run.counts, run.deleted, run.findings, seconds)


def _session(repository: Repository, request: RestoreRequest) -> ReadSession:
    return ReadSession(
        repository,
        "restore",
        with_lock=request.with_lock,
        wait_seconds=request.wait_for_lock_seconds,
    )


def _chosen(session: ReadSession, request: RestoreRequest) -> tuple[Snapshot, Place, RestoreScope]:
    """The snapshot, the directory whose content is restored, and what of it."""
    snapshot = session.snapshot(request.snapshot)
    trees = Trees(session.reader)
    place = locate(trees, snapshot, request.path)
    paths = tuple(normal_path(path) for path in request.paths)
    for path in paths:
        locate(trees, snapshot, join(place.path, path))
    if not place.is_directory:
        above, _, name = place.path.rpartition(b"/")
        place, paths = locate(trees, snapshot, above), (name,)
    leaves_manifest = not (place.path or request.with_manifest) and has_manifest(snapshot)
    # The empty path is the top itself, and with it everything.
    chosen = () if b"" in paths else paths
    return snapshot, place, RestoreScope(request.selection, chosen, leaves_manifest)


def _plan(
    session: ReadSession,
    request: RestoreRequest,
    snapshot: Snapshot,
    place: Place,
    scope: RestoreScope,
) -> PlannedRestore:
    assert place.tree is not None
    planner = RestorePlanner(
        session.reader,
        session.index,
        scope,
        request.options,
        request.target,
        compare_content=request.compare_content,
        sparse=request.sparse,
    )
    return planner.plan(snapshot, place.tree)


def _needs_plan(request: RestoreRequest, scope: RestoreScope) -> bool:
    return scope.leads_through or (request.options.in_place and _holds_entries(request.target))


def _holds_entries(target: bytes) -> bool:
    try:
        return bool(os.listdir(target))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True


def _surely_fits(request: RestoreRequest, snapshot: Snapshot) -> bool:
    """Whether the snapshot's own summary is enough to know that there is room for it.

    Saves a walk over all trees; the numbers are only an upper bound, because hard links and
    holes are counted in full.
    """
    size = snapshot.summary.get("total_bytes_processed")
    files = snapshot.summary.get("total_files_processed")
    if not isinstance(size, int) or not isinstance(files, int):
        return False
    try:
        with RestoreTarget(request.target, request.options) as target:
            if not os.path.isdir(target.root):
                return _room_above(target.root, size, files)
            target.prepare(size, 2 * files)
    except TargetFull:
        return False
    return True


def _room_above(root: bytes, size: int, files: int) -> bool:
    while not os.path.isdir(root):
        root = os.path.dirname(root)
    room = os.statvfs(root)
    enough = not room.f_files or 2 * files <= room.f_ffree
    return enough and size <= room.f_bavail * room.f_frsize


@dataclass(slots=True)
class _Directory:
    """A directory below which something is still to be done."""

    above: _Directory | None
    path: bytes
    pending: int
    made: MadeDirectory | None


class _Run:
    """One restore under way."""

    def __init__(
        self,
        session: ReadSession,
        request: RestoreRequest,
        report: Report,
        *,
        snapshot: Snapshot,
        place: Place,
        scope: RestoreScope,
        plan: PlannedRestore | None,
    ) -> None:
        assert place.tree is not None
        self._session, self._request, self._snapshot = session, request, snapshot
        self._place, self._top = place, place.tree
        self._plan, self._report = plan, report
        if plan is not None:
            scope = dataclasses.replace(scope, needed=plan.needed_directories)
        self._scope = scope
        self.counts = RestoreCounts()
        self.deleted = 0
        self._damaged: list[Finding] = list(session.index.findings)
        self._target = RestoreTarget(request.target, request.options)
        self._open: dict[bytes, _Directory] = {}
        self._made: dict[bytes, MadeDirectory] = {}
        self._parts: list[Part] = []
        self._waiting: deque[SharedFile] = deque()
        self._shared: list[SharedFileRestore] = []
        self._firsts: dict[bytes, bytes] = {}
        self._names_waiting: dict[bytes, list[tuple[bytes, Node]]] = {}
        self._links: list[tuple[bytes, Node, bytes]] = []
        self._again: deque[RestoreOne] = deque()
        self._reported, self._current, self._step = 0.0, b"", "restore"

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self._damaged, *self._target.tally.findings())

    def execute(self) -> None:
        with self._target:
            self._prepare()
            taken = KnownBlobs()
            try:
                self._work(taken)
            finally:
                taken.close()

    def _prepare(self) -> None:
        request, plan = self._request, self._plan
        # Whether anything stands in the way of the restore, before its own entries are there.
        self._occupied = request.options.in_place and _holds_entries(request.target)
        if plan is not None and request.check_space:
            self._target.prepare(plan.plan.needed_bytes, plan.plan.needed_entries)
        else:
            self._target.prepare()
        if plan is not None and plan.plan.deletions:
            self.deleted = self._target.delete(plan.plan.deletions)
        made = None
        if request.root_metadata and self._place.node is not None:
            self._target.claim_root(self._place.node)
            (made,) = self._target.take_directories()
        self._open[b""] = _Directory(None, b"", 1, made)

    def _work(self, taken: KnownBlobs) -> None:
        request, repository = self._request, self._session.repository
        workers = request.workers if repository.store.shareable else 0
        fork = repository.store.fork_safe
        context = multiprocessing.get_context("fork" if fork else "spawn")
        setup = RestoreSetup(
            repository=repository,
            index=self._session.index,
            root=self._target.root,
            options=request.options,
            scope=self._scope,
            taken=taken,
            taking=context.Lock() if workers > 1 else None,
            survey=self._occupied,
            compare_content=request.compare_content,
            sparse=request.sparse,
            strict=request.strict,
        )
        with Pool(workers, setup, fork=fork) as pool:
            self._session.keep_lock()
            try:
                self._restore(pool)
                if request.sync or request.verify:
                    self._target.sync()
                if request.verify:
                    self._verify(pool)
                for answer in pool.broadcast(Finish()):
                    self._target.tally.merge(answer.value)
            except BaseException as error:
                if request.finish_begun and not isinstance(error, WorkerLost):
                    self._drain(pool)
                self._abandon()
                raise
        self._tell(done=True)

    def _drain(self, pool: Pool) -> None:
        """Let workers finish the few tasks they have, so that what they write is whole."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while pool.outstanding and time.monotonic() < deadline:
            try:
                for _, answer in pool.results(1.0):
                    for done in _parts_done(answer):
                        self._waiting.extend(done.shared)
            except WorkerLost:
                return
            except (HoldfastError, RuntimeError):
                continue  # the first error is the one that is reported

    def _abandon(self) -> None:
        pending = [shared.pending for shared in self._waiting]
        pending += [shared.pending for shared in self._shared]
        for file in pending:
            self._target.abandon_file(file)

    # The loop

    def _restore(self, pool: Pool) -> None:
        self._parts.append(Part(b"", self._top))
        while self._open:
            self._turn(pool)
        assert not self._names_waiting

    def _turn(self, pool: Pool) -> None:
        while pool.room > 0 and self._submit_next(pool):
            pass
        assert pool.outstanding or not self._open, "a restore waits for nothing"
        for tag, answer in pool.results():
            self._take(answer)
            if isinstance(tag, SharedFileRestore):
                self._receive_chunks(tag, answer.value)
            elif tag is not None:
                for parent, _, _ in tag:
                    self._one_less(self._open[parent])
            for done in _parts_done(answer):
                self._part_done(done)
        self._tell()

    def _submit_next(self, pool: Pool) -> bool:
        while self._waiting and len(self._shared) < _SHARED_AT_ONCE:
            self._shared.append(SharedFileRestore(self._waiting.popleft(), self._session.index))
        for shared in list(self._shared):
            chunks = shared.next_task()
            if chunks is not None:
                pool.submit(shared, chunks)
                return True
            if shared.finished:
                self._finish_shared(shared)
        if self._again:
            pool.submit(None, self._again.popleft())
            return True
        if len(self._links) >= _LINKS_IN_TASK or (self._links and not self._parts):
            links, self._links = self._links[:_LINKS_IN_TASK], self._links[_LINKS_IN_TASK:]
            pool.submit(links, MakeLinks(links))
            return True
        if self._parts:
            # Neighbours share packs; but not so many that another worker has nothing to do.
            number = min(_PARTS_IN_TASK, max(1, len(self._parts) // (4 * pool.workers)))
            parts = self._parts[-number:][::-1]
            del self._parts[-number:]
            pool.submit(None, RestoreParts(parts))
            return True
        return False

    def _take(self, answer: Answer) -> None:
        self.counts.include(answer.counts)
        self._damaged.extend(answer.damaged)
        self._current = answer.current
        for made in answer.made:
            self._made[made.path] = made
        for key, path in answer.firsts:
            self._first_settled(key, path)

    def _part_done(self, done: PartDone) -> None:
        directory = self._open[done.path]
        for shared in done.shared:
            directory.pending += 1
            self._waiting.append(shared)
        for link in done.links:
            directory.pending += 1
            self._further_name(done.path, link)
        for part in done.more:
            directory.pending += 1
            self._parts.append(part)
        for name, tree in done.subdirectories:
            path = join(done.path, name)
            # A directory that nothing may change is entered, but was not made.
            child = _Directory(directory, path, 1, self._made.pop(path, None))
            directory.pending += 1
            self._open[path] = child
            if tree:
                self._parts.append(Part(path, tree))
            else:
                self._one_less(child)
        self._one_less(directory)

    def _one_less(self, directory: _Directory) -> None:
        """Something below a directory is done; with the last thing, so is the directory."""
        here: _Directory | None = directory
        while here is not None:
            here.pending -= 1
            if here.pending:
                return
            if here.made is not None:
                self._target.finish_directory(here.made)
            del self._open[here.path]
            here = here.above

    # Large files

    def _receive_chunks(self, shared: SharedFileRestore, done: ChunksDone) -> None:
        shared.receive(done)
        if shared.finished:
            self._finish_shared(shared)

    def _finish_shared(self, shared: SharedFileRestore) -> None:
        self._shared.remove(shared)
        node, pending = shared.node, shared.pending
        made = not shared.failed and self._target.finish_file(pending, node)
        if made:
            self.counts.files += 1
        else:
            self.counts.failed += 1
            if shared.failed:
                self._target.abandon_file(pending)
        if made and shared.is_damaged:
            reason = shared.damage or "blobs of it are in no index"
            finding = damage_finding(pending.path, node.size, shared.lost_bytes, reason)
            if self._request.strict:
                raise Damaged(f"{finding.subject}: {finding.message}")
            self._damaged.append(finding)
        if shared.key:
            self._first_settled(shared.key, pending.path if made else b"")
        self._one_less(self._open[pending.parent])

    # Hard links

    def _further_name(self, parent: bytes, link: FurtherName) -> None:
        first = self._firsts.get(link.key)
        if first:
            self._links.append((parent, link.node, first))
        elif first is None:
            self._names_waiting.setdefault(link.key, []).append((parent, link.node))
        else:
            del self._firsts[link.key]
            self._again.append(RestoreOne(parent, link.node, link.key))

    def _first_settled(self, key: bytes, path: bytes) -> None:
        """The first name of a file is there, or, with an empty path, could not be made."""
        names = self._names_waiting.pop(key, [])
        if path:
            self._firsts[key] = path
            self._links.extend((parent, node, path) for parent, node in names)
        elif names:
            parent, node = names.pop(0)
            self._again.append(RestoreOne(parent, node, key))
            if names:
                self._names_waiting[key] = names
        else:
            self._firsts[key] = b""

    # Reading back, and reporting

    def _verify(self, pool: Pool) -> None:
        self._step = "verify"
        self._parts = [Part(b"", self._top)]
        while self._parts or pool.outstanding:
            while pool.room > 0 and self._parts:
                pool.submit(None, VerifyParts([self._parts.pop()]))
            for _, answer in pool.results():
                self._take(answer)
                for done in _parts_done(answer):
                    self._parts.extend(done.more)
                    self._parts.extend(
                        Part(join(done.path, name), tree)
                        for name, tree in done.subdirectories
                        if tree
                    )
            self._tell()

    def _tell(self, *, done: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        summary, verifying = self._snapshot.summary, self._step == "verify"
        files = int(summary.get("total_files_processed", 0))
        size = int(summary.get("total_bytes_processed", 0))
        if self._plan is not None:
            size = written_bytes(self._plan)
            files = self._plan.plan.needed_entries
        elif not self._scope.takes_all or self._place.path:
            files = size = 0
        counts = self.counts
        self._report(
            Progress(
                self._step,
                files_done=counts.verified if verifying else counts.entries,
                files_total=files,
                bytes_done=counts.bytes_verified if verifying else counts.bytes_written,
                bytes_total=size,
                current=printable(self._current),
            )
        )


def _parts_done(answer: Answer) -> list[PartDone]:
    """The parts that an answer is about."""
    value: Any = answer.value
    if isinstance(value, PartDone):
        return [value]
    return value if isinstance(value, list) else []
