"""One disk being captured: from its extents to tasks for workers, and from answers to trees.

Runs in the parent process and touches no byte of the disk. Costs time by runs of chunks
and by segments, never by chunks: a terabyte of holes is a thousand steps. The invariant: a
segment's tree is asked for only when every one of its chunks has an id that was stored by
this run or found in the index.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast.flows.disk_tasks import (
    LoadSegment,
    RunStored,
    SegmentLoaded,
    StoreRun,
    StoreSegment,
    StoreZeroes,
)
from holdfast.flows.disk_tree import ID_BYTES
from holdfast.model.finding import Finding
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.sources.disk.dirty import ReadDecision, mark_dirty
from holdfast.sources.disk.reader import DiskReader
from holdfast.sources.disk.segments import (
    ChunkRun,
    DiskLayout,
    RunKind,
    plan_chunks,
    runs_by_segment,
)

_TASK_BYTES = 16 << 20

Work = tuple[Callable[[Any], None], Any]
"""A task for a worker, and what takes its answer."""


@dataclass(slots=True)
class DiskTally:
    """Bytes of a disk by what was done with them; `zero_bytes` counts what is not reused."""

    done_bytes: int = 0
    zero_bytes: int = 0
    read_bytes: int = 0
    reused_bytes: int = 0
    segments_reused: int = 0
    segments_changed: int = 0


@dataclass(slots=True)
class _Segment:
    number: int
    first: int
    ids: bytearray
    pending: int = 0


class DiskCapture:
    """The tasks of one disk. `trees` is complete when there is neither work nor an answer due.

    `parent_trees` are those of the parent's segments; they are there wherever the decision
    is to read by ranges.
    """

    def __init__(
        self,
        number: int,
        name: str,
        reader: DiskReader,
        *,
        layout: DiskLayout,
        decision: ReadDecision,
        parent_trees: list[bytes],
        index: BlobIndex,
    ) -> None:
        self.name, self.layout, self.decision = name, layout, decision
        self.tally = DiskTally()
        self.findings = list(decision.findings)
        self.trees: list[bytes] = [b""] * layout.segment_count
        self._number, self._index, self._parent_trees = number, index, parent_trees
        extents = reader.extents()
        if decision.ranges is not None:
            extents = mark_dirty(extents, decision.ranges)
        runs = plan_chunks(layout.size_bytes, layout.chunk_size_bytes, extents)
        self._plan = runs_by_segment(layout, runs)
        self._ready: deque[Work] = deque()
        self._zero_ids: dict[int, bytes] = {}
        # Segments of zeroes by their length: the tree, or who waits for it.
        self._zero_trees: dict[int, bytes | list[int]] = {}

    def next_work(self) -> Work | None:
        """Return what to do next; None where nothing is to be done before an answer comes."""
        while not self._ready:
            planned = next(self._plan, None)
            if planned is None:
                return None
            self._begin(*planned)
        return self._ready.popleft()

    # Segments

    def _begin(self, number: int, runs: tuple[ChunkRun, ...]) -> None:
        length = self.layout.segment_length(number)
        kinds = {run.kind for run in runs}
        if kinds == {RunKind.REUSE} and self._reuse(number, length):
            return
        if kinds == {RunKind.ZERO}:
            self._zero_segment(number, length)
            return
        segment = self._new_segment(number)
        self.tally.segments_changed += 1
        if RunKind.REUSE not in kinds:
            self._fill(segment, runs)
            return
        task = LoadSegment(
            self._parent_trees[number],
            length,
            len(segment.ids) // ID_BYTES,
            tuple((run.first - segment.first, run.count) for run in _of(runs, RunKind.REUSE)),
        )
        self._ready.append((partial(self._loaded, segment, runs), task))

    def _new_segment(self, number: int) -> _Segment:
        chunks = self.layout.chunks_of_segment(number)
        return _Segment(number, chunks.start, bytearray(ID_BYTES * len(chunks)))

    def _reuse(self, number: int, length: int) -> bool:
        """Take over the parent's segment without opening it, if its tree is still there."""
        tree = self._parent_trees[number]
        if not self._index.knows(BlobType.TREE, tree):
            return False  # loading it will say the same, and have it read whole
        self.trees[number] = tree
        self.tally.segments_reused += 1
        self.tally.reused_bytes += length
        self.tally.done_bytes += length
        return True

    def _zero_segment(self, number: int, length: int) -> None:
        self.tally.segments_changed += 1
        self.tally.zero_bytes += length
        self.tally.done_bytes += length
        known = self._zero_trees.get(length)
        if isinstance(known, bytes):
            self.trees[number] = known
        elif known is not None:
            known.append(number)
        else:
            waiting = self._zero_trees[length] = [number]
            ids = self._zeroes(ChunkRun(*_span(self.layout.chunks_of_segment(number))))

            def receive(tree: bytes) -> None:
                self._zero_trees[length] = tree
                for each in waiting:
                    self.trees[each] = tree

            self._ready.append((receive, StoreSegment(ids, length)))

    def _loaded(self, segment: _Segment, runs: tuple[ChunkRun, ...], loaded: SegmentLoaded) -> None:
        if loaded.problem:
            self.findings.append(
                Finding(
                    "parent_incomplete",
                    f"{self.layout.segment_name(segment.number)} of the parent snapshot cannot "
                    f"be taken over: {loaded.problem}. That part of the disk is read whole.",
                    self.name,
                )
            )
            # The plan knows what is zero only where it is dirty, so all of it is read.
            count = len(segment.ids) // ID_BYTES
            self._fill(segment, (ChunkRun(segment.first, count, RunKind.READ),))
            return
        segment.ids[:] = loaded.ids
        for run in _of(runs, RunKind.REUSE):
            self.tally.reused_bytes += self._length(run)
            self.tally.done_bytes += self._length(run)
        self._fill(segment, runs)

    def _fill(self, segment: _Segment, runs: tuple[ChunkRun, ...]) -> None:
        """Make tasks of what is to be read, and put in what is zero."""
        for run in _of(runs, RunKind.ZERO):
            at = (run.first - segment.first) * ID_BYTES
            segment.ids[at : at + run.count * ID_BYTES] = self._zeroes(run)
            self.tally.zero_bytes += self._length(run)
            self.tally.done_bytes += self._length(run)
        chunks_at_once = max(1, _TASK_BYTES // self.layout.chunk_size_bytes)
        for run in _of(runs, RunKind.READ):
            for first in range(run.first, run.end, chunks_at_once):
                part = ChunkRun(first, min(chunks_at_once, run.end - first), RunKind.READ)
                task = StoreRun(self._number, part.first, part.count)
                self._ready.append((partial(self._stored, segment, part), task))
                segment.pending += 1
        self._finish_if_ready(segment)

    def _stored(self, segment: _Segment, part: ChunkRun, stored: RunStored) -> None:
        at = (part.first - segment.first) * ID_BYTES
        segment.ids[at : at + len(stored.ids)] = stored.ids
        self.tally.zero_bytes += stored.zero_bytes
        self.tally.read_bytes += self._length(part)
        self.tally.done_bytes += self._length(part)
        segment.pending -= 1
        self._finish_if_ready(segment)

    def _finish_if_ready(self, segment: _Segment) -> None:
        if segment.pending:
            return

        def receive(tree: bytes) -> None:
            self.trees[segment.number] = tree

        length = self.layout.segment_length(segment.number)
        self._ready.append((receive, StoreSegment(bytes(segment.ids), length)))

    # Zeroes

    def _zeroes(self, run: ChunkRun) -> bytes:
        """The ids of a run of zero chunks, the chunks themselves being stored once."""
        last = self.layout.chunk_length(run.end - 1)
        if last == self.layout.chunk_size_bytes:
            return self._zero_id(last) * run.count
        head = (
            self._zero_id(self.layout.chunk_size_bytes) * (run.count - 1) if run.count > 1 else b""
        )
        return head + self._zero_id(last)

    def _zero_id(self, length: int) -> bytes:
        found = self._zero_ids.get(length)
        if found is None:
            found = self._zero_ids[length] = hashlib.sha256(bytes(length)).digest()
            self._ready.append((_nothing, StoreZeroes(length)))
        return found

    def _length(self, run: ChunkRun) -> int:
        end = min(run.end * self.layout.chunk_size_bytes, self.layout.size_bytes)
        return end - run.first * self.layout.chunk_size_bytes


def _of(runs: tuple[ChunkRun, ...], kind: RunKind) -> list[ChunkRun]:
    return [run for run in runs if run.kind is kind]


def _span(chunks: range) -> tuple[int, int, RunKind]:
    return chunks.start, len(chunks), RunKind.ZERO


def _nothing(_answer: object) -> None:
    """Zeroes need no answer: their id is known beforehand."""
