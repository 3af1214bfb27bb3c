"""Random reads of a stored disk: exact, each chunk fetched once, errors where they belong."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from holdfast.errors import Damaged, StoreUnavailable, UsageError
from holdfast.sources.disk.ranges import DiskRangeReader

CHUNK = 1000
SIZE = 50 * CHUNK + 123


class Disk:
    """A disk of chunks, every third of them zero, that counts what is fetched of it."""

    def __init__(self) -> None:
        content = bytearray(random.Random(7).randbytes(SIZE))
        for start in range(0, SIZE, 3 * CHUNK):
            content[start : start + CHUNK] = bytes(len(content[start : start + CHUNK]))
        self.content = bytes(content)
        self.fetched: Counter[int] = Counter()
        self.lock = threading.Lock()

    def fetch(self, chunk: int) -> bytes | None:
        with self.lock:
            self.fetched[chunk] += 1
        data = self.content[chunk * CHUNK : (chunk + 1) * CHUNK]
        return data if any(data) else None


def eventually(condition: object) -> None:
    assert callable(condition)
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("this did not happen within a minute")


@pytest.mark.parametrize("cache", [0, 5 * CHUNK, 1 << 20])
@pytest.mark.parametrize("ahead", [0, 4])
def test_any_range_from_any_thread_is_exact(cache: int, ahead: int) -> None:
    disk = Disk()
    rng = random.Random(1)
    ranges = [(0, SIZE), (SIZE, 0), (SIZE - 1, 1)]
    for _ in range(300):
        start = rng.randrange(SIZE)
        ranges.append((start, rng.randrange(min(5 * CHUNK, SIZE - start) + 1)))
    with (
        DiskRangeReader(
            CHUNK, SIZE, disk.fetch, cache_bytes=cache, read_ahead_chunks=ahead
        ) as reader,
        ThreadPoolExecutor(6) as pool,
    ):
        for (start, length), got in zip(
            ranges, pool.map(lambda each: reader.read(*each), ranges), strict=True
        ):
            assert got == disk.content[start : start + length]


def test_a_cached_chunk_is_not_fetched_again_until_it_is_the_oldest() -> None:
    disk = Disk()
    with DiskRangeReader(
        CHUNK, SIZE, disk.fetch, cache_bytes=3 * (CHUNK + 256), read_ahead_chunks=0
    ) as reader:
        for chunk in (1, 2, 4, 1, 5, 1):  # 5 pushes out 2
            reader.read(chunk * CHUNK, 10)
        assert disk.fetched == {1: 1, 2: 1, 4: 1, 5: 1}
        reader.read(2 * CHUNK, 10)
        assert disk.fetched[2] == 2


def test_zero_chunks_do_not_fill_the_cache_without_end() -> None:
    fetched: Counter[int] = Counter()

    def fetch(chunk: int) -> None:
        fetched[chunk] += 1

    with DiskRangeReader(1, 10_000, fetch, cache_bytes=256 * 10, read_ahead_chunks=0) as reader:
        for chunk in [*range(100), 99, 0]:
            assert reader.read(chunk, 1) == b"\0"
    assert fetched[99] == 1
    assert fetched[0] == 2


def test_concurrent_reads_of_one_chunk_fetch_it_once() -> None:
    release = threading.Event()
    begun: list[int] = []

    def fetch(chunk: int) -> bytes:
        begun.append(chunk)
        assert release.wait(60)
        return b"x" * CHUNK

    with DiskRangeReader(CHUNK, SIZE, fetch) as reader, ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(reader.read, 5 * CHUNK + n, 1) for n in range(8)]
        eventually(lambda: begun)
        time.sleep(0.05)
        release.set()
        assert [read.result() for read in reads] == [b"x"] * 8
    assert begun.count(5) == 1
    assert len(set(begun)) == len(begun)


def test_a_sequential_reader_finds_the_next_chunks_fetched() -> None:
    disk = Disk()
    with DiskRangeReader(CHUNK, SIZE, disk.fetch, read_ahead_chunks=4) as reader:
        reader.read(10 * CHUNK, 100)
        assert set(disk.fetched) == {10}
        reader.read(10 * CHUNK + 100, 100)
        eventually(lambda: set(disk.fetched) == {10, 11, 12, 13, 14})
        reader.read(30 * CHUNK, 100)
        reader.read(20 * CHUNK, 100)
        assert set(disk.fetched) == {10, 11, 12, 13, 14, 20, 30}
        for start in range(10 * CHUNK + 200, SIZE, 500):
            reader.read(start, min(500, SIZE - start))
    assert max(disk.fetched.values()) == 1


def test_a_long_read_fetches_its_chunks_side_by_side() -> None:
    together = threading.Barrier(4, timeout=60)

    def fetch(chunk: int) -> bytes:
        together.wait()  # passes only when four fetches are under way at once
        return bytes([chunk]) * CHUNK

    with DiskRangeReader(CHUNK, 4 * CHUNK, fetch, read_ahead_chunks=4) as reader:
        data = reader.read(0, 4 * CHUNK)
    assert data == b"".join(bytes([n]) * CHUNK for n in range(4))


def test_an_error_reaches_the_readers_of_that_chunk_only_and_is_not_kept() -> None:
    disk = Disk()
    broken = True

    def fetch(chunk: int) -> bytes | None:
        if chunk == 13 and broken:
            raise StoreUnavailable("The store is away.")
        return disk.fetch(chunk)

    with DiskRangeReader(CHUNK, SIZE, fetch, read_ahead_chunks=4) as reader:
        # Reading ahead meets the broken chunk; nobody who does not need it sees that.
        for start in range(10 * CHUNK, 13 * CHUNK, 500):
            assert reader.read(start, 500) == disk.content[start : start + 500]
        with pytest.raises(StoreUnavailable):
            reader.read(13 * CHUNK - 1, 2)
        assert reader.read(14 * CHUNK, 500) == disk.content[14 * CHUNK : 14 * CHUNK + 500]
        broken = False
        assert reader.read(13 * CHUNK, 500) == disk.content[13 * CHUNK : 13 * CHUNK + 500]


def test_all_who_wait_for_a_failing_chunk_fail() -> None:
    release = threading.Event()
    calls: list[int] = []

    def fetch(chunk: int) -> bytes:
        calls.append(chunk)
        assert release.wait(60)
        raise StoreUnavailable("The store is away.")

    with DiskRangeReader(CHUNK, SIZE, fetch) as reader, ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(reader.read, 0, 1) for _ in range(4)]
        eventually(lambda: calls)
        time.sleep(0.05)
        release.set()
        assert all(isinstance(read.exception(), StoreUnavailable) for read in reads)


def test_a_chunk_of_the_wrong_length_is_damage() -> None:
    with (
        DiskRangeReader(CHUNK, SIZE, lambda _: b"x" * CHUNK) as reader,
        pytest.raises(Damaged, match="instead of 123"),
    ):
        reader.read(SIZE - 1, 1)


def test_ranges_outside_and_reads_after_closing_are_refused() -> None:
    reader = DiskRangeReader(CHUNK, SIZE, Disk().fetch)
    for offset, length in [(-1, 1), (0, -1), (SIZE, 1), (0, SIZE + 1)]:
        with pytest.raises(UsageError):
            reader.read(offset, length)
    reader.close()
    reader.close()
    with pytest.raises(UsageError, match="closed"):
        reader.read(0, 1)


def test_closing_stops_the_threads_and_drops_what_was_queued() -> None:
    before = threading.active_count()
    fetched: list[int] = []
    closed = threading.Event()

    def fetch(chunk: int) -> bytes:
        fetched.append(chunk)
        if chunk:
            assert closed.wait(60)
            time.sleep(0.05)
        return b"x" * CHUNK

    reader = DiskRangeReader(CHUNK, 50 * CHUNK, fetch, cache_bytes=1 << 30, read_ahead_chunks=40)
    reader.read(0, 1)
    reader.read(1, 1)
    closer = threading.Thread(target=reader.close)
    closer.start()
    pool: Any = reader._pool
    eventually(lambda: pool._shutdown)
    closed.set()
    closer.join()
    assert threading.active_count() == before
    assert len(fetched) < 30
