"""Listing new packs: index files for what maintenance writes, as it is acknowledged.

For acts that hold an exclusive or a prune's lock; a backup has its `session.py`. Nothing
that exists is replaced here.
"""

from __future__ import annotations

from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.pack import decode_header
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.writer import StoredPack

_BLOBS_IN_INDEX_FILE = 50_000


class StoredIndex:
    """Takes packs in with `add`; after `write` everybody finds them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._pending: list[IndexedPack] = []
        self._blobs = 0

    def add(self, stored: list[StoredPack]) -> None:
        for pack in stored:
            blobs = decode_header(pack.header, f"pack {pack.id.hex()[:8]}")
            self._pending.append(IndexedPack(pack.id, blobs))
            self._blobs += len(blobs)
        if self._blobs >= _BLOBS_IN_INDEX_FILE:
            self.write()

    def write(self) -> None:
        if self._pending:
            self._repository.save(FileKind.INDEX, encode_index(self._pending))
            self._pending, self._blobs = [], 0
