"""The `ObjectStore` protocol: what a repository needs of the place where its bytes lie.

An object has a key (``data/2b/2b1c...``: segments of ``[A-Za-z0-9._-]`` joined by ``/``,
see `key.py`) and bytes that never change. A store never interprets them. No key is the
beginning of another one's path: where ``data/x`` is, there is no object ``data``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its full key, and its size in bytes."""

    key: str
    size_bytes: int


@runtime_checkable
class ObjectStore(Protocol):
    """A flat, durable name space of immutable objects.

    Obligations of every implementation and wrapper, proven by ``tests/contract``:

    - **Atomic**: a reader or lister sees an object whole or not at all, also after a
      crash of the writer at any moment.
    - **Durable**: when `create` returns, the object survives power loss; when `delete`
      returns, it stays deleted.
    - **Create-if-absent**: of several concurrent `create` calls on one key exactly one
      returns; the others raise `ObjectExists` and change nothing.
    - **Read after write**: what `create` returned from is seen by every later `read`,
      `size` and `list`, from any process.
    - **Thread-safe**: every method may be called from many threads at once.
    - **Errors**: `ObjectNotFound` for a missing key; `StoreUnavailable` only where a
      retry may help; `StoreDenied`, `StoreFull` with a sentence that says what to do;
      any other failure is a `StoreError`; a malformed key, prefix or range is a
      `UsageError`. After `StoreUnavailable` from `create` the object may exist.
      No library's own exception leaves a store.
    """

    @property
    def location(self) -> str:
        """Where this is, for people: a URL or path, without credentials."""
        ...

    @property
    def shareable(self) -> bool:
        """Whether another process that opens the same location sees the same objects."""
        ...

    @property
    def fork_safe(self) -> bool:
        """Whether an instance that has been used still works in a forked child."""
        ...

    def create(self, key: str, data: Buffer) -> None:
        """Store `data` under `key`; raise `ObjectExists` if the key is taken."""
        ...

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`, or all to the end when it is None.

        Fewer bytes come back only where the object ends before `offset + length`.
        """
        ...

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, in no promised order.

        `prefix` is empty or ends with ``/``. Objects created or deleted meanwhile may
        or may not be seen; all others are seen exactly once.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error, so that a retry is safe."""
        ...

    def close(self) -> None:
        """Give back connections and threads; the store is not used afterwards."""
        ...


@runtime_checkable
class StreamingStore(Protocol):
    """A store that also takes one object of any size as a stream, in bounded memory.

    Beyond `ObjectStore`, which repositories need and nothing more of; an implementation is
    usually both.
    """

    def create_stream(
        self, key: str, chunks: Iterable[Buffer], *, size_bytes: int | None = None
    ) -> int:
        """Store the concatenation of `chunks` under `key` and return its size in bytes.

        Atomic and durable as `ObjectStore.create`: until it returns, and where `chunks`
        raises, nothing is to be seen under `key`. `size_bytes` is how much about is to come,
        where that is known. `ObjectExists` where the name is taken; of two that write the
        same name at the same moment a cloud may let both return, and keeps one of them whole.
        It is never repeated by itself, as `chunks` is read once. What `chunks` raises is
        raised.
        """
        ...
