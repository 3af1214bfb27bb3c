"""A store in this process's memory, for tests and for trying things out.

It never outlives the process and never shows a forked child's objects to its parent. It
has no lock: each method rests on one dictionary operation, which Python makes atomic, so
a child forked at any moment finds it usable.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.errors import ObjectExists, ObjectNotFound
from holdfast.store.key import check_key, check_prefix, check_range
from holdfast.store.protocol import Buffer, ObjectInfo


class MemoryStore:
    """An `ObjectStore` in a dictionary; not shareable, fork-safe."""

    shareable = False
    fork_safe = True

    def __init__(self, name: str = "memory") -> None:
        # Each content lies in a tuple of its own, so that `setdefault` tells by identity
        # who put it there, also when two callers pass the very same bytes object.
        self._objects: dict[str, tuple[bytes]] = {}
        self._name = name

    @property
    def location(self) -> str:
        return f"memory:{self._name}"

    def create(self, key: str, data: Buffer) -> None:
        check_key(key)
        mine = (bytes(data),)
        if self._objects.setdefault(key, mine) is not mine:
            raise ObjectExists(f"{key} exists already in {self.location}.")

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        data = self._get(key)
        if offset == 0 and length is None:
            return data
        return data[offset : None if length is None else offset + length]

    def size(self, key: str) -> int:
        return len(self._get(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for key, (data,) in tuple(self._objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data))

    def delete(self, key: str) -> None:
        check_key(key)
        self._objects.pop(key, None)

    def close(self) -> None:
        """Keep the objects: a test may look at them afterwards."""

    def _get(self, key: str) -> bytes:
        check_key(key)
        try:
            return self._objects[key][0]
        except KeyError:
            raise ObjectNotFound(f"{self.location} holds no object {key}.") from None
