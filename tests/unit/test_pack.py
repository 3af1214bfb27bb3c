"""Pack headers: the bytes that the format says, and `Damaged` for what cannot be one."""

from __future__ import annotations

import pytest

from holdfast.errors import Damaged
from holdfast.repo.crypto import OVERHEAD_BYTES
from holdfast.repo.pack import (
    BlobType,
    PackedBlob,
    decode_header,
    encode_header,
    header_length_field,
    pack_size_bytes,
    sealed_header_length,
)

ONE, TWO = b"\x11" * 32, b"\x22" * 32


def test_entries_stand_as_the_format_describes() -> None:
    blobs = [
        PackedBlob(ONE, BlobType.DATA, 0, 0x0102, 0x0102 - OVERHEAD_BYTES, False),
        PackedBlob(TWO, BlobType.TREE, 0x0102, 100, 0x01020304, True),
    ]
    header = encode_header(blobs)
    assert header == (
        b"\x00\x02\x01\x00\x00" + ONE + b"\x03" + b"\x64\x00\x00\x00" + b"\x04\x03\x02\x01" + TWO
    )
    assert decode_header(header, "it") == blobs
    assert pack_size_bytes(blobs) == 0x0102 + 100 + len(header) + OVERHEAD_BYTES + 4


def test_the_four_kinds_of_entries() -> None:
    for number, (kind, compressed) in enumerate(
        [(k, c) for c in (False, True) for k in (BlobType.DATA, BlobType.TREE)]
    ):
        raw = 500 if compressed else 200 - OVERHEAD_BYTES
        blob = PackedBlob(ONE, kind, 0, 200, raw, compressed)
        header = encode_header([blob])
        assert header[0] == number
        assert decode_header(header, "it") == [blob]


def test_an_unknown_kind_is_damage_that_says_where() -> None:
    good = encode_header([PackedBlob(ONE, BlobType.DATA, 0, 100, 68, False)])
    for kind in (4, 5, 128, 255):
        with pytest.raises(Damaged, match="pack x has a header that cannot be read at byte 37"):
            decode_header(good + bytes([kind]) + good[1:], "pack x")


def test_the_header_length_is_read_from_the_end() -> None:
    assert sealed_header_length(b"...." + header_length_field(69), 1000, "it") == 69
    assert sealed_header_length(header_length_field(32), 36, "it") == 32


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        (b"", 0),
        (b"\x20\x00\x00", 3),
        (header_length_field(0), 1000),
        (header_length_field(31), 1000),
        (header_length_field(997), 1000),
        (header_length_field(0xFFFFFFFF), 1 << 24),
    ],
)
def test_a_header_length_that_cannot_be_is_damage(tail: bytes, size: int) -> None:
    with pytest.raises(Damaged, match="pack x is truncated"):
        sealed_header_length(tail, size, "pack x")


def test_words_of_index_files() -> None:
    assert (BlobType.DATA.word, BlobType.TREE.word) == ("data", "tree")
