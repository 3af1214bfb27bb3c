"""Bodies: where the bytes of objects lie in a region's store, sealed in frames.

A body is written once, whole and durably, before anybody is told of it; an object is made of
one or several of them. What was written and never came to be part of an object is reported as
due by the index after a while, as is what was deleted, and removed by a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator

from holdfast.errors import HoldfastError
from holdfast.gateway.authority import Grant
from holdfast.gateway.s3.index import BucketIndex, Piece, StoredBytes
from holdfast.gateway.workroom import Workroom
from holdfast.repo.frames import BodySealer, body_key, open_stretch, sealed_stretch

BODY_BYTES = 32 << 20
READ_BYTES = 4 << 20
_RESERVED_AT_ONCE = 16
# Far from the day after which an id that nobody reported is given up.
_RESERVED_SECONDS = 6 * 3600.0
_SWEEP_SECONDS = 60.0
_SWEPT_AT_ONCE = 100
_log = logging.getLogger(__name__)


class Bodies:
    """Writes, reads and removes bodies; thread-safe. Everything here blocks."""

    def __init__(self, room: Workroom, index: BucketIndex) -> None:
        self._room, self._index = room, index
        self._lock = threading.Lock()
        self._reserved: defaultdict[str, deque[tuple[str, float]]] = defaultdict(deque)

    def fresh(self, grant: Grant) -> str:
        """An id that nothing was written under, good for some hours at least."""
        repository_id, now = grant.repository_id, time.monotonic()
        with self._lock:
            kept = self._reserved[repository_id]
            while kept and now - kept[0][1] > _RESERVED_SECONDS:
                kept.popleft()
            if kept:
                return kept.popleft()[0]
        ids = self._index.reserve(repository_id, _RESERVED_AT_ONCE)
        with self._lock:
            self._reserved[repository_id].extend((each, now) for each in ids[1:])
        return ids[0]

    def store(self, grant: Grant, body_id: str, sealed: bytes | bytearray) -> None:
        """Write a body durably."""
        with self._room.region(grant) as store:
            store.create(body_path(grant.repository_id, body_id), sealed)

    def read(self, grant: Grant, piece: Piece, offset: int, length: int) -> bytes:
        """A stretch of a body; raises `Damaged` where it is not as it was written."""
        assert grant.password is not None
        begin, count = sealed_stretch(offset, length, piece.size_bytes)
        with self._room.region(grant) as store:
            sealed = store.read(body_path(grant.repository_id, piece.id), begin, count)
        key = body_key(grant.password, piece.id)
        return open_stretch(
            key, sealed, offset, length, size_bytes=piece.size_bytes, what=f"body {piece.id}"
        )

    def remove_due(self) -> int:
        """Remove bodies that nobody needs any more; how many."""
        done = 0
        while True:
            due = self._index.due(_SWEPT_AT_ONCE)
            removed = []
            for body in due:
                try:
                    with self._room.stores.use(body.location, body.options) as store:
                        store.delete(body_path(body.repository_id, body.id))
                except HoldfastError as error:
                    _log.warning("body %s cannot be removed yet: %s", body.id, error.message)
                else:
                    removed.append(body.id)
            if removed:
                self._index.removed(removed)
            done += len(removed)
            if len(due) < _SWEPT_AT_ONCE or not removed:
                return done

    def remove_leftovers(self) -> int:
        """Remove what a writer that was killed has left of a file; how many."""
        return self._room.stores.remove_stale_temporaries()


class BodyWriter:
    """Bytes on their way into bodies, of `BODY_BYTES` each; one of these is in memory.

    `finish` tells what was stored; until somebody reports that, it is nothing.
    """

    def __init__(self, bodies: Bodies, grant: Grant) -> None:
        self._bodies, self._grant = bodies, grant
        self._digest = hashlib.md5(usedforsecurity=False)
        self._pieces: list[Piece] = []
        self._sealer: BodySealer | None = None
        self._id = ""
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take some bytes; may write a body."""
        self._digest.update(data)
        view = memoryview(data)
        self.size_bytes += len(view)
        while view:
            if self._sealer is None:
                assert self._grant.password is not None
                self._id = self._bodies.fresh(self._grant)
                self._sealer = BodySealer(body_key(self._grant.password, self._id))
            count = min(BODY_BYTES - self._sealer.size_bytes, len(view))
            self._sealer.write(view[:count])
            view = view[count:]
            if self._sealer.size_bytes == BODY_BYTES:
                self._store()

    @property
    def md5(self) -> bytes:
        """Of everything up to now."""
        return self._digest.digest()

    def finish(self) -> StoredBytes:
        """Write what is left; all of it is durable then."""
        self._store()
        return StoredBytes(tuple(self._pieces), self.size_bytes, self._digest.hexdigest())

    def _store(self) -> None:
        sealer, self._sealer = self._sealer, None
        if sealer is not None:
            self._bodies.store(self._grant, self._id, sealer.finish())
            self._pieces.append(Piece(self._id, sealer.size_bytes))


class Sweeper:
    """The thread that removes what is due, until it is stopped.

    Also what writers that were killed have left in stores that are directories.
    """

    def __init__(self, bodies: Bodies, every_seconds: float = _SWEEP_SECONDS) -> None:
        self._bodies, self._every = bodies, every_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bodies-sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                removed = self._bodies.remove_due()
                left = self._bodies.remove_leftovers()
            except HoldfastError as error:
                _log.info("bodies are swept later: %s", error.message)
            except Exception:
                _log.exception("sweeping bodies failed")
            else:
                if removed:
                    _log.info("%d bodies were removed", removed)
                if left:
                    _log.info("%d files of writers that were killed were removed", left)


def body_path(repository_id: str, body_id: str) -> str:
    """The key of a body in its region's store."""
    return f"bodies/{repository_id}/{body_id[:2]}/{body_id}"


def stretches(
    pieces: tuple[Piece, ...], offset: int, length: int
) -> Iterator[tuple[Piece, int, int]]:
    """Which parts of which bodies a stretch is made of, in steps of `READ_BYTES` at most."""
    start = 0
    end = offset + length
    for piece in pieces:
        first, last = max(offset, start), min(end, start + piece.size_bytes)
        while first < last:
            count = min(READ_BYTES, last - first)
            yield piece, first - start, count
            first += count
        start += piece.size_bytes
        if start >= end:
            return
