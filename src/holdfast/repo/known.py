"""The blobs that this run has taken on so far, shared between worker processes without locks.

Buckets of sixteen ids in shared memory, in generations of doubling size, so that a small
run touches little memory. A blob belongs into one bucket of each generation, and stands in
the first of them that had room; so a search ends at the first bucket with room. Two workers
that race may both take on a blob, which stores it twice and harms nothing; a torn entry
matches no id. It never answers yes for an id that nobody added, because whole ids are
compared, and it keeps no counters, because unlocked counters lose updates.
"""

from __future__ import annotations

import mmap
import os
import struct

from holdfast.repo.pack import BlobType

_ID_BYTES = 32
_BUCKET_BYTES = 16 * _ID_BYTES
_FIRST_BUCKETS_LOG2 = 9
_GENERATIONS = 13
_EMPTY = bytes(_ID_BYTES)
_PREFIX = struct.Struct("<Q")


class KnownBlobs:
    """A grow-only set of (type, id). Open it before workers start; pickling shares it."""

    def __init__(self, path: str | None = None) -> None:
        sizes = [_BUCKET_BYTES << (_FIRST_BUCKETS_LOG2 + g) for g in range(_GENERATIONS)]
        total = sum(sizes)
        if path is None:
            self._fd = os.memfd_create("holdfast-known-blobs", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, total)
        else:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._fd, total)
        self._generations = [
            (sum(sizes[:g]), (1 << (_FIRST_BUCKETS_LOG2 + g)) - 1) for g in range(_GENERATIONS)
        ]

    def __reduce__(self) -> tuple[type[KnownBlobs], tuple[str]]:
        return KnownBlobs, (f"/proc/{os.getpid()}/fd/{self._fd}",)

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def take(self, kind: BlobType, blob_id: bytes) -> bool:
        """Add a blob; return False where some worker has taken it on before."""
        if kind is BlobType.TREE:
            # The same bytes may be a file and a tree, and are stored for each.
            blob_id = blob_id[:31] + bytes([blob_id[31] ^ 0xFF])
        shared = self._map
        prefix = _PREFIX.unpack_from(blob_id, 0)[0]
        for start, mask in self._generations:
            begin = start + (prefix & mask) * _BUCKET_BYTES
            bucket = shared[begin : begin + _BUCKET_BYTES]
            if _aligned(bucket, blob_id) >= 0:
                return False
            room = _aligned(bucket, _EMPTY)
            if room >= 0:
                shared[begin + room : begin + room + _ID_BYTES] = blob_id
                return True
        return True  # past the last generation a blob may be stored twice in a run


def _aligned(bucket: bytes, entry: bytes) -> int:
    """Return where an entry stands in a bucket, or -1."""
    at = bucket.find(entry)
    while at >= 0 and at % _ID_BYTES:
        at = bucket.find(entry, at + 1)
    return at
