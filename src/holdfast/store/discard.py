"""Drops what is written, so that a dry run goes through all the motions and stores nothing.

It wraps any store. Reading is the inner store's; what was dropped cannot be read back.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.store.protocol import Buffer, ObjectInfo, ObjectStore


class DiscardingStore:
    """An `ObjectStore` whose `create` and `delete` succeed and change nothing."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def shareable(self) -> bool:
        return self._inner.shareable

    @property
    def fork_safe(self) -> bool:
        return self._inner.fork_safe

    def create(self, key: str, data: Buffer) -> None:
        """Take the object and forget it."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(key, offset, length)

    def size(self, key: str) -> int:
        return self._inner.size(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        """Leave the object where it is."""

    def close(self) -> None:
        self._inner.close()
