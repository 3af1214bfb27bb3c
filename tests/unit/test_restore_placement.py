"""Where blobs go, and which zeroes become holes."""

from __future__ import annotations

import random

import pytest

from holdfast.flows.placement import is_zero, placed, without_zeroes

LENGTHS: dict[bytes, int] = {b"a": 10, b"b": 20, b"c": 30}


@pytest.mark.parametrize(
    ("content", "size", "expected"),
    [
        ("abc", 60, [(0, "a"), (10, "b"), (30, "c")]),
        ("", 0, []),
        ("?", 5, []),
        ("a?c", 100, [(0, "a"), (70, "c")]),
        ("a?b?c", 100, [(0, "a"), (70, "c")]),
        ("?a", 50, [(40, "a")]),
        ("a?", 50, [(0, "a")]),
        ("a?c", 20, [(0, "a"), (10, "c")]),
    ],
)
def test_placing(content: str, size: int, expected: list[tuple[int, str]]) -> None:
    ids = [letter.encode() for letter in content]
    found = [(at, blob.decode()) for at, _, blob in placed(ids, size, LENGTHS.get)]
    assert found == expected


@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_out_is_zero_and_in_whole_blocks(seed: int) -> None:
    rng = random.Random(seed)
    parts = [
        bytes(rng.choice((1, 4096, 65536, 200_000)))
        if rng.random() < 0.6
        else rng.randbytes(rng.choice((1, 100, 70_000)))
        for _ in range(8)
    ]
    data = b"".join(parts)
    offset = rng.choice((0, 1, 4096, 12_345, 65_536))
    again = bytearray(len(data))
    end = offset
    for at, piece in without_zeroes(data, offset):
        assert at >= end
        assert len(piece)
        end = at + len(piece)
        again[at - offset : end - offset] = piece
    assert bytes(again) == data


def test_long_runs_are_left_out_to_the_block() -> None:
    data = b"x" * 5000 + bytes(300_000) + b"y" * 10
    runs = [(at, len(piece)) for at, piece in without_zeroes(data, 0)]
    assert runs[0] == (0, 8192)
    assert runs[-1][0] + runs[-1][1] == len(data)
    assert sum(length for _, length in runs) < 8192 + 2 * 4096


def test_zero() -> None:
    assert is_zero(b"")
    assert is_zero(bytes(1_000_000))
    assert not is_zero(bytes(500_000) + b"\1" + bytes(500_000))
    assert not is_zero(b"\1" + bytes(10))
    assert list(without_zeroes(bytes(1 << 20), 777)) == []
