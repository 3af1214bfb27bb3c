"""Cuts: they cover the stream, keep their bounds, and depend only on what was read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.repo.chunking import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, Chunker

MIN, AVERAGE, MAX = 256, 1024, 4096
SMALL = Chunker(MIN, AVERAGE, MAX)
bounded = settings(max_examples=60, derandomize=True, deadline=None)


def chunks_of(stream: bytes, pieces: list[int], chunker: Chunker = SMALL) -> list[bytes]:
    """Feed a stream in pieces of those sizes, as a reader of a file would."""
    found: list[bytes] = []
    rest, at, turn = b"", 0, 0
    while at < len(stream):
        size = pieces[turn % len(pieces)]
        turn += 1
        rest += stream[at : at + size]
        at += size
        start = 0
        for end in chunker.cut(memoryview(rest), last=at >= len(stream)):
            found.append(rest[start:end])
            start = end
        rest = rest[start:]
    assert not rest, "with the last piece everything is cut"
    return found


streams = st.one_of(
    st.binary(max_size=3000),
    st.tuples(st.integers(0, 1000), st.integers(0, 60_000)).map(
        lambda made: random.Random(made[0]).randbytes(made[1])
    ),
    st.integers(0, 30_000).map(bytes),
)


@bounded
@given(streams, st.lists(st.integers(1, 9000), min_size=1, max_size=6))
def test_however_a_stream_is_read_the_cuts_are_the_same(stream: bytes, pieces: list[int]) -> None:
    if min(pieces) < 16:
        pieces = [piece + 16 for piece in pieces]  # as quick, and as telling
    chunks = chunks_of(stream, pieces)
    assert b"".join(chunks) == stream
    assert chunks == chunks_of(stream, [len(stream) + 1])


@bounded
@given(streams)
def test_every_chunk_keeps_the_bounds(stream: bytes) -> None:
    sizes = [len(chunk) for chunk in chunks_of(stream, [len(stream) + 1])]
    assert all(size <= MAX for size in sizes)
    assert all(size >= MIN for size in sizes[:-1])
    assert all(size > 0 for size in sizes)


@bounded
@given(streams)
def test_a_buffer_of_the_greatest_size_always_has_a_cut(stream: bytes) -> None:
    ends = SMALL.cut(memoryview(stream), last=False)
    assert ends == sorted(set(ends))
    assert len(stream) - (ends[-1] if ends else 0) < MAX


def test_nothing_and_little() -> None:
    assert SMALL.cut(memoryview(b""), last=True) == []
    assert SMALL.cut(memoryview(b""), last=False) == []
    for size in (1, MIN - 1, MIN):
        assert SMALL.cut(memoryview(bytes(size)), last=True) == [size]
        assert SMALL.cut(memoryview(bytes(size)), last=False) == []
    assert SMALL.cut(memoryview(bytes(MAX)), last=False) == [MAX]


def test_an_undecided_end_is_given_only_for_the_last_buffer() -> None:
    stream = random.Random(1).randbytes(50_000)
    decided = SMALL.cut(memoryview(stream), last=False)
    assert SMALL.cut(memoryview(stream), last=True) == [*decided, len(stream)]


@pytest.mark.parametrize("change", ["insert", "remove", "overwrite"])
def test_a_change_moves_only_the_cuts_beside_it(change: str) -> None:
    stream = random.Random(7).randbytes(400_000)
    middle = 200_000
    changed = {
        "insert": stream[:middle] + b"something new" + stream[middle:],
        "remove": stream[:middle] + stream[middle + 37 :],
        "overwrite": stream[:middle] + b"!" * 100 + stream[middle + 100 :],
    }[change]
    before, after = (chunks_of(s, [len(s) + 1]) for s in (stream, changed))
    assert len(before) > 200
    lost = set(before) - set(after)
    assert 1 <= len(lost) <= 12
    assert before[:50] == after[:50]
    assert before[-50:] == after[-50:]


def test_the_default_sizes_hold_for_real_buffers() -> None:
    stream = random.Random(3).randbytes(9 << 20)
    sizes = [len(chunk) for chunk in chunks_of(stream, [3 << 20], Chunker())]
    assert all(MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES for size in sizes[:-1])
    assert 4 <= len(sizes) <= 18


def test_the_cuts_of_one_version_are_those_of_the_next() -> None:
    """Other cuts would store everybody's files a second time."""
    stream = random.Random(11).randbytes(10_000)
    ends = [766, 2514, 3654, 5054, 6567, 7858, 8921, 10_000]
    assert SMALL.cut(memoryview(stream), last=True) == ends
