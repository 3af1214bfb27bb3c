from __future__ import annotations

import hashlib
import os
import pickle
import random
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest

from holdfast.repo.known import KnownBlobs
from holdfast.repo.pack import BlobType


@pytest.fixture
def known() -> Iterator[KnownBlobs]:
    blobs = KnownBlobs()
    yield blobs
    blobs.close()


def ids(first: int, last: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(first, last)]


def test_every_id_is_new_once_and_known_from_then_on(known: KnownBlobs) -> None:
    # Far more than the first generations hold.
    some = ids(0, 60_000)
    assert all(known.take(BlobType.DATA, each) for each in some)
    assert not any(known.take(BlobType.DATA, each) for each in some)


def test_a_tree_and_a_file_of_the_same_bytes_are_two_blobs(known: KnownBlobs) -> None:
    (one,) = ids(0, 1)
    assert known.take(BlobType.DATA, one)
    assert known.take(BlobType.TREE, one)
    assert not known.take(BlobType.TREE, one)


def test_a_pickled_copy_shares_the_set(known: KnownBlobs) -> None:
    one, other = ids(0, 2)
    copy = pickle.loads(pickle.dumps(known))
    assert known.take(BlobType.DATA, one)
    assert not copy.take(BlobType.DATA, one)
    assert copy.take(BlobType.DATA, other)
    assert not known.take(BlobType.DATA, other)
    copy.close()


def take_all(known: KnownBlobs, some: list[bytes], answer: Connection) -> None:
    answer.send([each for each in some if known.take(BlobType.DATA, each)])


def test_processes_that_race_end_and_lose_nothing(known: KnownBlobs) -> None:
    # More processes than processors, so that they are preempted in the middle of adding.
    context = get_context("fork")
    some = ids(0, 30_000)
    racing = []
    for seed in range(2 * (os.cpu_count() or 1)):
        ours, theirs = context.Pipe(duplex=False)
        order = random.Random(seed).sample(some, len(some))
        process = context.Process(target=take_all, args=(known, order, theirs))
        process.start()
        racing.append((process, ours))
    taken: list[bytes] = []
    for process, ours in racing:
        assert ours.poll(60), "a process that adds ids does not end"
        taken += ours.recv()
        process.join()
    assert set(taken) == set(some), "nobody took on a blob: the repository would lack it"
    assert len(taken) < 1.05 * len(some), "what one took on, the others should mostly see"
