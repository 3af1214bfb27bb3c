"""Pack headers, for any blobs and any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.repo.crypto import OVERHEAD_BYTES, MasterKey, Sealer
from holdfast.repo.pack import (
    BlobType,
    PackedBlob,
    decode_header,
    encode_header,
    header_length_field,
    sealed_header_length,
)

bounded = settings(max_examples=100, derandomize=True, deadline=None)
KEY = MasterKey.random()


@st.composite
def packs(draw: st.DrawFn) -> list[PackedBlob]:
    blobs, offset = [], 0
    for _ in range(draw(st.integers(0, 12))):
        length = draw(
            st.integers(OVERHEAD_BYTES, (1 << 32) - 1) | st.integers(OVERHEAD_BYTES, 4000)
        )
        compressed = draw(st.booleans())
        raw = draw(st.integers(0, (1 << 32) - 1)) if compressed else length - OVERHEAD_BYTES
        kind = draw(st.sampled_from(BlobType))
        blob_id = draw(st.binary(min_size=32, max_size=32))
        blobs.append(PackedBlob(blob_id, kind, offset, length, raw, compressed))
        offset += length
    return blobs


@bounded
@given(packs())
def test_a_header_says_what_it_was_made_of(blobs: list[PackedBlob]) -> None:
    assert decode_header(encode_header(blobs), "it") == blobs


@settings(bounded, max_examples=30)
@given(packs())
def test_a_truncated_header_is_damage_or_the_blobs_before_the_cut(blobs: list[PackedBlob]) -> None:
    header = encode_header(blobs)
    ends = {len(encode_header(blobs[:count])): count for count in range(len(blobs) + 1)}
    for end in range(len(header)):
        if end in ends:
            assert decode_header(header[:end], "it") == blobs[: ends[end]]
        else:
            with pytest.raises(Damaged):
                decode_header(header[:end], "it")


@bounded
@given(st.binary(max_size=300) | st.lists(st.integers(0, 4), max_size=200).map(bytes))
def test_any_bytes_are_a_header_or_damage(noise: bytes) -> None:
    try:
        blobs = decode_header(noise, "it")
    except Damaged:
        return
    assert encode_header(blobs) == noise


@bounded
@given(st.binary(max_size=8), st.integers(0, 1 << 33))
def test_any_tail_has_a_length_that_fits_or_is_damage(tail: bytes, size: int) -> None:
    with suppress(Damaged):
        length = sealed_header_length(tail, size, "it")
        assert OVERHEAD_BYTES <= length <= size - 4


@settings(bounded, max_examples=15)
@given(packs(), st.data())
def test_a_truncated_pack_never_passes_for_a_whole_one(
    blobs: list[PackedBlob], data: st.DataObject
) -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(encode_header(blobs))
    pack = bytes(100) + sealed + header_length_field(len(sealed))

    def header_of(pack: bytes) -> list[PackedBlob]:
        length = sealed_header_length(pack[-4:], len(pack), "it")
        return decode_header(sealer.open(pack[-4 - length : -4], "it"), "it")

    assert header_of(pack) == blobs
    with pytest.raises(Damaged):
        header_of(pack[: data.draw(st.integers(0, len(pack) - 1))])
