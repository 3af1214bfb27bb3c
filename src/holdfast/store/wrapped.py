"""What a store that wraps another one passes on as it is.

A wrapper inherits from this and changes the calls that it is for. It decides nothing, and
keeps the inner store's promises because it only hands calls on. Streams are not among
them: only a wrapper that says what they mean for it takes any.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.store.protocol import Buffer, ObjectInfo, ObjectStore


class WrappedStore:
    """An `ObjectStore` that is another one under a second name."""

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
        self._inner.create(key, data)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(key, offset, length)

    def size(self, key: str) -> int:
        return self._inner.size(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()
