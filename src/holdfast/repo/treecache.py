"""Packs of trees kept on local disk, for repositories that lie far away.

A tree is a few hundred bytes, and an incremental backup reads thousands of them; over a
network each would be a request of its own. The first read of a tree fetches the pack that
it lies in, whole. Entries are as sealed as they are in the store, and what is read is
checked like everything else; the directory may be deleted at any time.
"""

from __future__ import annotations

import os
from contextlib import suppress

from holdfast.repo.indextable import Location
from holdfast.store.protocol import ObjectStore

_LIMIT_BYTES = 1 << 30
_LARGEST_PACK_BYTES = 64 << 20


class TreePackCache:
    """Reads sealed tree blobs through whole packs on local disk."""

    def __init__(self, store: ObjectStore, directory: str) -> None:
        self._store, self._directory = store, directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def read(self, location: Location) -> bytes:
        """Return the sealed bytes at `location`; falls back to the store where disk fails."""
        name = location.pack.hex()
        path = os.path.join(self._directory, name)
        key = f"data/{name[:2]}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            if location.offset + location.length > _LARGEST_PACK_BYTES:
                return self._store.read(key, location.offset, location.length)
            pack = self._store.read(key)
            with suppress(OSError):  # a full or read-only disk costs speed, nothing else
                self._keep(path, pack)
            return pack[location.offset : location.offset + location.length]
        try:
            return os.pread(fd, location.length, location.offset)
        finally:
            os.close(fd)

    def drop(self, location: Location) -> None:
        """Forget a pack whose copy here turned out to be bad."""
        with suppress(OSError):
            os.unlink(os.path.join(self._directory, location.pack.hex()))

    def _keep(self, path: str, pack: bytes) -> None:
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(pack)
        os.replace(temporary, path)
        self._shrink()

    def _shrink(self) -> None:
        entries = []
        for entry in os.scandir(self._directory):
            st = entry.stat()
            entries.append((st.st_mtime_ns, st.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= _LIMIT_BYTES:
                return
            os.unlink(path)
            total -= size
