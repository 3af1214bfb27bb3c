"""Ranges: read any part of a stored disk, chunk by chunk, for serving it lazily.

Knows chunks only by number and asks for them through a function, so it neither knows the
repository nor does I/O of its own. The invariant: a chunk is being fetched at most once
at a time, and a failed fetch fails exactly the reads that need that chunk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from holdfast.errors import Damaged, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_STREAMS = 16
"""How many sequential streams are told apart: a guest reads several files at once."""

_FETCHERS_AT_MOST = 8

_ENTRY_BYTES = 256
"""What an entry of the cache costs besides its bytes, so that zero chunks are bounded too."""


class _Flight:
    """One fetch: waiting for somebody to do it, under way, or done."""

    __slots__ = ("claimed", "data", "done", "error")

    def __init__(self) -> None:
        self.claimed = False
        self.done = threading.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


class DiskRangeReader:
    """Random reads of a disk of `size_bytes` that lies in chunks of `chunk_size_bytes`.

    `fetch(chunk)` returns the bytes of a chunk (the last may be short), or None if it is
    all zero; it is called from several threads at once. Chunks are cached up to
    `cache_bytes`, least recently used out first. A read that continues an earlier one
    starts fetching up to `read_ahead_chunks` behind it, at most half the cache. All
    methods may be called from many threads.
    """

    def __init__(
        self,
        chunk_size_bytes: int,
        size_bytes: int,
        fetch: Callable[[int], bytes | None],
        *,
        cache_bytes: int = 64 << 20,
        read_ahead_chunks: int = 8,
    ) -> None:
        if chunk_size_bytes < 1 or size_bytes < 0 or cache_bytes < 0 or read_ahead_chunks < 0:
            raise UsageError("Sizes of a disk, its chunks, its cache cannot be negative.")
        self._chunk_bytes = chunk_size_bytes
        self._size_bytes = size_bytes
        self._chunks = -(-size_bytes // chunk_size_bytes)
        self._fetch = fetch
        self._cache_bytes = cache_bytes
        self._ahead = min(read_ahead_chunks, cache_bytes // (2 * chunk_size_bytes))
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes | None] = OrderedDict()
        self._cached_bytes = 0
        self._flights: dict[int, _Flight] = {}
        self._stream_ends: OrderedDict[int, None] = OrderedDict()
        self._closed = False
        self._pool = (
            ThreadPoolExecutor(min(self._ahead, _FETCHERS_AT_MOST), "disk-read-ahead")
            if self._ahead
            else None
        )

    @property
    def size_bytes(self) -> int:
        """The size of the disk in bytes."""
        return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        self._require_inside(offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; raises what fetching a chunk of it raised."""
        length = len(buffer)
        self._require_inside(offset, length)
        if not length:
            return
        first = offset // self._chunk_bytes
        last = (offset + length - 1) // self._chunk_bytes
        # A stream is read ahead of; a random read only to its own end.
        limit = last + self._ahead if self._continues_stream(offset, length) else last
        done = 0
        for chunk in range(first, last + 1):
            self._start_fetching(chunk + 1, min(limit, chunk + self._ahead))
            data = self._chunk(chunk)
            inside = offset + done - chunk * self._chunk_bytes
            count = min(self._chunk_bytes - inside, length - done)
            if data is None:
                buffer[done : done + count] = bytes(count)
            else:
                buffer[done : done + count] = memoryview(data)[inside : inside + count]
            done += count

    def close(self) -> None:
        """Stop reading ahead and wait for its threads; later reads raise `UsageError`."""
        with self._lock:
            self._closed = True
            self._cache.clear()
            self._cached_bytes = 0
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size_bytes:
            raise UsageError(
                f"{length} bytes at {offset} are not inside the disk of {self._size_bytes} bytes."
            )

    def _continues_stream(self, offset: int, length: int) -> bool:
        """Whether a read begins where an earlier one ended; notes where this one ends."""
        with self._lock:
            known = offset in self._stream_ends
            if known:
                del self._stream_ends[offset]
            self._stream_ends[offset + length] = None
            self._stream_ends.move_to_end(offset + length)
            if len(self._stream_ends) > _STREAMS:
                self._stream_ends.popitem(last=False)
            return known

    def _start_fetching(self, first: int, last: int) -> None:
        """Have the pool fetch the chunks `first` to `last` that nobody has or fetches."""
        if self._pool is None:
            return
        for chunk in range(first, min(last, self._chunks - 1) + 1):
            with self._lock:
                if self._closed:
                    return
                if chunk in self._cache or chunk in self._flights:
                    continue
                flight = self._flights[chunk] = _Flight()
                # Under the lock, as `close` shuts the pool down only after taking it.
                self._pool.submit(self._fly, chunk, flight)

    def _chunk(self, chunk: int) -> bytes | None:
        with self._lock:
            if self._closed:
                raise UsageError("The disk is closed; open it again to read from it.")
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
            flight = self._flights.get(chunk)
            if flight is None:
                flight = self._flights[chunk] = _Flight()
        # A reader never waits for a fetch that has not begun: it does that itself.
        self._fly(chunk, flight)
        flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return flight.data

    def _fly(self, chunk: int, flight: _Flight) -> None:
        """Do the fetch, unless somebody else has begun it. Raises nothing: see `error`."""
        with self._lock:
            if flight.claimed:
                return
            flight.claimed = True
        try:
            data = self._fetch(chunk)
            expected = min(self._chunk_bytes, self._size_bytes - chunk * self._chunk_bytes)
            if data is not None and len(data) != expected:
                raise Damaged(
                    f"Chunk {chunk} of the disk has {len(data)} bytes instead of {expected}. "
                    "Verify the repository and repair it."
                )
            flight.data = data
        except BaseException as error:  # delivered to whoever reads the chunk
            flight.error = error
        with self._lock:
            del self._flights[chunk]
            if flight.error is None and not self._closed:
                self._keep(chunk, flight.data)
        flight.done.set()

    def _keep(self, chunk: int, data: bytes | None) -> None:
        self._cache[chunk] = data
        self._cached_bytes += _ENTRY_BYTES + len(data or b"")
        while self._cached_bytes > self._cache_bytes:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= _ENTRY_BYTES + len(old or b"")
