"""Framed sealed bodies: any stretch reads as it was written, and nothing else opens."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.repo.frames import (
    FRAME_BYTES,
    BodySealer,
    body_key,
    open_stretch,
    sealed_size,
    sealed_stretch,
)

KEY = body_key("a password", "body-1")
SEALED_FRAME = sealed_size(2 * FRAME_BYTES) // 2
SIZES = st.one_of(
    st.integers(0, 3 * FRAME_BYTES + 5),
    st.sampled_from([0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES]),
)


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def sealed_body(content: bytes, cut: int = 10_007, body_id: str = "body-1") -> bytes:
    sealer = BodySealer(body_key("a password", body_id))
    for at in range(0, len(content), cut):
        sealer.write(content[at : at + cut])
    return bytes(sealer.finish())


def read(sealed: bytes, offset: int, length: int, size: int) -> bytes:
    at, count = sealed_stretch(offset, length, size)
    return open_stretch(
        KEY, sealed[at : at + count], offset, length, size_bytes=size, what="the body"
    )


@given(SIZES, st.data(), st.integers(1, 200_000))
def test_any_stretch_reads_as_it_was_written(size: int, data: st.DataObject, cut: int) -> None:
    content = content_of(size)
    sealed = sealed_body(content, max(cut, size // 50 + 1))
    assert len(sealed) == sealed_size(size)
    offset = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - offset))
    assert read(sealed, offset, length, size) == content[offset : offset + length]
    assert read(sealed, 0, size, size) == content


@given(st.integers(1, 3 * FRAME_BYTES), st.data())
def test_a_changed_byte_is_found(size: int, data: st.DataObject) -> None:
    sealed = bytearray(sealed_body(content_of(size)))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        read(bytes(sealed), 0, size, size)


@pytest.mark.parametrize("size", [3 * FRAME_BYTES, 3 * FRAME_BYTES - 7])
def test_what_was_cut_off_is_found_even_at_a_frames_end(size: int) -> None:
    sealed = sealed_body(content_of(size))
    for left in (0, 1, SEALED_FRAME, 2 * SEALED_FRAME, len(sealed) - 1):
        with pytest.raises(Damaged):
            read(sealed[:left], 0, size, size)
    # Nor does a catalog that believes in the shorter size make it whole.
    with pytest.raises(Damaged):
        read(sealed[: 2 * SEALED_FRAME], 0, 2 * FRAME_BYTES, 2 * FRAME_BYTES)


def test_frames_in_another_order_are_found() -> None:
    sealed = sealed_body(content_of(3 * FRAME_BYTES))
    frames = [sealed[at : at + SEALED_FRAME] for at in range(0, len(sealed), SEALED_FRAME)]
    swapped = frames[1] + frames[0] + frames[2]
    with pytest.raises(Damaged, match="another one"):
        read(swapped, 0, 3 * FRAME_BYTES, 3 * FRAME_BYTES)
    # A frame that stands for itself elsewhere is found where only it is read.
    with pytest.raises(Damaged, match="another one"):
        read(frames[0] * 3, FRAME_BYTES, 10, 3 * FRAME_BYTES)


def test_a_frame_of_another_body_or_password_does_not_open() -> None:
    content = content_of(2 * FRAME_BYTES)
    ours, theirs = sealed_body(content), sealed_body(content, body_id="body-2")
    mixed = ours[:SEALED_FRAME] + theirs[SEALED_FRAME:]
    with pytest.raises(Damaged):
        read(mixed, 0, len(content), len(content))
    at, count = sealed_stretch(0, 10, len(content))
    with pytest.raises(Damaged):
        open_stretch(
            body_key("another", "body-1"),
            ours[at : at + count],
            0,
            10,
            size_bytes=len(content),
            what="it",
        )


def test_the_keys_are_hkdf_as_the_rfc_has_it() -> None:
    info = b"holdfast framed body 1\0" + b"body-1"
    prk = hmac.new(bytes(32), b"a password", hashlib.sha256).digest()
    first = hmac.new(prk, info + b"\x01", hashlib.sha256).digest()
    second = hmac.new(prk, first + info + b"\x02", hashlib.sha256).digest()
    assert (KEY.encrypt, KEY.mac_k + KEY.mac_r) == (first, second)


def test_the_same_body_is_never_sealed_the_same_way() -> None:
    assert sealed_body(b"same") != sealed_body(b"same")
