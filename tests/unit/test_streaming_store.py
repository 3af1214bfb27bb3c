"""Streams into a directory: whole and synced, or not there at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import Interrupted, ObjectExists, StoreError
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import Buffer, StreamingStore
from holdfast.store.retry import RetryingStore

KEY = "archives/repo/one.zip"


@pytest.fixture(params=["local", "retrying"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStore | RetryingStore:
    local = LocalStore(str(tmp_path))
    return local if request.param == "local" else RetryingStore(local)


def test_chunks_become_one_object(store: LocalStore | RetryingStore) -> None:
    assert isinstance(store, StreamingStore)
    chunks: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b"three"), b""]
    assert store.create_stream(KEY, chunks) == 11
    assert store.read(KEY) == b"onetwothree"
    assert store.create_stream("empty", []) == 0
    with pytest.raises(ObjectExists):
        store.create_stream(KEY, [b"other"])
    assert store.read(KEY) == b"onetwothree"


def test_a_source_that_fails_leaves_nothing(
    store: LocalStore | RetryingStore, tmp_path: Path
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        assert list(store.list("")) == []
        raise Interrupted("the client went away")

    with pytest.raises(Interrupted):
        store.create_stream(KEY, chunks())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_of_several_writers_one_wins(store: LocalStore | RetryingStore) -> None:
    results: list[str] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            store.create_stream(KEY, [b"%d" % number] * 1000)
            results.append(str(number))
        except ObjectExists:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1
    assert store.read(KEY) == results[0].encode() * 1000


def test_a_store_that_takes_no_streams_says_so() -> None:
    with pytest.raises(StoreError, match="takes no streams"):
        RetryingStore(MemoryStore()).create_stream(KEY, [b"x"])
