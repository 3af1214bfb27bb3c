"""A large file that is being restored: shared out to the workers by its blobs.

It exists as one hole of its size; workers fill it in any order. It is given its metadata, and
in place its name, only when all of it was written, so that what looks finished is.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.flows.placement import placed
from holdfast.flows.restore_messages import ChunksDone, SharedFile, WriteChunks
from holdfast.model.node import Node
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType
from holdfast.sources.path.target import PendingFile

_TASK_BYTES = 8 << 20


class SharedFileRestore:
    """One such file. `damage` says why bytes are lost; `failed` that it could not be written."""

    def __init__(self, shared: SharedFile, index: BlobIndex) -> None:
        self.pending: PendingFile = shared.pending
        self.node: Node = shared.node
        self.key = shared.key
        self.failed = False
        self.damage = ""
        self._index = index
        self._lost_bytes = 0
        self._placed_bytes = 0
        self._outstanding = 0
        self._tasks = self._make_tasks()
        self._ended = False

    def next_task(self) -> WriteChunks | None:
        """The next part for a worker, None where all is handed out."""
        task = None if self.failed else next(self._tasks, None)
        if task is None:
            self._ended = True
        else:
            self._outstanding += 1
        return task

    def receive(self, done: ChunksDone) -> None:
        self._outstanding -= 1
        self._lost_bytes += done.lost_bytes
        self.damage = done.reason or self.damage
        self.failed = self.failed or done.failed

    @property
    def finished(self) -> bool:
        return self._ended and not self._outstanding

    @property
    def lost_bytes(self) -> int:
        """Bytes of the file that are lost; negative where its content is too long."""
        return self._lost_bytes + self.node.size - self._placed_bytes

    @property
    def is_damaged(self) -> bool:
        return bool(self._lost_bytes) or self._placed_bytes != self.node.size

    def _make_tasks(self) -> Iterator[WriteChunks]:
        chunks: list[tuple[int, bytes]] = []
        total = 0
        for offset, length, blob_id in placed(self.node.content, self.node.size, self._length_of):
            self._placed_bytes += length
            chunks.append((offset, blob_id))
            total += length
            if total >= _TASK_BYTES:
                yield WriteChunks(self.pending, chunks, total)
                chunks, total = [], 0
        if chunks:
            yield WriteChunks(self.pending, chunks, total)

    def _length_of(self, blob_id: bytes) -> int | None:
        location = self._index.find(BlobType.DATA, blob_id)
        return None if location is None else location.raw_length
